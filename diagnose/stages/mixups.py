"""Photos of one pair with photos or labels of another: which exchange explains all recorded pairs.

Rows of `pairs` and `labels`. Each is a rule that gives every recorded pair, which so many random
labels or photos would do at most once in a thousand times.
"""

import itertools
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from diagnose.labels.rows import orders
from run.findings import CAUSE, WRONG, Row

CHANCE = 1e-3  # that a rule gives all labels of random ones
PHOTOS = 6  # of a series, more than which are not permuted: 720 orders
TRIED = 2**12  # orders of the lines, about
KEYS = (("series", "photo_1"), ("series", "photo_2"), ("series",))
HALVES, IN_TURN = "all first photos, then all second ones", "photo_1 and photo_2 in turn"
PAIRED = Row(
    "pairs.paired_otherwise",
    CAUSE,
    "features of different pairs are compared: photos enter the backbone as {entered}, and their "
    "features are paired as {paired}",
    help="split torch.cat([photo_1, photo_2]) with chunk(2), or stack and view in the same order",
    matters=WRONG,
    at=("merge", "forward"),
)
OF_BATCH_BEFORE = Row(
    "pairs.photo_of_the_batch_before",
    CAUSE,
    "photo_{side} of each pair is that of the batch before, from the second batch on",
    help="use both photos of one batch",
    matters=WRONG,
    at=("dataset", "loader"),
)
ROLLED = Row(
    "pairs.photo_of_another_row",
    CAUSE,
    "photo_2 of each pair is that of the pair {shift} rows later in the batch",
    help="keep photo_1 and photo_2 of a pair in one row",
    matters=WRONG,
    at=("dataset", "loader"),
)
OF_SERIES = Row(
    "pairs.photo_of_the_series",
    CAUSE,
    "photo_{side} is the same in all recorded pairs of a series ({pairs} pairs, {series} series), "
    "as where it is kept by its series alone",
    help="keep photos by their file name",
    matters=WRONG,
    at=("dataset",),
)
PERMUTED = Row(
    "labels.photos_permuted",
    CAUSE,
    "labels are those of the list, but the photos are others of the same series: files are "
    "numbered in another order than their names ({wrong} of {pairs} labels are wrong)",
    help="take files by their names, or sort them: sorted(folder.iterdir())",
    matters=WRONG,
    at=("dataset",),
)
OF_OTHER_LINE = Row(
    "labels.of_another_line",
    CAUSE,
    "labels are shifted by {shift} against the lines of the list ({wrong} of {pairs} labels are "
    "wrong)",
    help="read photos and label from one line of the list",
    matters=WRONG,
    at=("dataset",),
)
OF_OTHER_ROW = Row(
    "labels.of_another_row",
    CAUSE,
    "labels are those of {whose} ({wrong} of {pairs} labels are wrong)",
    help="keep the label of a pair in the row of its photos",
    matters=WRONG,
    at=("label", "dataset"),
)


# Photos


def judge_pairing(views, official):
    """The finding on photos of other pairs that explains all batches, in a list; [] for none."""
    batches = [view.pairs for view in views]
    if any(len(view.pairs) != len(view.sides.features[0]) for view in views):
        return []
    for entered, order in ((HALVES, in_halves), (IN_TURN, in_turn)):
        photos = [photos_of(view) for view in views]
        if all(are_pairs(official, order(own)) for own in photos):
            rows = views[0].sides.rows
            paired = IN_TURN if bool((rows[1] == rows[0] + 1).all()) else "in another order"
            paired = HALVES if bool((rows[1] == rows[0] + len(rows[0])).all()) else paired
            return [PAIRED.found(entered=entered, paired=paired)]
    sizes = {len(batch) for batch in batches}
    first, second = ([[p.names[k] for p in batch] for batch in batches] for k in (0, 1))
    for side, a, b in ((2, first[:-1], second[1:]), (1, first[1:], second[:-1])):
        steps = list(zip(a, b, strict=True))
        if (
            len(sizes) == 1
            and steps
            and all(are_pairs(official, zip(*s, strict=True)) for s in steps)
        ):
            return [OF_BATCH_BEFORE.found(side=side)]
    for shift in range(1, min(sizes)):
        rolled = [own[shift:] + own[:shift] for own in second]
        both = zip(first, rolled, strict=True)
        if all(are_pairs(official, zip(*own, strict=True)) for own in both):
            return [ROLLED.found(shift=shift)]
    return []


def photos_of(view):
    """The names of the photos of a batch in the order in which they entered the backbone."""
    places = {}
    for k, side in enumerate(view.sides.rows):
        places |= {int(place): p.names[k] for place, p in zip(side, view.pairs, strict=True)}
    return [places[place] for place in sorted(places)]


def in_halves(photos):
    """Pairs of photos that came as all first ones, then all second ones."""
    half = len(photos) // 2
    return list(zip(photos[:half], photos[half : 2 * half], strict=True))


def in_turn(photos):
    """Pairs of photos that came as photo_1, photo_2, photo_1, ..."""
    return list(zip(photos[::2], photos[1::2], strict=False))


def are_pairs(official, names):
    """Whether photos of these names are official pairs."""
    names = list(names)
    return bool(names) and all(official.find(*map(Path, both)) for both in names)


def judge_kept(pairs, official):
    """The finding on photos that are the same in all pairs of a series, in a list."""
    listed = defaultdict(list)
    for number, a, b in official.pairs:
        listed[number].append((a, b))
    for side in (0, 1):
        series = defaultdict(list)
        for pair in pairs:
            series[int(pair.names[side].split("-")[0])].append(pair.names[side])
        several = {number: names for number, names in series.items() if len(names) > 1}
        same = all(len(set(names)) == 1 for names in several.values())
        chances = (chance_of([own[side] for own in listed[number]], len(names))
                   for number, names in several.items())  # fmt: skip
        if several and same and math.prod(chances) < CHANCE:
            counts = {"pairs": sum(map(len, several.values())), "series": len(several)}
            return [OF_SERIES.found(side=side + 1, **counts)]
    return []


def chance_of(photos, count):
    """The chance that so many pairs of a series have one photo; photos: of all its pairs."""
    shares = [photos.count(photo) / len(photos) for photo in set(photos)]
    return sum(share**count for share in shares) if shares else 1.0


# Labels


def judge_mixups(pairs, official):
    """The finding on labels of other pairs that explains all recorded ones, in a list."""
    wrong = sum(pair.label != pair.official.label for pair in pairs)
    counts = {"wrong": wrong, "pairs": len(pairs)}
    if are_permuted(pairs, official):
        return [PERMUTED.found(**counts)]
    whose = whose_labels(pairs, labels_of_rows(pairs), labels_by_key(pairs, official))
    shift = None if whose else shift_of(pairs, official)
    if shift:
        return [OF_OTHER_LINE.found(shift=shift, **counts)]
    whose = whose or whose_labels(pairs, labels_by_order(pairs, official))
    return [OF_OTHER_ROW.found(whose=whose, **counts)] if whose else []


def whose_labels(pairs, *ways):
    """Whose labels all pairs have, by (words, labels) of some ways; None where none gives them."""
    for whose, labels in itertools.chain(*ways):
        if all(y is None or y == pair.label for y, pair in zip(labels, pairs, strict=True)):
            return whose
    return None


def labels_of_rows(pairs):
    """(whose labels, what all labels [P] would be) of exchanges within and between batches.

    A label of the first batch, which has none before it, is None. Too few pairs: none.
    """
    steps = [list(batch) for _, batch in itertools.groupby(pairs, lambda pair: pair.step)]
    most = max(map(len, steps))
    if 2 * most * 2.0 ** -len(pairs) > CHANCE or any(len(b) != b[0].rows for b in steps):
        return
    own = [[pair.official.label for pair in batch] for batch in steps]
    for shift in range(1, most):
        yield (
            f"the pair {shift} rows later in the batch",
            [y for batch in own for y in batch[shift:] + batch[:shift]],
        )
    yield "the batch in reversed order", [y for batch in own for y in batch[::-1]]
    if len({len(batch) for batch in own}) == 1 and len(own) > 2:
        yield "the batch before", [None] * len(own[0]) + list(itertools.chain(*own[:-1]))
    every = list(itertools.chain(*own))
    for shift in range(1, min(most, len(every) // 4)):
        ahead, behind = every[shift:] + [None] * shift, [None] * shift + every[:-shift]
        yield f"the pair {shift} places later, across batches", ahead
        yield f"the pair {shift} places earlier, across batches", behind


def labels_by_key(pairs, official):
    """As labels_of_rows, of labels that are kept by less than the pair."""
    for names in KEYS:
        kept = {"first": {}, "last": {}}
        for split, _, row in sorted(official.pairs.values(), key=lambda known: known[:2]):
            key = (split, *(int(row[name]) for name in names))
            kept["last"][key] = int(row["label"])
            kept["first"].setdefault(key, int(row["label"]))
        for which, labels in kept.items():
            own = [(p.official, [int(p.official.row[name]) for name in names]) for p in pairs]
            whose = f"the {which} line of the list with the same {' and '.join(names)}"
            yield whose, [labels[o.split, *key] ^ o.swapped for o, key in own]


def labels_by_order(pairs, official):
    """As labels_of_rows, of labels that are those of the list in another order of its lines."""
    splits = {pair.official.split for pair in pairs}
    if len(splits) > 1 or TRIED * 2.0 ** -len(pairs) > CHANCE:
        return
    listed = sorted((p, row) for of, p, row in official.pairs.values() if of in splits)
    rows = np.array([row for _, row in listed])
    labels, places = rows["label"].astype(int), np.arange(len(rows))
    for words, order in orders(rows, places):
        made = labels[np.asarray(order)]
        yield (
            f"other lines of the list: {words}",
            [int(made[p.official.place]) ^ p.official.swapped for p in pairs],
        )


def shift_of(pairs, official):
    """By how many lines of the list labels are shifted; 0 where no shift gives them all."""
    splits = {pair.official.split for pair in pairs}
    if len(splits) > 1:
        return 0
    labels = official.labels(splits.pop())
    most = min(len(labels) - 1, int(CHANCE * 2.0 ** len(pairs) / 2))
    for shift in sorted(range(-most, most + 1), key=abs):
        made = (
            labels[(p.official.place + shift) % len(labels)] ^ p.official.swapped for p in pairs
        )
        if shift and all(y == pair.label for y, pair in zip(made, pairs, strict=True)):
            return shift
    return 0


def are_permuted(pairs, official):
    """Whether an order of the photos of each series gives all labels, and not by chance."""
    series = defaultdict(list)
    for pair in pairs:
        row = pair.official.row
        numbers = int(row["photo_1"]), int(row["photo_2"])
        shown = numbers[::-1] if pair.official.swapped else numbers
        series[int(row["series"])].append((*shown, pair.label))
    chance, lists = 1.0, defaultdict(dict)
    for (number, a, b), (_, _, row) in official.pairs.items():
        lists[number][a, b] = int(row["label"])
    for number, rows in series.items():
        listed = lists[number]
        photos = sorted({photo for key in listed for photo in key})
        if len(photos) > PHOTOS:
            continue
        possible = set()
        for order in itertools.permutations(photos):
            to = dict(zip(photos, order, strict=True))
            possible.add(tuple(listed.get((to.get(a), to.get(b))) for a, b, _ in rows))
        possible = {labels for labels in possible if None not in labels}
        own = tuple(y for *_, y in rows)
        if own not in possible:
            return False
        if own != tuple(listed.get((a, b)) for a, b, _ in rows):  # the others say nothing of it
            chance *= len(possible) / 2 ** len({row[:2] for row in rows})
    return chance <= CHANCE and not math.isclose(chance, 1.0)
