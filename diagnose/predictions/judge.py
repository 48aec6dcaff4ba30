"""Judges anybody's predictions by the official lists: the verdict first, the evidence below.

    python -m diagnose predictions mine.tsv --data data/phototriage
        [--reported-accuracy .70] [--repeated again.tsv] [--rebatched other.tsv]

Exit code 0: healthy, 1: a defect is established, 2: cannot judge. Photos are not needed.

A predictions file is tab- or comma-separated, with the columns photo_1 and photo_2 (file names,
or numbers and a column series) and logit_1 logit_2, prob_1 prob_2, logprob_1 logprob_2, one of
prob_1, prob_2, score_1, score_2, predicted (0: photo_1) or winner (a photo); _1 speaks for photo_1.
A label column may hold the labels that your loss used (0: photo_1 is preferred). Other names:
--columns photo_1=left ...
"""

import math
import re
from pathlib import Path

import numpy as np

from diagnose.dataset import SPLITS
from diagnose.labels import search as labels
from diagnose.labels.subsets import name_missing
from diagnose.predictions.arithmetics import arithmetics
from diagnose.predictions.contradictions import contradictions, is_misaligned
from diagnose.predictions.reading import COLUMNS, LEAST, join, read_predictions
from diagnose.tables import (
    TABLE,
    UNDECIDED,
    add_column_flags,
    named_columns,
)
from disk.errors import command_line, instrument, stop
from disk.files import check_new
from disk.layout import photo_names
from disk.pairlist import LONGEST
from run import scores as figures
from run import sheet
from run.findings import CAUSE, EQUAL, SKIPPED, UNEXPLAINED, give_verdict, rows_of
from run.scores import ENOUGH, percent

NAMED = 4  # digits from which on a figure names its arithmetic
NEAR_HALF = 0.05  # so near a half, a figure may be 1 - accuracy by chance


row = rows_of("predictions")


NONE_OFFICIAL = row("none_official", SKIPPED, "cannot judge: none of the pairs is an official pair")
OFFICIAL = row("official_rows", EQUAL, "{rows} rows are official pairs")
OF_SPLIT = row("of_split", EQUAL, "{split}: {pairs} of its pairs")
TRAINING = row(
    "training_pairs", CAUSE, "training pairs ({pairs:,}): they say nothing of other photos"
)
SOME_TRAINING = row("some_training_pairs", CAUSE, "{pairs} pairs are training pairs")
PART_OF_VAL = row("part_of_val", CAUSE, "not all of val: {subset}")
STRANGE = row("not_official", CAUSE, "{rows} rows are no official pairs")
REPEATED = row("repeated", CAUSE, "{rows} rows repeat a pair; the first one counts")
OWN_ACCURACY = row("own_accuracy", EQUAL, "accuracy on the file's own labels: {accuracy:.4f}")
OWN_ALIKE = row("own_labels_alike", EQUAL, "its labels are not to be told apart from: {changes}")
OWN_UNEXPLAINED = row(
    "own_labels_unexplained",
    UNEXPLAINED,
    "the file's labels: none of {tried:,} chains of changes gives them",
)
OWN_WRONG = row(
    "own_labels_wrong",
    UNEXPLAINED,
    "the file's labels: {wrong} wrong by none of the rules tried",
)
OWN_CHANGED = row(
    "own_labels_changed",
    CAUSE,
    "the file's labels: {changes}[, {wrong} wrong by none of the rules tried]",
)
MISALIGNED = row(
    "rows_of_other_pairs",
    CAUSE,
    "the predictions fit the file's labels ({accuracy:.4f}), and neither fits the photo names: the "
    "rows are in another order than the names, as of a shuffled loader",
)
REPORTED = row("reported", EQUAL, "reported accuracy {reported}, recomputed {accuracy:.4f}")
OTHER_EPOCH = row(
    "other_epoch",
    CAUSE,
    "the file is of epoch {epochs} ({accuracy:.4f}), not of the best ({best})",
)
LAST_EPOCH = row(
    "last_epoch",
    CAUSE,
    "the last checkpoint was saved as the best, or the file is of epoch {epochs} "
    "({accuracy:.4f}), not of the best ({best})",
)
METRIC_INVERTED = row(
    "metric_inverted", CAUSE, "metric inverted: the reported {reported} is 1 - accuracy"
)
ARITHMETIC = row(
    "arithmetic",
    CAUSE,
    "the reported {reported} is {arithmetic}, not the accuracy ({accuracy:.4f})",
)
COULD_BE = row("could_be", EQUAL, "it could be: {fits} (of {tried} arithmetics)")
NOT_ACCURACY = row(
    "reported_unexplained",
    UNEXPLAINED,
    "not established: the reported {reported} is not the accuracy of these predictions "
    "({accuracy:.4f})",
)
OWN = "its own figure is 1 minus that, as it would be if the outputs were exchanged in this file "
OWN += "alone, or loss and metric inverted both"
OWN_FIGURE = row("own_figure", CAUSE, OWN)
OWN_FIGURE_OR_LABELS = row(
    "own_figure_or_labels", CAUSE, f"{OWN}, or if it measured on labels that it inverts"
)
REBATCHED = row(
    "batching",
    CAUSE,
    "scores change with batching: BatchNorm in training mode, or another model",
)
RANDOM = row("random", CAUSE, "two evaluations differ: dropout, or something random, is active")
DIFFER = row("differ", EQUAL, "--{flag}: log-probabilities differ by up to {difference:.2g}")
ZEROS = row("zeros", EQUAL, "{count} probabilities are 0; the loss counts {least} for each")
NOT_CHECKED = row("not_checked", SKIPPED, "not checked: {what}")


# Which pairs


def judge_pairs(places, split_of, official):
    """(the finding on which official pairs are scored or None, evidence)."""
    known = places >= 0
    there = [np.unique(places[known & (split_of[places] == s)]) for s in (0, 1)]
    rows = percent(int(known.sum()), len(places))
    evidence = [OFFICIAL.found(rows=rows)]
    for s in (1, 0):
        whole = int((split_of == s).sum())
        evidence.append(OF_SPLIT.found(split=SPLITS[s], pairs=percent(len(there[s]), whole)))
    repeated = int(known.sum()) - len(there[0]) - len(there[1])
    if not len(there[1]):
        return TRAINING.found(pairs=len(there[0])), evidence
    if len(there[0]):
        some = percent(len(there[0]), sum(map(len, there)))
        return SOME_TRAINING.found(pairs=some), evidence
    present = np.zeros(len(official), bool)
    present[there[1]] = True
    if not present[split_of == 1].all():
        val = split_of == 1
        subset, _ = name_missing(present[val], split_of[val], official[val])
        return PART_OF_VAL.found(subset=subset), evidence
    if not known.all():
        return STRANGE.found(rows=percent(int((~known).sum()), len(places))), evidence
    return REPEATED.found(rows=repeated) if repeated else None, evidence


# Verdicts


def judge(pairs, scores, own, rows, reported, with_loss, told=None):
    """(findings of the verdict, evidence) on scores [P, 2] of labelled official pairs [P] of PAIR.

    own [P]: the labels that the variant used, UNDECIDED where it does not say; rows: see
    diagnose.predictions.arithmetics; reported: the accuracies that were printed, as
    texts, one an epoch; told: the finding on the file's labels, or None.
    """
    plain, evidence = figures.judge(pairs, scores, with_loss)
    correct = scores.argmax(1) == pairs["label"]
    labelled = bool((own != UNDECIDED).any())
    if plain.row is figures.BELOW and not told:
        values = plain.values | {"meaning": below_words(labelled)}
        plain = figures.BELOW.found(**values)
    verdict = [told, *wrong_of([plain])] if told else [plain]
    if reported:
        found, lines = judge_reported(reported, correct, pairs, scores, own, rows)
        evidence += lines
        below = plain.row is figures.BELOW and not told
        if found and below and found.row is METRIC_INVERTED:
            found = (OWN_FIGURE if labelled else OWN_FIGURE_OR_LABELS).found()
        if found:
            verdict = [*wrong_of(verdict), found]
    contradicting = contradictions(scores, pairs["label"], with_loss)
    return (wrong_of(verdict) if contradicting else verdict) + contradicting, evidence


def wrong_of(findings):
    """The findings that keep a verdict from being healthy."""
    return [finding for finding in findings if finding.kind != EQUAL]


def below_words(labelled):
    """What predictions below chance can mean, by what is known of the labels that were used."""
    if labelled:
        return "the file's labels are right, so the loss inverts them, or the outputs are exchanged"
    return (
        "trained on inverted labels, or the two outputs are exchanged; a label column (the label "
        "that your loss used) would tell"
    )


def judge_own_labels(table, official, split_of, used):
    """(the finding or None where they are official, evidence) on the labels that a variant used.

    table: its rows in the file's order; used: the accuracy of the predictions on these labels.
    """
    best, alike, _, tried = labels.explain(table, official, split_of)
    lines = [OWN_ACCURACY.found(accuracy=used)]
    lines += [OWN_ALIKE.found(changes=labels.join(rules)) for rules in alike]
    if best is None:
        return OWN_UNEXPLAINED.found(tried=tried), lines
    rules = [rule for rule in best.rules if rule != labels.FROM_0]
    if not rules and not best.wrong.any():
        return None, lines
    wrong = percent(int(best.wrong.sum()), best.judged) if best.wrong.any() else None
    changes = labels.join(rules)
    if not rules:
        return OWN_WRONG.found(wrong=wrong), lines
    return OWN_CHANGED.found(changes=changes, wrong=wrong), lines


# Reported figures


def judge_reported(reported, correct, pairs, scores, own, rows):
    """(finding or None, evidence) on reported accuracies whose best is not that of the file."""
    best, accuracy = max(reported, key=float), float(correct.mean())
    digits, value = len(best.partition(".")[2]), float(best)
    near = 10**-digits * (1 - 1e-6)  # rounded, or cut off
    evidence = [REPORTED.found(reported=best, accuracy=accuracy)]
    if abs(value - accuracy) <= near:
        return None, evidence
    same = [i for i, text in enumerate(reported, 1) if abs(float(text) - accuracy) <= near]
    if len(reported) > 1 and same:
        row = LAST_EPOCH if same == [len(reported)] else OTHER_EPOCH
        return row.found(epochs=tuple(same), accuracy=accuracy, best=best), evidence
    ways = arithmetics(correct, pairs, scores, own, rows)
    fits = [name for name, made in ways.items() if abs(made - value) <= near]
    inverted = abs(1 - value - accuracy) <= near
    if inverted and not fits and abs(accuracy - 0.5) > NEAR_HALF + 1e-9:
        return METRIC_INVERTED.found(reported=best), evidence
    told = {"reported": best, "accuracy": accuracy}
    if len(fits) == 1 and not inverted and digits >= NAMED:
        return ARITHMETIC.found(**told, arithmetic=fits[0]), evidence
    fits += ["1 - accuracy"] * inverted
    evidence.append(COULD_BE.found(fits=", ".join(fits) or "none", tried=len(ways) + 1))
    return NOT_ACCURACY.found(**told), evidence


def compare_files(scores, table, path, names, tolerance):
    """Largest difference of the scores of a second predictions file, or None within tolerance."""
    again, other, _ = read_predictions(Path(path), names)
    if len(again) != len(table) or any((again[n] != table[n]).any() for n in TABLE.names[:3]):
        stop(__file__, f"{path}: other pairs, or another order, than in --predictions")
    gap = float(np.abs(other - scores).max())
    return gap if gap > tolerance else None


def verdict_of(joined, reported, with_loss, told_first=()):
    """(findings of the verdict, on which pairs they are, evidence, the pairs [P] of PAIR that
    count, their scores and labels).

    reported: see judge; told_first: findings that stand before the others.
    """
    places, official, split_of = joined.places, joined.official, joined.split_of
    if not (places >= 0).any():
        return [NONE_OFFICIAL.found()], [], [], official[:0], [], []
    about, counts = judge_pairs(places, split_of, official)
    known = places >= 0
    unique, first = np.unique(places[known], return_index=True)
    in_order = joined.scores[known].argmax(1), official["label"][places[known]]
    used = joined.own[known]
    told, lines = None, []
    if (used != UNDECIDED).sum() >= ENOUGH:
        agreed = float((joined.scores[known].argmax(1) == used)[used != UNDECIDED].mean())
        told, lines = judge_own_labels(joined.table, official, split_of, agreed)
        if told and told.row is OWN_UNEXPLAINED and is_misaligned(*in_order, used):
            told = MISALIGNED.found(accuracy=agreed)
    scores, own = joined.scores[known][first], used[first]
    verdict, evidence = judge(official[unique], scores, own, in_order, reported, with_loss, told)
    verdict = [*told_first, *wrong_of(verdict)] if told_first else verdict
    verdict = [about, *verdict] if about else verdict
    return verdict, counts, [*evidence, *lines], official[unique], scores, own


def score_predictions(args):
    """(findings of the verdict, evidence) on a file, by the official lists, without photos."""
    names = named_columns(args.columns, COLUMNS)
    table, plain, with_loss = read_predictions(Path(args.predictions), names, args.label_1_means)
    gaps, differ = [], []
    for name, tolerance, row in (("rebatched", 1e-3, REBATCHED), ("repeated", 1e-6, RANDOM)):
        path = getattr(args, name)
        gap = compare_files(plain, table, path, names, tolerance) if path else None
        if gap is not None:
            differ.insert(0, row.found())
            gaps.append(DIFFER.found(flag=name, difference=gap))
    joined, reported = join(table, plain, args.data), args.reported_accuracy
    told = verdict_of(joined, reported, with_loss, differ)
    verdict, counts, evidence, pairs, scores, own = told
    if not len(pairs):
        return verdict, []
    if args.sheet:
        folder = joined.lists["val"][2]
        photos, _ = photo_names(pairs, folder)
        run = Path(args.predictions).name
        sheet.draw_errors(args.sheet, pairs, photos, folder, scores, run)
    missing = what_is_missing(own, reported, with_loss, plain)
    return verdict, [*counts, *gaps, *evidence, *missing]


def what_is_missing(own, reported, with_loss, plain):
    """Findings on what a file does not let one judge; see judge for the arguments."""
    few = (own != UNDECIDED).sum() < ENOUGH
    missing = [f"the labels used (fewer than {ENOUGH} in a label column)"] if few else []
    missing += [] if reported else ["the metric (no --reported-accuracy)"]
    missing += [] if with_loss else ["loss and calibration (only scores)"]
    zeros = int((plain == math.log(LEAST)).any(1).sum())
    findings = [ZEROS.found(count=zeros, least=LEAST)] * (zeros > 0)
    return [*findings, NOT_CHECKED.found(what=", ".join([*missing, "what needs the model"]))]


@instrument("predictions")
def main(argv=None):
    """Judges after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("predictions", metavar="FILE", help="predictions of any origin")
    parser.add_argument("--data", required=True, help="folder of the dataset; photos may be absent")
    add_column_flags(parser, "label and predicted")
    parser.add_argument("--reported-accuracy", nargs="+", metavar="A", default=[],
                        help="what your program printed: .70, or one value per epoch")  # fmt: skip
    for name, word in (("repeated", "again"), ("rebatched", "again, in batches of another size")):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"predictions made {word}")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="picture of the worst errors")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    args = parser.parse_args(argv)
    for reported in args.reported_accuracy:
        if not re.fullmatch(r"0?\.[0-9]{2,9}|1\.0{2,9}", reported):
            text = "a fraction from 0 to 1 with all its digits, at least two: .70"
            stop(__file__, f"--reported-accuracy {reported[:LONGEST]}: {text}")
    check_new("--sheet", args.sheet)
    give_verdict(*score_predictions(args), args.json)
