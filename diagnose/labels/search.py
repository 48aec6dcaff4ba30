"""The shortest chain of changes to the official lists that reproduces the labels of a file.

Every change that people make is tried, alone and in chains of up to three. The shortest is the one
with the fewest bits: its own, and those that list the rows it does not reproduce. So an exact chain
beats noise, and noise beats a far-fetched chain. A change is named only where it is right on nearly
all rows that it alters, and alters enough of them.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from diagnose.labels.ranks import by_order
from diagnose.tables import UNDECIDED, pair_keys
from disk.errors import show_progress

NOISE = 0.15  # share of rows that no explanation may leave over
SURE = 20  # bits that a chain must save against chance
RIGHT, ROWS = 0.85, 8  # share of the rows that a change alters which it must explain; least number
REST = 3  # a change must leave at most one in so many of the wrong rows, where some are left
MOST = 3  # changes of a chain
KEPT = 40  # chains with the fewest bits; the best and the next best are reported
NAMES = ("rank_1", "rank_2", "photo_1", "photo_2")


class Rule(NamedTuple):
    """A change to the official lists, and the rows that it is limited to; told as its text."""

    name: str
    limit: str = ""

    def __str__(self):
        return f"{self.name} {self.limit}".strip()

    def within(self, other):
        """Whether it is another rule, there or in some of its rows."""
        return self.name == other.name and other.limit in ("", self.limit)


def join(rules):
    """The text of some changes."""
    return " and ".join(map(str, rules))


FROM_0 = Rule("photo numbers count from 0")
INVERTED = "labels are inverted"


class Chain(NamedTuple):
    """Changes to the official lists; what they make of the file's rows."""

    bits: float
    rules: tuple  # in the order of execution
    predicted: np.ndarray  # [R] labels, UNDECIDED where a row is not judged
    wrong: np.ndarray  # [R] whether the row is judged and not reproduced
    places: np.ndarray  # [R] of each row's pair in the official lists, -1 where there is none

    @property
    def judged(self):
        return int((self.predicted != UNDECIDED).sum())


def choose(count, some):
    """The bits that name `some` rows out of `count`."""
    logs = [math.lgamma(n + 1) for n in (count, some, count - some)]
    return (logs[0] - logs[1] - logs[2]) / math.log(2)


def numberings():
    """(words, bits, series shift, photo(number, photos of the series)) from a file's numbers."""
    yield (), 0, 0, lambda p, n: p
    yield (FROM_0,), 2, 0, lambda p, n: p + 1
    yield (Rule("photo numbers are one too high"),), 2, 0, lambda p, n: p - 1
    for word, base in (((), 0), ((FROM_0,), 1)):
        yield (
            (*word, Rule("photo numbers run backwards in each series")),
            4 + 2 * base,
            0,
            (lambda p, n, base=base: n + 1 - p - base),
        )
        for by in (1, -1, 2, -2):
            way = Rule(f"photo numbers are rotated by {by:+d} in each series")
            yield (*word, way), 4 + 2 * base, 0, lambda p, n, k=by - base: (p - 1 - k) % n + 1
    for by in (1, -1):
        yield (Rule(f"series numbers are shifted by {by:+d}"),), 4, -by, lambda p, n: p


def count_photos(official):
    """How many photos the series of each number has."""
    counts = np.zeros(official["series"].max() + 3, int)
    np.maximum.at(counts, official["series"], official["photo_2"])
    return counts


def find_places(table, official, shift, photo):
    """(places [R] of the rows in the official lists or -1, [R] whether the row is turned)."""
    series, counts = table["series"] + shift, count_photos(official)
    photos = counts[np.clip(series, 0, len(counts) - 1)]
    photos = np.where(photos > 0, photos, 1)
    pair = np.stack([photo(table[side], photos) for side in ("photo_1", "photo_2")])
    keys, order = pair_keys(official), np.argsort(pair_keys(official))
    wanted = (series * 1000 + pair.min(0)) * 1000 + pair.max(0)
    found = order[np.clip(np.searchsorted(keys[order], wanted), 0, len(keys) - 1)]
    return np.where(keys[found] == wanted, found, -1), pair[0] > pair[1]


def find_plain(table, official):
    """find_places where the numbers are official ones, or these from 0 on."""
    lowest = min(table["photo_1"].min(), table["photo_2"].min())
    return find_places(table, official, 0, lambda p, n: p + int(lowest == 0))


def rules(official, every=None):
    """(words, bits, labels [P]) of every misreading of the six columns.

    every: all labelled pairs, where `official` are some of them.
    """
    every = official if every is None else every
    truth, preference = official["label"], official["preference"]
    yield (), 0, truth
    for rank, photo in itertools.product(NAMES[:2], NAMES[2:]):
        same = official[rank] == official[photo]
        for value in (0, 1):
            rule = f"ranks are read as photo numbers: label = {value} if {rank} == {photo}"
            yield (Rule(rule),), 5, np.where(same, value, 1 - value)
    for rank, value in itertools.product(NAMES[:2], (0, 1)):
        best = official[rank] == 1
        yield (Rule(f"label = {value} if {rank} == 1"),), 5, np.where(best, value, 1 - value)
    for word, best_first in (("ranks", True), ("scores", False)):
        rule = f"the order of the photos by {word} (one argsort) is read as their {word}"
        yield (Rule(rule),), 6, by_order(official, every, best_first)
    for value in (0, 1):
        ties = np.where(preference == 0.5, value, truth)
        yield (Rule(f"ties of .5 have label {value}"),), 4, ties
        yield (Rule(f"all labels are {value}"),), 5, np.full(len(truth), value)


def solve_threshold(label, preference):
    """(words, highest preference below it) of the best `label 0 where the preference is above`."""
    order = np.argsort(preference, kind="stable")
    values, ones = preference[order], label[order] == 1
    below = np.r_[0, np.cumsum(~ones)]  # label 0 where the rule says 1
    above = ones.sum() - np.r_[0, np.cumsum(ones)]
    cuts = np.flatnonzero(np.r_[False, np.diff(values) > 0, False])
    if not len(cuts):
        return None
    cut = cuts[np.argmin((below + above)[cuts])]
    low, high = float(values[cut - 1]), float(values[cut])
    for digits in range(1, 7):
        nice = math.floor(high * 10**digits + 1e-9) / 10**digits
        if low <= nice < high:
            return f"label 0 where the preference is above {nice:g}", low
        if abs(nice - high) < 1e-9:
            return f"label 0 where the preference is at least {nice:g}", low
    return f"label 0 where the preference is above {low:g}", low


def scopes(pairs, photos, turned, split_of):
    """(words, bits, mask [R]) of the rows that a change may be limited to."""
    yield "", 0, None
    strong = np.maximum(pairs["preference"], 1 - pairs["preference"]) >= 0.7 - 1e-9
    masks = {
        "in the training pairs": split_of == 0,
        "in the validation pairs": split_of == 1,
        "in rows with photo_1 > photo_2": turned,
        "in rows with photo_1 < photo_2": ~turned,
        "in pairs with at least .7 agreement": strong,
        "in pairs with less than .7 agreement": ~strong,
        "in series of two photos": photos == 2,
        "in series of more than two photos": photos > 2,
    }
    for words, mask in masks.items():
        if mask.any() and not mask.all():
            yield words, 4, mask


class Search:
    """All chains tried on one file; those with the fewest bits and single changes are kept."""

    def __init__(self, label):
        self.label, self.places = label.astype(np.int8), None
        self.best, self.simple, self.tried, self.offered = [], [], 0, {}

    def offer(self, bits, words, made, judged):
        """Takes a chain where its bits and those of its wrong rows are among the fewest."""
        self.tried += 1
        wrong = (made != self.label) & judged
        bits += choose(np.count_nonzero(judged), np.count_nonzero(wrong))
        near = len(self.best) < KEPT or bits < self.best[-1].bits
        if len(words) > 2 and not near:
            return
        chain = Chain(bits, words, np.where(judged, made, UNDECIDED), wrong, self.places)
        if len(words) < 3:
            self.offered[words, self.key] = chain.predicted
        if len(words) > 1 and not near:
            return
        self.simple += [chain] if len(words) < 2 else []
        self.best = sorted([*self.best, chain], key=lambda c: (c.bits, c.rules))[:KEPT]


def explain(table, official, split_of, with_votes=False):
    """(best Chain or None, words that cannot be told from its, next single change, how many tried).

    The next differs from the best in one row of a hundred or more.

    table: rows [R] of TABLE in the file's order; official: the labelled pairs [P]; split_of [P]:
    0 for train, 1 for val; with_votes: whether labels are majorities, which do not decide a tie.
    """
    search, label = Search(table["label"]), table["label"]
    tie = official["preference"] == 0.5 if with_votes else np.zeros(len(official), bool)
    from_0 = min(table["photo_1"].min(), table["photo_2"].min()) == 0
    for words, bits, shift, photo in numberings():
        if (FROM_0 in words) != from_0 and not shift:
            continue
        show_progress(f"trying {join(words) or 'the numbers as they are'}")
        places, turned = find_places(table, official, shift, photo)
        lost = int((places < 0).sum())
        if lost * 2 < len(table):
            bits += choose(len(table), lost) + 6 * lost
            search.places, search.key = places, places.tobytes()
            judged = (places >= 0) & (label != UNDECIDED) & ~tie[places]
            try_labels(search, (words, bits), turned, official, split_of, judged)
    show_progress("", True)
    plain = [c for c in search.simple if set(c.rules) <= {FROM_0}]  # the lists as they are
    found = sorted([*search.best, *plain], key=lambda c: c.bits)
    found = [c for c in found if c.wrong.sum() <= NOISE * c.judged]
    found = [c for c in found if c.bits <= c.judged - SURE and supported(c, search)]
    if not found:
        return None, [], min(search.simple, key=missed, default=None), search.tried
    best, alike = found[0], set()
    for chain in search.best:
        own = [any(map(rule.within, best.rules)) for rule in chain.rules]
        if len(own) == len(best.rules) and not all(own):
            alike |= {chain.rules} if np.array_equal(chain.predicted, best.predicted) else set()
    others = [c for c in search.simple if (c.predicted != best.predicted).sum() > best.judged / 100]
    return best, sorted(alike), min(others, key=missed, default=None), search.tried


def supported(chain, search):
    """Whether each change of a chain is right on the rows that it alters, see RIGHT, ROWS, REST."""
    for rule in chain.rules:
        others = tuple(other for other in chain.rules if other != rule)
        without = search.offered.get((others, chain.places.tobytes()))
        if without is None:  # another numbering: what it changes is which pair a row is
            continue
        altered = (without != chain.predicted) & (chain.predicted != UNDECIDED)
        altered &= without != UNDECIDED
        before = int(((without != search.label) & altered).sum()) + int(
            (chain.wrong & ~altered).sum()
        )
        wrong = int((chain.wrong & altered).sum())
        if altered.sum() < ROWS or wrong > (1 - RIGHT) * altered.sum():
            return False
        if chain.wrong.any() and REST * int(chain.wrong.sum()) > before:
            return False
    return True


def missed(chain):
    """The share of the rows that a chain does not reproduce."""
    return float(chain.wrong.sum()) / max(chain.judged, 1)


def try_labels(search, numbered, turned, official, split_of, judged):
    """Offers every chain of rules, turned photos, inversions and shifted rows for one numbering."""
    words, bits = numbered
    places = search.places
    photos = count_photos(official)[official["series"][places]]
    limits = list(scopes(official[places], photos, turned, split_of[places]))
    ways = [((), 0, turned)]
    if turned.any():
        ways.append(
            ((Rule("photo_1 and photo_2 are swapped, the label is not"),), 2, np.zeros_like(turned))
        )
    pairs = official[places]
    solved = list(solved_thresholds(search.label, pairs, judged, ways, limits))
    for rule, cost, made, limited in [*ruled(pairs, limits), *solved]:
        for turn, turn_bits, follows in ways:
            chain, total = words + rule + turn, bits + cost + turn_bits
            scoped = limits[:1] if limited else limits
            for by in (0, 1, -1):
                offer_shifted(search, total, chain, made ^ follows, judged, scoped, by)


def shift_rows(values, by):
    """Values [R] moved down by so many rows, around the end: np.roll, without its slow start."""
    return np.concatenate([values[-by:], values[:-by]]) if by else values


def solved_thresholds(label, pairs, judged, ways, limits):
    """As ruled, with a threshold estimated for each scope, as if what follows it were undone."""
    truth, known = pairs["label"].astype(np.int8), set()
    for (limit, more, mask), (_, _, follows), by, inverted in itertools.product(
        limits, ways, (0, 1, -1), (0, 1)
    ):
        own = shift_rows(label, -by) ^ inverted ^ follows
        rows = judged & shift_rows(label != UNDECIDED, -by) & (True if mask is None else mask)
        found = solve_threshold(own[rows], pairs["preference"][rows]) if rows.any() else None
        if found and (found[0], limit) not in known:
            known.add((found[0], limit))
            made = (pairs["preference"] <= found[1]).astype(np.int8)
            within = made if mask is None else np.where(mask, made, truth)
            yield (Rule(found[0], limit),), 12 + more, within, bool(limit)


def ruled(pairs, limits):
    """(words, bits, labels [R], whether limited) of the rules, everywhere and within each scope."""
    options = [(w, b, made.astype(np.int8)) for w, b, made in rules(pairs)]
    truth = options[0][2]
    yield (), 0, truth, False
    for (words, bits, made), (limit, more, mask) in itertools.product(options[1:], limits):
        within = made if mask is None else np.where(mask, made, truth)
        yield (words[0]._replace(limit=limit),), bits + more, within, bool(limit)


def offer_shifted(search, bits, chain, made, judged, limits, by):
    """Offers a chain with its labels shifted by so many rows, and inverted before or after it."""
    rows = (Rule(f"labels are shifted by {by:+d} rows"),) if by else ()
    if len(chain + rows) > MOST:
        return
    if by:
        bits += 3
        judged = judged & shift_rows(search.places >= 0, by)
        judged[0 if by > 0 else -1] = False
    shifted = shift_rows(made, by)
    search.offer(bits, chain + rows, shifted, judged)
    if len(chain + rows) == MOST:
        return
    for limit, more, mask in limits:
        words = (Rule(INVERTED, limit),)
        inverted = 1 - made if mask is None else made ^ mask
        search.offer(bits + 2 + more, chain + words + rows, shift_rows(inverted, by), judged)
        if by and mask is not None:
            search.offer(bits + 2 + more, chain + rows + words, shifted ^ mask, judged)
    if len(chain + rows) < 2:
        offer_blocks(search, bits, chain + rows, shifted, judged)


def offer_blocks(search, bits, chain, made, judged):
    """Offers a chain inverted in the block of rows where that helps most."""
    gain = np.r_[0, np.cumsum(np.where(judged, np.where(made != search.label, 1, -1), 0))]
    least = np.minimum.accumulate(gain)
    last = int(np.argmax(gain - least))
    first = int(np.argmin(gain[: last + 1]))
    if 0 < last - first < len(made):
        block = (np.arange(len(made)) >= first) & (np.arange(len(made)) < last)
        words = (*chain, Rule(INVERTED, f"in rows {first + 1:,} to {last:,}"))
        search.offer(bits + 2 + 2 * math.log2(len(made)), words, made ^ block, judged)
