"""52 % and 70 %, the two figures that this project began with, reproduced by training.

    python make_demo.py --out data/story --series 200 \\
        --like LISTS/train_pairlist.txt LISTS/val_pairlist.txt
    python -m examples.story --data data/story --weights runs/demo/best.pt --size 64

The reference's own main trains on each of TRAINERS, which are the reference but for what their row
says: whose labels, what is inverted, which flags. It runs for one epoch where no flag says another
number. Of each the table has what the trainer prints (on its own labels), the accuracy of the
same predictions on the official labels, the better constant predictor on both, and what the
instruments say of its predictions and of its labels. Several seeds: the lowest and the highest
value. What was done already under --out is not done again. docs/story.md has the figures.
"""

import sys
from argparse import Namespace
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import nn

import run.loop
import train_resnet
from data import read_pairlist, read_splits
from diagnose.labels.judge import audit_labels
from diagnose.predictions.judge import score_predictions
from diagnose.tables import UNDECIDED, merge_votes, pair_keys, read_table
from disk.errors import command_line, exit_on_error, say, stop
from disk.files import write_table
from disk.layout import find_split
from run.findings import text_of
from run.folder import HISTORY
from run.scores import accuracy, against_chance, constant_accuracy, read_logits, read_tsv

# The documents' figures: epoch 1 of a "working reference", and of a trainer that is stuck.
DOCUMENTS = {"the documents' working reference": (0.622, 0.639, 0.705)}
DOCUMENTS["the documents' stuck trainer"] = (0.523, 0.6932, 0.516)
LUCK = 1e-3  # probability below which an accuracy counts as no chance
COLUMNS = ("trainer", "train acc", "val loss", "val acc, own labels", "constant")
COLUMNS += ("val acc, official labels", "constant")


# Labels


def official(pairs, votes):
    """The official labels [P] of pairs [P] of PAIR."""
    return pairs["label"]


def ranks_as_numbers(pairs, votes):
    """Labels [P] where rank_1 is taken for the number of the preferred photo."""
    return np.where(pairs["rank_1"] == pairs["photo_1"], 0, 1)


def misnumbered(pairs, votes):
    """Labels [P] by votes whose photo numbers are shuffled within each series.

    votes: {pair_keys: label} of a table of reviews; what it does not decide is drawn. Without a
    table the photo numbers of the official ranks are shuffled, which is the same mistake.
    """
    rng = np.random.default_rng(0)  # the same labels for every seed of the training
    if votes is not None:
        known = np.array([votes.get(key, UNDECIDED) for key in pair_keys(pairs).tolist()])
        return np.where(known == UNDECIDED, rng.integers(0, 2, len(pairs)), known)
    labels = pairs["label"].copy()
    for series in np.unique(pairs["series"]):
        rows = pairs[pairs["series"] == series]
        photos = np.unique([rows["photo_1"], rows["photo_2"]])
        ranks = dict(zip(photos.tolist(), rng.permutation(len(photos)).tolist(), strict=True))
        labels[pairs["series"] == series] = [ranks[a] > ranks[b] for _, a, b, *_ in rows.tolist()]
    return labels


def read_votes(path):
    """{pair_keys: label} of a table of reviews, whose authors took file = compareID + 1."""
    table, _ = read_table(path, {}, [("votes_1", "votes_2")])
    for side in ("photo_1", "photo_2"):
        table[side] += 1
    merged, _ = merge_votes(table)
    return dict(zip(pair_keys(merged).tolist(), merged["label"].tolist(), strict=True))


# Trainers


class Trainer(NamedTuple):
    """A row of the table: the reference but for these labels, inversions and flags."""

    name: str
    labels: object = official
    inverted: tuple = ()  # "loss", "accuracy"
    flags: tuple = ()


BLAMED = ("--lr-backbone", "1e-4", "--lr-head", "1e-4", "--batch-size", "16", "--epochs", "3")
TRAINERS = {
    "official": Trainer("official labels"),
    "ranks": Trainer("ranks read as photo numbers", ranks_as_numbers),
    "misnumbered": Trainer("mis-numbered reviews", misnumbered),
    "loss": Trainer("official labels, 1 - label in the loss", inverted=("loss",)),
    "accuracy": Trainer("official labels, 1 - prediction in the accuracy", inverted=("accuracy",)),
    "both": Trainer("official labels, both inverted", inverted=("loss", "accuracy")),
    "blamed": Trainer("official labels, 1e-4 for all, batch 16, 3 epochs", flags=BLAMED),
}


class InvertedLoss(nn.NLLLoss):
    """NLLLoss on 1 - label."""

    def forward(self, log_probabilities, label):
        """The loss of log-probabilities [B, 2] on the wrong one of the two labels [B]."""
        return super().forward(log_probabilities, 1 - label)


def inverted_count(count, self, loss, logits, label):
    """Run.count, told that the smaller logit is the prediction."""
    count(self, loss, logits.flip(1), label)


def read_relabelled(trainer, votes, args, names):
    """read_splits with the trainer's labels instead of the official ones."""
    splits = read_splits(args, names)
    for split in splits:
        split.pairs["label"] = trainer.labels(split.pairs, votes)
    return splits


def train(trainer, out, seed, args, votes):
    """Runs the reference's main as this trainer, in the run folder out."""
    loop, page = run.loop, train_resnet
    with ExitStack() as stack:
        put = lambda *row: stack.enter_context(mock.patch.object(*row))  # noqa: E731
        put(page, "read_splits", partial(read_relabelled, trainer, votes))
        if "loss" in trainer.inverted:
            put(page.nn, "NLLLoss", InvertedLoss)
        if "accuracy" in trainer.inverted:
            count = loop.Run.count
            put(loop, "accuracy", lambda logits, label: accuracy(logits.flip(1), label))
            put(loop.Run, "count", lambda self, *batch: inverted_count(count, self, *batch))
        flags = {"data": args.data, "out": out, "store": args.store, "weights": args.weights}
        flags |= {"size": args.size, "seed": seed, "epochs": 1}
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        resumed = ["--resume"] * (out / "args.json").is_file()
        stack.enter_context(redirect_stdout(sys.stderr))  # the table has stdout for itself
        page.main([*words, *trainer.flags, *resumed])


# The table


def read_figures(out, pairs):
    """The figures of COLUMNS of a run folder; pairs [P] of PAIR: the official validation pairs."""
    header, *rows = read_tsv(out / "history.tsv")
    history = [dict(zip(header, map(float, row), strict=True)) for row in rows]
    best = max(history, key=lambda row: row[HISTORY.split()[-1]])
    own, logits = read_logits(out / "predictions.tsv")
    on_official = float(((logits[1] > logits[0]) == pairs["label"]).mean())
    figures = [best["train_acc"], best["val_loss"], best["val_acc"], constant_accuracy(own)]
    return [*figures, on_official, constant_accuracy(pairs["label"])]


def judge_predictions(out, data, reported):
    """The verdict of `diagnose predictions` on a run that printed this accuracy."""
    about = {"predictions": out / "predictions.tsv", "reported_accuracy": [f"{reported:.4f}"]}
    nothing = {"columns": [], "repeated": None, "rebatched": None, "sheet": None}
    nothing |= {"label_1_means": "photo_2"}
    verdict, _ = score_predictions(Namespace(data=data, **about, **nothing))
    return "; ".join(map(text_of, verdict))


def judge_labels(trainer, path, data, lists, votes):
    """The verdict of `diagnose labels` on a trainer's labels, which are written to path.

    lists: {split: official pairs [P] of PAIR}.
    """
    rows = [("series", "photo_1", "photo_2", "label", "split")]
    for split, pairs in lists.items():
        labels = trainer.labels(pairs, votes).tolist()
        for pair, label in zip(pairs.tolist(), labels, strict=True):
            rows.append((*map(str, pair[:3]), str(label), split))
    write_table(path, rows)
    return "; ".join(map(text_of, audit_labels(data, path, {}, None)[0]))


def spread(values):
    """One figure, or the lowest and the highest of several."""
    words = dict.fromkeys(f"{value:.4f}" for value in (min(values), max(values)))
    return " to ".join(words)


def lay_out(rows):
    """Lines of a table in Markdown, its columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width for width in widths]
    for row in (rows[0], rule, *rows[1:]):
        cells = (word.ljust(width) for word, width in zip(row, widths, strict=True))
        yield f"| {' | '.join(cells)} |"


def is_above_chance(run):
    """(whether the accuracy of a run is one that the constant predictor cannot reach, a line).

    At most once in 1 / LUCK draws, that is.
    """
    label, logits = read_logits(run / "predictions.tsv")
    correct = (logits[1] > logits[0]) == label
    luck, _ = against_chance(label, correct)
    text = f"{run.name}: validation accuracy {correct.mean():.4f} of {len(label)} pairs, constant "
    below = "below" if luck < LUCK else "not below"
    text += f"{constant_accuracy(label):.4f}; as good by chance: p = {luck:.1e}, {below} {LUCK:.0e}"
    return luck < LUCK, text


def tell(args, votes):
    """Trains what is not trained yet, and gives the lines of the table and of the verdicts."""
    lists = {}
    for split in ("train", "val"):
        lists[split], _ = read_pairlist(find_split(args.data, split)[0])
    rows, verdicts = [COLUMNS], []
    for key, trainer in TRAINERS.items():
        folders = [Path(args.out) / f"{key}_{seed}" for seed in args.seeds]
        for out, seed in zip(folders, args.seeds, strict=True):
            train(trainer, out, seed, args, votes)
        figures = [read_figures(out, lists["val"]) for out in folders]
        rows.append((trainer.name, *map(spread, zip(*figures, strict=True))))
        verdicts += ["", trainer.name]
        for out, seed, (_, _, printed, *_) in zip(folders, args.seeds, figures, strict=True):
            verdict = judge_predictions(out, args.data, printed)
            verdicts.append(f"  predictions, seed {seed}: {verdict}")
        path = Path(args.out) / f"labels_{key}.tsv"
        verdicts.append(f"  labels: {judge_labels(trainer, path, args.data, lists, votes)}")
    for name, values in DOCUMENTS.items():
        rows.append((name, *(f"{value:.4f}".rstrip("0") for value in values), "", "", ""))
    return [*lay_out(rows), *verdicts]


@exit_on_error
def main(argv=None):
    """Prints the table after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--data", required=True, help="folder of the dataset, or one --like it")
    parser.add_argument("--reviews", type=Path, metavar="CSV", help="the mis-numbered table")
    parser.add_argument("--out", default="runs/story", help="folder of the runs (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], help="(42)")
    for key in ("weights", "size"):
        default, _, words = train_resnet.RECIPE[key]
        parser.add_argument(f"--{key}", default=default, type=type(default), help=words)
    parser.add_argument("--store", default="data/stores", help="of the decoded photos")
    parser.add_argument(
        "--learned", type=Path, metavar="RUN", help="a run that must be better than chance"
    )
    args = parser.parse_args(argv)
    if len(set(args.seeds)) < len(args.seeds):
        stop(__file__, f"--seeds {' '.join(map(str, args.seeds))}: one is given twice")
    if args.learned:
        learned, line = is_above_chance(args.learned)
        say(line, sys.stdout)
        if not learned:
            stop(__file__, f"--learned {args.learned}: no better than chance")
    votes = read_votes(args.reviews) if args.reviews else None
    say("\n".join(tell(args, votes)), sys.stdout)


if __name__ == "__main__":
    main()
