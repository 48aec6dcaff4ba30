"""What no healthy model's predictions show, however often they are right."""

import numpy as np

from diagnose.tables import UNDECIDED
from run import scores as figures
from run.findings import CAUSE, UNEXPLAINED, rows_of

row = rows_of("predictions")
FEW, MANY = 4, 20  # different values of a model's scores are more, of more pairs than these
ONE_SIDED = 1e-6  # chance of errors that are more of one label, less than which is none

FEW_VALUES = row(
    "few_values",
    CAUSE,
    "the scores have only {values} different values: outcomes or rounded logits, whose loss and "
    "calibration say nothing",
)
LOPSIDED = row(
    "lopsided",
    UNEXPLAINED,
    "photo_2 is predicted in {predicted:.2f} of the pairs and preferred in {preferred:.2f} (p = "
    "{chance:.1e}), as where a logit is cut at 0.5: 0 is its middle",
)


def contradictions(scores, truth, with_loss):
    """Findings that no healthy model's scores [P, 2] make, however often they are right."""
    findings, predicted = [], scores.argmax(1)
    values = len(np.unique(scores.round(9)))
    if with_loss and len(scores) >= MANY and values <= FEW:
        findings.append(FEW_VALUES.found(values=values))
    errors = [int(((predicted == label) & (truth != label)).sum()) for label in (0, 1)]
    chance = 2 * figures.tail(sum(errors), max(errors), 0.5)
    if chance < ONE_SIDED and figures.against_chance(truth, predicted == truth)[0] < ONE_SIDED:
        shares = {"predicted": float(predicted.mean()), "preferred": float(truth.mean())}
        findings.append(LOPSIDED.found(**shares, chance=chance))
    return findings


def is_misaligned(predicted, truth, own):
    """Whether predictions fit the file's own labels, and not the official ones, beyond chance."""
    there = own != UNDECIDED
    fits, alike = (predicted == own)[there], predicted == truth
    return (
        figures.against_chance(own[there], fits)[0] < ONE_SIDED
        and figures.against_chance(truth, alike)[0] > ONE_SIDED
    )
