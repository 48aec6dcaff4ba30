"""The reference's update of the weights, replayed on the sampled elements by torch's classes."""

import math

import torch

from diagnose.finding import cause, skipped, stated, unknown
from diagnose.replay import is_behind, near, number

RULE = ("momentum", "weight_decay", "dampening", "nesterov", "maximize")  # of SGD, beside the rate
SAID = {
    "nesterov": "Nesterov momentum",
    "maximize": "maximize=True: what backward is called on grows",
}
ULPS = 8  # of an element, by which a replayed weight in double may differ


def trainable(trace, matches, batch, update):
    """{number: `backbone` or `head`} of the trainer's counterparts of the reference's weights.

    What the reference has not, as an fc that nothing uses, counts where it has a gradient; a
    linear layer behind the backbone, which scores photos one by one, as the head's.
    """
    roles, weights = {n: "backbone" for match in matches for n in match.names}, trace["weights"]
    for match in matches:
        for n in match.extra:
            if update["gradients"][n] is not None:
                roles[n] = "head" if is_behind(weights, n, match) else "backbone"
    roles |= {n: "head" for entry in batch["head"] for n in entry["weights"]}
    learned = (n for n in roles if weights[n]["op"] != "batch_norm" or weights[n]["place"] > 1)
    return {n: roles[n] for n in learned if not weights[n]["computed"]}


def declared(update):
    """{number: (class, values of its group)} of the optimizers of an update."""
    groups = [(o["class"], group) for o in update["optimizers"] for group in o["groups"]]
    return {n: (name, group["values"]) for name, group in groups for n in group["weights"]}


def state_of(update):
    """{number: what its optimizer keeps of a weight} before an update."""
    return {n: kept for o in update["optimizers"] for n, kept in o["state"].items()}


def history_of(updates, momentum, decay):
    """{number: momentum buffer} as SGD would have it after these recorded updates."""
    buffers = {}
    for update in updates:
        held = declared(update)
        for n, gradient in enumerate(update["gradients"]):
            if gradient is not None and n in held:
                step = gradient["values"] + decay * update["before"][n]["values"]
                buffers[n] = momentum * buffers[n] + step if n in buffers else step
    return buffers


def replay(update, rules):
    """{number: values} after the update, where rules gives {number: (class, values)}."""
    return {n: weight.detach() for n, weight, _ in stepped(update, rules)}


def stepped(update, rules):
    """(number, weight, the optimizer's state of it) after the update of each weight.

    update["history"] holds the buffers of a momentum that the trainer itself does not keep.
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
        elif name == "SGD" and values.get("momentum") and n in update["history"]:
            optimizer.state[weight] = {"momentum_buffer": update["history"][n].clone()}
        for _ in range(times[n]):
            optimizer.step()
        yield n, weight, optimizer.state[weight]


def as_state(key, value):
    """An entry of an optimizer's state, as its class keeps it, from how it was recorded."""
    if isinstance(value, dict):
        return value["values"].clone()
    return torch.tensor(float(value)) if key == "step" else value


def misses(made, update):
    """{number: worst difference in units of what rounding may do} of a replayed update."""
    worst = {}
    for n, values in made.items():
        seen, before = update["after"][n]["values"], update["before"][n]["values"]
        if values.dtype == torch.float64:
            moved = float((seen - before).abs().max())
            room = ULPS * torch.finfo(torch.float64).eps * before.abs() + 1e-9 * moved + 1e-300
            off = float(((values - seen).abs() / room).max())
        else:  # bit by bit
            off = float((values != seen).sum()) * 10
        worst[n] = off if math.isfinite(off) else math.inf
    return worst


def equal(made, update):
    return all(off <= 1 for off in misses(made, update).values())


def reference_rules(roles, recipe):
    """{number: (SGD, values)} as the reference would update these weights."""
    values = {"momentum": recipe["momentum"], "weight_decay": recipe["weight_decay"]}
    return {n: ("SGD", values | {"lr": recipe[f"lr_{role}"]}) for n, role in roles.items()}


def judge_update(update, roles, recipe, weights, moving):
    """Findings on one update.

    weights: what is known of each, for the words; moving: what is said of rates that change.
    """
    own, reference = declared(update), reference_rules(roles, recipe)
    left = {n for n in roles if n not in own}
    found = judge_absent(update, roles, own, weights)
    most = max(o["times"] for o in update["optimizers"])
    if most > 1:
        found.append(cause("update", f"the optimizer steps {most} times for one backward"))
    if any(weight["computed"] for weight in weights):
        text = "of weights that are computed anew at each step (a parametrization), what moves them"
        found.append(skipped("update", text))
    present = {n: rule for n, rule in reference.items() if n not in left}
    moved = {n: rule for n, rule in present.items() if not is_still(n, update)}
    if not moved or equal(replay(update, moved), update):
        return found
    classes = {own[n][0] for n in moved}
    strange = [name for name in classes if not hasattr(torch.optim, name)]
    if strange:
        text = f"the update is made by {strange[0]}, which is not one of torch.optim"
        return [*found, unknown("update", text)]
    mine, kept = {n: own[n] for n in moved}, update | {"history": {}}
    off = misses(replay(kept, mine), update)
    if max(off.values()) > 1:
        text = f"what {', '.join(sorted(classes))} gives with its own values is not the update"
        lost = sum(v > 1 for v in off.values())
        return [*found, unknown("update", text, f"{lost} of {len(off)} tensors")]
    if all(rule[0] == "SGD" for rule in mine.values()) and not equal(replay(update, mine), update):
        text = "the momentum begins anew at each update (an optimizer made anew or emptied)"
        found.append(cause("update", text))
    return found + name_rules(update, mine, reference, roles, weights, moving)


def judge_absent(update, roles, own, weights):
    """Findings on weights that no optimizer steps, or that are frozen."""
    unmet = sum(group["weights"].count(-1) for o in update["optimizers"] for group in o["groups"])
    absent = "stepped by no optimizer"
    if unmet:
        absent += f"; one holds weights that no recorded pass meets (tensors: {unmet})"
    fates = {}
    for n in roles:
        if is_still(n, update) or (n not in own and not update["requires_grad"][n]):
            fates.setdefault("frozen (requires_grad False)", []).append(n)
        elif not update["requires_grad"][n]:
            fates.setdefault("frozen, and yet stepped, as its gradient is left", []).append(n)
        elif n not in own:
            words = "stepped by no optimizer here, but by one in other steps"
            fates.setdefault(words if weights[n]["held"] else absent, []).append(n)
    said = (f"{describe(numbers, roles, weights)}: {words}" for words, numbers in fates.items())
    return [cause("update", text) for text in said]


def is_still(n, update):
    """Whether an optimizer leaves a weight alone: it is frozen and has no gradient."""
    return not update["requires_grad"][n] and update["gradients"][n] is None


def describe(numbers, roles, weights):
    """Which weights these are, in words; weights know the reference's names of the backbone."""
    chosen, every = set(numbers), set(roles)
    flat = {n for n in roles if len(weights[n]["shape"]) == 1}
    kinds = {
        "all weights": every,
        "the head": {n for n in roles if roles[n] == "head"},
        "the backbone": {n for n in roles if roles[n] == "backbone"},
        "BatchNorm's weights and biases": {n for n in roles if weights[n]["op"] == "batch_norm"},
        "all biases and BatchNorm's weights": flat,
        "all biases": {n for n in roles if is_bias(weights[n])},
        "all weights but biases and BatchNorm's": every - flat,
    }
    name = next((name for name, members in kinds.items() if members == chosen), None)
    if name:
        return name
    tops = {child_of(weights[n]) for n in numbers}
    if chosen == {n for n in roles if child_of(weights[n]) in tops} and len(tops) < 6:
        return " and ".join(sorted(tops))
    for kind in ("all biases", "all weights but biases and BatchNorm's"):
        for part in ("backbone", "head"):
            if chosen == kinds[kind] & kinds[f"the {part}"]:
                return f"{kind} of the {part}"
    return f"{len(numbers)} of {len(roles)} tensors, first {weights[numbers[0]]['name']}"


def child_of(weight):
    """The part of the backbone, or the head, that a weight belongs to."""
    return weight["name"].split(".")[0]


def is_bias(weight):
    return weight["place"] == (3 if weight["op"] == "batch_norm" else 1)


def name_rules(update, mine, reference, roles, weights, moving):
    """Findings: each value of the trainer's rules without which its update is not reproduced."""
    classes = {name for name, _ in mine.values()}
    if classes != {"SGD"}:
        rates = ", ".join(sorted({number(values["lr"]) for _, values in mine.values()}))
        decays = {values.get("weight_decay") for _, values in mine.values()} - {None, 0}
        rates += "".join(f", weight decay {number(decay)}" for decay in sorted(decays))
        text = f"{', '.join(sorted(classes))} (rate {rates}) in the place of SGD with momentum"
        return [cause("update", text)]
    found = name_rates(update, mine, reference, roles, weights, moving)
    for key in RULE:
        usual = reference[next(iter(mine))][1].get(key, 0)
        other = {n: values[key] for n, (_, values) in mine.items() if values.get(key, 0) != usual}
        restored = {n: ("SGD", mine[n][1] | {key: usual}) for n in other}
        matters = [n for n, off in misses(replay(update, restored), update).items() if off > 1]
        if matters:
            values = ", ".join(sorted({number(other[n]) for n in matters}))
            words = f"{key.replace('_', ' ')} {values}, not {number(usual)}"
            where = f" on {describe(list(other), roles, weights)}" * (len(other) < len(mine))
            found.append(cause("update", SAID.get(key, words) + where))
    return found


def name_rates(update, mine, reference, roles, weights, moving):
    """Findings on the learning rates."""
    usual = {roles[n]: reference[n][1]["lr"] for n in roles}
    rates = {n: values["lr"] for n, (_, values) in mine.items()}
    other = {n: r for n, r in rates.items() if not math.isclose(r, usual[roles[n]], rel_tol=1e-9)}
    restored = {n: ("SGD", mine[n][1] | {"lr": usual[roles[n]]}) for n in other}
    if not other or equal(replay(update, restored), update):
        return []
    if moving:
        return [cause("update", moving)]
    found = {role: {rate for n, rate in rates.items() if roles[n] == role} for role in usual}
    single = {role: min(those) for role, those in found.items() if len(those) == 1}
    if len(single) == 2 and single["backbone"] == single["head"]:
        text = f"one learning rate for all: {number(single['head'])}"
    elif len(single) == 2 and single == {"backbone": usual["head"], "head": usual["backbone"]}:
        text = "the two learning rates are exchanged"
    else:
        parts = []
        for rate in sorted(set(other.values())):
            where = describe([n for n in other if other[n] == rate], roles, weights)
            parts.append(f"{where} {number(rate)}")
        expected = ", ".join(f"{role} {number(rate)}" for role, rate in usual.items())
        text = f"other learning rates: {'; '.join(parts)} (the reference: {expected})"
    return [cause("update", text)]


def judge_state(update, earlier, roles):
    """Findings on what an optimizer carries from the update before to this one."""
    state = {}  # of the tensors alone
    for n, entries in state_of(update).items():
        tensors = {k: v for k, v in entries.items() if isinstance(v, dict)}
        state |= {n: tensors} if n in roles and tensors else {}
    if earlier is None:
        text = "the optimizer begins with a state, as one that was loaded does"
        filled = (kept["max"] > 0 for tensors in state.values() for kept in tensors.values())
        return [stated("update", text)] if any(filled) else []
    rules = {n: rule for n, rule in declared(earlier).items() if n in state}
    if any(not hasattr(torch.optim, name) for name, _ in rules.values()):
        return []
    for n, _, made in stepped(earlier | {"history": {}}, rules):
        for k, kept in state[n].items():
            if k not in made or not near(made[k], kept["values"]):
                text = f"the optimizer's {k} is not what the update before left"
                return [unknown("update", text)]
    return []


def judge_before(update, earlier, roles):
    """Findings on weights that change between the passes and the update."""
    if earlier is None or earlier["next"] is None:
        return []
    pairs = [(earlier["next"][n]["values"], update["before"][n]["values"]) for n in roles]
    if all(torch.equal(a, b) for a, b in pairs):
        return []
    return [unknown("update", "weights change between the passes and the update")]


def judge_afterwards(update, roles):
    """Findings on weights that change between an update and the next step."""
    if update["next"] is None:
        return []
    moments = [[update[m][n]["values"] for n in roles] for m in ("before", "after", "next")]
    if all(map(torch.equal, *moments[1:])):
        return []
    single = any(values.dtype != torch.float64 for values in moments[0])
    before, after, later = (torch.cat([v.double() for v in values]) for values in moments)
    factor = float((after * later).sum() / (after**2).sum())
    if reached(after * factor, after, later, single):
        return [cause("update", f"weights are multiplied by {number(factor)} behind the update")]
    moved = after - before
    share = float(((later - before) * moved).sum() / (moved**2).sum().clamp(min=1e-300))
    for kept in [round(1 - share, digits) for digits in (1, 2, 3, 4)] if single else [1 - share]:
        if reached(kept * before + (1 - kept) * after, after, later, single):
            text = f"weights are replaced by their moving average, decay {number(kept)}"
            return [cause("update", text)]
    return [unknown("update", "weights change between the update and the next step")]


def reached(made, after, later, single):
    """Whether weights that were moved from `after` to `later` are those made.

    In single to a few units in the last place, where a hundred elements moved by far more.
    """
    if not single:
        return near(made, later)
    room = 4 * torch.finfo(torch.float32).eps * after.abs().maximum(later.abs())
    return bool(((made - later).abs() <= room).all() and ((later - after).abs() > room).sum() > 100)
