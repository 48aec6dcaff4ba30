"""Scores a run of this project, gives a verdict, and ranks your own photos.

    python eval.py --run runs/train_resnet --data data/phototriage [--split val|train|test]
    python eval.py --run runs/train_resnet --photos A.jpg B.jpg C.jpg [--sheet ranked.png]

The first line is the verdict, the evidence follows. Exit code 0: healthy, 1: a defect is
established, 2: cannot judge. The predictions go to RUN/predictions_SPLIT.tsv; for val that file
equals the training run's predictions.tsv. Predictions of any other origin: diagnose predictions.
"""

import argparse
import importlib
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import model
from data import DecodedSplit, decode, decode_photo, parse_color, read_splits
from disk.errors import command_line, exit_on_error, fail_on, say, stop
from disk.files import check_new
from disk.pairlist import LONGEST
from disk.store import set_photo_warnings
from disk.tensors import load_state
from model import score_features
from run import sheet
from run.arithmetic import set_arithmetic, shape_model
from run.checkpoint import load_best
from run.findings import EQUAL, SKIPPED, Row, give_verdict
from run.flags import ROUNDING_FLAGS, RUN_FLAGS, resolve_device
from run.folder import (
    ROOT,
    pairs_checksum,
    predictions_path,
    read_settings,
    recipe_name,
    source_checksums,
    write_predictions,
)
from run.probe import probe
from run.scores import BELOW, TOO_FEW, judge, quality
from run.watch import show_evaluation

SPLIT = Row("evaluation.split", EQUAL, "{split}: {pairs} pairs, {series} series")
WROTE = Row("evaluation.wrote", EQUAL, "wrote {path}")
OTHER_PAIRS = Row("evaluation.other_pairs", EQUAL, "not the pairs that the run was trained with")
NO_LABELS = Row("evaluation.no_labels", SKIPPED, "cannot judge: no labels to score against")
NOT_CHECKED = Row(
    "evaluation.not_checked",
    SKIPPED,
    "not checked: the training labels (see diagnose labels)",
)


def load_run(run):
    """The resolved recipe of a run folder, as a namespace; ends the program without one."""
    path = Path(run) / "args.json"
    if not path.is_file():
        stop(__file__, f"--run {run}: holds no run (no args.json)")
    recipe = argparse.Namespace(**read_settings(Path(run)))
    check_page(recipe, path)
    rows = importlib.import_module(recipe.recipe).RECIPE | ROUNDING_FLAGS
    for key, (default, *_) in rows.items():
        kind = type(default)
        if not isinstance(getattr(recipe, key, None), kind):
            stop(__file__, f"{path}: {key} is not there, or no {kind.__name__}")
    return recipe


def check_page(recipe, path):
    """Ends the program unless the page of a run, which builds its model, is here and unchanged.

    recipe: what args.json (path) holds. A page is a train_*.py of this checkout or of variants/.
    """
    files = [page for folder in (ROOT, ROOT / "variants") for page in folder.glob("train_*.py")]
    pages, name = sorted(map(recipe_name, files)), getattr(recipe, "recipe", None)
    if name not in pages:
        advice = "bring its file back, or score the run where it was trained"
        said = f"its recipe {str(name)[:LONGEST]} is not a page of this folder"
        stop(__file__, f"{path}: {said}; {advice}")
    page, before = f"{name.replace('.', '/')}.py", getattr(recipe, "sources", None)
    old, now = isinstance(before, dict) and before.get(page), source_checksums(name)[page]
    if old != now:
        advice = "bring the file back, or score the run where it was trained"
        stop(__file__, f"{path}: the checksum of {page} was {old}, now it is {now}; {advice}")


def load_ranker(run, recipe, device):
    """The ranker with the weights of RUN/best.pt, in evaluation mode, on device."""
    path = Path(run) / "best.pt"
    if not path.is_file():
        stop(__file__, f"--run {run}: no best.pt yet (the first epoch has not ended)")
    state = load_best(Path(run))["model"]  # so args.json, after which all is built, is its own
    ranker = importlib.import_module(recipe.recipe).build(without_weights(recipe))
    set_arithmetic(recipe)  # as in training: equal predictions to the byte
    shape_model(recipe, ranker)
    load_state(ranker, state, path)
    return ranker.eval().to(device)


def embed(recipe, ranker, split, batch_size):
    """Features of the photos of a split, by the page's own way where it has one."""
    page = importlib.import_module(recipe.recipe)
    return getattr(page, "embed", model.embed)(ranker, split, batch_size)


def without_weights(recipe):
    """The recipe with random weights instead of those that it began with."""
    return argparse.Namespace(**(vars(recipe) | {"weights": "none"}))


def score_run(args, device):
    """(findings of the verdict, evidence) on a run's predictions and its model."""
    recipe = load_run(args.run)
    ranker = load_ranker(args.run, recipe, device)
    recipe.data, recipe.store, recipe.device = args.data, args.store, str(device)
    (split,) = read_splits(recipe, (args.split,))
    split = decode(split, recipe)
    size = recipe.batch_size
    shown = show_evaluation(ranker.backbone, len(split.files))
    features = embed(recipe, ranker, split, size)
    shown.remove()
    logits = score_features(ranker, features, split.rows)
    own = pairs_checksum(split)
    trained = getattr(recipe, f"{split.name}_pairs_crc32", own)
    path = predictions_path(args.run, args.split, "" if trained == own else own)
    write_predictions(path, split, logits)
    defects, lines = probe(ranker, split, features, logits, partial(embed, recipe), size)
    lines += [WROTE.found(path=str(path)), *[OTHER_PAIRS.found()] * (trained != own)]
    series = len(np.unique(split.pairs["series"]))
    head = SPLIT.found(split=split.name, pairs=len(split.pairs), series=series)
    if split.name == "test":
        return [NO_LABELS.found()], [head, *lines]
    scores = torch.log_softmax(logits.double(), 1).numpy()
    verdict, evidence = judge(split.pairs, scores)
    if verdict.row is BELOW:
        meaning = "its labels were inverted, or those of the lists are now"
        verdict = BELOW.found(**(verdict.values | {"meaning": meaning}))
    evidence = [head, *evidence, *lines, NOT_CHECKED.found()]
    if args.sheet:
        names = np.array(split.files, dtype=object)[split.rows]
        run = f"{Path(args.run).resolve().name}, {split.name}"
        sheet.draw_errors(args.sheet, split.pairs, names, split.folder, scores, run)
    return defects[:1] if defects and verdict.row is not TOO_FEW else [verdict], evidence


def rank_photos(args, device):
    """Lines that rank a person's own photos, best first, below how good the model is."""
    recipe = load_run(args.run)
    ranker = load_ranker(args.run, recipe, device)
    paths = [Path(name) for name in args.photos]
    if len(paths) == 1 and paths[0].is_dir():
        kinds = (".jpg", ".jpeg", ".png")
        paths = sorted(path for path in paths[0].iterdir() if path.suffix.lower() in kinds)
    if len(paths) < 2:
        stop(__file__, "--photos: a series has at least two photos")
    set_photo_warnings()
    decoded = []
    for path in paths:
        if not path.is_file():
            stop(__file__, f"--photos {path}: no such file")
        with fail_on(__file__, path, Exception):
            decoded.append(decode_photo(path, recipe.size, recipe.fit))
    photos, boxes = map(np.array, zip(*decoded, strict=True))
    color, count = parse_color(recipe.pad_color), len(paths)
    split = DecodedSplit("photos", None, None, paths, None, photos, boxes, color)
    features = embed(recipe, ranker, split, recipe.batch_size)
    rows = np.array([(i, j) for i in range(count) for j in range(count)])
    chance = torch.softmax(score_features(ranker, features, rows).double(), 1)[:, 0]
    chance = chance.reshape(count, count).numpy()
    chance = (chance + 1 - chance.T) / 2  # either order of the two photos
    order = np.argsort(-chance.mean(1), kind="stable")
    beats = [chance[a, b] for a, b in pairwise(order)]
    title, better = quality(Path(args.run) / "predictions.tsv")
    words = [f"beats the next with {beat:.2f}" if better else "" for beat in beats] + [""]
    if args.sheet:
        sheet.draw_ranking(args.sheet, [paths[i] for i in order], words, title)
    return [title] + [
        f"{place}. {paths[i]}" + f"  ({word})" * bool(word)
        for place, (i, word) in enumerate(zip(order, words, strict=True), 1)
    ]


@exit_on_error
def main(argv=None):
    """Scores or ranks after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--data", help="folder of the dataset")
    parser.add_argument("--split", choices=("val", "train", "test"), default="val")
    parser.add_argument("--photos", nargs="+", metavar="PHOTO", help="your own photos, or a folder")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="picture of the worst errors")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    for key in ("store", "device"):
        parser.add_argument(f"--{key}", default=RUN_FLAGS[key][0], help=RUN_FLAGS[key][2])
    args = parser.parse_args(argv)
    if not args.photos and not args.data:
        stop(__file__, "--data: the labels come from the official lists")
    if args.photos and args.json:
        stop(__file__, "--json: not with --photos, whose answer is a ranking")
    check_new("--sheet", args.sheet)
    device = torch.device(resolve_device(__file__, args.device))
    if args.photos:
        say("\n".join(rank_photos(args, device)), sys.stdout)
    else:
        give_verdict(*score_run(args, device), args.json)


if __name__ == "__main__":
    main()
