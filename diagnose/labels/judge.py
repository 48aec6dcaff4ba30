"""Compares a file of labels with the official lists.

    python -m diagnose labels mine.csv --data data/phototriage [--columns winner=best ...]
    python -m diagnose labels reviews_labels.csv --data data/phototriage --align aligned.tsv

The first line is the verdict, the evidence is below. Exit code 0: equal, 1: a defect is
established, 2: cannot judge. Photos are not needed: a folder with the lists is enough.

FILE is TSV or CSV with named columns: series, photo_1, photo_2 (numbers, or file names such as
000001-02.JPG, which also tell the series) and label (0: photo_1 is preferred), winner (a photo),
preference (that of photo_1) or votes_1 and votes_2; a `split` column is checked as well. The
columns of reviews_labels.csv and of a pairlist are known; others are named with --columns.
"""

import math
from pathlib import Path

import numpy as np

from diagnose.dataset import read_labelled
from diagnose.labels import search
from diagnose.labels.align import write_alignment
from diagnose.labels.rows import order_of
from diagnose.labels.subsets import name_missing
from diagnose.tables import (
    COLUMNS,
    UNDECIDED,
    add_column_flags,
    inverted,
    merge_votes,
    named_columns,
    read_table,
)
from disk.errors import command_line, instrument, stop
from disk.files import check_new
from run.findings import CAUSE, EQUAL, SKIPPED, UNEXPLAINED, give_verdict, rows_of
from run.scores import ENOUGH, percent

SPLIT_WORDS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1}


row = rows_of("labels")


SAME = row("equal", EQUAL, "equal")
OFFICIAL = row("official", EQUAL, "the labels are the official ones")
NUMBERED = row("equal_from_0", EQUAL, f"equal, {search.FROM_0}")
CHANGED = row(
    "changed",
    CAUSE,
    "the official labels with {count} change[{s}]: {changes}"
    "[; besides, {wrong} labels are wrong by none of the rules tried]",
)
CHANGED_VOTES = row(
    "changed_votes",
    CAUSE,
    "the official labels with {count} change[{s}]: {changes}"
    "[; besides, {wrong} labels differ from what the file's votes or preferences say]",
)
WRONG = row("wrong", UNEXPLAINED, "{wrong} labels are wrong by none of the rules tried")
WRONG_VOTES = row(
    "wrong_votes",
    UNEXPLAINED,
    "{wrong} labels differ from what the file's votes or preferences say",
)
PERMUTED = row("permuted", CAUSE, "photo numbers permuted within series: labels agree on {agree}")
UNRELATED = row(
    "unrelated",
    UNEXPLAINED,
    "not established: no chain of changes reproduces the labels, which agree as unrelated ones "
    "would: labels agree on {agree}",
)
NOT_REPRODUCED = row(
    "not_reproduced",
    UNEXPLAINED,
    "not established: no chain of changes reproduces the labels; labels agree on {agree}",
)
OTHER_ROWS = row("of_other_rows", CAUSE, "the official labels, but of other rows: {order}")
AS_MANY = row(
    "as_many",
    EQUAL,
    "label 1 in {ones:,} rows, exactly as many as officially, which unrelated labels have once in "
    "about {times} files: they may be those of other rows",
)
OTHER_PAIRS = row("other_pairs", SKIPPED, "other pairs: {rows} rows of the file are official pairs")
TOO_FEW = row(
    "too_few",
    SKIPPED,
    "cannot judge: only {labels} labels: {rows} rows of the file are official pairs",
)
ROWS = row("official_rows", EQUAL, "{rows} rows of the file are official pairs")
TRIED = row("tried", EQUAL, "{tried:,} chains of changes to the official lists were tried")
STRANGE_WINNER = row("strange_winner", EQUAL, "the winner is neither photo in {rows} rows")
BALANCE = row("balance", EQUAL, "label 1 in {share:.4f} of the rows")
REPRODUCED = row("reproduced", EQUAL, "reproduced: {labels} labels")
NEXT_BEST = row("next_best", EQUAL, "next best, {chain}")
NEAREST = row("nearest", EQUAL, "nearest, {chain}")
ALIKE = row("alike", EQUAL, "not to be told apart from: {changes}")
LINES = row("lines", EQUAL, "these are in lines {lines}")
STRENGTH = row(
    "strength",
    EQUAL,
    "series of two photos: strength correlates {correlation:.4f}, the sign agrees on {agree}",
)
ALIGN = row("align", EQUAL, "--align OUT recovers the numbering from the preferences")
ADDED = row("votes_added", EQUAL, "{pairs:,} pairs are in several rows; their votes were added")
ALIGNED = row("aligned", EQUAL, "{line}")
NO_PAIRS = row("no_pairs", CAUSE, "{rows} rows are no official pairs, first line {line}")
SPLIT_WORD = row("split_word", CAUSE, "the split column is not checked: {words}")
EMPTY = row("empty", CAUSE, "{rows} rows have no label")
IN_BOTH = row("in_both_splits", CAUSE, "{pairs:,} pairs are in both train and val")
OTHER_SPLIT = row("other_split", CAUSE, "another split: {pairs} pairs change sides")
CUT_SERIES = row("cut_series", CAUSE, "a split drawn over pairs: {series} series are cut")
BOTH_ORDERS = row("both_orders", CAUSE, "both orders counted: {pairs:,} pairs are listed twice")
REPEATED = row("repeated", CAUSE, "{rows:,} rows repeat a pair")
SUBSET = row("subset", CAUSE, "{subset}")
WHOLE_LIST = row("whole_list", EQUAL, "{subset}")


def audit_labels(root, path, names, base, label_1="photo_2"):
    """(findings of the verdict, evidence, rows of the file, official pairs) on a labels file."""
    _, official, split_of = read_labelled(root)
    table, kind = read_table(path, names, is_turned=label_1 == "photo_1")
    if label_1 == "photo_1":
        if kind != "label":
            stop(__file__, f"--label-1-means: {path} has no label column, but {kind}")
        table = inverted(table)
    with_votes = kind in ("votes_1", "preference")
    rows, repeated = merge_votes(table) if with_votes else (table, 0)
    if not repeated:
        rows = table.copy()  # in the file's own order
    if base == 0:
        rows["photo_1"] += 1
        rows["photo_2"] += 1
    explained = search.explain(rows, official, split_of, with_votes)
    best = explained[0]
    places = best.places if best else search.find_plain(rows, official)[0]
    verdict, evidence = name_labels(explained, rows, places, official, with_votes)
    if repeated:
        evidence.append(ADDED.found(pairs=repeated))
    if verdict.kind == SKIPPED:
        return [verdict], evidence, rows, official
    sets = judge_sets(rows, places, split_of, official, with_votes)
    convention = best and best.rules == (search.FROM_0,) and base is None and not best.wrong.any()
    if sets and (verdict.row is SAME or convention):
        verdict = OFFICIAL.found()
    elif convention:
        verdict = NUMBERED.found()
    return [verdict, *sets], evidence, rows, official


def name_labels(explained, rows, places, official, with_votes):
    """(the finding that is the verdict, evidence) on the labels, whichever pairs they are of."""
    (best, alike, following, tried), joined = explained, places >= 0
    matched = percent(int(joined.sum()), len(rows))
    label, truth = rows["label"][joined], official["label"][places[joined]]
    truth = np.where(rows["photo_1"] > rows["photo_2"], 1, 0)[joined] ^ truth
    told = (label != UNDECIDED) & ~(with_votes & (official["preference"][places[joined]] == 0.5))
    label, truth = label[told], truth[told]
    if len(label) < ENOUGH:
        few = OTHER_PAIRS if joined.mean() < 0.5 else TOO_FEW
        return few.found(labels=len(label), rows=matched), []
    evidence = [ROWS.found(rows=matched), TRIED.found(tried=tried)]
    if rows["strange_winner"].any():
        strange = int(rows["strange_winner"].sum())
        evidence.append(STRANGE_WINNER.found(rows=percent(strange, len(rows))))
    if best is None:
        return name_unexplained(label, truth, following, rows, places, official, evidence)
    wrong, right = int(best.wrong.sum()), best.judged - int(best.wrong.sum())
    evidence.append(BALANCE.found(share=float(label.mean())))
    evidence.append(REPRODUCED.found(labels=percent(right, best.judged)))
    if following:
        evidence.append(NEXT_BEST.found(chain=describe_chain(following)))
    evidence += [ALIKE.found(changes=search.join(rules)) for rules in alike]
    if wrong:
        lines = ", ".join(map(str, rows["line"][best.wrong][:10])) + ", ..." * (wrong > 10)
        evidence.append(LINES.found(lines=lines))
    return name_best(best, with_votes), evidence


def name_best(best, with_votes):
    """The finding on labels that a chain of changes reproduces, or all but a few of them."""
    wrong = int(best.wrong.sum())
    noise = percent(wrong, best.judged) if wrong else None
    if best.rules:
        changed = CHANGED_VOTES if with_votes else CHANGED
        several = "s" if len(best.rules) > 1 else None
        changes = search.join(best.rules)
        return changed.found(count=len(best.rules), s=several, changes=changes, wrong=noise)
    if noise:
        return (WRONG_VOTES if with_votes else WRONG).found(wrong=noise)
    return SAME.found()


def describe_chain(chain):
    """The changes of a chain, and how many labels they reproduce."""
    right = percent(chain.judged - int(chain.wrong.sum()), chain.judged)
    return f"{search.join(chain.rules) or 'no change'}: {right}"


def name_unexplained(label, truth, following, rows, places, official, evidence):
    """(the finding, evidence) on labels that no chain of changes reproduces.

    In a series of two photos a swap of the numbers keeps the strength |preference - 0.5| and turns
    its sign: strength that correlates while the sign does not proves that numbers are permuted.
    """
    agree, count = int((label == truth).sum()), len(label)
    agreement = percent(agree, count)
    if following:
        evidence = [*evidence, NEAREST.found(chain=describe_chain(following))]
    series, sizes = np.unique(official["series"], return_counts=True)
    two = (places >= 0) & (rows["label"] != UNDECIDED) & np.isin(rows["series"], series[sizes == 1])
    two &= official["preference"][places] != 0.5
    mine, pairs = rows[two], official[places[two]]
    strength = mine["wins_1"] / np.maximum(mine["wins_1"] + mine["wins_2"], 1e-9)
    strength = np.abs(strength - 0.5)
    if len(mine) >= ENOUGH and strength.std() > 1e-6:
        both = float(np.corrcoef(strength, np.abs(pairs["preference"] - 0.5))[0, 1])
        turned = mine["photo_1"] > mine["photo_2"]
        same = int((mine["label"] == (pairs["label"] ^ turned)).sum())
        told = STRENGTH.found(correlation=both, agree=percent(same, len(mine)))
        evidence = [*evidence, told]
        if both > 0.9 and abs(2 * same / len(mine) - 1) < 0.2:
            return PERMUTED.found(agree=agreement), [*evidence, ALIGN.found()]
    unrelated = abs(2 * agree / count - 1) < 0.2
    if unrelated and len(label) == len(rows):
        order = order_of(label, truth, rows, places)
        if order:
            return OTHER_ROWS.found(order=order), evidence
        if label.sum() == truth.sum():
            times = round(math.sqrt(math.pi * count / 2))  # of a binomial distribution
            evidence = [*evidence, AS_MANY.found(ones=int(label.sum()), times=times)]
    return (UNRELATED if unrelated else NOT_REPRODUCED).found(agree=agreement), evidence


# Which pairs


def judge_sets(rows, places, split_of, official, with_votes):
    """Findings on pairs that are missing, too many, or in the wrong split."""
    found, joined = [], places >= 0
    if not joined.all():
        count = percent(int((~joined).sum()), len(rows))
        found.append(NO_PAIRS.found(rows=count, line=int(rows["line"][~joined][0])))
    strange = sorted({w for w in rows["split"].tolist() if w and w.lower() not in SPLIT_WORDS})
    if strange:
        found.append(SPLIT_WORD.found(words=tuple(strange[:3])))
    empty = int((rows["label"] == UNDECIDED).sum())
    if empty and not with_votes:
        found.append(EMPTY.found(rows=percent(empty, len(rows))))
    split = np.array([SPLIT_WORDS.get(word.lower(), -1) for word in rows["split"].tolist()])
    crossed, both = judge_crossings(rows, places, split, split_of)
    found += crossed
    keys = places[joined] * 2 + (rows["photo_1"] > rows["photo_2"])[joined]
    orders = len(np.unique(keys)) - len(np.unique(places[joined]))
    repeated = int(joined.sum()) - len(np.unique(keys)) - both
    if orders:
        found.append(BOTH_ORDERS.found(pairs=orders))
    if repeated > 0:
        found.append(REPEATED.found(rows=repeated))
    present = np.zeros(len(official), bool)
    present[places[joined]] = True
    if not present.all():
        subset, wrong = name_missing(present, split_of, official)
        found.append((SUBSET if wrong else WHOLE_LIST).found(subset=subset))
    return found


def judge_crossings(rows, places, split, split_of):
    """(findings on pairs that the file has in another split, how many are in both).

    split [R]: 0 for train, 1 for val, -1 where the file does not say.
    """
    marked = (places >= 0) & (split >= 0)
    twice = [np.unique(places[marked & (split == s)]) for s in (0, 1)]
    both = np.intersect1d(*twice)
    if len(both):
        return [IN_BOTH.found(pairs=len(both))], len(both)
    wrong = marked & (split != split_of[places])
    if not wrong.any():
        return [], 0
    cut = [set(rows["series"][marked & (split == s)].tolist()) for s in (0, 1)]
    series, shared = len(cut[0] | cut[1]), len(cut[0] & cut[1])
    if shared:
        return [CUT_SERIES.found(series=percent(shared, series))], 0
    return [OTHER_SPLIT.found(pairs=percent(int(wrong.sum()), int(marked.sum())))], 0


@instrument("labels")
def main(argv=None):
    """Gives the verdict after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("labels", type=Path, metavar="FILE", help="another source of labels")
    parser.add_argument("--data", required=True, help="folder of the dataset; photos may be absent")
    add_column_flags(parser, "label")
    parser.add_argument("--base", type=int, choices=(0, 1), help="lowest photo number in FILE")
    parser.add_argument("--align", type=Path, metavar="OUT", help="recover permuted photo numbers")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    args = parser.parse_args(argv)
    names = named_columns(args.columns, COLUMNS)
    check_new("--align", args.align)
    if args.align and read_table(args.labels, names)[1] not in ("votes_1", "preference"):
        stop(__file__, "--align: labels alone fit many numberings; it takes votes or preferences")
    verdict, evidence, mine, official = audit_labels(
        args.data, args.labels, names, args.base, args.label_1_means
    )
    if args.align:
        lines = write_alignment(args.align, mine, official)
        evidence += [ALIGNED.found(line=line) for line in lines]
    give_verdict(verdict, evidence, args.json)
