"""Judges anybody's predictions by the official lists: the verdict first, the evidence below.

    python -m diagnose.judge --predictions mine.tsv --data data/phototriage
        [--reported-accuracy .70] [--repeated again.tsv] [--rebatched other.tsv]

Exit code 0: healthy, 1: a defect is established, 2: cannot judge. Photos are not needed.

A predictions file is tab- or comma-separated, with the columns photo_1 and photo_2 (file names,
or numbers beside a column series) and logit_1 logit_2, prob_1 prob_2, logprob_1 logprob_2, or one
of prob_1, prob_2, score_1, score_2; _1 speaks for photo_1. A label column may hold the labels
that the variant used (0: photo_1 is preferred).
"""

import math
from pathlib import Path

import numpy as np

from data import photo_names
from diagnose.audit import (
    TABLE,
    find_common,
    name_relation,
    pair_keys,
    read_official,
    read_photo,
    read_rows,
    turn_pairs,
)
from disk.errors import command_line, stop, stop_on
from run import scores as figures
from run import sheet
from run.scores import BELOW_CHANCE, ENOUGH, against_chance, give_verdict, percent

SCORES = ("logit", "prob", "logprob", "score")


def read_predictions(path):
    """A predictions file: rows [R] of TABLE with its labels, log-probabilities [R, 2], True.

    Where it holds one score a pair, the second are the score and its opposite, and the third is
    False: no loss, no calibration. Ends the program with the line that is wrong.
    """
    header, rows, first = read_rows(path)
    place = {name: header.index(name) for name in header}
    kinds = [(f"{kind}_1", f"{kind}_2") for kind in SCORES[:3]]
    kinds += [(f"{kind}_{side}",) for kind in ("prob", "score") for side in (1, 2)]
    kind = next((kind for kind in kinds if set(kind) <= set(place)), None)
    if kind is None or not {"photo_1", "photo_2"} <= set(place):
        stop(__file__, f"{path}: columns {', '.join(header)}: what are they? See --help")
    table, scores = [], []
    for number, row in enumerate(rows, first):
        where = f"{path}:{number}"
        series, photo_1 = read_photo(row[place["photo_1"]].strip(), where)
        _, photo_2 = read_photo(row[place["photo_2"]].strip(), where)
        if "series" in place:
            series = read_photo(row[place["series"]].strip(), where)[1]
        label = row[place["label"]].strip() if "label" in place else ""
        if label not in ("0", "1", "") or series is None:
            stop(__file__, f"{where}: label {label!r} is neither 0, 1 nor empty, or no series")
        scores.append(read_scores([row[place[name]] for name in kind], kind, where))
        table.append((series, photo_1, photo_2, int(label or -1), 0, 0, False, ""))
    return np.array(table, dtype=TABLE), np.array(scores), not kind[0].startswith("score")


def read_scores(texts, kind, where):
    """Two log-probabilities, or two opposite scores, from the texts of one row."""
    with stop_on(__file__, where, ValueError):
        values = [float(text) for text in texts]
    if not all(map(math.isfinite, values)):
        stop(__file__, f"{where}: {' '.join(texts)} is not finite")
    if len(values) == 1:
        other = 1 - values[0] if kind[0].startswith("prob") else -values[0]
        values = [values[0], other] if kind[0].endswith("1") else [other, values[0]]
    if kind[0].startswith("prob"):
        if min(values) < 0 or abs(sum(values) - 1) > 1e-3:
            stop(__file__, f"{where}: {' '.join(texts)} are no probabilities that add up to 1")
        return [math.log(max(value, 1e-12)) for value in values]
    largest = max(values)
    norm = largest + math.log(sum(math.exp(value - largest) for value in values))
    if kind[0].startswith("logprob") and abs(norm) > 1e-3:
        stop(__file__, f"{where}: {' '.join(texts)} are no log-probabilities; logits, perhaps")
    return values if kind[0].startswith("score") else [value - norm for value in values]


def put_in_order(table, scores):
    """Table and scores with photo_1 < photo_2, as the official lists have it, a row a pair."""
    table, scores = table.copy(), scores.copy()
    turned = turn_pairs(table)
    scores[turned] = scores[turned, ::-1]
    known = turned & (table["label"] >= 0)
    table["label"][known] = 1 - table["label"][known]
    _, first = np.unique(pair_keys(table), return_index=True)
    return table[first], scores[first], len(table) - len(first)


# Judging


def judge(pairs, scores, own=None, reported=(), with_loss=True):
    """(verdict, exit code, evidence) on scores [P, 2] of labelled official pairs [P] of PAIR.

    own: rows of TABLE with the labels that the variant used, or None; reported: the accuracies
    that it printed, as texts, one per epoch; with_loss: whether the scores are log-probabilities.
    """
    verdict, code, evidence = figures.judge(pairs, scores, with_loss)
    if own is not None and (own["label"] >= 0).sum() >= ENOUGH:
        relation, wrong, lines = name_relation(own, pairs, False, np.array([], int))
        evidence += [f"the file's labels: {line}" for line in lines]
        if wrong == 1:
            used = float((scores.argmax(1) == own["label"])[own["label"] >= 0].mean())
            evidence.append(f"accuracy on the file's own labels: {used:.4f}")
            about = "labels " if relation.startswith(("inverted", "partly")) else ""
            return about + relation, 1, evidence
    if reported:
        correct = scores.argmax(1) == pairs["label"]
        _, below = against_chance(pairs["label"], correct)
        found = judge_reported(reported, int(correct.sum()), len(pairs), below, evidence)
        if found:
            return found, 1, evidence
    return verdict, code, evidence


def judge_reported(reported, hits, count, below, evidence):
    """The verdict on reported accuracies whose best is not that of the predictions, or None."""
    best, accuracy = max(reported, key=float), hits / count
    digits = len(best.partition(".")[2])
    value = float(best)
    near = max(1 / count, 0.5 * 10**-digits) + 1e-9
    evidence.append(f"reported accuracy {best}, recomputed {accuracy:.4f}")
    whole = abs(value * count - round(value * count)) <= count * 10**-digits
    if digits >= 4 and not whole and abs(value - accuracy) < 0.05:
        evidence.append(f"{best} x {count} is no whole number")
        return "accuracy averaged per batch"
    if abs(value - accuracy) <= near:
        return None
    if abs(value + accuracy - 1) <= near:
        both = below < BELOW_CHANCE
        return "loss and metric both inverted" if both else "metric inverted"
    if len(reported) > 1 and abs(float(reported[-1]) - accuracy) <= near:
        return (
            f"last checkpoint saved as the best: {accuracy:.4f} where epoch "
            f"{reported.index(best) + 1} had {best}"
        )
    return f"reported accuracy {best} is not that of these predictions ({accuracy:.4f})"


def compare_files(scores, table, path, tolerance):
    """Largest difference of the scores of a second predictions file, or None within tolerance."""
    again, other, _ = put_in_order(*read_predictions(Path(path))[:2])
    if not np.array_equal(pair_keys(again), pair_keys(table)):
        stop(__file__, f"{path}: other pairs than in --predictions")
    gap = float(np.abs(other - scores).max())
    return gap if gap > tolerance else None


def score_predictions(args):
    """Verdict on a predictions file, by the official lists; photos are not needed."""
    table, scores, with_loss = read_predictions(Path(args.predictions))
    table, scores, repeated = put_in_order(table, scores)
    official, problems = read_official(args.data)
    if problems:
        stop(__file__, problems[0])
    everything = np.concatenate([official[split][0] for split in ("train", "val")])
    rows, places = find_common(table, everything)
    own, pairs, everywhere, scores = table[rows], everything[places], scores, scores[rows]
    counts = [f"{percent(len(own), len(table))} pairs of the file are official pairs"]
    for split in ("train", "val"):
        there = np.isin(pair_keys(pairs), pair_keys(official[split][0])).sum()
        counts.append(f"{split}: {percent(int(there), len(official[split][0]))} of its pairs")
    if len(own) == 0:
        return "cannot judge: none of the pairs is an official pair", 2, counts
    unstable = None
    for name, tolerance, word in (
        ("repeated", 1e-6, "two evaluations differ: dropout, or something random, is active"),
        ("rebatched", 1e-3, "scores change with batching: BatchNorm is in training mode"),
    ):
        path = getattr(args, name, None)
        gap = compare_files(everywhere, table, path, tolerance) if path else None
        if gap is not None and unstable is None:
            unstable = word
            counts.append(f"--{name}: log-probabilities differ by up to {gap:.2g}")
    verdict, code, evidence = judge(pairs, scores, own, args.reported_accuracy, with_loss)
    if unstable:
        verdict, code = unstable, 1
    if repeated:
        evidence.append(f"{repeated} pairs stand more than once; the first counts")
    missing = [] if (own["label"] >= 0).any() else ["the labels used (no label column)"]
    missing += [] if args.reported_accuracy else ["the metric (no --reported-accuracy)"]
    missing += [] if with_loss else ["loss and calibration (only scores)"]
    evidence.append(f"not checked: {', '.join([*missing, 'what needs the model'])}")
    if args.sheet:
        folder = official["val"][2]
        names, _ = photo_names(pairs, folder)
        sheet.draw_errors(args.sheet, pairs, names, folder, scores)
    return verdict, code, [*counts, *evidence]


def main(argv=None):
    """Judges after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--predictions", metavar="FILE", required=True, help="of any origin")
    parser.add_argument("--data", required=True, help="folder of the dataset; photos may be absent")
    parser.add_argument("--reported-accuracy", nargs="+", metavar="A", default=[],
                        help="what your program printed: .70, or one value per epoch")  # fmt: skip
    for name, word in (("repeated", "again"), ("rebatched", "again, in batches of another size")):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"predictions made {word}")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="picture of the worst errors")
    parser.add_argument("--json", action="store_true", help="the verdict as JSON")
    args = parser.parse_args(argv)
    for reported in args.reported_accuracy:
        with stop_on(__file__, f"--reported-accuracy {reported}", ValueError):
            value = float(reported)
        if not 0 <= value <= 1:
            stop(__file__, f"--reported-accuracy {reported}: a fraction from 0 to 1")
    if args.sheet and args.sheet.exists():
        stop(__file__, f"--sheet {args.sheet}: exists already")
    give_verdict(*score_predictions(args), args.json)


if __name__ == "__main__":
    main()
