"""Reads a file of predictions, of any of the kinds of scores that people write."""

import math
from typing import NamedTuple

import numpy as np

from diagnose.dataset import read_labelled
from diagnose.labels import search as labels
from diagnose.tables import (
    TABLE,
    UNDECIDED,
    check_label,
    inverted,
    read_columns,
    read_pair,
    read_photo,
)
from disk.errors import fail_on, stop
from disk.pairlist import LONGEST
from run import scores as figures

SCORES = ("logit", "prob", "logprob", "score")
KINDS = [(f"{kind}_1", f"{kind}_2") for kind in SCORES[:3]]
KINDS += [(f"{kind}_{side}",) for kind in ("prob", "score") for side in (1, 2)]
KINDS += [("predicted",), ("winner",)]
COLUMNS = ("series", "photo_1", "photo_2", "label", *dict.fromkeys(n for k in KINDS for n in k))
LEAST = 1e-12  # of a probability, whose logarithm is the loss


def read_predictions(path, names, label_1="photo_2"):
    """A predictions file: rows [R] of TABLE with its labels, scores [R, 2], whether with a loss.

    The scores are log-probabilities; where the file holds one score a pair, or a winner, they are
    that score and its opposite, and there is no loss and no calibration. label_1: what a 1
    means in its labels and predictions. Ends the program with the line that is wrong.
    """
    kind, rows = read_columns(path, names, COLUMNS, KINDS)
    table, scores = [], []
    for line, where, values in rows:
        label, pair = values.get("label", ""), read_pair(values, where)
        check_label(label, where)
        scores.append(read_scores([values[name] for name in kind], kind, pair, where))
        table.append((*pair, int(label or UNDECIDED), 0, 0, False, "", line))
    soft = kind[0].startswith(("logit", "prob", "logprob"))
    table, scores = np.array(table, dtype=TABLE), np.array(scores)
    if label_1 == "photo_1":
        table = inverted(table)
        scores = -scores if kind == ("predicted",) else scores
    return table, scores, soft


def read_scores(texts, kind, pair, where):
    """Two log-probabilities, or two opposite scores, from the texts of one row."""
    if kind == ("winner",):
        winner = read_photo(texts[0], where)[1]
        if winner not in pair[1:]:
            stop(__file__, f"{where}: winner {winner} is neither photo")
        return [1.0, -1.0] if winner == pair[1] else [-1.0, 1.0]
    if kind == ("predicted",):
        if texts[0] not in ("0", "1"):
            stop(__file__, f"{where}: predicted {texts[0][:LONGEST]!r} is neither 0 nor 1")
        return [1.0, -1.0] if texts[0] == "0" else [-1.0, 1.0]
    said = " ".join(texts)[:LONGEST]
    with fail_on(__file__, f"{where}: {said}", ValueError, detail=False):
        values = [figures.number(text) for text in texts]
    if not all(map(math.isfinite, values)):
        stop(__file__, f"{where}: {said} is not finite")
    if len(values) == 1:
        other = 1 - values[0] if kind[0].startswith("prob") else -values[0]
        values = [values[0], other] if kind[0].endswith("1") else [other, values[0]]
    if kind[0].startswith("prob"):
        if min(values) < 0 or abs(sum(values) - 1) > 1e-3:
            stop(__file__, f"{where}: {said} are no probabilities that add up to 1")
        return [math.log(max(value, LEAST)) for value in values]
    largest = max(values)
    norm = largest + math.log(sum(math.exp(value - largest) for value in values))
    if kind[0].startswith("logprob") and abs(norm) > 1e-3:
        stop(__file__, f"{where}: {said} are no log-probabilities; logits, perhaps")
    return values if kind[0].startswith("score") else [value - norm for value in values]


def orient(table, scores, official):
    """(places in the official lists or -1, scores and labels as if photo_1 < photo_2) of rows."""
    places, turned = labels.find_plain(table, official)
    own = np.where(turned & (table["label"] >= 0), 1 - table["label"], table["label"])
    return places, np.where(turned[:, None], scores[:, ::-1], scores), own


class Joined(NamedTuple):
    """Predictions, and the official pairs that they are of."""

    lists: dict  # see diagnose.dataset.read_labelled
    official: np.ndarray  # [P] of data.PAIR
    split_of: np.ndarray  # [P]
    table: np.ndarray  # [R] of TABLE
    places: np.ndarray  # [R] in official, -1 where there is none
    scores: np.ndarray  # [R, 2], as if photo_1 < photo_2, as all below
    own: np.ndarray  # [R] labels


def join(table, plain, root):
    """The Joined of rows [R] of TABLE and their scores [R, 2]; root: of the dataset."""
    lists, official, split_of = read_labelled(root)
    return Joined(lists, official, split_of, table, *orient(table, plain, official))
