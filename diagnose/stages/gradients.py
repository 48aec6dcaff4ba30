"""The gradients: how they reach the weights, and what is done with them until the update."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from diagnose.numerics import (
    BACKWARD,
    estimated,
    factor_between,
    formula_tolerance,
    is_close,
    is_float32,
    relative_error,
    replay_tolerance,
)
from diagnose.record import places
from diagnose.reference import column, copies
from diagnose.stages.features import forward
from diagnose.stages.loss import logits_of
from diagnose.stages.update import declared, describe
from run.findings import CAUSE, DECLARED, HARMLESS, SKIPPED, UNEXPLAINED, Row

PARTS = 4  # with factors of their own, beyond which they are no explanation
ABSENT = 1e-9  # of the largest norm: a gradient that is smaller need not be there
SAME_PHOTOS = Row(
    "gradients.same_photos_again",
    UNEXPLAINED,
    "an update takes several passes or merges of the same photos; not replayed",
)
STRANGE_START = Row(
    "gradients.of_another_origin",
    UNEXPLAINED,
    "gradients are there before the first backward, which the update before did not leave",
)
NOT_ZEROED = Row(
    "gradients.not_zeroed",
    CAUSE,
    "gradients[ of {parameters}] are not zeroed between updates",
)
BETWEEN_BATCHES = Row(
    "gradients.change_between_batches",
    UNEXPLAINED,
    "gradients change, or are zeroed, between the batches of an update",
)
ADD_UP = Row(
    "gradients.add_up",
    DECLARED,
    "gradients of {parameters}, which no optimizer steps, add up",
)
NOT_OF_LOGITS = Row(
    "gradients.features_not_reproduced",
    UNEXPLAINED,
    "the features' gradients are not those of the logits",
)
BACKWARD_AGAIN = Row(
    "gradients.backward_again",
    CAUSE,
    "backward runs {times} times on one loss, the gradients add up",
)
BACKWARD_OTHER = Row(
    "gradients.backward_differs",
    UNEXPLAINED,
    "one backward of a loss gives another gradient than the next",
)
ONE_DETACHED = Row(
    "gradients.one_side_detached",
    CAUSE,
    "features_{side} is detached: no gradient goes through that photo",
)
DETACHED = Row(
    "gradients.features_detached",
    CAUSE,
    "the features carry no gradient (no_grad or detach): the backbone gets none",
)
BACKBONE_SKIPPED = Row(
    "gradients.backbone_skipped",
    SKIPPED,
    "those of the backbone are not judged, since its features are not reproduced",
)
HEAD = Row(
    "gradients.head_not_reproduced",
    UNEXPLAINED,
    "the head's gradients are not those of its logits",
    varies=("count", "total"),
)
BACKBONE = Row(
    "gradients.backbone_not_reproduced",
    UNEXPLAINED,
    "the backbone's gradients are not those of its features",
    varies=("count", "total"),
)
NOT_REACHED = Row(
    "gradients.not_reached",
    CAUSE,
    "no gradient reaches {layers}, which no one froze (detached, or under no_grad)",
)
CHANGED = Row("gradients.changed", UNEXPLAINED, "gradients change between backward and the update")


def judge_zeroed(group, update, earlier, parameters):
    """Findings on gradients that are there before the first backward of an update, or that change
    between its batches.

    group: what is known of its batches; earlier: the update before, or None; zero_grad of an
    optimizer leaves the weights of no optimizer.
    """
    held = declared(update)
    before = enumerate(group[0].batch["backwards"][0]["before"])
    before = {n: g for n, g in before if g is not None and g["max"] > 0}
    there, loose = before.keys() & held.keys(), before.keys() & parameters.keys() - held.keys()
    old = {n: g for n, g in enumerate(earlier["gradients"]) if g is not None} if earlier else {}
    found = []
    if any(n not in old or not alike(before[n], old[n]) for n in there):
        found.append(STRANGE_START.found())
    elif there:
        left = [n for n in parameters if n in old and n in held and old[n]["max"] > 0]
        part = None if set(left) <= there else describe(sorted(there), parameters)
        found.append(NOT_ZEROED.found(parameters=part))
    ends = [view.batch["backwards"][-1]["after"] for view in group[:-1]]
    begins = [view.batch["backwards"][0]["before"] for view in group[1:]]
    pairs = [pair for a, b in zip(ends, begins, strict=True) for pair in zip(a, b, strict=False)]
    if any(g is not None and g["max"] > 0 and not alike(g, later) for g, later in pairs):
        found.append(BETWEEN_BATCHES.found())
    if loose:
        found.append(ADD_UP.found(parameters=describe(sorted(loose), parameters)))
    return found


def alike(a, b):
    """Whether two samples of a gradient are the same; None is none."""
    return a is not None and b is not None and torch.equal(a["values"], b["values"])


def judge_head_backward(view, way, rounding):
    """Findings on the gradient from the logits to the features; way: from these to those."""
    _, slopes = logits_of(view.batch)
    if way is None or not slopes or view.sides.inputs is None:
        return []
    a, b = (f.detach().clone().requires_grad_() for f in view.sides.features)
    made = torch.autograd.grad(column(way(a, b)), (a, b), slopes[0].to(a.dtype))
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
    if relative_error(*sums) <= formula_tolerance(rounding, 10):
        return []
    return [NOT_OF_LOGITS.found()]


def judge_contribution(view, passes, rounding, update, computed):
    """Findings on the gradient that the first backward gave to the weights.

    passes: the Replayed of the batch, None where features were given; computed: numbers of weights
    that are made anew at each step, which keep no gradient.
    """
    batch, sides = view.batch, view.sides
    own, names = view.matches[0].names, view.matches[0].names | view.matches[1].names
    frozen = computed | {n for n, on in enumerate(update["requires_grad"]) if not on}
    added = [contribution(backward) for backward in batch["backwards"]]
    findings = judge_backwards(added)
    none = [i + 1 for i, g in enumerate(sides.gradients) if not g and sides.inputs is not None]
    if len(none) == 1:
        findings.append(ONE_DETACHED.found(side=none[0]))
    elif len(none) == 2 and not frozen >= own.keys():
        findings.append(DETACHED.found())
    made = head_gradients(batch)
    tolerances = dict.fromkeys(made, BACKWARD[is_float32(rounding)][1])
    rows, absent = compare_gradients(made, added[0], tolerances)
    findings += name_gradients(HEAD, rows, set(absent) - frozen, names)
    if sides.inputs is None:
        return findings
    if passes.setting is None:
        return [*findings, BACKBONE_SKIPPED.found()]
    if len(none) == 2:
        return findings
    dtypes = torch.float32, torch.float64
    both = [backbone_gradients(passes, sides, view.matches, dtype) for dtype in dtypes]
    tolerances = {
        n: replay_tolerance(v, both[1][n], rounding, BACKWARD) for n, v in both[0].items()
    }
    rows, absent = compare_gradients(both[not is_float32(rounding)], added[0], tolerances)
    # In float32 one ReLU that turns over moves many tensors: half of them must depart.
    by_median = is_float32(rounding)
    return findings + name_gradients(BACKBONE, rows, set(absent) - frozen, names, by_median)


def judge_backwards(added):
    """Findings on several backward passes of one loss; added: what each gave, see contribution."""
    if len(added) < 2:
        return []
    findings = [BACKWARD_AGAIN.found(times=len(added))]
    if any(error > 1e-3 for a in added[1:] for error, _ in compare_gradients(added[0], a)[0]):
        findings.append(BACKWARD_OTHER.found())
    return findings


def name_gradients(row, rows, absent, names, by_median=False):
    """Findings on the gradients of the head's or the backbone's weights.

    rows, absent: see compare_gradients; row: what it is called where they are not reproduced;
    by_median: whether half of the tensors must depart.
    """
    findings = []
    if rows and rows[len(rows) // 2 if by_median else 0][0] > 1:
        findings.append(row.found(count=sum(error > 1 for error, _ in rows), total=len(rows)))
    if absent and rows:
        layers = dict.fromkeys(names.get(n, "the head").split(".")[0] for n in sorted(absent))
        findings.append(NOT_REACHED.found(layers=tuple(layers)))
    return findings


class Step(NamedTuple):
    """What one update shows of its gradients: {number: values} of the weights that have one."""

    backward: dict  # right after the last backward
    update: dict  # as the optimizer takes them; zeros where there is none
    tops: list  # largest element of each, right after backward
    kept: list  # and as the optimizer takes it
    missing: bool  # whether the optimizer finds no gradient at all
    stale: bool  # whether it takes those of the batch before
    norm: float  # of all gradients right after backward
    factor: float | None  # by which the loss is multiplied
    parameters: dict  # {number: Parameter}

    def scale(self):
        """The factor that gives all gradients of the update, or None."""
        scale = factor_between(self.backward.values(), self.update.values())
        same = self.is_unchanged()
        pairs = zip(self.backward.values(), self.update.values(), strict=True)
        return None if same or not all(is_close(a * scale, b) for a, b in pairs) else scale

    def is_unchanged(self):
        """Whether the kept places are those of the backward, to the bit."""
        pairs = zip(self.backward.values(), self.update.values(), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)


@dataclass(frozen=True)
class Trick(Row):
    """What is done to gradients between backward and the update.

    values(step): what it was found with, or None where it does not give the update's gradients.
    is_estimated: whether a value was solved for, which must hold in every step.
    """

    values: Callable = None
    is_estimated: bool = False


def trick(name, text, values, kind=CAUSE, **options):
    """A Trick of this stage."""
    return Trick(f"gradients.{name}", kind, text, values=values, **options)


def scaled_back(step):
    """The factor of the loss that the gradients lose again."""
    scale = step.scale()
    undone = scale and step.factor and abs(scale * step.factor - 1) < 1e-6
    return {"factor": estimated(step.factor)} if undone else None


def clipped_norm(step):
    """The norm of the gradients where that is what they are scaled to."""
    scale = step.scale()
    return {"norm": estimated(scale * (step.norm + 1e-6))} if scale and scale < 1 else None


def multiplied(step):
    """The one factor of all gradients."""
    scale = step.scale()
    return {"factor": estimated(scale)} if scale else None


def clipped_values(step):
    """The bound to which each element is clipped."""
    bound = max(step.kept)
    ends = zip(step.tops, step.kept, strict=True)
    clipped = all(abs(min(top, bound) - now) <= 1e-5 * bound for top, now in ends)
    pairs = zip(step.backward.values(), step.update.values(), strict=True)
    fits = clipped and all(is_close(a.clamp(-bound, bound), b) for a, b in pairs)
    return {"bound": estimated(bound)} if fits else None


def factors_of_parts(step):
    """{part: factor} where each part has one of its own."""
    factors = {}
    for n, values in step.backward.items():
        scale = factor_between([values], [step.update[n]])
        if not is_close(values * scale, step.update[n]):
            return None
        if values.any():
            factors.setdefault(estimated(scale), []).append(n)
    if not 1 < len(factors) <= PARTS:
        return None
    named = {describe(some, step.parameters): scale for scale, some in sorted(factors.items())}
    return {"factors": named}


REMOVED = trick(
    "removed",
    "gradients are removed (None) between backward and the update, so nothing moves",
    lambda step: {} if step.missing else None,
)
STALE = trick(
    "of_the_batch_before",
    "each update takes the gradients of the batch before",
    lambda step: {} if step.stale else None,
)
ZEROED = trick(
    "zeroed",
    "gradients are zeroed between backward and the update, so only the weight decay acts",
    lambda step: None if any(values.any() for values in step.update.values()) else {},
)
# In the order in which they are tried; estimated ones that fit a step equally are all kept.
TRICKS = (
    REMOVED,
    STALE,
    ZEROED,
    trick(
        "scaled_back",
        "the loss is scaled by {factor} and the gradients are scaled back",
        scaled_back,
        HARMLESS,
    ),
    trick(
        "norm_clipped",
        "the gradients' norm is clipped (or set) to {norm}",
        clipped_norm,
        is_estimated=True,
    ),
    trick("factor", "the gradients are multiplied by {factor}", multiplied, is_estimated=True),
    trick(
        "values_clipped",
        "each gradient is clipped to +-{bound}",
        clipped_values,
        is_estimated=True,
    ),
    trick(
        "factor_of_each",
        "gradients are multiplied by another factor in each part: {factors}",
        factors_of_parts,
        varies=("factors",),
    ),
)


def judge_step_gradients(update, last, parameters, factor, before=None):
    """Findings on what happened to the gradients between backward and the update.

    last: the gradients right after backward; before: those of the update before, or None;
    factor: of the loss, which may be taken out again.
    """
    step = step_of(update, last, parameters, factor, before)
    if step.is_unchanged() and step.tops == step.kept:
        return []
    found = []
    for row in TRICKS:
        values = row.values(step) if row.is_estimated or not found else None
        if values is not None:
            found.append(row.found(**values))
            if not row.is_estimated:
                return found
    if not found:
        return [CHANGED.found()]
    return [found[0].with_alternatives(*found[1:])]


def step_of(update, last, parameters, factor, before):
    """The Step of an update; see judge_step_gradients."""
    met = [n for n in parameters if n < len(last) and last[n] is not None]
    taken = {n: update["gradients"][n] for n in met}
    backward = {n: last[n]["values"] for n in met}
    return Step(
        backward=backward,
        update={n: torch.zeros_like(backward[n]) if g is None else g["values"]
                for n, g in taken.items()},
        tops=[last[n]["max"] for n in met],
        kept=[(g or {"max": 0.0})["max"] for g in taken.values()],
        missing=all(g is None for g in taken.values()),
        stale=bool(before) and all(alike(taken[n], before[n]) for n in met if n < len(before)),
        norm=math.sqrt(sum(last[n]["l2"] ** 2 for n in met)),
        factor=factor,
        parameters=parameters,
    )  # fmt: skip


def judge_staleness(findings):
    """[(step, finding)] in which gradients that a first step lacks are those of no batch before."""
    stale = any(finding.row is STALE for _, finding in findings)
    lacking = (ZEROED, REMOVED)
    return [(s, f) for s, f in findings if not (stale and s == 0 and f.row in lacking)]


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


def backbone_gradients(passes, sides, matches, dtype):
    """{number: values at the fixed places} from the first gradients at the features, in a dtype."""
    chosen = copies(passes.backbones)
    for backbone in chosen:
        backbone.to(dtype).requires_grad_(True)
    made = zip(forward(chosen, sides, passes.setting), sides.gradients, strict=True)
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


def compare_gradients(made, seen, tolerances=None):
    """([(relative error in units of the tolerance, number)] from the largest on, absent numbers).

    Of the weights' gradients that are more than rounding; tolerances: {number: relative error}.
    The absent are weights that should have a gradient and have none.
    """
    norms = [float(v.double().norm()) for v in made.values()] or [0.0]
    large = [n for n, v in made.items() if float(v.double().norm()) > max(norms) * ABSENT]
    rows = [
        (relative_error(made[n], seen[n]) / (tolerances[n] if tolerances else 1), n)
        for n in large
        if n in seen
    ]
    return sorted(rows, reverse=True), [n for n in large if n not in seen]
