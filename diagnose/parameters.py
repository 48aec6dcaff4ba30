"""The trainer's parameters that learn, and what a set of them is called."""

from typing import NamedTuple

from diagnose.reference import is_behind

SHOWN = 4  # names of parameters, where they are no part of their own


class Parameter(NamedTuple):
    """What is known of a recorded weight that learns."""

    role: str  # backbone or head
    name: str  # in the reference, or its role
    op: str
    place: int  # among the operands of its op
    is_flat: bool  # one dimension
    held: bool  # by an optimizer of any step
    trains: bool  # whether its BatchNorm layer is in training mode


def learning(trace, matches, batch, update, held):
    """{number: Parameter} of the trainer's counterparts of the reference's weights.

    What the reference has not, as an fc that nothing uses, counts where it has a gradient; a
    linear layer behind the backbone, which scores photos one by one, as the head's. held: numbers
    of the weights that an optimizer holds in any step.
    """
    roles, weights = {n: "backbone" for match in matches for n in match.names}, trace.weights
    for match in matches:
        is_own = len(match.names) >= len(match.missing)  # else it is another backbone, with its own
        for n in match.extra:
            if update.gradients[n] is not None:
                roles[n] = "head" if is_own and is_behind(weights, n, match) else "backbone"
    roles |= {n: "head" for entry in batch.head for n in entry.weights}
    training = {norm.weight for record in batch.passes for norm in record.norms if norm.training}
    parameters = {}
    for n, role in roles.items():
        weight = weights[n]
        learns = weight.op != "batch_norm" or weight.place > 1
        if learns and not weight.computed:
            name = next((match.names[n] for match in matches if n in match.names), role)
            flat = len(weight.shape) == 1
            facts = flat, n in held, n in training
            parameters[n] = Parameter(role, name, weight.op, weight.place, *facts)
    return parameters


def describe(numbers, parameters, free=()):
    """Which of the parameters these are, in words.

    free: numbers of those that may be of them as well, as nothing is known of these.
    """
    every = set(parameters) - set(free)
    chosen = set(numbers) - set(free)
    flat = {n for n in every if parameters[n].is_flat}
    norms = {n for n in every if parameters[n].op == "batch_norm"}
    kinds = {
        "all parameters": every,
        "the head": {n for n in every if parameters[n].role == "head"},
        "the backbone": {n for n in every if parameters[n].role == "backbone"},
        "BatchNorm parameters": norms,
        "all biases and BatchNorm parameters": flat,
        "all biases": {n for n in every if is_bias(parameters[n])},
        "all weights except biases and BatchNorm": every - flat,
    }
    name = next((name for name, members in kinds.items() if members == chosen), None)
    if name:
        return name
    layers = {layer_of(parameters[n]) for n in numbers}
    if chosen == {n for n in every if layer_of(parameters[n]) in layers} and len(layers) < 6:
        return " and ".join(sorted(layers))
    for kind in ("all biases", "all weights except biases and BatchNorm"):
        for part in ("backbone", "head"):
            if chosen == kinds[kind] & kinds[f"the {part}"]:
                return f"{kind} of the {part}"
    names = [parameters[n].name for n in numbers]
    shown = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
    return f"{len(numbers)} of {len(every)} tensors: {shown}"


def layer_of(parameter):
    """The part of the backbone, or the head, that a parameter belongs to."""
    return parameter.name.split(".")[0]


def is_bias(parameter):
    """Whether a parameter is the bias of its op."""
    return parameter.place == (3 if parameter.op == "batch_norm" else 1)
