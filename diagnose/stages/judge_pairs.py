"""Which rows of the stage `pairs` a trainer's pairs are: their lists, batches, epochs, order."""

import itertools

from diagnose.describe import examples_of
from diagnose.stages.judge_order import judge_batches, judge_order, judge_shuffle
from diagnose.stages.pairs import (
    ACCUMULATED,
    BATCH_SIZE,
    DROPPED,
    GROWING,
    LEFT_EARLY,
    NO_ORDER,
    NOT_OFFICIAL,
    NOTHING,
    ONE_PHOTO,
    PART,
    UNEVEN,
    UNSHUFFLED,
    VALIDATION,
)
from diagnose.trace import epoch_of

MISSING = 3  # lines of the list that are named


def judge_lists(pairs):
    """Findings on the lists that the recorded pairs [P] are of; None where one is not official."""
    same = [pair for pair in pairs if pair.official is None and len(set(pair.names)) == 1]
    counts = {"pairs": len(pairs), "same": len(same)}
    found = [ONE_PHOTO.found(**counts, examples=examples_of(same))] if same else []
    strange = [pair for pair in pairs if pair.official is None and len(set(pair.names)) > 1]
    if strange:
        told = {"strange": len(strange), "pairs": len(pairs)}
        return [*found, NOT_OFFICIAL.found(**told, examples=examples_of(strange))]
    if found:
        return found
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
    own = [own[a:b] for a, b in itertools.pairwise(begins)]
    if UNSHUFFLED not in [finding.row for finding in found]:
        found += judge_batches(own, listed)
    found += judge_loader(by_epoch, sizes, listed, epochs)
    if not found and is_sure:
        first = [batch for number, batch in zip(numbers, own, strict=True) if number == numbers[0]]
        found = judge_shuffle(list(itertools.chain(*first)), listed)
    return [*findings, *found]


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
