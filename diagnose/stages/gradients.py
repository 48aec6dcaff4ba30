"""The gradients: how they reach the weights, and what is done with them until the update."""

from dataclasses import replace

import torch

from diagnose.backward import compare_gradients, contribution, head_gradients
from diagnose.criterion import logits_of
from diagnose.finding import LINE_AT
from diagnose.numerics import (
    BACKWARD,
    estimated,
    factor_between,
    formula_tolerance,
    is_float32,
    relative_error,
    replay_tolerance,
)
from diagnose.parameters import describe
from diagnose.reference import column, pass_of
from diagnose.related import TOLD, whole
from diagnose.related import sampled as sampled_places
from diagnose.relation import relation_of
from diagnose.stepping import declared
from run.findings import CAUSE, DECLARED, SKIPPED, UNEXPLAINED, WRONG, Row

SAME_PHOTOS = Row(
    "gradients.same_photos_again",
    UNEXPLAINED,
    "a step uses several forward passes or merges of the same photos, which is not replayed",
)
STRANGE_START = Row(
    "gradients.of_another_origin",
    UNEXPLAINED,
    "gradients exist before the first backward that the step before did not leave",
)
NOT_ZEROED = Row(
    "gradients.not_zeroed",
    CAUSE,
    "gradients[ of {parameters}] are not zeroed between steps",
    help="call optimizer.zero_grad() before each backward",
    matters=WRONG,
    at=("zero_grad", "backward"),
)
BETWEEN_BATCHES = Row(
    "gradients.change_between_batches",
    UNEXPLAINED,
    "gradients change, or are zeroed, between the batches of a step",
)
ZEROED_BETWEEN = Row(
    "gradients.zeroed_between_batches",
    CAUSE,
    "gradients are zeroed between the {batches} batches of a step, so only the last batch counts",
    help="call optimizer.zero_grad() once for each optimizer.step(), not for each batch",
    matters=WRONG,
    at=("zero_grad", "backward"),
)
ADD_UP = Row(
    "gradients.add_up",
    DECLARED,
    "gradients of {parameters} accumulate, since they are in no optimizer",
    at=("optimizer",),
)
NOT_SUMMED = (NOT_ZEROED, ZEROED_BETWEEN, BETWEEN_BATCHES)  # over the batches of one step alone
NOT_OF_LOGITS = Row(
    "gradients.features_not_reproduced",
    UNEXPLAINED,
    "the gradients at the features are not reproduced from those at the logits[: that of photo_1 "
    "is {photo_1} times what it should be, that of photo_2 {photo_2} times][: they are what they "
    "should be, {relation}]",
    varies=("relation",),
    at=("hook", "function", "backward"),
)
BACKWARD_AGAIN = Row(
    "gradients.backward_again",
    CAUSE,
    "backward runs {times} times on one loss, so the gradients add up",
    help="call backward once for each loss",
    at=("backward",),
)
BACKWARD_OTHER = Row(
    "gradients.backward_differs",
    UNEXPLAINED,
    "backward gives different gradients for one loss",
)
CUT = Row(
    "gradients.logits_detached",
    CAUSE,
    "the logits are cut from the graph (.data, .detach(), numpy or torch.tensor): no parameter "
    "receives a gradient",
    help="pass the logits themselves to the loss",
    matters=WRONG,
    at=("detach", "loss"),
)
ONE_DETACHED = Row(
    "gradients.one_side_detached",
    CAUSE,
    "no gradient flows through photo_{side}: features_{side} is detached, or made under no_grad",
    help="let gradients flow through both photos: no no_grad(), no detach()",
    matters=WRONG,
    at=("detach", "own"),
)
DETACHED = Row(
    "gradients.features_detached",
    CAUSE,
    "the features are detached: the backbone receives no gradient",
    help="let gradients flow into the backbone: no no_grad(), no detach()",
    matters=WRONG,
    at=("detach", "forward"),
)
BACKBONE_SKIPPED = Row(
    "gradients.backbone_skipped",
    SKIPPED,
    "the backbone's gradients were not judged, since its features are not reproduced",
    is_partial=True,
)
HEAD_SKIPPED = Row(
    "gradients.head_skipped",
    SKIPPED,
    "the gradients at the features were not judged, since the head is not reproduced",
    is_partial=True,
)
HEAD = Row(
    "gradients.head_not_reproduced",
    UNEXPLAINED,
    "the head's gradients are not reproduced from those at its logits[: those of {departs} depart, "
    "those of {keeps} do not][; they are what they should be, {relation}]",
    varies=("count", "total", "parts", "agree", "relation"),
    at=("hook", "function", "backward"),
)
BACKBONE = Row(
    "gradients.backbone_not_reproduced",
    UNEXPLAINED,
    "the backbone's gradients are not reproduced from those at its features: they depart in "
    "{parts}[, and agree in {agree}][; they are what they should be, {relation}]",
    varies=("count", "total", "parts", "agree", "relation"),
    at=("hook", "function", "backward"),
)
NOT_REACHED = Row(
    "gradients.not_reached",
    CAUSE,
    "{layers}: no gradient, though not frozen (detached, or under no_grad)",
    help="let gradients flow into these layers: no no_grad(), no detach()",
    matters=WRONG,
    at=("detach", "forward"),
)


def is_cut(batch):
    """Whether backward reached neither the logits nor the features of a batch."""
    return bool(batch.backwards) and not any(batch.gradients.values())


def judge_zeroed(group, update, earlier, parameters):
    """Findings on gradients that are there before the first backward of an update, or that change
    between its batches.

    group: what is known of its batches; earlier: the update before, or None; zero_grad of an
    optimizer leaves the weights of no optimizer.
    """
    held = declared(update) or parameters
    before = enumerate(group[0].batch.backwards[0].before)
    before = {n: g for n, g in before if g is not None and g.max > 0}
    there, loose = before.keys() & held.keys(), before.keys() & parameters.keys() - held.keys()
    old = {n: g for n, g in enumerate(earlier.gradients) if g is not None} if earlier else {}
    found = []
    if any(n not in old or not alike(before[n], old[n]) for n in there):
        found.append(STRANGE_START.found())
    elif there:
        left = [n for n in parameters if n in old and n in held and old[n].max > 0]
        part = None if set(left) <= there else describe(sorted(there), parameters)
        found.append(NOT_ZEROED.found(parameters=part))
    ends = [view.batch.backwards[-1].after for view in group[:-1]]
    begins = [view.batch.backwards[0].before for view in group[1:]]
    pairs = [pair for a, b in zip(ends, begins, strict=True) for pair in zip(a, b, strict=False)]
    there = ((g, later) for g, later in pairs if g is not None and g.max > 0)
    moved = [(g, later) for g, later in there if not alike(g, later)]
    if moved and all(later is None or not later.max for _, later in moved):
        found.append(ZEROED_BETWEEN.found(batches=len(group)))
    elif moved:
        found.append(BETWEEN_BATCHES.found())
    if loose:
        found.append(ADD_UP.found(parameters=describe(sorted(loose), parameters)))
    return found


def alike(a, b):
    """Whether two samples of a gradient are the same; None is none."""
    return a is not None and b is not None and torch.equal(a.values, b.values)


def judge_head_backward(view, way, rounding):
    """Findings on the gradient from the logits to the features; way: from these to those."""
    _, logit_grads = logits_of(view.batch)
    if way is None:
        return [HEAD_SKIPPED.found()]
    if not logit_grads or view.sides.inputs is None:
        return []
    a, b = (f.detach().clone().requires_grad_() for f in view.sides.features)
    made = torch.autograd.grad(column(way(a, b)), (a, b), logit_grads[0].to(a.dtype))
    there = [
        (m, slots[0], rows)
        for m, slots, rows in zip(made, view.sides.gradients, view.sides.rows, strict=True)
        if slots
    ]
    if not there:
        return []
    *sides, _ = zip(*there, strict=True)
    made, seen, rows = map(torch.cat, zip(*there, strict=True))
    _, photos = rows.unique(return_inverse=True)  # one gradient may be that of several pairs
    sums = [torch.zeros_like(g).index_add(0, photos, g) for g in (made, seen)]
    if relative_error(*sums) <= formula_tolerance(rounding, 10):
        return []
    told = factors_of(*sides, formula_tolerance(rounding, 10))
    words = relation_of([whole(*sums)], TOLD) if told["photo_1"] is None else None
    return [NOT_OF_LOGITS.found(**told, relation=words)]


def factors_of(made, seen, tolerance):
    """{photo_1, photo_2: times what it should be} of the gradients at the features of both sides;
    None where they are not that, or not known.
    """
    factors = [factor_between([m], [s]) for m, s in zip(made, seen, strict=True)]
    pairs = zip(factors, made, seen, strict=True)
    proved = len(made) == 2 and all(relative_error(f * m, s) <= tolerance for f, m, s in pairs)
    told = map(estimated, factors) if proved else (None, None)
    return dict(zip(("photo_1", "photo_2"), told, strict=True))


def judge_contribution(view, passes, rounding, update, computed):
    """Findings on the gradient that the first backward gave to the weights.

    passes: the Passes of the batch, None where features were given; computed: numbers of weights
    that are computed at each step, which keep no gradient.
    """
    batch, sides = view.batch, view.sides
    own, names = view.matches[0].names, view.matches[0].names | view.matches[1].names
    frozen = computed | {n for n, on in enumerate(update.requires_grad) if not on}
    added = [contribution(backward) for backward in batch.backwards]
    findings = judge_backwards(added)
    none = [i + 1 for i, g in enumerate(sides.gradients) if not g and sides.inputs is not None]
    if len(none) == 1:
        line = pass_of(batch, sides.rows[none[0] - 1]).line
        findings.append(ONE_DETACHED.found(side=none[0], **{LINE_AT: line}))
    elif len(none) == 2 and not frozen >= own.keys() and not is_cut(batch):
        findings.append(DETACHED.found())
    shapes = {n: weight.shape for n, weight in enumerate(update.weights)}
    made = head_gradients(batch, shapes)
    tolerances = dict.fromkeys(made, BACKWARD[is_float32(rounding)][1])
    rows, absent = compare_gradients(made, added[0], tolerances)
    words = related_gradients(made, added[0], rows, shapes)
    findings += [
        replace(finding, values=finding.values | kinds_of(rows, shapes) | {"relation": words})
        if finding.row is HEAD else finding
        for finding in name_gradients(HEAD, rows, set(absent) - frozen, names)
    ]  # fmt: skip
    if sides.inputs is None:
        return findings
    if passes.recipe is None:
        return [*findings, BACKBONE_SKIPPED.found()]
    if len(none) == 2:
        return findings
    made, rows, absent = compare_backbone(passes, added[0], rounding)
    # In float32 one ReLU that turns over moves many tensors: half of them must depart.
    by_median = is_float32(rounding)
    words = related_gradients(made, added[0], rows, shapes)
    return findings + [
        replace(finding, values=finding.values | {"relation": words})
        if finding.row is BACKBONE else finding
        for finding in name_gradients(BACKBONE, rows, set(absent) - frozen, names, by_median)
    ]  # fmt: skip


def related_gradients(made, seen, rows, shapes):
    """How the gradients that depart come from what they should be, in words, or None.

    rows: see compare_gradients; shapes: of the weights, by number.
    """
    lost = [n for error, n in rows if error > 1]
    return relation_of([sampled_places(made[n], seen[n], shapes[n]) for n in lost], TOLD)


def compare_backbone(passes, added, rounding):
    """(the gradients of the backbone that passes which reproduce the features give, and as
    compare_gradients).
    """
    replay, recipe = passes.replay, passes.recipe
    made = replay.gradients(recipe, torch.float32 if is_float32(rounding) else torch.float64)
    rows, absent = [], []
    for other in replay.measured():
        lost = other.lost_backward(recipe)
        tolerances = {n: replay_tolerance(lost.get(n, 0.0), rounding, BACKWARD) for n in made}
        rows, absent = compare_gradients(made, added, tolerances)
        if not rows or rows[0][0] <= 1:
            break
    return made, rows, absent


def kinds_of(rows, shapes):
    """{departs, keeps: whether gradients of the head's weights or biases depart}, None for both."""
    lost, kept = {n for error, n in rows if error > 1}, {n for error, n in rows if error <= 1}
    kinds = [{("weights", "biases")[len(shapes[n]) == 1] for n in numbers}
             for numbers in (lost, kept)]  # fmt: skip
    if len(kinds[0]) != 1 or len(kinds[1]) != 1 or kinds[0] == kinds[1]:
        return {"departs": None, "keeps": None}
    return {"departs": kinds[0].pop(), "keeps": kinds[1].pop()}


def judge_backwards(added):
    """Findings on several backward passes of one loss; added: what each gave, see contribution."""
    if len(added) < 2:
        return []
    findings = [BACKWARD_AGAIN.found(times=len(added))]
    if any(error > 1e-3 for a in added[1:] for error, _ in compare_gradients(added[0], a)[0]):
        findings.append(BACKWARD_OTHER.found())
    return findings


def parts_of(rows, names):
    """{parts: of the backbone in which gradients depart, agree: in which none does, or None}.

    rows: see compare_gradients; names: {number: name in the reference's backbone}, in the order in
    which a photo meets them.
    """
    errors = {n: error for error, n in rows}
    departs = {}
    for n, name in names.items():
        if n in errors:
            part = ".".join(name.split(".")[: 2 if name.startswith("layer") else 1])
            departs[part] = departs.get(part, False) or errors[n] > 1
    parts, agree = ([p for p, d in departs.items() if d is some] for some in (True, False))
    if len(parts) > 2 and list(departs)[: len(parts)] == parts:
        parts = [f"every part from {parts[0]} to {parts[-1]}"]
    return {"parts": tuple(parts) or ("the head",), "agree": tuple(agree) or None}


def name_gradients(row, rows, absent, names, by_median=False):
    """Findings on the gradients of the head's or the backbone's weights.

    rows, absent: see compare_gradients; row: what it is called where they are not reproduced;
    by_median: whether half of the tensors must depart.
    """
    findings = []
    if rows and rows[len(rows) // 2 if by_median else 0][0] > 1:
        counts = {"count": sum(error > 1 for error, _ in rows), "total": len(rows)}
        findings.append(row.found(**counts, **parts_of(rows, names)))
    if absent and rows:
        layers = dict.fromkeys(names.get(n, "the head").split(".")[0] for n in sorted(absent))
        findings.append(NOT_REACHED.found(layers=tuple(layers)))
    return findings
