"""Curves of one or several runs; needs matplotlib (pip install matplotlib), nothing else does.

    python -m run.curves runs/train_resnet [runs/other ...] --out curves.png

Loss with the prior's loss, accuracy with the constant predictor and the best epoch, both rates,
and the gap between training and validation accuracy with its reading.
"""

import importlib.util
import io
import re
from pathlib import Path

import numpy as np

from disk.errors import command_line, one_door, stop, stop_on
from disk.files import check_new, replace_file
from run.folder import HISTORY
from run.scores import number, read_tsv

GOOD, SLIGHT = 0.05, 0.10  # gap in accuracy: up to 5 points good, up to 10 slight


def available():
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def read_gap(gap):
    """The reading of training minus validation accuracy."""
    if gap <= GOOD:
        return "good"
    return "slight" if gap <= SLIGHT else "overfitting"


def read_run(run):
    """({column: values per epoch}, constant accuracy, prior loss) of a run folder.

    The two chance levels are those of its validation pairs, as its log states them.
    """
    path = Path(run) / "history.tsv"
    if not path.is_file():
        stop(__file__, f"{path}: no such file; is {run} a run with an epoch done?")
    with stop_on(__file__, path, ValueError):
        header, *rows = read_tsv(path)
        columns = [[number(value) for value in values] for values in zip(*rows, strict=True)]
    if header != HISTORY.split() or not np.isfinite(columns).all():
        stop(__file__, f"{path}: does not hold finite numbers of {HISTORY}")
    if not rows:
        stop(__file__, f"{path}: no epoch yet")
    log = Path(run) / "train.log"
    with stop_on(__file__, log, ValueError):
        text = log.read_text(encoding="ascii")
    chance = re.search(r"val: .*constant ([01]\.[0-9]{4}), prior loss ([01]\.[0-9]{4})\n", text)
    if chance is None:
        stop(__file__, f"{log}: has no line on the validation pairs")
    return dict(zip(header, columns, strict=True)), float(chance[1]), float(chance[2])


def draw(runs, path):
    """Draws the curves of run folders to a PNG at path, 1,300 pixels wide."""
    import matplotlib

    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(13, 11), layout="constrained")
    losses, accuracies, rates, gaps = axes.flat
    colors = pyplot.rcParams["axes.prop_cycle"].by_key()["color"]
    for run, color in zip(runs, colors * len(runs), strict=False):
        columns, constant, prior = read_run(run)
        name, epochs = Path(run).name, columns["epoch"]
        for axis, kind, chance, word in (
            (losses, "loss", prior, "prior's loss"),
            (accuracies, "acc", constant, "constant predictor"),
        ):
            axis.plot(epochs, columns[f"train_{kind}"], "--", color=color, label=f"{name} train")
            axis.plot(epochs, columns[f"val_{kind}"], "-", color=color, label=f"{name} val")
            axis.axhline(chance, color=color, lw=1, ls=":", label=f"{word} {chance:.4f}")
        best = max(range(len(epochs)), key=columns["val_acc"].__getitem__)
        label = f"best: {columns['val_acc'][best]:.4f}, epoch {epochs[best]:.0f}"
        accuracies.plot(
            epochs[best], columns["val_acc"][best], "*", ms=14, color=color, label=label
        )
        for group, style in (("backbone", "-"), ("head", "--")):
            lr = columns[f"lr_{group}"]
            label = f"{name} {group}: {lr[0]:.2g} to {lr[-1]:.2g}"
            rates.plot(epochs, lr, style, color=color, label=label)
        pairs = zip(columns["train_acc"], columns["val_acc"], strict=True)
        gap = [100 * (train - val) for train, val in pairs]
        reading = f"{name}: {gap[best]:+.1f} points at the best epoch, {read_gap(gap[best] / 100)}"
        gaps.plot(epochs, gap, "-", color=color, label=reading)
    rates.set_yscale("symlog", linthresh=1e-9)  # as log, but a rate of 0 has its place
    for level, word in ((100 * GOOD, "slight above"), (100 * SLIGHT, "overfitting above")):
        gaps.axhline(level, color="gray", lw=1, ls=":", label=f"{word} {level:.0f}")
    titles = ("loss", "accuracy", "learning rate", "training - validation accuracy, points")
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    pyplot.close(figure)
    replace_file(path, lambda file: file.write(buffer.getvalue()))


@one_door
def main(argv=None):
    """Draws after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", required=True, type=Path, help="PNG to write")
    args = parser.parse_args(argv)
    if not available():
        stop(__file__, "needs matplotlib: python -m pip install matplotlib")
    check_new("--out", args.out)
    draw(args.runs, args.out)


if __name__ == "__main__":
    main()
