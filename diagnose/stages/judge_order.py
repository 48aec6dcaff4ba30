"""Whether a shuffle of the list makes the order of the pairs, and what batches have in common."""

import itertools
import math
from collections import Counter

import numpy as np

from diagnose.describe import of_pair
from diagnose.numerics import estimated
from diagnose.official import RecordedPair
from diagnose.stages.pairs import (
    AGAIN,
    ALIKE,
    BLOCKS,
    FIRST_LINES,
    FOLLOWS,
    NEIGHBORS,
    ONE_SERIES,
    SAME_ORDER,
    TWICE,
    UNSHUFFLED,
)

FEW = 5  # neighbors in turn, which may come by chance
BY_CHANCE = 1e-9  # the largest probability of what is said not to be chance
TOGETHER = 1e-6  # the same, of batches whose pairs are alike in one of a few things
DEVIATIONS = 6  # of a rank correlation, which has such a one by chance
ENOUGH = 8  # pairs, more than which come in the order of the list by no chance
SHOWN = 6  # batches whose common value is told
FACTS = {  # what of_pair calls it: in words
    "line": "the list",
    "official": "the official label",
    "agreement": "the raters' agreement",
    "number": "the larger photo number",
    "swapped": "which photo of the list comes first",
}


def judge_shuffle(pairs, listed):
    """The finding on the order of the OfficialPairs of an epoch, in a list: whether a shuffle of
    all of the training list makes it.
    """
    places = [pair.place for pair in pairs if pair.split == "train"]
    count = len(places)
    if count < ENOUGH or len(set(places)) < count:
        return []
    among = max(places) - min(places) + 1
    # of so many lines next to one another there are so many, and all are as likely
    p = (listed - among + 1) * math.comb(among, count) / math.comb(listed, count)
    if p < BY_CHANCE:
        return [FIRST_LINES.found(pairs=count, among=among, listed=listed, p=p)]
    turns = sum(b == a + 1 for a, b in itertools.pairwise(places))
    usual = (count - 1) / listed
    # the most that chance has of so many, by Chernoff
    log = turns * math.log(usual / max(turns, 1)) + turns - usual
    if turns > FEW and turns > usual and log < math.log(BY_CHANCE):
        return [NEIGHBORS.found(count=turns, pairs=count - 1, usual=estimated(usual))]
    return judge_sorted([pair for pair in pairs if pair.split == "train"])


def judge_sorted(pairs):
    """The finding on OfficialPairs that come in the order of something, in a list."""
    for what, values in facts_of(pairs).items():
        correlation = rank_correlation(values)
        if abs(correlation) * math.sqrt(len(pairs) - 1) > DEVIATIONS:
            told = {"what": what, "correlation": estimated(correlation), "pairs": len(pairs)}
            return [FOLLOWS.found(**told)]
    return []


def facts_of(pairs):
    """{what is known of each OfficialPair, in words: its values}, of what is not alike in all."""
    rows = [of_pair(RecordedPair(None, pair)) for pair in pairs]
    every = {words: [row[name] for row in rows] for name, words in FACTS.items()}
    return {words: values for words, values in every.items() if len(set(values)) > 1}


def rank_correlation(values):
    """Spearman's correlation of values with their places; of equal ones the ranks are averaged."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = counts.cumsum() - (counts + 1) / 2
    return float(np.corrcoef(ranks[place], np.arange(len(values)))[0, 1])


def judge_batches(batches, listed):
    """Findings on what the pairs of every batch have in common; batches: OfficialPairs of each."""
    batches = [batch for batch in batches if len(batch) > 2]
    several = [len({int(pair.row["series"]) for pair in batch}) > 1 for batch in batches]
    places = [sorted(pair.place for pair in batch) for batch in batches]
    blocks = all(own == list(range(own[0], own[0] + len(own))) for own in places)
    if len(batches) < 2 or sum(map(len, batches)) < ENOUGH:
        return []
    if not any(several) and max(map(len, places)) < listed:
        return [ONE_SERIES.found()]
    return [BLOCKS.found()] * blocks or judge_alike(batches)


def judge_alike(batches):
    """The finding on batches of OfficialPairs that are alike in something, in a list."""
    ends = list(itertools.accumulate(map(len, batches)))
    for what, values in facts_of(list(itertools.chain(*batches))).items():
        own = [values[end - len(batch) : end] for batch, end in zip(batches, ends, strict=True)]
        if any(len(set(batch)) > 1 for batch in own):
            continue
        p = orders_of([batch[0] for batch in own]) / orders_of(values)  # of all that these make
        if p < TOGETHER:
            told = tuple(batch[0] for batch in own[:SHOWN])
            return [ALIKE.found(what=what, values=told, p=p)]
    return []


def orders_of(values):
    """In how many orders some values can come."""
    each = map(math.factorial, Counter(values).values())
    return math.factorial(len(values)) // math.prod(each)


def judge_order(by_epoch, sizes, listed, is_sure):
    """Findings on the order of pairs: {epoch: batches of (split, place)}, `listed` in the list.

    is_sure: whether nothing says that the photos may be those of other pairs.
    """
    orders = {epoch: list(itertools.chain(*batches)) for epoch, batches in by_epoch.items()}
    pairs, findings = sum(map(len, orders.values())), []
    steps = [step for order in orders.values() for step in itertools.pairwise(order)]
    if len(steps) >= ENOUGH and all(b[1] == a[1] + 1 for a, b in steps):
        findings.append(UNSHUFFLED.found())
    alike = [min(len(a), len(b)) for a, b in itertools.pairwise(orders.values())
             if all(x == y for x, y in zip(a, b, strict=False))]  # fmt: skip
    if not findings and alike and max(alike) > ENOUGH:
        findings.append(SAME_ORDER.found(pairs=max(alike)))
    twice = sum(len(b) - len(set(b)) for batches in by_epoch.values() for b in batches)
    again = min(filter(None, map(repeats_after, by_epoch.values())), default=0)
    if twice:
        findings.append(TWICE.found(twice=twice, pairs=pairs))
    elif again and again <= listed - max(sizes) and is_sure:
        findings.append(AGAIN.found(pairs=again, listed=listed))
    return findings


def repeats_after(batches):
    """After how many pairs one of them comes again, in whole batches; 0: none does."""
    earlier = set()
    for batch in batches:
        if earlier & set(batch):
            return len(earlier)
        earlier |= set(batch)
    return 0
