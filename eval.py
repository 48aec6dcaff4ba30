"""Scores a run, or anybody's predictions file, gives a verdict, and ranks your own photos.

    python eval.py --run runs/train_resnet --data data/phototriage [--split val|train|test]
    python eval.py --predictions mine.tsv --data data/phototriage [--reported-accuracy .70]
    python eval.py --run runs/train_resnet --photos A.jpg B.jpg C.jpg [--sheet ranked.png]

The first line is the verdict, the evidence stands below. Exit code 0: healthy, 1: a defect is
established, 2: cannot judge. A run's predictions go to RUN/predictions_SPLIT.tsv; for val that
file equals the training run's predictions.tsv.

A predictions file is tab- or comma-separated, with the columns photo_1 and photo_2 (file names,
or numbers beside a column series) and logit_1 logit_2, prob_1 prob_2, logprob_1 logprob_2, or one
of prob_1, prob_2, score_1, score_2; _1 speaks for photo_1. A label column may hold the labels
that the variant used (0: photo_1 is preferred). It needs no photos.
"""

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import data
import sheet
import train_resnet
import train_vgg
from audit import (
    ENOUGH,
    TABLE,
    find_common,
    give_verdict,
    name_relation,
    pair_keys,
    percent,
    read_official,
    read_photo,
    read_rows,
    turn_pairs,
)
from data import command_line, constant_accuracy, prior_loss, stop, stop_on
from engine import (
    ROUNDING_FLAGS,
    RUN_FLAGS,
    pairs_checksum,
    resolve_device,
    set_arithmetic,
    shape_model,
    write_predictions,
)
from model import embed, load_checkpoint, load_state, score_features

RECIPES = {"train_resnet": train_resnet, "train_vgg": train_vgg}
DRAWS = 2000  # of the bootstrap
SCORES = ("logit", "prob", "logprob", "score")
BELOW_CHANCE, ABOVE_CONSTANT = 1e-3, 0.05  # p-values, one-sided


# Runs


def load_run(run):
    """The resolved recipe of a run folder, as a namespace; ends the program without one."""
    path = Path(run) / "args.json"
    if not path.is_file():
        stop(__file__, f"--run {run}: holds no run (no args.json)")
    with stop_on(__file__, path, ValueError, TypeError):
        recipe = argparse.Namespace(**json.loads(path.read_text(encoding="utf-8")))
    if getattr(recipe, "recipe", None) not in RECIPES:
        stop(__file__, f"{path}: its recipe is not among {', '.join(RECIPES)}")
    for key, (default, _) in (RECIPES[recipe.recipe].RECIPE | ROUNDING_FLAGS).items():
        kind = list if isinstance(default, tuple) else type(default)
        if not isinstance(getattr(recipe, key, None), kind):
            stop(__file__, f"{path}: {key} is not there, or no {kind.__name__}")
    return recipe


def load_ranker(run, recipe, device):
    """The ranker with the weights of RUN/best.pt, in evaluation mode, on device."""
    path = Path(run) / "best.pt"
    if not path.is_file():
        stop(__file__, f"--run {run}: no best.pt yet (the first epoch has not ended)")
    recipe.weights = "none"
    ranker = RECIPES[recipe.recipe].build(recipe)
    set_arithmetic(recipe)  # as in training: equal predictions to the byte
    shape_model(recipe, ranker)
    load_state(ranker, load_checkpoint(path, ("model", "epoch", "accuracy"))["model"], path)
    return ranker.eval().to(device)


def probe(ranker, split, features, logits, batch_size, pad_color):
    """(defects, evidence) of what only the model at hand can show."""
    swapped = score_features(ranker, features, split.rows[:, ::-1].copy())
    alone = score_features(ranker, features, np.arange(len(features)).repeat(2).reshape(-1, 2))
    count = batch_size * -(-32 // batch_size)  # whole batches: other sizes round differently
    few = split._replace(files=split.files[:count])
    again, one_by_one = (embed(ranker, few, size, pad_color) for size in (batch_size, 1))
    turned = (swapped.argmax(1) == 1 - logits.argmax(1)).double().mean().item()
    spread = (alone.amax(0) - alone.amin(0)).max().item()
    scale = features[: len(again)].abs().max().item()
    change = (one_by_one - features[: len(again)]).abs().max().item() / max(scale, 1e-30)
    defects = []
    if spread > 1e-4:
        defects.append("the two photos do not go through the same backbone")
    if not torch.equal(again, features[: len(again)]):
        defects.append("two evaluations differ: dropout, or something random, is active")
    if change > 1e-3:
        defects.append("scores change with batching: BatchNorm is in training mode")
    return defects, [
        f"swapped pairs: the other photo is predicted in {turned:.4f} of them",
        f"self pairs: logits {alone[0, 0]:.4f} {alone[0, 1]:.4f}, spread {spread:.1e}",
        f"evaluated twice: {'equal' if torch.equal(again, features[: len(again)]) else 'differs'}"
        f"; one photo at a time: largest relative change {change:.1e}",
    ]


# Predictions of any origin


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


def tail(count, hits, chance):
    """The probability of at least `hits` successes in `count` draws with this chance."""
    k = np.arange(hits, count + 1)
    logs = [math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) for i in k]
    chance = min(max(chance, 1e-12), 1 - 1e-12)
    return float(np.exp(logs + k * math.log(chance) + (count - k) * math.log(1 - chance)).sum())


def series_interval(series, correct):
    """95 % interval of the accuracy: bootstrap over series, a fixed seed; (low, high)."""
    _, index = np.unique(series, return_inverse=True)
    pairs, hits = np.bincount(index), np.bincount(index, weights=correct)
    drawn = np.random.default_rng(0).integers(0, len(pairs), (DRAWS, len(pairs)))
    return np.percentile(hits[drawn].sum(1) / pairs[drawn].sum(1), [2.5, 97.5])


def judge(pairs, scores, own=None, reported=(), with_loss=True):
    """(verdict, exit code, evidence) on scores [P, 2] of labelled official pairs [P] of PAIR.

    own: rows of TABLE with the labels that the variant used, or None; reported: the accuracies
    that it printed, as texts, one per epoch; with_loss: whether the scores are log-probabilities.
    """
    truth, count = pairs["label"], len(pairs)
    correct = scores.argmax(1) == truth
    hits, constant = int(correct.sum()), constant_accuracy(truth)
    above, below = tail(count, hits, constant), tail(count, count - hits, constant)
    evidence = list(describe(pairs, scores, correct, above, with_loss))
    if own is not None and (own["label"] >= 0).sum() >= ENOUGH:
        relation, code, lines = name_relation(own, pairs, False, np.array([], int))
        evidence += [f"the file's labels: {line}" for line in lines]
        if code == 1:
            used = float((scores.argmax(1) == own["label"])[own["label"] >= 0].mean())
            evidence.append(f"accuracy on the file's own labels: {used:.4f}")
            about = "labels " if relation.startswith(("inverted", "partly")) else ""
            return about + relation, 1, evidence
    if reported:
        verdict = judge_reported(reported, hits, count, below, evidence)
        if verdict:
            return verdict, 1, evidence
    if below < BELOW_CHANCE:
        evidence.append("the labels are right and the logits mean the opposite: logits[:, 1] must")
        evidence.append("score photo_2, and the loss must take the label, not 1 - label")
        return f"output index swapped: accuracy {hits / count:.4f}, p = {below:.1e}", 1, evidence
    if above < ABOVE_CONSTANT:
        return "healthy", 0, evidence
    if count < ENOUGH:
        return f"cannot judge: only {count} pairs", 2, evidence
    return f"no better than the constant predictor (p = {above:.2f})", 1, evidence


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


def describe(pairs, scores, correct, above, with_loss):
    """Lines on accuracy, loss, bands, sizes, recall, bias, calibration and ranking."""
    truth, count = pairs["label"], len(pairs)
    low, high = series_interval(pairs["series"], correct)
    yield (
        f"accuracy {correct.mean():.4f}  ({correct.sum()} of {count}, 95 % interval {low:.4f} "
        f"to {high:.4f}, bootstrap over series), 1 - accuracy {1 - correct.mean():.4f}"
    )
    yield f"constant {constant_accuracy(truth):.4f}  (as good by chance: p = {above:.2g})"
    if with_loss:
        loss = -scores[np.arange(count), truth].mean()
        yield f"loss     {loss:.4f}  (prior loss {prior_loss(truth):.4f})"
    agreement = np.maximum(pairs["preference"], 1 - pairs["preference"])
    bands = np.minimum((agreement * 10 + 1e-9).astype(int), 9)
    names = {band: f".{band}-{'1' if band == 9 else f'.{band + 1}'}" for band in range(5, 10)}
    yield "by agreement: " + by_group(bands, correct, names)
    _, index, sizes = np.unique(pairs["series"], return_inverse=True, return_counts=True)
    photos = np.round((1 + np.sqrt(1 + 8 * sizes)) / 2).astype(int)[index]
    yield "by photos in the series: " + by_group(photos, correct, {})
    recall = by_group(truth, correct, {0: "photo_1", 1: "photo_2"})
    predicted = (scores.argmax(1) == 1).mean()
    yield f"recall where the better one is: {recall}"
    yield f"position: photo_2 is predicted in {predicted:.4f}, preferred in {truth.mean():.4f}"
    if with_loss:
        chance = np.exp(scores.max(1))
        bins = np.minimum((chance * 10).astype(int), 9)
        error = sum(abs((correct - chance)[bins == b].sum()) for b in range(5, 10)) / count
        yield f"calibration: mean confidence {chance.mean():.4f}, expected error {error:.4f}"
    top, every, spearman, ranked = rank_series(pairs, scores)
    if every:
        yield (
            f"best photo of the series: {percent(top, every)}; rank correlation with the "
            f"official ranks {spearman:.3f} ({ranked} series of 3 and more)"
        )


def by_group(groups, correct, names):
    """`name accuracy (n)` for each group."""
    return ", ".join(
        f"{names.get(int(g), int(g))} {correct[groups == g].mean():.3f} ({(groups == g).sum()})"
        for g in np.unique(groups)
    )


def rank_series(pairs, scores):
    """(series with the right best photo, series, mean Spearman correlation, series of 3 on)."""
    margin, top, correlations = scores[:, 0] - scores[:, 1], 0, []
    order = np.argsort(pairs["series"], kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(pairs["series"][order])) + 1)
    for group in groups:
        strength, rank = {}, {}
        for pair, m in zip(pairs[group], margin[group], strict=True):
            for side, sign in (("1", 1), ("2", -1)):
                photo = int(pair[f"photo_{side}"])
                strength[photo] = strength.get(photo, 0.0) + sign * m
                rank[photo] = int(pair[f"rank_{side}"])
        photos = sorted(rank, key=rank.get)
        top += photos[0] == max(photos, key=strength.get)
        if len(photos) > 2:
            mine = np.argsort(np.argsort([-strength[photo] for photo in photos]))
            correlations.append(np.corrcoef(mine, np.arange(len(photos)))[0, 1])
    return top, len(groups), float(np.mean(correlations or [0])), len(correlations)


# The three ways to call it


def score_run(args, device):
    """Verdict on a run: its predictions on a split, and what the model at hand shows."""
    recipe = load_run(args.run)
    ranker = load_ranker(args.run, recipe, device)
    recipe.data, recipe.store = args.data, args.store
    split = data.move_store(data.load(recipe, (args.split,))[args.split], device)
    pad_color, batch_size = data.parse_color(recipe.pad_color), recipe.batch_size
    features = embed(ranker, split, batch_size, pad_color)
    logits = score_features(ranker, features, split.rows)
    own = pairs_checksum(split)
    trained = getattr(recipe, f"{split.name}_pairs_crc32", own)
    name = args.split if trained == own else f"{args.split}_{own}"
    path = Path(args.run) / f"predictions_{name}.tsv"
    write_predictions(path, split, logits)
    scores = torch.log_softmax(logits.double(), 1).numpy()
    defects, lines = probe(ranker, split, features, logits, batch_size, pad_color)
    lines += [f"wrote {path}"]
    lines += ["these are not the pairs that the run was trained with"] * (trained != own)
    head = f"{split.name}: {len(split.pairs)} pairs, {len(np.unique(split.pairs['series']))} series"
    if split.name == "test":
        return "cannot judge: no labels to score against", 2, [head, *lines]
    verdict, code, evidence = judge(split.pairs, scores, reported=args.reported_accuracy)
    evidence = [head, *evidence, *lines, "not checked: the training labels (see audit.py)"]
    if args.sheet:
        names = np.array(split.files, dtype=object)[split.rows]
        sheet.draw_errors(args.sheet, split.pairs, names, split.folder, scores)
    return (defects[0], 1, evidence) if defects and code != 2 else (verdict, code, evidence)


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
        names, _ = data.photo_names(pairs, folder)
        sheet.draw_errors(args.sheet, pairs, names, folder, scores)
    return verdict, code, [*counts, *evidence]


def rank_photos(args, device):
    """Lines that rank a person's own photos, best first."""
    recipe = load_run(args.run)
    ranker = load_ranker(args.run, recipe, device)
    paths = [Path(name) for name in args.photos]
    if len(paths) == 1 and paths[0].is_dir():
        kinds = (".jpg", ".jpeg", ".png")
        paths = sorted(path for path in paths[0].iterdir() if path.suffix.lower() in kinds)
    if len(paths) < 2:
        stop(__file__, "--photos: a series has at least two photos")
    photos, boxes = [], []
    for path in paths:
        with stop_on(__file__, path, Exception):
            photo, box = data.decode_photo(path, recipe.size, recipe.fit)
        photos.append(photo)
        boxes.append(box)
    names = [str(path) for path in paths]
    split = data.Split("photos", None, None, names, None, np.array(photos), np.array(boxes))
    features = embed(ranker, split, recipe.batch_size, data.parse_color(recipe.pad_color))
    rows = np.array([(i, j) for i in range(len(paths)) for j in range(len(paths))])
    chance = torch.softmax(score_features(ranker, features, rows).double(), 1)[:, 0]
    chance = chance.reshape(len(paths), len(paths)).numpy()
    chance = (chance + 1 - chance.T) / 2  # either order of the two photos
    order = np.argsort(-chance.mean(1), kind="stable")
    beats = [chance[a, b] for a, b in pairwise(order)]
    lines = [
        f"{place}. {paths[i]}" + (f"  (beats the next with {beat:.2f})" if beat >= 0 else "")
        for place, (i, beat) in enumerate(zip(order, [*beats, -1], strict=True), 1)
    ]
    if args.sheet:
        sheet.draw_ranking(args.sheet, [paths[i] for i in order], beats)
    return lines


def main(argv=None):
    """Scores, judges or ranks after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--run", help="run folder")
    parser.add_argument("--predictions", metavar="FILE", help="a predictions file of any origin")
    parser.add_argument("--data", help="folder of the dataset")
    parser.add_argument("--split", choices=("val", "train", "test"), default="val")
    parser.add_argument("--reported-accuracy", nargs="+", metavar="A", default=[],
                        help="what your program printed: .70, or one value per epoch")  # fmt: skip
    for name, word in (("repeated", "again"), ("rebatched", "again, in batches of another size")):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"predictions made {word}")
    parser.add_argument("--photos", nargs="+", metavar="PHOTO", help="your own photos, or a folder")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="picture of the worst errors")
    parser.add_argument("--json", action="store_true", help="the verdict as JSON")
    for key in ("store", "device"):
        parser.add_argument(f"--{key}", default=RUN_FLAGS[key][0], help=RUN_FLAGS[key][1])
    args = parser.parse_args(argv)
    check_flags(args)
    if args.predictions:
        give_verdict(*score_predictions(args), args.json)
    device = torch.device(resolve_device(__file__, args.device))
    if args.photos:
        print(*rank_photos(args, device), sep="\n")
    else:
        give_verdict(*score_run(args, device), args.json)


def check_flags(args):
    """Ends the program where the flags do not say what to do, or --sheet exists."""
    if bool(args.run) == bool(args.predictions):
        stop(__file__, "either --run or --predictions")
    if not args.photos and not args.data:
        stop(__file__, "--data: the labels come from the official lists")
    if args.photos and args.predictions:
        stop(__file__, "--photos needs --run")
    for reported in args.reported_accuracy:
        with stop_on(__file__, f"--reported-accuracy {reported}", ValueError):
            value = float(reported)
        if not 0 <= value <= 1:
            stop(__file__, f"--reported-accuracy {reported}: a fraction from 0 to 1")
    if (args.repeated or args.rebatched) and not args.predictions:
        stop(__file__, "--repeated and --rebatched go with --predictions")
    if args.sheet and args.sheet.exists():
        stop(__file__, f"--sheet {args.sheet}: exists already")


if __name__ == "__main__":
    main()
