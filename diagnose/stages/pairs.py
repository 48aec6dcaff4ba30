"""Which pairs make a batch, how many, and in what order."""

import itertools
import math

import numpy as np

from diagnose.describe import examples_of
from diagnose.numerics import estimated
from diagnose.trace import epoch_of
from run.findings import CAUSE, SKIPPED, UNEXPLAINED, WRONG, Row

GROWING = Row(
    "pairs.batches_grow",
    CAUSE,
    "each batch has more pairs than the one before: {sizes}",
    help="begin each batch with new lists: no default argument, or attribute, that is appended to",
    matters=WRONG,
    at=("dataset", "loader"),
)
BATCH_SIZE = Row(
    "pairs.batch_size",
    CAUSE,
    "the batch size is {batch_size} (reference: {reference})",
    help="make batches of {reference} pairs: batch_size={reference} in a DataLoader",
    flag="--batch-size {batch_size}",
)
ACCUMULATED = Row(
    "pairs.accumulated",
    CAUSE,
    "the optimizer steps after every {batches} batches (reference: after each)",
    help="call optimizer.step() after every batch",
    at=("step",),
)
UNEVEN = Row(
    "pairs.accumulated_unevenly",
    CAUSE,
    "the optimizer steps after {batches} batches (reference: after each)",
    help="call optimizer.step() after every batch",
    at=("step",),
)
UNSHUFFLED = Row(
    "pairs.unshuffled",
    CAUSE,
    "pairs are in the order of the list (reference: shuffled)",
    help="shuffle the pairs of every epoch, as shuffle=True in a DataLoader does",
)
TWICE = Row(
    "pairs.twice_in_batch",
    CAUSE,
    "{twice} of {pairs} pairs appear twice in their batch",
    help="draw every pair once per epoch, without replacement",
)
AGAIN = Row(
    "pairs.part_of_the_list",
    CAUSE,
    "pairs repeat after {pairs} of {listed}: a part of the list is used, or pairs "
    "are drawn with replacement",
    help="draw every pair of train_pairlist.txt once per epoch",
)
PART = Row(
    "pairs.part_in_epoch",
    CAUSE,
    "an epoch has {items} pairs (reference: all {listed} of train_pairlist.txt)"
    "[; {epochs} recorded epochs never had these lines of it: {missing}]",
    help="give the loader every line of train_pairlist.txt",
)
DROPPED = Row(
    "pairs.last_batch_dropped",
    CAUSE,
    "the last {dropped} pairs of every epoch are dropped: drop_last=True (reference: all are used)",
    help="use drop_last=False",
)
LEFT_EARLY = Row(
    "pairs.epoch_left_early",
    CAUSE,
    "an epoch ends after {pairs} of {items} pairs: the loop is left before its loader ends",
    help="train on every batch of the loader: no break, no limit of batches per epoch",
)
SAME_ORDER = Row(
    "pairs.same_order",
    CAUSE,
    "the pairs of an epoch are in the order of the epoch before ({pairs} pairs seen of both)",
    help="shuffle again for every epoch: shuffle=True, or sampler.set_epoch(epoch)",
)
ONE_SERIES = Row(
    "pairs.one_series_in_batch",
    CAUSE,
    "every batch holds pairs of one series alone (reference: pairs are shuffled one by one)",
    help="shuffle the pairs, not the series",
)
BLOCKS = Row(
    "pairs.neighbors_in_batch",
    CAUSE,
    "every batch holds neighboring lines of the list: the batches are shuffled, the pairs are not",
    help="shuffle the pairs, not the batches",
)
FIRST_LINES = Row(
    "pairs.first_lines",
    CAUSE,
    "the first {pairs} pairs are all among {among} neighboring lines of the {listed} in the list, "
    "as a shuffle of the list is not (p = {p}): the list is shuffled in a small buffer, or a part "
    "of it is used",
    help="shuffle all of the list: shuffle=True in a DataLoader, or a buffer as long as the list",
)
FOLLOWS_LIST = Row(
    "pairs.follows_the_list",
    CAUSE,
    "the order of the pairs follows that of the list (rank correlation {correlation} over {pairs} "
    "pairs; a shuffle has 0)",
    help="shuffle all of the list: shuffle=True in a DataLoader",
)
NEIGHBORS = Row(
    "pairs.neighbors_in_turn",
    CAUSE,
    "in {count} of {pairs} places a line of the list is followed by the next one, which a shuffle "
    "of the pairs does in about {usual}: groups of lines are shuffled, such as series, not pairs",
    help="shuffle the pairs: shuffle=True in a DataLoader",
)
VALIDATION = Row(
    "pairs.validation",
    CAUSE,
    "{validation} of {pairs} training pairs are in val_pairlist.txt",
    help="train on the pairs of train_pairlist.txt alone",
    matters=WRONG,
    at=("dataset", "loader"),
)
NOT_OFFICIAL = Row(
    "pairs.not_official", UNEXPLAINED, "{strange} of {pairs} pairs are not in the official lists"
)
NO_ORDER = Row(
    "pairs.unknown",
    SKIPPED,
    "the pairs could not be identified, so their order was not judged",
)
NOTHING = Row(
    "pairs.not_seen",
    SKIPPED,
    "the pairs could not be identified, so their order and the batch size were not judged",
)
MISSING = 3  # lines of the list that are named
FEW = 5  # neighbors in turn, which may come by chance
BY_CHANCE = 1e-9  # the largest probability of what is said not to be chance
DEVIATIONS = 6  # of a rank correlation, which has such a one by chance
ENOUGH = 8  # pairs, more than which come in the order of the list by no chance


def judge_lists(pairs):
    """Findings on the lists that the recorded pairs [P] are of; None where one is not official."""
    strange = [pair for pair in pairs if pair.official is None]
    if strange:
        counts = {"strange": len(strange), "pairs": len(pairs)}
        return [NOT_OFFICIAL.found(**counts, examples=examples_of(strange))]
    validation = sum(pair.official.split == "val" for pair in pairs)
    found = VALIDATION.found(validation=validation, pairs=len(pairs))
    return [found] if validation else []


def judge_pairs(pairs, sizes, recipe, steps, listed, epochs, is_sure=True):
    """Findings on the size of the batches, their order, and how many make a step.

    sizes: of the batches; steps: how many make each step; listed: pairs of the training list;
    epochs: [(number of its epoch, -1 where that is not known, diagnose.trace.Epoch or None)] of
    the batches.
    """
    findings = []
    is_growing = len(sizes) > 2 and all(b > a for a, b in itertools.pairwise(sizes))
    if is_growing:
        findings.append(GROWING.found(sizes=tuple(sizes[:6])))
    elif sizes and max(sizes) != recipe["batch_size"]:
        findings.append(BATCH_SIZE.found(batch_size=max(sizes), reference=recipe["batch_size"]))
    if len(set(steps)) > 1:
        findings.append(UNEVEN.found(batches=tuple(steps[:6])))
    elif max(steps, default=1) > 1:
        findings.append(ACCUMULATED.found(batches=steps[0]))
    if not pairs:
        findings.append((NO_ORDER if sizes else NOTHING).found())
    places = [pair.official[:2] for pair in pairs if pair.official is not None]
    if len(places) != sum(sizes) or is_growing:
        return findings + judge_loader({}, sizes, listed, epochs)
    begins = [0, *itertools.accumulate(sizes)]
    batches = [places[a:b] for a, b in itertools.pairwise(begins)]
    by_epoch, numbers = {}, [number for number, _ in epochs]
    if -1 in numbers:
        numbers = numbers_of(batches, listed)
    for number, batch in zip(numbers, batches, strict=True):
        by_epoch.setdefault(number, []).append(batch)
    own = [pair.official for pair in pairs]
    found = judge_order(by_epoch, sizes, listed, is_sure)
    if UNSHUFFLED not in [finding.row for finding in found]:
        found += judge_batches([own[a:b] for a, b in itertools.pairwise(begins)], listed)
    found += judge_loader(by_epoch, sizes, listed, epochs)
    if not found and is_sure:
        first = itertools.chain(*next(iter(by_epoch.values()), []))
        found = judge_shuffle([place for split, place in first if split == "train"], listed)
    return [*findings, *found]


def judge_shuffle(places, listed):
    """The finding on the order of the pairs of an epoch, by their places in the list, in a list:
    whether a shuffle of all of it makes it.
    """
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
    ranks = np.argsort(np.argsort(places))
    correlation = float(np.corrcoef(ranks, np.arange(count))[0, 1])
    if abs(correlation) * math.sqrt(count - 1) > DEVIATIONS:
        return [FOLLOWS_LIST.found(correlation=estimated(correlation), pairs=count)]
    return []


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
    return [BLOCKS.found()] * blocks


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


def numbers_of(batches, listed):
    """The number of the epoch of each batch where no loader says so, by whole lists of `listed`
    pairs that come one after the other; -1 for all where they do not.
    """
    numbers, seen = [], set()
    for batch in batches:
        if seen & set(batch):
            if len(seen) != listed:
                return [-1] * len(batches)
            seen = set()
        numbers.append((numbers or [0])[-1] + (not seen and bool(numbers)))
        seen |= set(batch)
    return numbers


def repeats_after(batches):
    """After how many pairs one of them comes again, in whole batches; 0: none does."""
    earlier = set()
    for batch in batches:
        if earlier & set(batch):
            return len(earlier)
        earlier |= set(batch)
    return 0


def judge_loader(by_epoch, sizes, listed, epochs):
    """Findings on how many pairs an epoch has, by its loader, whose items must be pairs."""
    loader = next((epoch for _, epoch in epochs if epoch is not None), None)
    if loader is None or loader.items is None or loader.batch_size != max(sizes):
        return []
    of = dict(epochs)
    whole = [own for number, own in by_epoch.items() if of.get(number) and of[number].ended]
    findings, counts = [], [sum(map(len, own)) for own in by_epoch.values()][:-1]
    if loader.items != listed:
        seen = {place for batches in whole for batch in batches for _, place in batch}
        missing = [place + 1 for place in range(listed) if place not in seen]
        known = whole and len(missing) == listed - loader.items
        values = {"missing": tuple(missing[:MISSING]) if known else None, "epochs": len(whole)}
        findings.append(PART.found(items=loader.items, listed=listed, **values))
    dropped = loader.items % loader.batch_size if loader.drops else 0
    if dropped:
        findings.append(DROPPED.found(dropped=dropped))
    if counts and max(counts) < loader.items - dropped:
        findings.append(LEFT_EARLY.found(pairs=tuple(counts), items=loader.items))
    return findings


def ended(trace, numbers):
    """How many of the epochs with these numbers ended: all but the last, which may be known to."""
    last = epoch_of(trace, max(numbers))
    return len(numbers) - 1 + (last is not None and last.ended)


def epochs_of(trace):
    """[(number of its epoch, or -1, its Epoch or None)] of the batches of a trace."""
    numbers = [batch.passes[0].epoch for batch in trace.batches]
    return [(number, epoch_of(trace, number)) for number in numbers]
