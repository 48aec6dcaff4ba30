"""What a loss that no row reproduces does to each pair, by the gradients at the logits."""

import itertools
import math

import torch

from diagnose.criterion import Recipe
from diagnose.describe import facts_of, of_logits, of_pair, rules_of
from diagnose.numerics import estimated
from diagnose.official import RecordedPair
from diagnose.stages.loss import (
    AGAINST,
    IN_TURN,
    MIXED,
    NO_SOFTMAX,
    OTHER_TARGETS,
    OTHERWISE,
    TIMES,
    ZERO_ROWS,
)

NONE = 1e-9  # relative size of a gradient that counts as 0
MOST = 3  # times that a logit may be in the difference of two others
ALIKE = 1e-6  # relative difference of two ratios that count as one


def describe_rows(batches, known):
    """Findings on the gradients at the logits, pair by pair, of all batches.

    batches: Evidence of each; known: [(step, RecordedPairs)] of each.
    """
    rows = []
    for batch, (step, pairs) in zip(batches, known, strict=True):
        count = len(batch.label)
        pairs = pairs if len(pairs) == count else [RecordedPair(None, None)] * count
        for place, (own, pair) in enumerate(
            zip(of_logits(batch.logits, batch.label), pairs, strict=True)
        ):
            rows.append(of_pair(pair._replace(step=step, row=place, rows=count)) | own)
    facts, total = facts_of(rows), len(rows)

    def told(row, departs, **values):
        return row.found(count=sum(departs), total=total, rules=rules_of(departs, facts), **values)

    of_difference = torch.cat(list(map(adds_up, batches)))
    if not of_difference.all():
        mixed = mixed_of(batches)
        return [told(NO_SOFTMAX, (~of_difference).tolist()), *mixed]
    ratios = [ratios_of(batch) for batch in batches]
    every = torch.cat(ratios)
    zero, against = every == 0, every < 0
    findings = [told(ZERO_ROWS, zero.tolist())] if zero.any() and not zero.all() else []
    if against.any():
        targets = [targets_of(batch) for batch in batches]
        if all(own is not None for own in targets):
            return [told(OTHER_TARGETS, (torch.cat(targets) == 1).tolist())]
        return [*findings, told(AGAINST, against.tolist())]
    least = [float(own[own > 0].min()) if (own > 0).any() else 1.0 for own in ratios]
    times = torch.cat([own / factor for own, factor in zip(ratios, least, strict=True)])
    larger = times > 1 + ALIKE
    if not larger.any() and not findings:
        factors = tuple(map(estimated, least))
        return [IN_TURN.found(factors=factors, value=value_of(batches))]
    if not larger.any() and findings:
        findings.append(OTHERWISE.found(factors=tuple(dict.fromkeys(map(estimated, least)))))
    elif larger.any() and float(times[larger].max() / times[larger].min()) < 1 + ALIKE:
        value = estimated(float(times[larger].mean()))
        findings.append(told(TIMES, larger.tolist(), times=value))
    return findings


def mixed_of(batches):
    """The finding on a loss of other logits than the head's, by what their difference is made of,
    in a list.
    """
    for a, b in itertools.product(range(-MOST, MOST + 1), repeat=2):
        recipe = Recipe(function=lambda z, a=a, b=b: torch.stack([a * z[:, 0] + b * z[:, 1],
                                                                  0 * z[:, 0]], 1))  # fmt: skip
        if all(batch.departure(batch.replay(recipe)) <= ALIKE for batch in batches):
            return [MIXED.found(first=a, second=b)]
    return []


def value_of(batches):
    """What the losses of all batches are, if not their own pairs' mean; None: nothing known."""
    means = [float(batch.replay(Recipe())[0]) for batch in batches]
    counts, losses = [len(batch.label) for batch in batches], [float(b.loss) for b in batches]
    sums = itertools.accumulate(mean * count for mean, count in zip(means, counts, strict=True))
    totals = itertools.accumulate(counts)
    running = [total / count for total, count in zip(sums, totals, strict=True)]
    if all(math.isclose(a, b, rel_tol=ALIKE) for a, b in zip(running, losses, strict=True)):
        return "the mean over all pairs since the first recorded batch"
    return None


def targets_of(batch):
    """The labels [B] whose cross-entropy has the gradient of a batch, but for a factor; None where
    none have.
    """
    p = batch.logits.double().softmax(1)
    usual = torch.stack([p - torch.eye(2)[y] for y in (0, 1)])  # [2, B, 2]
    for first in (0, 1):
        factor = (batch.gradient[0] @ usual[first, 0]) / (usual[first, 0] ** 2).sum()
        gaps = (batch.gradient - factor * usual).abs().amax(2) / batch.gradient.abs().max()
        if factor > 0 and bool((gaps.amin(0) < ALIKE).all()):
            return gaps.argmin(0)
    return None


def adds_up(batch):
    """Whether the gradients at the two logits of each pair add up to 0, [B]."""
    return batch.gradient.sum(1).abs() <= ALIKE * batch.gradient.abs().max()


def ratios_of(batch):
    """The gradient of each pair, by that of the reference's loss at the same logits, [B]."""
    _, usual = batch.replay(Recipe())
    own = batch.gradient
    ratios = (own * usual).sum(1) / (usual**2).sum(1).clamp(min=1e-300)
    return torch.where(own.abs().amax(1) <= NONE * own.abs().max(), 0.0, ratios)
