"""Curves of one or several runs; needs matplotlib (pip install matplotlib), nothing else does.

    python -m run.curves runs/train_resnet [runs/other ...] --out curves.png

Loss with the prior's loss, accuracy with the constant predictor and the best epoch, both rates,
and the gap between training and validation accuracy; a line below for each run, with its reading.
"""

import importlib.util
import io
import re
import sys
from pathlib import Path
from statistics import median_low

import numpy as np

from disk.errors import command_line, exit_on_error, fail_on, say, stop
from disk.files import check_new, replace_file
from run.folder import HISTORY
from run.scores import number, read_tsv

# Gap in accuracy: up to 5 points good, which is what chance may show (the 95 % interval of 70 % on
# the 483 official validation pairs is 4.1 points on either side); up to twice that slight.
GOOD, SLIGHT = 0.05, 0.10
FEW = 12  # epochs; each has a marker up to here
BURST = 3  # times what a line is in half of its epochs; higher losses are told, not drawn


def available():
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def read_gap(gap, best, constant, pairs):
    """The reading of training minus validation accuracy, where that is `best`, above chance.

    pairs: of the validation.
    """
    if best <= constant:
        return "no better than chance"
    if gap < -GOOD:
        points = 196 * (best * (1 - best) / pairs) ** 0.5
        return (
            f"unusual: {pairs} pairs (+-{points:.1f} points), or training mode against evaluation"
        )
    if gap <= GOOD:
        return "good"
    return "slight" if gap <= SLIGHT else "overfitting"


def read_run(run):
    """({column: values per epoch}, constant accuracy, prior loss, validation pairs) of a run.

    The two chance levels are those of its validation pairs, as its log states them.
    """
    path = Path(run) / "history.tsv"
    if not path.is_file():
        stop(__file__, f"{path}: no such file; is {run} a run with an epoch done?")
    with fail_on(__file__, path, ValueError):
        header, *rows = read_tsv(path)
        columns = [[number(value) for value in values] for values in zip(*rows, strict=True)]
    if header != HISTORY.split() or not np.isfinite(columns).all():
        stop(__file__, f"{path}: does not hold finite numbers of {HISTORY}")
    if not rows:
        stop(__file__, f"{path}: no epoch yet")
    log = Path(run) / "train.log"
    with fail_on(__file__, log, ValueError):
        text = log.read_text(encoding="ascii")
    levels = r"constant ([01]\.[0-9]{4}), prior loss ([01]\.[0-9]{4})\n"
    chance = re.search(r"val: +([0-9]{1,9}) pairs.*" + levels, text)
    if chance is None:
        stop(__file__, f"{log}: has no line on the validation pairs")
    columns = dict(zip(header, columns, strict=True))
    return columns, float(chance[2]), float(chance[3]), int(chance[1])


def describe(name, trained, validated, constant, pairs):
    """What the accuracies of a run come to, in a line."""
    best = max(validated)
    place = validated.index(best)
    gap = trained[place] - best
    return (
        f"run {name}: best accuracy {best:.4f} in epoch {place + 1}, {constant:.4f} by chance; "
        f"gap {100 * gap:+.1f} points: {read_gap(gap, best, constant, pairs)}"
    )


def draw_lines(axis, lines, word, style, steps=False, above=()):
    """One line a run, [values per epoch], in its color; equal ones lie within each other.

    above: lines that will be drawn above these.
    """
    axis.plot([], [], style, color="gray", label=word)
    for run, line in enumerate(lines):
        equal = [*lines[run + 1 :], *above].count(line)
        look = {"color": f"C{run % 10}", "ls": style, "lw": 1.5 + 3 * equal}
        if steps:
            edges = [epoch + 0.5 for epoch in range(len(line) + 1)]
            axis.stairs(line, edges, baseline=None, **look)
        else:
            look |= {"marker": "o" * (len(line) <= FEW), "ms": 4 + look["lw"]}
            look |= {"mfc": "white"} if style == "--" else {}
            axis.plot(range(1, len(line) + 1), line, **look)


def draw_scores(axis, trained, validated, levels, word):
    """Both lines of each run, and a dotted one for each level of chance that differs."""
    draw_lines(axis, trained, "training", "--")
    draw_lines(axis, validated, "validation", "-")
    levels = sorted(set(levels))
    axis.plot([], [], "k:", label=f"{word} {', '.join(f'{level:.4f}' for level in levels)}")
    for level in levels:
        axis.axhline(level, color="black", ls=":")


def leave_out_bursts(axis, lines, levels):
    """Ends the axis above what each line is in half of its epochs; the title says what is gone."""
    top = BURST * max(*levels, *map(median_low, lines))
    above = [(loss, epoch) for line in lines for epoch, loss in enumerate(line, 1) if loss > top]
    if above:
        shown = [*levels, *(loss for line in lines for loss in line if loss <= top)]
        axis.set_ylim(min(shown) - 0.1 * max(shown), 1.2 * max(shown))
        axis.set_title("loss (not drawn: up to {:.3g}, in epoch {})".format(*max(above)))


def draw_rates(axis, backbones, heads):
    """Both rates of each run as steps, on a scale that has a place for a rate of 0."""
    if backbones == heads:
        draw_lines(axis, backbones, "backbone and head (equal)", "-", steps=True)
    else:
        draw_lines(axis, heads, "head", "--", steps=True, above=backbones)
        draw_lines(axis, backbones, "backbone", "-", steps=True)
    rates = sorted({rate for line in backbones + heads for rate in line})
    axis.set_yscale("symlog", linthresh=min(filter(None, rates), default=1) / 2, linscale=0.3)
    axis.yaxis.set_major_formatter("{x:.2g}")
    if len(rates) <= FEW:
        axis.set_yticks(rates, minor=False)
        axis.minorticks_off()


def draw_gaps(axis, trained, validated):
    """Training minus validation accuracy of each run in points, and where a reading begins."""
    both = [zip(*lines, strict=True) for lines in zip(trained, validated, strict=True)]
    draw_lines(axis, [[100 * (train - val) for train, val in line] for line in both], "", "-")
    axis.margins(y=0.1)  # room for a word above the highest line
    for level, word in ((0, ""), (100 * GOOD, "slight"), (100 * SLIGHT, "overfitting")):
        axis.axhline(level, color="black", ls=":" if word else "-", lw=1)
        axis.text(0.01, level, word, transform=axis.get_yaxis_transform(), va="bottom")


def draw_figure(runs):
    """The matplotlib figure of run folders, 13 inches wide; its four panels are equal in size."""
    from matplotlib.figure import Figure

    tables, constants, priors, pairs = zip(*map(read_run, runs), strict=True)
    column = {key: [table[key] for table in tables] for key in tables[0]}
    trained, validated = column["train_acc"], column["val_acc"]
    names = [Path(run).absolute().name[:60].replace("$", r"\$") for run in runs]
    figure = Figure(figsize=(13, 9 + 0.25 * len(runs)), layout="constrained")
    figure.suptitle(f"{len(runs)} runs" if len(runs) > 1 else f"run {names[0]}")
    losses, accuracies, rates, gaps = panels = figure.subplots(2, 2).ravel()
    titles = ("loss", "accuracy", "learning rate", "training - validation accuracy, points")
    for axis, title in zip(panels, titles, strict=True):
        axis.set(title=title, xlabel="epoch", xlim=(0.5, 0.5 + max(map(len, validated))))
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.grid(alpha=0.3)
    draw_scores(losses, column["train_loss"], column["val_loss"], priors, "prior's loss")
    leave_out_bursts(losses, column["train_loss"] + column["val_loss"], priors)
    draw_scores(accuracies, trained, validated, constants, "constant predictor")
    draw_rates(rates, column["lr_backbone"], column["lr_head"])
    draw_gaps(gaps, trained, validated)
    accuracies.plot([], [], "*", color="gray", mec="black", ms=13, label="best")
    for axis in (losses, accuracies, rates):
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, frameon=False)
    for run, name in enumerate(names):
        line, look = validated[run], {"color": f"C{run % 10}", "mec": "black"}
        look["ms"] = 13 + 6 * validated[run + 1 :].count(line)
        look["label"] = describe(name, trained[run], line, constants[run], pairs[run])
        accuracies.plot(line.index(max(line)) + 1, max(line), "*", **look)
    figure.legend(handles=accuracies.lines[-len(runs) :], loc="outside lower center")
    return figure


def draw(runs, path):
    """Draws the curves of run folders to a PNG at path, 1,300 pixels wide."""
    import matplotlib

    with matplotlib.rc_context({"lines.scale_dashes": False}):  # equal lines have equal dashes
        figure = draw_figure(runs)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    replace_file(path, lambda file: file.write(buffer.getvalue()))


@exit_on_error
def main(argv=None):
    """Draws after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", required=True, type=Path, help="PNG to write")
    args = parser.parse_args(argv)
    if not available():
        stop(__file__, "needs matplotlib: python -m pip install matplotlib")
    check_new("--out", args.out)
    with fail_on(__file__, "matplotlib is broken", ImportError, AttributeError):
        draw(args.runs, args.out)
    say(f"wrote {args.out}", sys.stderr)


if __name__ == "__main__":
    main()
