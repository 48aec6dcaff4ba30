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

from diagnose.dataset import SPLITS, read_labelled
from diagnose.labels import search as labels
from diagnose.labels.align import write_alignment
from diagnose.tables import COLUMNS, UNDECIDED, merge_votes, named_columns, read_table
from disk.errors import command_line, instrument, stop
from disk.files import check_new
from run.scores import ENOUGH, give_verdict, percent

SPLIT_WORDS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1}


def audit_labels(root, path, names, base):
    """(verdict, exit code, evidence, rows of the file, official pairs) on a labels file."""
    _, official, split_of = read_labelled(root)
    table, kind = read_table(path, names)
    with_votes = kind in ("votes_1", "preference")
    rows, repeated = merge_votes(table) if with_votes else (table, 0)
    if not repeated:
        rows = table.copy()  # in the file's own order
    if base == 0:
        rows["photo_1"] += 1
        rows["photo_2"] += 1
    search = labels.explain(rows, official, split_of, with_votes)
    best = search[0]
    places = best.places if best else labels.find_plain(rows, official)[0]
    verdict, code, evidence = name_labels(search, rows, places, official, with_votes)
    if repeated:
        evidence.append(f"{repeated:,} pairs stand in several rows; their votes were added")
    if code != 2:
        sets = judge_sets(rows, places, split_of, official, with_votes)
        convention = best and best.words == (labels.FROM_0,) and base is None
        if sets and (verdict == "equal" or convention):
            verdict, code = "the labels are the official ones", 0
        words = [text for text, _ in sets]
        code = max([code, *(wrong for _, wrong in sets)])
        verdict = "; ".join([verdict, *words])
        if convention and code == 1 and not any(wrong for _, wrong in sets):
            verdict, code = verdict.replace("the official labels with 1 change: ", "equal, "), 0
    return verdict, code, evidence, rows, official


def name_labels(search, rows, places, official, with_votes):
    """(verdict, exit code, evidence) on the labels of the rows, whichever pairs they are."""
    (best, alike, following, tried), joined = search, places >= 0
    matched = f"{percent(int(joined.sum()), len(rows))} rows of the file are official pairs"
    label, truth = rows["label"][joined], official["label"][places[joined]]
    truth = np.where(rows["photo_1"] > rows["photo_2"], 1, 0)[joined] ^ truth
    told = (label != UNDECIDED) & ~(with_votes & (official["preference"][places[joined]] == 0.5))
    label, truth = label[told], truth[told]
    if len(label) < ENOUGH:
        word = "other pairs" if joined.mean() < 0.5 else f"cannot judge: only {len(label)} labels"
        return f"{word}: {matched}", 2, []
    evidence = [matched, f"{tried:,} chains of changes to the official lists were tried"]
    if rows["strange_winner"].any():
        strange = int(rows["strange_winner"].sum())
        evidence.append(f"the winner is neither photo in {percent(strange, len(rows))} rows")
    if best is None:
        return name_unexplained(label, truth, following, rows, places, official, evidence)
    evidence.append(f"label 1 in {label.mean():.4f} of the rows")
    wrong, right = int(best.wrong.sum()), best.judged - int(best.wrong.sum())
    evidence.append(f"reproduced: {percent(right, best.judged)} labels")
    if following:
        evidence.append(f"next best, {describe_chain(following)}")
    evidence += [f"not to be told apart from: {' and '.join(words)}" for words in alike]
    noise = "are wrong by none of the rules tried"
    if with_votes:
        noise = "differ from what the file's votes or preferences say"
    noise = f"{percent(wrong, best.judged)} labels {noise}" if wrong else ""
    if wrong:
        lines = ", ".join(map(str, rows["line"][best.wrong][:10]))
        evidence.append(f"these are in lines {lines}" + ", ..." * (wrong > 10))
    if not best.words:
        return (noise, 1, evidence) if wrong else ("equal", 0, evidence)
    count = f"{len(best.words)} change{'s' * (len(best.words) > 1)}"
    verdict = f"the official labels with {count}: {' and '.join(best.words)}"
    return f"{verdict}; besides, {noise}" if wrong else verdict, 1, evidence


def describe_chain(chain):
    """The changes of a chain, and how many labels they reproduce."""
    right = percent(chain.judged - int(chain.wrong.sum()), chain.judged)
    return f"{' and '.join(chain.words) or 'no change'}: {right}"


def name_unexplained(label, truth, following, rows, places, official, evidence):
    """The verdict on labels that no chain of changes reproduces.

    In a series of two photos a swap of the numbers keeps the strength |preference - 0.5| and turns
    its sign: strength that correlates while the sign does not proves that numbers are permuted.
    """
    agree, count = int((label == truth).sum()), len(label)
    agreement = f"labels agree on {percent(agree, count)}"
    if following:
        evidence.append(f"nearest, {describe_chain(following)}")
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
        evidence.append(
            f"series of two photos: strength correlates {both:.4f}, "
            f"the sign agrees on {percent(same, len(mine))}"
        )
        if both > 0.9 and abs(2 * same / len(mine) - 1) < 0.2:
            evidence.append("--align OUT recovers the numbering from the preferences")
            return f"photo numbers permuted within series: {agreement}", 1, evidence
    if abs(2 * agree / count - 1) < 0.2:
        words = "no chain of changes reproduces the labels, which agree as unrelated ones would"
        return f"not established: {words}: {agreement}", 1, evidence
    return f"not established: no chain of changes reproduces the labels; {agreement}", 1, evidence


# Which pairs


def judge_sets(rows, places, split_of, official, with_votes):
    """[(words, exit code)] on pairs that are missing, too many, or in the wrong split."""
    found, joined = [], places >= 0
    if not joined.all():
        line = rows["line"][~joined][0]
        count = percent(int((~joined).sum()), len(rows))
        found.append((f"{count} rows are no official pairs, first line {line}", 1))
    split = np.array([SPLIT_WORDS.get(word.lower(), -1) for word in rows["split"].tolist()])
    strange = sorted({w for w in rows["split"].tolist() if w and w.lower() not in SPLIT_WORDS})
    if strange:
        found.append((f"the split column is not checked: {', '.join(strange[:3])}", 1))
    empty = int((rows["label"] == UNDECIDED).sum())
    if empty and not with_votes:
        found.append((f"{percent(empty, len(rows))} rows have no label", 1))
    marked = joined & (split >= 0)
    twice = [np.unique(places[marked & (split == s)]) for s in (0, 1)]
    both = np.intersect1d(*twice)
    if len(both):
        found.append((f"{len(both):,} pairs stand in both train and val", 1))
    elif (wrong := marked & (split != split_of[places])).any():
        cut = [set(rows["series"][marked & (split == s)].tolist()) for s in (0, 1)]
        series, shared = len(cut[0] | cut[1]), len(cut[0] & cut[1])
        text = f"another split: {percent(int(wrong.sum()), int(marked.sum()))} pairs change sides"
        if shared:
            text = f"a split drawn over pairs: {percent(shared, series)} series are cut"
        found.append((text, 1))
    keys = places[joined] * 2 + (rows["photo_1"] > rows["photo_2"])[joined]
    orders = len(np.unique(keys)) - len(np.unique(places[joined]))
    repeated = int(joined.sum()) - len(np.unique(keys)) - len(both)
    if orders:
        found.append((f"both orders counted: {orders:,} pairs stand in both", 1))
    if repeated > 0:
        found.append((f"{repeated:,} rows repeat a pair", 1))
    present = np.zeros(len(official), bool)
    present[places[joined]] = True
    return found + ([] if present.all() else [name_missing(present, split_of, official)])


def name_missing(present, split_of, official):
    """(words, exit code) on a subset of the official pairs: by which rule it was taken, if any."""
    whole = [bool(present[split_of == s].all()) for s in (0, 1)]
    none = [(split_of == s).any() and not present[split_of == s].any() for s in (0, 1)]
    for s in (0, 1):
        if whole[s] and none[1 - s]:
            return f"the whole {SPLITS[s]} list, and nothing of {SPLITS[1 - s]}", 0
    agreement = np.maximum(official["preference"], 1 - official["preference"])
    _, place, sizes = np.unique(official["series"], return_inverse=True, return_counts=True)
    photos = np.round((1 + np.sqrt(1 + 8 * sizes)) / 2).astype(int)[place]
    row = np.where(
        split_of == 0, np.arange(len(official)), np.arange(len(official)) - (split_of == 0).sum()
    )
    inside = ~np.isin(split_of, [s for s in (0, 1) if none[s]])
    for words, values in (
        ("agreement of at least {low:.3g}", agreement),
        ("at most {high} photos in the series", -photos),
        ("at least {low:g} photos in the series", photos),
        ("the first {count:,} rows of a list", -row),
        ("the last rows of a list, from row {low:g} on, counted from 0", row),
    ):
        low = between(values[~present & inside], values[present].min())
        if np.array_equal(present[inside], (values >= low - 1e-9)[inside]):
            where = f" ({SPLITS[none.index(False)]} alone)" if any(none) else ""
            text = words.format(low=low, high=int(-low), count=int(1 - low))
            return f"only pairs of a subset{where}: {text}; {counts(present, split_of)}", 1
    return f"{counts(present, split_of)}, by none of the rules tried", 1


def between(below, low):
    """The shortest number above all of `below` and not above `low`."""
    top = max((float(value) for value in below if value < low), default=-np.inf)
    numbers = (math.floor(low * 10**digits + 1e-9) / 10**digits for digits in range(4))
    return next((number for number in numbers if top < number <= low), low)


def counts(present, split_of):
    """How many pairs of each list are missing."""
    words = []
    for s in (0, 1):
        there = present[split_of == s]
        if not there.all():
            words.append(
                f"{percent(int((~there).sum()), len(there))} {SPLITS[s]} pairs are missing"
            )
    return " and ".join(words)


@instrument("labels")
def main(argv=None):
    """Gives the verdict after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("labels", type=Path, metavar="FILE", help="another source of labels")
    parser.add_argument("--data", required=True, help="folder of the dataset; photos may be absent")
    parser.add_argument("--columns", nargs="+", default=[], metavar="OURS=THEIRS")
    parser.add_argument("--base", type=int, choices=(0, 1), help="lowest photo number in FILE")
    parser.add_argument("--align", type=Path, metavar="OUT", help="recover permuted photo numbers")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    args = parser.parse_args(argv)
    names = named_columns(args.columns, COLUMNS)
    check_new("--align", args.align)
    if args.align and read_table(args.labels, names)[1] not in ("votes_1", "preference"):
        stop(__file__, "--align: labels alone fit many numberings; it takes votes or preferences")
    found = audit_labels(args.data, args.labels, names, args.base)
    verdict, code, evidence, mine, official = found
    if args.align:
        evidence += write_alignment(args.align, mine, official)
    give_verdict(verdict, code, evidence, args.json)
