"""The labels as they come in, by the official lists."""

import itertools
import math

import numpy as np

from diagnose.describe import examples_of, facts_of, of_pair, rules_of
from diagnose.labels.search import rules
from diagnose.stages.mixups import judge_mixups
from run.findings import CAUSE, DECLARED, DIFFERENT, HARMLESS, SKIPPED, UNEXPLAINED, WRONG, Row

FEW = 16  # pairs whose labels are alike by chance once in 30,000 times
FEW_WRONG = 3  # labels; as many may all be of one kind by chance
ENOUGH = 8  # pairs whose labels are all inverted by no chance
NOT_SEEN = Row("labels.not_seen", SKIPPED, "no labels were recorded")
NOT_KNOWN = Row("labels.unknown", SKIPPED, "the photos could not be identified")
OF_OTHER_PAIRS = Row(
    "labels.of_other_pairs",
    SKIPPED,
    "most of the pairs are not in the official lists, which have no label for them",
)
OF_OTHER_PHOTOS = Row(
    "labels.of_other_photos",
    SKIPPED,
    "photos are those of other pairs, so labels were not judged",
)
ONE_LOGIT = Row(
    "labels.of_one_logit",
    DECLARED,
    "labels are 1 where photo_1 is preferred ({pairs} pairs), which a single logit may use",
)
TAKEN_SO = Row(
    "labels.inverted_twice",
    HARMLESS,
    "labels are 1 where photo_1 is preferred ({pairs} pairs), and the loss expects that",
)
ALL_SWAPPED = Row(
    "labels.photos_swapped",
    CAUSE,
    "photo_1 and photo_2 are swapped in every pair, but the label is not ({pairs} pairs)",
    help="return the photos in the order of the pairlist, or swap the label with them",
    matters=WRONG,
)
INVERTED = Row(
    "labels.inverted",
    CAUSE,
    "labels are inverted before the loss ({pairs} pairs)",
    help="make the label 0 where photo_1 is preferred, 1 where photo_2 is",
    matters=WRONG,
)
RANKS = Row(
    "labels.ranks_as_photo_numbers",
    CAUSE,
    "ranks are read as photo numbers: label = 0 if rank_1 == photo_1 ({wrong} of "
    "{pairs} labels are wrong)",
    help="compare the ranks with each other: label = 0 if rank_1 < rank_2 else 1",
    matters=WRONG,
    at=("dataset",),
)
MISREAD = Row(
    "labels.misread",
    CAUSE,
    "{rules} ({wrong} of {pairs} labels are wrong)",
    help="compare the ranks with each other: label = 0 if rank_1 < rank_2 else 1",
    matters=WRONG,
    at=("dataset",),
)
SOME_SWAPPED = Row(
    "labels.some_photos_swapped",
    CAUSE,
    "photo_1 and photo_2 are swapped in {swapped} of {pairs} pairs, but their labels are not",
    help="swap the label wherever the photos are swapped",
    matters=WRONG,
)
OTHERS = Row(
    "labels.not_official",
    UNEXPLAINED,
    "{wrong} of {pairs} labels differ from the official ones[: exactly where {rules}][, each of "
    "them {own} for an official {official}]"
    "[; labels of other pairs would differ in about {half}]",
    help="run python -m diagnose labels on all of your labels",
    matters=WRONG,
)
SECOND_FIRST = Row(
    "labels.second_photo_first",
    HARMLESS,
    "photo_2 comes first, and the labels match that order",
    matters=DIFFERENT,
    at=("dataset",),
)
WINNER_FIRST = Row(
    "labels.preferred_first",
    CAUSE,
    "the preferred photo always comes first, so every label is 0 ({pairs} pairs)",
    help="keep photo_1 and photo_2 in the order of the pairlist",
    matters=WRONG,
    at=("dataset",),
)
LOSER_FIRST = Row(
    "labels.preferred_last",
    CAUSE,
    "the preferred photo always comes second, so every label is 1 ({pairs} pairs)",
    help="keep photo_1 and photo_2 in the order of the pairlist",
    matters=WRONG,
    at=("dataset",),
)
SOME_FIRST = Row(
    "labels.some_second_photo_first",
    CAUSE,
    "photo_2 comes first in {swapped} of {pairs} pairs, and the labels match that order",
    help="keep photo_1 and photo_2 in the order of the pairlist",
    at=("dataset",),
)


def label_of(entries, count):
    """(labels [B] as they entered the step, as the loss took them) of so many pairs, or None.

    entries: the diagnose.trace.Labels that met the logits.
    """
    for entry in entries:
        both = []
        for values in (entry.root, entry.values):
            one_hot = values.dim() == 2 and values.shape[1] == 2
            flat = values.argmax(1) if one_hot else values.reshape(-1)
            both.append(flat.long())
        if all(int(b.min()) >= 0 and len(b) == count for b in both):
            return both
    return None


def are_inverted(pairs):
    """Whether every label is the other one; with fewer than eight that may be chance."""
    known = [pair for pair in pairs if pair.label is not None and pair.official is not None]
    return len(known) >= ENOUGH and all(pair.label != pair.official.label for pair in known)


def judge_labels(pairs, single, swapped, official):
    """Findings on the labels of the recorded pairs, which are all official.

    official: see diagnose.official.Official. single: whether there is one logit, which takes
    labels that are 1 for either photo; swapped: whether the loss takes the other label.
    """
    known = [pair for pair in pairs if pair.label is not None]
    if not known:
        return [(NOT_SEEN if pairs else NOT_KNOWN).found()]
    right = sum(pair.label == pair.official.label for pair in known)
    if right == len(known):
        return judge_swapped(known)
    found = {"pairs": len(known), "wrong": len(known) - right}
    found["swapped"] = sum(pair.official.swapped for pair in known)
    inverted = are_inverted(pairs)
    found["rules"] = " or ".join(misreadings(known, official)) or None
    rows = (
        (right == 0 and single, ONE_LOGIT),
        (inverted and swapped, TAKEN_SO),
        (right == 0 and found["swapped"] == len(known), ALL_SWAPPED),
        (inverted, INVERTED),
        (found["wrong"] >= 4 and all(map(reads_ranks, known)), RANKS),
        (found["wrong"] >= 4 and found["rules"] is not None, MISREAD),
        (found["swapped"] >= 2 and all(map(follows_the_list, known)), SOME_SWAPPED),
        (True, OTHERS),
    )
    row = next(row for holds, row in rows if holds)
    if row is not OTHERS:
        return [row.found(**found)]
    return judge_mixups(known, official) or [describe_others(known)]


def describe_others(pairs):
    """The finding on labels that no rule gives: which they are, and up to three of them."""
    wrong = [pair.label != pair.official.label for pair in pairs]
    rules = rules_of(wrong, facts_of(list(map(of_pair, pairs))))
    half = len(pairs) / 2
    unrelated = len(pairs) >= FEW and abs(sum(wrong) - half) <= math.sqrt(len(pairs))
    examples = examples_of(itertools.compress(pairs, wrong))
    counts = {"wrong": sum(wrong), "pairs": len(pairs)}
    ways = {(pair.label, pair.official.label) for pair in itertools.compress(pairs, wrong)}
    one_way = ways.pop() if len(ways) == 1 and sum(wrong) > FEW_WRONG else (None, None)
    counts |= dict(zip(("own", "official"), one_way, strict=True))
    return OTHERS.found(
        **counts, rules=rules, half=round(half) if unrelated else None, examples=examples
    )


def misreadings(pairs, official):
    """The misreadings of the lists, of those that `diagnose labels` knows, that give all labels."""
    rows = np.array([pair.official.row for pair in pairs])
    own = np.array([pair.label for pair in pairs])
    swapped = np.array([pair.official.swapped for pair in pairs])
    every = np.array([row for _, _, row in official.pairs.values()])
    for words, _, labels in itertools.islice(rules(rows, every), 1, None):  # the first: the lists
        if np.array_equal(labels ^ swapped, own):
            yield str(words[0])


def reads_ranks(pair):
    """Whether a label is 0 where rank_1 is the number of the photo that comes first."""
    official = pair.official
    first = official.row["photo_2" if official.swapped else "photo_1"]
    return pair.label == (official.row["rank_1"] != first)


def follows_the_list(pair):
    """Whether a label is that of the photos as the list has them, though they are swapped."""
    return (pair.label == pair.official.label) != pair.official.swapped


def judge_swapped(pairs):
    """Findings where labels follow the photos of pairs that come the other way round."""
    swapped, labels = sum(pair.official.swapped for pair in pairs), {pair.label for pair in pairs}
    if swapped == len(pairs):
        return [SECOND_FIRST.found(pairs=len(pairs))]
    if swapped and len(pairs) >= FEW and len(labels) == 1:
        return [(LOSER_FIRST if labels.pop() else WINNER_FIRST).found(pairs=len(pairs))]
    return [SOME_FIRST.found(swapped=swapped, pairs=len(pairs))] if swapped else []
