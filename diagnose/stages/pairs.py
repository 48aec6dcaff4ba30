"""Which pairs make a batch, how many, and in what order."""

import itertools

from run.findings import CAUSE, SKIPPED, UNEXPLAINED, WRONG, Row

BATCH_SIZE = Row(
    "pairs.batch_size",
    CAUSE,
    "the batch size is {batch_size} (reference: {reference})",
    help="pass batch_size={reference} to the loader",
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
    help="pass shuffle=True to the loader of the training pairs",
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
ENOUGH = 8  # pairs, more than which come in the order of the list by no chance


def judge_lists(pairs):
    """Findings on the lists that the recorded pairs [P] are of; None where one is not official."""
    strange = sum(pair.official is None for pair in pairs)
    if strange:
        return [NOT_OFFICIAL.found(strange=strange, pairs=len(pairs))]
    validation = sum(pair.official.split == "val" for pair in pairs)
    found = VALIDATION.found(validation=validation, pairs=len(pairs))
    return [found] if validation else []


def judge_pairs(pairs, sizes, recipe, steps, listed):
    """Findings on the size of the batches, their order, and how many make a step.

    sizes: of the batches; steps: how many make each step; listed: pairs of the training list.
    """
    findings = []
    if sizes and max(sizes) != recipe["batch_size"]:
        findings.append(BATCH_SIZE.found(batch_size=max(sizes), reference=recipe["batch_size"]))
    if len(set(steps)) > 1:
        findings.append(UNEVEN.found(batches=tuple(steps[:6])))
    elif max(steps, default=1) > 1:
        findings.append(ACCUMULATED.found(batches=steps[0]))
    if not pairs:
        findings.append((NO_ORDER if sizes else NOTHING).found())
    return findings + judge_order(pairs, sizes, listed)


def judge_order(pairs, sizes, listed):
    """Findings on the order of the pairs [P], in batches of these sizes, over `listed` of them."""
    places = [pair.official[:2] for pair in pairs if pair.official is not None]
    findings = []
    follow = all(b[1] == a[1] + 1 for a, b in itertools.pairwise(places))
    if len(places) > ENOUGH and follow:
        findings.append(UNSHUFFLED.found())
    if len(places) != sum(sizes):
        return findings
    begins = [0, *itertools.accumulate(sizes)]
    batches = [places[a:b] for a, b in itertools.pairwise(begins)]
    twice = sum(len(batch) - len(set(batch)) for batch in batches)
    again = next((n for n, batch in enumerate(batches) if set(batch) & set(places[: begins[n]])), 0)
    if twice:
        findings.append(TWICE.found(twice=twice, pairs=len(places)))
    elif again and begins[again] <= listed - max(sizes):
        findings.append(AGAIN.found(pairs=begins[again], listed=listed))
    return findings
