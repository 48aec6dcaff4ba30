"""What happens to the gradients: how they reach the weights, and what is done with them until the
update.
"""

import itertools
import math

import torch

from diagnose.finding import cause, harmless, skipped, stated, unknown
from diagnose.losses import logits_of
from diagnose.record import places
from diagnose.replay import BACKWARD, FORMULA, column, copies, features, gap, near, noise, number
from diagnose.updates import declared, describe


def judge_zeroed(group, update, earlier, roles, weights):
    """Findings on gradients that are there before the first backward of an update, or that change
    between its batches.

    group: what is known of its batches; earlier: the update before, or None; zero_grad of an
    optimizer leaves the weights of no optimizer.
    """
    held = declared(update)
    before = enumerate(group[0].batch["backwards"][0]["before"])
    before = {n: g for n, g in before if g is not None and g["max"] > 0}
    there, loose = before.keys() & held.keys(), before.keys() & roles.keys() - held.keys()
    old = {n: g for n, g in enumerate(earlier["gradients"]) if g is not None} if earlier else {}
    found = []
    if any(n not in old or not alike(before[n], old[n]) for n in there):
        text = "gradients are there before the first backward, which the update before"
        found.append(unknown("gradients", f"{text} did not leave"))
    elif there:
        left = [n for n in roles if n in old and n in held and old[n]["max"] > 0]
        whose = "" if set(left) <= there else f" of {describe(sorted(there), roles, weights)}"
        found.append(cause("gradients", f"gradients{whose} are not zeroed between updates"))
    ends = [view.batch["backwards"][-1]["after"] for view in group[:-1]]
    begins = [view.batch["backwards"][0]["before"] for view in group[1:]]
    pairs = [pair for a, b in zip(ends, begins, strict=True) for pair in zip(a, b, strict=False)]
    if any(g is not None and g["max"] > 0 and not alike(g, later) for g, later in pairs):
        text = "gradients change, or are zeroed, between the batches of an update"
        found.append(unknown("gradients", text))
    if loose:
        text = f"gradients of {describe(sorted(loose), roles, weights)}, which no optimizer steps,"
        found.append(stated("gradients", f"{text} add up"))
    return found


def alike(a, b):
    """Whether two samples of a gradient are the same; None is none."""
    return a is not None and b is not None and torch.equal(a["values"], b["values"])


def judge_way(view, way, rounding):
    """Findings on the gradient from the logits to the features; way: from these to those."""
    _, slopes = logits_of(view.batch)
    if way is None or not slopes or view.sides.inputs is None:
        return []
    a, b = (f.detach().clone().requires_grad_() for f in view.sides.features)
    made = torch.autograd.grad(column(way(a, b)), (a, b), slopes[0].to(a.dtype))
    tolerance = max(10 * FORMULA[rounding == 1], 100 * rounding * 2.0**-24 * (rounding < 1))
    there = [
        (m, slots[0], rows)
        for m, slots, rows in zip(made, view.sides.gradients, view.sides.rows, strict=True)
        if slots
    ]
    if not there:
        return []
    made, seen, rows = map(torch.cat, zip(*there, strict=True))
    _, photos = rows.unique(return_inverse=True)  # one gradient may be that of several pairs
    sums = [torch.zeros_like(g).index_add(0, photos, g) for g in (made, seen)]
    if gap(*sums) <= tolerance:
        return []
    return [unknown("gradients", "the features' gradients are not those of the logits")]


def judge_contribution(view, backbones, setting, rounding, update, computed):
    """Findings on the gradient that the first backward gave to the weights.

    computed: numbers of weights that are made anew at each step, which keep no gradient.
    """
    batch, sides, matches_, single = view.batch, view.sides, view.matches, rounding == 1
    names = matches_[0].names | matches_[1].names
    findings, frozen = [], computed | {n for n, on in enumerate(update["requires_grad"]) if not on}
    added = [contribution(backward) for backward in batch["backwards"]]
    if len(added) > 1:
        text = f"backward runs {len(added)} times on one loss, the gradients add up"
        findings.append(cause("gradients", text))
        if any(gap_ > 1e-3 for a in added[1:] for gap_, _ in compare_gradients(added[0], a)[0]):
            text = "one backward of a loss gives another gradient than the next"
            findings.append(unknown("gradients", text))
    none = [i + 1 for i, g in enumerate(sides.gradients) if not g and sides.inputs is not None]
    if len(none) == 1:
        text = f"features_{none[0]} is detached: no gradient goes through that photo"
        findings.append(cause("gradients", text))
    elif len(none) == 2 and not frozen >= matches_[0].names.keys():
        text = "the features carry no gradient (no_grad or detach): the backbone gets none"
        findings.append(cause("gradients", text))
    made = head_gradients(batch)
    rooms = dict.fromkeys(made, BACKWARD[single][1])
    findings += name_gradients(made, added[0], rooms, "head", False, frozen, names)
    if sides.inputs is None:
        return findings
    if setting is None:
        text = "those of the backbone are not judged, since its features are not reproduced"
        return [*findings, skipped("gradients", text)]
    if len(none) == 2:
        return findings
    dtypes = torch.float32, torch.float64
    both = [backbone_gradients(backbones, sides, setting, matches_, d) for d in dtypes]
    rooms = {n: noise(v, both[1][n], rounding, BACKWARD) for n, v in both[0].items()}
    return findings + name_gradients(
        both[not single], added[0], rooms, "backbone", single, frozen, names
    )


def name_gradients(made, added, rooms, part, by_median, frozen, names):
    """Findings on the gradients of the head's or the backbone's weights.

    by_median: whether half of the tensors must depart, as in single where one ReLU turns over.
    """
    rows, absent = compare_gradients(made, added, rooms)
    absent = sorted(set(absent) - frozen)
    findings = []
    if rows and rows[len(rows) // 2 if by_median else 0][0] > 1:
        behind = "logits" if part == "head" else "features"
        text = f"the {part}'s gradients are not those of its {behind}"
        seen = f"{sum(gap_ > 1 for gap_, _ in rows)} of {len(rows)} tensors"
        findings.append(unknown("gradients", text, seen))
    if absent and rows:
        which = ", ".join(dict.fromkeys(names.get(n, "the head").split(".")[0] for n in absent))
        text = f"no gradient reaches {which}, which no one froze (detached, or under no_grad)"
        findings.append(cause("gradients", text))
    return findings


def judge_step_gradients(update, last, roles, factor):
    """Findings on what happened to the gradients between backward and the update.

    last: the gradients right after backward; factor: of the loss, which may be taken out again.
    """
    met = [n for n in roles if n < len(last) and last[n] is not None]
    were = [last[n]["values"] for n in met]
    are = [update["gradients"][n] for n in met]
    are = [
        torch.zeros_like(a) if b is None else b["values"] for a, b in zip(were, are, strict=True)
    ]
    pairs = list(zip(were, are, strict=True))
    tops = [last[n]["max"] for n in met]
    kept = [(update["gradients"][n] or {"max": 0.0})["max"] for n in met]
    same = all(torch.equal(a, b) for a, b in pairs)
    if same and tops == kept:
        return []
    if not any(b.any() for b in are):
        text = "gradients are zeroed between backward and the update, so only the weight decay acts"
        return [cause("gradients", text)]
    top = sum(float((a.double() * b.double()).sum()) for a, b in pairs)
    scale = top / max(sum(float((a.double() ** 2).sum()) for a in were), 1e-300)
    if not same and all(near(a * scale, b) for a, b in pairs):
        norm = math.sqrt(sum(last[n]["l2"] ** 2 for n in met))
        if factor and abs(scale * factor - 1) < 1e-6:
            text = f"the loss is scaled by {number(factor)} and the gradients are scaled back"
            return [harmless("gradients", text)]
        norm = f"norm is clipped (or set) to {number(scale * (norm + 1e-6))}"
        ways = [f"the gradients' {norm}"] * (scale < 1)
        ways += [f"the gradients are multiplied by {number(scale)}"]
        return [cause("gradients", ways[0])._replace(ways=tuple(ways))]
    bound = max(kept)
    clipped = all(
        abs(min(top, bound) - now) <= 1e-5 * bound for top, now in zip(tops, kept, strict=True)
    )
    if clipped and all(near(a.clamp(-bound, bound), b) for a, b in pairs):
        text = f"each gradient is clipped to +-{number(bound)}"
        return [cause("gradients", text)._replace(ways=(text,))]
    return [unknown("gradients", "gradients change between backward and the update")]


# Replayed


def sampled(tensor):
    """The fixed places of a tensor, as record.py keeps them."""
    flat = tensor.detach().reshape(-1)
    return flat[places(len(flat))]


def contribution(backward):
    """What one backward added to each weight's gradient: {number: values}; None: no gradient."""
    rows, added = itertools.zip_longest(backward["before"], backward["after"]), {}
    for n, (before, after) in enumerate(rows):
        if after is not None:
            added[n] = after["values"] - (before["values"] if before is not None else 0)
    return added


def backbone_gradients(backbones, sides, setting, matches, dtype):
    """{number: values at the fixed places} from the first gradients at the features, in a dtype."""
    chosen = copies(backbones)
    for backbone in chosen:
        backbone.to(dtype).requires_grad_(True)
    made = zip(features(chosen, sides, setting), sides.gradients, strict=True)
    pairs = [(f, slots[0].to(dtype)) for f, slots in made if slots]
    if not pairs:
        return {}
    torch.autograd.backward(*map(list, zip(*pairs, strict=True)))
    gradients = {}
    for backbone, match in zip(dict.fromkeys(chosen), matches, strict=False):
        own = backbone.state_dict(keep_vars=True)
        reached = {n: own[name].grad for n, name in match.names.items()}
        for n, gradient in reached.items():
            if gradient is not None:  # of both backbones, where they share a weight
                gradients[n] = gradients.get(n, 0) + sampled(gradient)
    return gradients


def head_gradients(batch):
    """{number: values} of the head's linear layers, from the first gradient at their outputs."""
    gradients = {}
    for place, entry in enumerate(batch["head"]):
        slots = batch["gradients"].get(f"output_{place}")
        if entry["op"] == "linear" and slots:
            g = slots[0].double()
            made = [g.T @ entry["input"].double(), g.sum(0)]
            for n, value in zip(entry["weights"], made, strict=False):
                gradients[n] = gradients.get(n, 0) + sampled(value)
    return gradients


def compare_gradients(made, seen, rooms=None):
    """([(difference in units of what is allowed, number)] from the largest on, numbers without).

    Of the weights' gradients that are more than rounding; rooms: {number: relative difference
    allowed}. The second are weights that should have a gradient and have none.
    """
    norms = [float(v.double().norm()) for v in made.values()] or [0.0]
    large = [n for n, v in made.items() if float(v.double().norm()) > max(norms) * 1e-9]
    rows = [(gap(made[n], seen[n]) / (rooms[n] if rooms else 1), n) for n in large if n in seen]
    return sorted(rows, reverse=True), [n for n in large if n not in seen]
