"""Judges anybody's predictions by the official lists: the verdict first, the evidence below.

    python -m diagnose.judge --predictions mine.tsv --data data/phototriage
        [--reported-accuracy .70] [--repeated again.tsv] [--rebatched other.tsv]

Exit code 0: healthy, 1: a defect is established, 2: cannot judge. Photos are not needed.

A predictions file is tab- or comma-separated, with the columns photo_1 and photo_2 (file names,
or numbers beside a column series) and logit_1 logit_2, prob_1 prob_2, logprob_1 logprob_2, one of
prob_1, prob_2, score_1, score_2, predicted (0: photo_1) or winner (a photo); _1 speaks for photo_1.
A label column may hold the labels that your loss used (0: photo_1 is preferred). Other names:
--columns photo_1=left ...
"""

import math
import re
from pathlib import Path

import numpy as np

from data import photo_names
from diagnose import labels
from diagnose.audit import SPLITS, name_missing, read_official
from diagnose.tables import (
    LONGEST,
    TABLE,
    UNDECIDED,
    find_column,
    named_columns,
    read_pair,
    read_photo,
    read_rows,
)
from disk.errors import command_line, stop, stop_on
from run import scores as figures
from run import sheet
from run.scores import ENOUGH, give_verdict, percent

SCORES = ("logit", "prob", "logprob", "score")
KINDS = [(f"{kind}_1", f"{kind}_2") for kind in SCORES[:3]]
KINDS += [(f"{kind}_{side}",) for kind in ("prob", "score") for side in (1, 2)]
KINDS += [("predicted",), ("winner",)]
COLUMNS = ("series", "photo_1", "photo_2", "label", *dict.fromkeys(n for k in KINDS for n in k))
BATCHES = (4, 8, 16, 32, 64, 128, 256)
NAMED, INVERTED = 4, 2  # digits from which on a figure names its arithmetic, or 1 - accuracy


def read_predictions(path, names):
    """A predictions file: rows [R] of TABLE with its labels, scores [R, 2], whether with a loss.

    The scores are log-probabilities; where the file holds one score a pair, or a winner, they are
    that score and its opposite, and there is no loss and no calibration. Ends the program with the
    line that is wrong.
    """
    header, rows, first = read_rows(path)
    place = {name: find_column(path, header, name, names) for name in COLUMNS}
    place = {name: column for name, column in place.items() if column is not None}
    kind = next((kind for kind in KINDS if set(kind) <= set(place)), None)
    if kind is None or not {"photo_1", "photo_2"} <= set(place):
        words = ", ".join(header)[:200]
        stop(__file__, f"{path}: columns {words}: name ours with --columns; see --help")
    table, scores = [], []
    for line, row in enumerate(rows, first):
        values, where = (
            {name: row[column].strip() for name, column in place.items()},
            f"{path}:{line}",
        )
        label, pair = values.get("label", ""), read_pair(values, where)
        if label not in ("0", "1", ""):
            stop(__file__, f"{where}: label {label[:LONGEST]!r} is neither 0, 1 nor empty")
        scores.append(read_scores([values[name] for name in kind], kind, pair, where))
        table.append((*pair, int(label or UNDECIDED), 0, 0, False, "", line))
    soft = kind[0].startswith(("logit", "prob", "logprob"))
    return np.array(table, dtype=TABLE), np.array(scores), soft


def read_scores(texts, kind, pair, where):
    """Two log-probabilities, or two opposite scores, from the texts of one row."""
    if kind == ("winner",):
        winner = read_photo(texts[0], where)[1]
        if winner not in pair[1:]:
            stop(__file__, f"{where}: winner {winner} is neither photo")
        return [1.0, -1.0] if winner == pair[1] else [-1.0, 1.0]
    if kind == ("predicted",):
        if texts[0] not in ("0", "1"):
            stop(__file__, f"{where}: predicted {texts[0][:LONGEST]!r} is neither 0 nor 1")
        return [1.0, -1.0] if texts[0] == "0" else [-1.0, 1.0]
    said = " ".join(texts)[:LONGEST]
    with stop_on(__file__, f"{where}: {said}", ValueError, detail=False):
        values = [float(text) for text in texts]
    if not all(map(math.isfinite, values)):
        stop(__file__, f"{where}: {said} is not finite")
    if len(values) == 1:
        other = 1 - values[0] if kind[0].startswith("prob") else -values[0]
        values = [values[0], other] if kind[0].endswith("1") else [other, values[0]]
    if kind[0].startswith("prob"):
        if min(values) < 0 or abs(sum(values) - 1) > 1e-3:
            stop(__file__, f"{where}: {said} are no probabilities that add up to 1")
        return [math.log(max(value, 1e-12)) for value in values]
    largest = max(values)
    norm = largest + math.log(sum(math.exp(value - largest) for value in values))
    if kind[0].startswith("logprob") and abs(norm) > 1e-3:
        stop(__file__, f"{where}: {said} are no log-probabilities; logits, perhaps")
    return values if kind[0].startswith("score") else [value - norm for value in values]


def orient(table, scores, official):
    """(places in the official lists or -1, scores and labels as if photo_1 < photo_2) of rows."""
    places, turned = labels.find_places(table, official, 0, lambda photo, photos: photo)
    own = np.where(turned & (table["label"] >= 0), 1 - table["label"], table["label"])
    return places, np.where(turned[:, None], scores[:, ::-1], scores), own


# Which pairs


def judge_pairs(places, split_of, official):
    """(verdict or None, evidence) on which official pairs are scored."""
    known, evidence = places >= 0, []
    there = [np.unique(places[known & (split_of[places] == s)]) for s in (0, 1)]
    evidence.append(f"{percent(int(known.sum()), len(places))} rows are official pairs")
    for s in (1, 0):
        whole = int((split_of == s).sum())
        evidence.append(f"{SPLITS[s]}: {percent(len(there[s]), whole)} of its pairs")
    repeated = int(known.sum()) - len(there[0]) - len(there[1])
    evidence += [f"{repeated} rows repeat a pair; the first counts"] * bool(repeated)
    if not len(there[1]):
        return f"training pairs ({len(there[0]):,}): they say nothing of other photos", evidence
    if len(there[0]):
        return f"{percent(len(there[0]), sum(map(len, there)))} pairs are training pairs", evidence
    present = np.zeros(len(official), bool)
    present[there[1]] = True
    if not present[split_of == 1].all():
        words = name_missing(
            present[split_of == 1], split_of[split_of == 1], official[split_of == 1]
        )
        return f"not all of val: {words[0]}", evidence
    if not known.all():
        return f"{percent(int((~known).sum()), len(places))} rows are no official pairs", evidence
    return None, evidence


# Verdicts


def judge(pairs, scores, own, order, reported, with_loss):
    """(verdict, exit code, evidence) on scores [P, 2] of labelled official pairs [P] of PAIR.

    own [P]: the labels that the variant used, UNDECIDED where it does not say; order: the places
    in P of the file's rows; reported: the accuracies that were printed, as texts, one an epoch.
    """
    verdict, code, evidence = figures.judge(pairs, scores, with_loss)
    below, told = code == 1 and verdict.startswith("below"), None
    if (own != UNDECIDED).sum() >= ENOUGH:
        told, lines = judge_own_labels(pairs, own, scores)
        evidence += lines
    correct = scores.argmax(1) == pairs["label"]
    if told:
        verdict, code = told, 1
    elif below:
        verdict += ": " + below_words(told, (own != UNDECIDED).any())
    if reported:
        found, lines = judge_reported(reported, correct, pairs, scores, own, order)
        evidence += lines
        if found and below and told is None and found.startswith("metric"):
            found = "its own figure is 1 minus that: the metric is inverted"
            if not (own != UNDECIDED).any():
                found += ", or it measures on labels that it inverts too"
        if found:
            verdict, code = (f"{verdict}; {found}" if code else found), 1
    return verdict, code, evidence


def below_words(told, labelled):
    """What predictions below chance can mean, by what is known of the labels that were used."""
    if labelled:
        return "the file's labels are right, so the loss inverts them, or the outputs are exchanged"
    return (
        "trained on inverted labels, or the two outputs are exchanged; a label column (the label "
        "that your loss used) would tell"
    )


def judge_own_labels(pairs, own, scores):
    """(verdict or None where they are official, evidence) on the labels that a variant used."""
    rows = np.zeros(len(pairs), TABLE)
    for name in ("series", "photo_1", "photo_2"):
        rows[name] = pairs[name]
    rows["label"], rows["line"] = own, pairs["line"]
    known = own != UNDECIDED
    best, alike, _, tried = labels.explain(rows, pairs, np.ones(len(pairs), int))
    used = float((scores.argmax(1) == own)[known].mean())
    lines = [f"accuracy on the file's own labels: {used:.4f}"]
    lines += [f"its labels are not to be told apart from: {' and '.join(w)}" for w in alike]
    right = int((own == pairs["label"])[known].sum())
    if best is None:
        text = f"the file's labels are not established: {percent(right, int(known.sum()))} official"
        return f"{text}, and none of {tried:,} chains of changes gives them", lines
    if not best.words and not best.wrong.any():
        return None, lines
    wrong = f"{percent(int(best.wrong.sum()), best.judged)} wrong by no rule"
    words = " and ".join(best.words) or "official but for these"
    return f"the file's labels: {words}" + f", {wrong}" * bool(best.wrong.any()), lines


# Reported figures


def judge_reported(reported, correct, pairs, scores, own, order):
    """(verdict or None, evidence) on reported accuracies whose best is not that of the file."""
    best, accuracy = max(reported, key=float), float(correct.mean())
    digits, value = len(best.partition(".")[2]), float(best)
    near = 0.5 * 10**-digits + 1e-9
    evidence = [f"reported accuracy {best}, recomputed {accuracy:.4f}"]
    if abs(value - accuracy) <= max(near, 1 / len(pairs) + 1e-9):
        return None, evidence
    if abs(1 - value - accuracy) <= near and digits >= INVERTED:
        return f"metric inverted: the reported {best} is 1 - accuracy", evidence
    if len(reported) > 1 and abs(float(reported[-1]) - accuracy) <= near:
        place = reported.index(best) + 1
        text = f"last checkpoint saved as the best: {accuracy:.4f} where epoch {place} had {best}"
        return text, evidence
    ways = arithmetics(correct, pairs, scores, own, order)
    fits = [name for name, made in ways.items() if abs(made - value) <= near]
    if len(fits) == 1 and digits >= NAMED:
        return f"the reported {best} is {fits[0]}, not the accuracy ({accuracy:.4f})", evidence
    evidence.append(f"it could be: {', '.join(fits) or 'none'} (of {len(ways)} arithmetics)")
    text = f"not established: the reported {best} is not the accuracy of these predictions"
    return f"{text} ({accuracy:.4f})", evidence


def arithmetics(correct, pairs, scores, own, order):
    """{name: value} of what people report in the place of an accuracy, equal values once.

    order: the places of the file's rows, by which it was evaluated in batches.
    """
    truth, predicted, rows = pairs["label"], scores.argmax(1), correct[order]
    agreement = np.maximum(pairs["preference"], 1 - pairs["preference"]) + 1e-9
    ways = {f"the recall of label {c}": correct[truth == c] for c in (0, 1)}
    ways |= {f"the precision of label {c}": correct[predicted == c] for c in (0, 1)}
    ways |= {f"that of the pairs with at least .{k} agreement": correct[agreement >= k / 10]
             for k in (6, 7, 8, 9)}  # fmt: skip
    ways["the share of label 1"], ways["the share of predicted 1"] = truth, predicted
    ways["that of all rows, repeated pairs and all"] = rows
    if (own != UNDECIDED).any():
        ways["that on the file's own labels"] = (predicted == own)[own != UNDECIDED]
    for size in BATCHES:
        if size < len(rows):
            groups = [rows[i : i + size] for i in range(0, len(rows), size)]
            ways[f"the mean over batches of {size}"] = [group.mean() for group in groups]
            ways[f"that of the last batch of {size}"] = groups[-1]
            ways[f"that of the first batch of {size}"] = groups[0]
            ways[f"that without the last batch of {size}"] = rows[: len(groups[:-1]) * size]
    values = {name: float(np.mean(v)) for name, v in ways.items() if len(v)}
    values["the mean of both recalls"] = np.mean([correct[truth == c].mean() for c in (0, 1)])
    top, series, *_ = figures.rank_series(pairs, scores)
    values["the share of series whose best photo is found"] = top / max(series, 1)
    equal = {}
    for name, v in values.items():
        equal.setdefault(round(float(v), 9), []).append(name)
    return {" or ".join(names): v for v, names in equal.items()}


def compare_files(scores, table, path, names, tolerance):
    """Largest difference of the scores of a second predictions file, or None within tolerance."""
    again, other, _ = read_predictions(Path(path), names)
    if len(again) != len(table) or any((again[n] != table[n]).any() for n in TABLE.names[:3]):
        stop(__file__, f"{path}: other pairs, or another order, than in --predictions")
    gap = float(np.abs(other - scores).max())
    return gap if gap > tolerance else None


def score_predictions(args):
    """Verdict on a predictions file, by the official lists; photos are not needed."""
    names = named_columns(args.columns, COLUMNS)
    table, plain, with_loss = read_predictions(Path(args.predictions), names)
    lists, problems = read_official(args.data)
    if problems:
        stop(__file__, problems[0])
    official = np.concatenate([lists[split][0] for split in SPLITS])
    split_of = np.repeat([0, 1], [len(lists[split][0]) for split in SPLITS])
    places, scores, own = orient(table, plain, official)
    if not (places >= 0).any():
        return "cannot judge: none of the pairs is an official pair", 2, []
    about, counts = judge_pairs(places, split_of, official)
    known = places[places >= 0]
    unique, first, order = np.unique(known, return_index=True, return_inverse=True)
    scores, own = scores[places >= 0][first], own[places >= 0][first]
    reported = args.reported_accuracy
    verdict, code, evidence = judge(official[unique], scores, own, order, reported, with_loss)
    for name, tolerance, word in (
        ("rebatched", 1e-3, "scores change with batching: BatchNorm is in training mode"),
        ("repeated", 1e-6, "two evaluations differ: dropout, or something random, is active"),
    ):
        path = getattr(args, name)
        gap = compare_files(plain, table, path, names, tolerance) if path else None
        if gap is not None:
            verdict, code = word, 1
            counts.append(f"--{name}: log-probabilities differ by up to {gap:.2g}")
    if about:
        verdict, code = f"{about}; {verdict}", max(code, 1)
    missing = [] if (own != UNDECIDED).any() else ["the labels used (no label column)"]
    missing += [] if reported else ["the metric (no --reported-accuracy)"]
    missing += [] if with_loss else ["loss and calibration (only scores)"]
    evidence.append(f"not checked: {', '.join([*missing, 'what needs the model'])}")
    if args.sheet:
        folder = lists["val"][2]
        photos, _ = photo_names(official[unique], folder)
        sheet.draw_errors(args.sheet, official[unique], photos, folder, scores)
    return verdict, code, [*counts, *evidence]


def main(argv=None):
    """Judges after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--predictions", metavar="FILE", required=True, help="of any origin")
    parser.add_argument("--data", required=True, help="folder of the dataset; photos may be absent")
    parser.add_argument("--columns", nargs="+", default=[], metavar="OURS=THEIRS")
    parser.add_argument("--reported-accuracy", nargs="+", metavar="A", default=[],
                        help="what your program printed: .70, or one value per epoch")  # fmt: skip
    for name, word in (("repeated", "again"), ("rebatched", "again, in batches of another size")):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"predictions made {word}")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="picture of the worst errors")
    parser.add_argument("--json", action="store_true", help="the verdict as JSON")
    args = parser.parse_args(argv)
    for reported in args.reported_accuracy:
        if not re.fullmatch(r"0?\.[0-9]{2,9}|1\.0{2,9}", reported):
            text = "a fraction from 0 to 1 with all its digits, at least two: .70"
            stop(__file__, f"--reported-accuracy {reported[:LONGEST]}: {text}")
    if args.sheet and args.sheet.exists():
        stop(__file__, f"--sheet {args.sheet}: exists already")
    give_verdict(*score_predictions(args), args.json)


if __name__ == "__main__":
    main()
