"""Optimizer steps on the sampled elements, replayed by torch's own classes."""

import math

import torch

from diagnose.trace import Sample

ULPS = 8  # of an element, by which a replayed weight in float64 may differ


def declared(update):
    """{number: (class, values of its group)} of the optimizers of an update."""
    groups = [(o.class_, group) for o in update.optimizers for group in o.groups]
    return {n: (name, group.values) for name, group in groups for n in group.weights}


def state_of(update):
    """{number: what its optimizer keeps of a weight} before an update."""
    return {n: kept for o in update.optimizers for n, kept in o.state.items()}


def history_of(updates, parameters, rules):
    """{number: momentum buffer} as the reference's SGD would have it after these updates.

    rules: see judge_update.
    """
    buffers = {}
    for update in updates:
        held = declared(update)
        for n, gradient in enumerate(update.gradients):
            if gradient is not None and (n in held or not update.optimizers) and n in parameters:
                values = rules[parameters[n].role][1]
                step = gradient.values + values["weight_decay"] * update.before[n].values
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
    times = {n: o.times for o in update.optimizers for g in o.groups for n in g.weights}
    for n, (name, values) in rules.items():
        before, gradient = update.before[n].values, update.gradients[n]
        weight = torch.nn.Parameter(before.clone())
        weight.grad = gradient.values.clone() if gradient is not None else None
        kind = getattr(torch.optim, name)
        taken = set(kind.__init__.__code__.co_varnames) & values.keys()
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        optimizer = kind([weight], **{k: (values | lists)[k] for k in taken})
        own = {k: as_state(k, v) for k, v in state.get(n, {}).items() if v is not None}
        if own and (name != "SGD" or "momentum_buffer" in own):
            optimizer.state[weight] = own
        elif name == "SGD" and values.get("momentum") and n in history:
            optimizer.state[weight] = {"momentum_buffer": history[n].clone()}
        for _ in range(times.get(n, 1)):  # 1 where no optimizer has it
            optimizer.step()
        yield n, weight, optimizer.state[weight]


def as_state(key, value):
    """An entry of an optimizer's state, as its class keeps it, from how it was recorded."""
    if isinstance(value, Sample):
        return value.values.clone()
    return torch.tensor(float(value)) if key == "step" else value


def misses(made, update):
    """{number: worst error in units of what rounding may do} of a replayed update."""
    worst = {}
    for n, values in made.items():
        seen, before = update.after[n].values, update.before[n].values
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
