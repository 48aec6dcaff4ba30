"""Recovers photo numbers permuted within series, from votes and the official preferences."""

from collections import Counter, defaultdict
from itertools import permutations

import numpy as np

from diagnose.labels.search import find_places
from diagnose.tables import TABLE, UNDECIDED, merge_votes
from disk.files import write_text
from run.scores import percent

# The official preferences are close to a Bradley-Terry fit of the votes, with a tenth
# of a vote added on each side: the median difference on the official lists is 0.0045.
ADDED_VOTES, FIT_ERROR, CONFIDENCE = 0.1, 0.005, 0.95


def fit_strengths(wins):
    """Bradley-Terry strengths (logits) [S, n] from wins [S, n, n], row over column."""
    wins = wins + ADDED_VOTES  # of a photo with itself, too: which moves no strength
    games, won, strength = wins + wins.transpose(0, 2, 1), wins.sum(2), np.ones(wins.shape[:2])
    for _ in range(500):  # the classic fixed point; converges slowly where one photo always wins
        strength = won / (games / (strength[:, :, None] + strength[:, None, :])).sum(2)
        strength /= np.exp(np.log(strength).mean(1, keepdims=True))
    return np.log(strength)


def align_series(mine, official):
    """{series: {photo number of the file: official number}}, and the series that cannot be told.

    For each series the permutation whose preferences fit the official ones best, where it is
    CONFIDENCE likely against all others, with errors of FIT_ERROR.
    """
    wins, preferences = defaultdict(dict), defaultdict(dict)
    for row in mine:
        pair = int(row["photo_1"]), int(row["photo_2"])
        wins[int(row["series"])][pair] = float(row["wins_1"]), float(row["wins_2"])
    for row in official:
        pair = int(row["photo_1"]), int(row["photo_2"])
        preferences[int(row["series"])][pair] = float(row["preference"])
    groups = defaultdict(list)
    for series in sorted(set(wins) & set(preferences)):
        photos = [sorted({p for pair in d[series] for p in pair}) for d in (wins, preferences)]
        if len(photos[0]) == len(photos[1]) <= 8:  # 40,320 permutations
            groups[len(photos[0])].append((series, *photos))
    told = {}
    for count, members in groups.items():
        strengths = fit_strengths(
            np.array([square(wins[series], mine_photos) for series, mine_photos, _ in members])
        )
        orders = np.array(list(permutations(range(count))))
        for (series, photos, names), strength in zip(members, strengths, strict=True):
            fitted = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
            order = best_order(fitted, preferences[series], names, orders)
            if order is not None:
                told[series] = {photos[i]: name for i, name in zip(order, names, strict=True)}
    return told, sorted(set(preferences) - set(told))


def square(wins, photos):
    """[n, n] wins of the photo of the row over that of the column."""
    place = {photo: i for i, photo in enumerate(photos)}
    array = np.zeros((len(photos), len(photos)))
    for (photo_1, photo_2), (wins_1, wins_2) in wins.items():
        array[place[photo_1], place[photo_2]] += wins_1
        array[place[photo_2], place[photo_1]] += wins_2
    return array


def best_order(fitted, preferences, names, orders):
    """The order [n] of the file's photos that fits best, or None where it cannot be told."""
    place = {name: i for i, name in enumerate(names)}
    rows = np.array([place[a] for a, _ in preferences])
    columns = np.array([place[b] for _, b in preferences])
    if len(rows) < len(names) * (len(names) - 1) / 2:
        return None
    errors = fitted[orders[:, rows], orders[:, columns]] - np.array(list(preferences.values()))
    cost = (errors**2).sum(1) / (2 * FIT_ERROR**2)
    best = int(cost.argmin())
    return orders[best] if np.exp(cost[best] - cost).sum() < 1 / CONFIDENCE else None


def write_alignment(path, mine, official):
    """Writes the table in official photo numbers to path; the lines that say how it went."""
    told, untold = align_series(mine, official)
    rows = [row.copy() for row in mine if int(row["series"]) in told]
    for row in rows:
        for side in ("photo_1", "photo_2"):
            row[side] = told[int(row["series"])][int(row[side])]
    aligned = merge_votes(np.array(rows, dtype=TABLE))[0]
    lines = ["series\tphoto_1\tphoto_2\tlabel\tvotes_1\tvotes_2\n"]
    for row in aligned:
        label = "" if row["label"] == UNDECIDED else row["label"]
        lines.append("\t".join(map(str, (*row.tolist()[:3], label, *row.tolist()[4:6]))) + "\n")
    write_text(path, "".join(lines))
    places, _ = find_places(aligned, official, 0, lambda photo, photos: photo)
    ours, pairs = aligned[places >= 0], official[places[places >= 0]]
    strong = np.maximum(pairs["preference"], 1 - pairs["preference"]) >= 0.7 - 1e-9
    strong &= ours["label"] != UNDECIDED
    agree = int((ours["label"] == pairs["label"])[strong].sum())
    sizes = Counter(len(photos) for photos in told.values())
    small = sum(count for size, count in sizes.items() if size <= 5)
    by_size = ", ".join(f"{size}: {sizes[size]:,}" for size in sorted(sizes))
    return [
        f"wrote {path}: {len(aligned):,} pairs in official numbers",
        f"recovered the numbering of {len(told):,} series, {small:,} of 2 to 5 photos ({by_size})",
        f"could not tell it for {len(untold):,} series, left out: two permutations fit alike",
        f"the aligned labels agree on {percent(agree, int(strong.sum()))} pairs with at least 0.7",
    ]
