"""The reference's update of the weights, replayed on the sampled elements by torch's classes."""

import math
from typing import NamedTuple

import torch

from diagnose.numerics import estimated, factor_between, is_close
from diagnose.reference import is_behind
from run.findings import CAUSE, DECLARED, SKIPPED, UNEXPLAINED, Row

ULPS = 8  # of an element, by which a replayed weight in float64 may differ
TIMES = Row("update.steps_again", CAUSE, "the optimizer steps {times} times for one backward")
COMPUTED = Row(
    "update.computed_skipped",
    SKIPPED,
    "of weights that are computed anew at each step (a parametrization), what moves them",
)
OTHER_CLASS = Row(
    "update.other_optimizer",
    UNEXPLAINED,
    "the update is made by {optimizer}, which is not one of torch.optim",
)
NOT_REPRODUCED = Row(
    "update.not_reproduced",
    UNEXPLAINED,
    "what {optimizers} gives with its own values is not the update",
    varies=("count", "total"),
)
MOMENTUM_RESET = Row(
    "update.momentum_reset",
    CAUSE,
    "the momentum begins anew at each update (an optimizer made anew or emptied)",
)
FROZEN = Row("update.frozen", CAUSE, "{parameters}: frozen (requires_grad False)")
FROZEN_STEPPED = Row(
    "update.frozen_but_stepped",
    CAUSE,
    "{parameters}: frozen, and yet stepped, as its gradient is left",
)
IN_OTHER_STEPS = Row(
    "update.in_other_steps",
    CAUSE,
    "{parameters}: stepped by no optimizer here, but by one in other steps",
)
IN_NO_OPTIMIZER = Row(
    "update.in_no_optimizer",
    CAUSE,
    "{parameters}: stepped by no optimizer"
    "[; one holds weights that no recorded pass meets (tensors: {others})]",
)
OPTIMIZER = Row(
    "update.optimizer",
    CAUSE,
    "{optimizers} (rate {rates}[, weight decay {weight_decay}]) in the place of SGD with momentum",
)
RULE = {  # of SGD, beside the learning rate
    "momentum": Row(
        "update.momentum", CAUSE, "momentum {momentum}, not {reference}[ on {parameters}]"
    ),
    "weight_decay": Row(
        "update.weight_decay",
        CAUSE,
        "weight decay {weight_decay}, not {reference}[ on {parameters}]",
    ),
    "dampening": Row(
        "update.dampening", CAUSE, "dampening {dampening}, not {reference}[ on {parameters}]"
    ),
    "nesterov": Row("update.nesterov", CAUSE, "Nesterov momentum[ on {parameters}]"),
    "maximize": Row(
        "update.maximize",
        CAUSE,
        "maximize=True: what backward is called on grows[ on {parameters}]",
    ),
}
ONE_RATE = Row("update.one_learning_rate", CAUSE, "one learning rate for all: {lr}")
SWAPPED_RATES = Row("update.learning_rates_swapped", CAUSE, "the two learning rates are exchanged")
RATES = Row(
    "update.learning_rates",
    CAUSE,
    "other learning rates: {lr} (the reference: backbone {backbone}, head {head})",
)
STATE_LOADED = Row(
    "update.state_loaded",
    DECLARED,
    "the optimizer begins with a state, as one that was loaded does",
)
STATE_CHANGED = Row(
    "update.state_changed",
    UNEXPLAINED,
    "the optimizer's {entry} is not what the update before left",
)
CHANGED_BEFORE = Row(
    "update.changed_before",
    UNEXPLAINED,
    "weights change between the passes and the update",
)
MULTIPLIED = Row("update.multiplied", CAUSE, "weights are multiplied by {factor} behind the update")
AVERAGED = Row(
    "update.moving_average",
    CAUSE,
    "weights are replaced by their moving average, decay {decay}",
)
CHANGED_AFTER = Row(
    "update.changed_after",
    UNEXPLAINED,
    "weights change between the update and the next step",
)


class Parameter(NamedTuple):
    """What is known of a recorded weight that learns."""

    role: str  # backbone or head
    name: str  # in the reference, or its role
    op: str
    place: int  # among the operands of its op
    is_flat: bool  # one dimension
    held: bool  # by an optimizer of any step


def learning(trace, matches, batch, update, held):
    """{number: Parameter} of the trainer's counterparts of the reference's weights.

    What the reference has not, as an fc that nothing uses, counts where it has a gradient; a
    linear layer behind the backbone, which scores photos one by one, as the head's. held: numbers
    of the weights that an optimizer holds in any step.
    """
    roles, weights = {n: "backbone" for match in matches for n in match.names}, trace["weights"]
    for match in matches:
        for n in match.extra:
            if update["gradients"][n] is not None:
                roles[n] = "head" if is_behind(weights, n, match) else "backbone"
    roles |= {n: "head" for entry in batch["head"] for n in entry["weights"]}
    parameters = {}
    for n, role in roles.items():
        weight = weights[n]
        learns = weight["op"] != "batch_norm" or weight["place"] > 1
        if learns and not weight["computed"]:
            name = next((match.names[n] for match in matches if n in match.names), role)
            flat = len(weight["shape"]) == 1
            parameters[n] = Parameter(role, name, weight["op"], weight["place"], flat, n in held)
    return parameters


def declared(update):
    """{number: (class, values of its group)} of the optimizers of an update."""
    groups = [(o["class"], group) for o in update["optimizers"] for group in o["groups"]]
    return {n: (name, group["values"]) for name, group in groups for n in group["weights"]}


def state_of(update):
    """{number: what its optimizer keeps of a weight} before an update."""
    return {n: kept for o in update["optimizers"] for n, kept in o["state"].items()}


def history_of(updates, parameters, rules):
    """{number: momentum buffer} as the reference's SGD would have it after these updates.

    rules: see judge_update.
    """
    buffers = {}
    for update in updates:
        held = declared(update)
        for n, gradient in enumerate(update["gradients"]):
            if gradient is not None and n in held and n in parameters:
                values = rules[parameters[n].role][1]
                step = gradient["values"] + values["weight_decay"] * update["before"][n]["values"]
                buffers[n] = values["momentum"] * buffers[n] + step if n in buffers else step
    return buffers


def replay(update, rules, history):
    """{number: values} after the update, see stepped."""
    return {n: weight.detach() for n, weight, _ in stepped(update, rules, history)}


def stepped(update, rules, history):
    """(number, weight, the optimizer's state of it) after the update of each weight.

    rules: {number: (class, values)}; history: {number: the buffer of a momentum that the trainer
    itself does not keep}.
    """
    state = state_of(update)
    times = {n: o["times"] for o in update["optimizers"] for g in o["groups"] for n in g["weights"]}
    for n, (name, values) in rules.items():
        before, gradient = update["before"][n]["values"], update["gradients"][n]
        weight = torch.nn.Parameter(before.clone())
        weight.grad = gradient["values"].clone() if gradient is not None else None
        kind = getattr(torch.optim, name)
        taken = set(kind.__init__.__code__.co_varnames) & values.keys()
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        optimizer = kind([weight], **{k: (values | lists)[k] for k in taken})
        own = {k: as_state(k, v) for k, v in state.get(n, {}).items() if v is not None}
        if own and (name != "SGD" or "momentum_buffer" in own):
            optimizer.state[weight] = own
        elif name == "SGD" and values.get("momentum") and n in history:
            optimizer.state[weight] = {"momentum_buffer": history[n].clone()}
        for _ in range(times[n]):
            optimizer.step()
        yield n, weight, optimizer.state[weight]


def as_state(key, value):
    """An entry of an optimizer's state, as its class keeps it, from how it was recorded."""
    if isinstance(value, dict):
        return value["values"].clone()
    return torch.tensor(float(value)) if key == "step" else value


def misses(made, update):
    """{number: worst error in units of what rounding may do} of a replayed update."""
    worst = {}
    for n, values in made.items():
        seen, before = update["after"][n]["values"], update["before"][n]["values"]
        if values.dtype == torch.float64:
            moved = float((seen - before).abs().max())
            tolerance = ULPS * torch.finfo(torch.float64).eps * before.abs()
            tolerance = tolerance + 1e-9 * moved + 1e-300
            error = float(((values - seen).abs() / tolerance).max())
        else:  # bit by bit
            error = float((values != seen).sum()) * 10
        worst[n] = error if math.isfinite(error) else math.inf
    return worst


def is_equal(made, update):
    """Whether a replayed update is the recorded one."""
    return all(error <= 1 for error in misses(made, update).values())


def judge_update(update, parameters, rules, history, moving):
    """Findings on one update.

    rules: {role: (class, values)} of the reference's optimizer; history: see stepped; moving: the
    finding on rates that change from step to step, or None.
    """
    own = declared(update)
    reference = {n: rules[parameter.role] for n, parameter in parameters.items()}
    found = judge_absent(update, parameters, own)
    most = max(o["times"] for o in update["optimizers"])
    if most > 1:
        found.append(TIMES.found(times=most))
    present = {n: rule for n, rule in reference.items() if n in own}
    moved = {n: rule for n, rule in present.items() if not is_still(n, update)}
    if not moved or is_equal(replay(update, moved, history), update):
        return found
    classes = tuple(sorted({own[n][0] for n in moved}))
    strange = [name for name in classes if not hasattr(torch.optim, name)]
    if strange:
        return [*found, OTHER_CLASS.found(optimizer=strange[0])]
    mine = {n: own[n] for n in moved}
    errors = misses(replay(update, mine, {}), update)
    if max(errors.values()) > 1:
        lost = sum(error > 1 for error in errors.values())
        return [*found, NOT_REPRODUCED.found(optimizers=classes, count=lost, total=len(errors))]
    if classes == ("SGD",) and not is_equal(replay(update, mine, history), update):
        found.append(MOMENTUM_RESET.found())
    if classes != ("SGD",):
        return [*found, name_optimizer(classes, mine)]
    found += name_rates(update, mine, reference, parameters, history, moving)
    return found + name_rules(update, mine, reference, parameters, history)


def judge_computed(weights):
    """The finding that weights which a parametrization computes were not judged, if there are."""
    return [COMPUTED.found()] if any(weight["computed"] for weight in weights) else []


def judge_absent(update, parameters, own):
    """Findings on weights that no optimizer steps, or that are frozen."""
    others = sum(group["weights"].count(-1) for o in update["optimizers"] for group in o["groups"])
    fates = {}
    for n, parameter in parameters.items():
        learns = update["requires_grad"][n]
        if is_still(n, update) or (n not in own and not learns):
            fates.setdefault(FROZEN, []).append(n)
        elif not learns:
            fates.setdefault(FROZEN_STEPPED, []).append(n)
        elif n not in own:
            fates.setdefault(IN_OTHER_STEPS if parameter.held else IN_NO_OPTIMIZER, []).append(n)
    return [
        row.found(parameters=describe(numbers, parameters), others=others or None)
        for row, numbers in fates.items()
    ]


def is_still(n, update):
    """Whether an optimizer leaves a weight alone: it is frozen and has no gradient."""
    return not update["requires_grad"][n] and update["gradients"][n] is None


def describe(numbers, parameters):
    """Which of the parameters these are, in words."""
    chosen, every = set(numbers), set(parameters)
    flat = {n for n, parameter in parameters.items() if parameter.is_flat}
    norms = {n for n, parameter in parameters.items() if parameter.op == "batch_norm"}
    kinds = {
        "all weights": every,
        "the head": {n for n in every if parameters[n].role == "head"},
        "the backbone": {n for n in every if parameters[n].role == "backbone"},
        "BatchNorm's weights and biases": norms,
        "all biases and BatchNorm's weights": flat,
        "all biases": {n for n in every if is_bias(parameters[n])},
        "all weights but biases and BatchNorm's": every - flat,
    }
    name = next((name for name, members in kinds.items() if members == chosen), None)
    if name:
        return name
    layers = {layer_of(parameters[n]) for n in numbers}
    if chosen == {n for n in every if layer_of(parameters[n]) in layers} and len(layers) < 6:
        return " and ".join(sorted(layers))
    for kind in ("all biases", "all weights but biases and BatchNorm's"):
        for part in ("backbone", "head"):
            if chosen == kinds[kind] & kinds[f"the {part}"]:
                return f"{kind} of the {part}"
    return f"{len(numbers)} of {len(every)} tensors, first {parameters[numbers[0]].name}"


def layer_of(parameter):
    """The part of the backbone, or the head, that a parameter belongs to."""
    return parameter.name.split(".")[0]


def is_bias(parameter):
    """Whether a parameter is the bias of its op."""
    return parameter.place == (3 if parameter.op == "batch_norm" else 1)


def name_optimizer(classes, mine):
    """The finding on optimizers of other classes than the reference's; mine: their rules."""
    decays = sorted({values.get("weight_decay") for _, values in mine.values()} - {None, 0})
    rates = tuple(sorted({estimated(values["lr"]) for _, values in mine.values()}))
    return OPTIMIZER.found(optimizers=classes, rates=rates, weight_decay=tuple(decays) or None)


def name_rules(update, mine, reference, parameters, history):
    """Findings: each value of SGD, beside the rate, without which the update is not reproduced."""
    found = []
    for key, row in RULE.items():
        usual = reference[next(iter(mine))][1].get(key, 0)
        other = {n: values[key] for n, (_, values) in mine.items() if values.get(key, 0) != usual}
        restored = {n: ("SGD", mine[n][1] | {key: usual}) for n in other}
        errors = misses(replay(update, restored, history), update)
        values = sorted({other[n] for n, error in errors.items() if error > 1})
        if values:
            part = None if len(other) == len(mine) else describe(list(other), parameters)
            found.append(row.found(**{key: tuple(values)}, reference=usual, parameters=part))
    return found


def name_rates(update, mine, reference, parameters, history, moving):
    """Findings on the learning rates."""
    usual = {parameter.role: reference[n][1]["lr"] for n, parameter in parameters.items()}
    rates = {n: values["lr"] for n, (_, values) in mine.items()}
    other = {
        n: rate for n, rate in rates.items()
        if not math.isclose(rate, usual[parameters[n].role], rel_tol=1e-9)
    }  # fmt: skip
    restored = {n: ("SGD", mine[n][1] | {"lr": usual[parameters[n].role]}) for n in other}
    if not other or is_equal(replay(update, restored, history), update):
        return []
    if moving:
        return [moving]
    own = {role: {r for n, r in rates.items() if parameters[n].role == role} for role in usual}
    single = {role: min(those) for role, those in own.items() if len(those) == 1}
    if len(single) == 2 and single["backbone"] == single["head"]:
        return [ONE_RATE.found(lr=single["head"], **usual)]
    if len(single) == 2 and single == {"backbone": usual["head"], "head": usual["backbone"]}:
        return [SWAPPED_RATES.found(lr=single, **usual)]
    groups = {}
    for rate in sorted(set(other.values())):
        groups[describe([n for n in other if other[n] == rate], parameters)] = rate
    return [RATES.found(lr=groups, backbone=usual.get("backbone"), head=usual.get("head"))]


def judge_state(update, earlier, parameters):
    """Findings on what an optimizer carries from the update before to this one."""
    state = {}  # of the tensors alone
    for n, entries in state_of(update).items():
        tensors = {k: v for k, v in entries.items() if isinstance(v, dict)}
        state |= {n: tensors} if n in parameters and tensors else {}
    if earlier is None:
        filled = (kept["max"] > 0 for tensors in state.values() for kept in tensors.values())
        return [STATE_LOADED.found()] if any(filled) else []
    rules = {n: rule for n, rule in declared(earlier).items() if n in state}
    if any(not hasattr(torch.optim, name) for name, _ in rules.values()):
        return []
    for n, _, made in stepped(earlier, rules, {}):
        for k, kept in state[n].items():
            if k not in made or not is_close(made[k], kept["values"]):
                return [STATE_CHANGED.found(entry=k)]
    return []


def judge_before(update, earlier, parameters):
    """Findings on weights that change between the passes and the update."""
    if earlier is None or earlier["next"] is None:
        return []
    pairs = [(earlier["next"][n]["values"], update["before"][n]["values"]) for n in parameters]
    return [] if all(torch.equal(a, b) for a, b in pairs) else [CHANGED_BEFORE.found()]


def judge_afterwards(update, parameters):
    """Findings on weights that change between an update and the next step."""
    if update["next"] is None:
        return []
    moments = [[update[m][n]["values"] for n in parameters] for m in ("before", "after", "next")]
    if all(map(torch.equal, *moments[1:])):
        return []
    single = any(values.dtype != torch.float64 for values in moments[0])
    before, after, later = (torch.cat([v.double() for v in values]) for values in moments)
    factor = factor_between([after], [later])
    if is_reached(after * factor, after, later, single):
        return [MULTIPLIED.found(factor=estimated(factor))]
    share = factor_between([after - before], [later - before])
    for kept in [round(1 - share, digits) for digits in (1, 2, 3, 4)] if single else [1 - share]:
        if is_reached(kept * before + (1 - kept) * after, after, later, single):
            return [AVERAGED.found(decay=estimated(kept))]
    return [CHANGED_AFTER.found()]


def is_reached(made, after, later, single):
    """Whether weights that were moved from `after` to `later` are those made.

    In float32 to a few units in the last place, where a hundred elements moved by far more.
    """
    if not single:
        return is_close(made, later)
    tolerance = 4 * torch.finfo(torch.float32).eps * after.abs().maximum(later.abs())
    moved = int(((later - after).abs() > tolerance).sum())
    return bool(((made - later).abs() <= tolerance).all() and moved > 100)
