"""Labels of the official pairs where something else is read as the ranks of a series."""

import numpy as np

MOST = 1000  # more than any photo number


def by_order(official, every, best_first):
    """Labels [P] where the photos of a series in the order of their ranks (what argsort gives) are
    read as their ranks; every: all labelled pairs of these series.
    """
    sides = [(every["series"] * MOST + every[f"photo_{k}"], every[f"rank_{k}"]) for k in (1, 2)]
    keys, ranks = map(np.concatenate, zip(*sides, strict=True))
    keys, first = np.unique(keys, return_index=True)  # by series and photo
    _, begins, sizes = np.unique(keys // MOST, return_index=True, return_counts=True)
    begins, sizes = np.repeat(begins, sizes), np.repeat(sizes, sizes)
    places = np.arange(len(keys))
    order = np.lexsort((ranks[first], keys // MOST)) - begins  # of each series, from 0 on
    read = order if best_first else -order[begins + sizes - 1 - (places - begins)]
    found = [read[np.searchsorted(keys, official["series"] * MOST + official[f"photo_{k}"])]
             for k in (1, 2)]  # fmt: skip
    return (found[0] > found[1]).astype(official["label"].dtype)
