"""Which rows of diagnose.stages.tricks explain what happens to the gradients before an update."""

import itertools
from dataclasses import replace

import torch

from diagnose.backward import gradients_of, zero_like
from diagnose.explain import alone, combinations_of, contradiction, explain, findings_of, one_of
from diagnose.numerics import estimated, factor_between, is_close
from diagnose.parameters import describe
from diagnose.related import TOLD, sampled
from diagnose.relation import relation_of
from diagnose.stages.tricks import (
    REMOVED,
    SCALED_BACK,
    STALE,
    TRICKS,
    ZEROED,
    Step,
    is_explained,
)
from run.findings import CAUSE, SKIPPED, UNEXPLAINED, Row

ABOUT = 1e-3  # relative difference of a norm that was given and one that was estimated
ONE_OF = one_of("gradients")
CONTRADICTION = contradiction("gradients")
LEVELS = (
    [()],
    [(SCALED_BACK,)],  # which a factor is as well
    *itertools.islice(combinations_of((SCALED_BACK, *TRICKS)), 1, None),
)
CHANGED = Row(
    "gradients.changed",
    UNEXPLAINED,
    "gradients[ of {parameters}] change between backward and the optimizer step[: each element is "
    "{function}][: {added} is added to it][: {swapped} of them are those of another parameter of "
    "the same shape, such as {example}][: they are those of backward, {relation}]",
)
FUNCTIONS = {  # {what an element becomes: how}
    "squared": torch.square,
    "cubed": lambda g: g**3,
    "its absolute value": torch.abs,
    "its sign": torch.sign,
    "the root of its absolute value": lambda g: g.abs().sqrt(),
}


ADDED = {"the parameter": lambda w: w, "the sign of the parameter": torch.sign}


CLIPPED_SCALED = Row(
    "gradients.clipped_while_scaled",
    CAUSE,
    "the gradient norm is clipped to {given} while the gradients are still scaled by {factor}, so "
    "to {norm} in fact",
    help="call scaler.unscale_(optimizer) before the clipping",
    at=("clip", "changed"),
)
UNSCALED = (SCALED_BACK, CLIPPED_SCALED)  # after which gradients are those of an unscaled loss
LOSS_UNKNOWN = Row(
    "gradients.factor_of_unknown_loss",
    SKIPPED,
    "the gradients are multiplied by {factor}; the loss was not judged, so it may have been scaled "
    "by the inverse, as GradScaler does",
    is_partial=True,
)


def judge_tricks(steps):
    """[(step, finding)] on what happens to the gradients between backward and the update."""
    found = explain(steps, LEVELS)
    stale = any(f.row is STALE for step in steps for f in step.shown)
    findings = [
        (step.step, finding) for step in steps for finding in step.shown
        if not (stale and step.step == 0)  # there is no batch before the first
    ]  # fmt: skip
    left = [step for step in steps if not is_explained(step, ())]
    if found.fits:
        told = clipped_scaled(findings_of(found, ONE_OF), left)
        told = list(map(if_loss_is_known, told, itertools.repeat(left)))
    else:
        estimates = alone(left, LEVELS) if len(left) > 1 else ()
        told = [describe_changed(left)]
        if estimates:
            told = [CONTRADICTION.found(estimates=estimates[:3])]
    return findings + [(step.step, finding) for step in left for finding in told]


def describe_changed(steps):
    """The finding on gradients that no row explains: whose they are, and what each becomes."""
    step = steps[0]
    given, taken = step.given.values, step.taken.values
    moved = [n for n, values in given.items() if not torch.equal(values, taken[n])]
    part = describe(moved, step.parameters) if len(moved) < len(given) else None
    own = [name for name, act in FUNCTIONS.items()
           if all(is_close(act(given[n].double()), taken[n].double()) for n in moved)]  # fmt: skip
    told = others_of(moved, given, taken, step.parameters)
    told["added"] = added_of([(taken[n] - given[n], step.weights[n]) for n in moved])
    told["function"] = own[0] if own and moved else None
    if not any(told.values()):
        norms = step.taken.l2
        pairs = [(given[n], taken[n], step.shapes[n], norms[n]) for n in moved]
        told["relation"] = relation_of([sampled(*pair) for pair in pairs], TOLD)
    return CHANGED.found(parameters=part, **({"relation": None} | told))


def added_of(pairs):
    """What is added to each gradient, by [(what is added, the parameter)], in words, or None."""
    told, deltas = [], [delta.double() for delta, _ in pairs]
    for words, act in ADDED.items():  # both fit where all are 1
        terms = [act(weight.double()) for _, weight in pairs]
        factor = factor_between(terms, deltas) if terms else 0.0
        if factor and all(is_close(factor * a, b) for a, b in zip(terms, deltas, strict=True)):
            told.append(f"{estimated(factor)} x {words}")
    return " or ".join(told) or None


def others_of(moved, given, taken, parameters):
    """{swapped: how many gradients become those of another parameter, example: one of them}, None
    where fewer than half do.
    """
    whose = {}
    for n in moved:
        alike = [m for m in given if m != n and torch.equal(given[m], taken[n]) and given[m].any()]
        whose |= {n: alike[0]} if alike else {}
    if 2 * len(whose) <= len(moved) or not whose:
        return {"swapped": None, "example": None}
    n, other = next(iter(whose.items()))
    names = [parameters[k].name for k in (n, other)]
    return {"swapped": len(whose), "example": f"{names[0]} with that of {names[1]}"}


def clipped_scaled(findings, steps):
    """Findings; a clipping and an unscaling among them are one where the norm that the clipping was
    given is that of gradients that are still scaled as the loss is.
    """
    own = {finding.row.id: finding for finding in findings}
    clip = own.pop("gradients.norm_clipped", None)
    given, factors = {step.clipped for step in steps}, {step.factor for step in steps}
    if clip is None or own.keys() - {SCALED_BACK.id} or {None} & (given | factors):
        return findings
    factor, norm, clipped = max(factors), clip.values["norm"], max(given)
    if len(given) > 1 or max(factors) / min(factors) - 1 > ABOUT or abs(factor - 1) < ABOUT:
        return findings
    if abs(norm * factor / clipped - 1) > ABOUT:
        return findings
    found = CLIPPED_SCALED.found(given=clipped, factor=estimated(factor), norm=norm)
    proof = {"relative_error": clip.relative_error, "tolerance": clip.tolerance}
    return [replace(found, **proof, size=clip.size)]


def if_loss_is_known(finding, steps):
    """A finding, or of one factor, whose inverse the loss may have, what is known of it."""
    if finding.id != "gradients.factor" or all(step.factor is not None for step in steps):
        return finding
    return LOSS_UNKNOWN.found(**finding.values)


def step_of(place, update, last, parameters, factor, before):
    """The Step of an update; see there.

    last: the gradients right after the last backward; before: those of the update before, or None.
    """
    met = [n for n in parameters if n < len(last) and last[n] is not None]
    given = gradients_of({n: last[n] for n in met})
    taken = gradients_of({n: update.gradients[n] or zero_like(last[n]) for n in met})
    earlier = None
    if before and all(n < len(before) and before[n] is not None for n in met):
        earlier = gradients_of({n: before[n] for n in met})
    removed = all(update.gradients[n] is None for n in met)
    weights = {n: update.before[n].values for n in met}
    shapes = {n: update.weights[n].shape for n in met}
    step = Step(place, given, taken, earlier, factor, parameters, weights, update.clipped, shapes)
    zero = not any(values.any() for values in taken.values.values())
    if is_explained(step, ()):
        return step
    shown = [REMOVED.found()] * removed
    if not removed and earlier and not zero and replace(step, given=earlier).error(())[0] == 0:
        shown = [STALE.found()]
    return replace(step, shown=tuple(shown or [ZEROED.found()] * zero))
