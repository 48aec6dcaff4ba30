"""By which rule a file has a part of the official pairs alone."""

import math

import numpy as np

from diagnose.dataset import SPLITS
from run.scores import percent


def name_missing(present, split_of, official):
    """(words, exit code) on a subset of the official pairs: by which rule it was taken, if any."""
    whole = [bool(present[split_of == s].all()) for s in (0, 1)]
    none = [(split_of == s).any() and not present[split_of == s].any() for s in (0, 1)]
    for s in (0, 1):
        if whole[s] and none[1 - s]:
            return f"the whole {SPLITS[s]} list, and nothing of {SPLITS[1 - s]}", 0
    agreement = np.maximum(official["preference"], 1 - official["preference"])
    _, place, sizes = np.unique(official["series"], return_inverse=True, return_counts=True)
    photos = np.round((1 + np.sqrt(1 + 8 * sizes)) / 2).astype(int)[place]
    row = np.where(
        split_of == 0, np.arange(len(official)), np.arange(len(official)) - (split_of == 0).sum()
    )
    inside = ~np.isin(split_of, [s for s in (0, 1) if none[s]])
    for words, values in (
        ("agreement of at least {low:.3g}", agreement),
        ("at most {high} photos in the series", -photos),
        ("at least {low:g} photos in the series", photos),
        ("the first {count:,} rows of a list", -row),
        ("the last rows of a list, from row {low:g} on, counted from 0", row),
    ):
        low = between(values[~present & inside], values[present].min())
        if np.array_equal(present[inside], (values >= low - 1e-9)[inside]):
            where = f" ({SPLITS[none.index(False)]} alone)" if any(none) else ""
            text = words.format(low=low, high=int(-low), count=int(1 - low))
            return f"only pairs of a subset{where}: {text}; {counts(present, split_of)}", 1
    return f"{counts(present, split_of)}, by none of the rules tried", 1


def between(below, low):
    """The shortest number above all of `below` and not above `low`."""
    top = max((float(value) for value in below if value < low), default=-np.inf)
    numbers = (math.floor(low * 10**digits + 1e-9) / 10**digits for digits in range(4))
    return next((number for number in numbers if top < number <= low), low)


def counts(present, split_of):
    """How many pairs of each list are missing."""
    words = []
    for s in (0, 1):
        there = present[split_of == s]
        if not there.all():
            words.append(
                f"{percent(int((~there).sum()), len(there))} {SPLITS[s]} pairs are missing"
            )
    return " and ".join(words)
