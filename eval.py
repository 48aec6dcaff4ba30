"""Scores the best checkpoint of a run.

    python eval.py --run runs/train_resnet --data data/phototriage [--split val|train|test]

Every photo goes through the backbone once. Prints accuracy with a 95 % interval (bootstrap over
series) and loss, both beside the constant predictor, and writes RUN/predictions_SPLIT.tsv; for
val that file equals the predictions.tsv of the training run.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

import data
import train_resnet
import train_vgg
from data import constant_accuracy, prior_loss, stop
from engine import RUN_FLAGS, resolve_device, write_predictions
from model import accuracy, cross_entropy, load_checkpoint, load_state, score_pairs

RECIPES = {"train_resnet": train_resnet, "train_vgg": train_vgg}
DRAWS = 2000  # of the bootstrap


def load_run(run):
    """The resolved recipe of a run folder, as a namespace; ends the program without one."""
    path = Path(run) / "args.json"
    if not path.is_file():
        stop(__file__, f"--run {run}: holds no run (no args.json)")
    with data.stop_on(__file__, path, ValueError, TypeError):
        recipe = argparse.Namespace(**json.loads(path.read_text(encoding="utf-8")))
    if recipe.recipe not in RECIPES:
        stop(__file__, f"{path}: recipe {recipe.recipe} is not among {', '.join(RECIPES)}")
    return recipe


def load_ranker(run, recipe, device):
    """The ranker with the weights of RUN/best.pt, in evaluation mode, on device."""
    path = Path(run) / "best.pt"
    if not path.is_file():
        stop(__file__, f"--run {run}: no best.pt yet (the first epoch has not ended)")
    recipe.weights = "none"
    ranker = RECIPES[recipe.recipe].build(recipe)
    load_state(ranker, load_checkpoint(path, ("model", "epoch", "accuracy"))["model"], path)
    return ranker.eval().to(device)


def series_interval(series, correct):
    """95 % interval of the accuracy: bootstrap over series, a fixed seed; (low, high)."""
    _, index = np.unique(series, return_inverse=True)
    pairs, hits = np.bincount(index), np.bincount(index, weights=correct)
    drawn = np.random.default_rng(0).integers(0, len(pairs), (DRAWS, len(pairs)))
    return np.percentile(hits[drawn].sum(1) / pairs[drawn].sum(1), [2.5, 97.5])


def report(split, logits):
    """The lines that describe how the logits [P, 2] fit the labels of the split."""
    labels, series = split.pairs["label"], split.pairs["series"]
    yield f"{split.name}: {len(labels)} pairs, {len(np.unique(series))} series"
    if labels.min() < 0:
        yield "no labels: nothing to score against"
        return
    correct = logits.argmax(1).numpy() == labels
    low, high = series_interval(series, correct)
    score = f"{accuracy(logits, torch.from_numpy(labels)):.4f}  ({correct.sum()} of {len(labels)}"
    yield f"accuracy {score}, 95 % interval {low:.4f} to {high:.4f}, bootstrap over series)"
    yield f"constant {constant_accuracy(labels):.4f}"
    loss = cross_entropy(logits, torch.from_numpy(labels))
    yield f"loss     {loss:.4f}  (prior loss {prior_loss(labels):.4f})"


def main(argv=None):
    """Scores a run after the command line."""
    parser = data.command_line(__file__, __doc__)
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--data", required=True, help="folder of the dataset")
    parser.add_argument("--split", choices=("val", "train", "test"), default="val")
    for key in ("store", "device"):
        parser.add_argument(f"--{key}", default=RUN_FLAGS[key][0], help=RUN_FLAGS[key][1])
    args = parser.parse_args(argv)
    device = torch.device(resolve_device(__file__, args.device))
    recipe = load_run(args.run)
    ranker = load_ranker(args.run, recipe, device)
    recipe.data, recipe.store = args.data, args.store
    split = data.move_store(data.load(recipe, (args.split,))[args.split], device)
    pad_color = data.parse_color(recipe.pad_color)
    logits = score_pairs(ranker, split, 2 * recipe.batch_size, pad_color)
    path = Path(args.run) / f"predictions_{args.split}.tsv"
    write_predictions(path, split, logits)
    sys.stdout.reconfigure(errors="backslashreplace")  # a cp1252 console cannot print every path
    print(*report(split, logits), f"wrote {path}", sep="\n")


if __name__ == "__main__":
    main()
