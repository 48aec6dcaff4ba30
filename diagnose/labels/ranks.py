"""Labels of the official pairs where something else is read as the ranks of a series."""

from collections import defaultdict

import numpy as np


def by_order(official, every, best_first):
    """Labels [P] where the photos of a series in the order of their ranks (what argsort gives) are
    read as their ranks; every: all labelled pairs of these series.
    """
    ranks = defaultdict(dict)
    for row in every:
        ranks[int(row["series"])] |= {int(row[f"photo_{k}"]): int(row[f"rank_{k}"]) for k in (1, 2)}
    read = {}
    for series, own in ranks.items():
        photos = sorted(own)
        order = np.argsort([own[photo] for photo in photos], kind="stable")
        order = order if best_first else -order[::-1]
        read[series] = dict(zip(photos, order.tolist(), strict=True))
    return np.array([
        int(read[int(row["series"])][int(row["photo_1"])]
            > read[int(row["series"])][int(row["photo_2"])]) for row in official
    ], dtype=official["label"].dtype)  # fmt: skip
