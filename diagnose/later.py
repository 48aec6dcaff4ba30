"""Batches after the full steps: thumbnails, labels, logits, losses and rates are kept of them.

They show what the first steps cannot: the order and the number of pairs of whole epochs, all their
labels, figures of an epoch, and schedules.
"""

import itertools
from typing import NamedTuple

import torch

from diagnose.official import RecordedPair
from diagnose.reference import order_of
from diagnose.stages import judge_printed, labels
from run.findings import SKIPPED, Row

UNKNOWN = Row(
    "pairs.later_unknown",
    SKIPPED,
    "{unknown} of {pairs} pairs after step {steps} could not be identified, so the order of these "
    "epochs was not judged",
    is_partial=True,
)


class Later(NamedTuple):
    """A batch after the full steps."""

    step: int  # from 0 on, the full steps included
    epoch: int
    size: int  # pairs
    pairs: list  # the RecordedPair of each that was identified
    label: torch.Tensor | None  # [B], as it entered the step
    logits: torch.Tensor | None  # [B, 1 or 2]
    loss: float


def view_later(trace, official, paths, is_turned):
    """The Later of every batch after the full steps.

    paths: of the photos of all thumbnails, None where one is not known; is_turned: whether photo_2
    goes through the backbone first.
    """
    return [view(trace, batch, official, paths, is_turned) for batch in trace.later]


def view(trace, batch, official, paths, is_turned):
    """The Later of a recorded LaterBatch."""
    step = len(trace.updates) + batch.update
    label, pairs = recorded_pairs(batch, step, official, paths, is_turned)
    known = [pair for pair in pairs if pair is not None]
    return Later(step, batch.epoch, len(pairs), known, label, batch.logits, batch.loss)


def recorded_pairs(batch, step, official, paths, is_turned):
    """(labels [B] as they entered a KeptBatch, or None; the RecordedPair of each pair, None where
    it was not identified); see view_later.
    """
    count = len(batch.rows[0])
    entered = labels.label_of(batch.labels, count)
    label = entered and entered[0]
    own = label.tolist() if entered else [None] * count

    def pair_of(row, shown):
        if None in shown:
            return None
        names = tuple(path.name for path in shown)
        return RecordedPair(own[row], official.find(*shown), step, row, count, names)

    shown = pairs_shown(batch, paths, is_turned)
    return label, list(itertools.starmap(pair_of, enumerate(shown)))


def pairs_shown(batch, paths, is_turned):
    """(path of photo_1, path of photo_2) of every pair of a batch, None where one is not known.

    paths: of the photos of all thumbnails.
    """
    if len(batch.rows) != 2 or len({len(side) for side in batch.rows}) > 1:
        return [(None, None)] * len(batch.rows[0])
    sides = [batch.rows[k].tolist() for k in order_of(batch.rows)]
    known = [[paths[place] if place >= 0 else None for place in side] for side in sides]
    return list(zip(*(known[::-1] if is_turned else known), strict=True))


def pairs_of(later):
    """All RecordedPairs of some batches."""
    return list(itertools.chain.from_iterable(batch.pairs for batch in later))


def judge_known(later, steps):
    """The finding on pairs that could not be identified, in a list."""
    count, known = sum(batch.size for batch in later), len(pairs_of(later))
    found = UNKNOWN.found(unknown=count - known, pairs=count, steps=steps)
    return [found] if known < count else []


def figures_of(later, fitted):
    """{series: value} of every batch, as printed figures are made of, or None where one is not
    known; fitted: the criterion.Recipe of the loss, or None.
    """
    facts = []
    for batch in later:
        label, logits = batch.label, batch.logits
        if label is None and len(batch.pairs) == batch.size:
            official = [pair.official for pair in batch.pairs]
            label = torch.tensor([own.label for own in official]) if all(official) else None
        if label is None or logits is None or logits.dim() != 2 or logits.shape[1] > 2:
            return None
        single = logits.shape[1] == 1
        logits = torch.cat([0 * logits, logits], 1) if single else logits
        own = judge_printed.accuracies(logits, label, single, fitted)
        facts.append(own | {"loss": batch.loss, "pairs": batch.size, "epoch": batch.epoch})
    return facts
