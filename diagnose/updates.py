"""The reference's update of the weights, replayed on the sampled elements by torch's classes."""

import itertools
import math

import torch

from diagnose.finding import cause, harmless, unknown
from diagnose.replay import is_behind, number

RULE = ("momentum", "weight_decay", "dampening", "nesterov", "maximize")  # of SGD, beside the rate
ULPS = 8  # of an element, by which a replayed weight in double may differ


def trainable(trace, matches, batch, update):
    """{number: `backbone` or `head`} of the trainer's counterparts of the reference's weights.

    What the reference has not, as an fc that nothing uses, counts where it has a gradient; a
    linear layer behind the backbone, which scores photos one by one, as the head's.
    """
    roles = {n: "backbone" for match in matches for n in match.names}
    for match in matches:
        for n in match.extra:
            if update["gradients"][n] is not None:
                roles[n] = "head" if is_behind(trace["weights"], n, match) else "backbone"
    roles |= {n: "head" for entry in batch["head"] for n in entry["weights"]}
    weights = trace["weights"]
    return {
        n: role
        for n, role in roles.items()
        if not (weights[n]["op"] == "batch_norm" and weights[n]["place"] < 2)
    }


def declared(update):
    """{number: (class, values of its group)} of the optimizers of an update."""
    found = {}
    for optimizer in update["optimizers"]:
        for group in optimizer["groups"]:
            for n in group["weights"]:
                found[n] = optimizer["class"], group["values"]
    return found


def state_of(update):
    return {
        n: state for optimizer in update["optimizers"] for n, state in optimizer["state"].items()
    }


def history_of(updates, momentum, decay):
    """{number: momentum buffer} as SGD would have it after these recorded updates."""
    buffers = {}
    for update in updates:
        for n, gradient in enumerate(update["gradients"]):
            if gradient is not None:
                step = gradient["values"] + decay * update["before"][n]["values"]
                buffers[n] = momentum * buffers[n] + step if n in buffers else step
    return buffers


def replay(update, rules):
    """{number: values} after the update, where rules gives {number: (class, values)}.

    update["history"] holds the buffers of a momentum that the trainer itself does not keep.
    """
    after, state = {}, state_of(update)
    for n, (name, values) in rules.items():
        before, gradient = update["before"][n]["values"], update["gradients"][n]
        weight = torch.nn.Parameter(before.clone())
        weight.grad = gradient["values"].clone() if gradient is not None else None
        known = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in values.items()
            if k not in ("name", "initial_lr", "max_lr", "min_lr")
        }
        optimizer = getattr(torch.optim, name)([weight], **accepted(name, known))
        own = {
            k: v["values"].clone() if isinstance(v, dict) else as_state(k, v)
            for k, v in state.get(n, {}).items()
            if v is not None
        }
        if own and (name != "SGD" or "momentum_buffer" in own):
            optimizer.state[weight] = own
        elif name == "SGD" and values.get("momentum") and n in update["history"]:
            optimizer.state[weight] = {"momentum_buffer": update["history"][n].clone()}
        optimizer.step()
        after[n] = weight.detach()
    return after


def accepted(name, values):
    """The values that the class's constructor takes."""
    taken = getattr(torch.optim, name).__init__.__code__.co_varnames
    return {k: v for k, v in values.items() if k in taken}


def as_state(key, value):
    return torch.tensor(float(value)) if key == "step" else value


def misses(made, update):
    """{number: worst difference in units of what rounding may do} of a replayed update."""
    worst = {}
    for n, values in made.items():
        seen, before = update["after"][n]["values"], update["before"][n]["values"]
        if values.dtype == torch.float64:
            room = (
                ULPS * torch.finfo(torch.float64).eps * before.abs()
                + 1e-9 * float((seen - before).abs().max())
                + 1e-300
            )
            off = float(((values - seen).abs() / room).max())
        else:  # bit by bit
            off = float((values != seen).sum()) * 10
        worst[n] = off if math.isfinite(off) else math.inf
    return worst


def equal(made, update, numbers=None):
    return all(
        off <= 1 for n, off in misses(made, update).items() if numbers is None or n in numbers
    )


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
    present = {n: rule for n, rule in reference.items() if n not in left}
    moved = {n: rule for n, rule in present.items() if update["requires_grad"][n]}
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
    """Findings on weights that no optimizer holds or that are frozen, where they stand still."""
    found = []
    forgotten = [n for n in roles if n not in own and update["requires_grad"][n]]
    frozen = [n for n in roles if not update["requires_grad"][n]]
    for numbers, words in ((forgotten, "not in the optimizer"), (frozen, "frozen")):
        if numbers:
            text = (
                f"{describe(numbers, roles, weights)}: {words} (requires_grad False)"
                if words == "frozen"
                else f"{describe(numbers, roles, weights)}: {words}"
            )
            found.append(cause("update", text))
    return found


def describe(numbers, roles, weights):
    """Which weights these are, in words; weights know the reference's names of the backbone."""
    chosen, kinds = (
        set(numbers),
        {
            "all weights": set(roles),
            "the head": {n for n in roles if roles[n] == "head"},
            "the backbone": {n for n in roles if roles[n] == "backbone"},
            "BatchNorm's weights and biases": {
                n for n in roles if weights[n]["op"] == "batch_norm"
            },
            "all biases and BatchNorm's weights": {
                n for n in roles if len(weights[n]["shape"]) == 1
            },
            "all biases": {n for n in roles if is_bias(weights[n])},
            "all weights but biases and BatchNorm's": {
                n for n in roles if len(weights[n]["shape"]) > 1
            },
        },
    )
    name = next((name for name, members in kinds.items() if members == chosen), None)
    if name:
        return name
    tops = {child_of(weights[n]) for n in numbers}
    if chosen == {n for n in roles if child_of(weights[n]) in tops} and len(tops) < 6:
        return " and ".join(sorted(tops))
    for kind, role in itertools.product(
        ("all biases", "all weights but biases and BatchNorm's"), ("backbone", "head")
    ):
        if chosen == {n for n in kinds[kind] if roles[n] == role}:
            return f"{kind} of the {role}"
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
        return [
            cause(
                "update",
                f"{', '.join(sorted(classes))} (rate {rates}) in the place of SGD with momentum",
            )
        ]
    found = name_rates(update, mine, reference, roles, weights, moving)
    for key in RULE:
        usual = reference[next(iter(mine))][1].get(key, 0)
        other = {n: values[key] for n, (_, values) in mine.items() if values.get(key, 0) != usual}
        restored = {n: ("SGD", mine[n][1] | {key: usual}) for n in other}
        matters = (
            [n for n, off in misses(replay(update, restored), update).items() if off > 1]
            if other
            else []
        )
        if not matters:
            continue
        values = ", ".join(sorted({number(other[n]) for n in matters}))
        where = "" if len(other) == len(mine) else f" on {describe(list(other), roles, weights)}"
        words = {"nesterov": "Nesterov momentum", "maximize": "the loss is maximised"}.get(
            key, f"{key.replace('_', ' ')} {values}, not {number(usual)}"
        )
        found.append(cause("update", f"{words}{where}"))
    return found


def name_rates(update, mine, reference, roles, weights, moving):
    """Findings on the learning rates."""
    other = {
        n: values["lr"]
        for n, (_, values) in mine.items()
        if not math.isclose(values["lr"], reference[n][1]["lr"], rel_tol=1e-9)
    }
    restored = {n: ("SGD", mine[n][1] | {"lr": reference[n][1]["lr"]}) for n in other}
    if not other or equal(replay(update, restored), update):
        return []
    if moving:
        return [cause("update", moving)]
    usual = {roles[n]: reference[n][1]["lr"] for n in roles}
    rates = {
        role: {values["lr"] for n, (_, values) in mine.items() if roles[n] == role}
        for role in usual
    }
    single = {role: next(iter(r)) for role, r in rates.items() if len(r) == 1}
    if len(single) == 2 and single["backbone"] == single["head"]:
        text = f"one learning rate for all: {number(single['head'])}"
    elif len(single) == 2 and single == {"backbone": usual["head"], "head": usual["backbone"]}:
        text = "the two learning rates are exchanged"
    else:
        parts = [
            f"{describe([n for n in other if other[n] == rate], roles, weights)} {number(rate)}"
            for rate in sorted(set(other.values()))
        ]
        expected = ", ".join(f"{role} {number(lr)}" for role, lr in usual.items())
        text = f"other learning rates: {'; '.join(parts)} (the reference: {expected})"
    return [cause("update", text)]


# Between backward and the update, and behind it


def judge_step_gradients(update, last, roles, factor):
    """Findings on what happened to the gradients between backward and the update.

    last: the gradients right after backward; factor: of the loss, which may be taken out again.
    """
    pairs = {
        n: (last[n]["values"], update["gradients"][n])
        for n in roles
        if n < len(last) and last[n] is not None
    }
    pairs = {
        n: (a, b["values"] if b is not None else torch.zeros_like(a)) for n, (a, b) in pairs.items()
    }
    if all(torch.equal(a, b) for a, b in pairs.values()):
        return []
    if all(not b.any() for _, b in pairs.values()):
        return [
            cause(
                "gradients",
                "gradients are zeroed between backward and the "
                "update, so only the weight decay acts",
            )
        ]
    top = sum(float((a.double() * b.double()).sum()) for a, b in pairs.values())
    scale = top / max(sum(float((a.double() ** 2).sum()) for a, _ in pairs.values()), 1e-300)
    if all(near(a * scale, b) for a, b in pairs.values()):
        norm = math.sqrt(sum(last[n]["l2"] ** 2 for n in pairs))
        if factor and abs(scale * factor - 1) < 1e-6:
            return [
                harmless(
                    "gradients",
                    f"the loss is scaled by {number(factor)} and the gradients are scaled back",
                )
            ]
        ways = [f"the gradients' norm is clipped to {number(scale * (norm + 1e-6))}"] * (scale < 1)
        ways += [f"the gradients are multiplied by {number(scale)}"]
        return [cause("gradients", ways[0])._replace(ways=tuple(ways))]
    bound = max(float(b.abs().max()) for _, b in pairs.values())
    if all(near(a.clamp(-bound, bound), b) for a, b in pairs.values()):
        return [cause("gradients", f"each gradient is clipped to +-{number(bound)}")]
    return [unknown("gradients", "gradients change between backward and the update")]


def near(a, b):
    tight = 1e-9 if b.dtype == torch.float64 else 1e-5
    return float((a - b).abs().max()) <= tight * float(b.abs().max()) + 1e-300


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
