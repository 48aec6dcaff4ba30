"""The kill matrix: every bug of the zoo, carried by variant.py, against every tool.

    python tests/zoo/zoo.py [BUG ...]

Numbers are those of the list of bugs. For each tool stands what it said; `-` is no complaint.
"""

import contextlib
import io
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "zoo")]

import tiny  # noqa: E402
import variant  # noqa: E402

import train_resnet  # noqa: E402
from diagnose import audit, compare, judge, reference  # noqa: E402

# Number, bug, the tool that must name it, its words.
ZOO = [
    (1, "labels inverted in the loader", "audit", "inverted: "),
    (1, "labels inverted in the loader", "compare", "labels inverted in the loader"),
    (2, "labels inverted in the loss", "compare", "labels inverted in the loss"),
    (3, "metric inverted", "judge", "metric inverted"),
    (3, "metric inverted", "compare", "metric inverted"),
    (4, "loss and metric inverted", "judge", "loss and metric both inverted"),
    (4, "loss and metric inverted", "compare", "labels inverted in the loss"),
    (5, "output index swapped", "judge", "output index swapped"),
    (6, "features_2 - features_1", "compare", "features_2 - features_1: harmless"),
    (7, "ranks read as winner ids", "audit", "ranks read as winner ids"),
    (8, "class prior", "judge", "no better than the constant predictor"),
    (9, "BGR", "compare", "BGR for RGB"),
    (10, "normalisation missing", "compare", "normalisation missing"),
    (10, "normalisation twice", "compare", "normalisation twice"),
    (11, "crop", "compare", "crop, pad or squash differ"),
    (11, "squash", "compare", "crop, pad or squash differ"),
    (12, "other filter", "compare", "another decoder or resampling filter"),
    (13, "head of zeros", "compare", "head initialised with zeros, first loss 0.6931"),
    (14, "head of fan_out", "compare", "(fan_out) against 0.03125"),
    (15, "one rate", "compare", "one learning rate for all"),
    (15, "rates swapped", "compare", "the two learning rates are swapped"),
    (16, "backbone frozen", "compare", "backbone frozen by mistake"),
    (17, "head missing from the optimizer", "compare", "head missing from the optimizer"),
    (18, "no momentum", "compare", "no momentum"),
    (19, "no weight decay", "compare", "no weight decay"),
    (20, "gradients not zeroed", "compare", "gradients not zeroed"),
    (21, "BatchNorm in training mode", "judge", "scores change with batching"),
    (21, "BatchNorm in training mode", "compare", "evaluation in training mode"),
    (22, "one concatenated pass", "compare", "one concatenated pass instead of two"),
    (23, "dropout at evaluation", "judge", "two evaluations differ"),
    (24, "two backbones", "compare", "two backbones, weights not shared"),
    (25, "last batch weighted wrongly", "compare", "last partial batch weighted wrongly"),
    (26, "accuracy averaged per batch", "judge", "accuracy averaged per batch"),
    (26, "accuracy averaged per batch", "compare", "accuracy averaged per batch"),
    (27, "shuffling off", "compare", "shuffling off: the pairs come in the order of the file"),
    (27, "same order every epoch", "compare", "shuffling off: every epoch has the same order"),
    (28, "split over pairs", "audit", "a split drawn over pairs"),
    (29, "softmax before cross-entropy", "compare", "softmax before cross-entropy"),
    (29, "NLL on probabilities", "compare", "NLL on probabilities"),
    (30, "log_softmax twice", "compare", "it changes nothing"),
    (31, "scheduler per batch", "compare", "scheduler stepped per batch"),
    (32, "last saved as best", "judge", "last checkpoint saved as the best"),
    (33, "random numbers consumed", "compare", "random numbers consumed before training"),
    (34, "nondeterministic", "compare", "nondeterministic"),
    (35, "AMP step skipped", "compare", "AMP step skipped"),
]
# Ordinary bugs beyond the list, met when strangers tried the tools.
MORE = [
    (0, "BGR before normalisation", "compare", "BGR for RGB: exchanged before"),
    (0, "padded with grey", "compare", "another padding colour: 0.3000"),
    (0, "BatchNorm frozen", "compare", "BatchNorm in evaluation mode during training"),
    (0, "dropout before the head", "compare", "between difference and logits"),
    (0, "loss halved", "compare", "loss scaled: 0.5 times CE(logits, label)"),
    (0, "label smoothing", "compare", "none of 36 hypotheses explains (smoothing"),
    (0, "Nesterov", "compare", "updates that are not those of SGD"),
    (0, "clipped after the trace", "compare", "updates that are not those of SGD"),
    (0, "no decay on one dimension", "compare", "no weight decay on tensors of one dimension"),
]
HARMLESS = ("features_2 - features_1", "log_softmax twice")
LR = 1e-2  # backbone; the head's is ten times as high, as in the recipe


def write_data(root, seed=0):
    """Photos of coloured noise, the brighter the better; 30 series to train, 81 to validate.

    In a sixth of the series to validate people see it otherwise.
    """
    rng = np.random.default_rng(seed)
    folder = root / "train_val" / "train_val_imgs"
    folder.mkdir(parents=True)
    for split, series in (("train", range(1, 31)), ("val", range(31, 112))):
        lines = []
        for number in series:
            count = 2 + number % 2
            ranks = seen = rng.permutation(count) + 1
            if split == "val" and number % 6 == 0:
                seen = rng.permutation(count) + 1
            for photo in range(1, count + 1):
                shape = (6, 8, 3) if number % 3 else (8, 6, 3)
                noise = rng.integers(0, 70, shape) + 150 - 55 * seen[photo - 1] + [40, 10, 0]
                image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
                big = image.resize((image.width * 12, image.height * 12), Image.BICUBIC)
                big.save(folder / f"{number:06d}-{photo:02d}.JPG", quality=90)
            for a in range(count):
                for b in range(a + 1, count):
                    preference = 0.9 if ranks[a] < ranks[b] else 0.1
                    lines.append(f"{number} {a + 1} {b + 1} {preference} {ranks[a]} {ranks[b]}\n")
        (root / "train_val" / f"{split}_pairlist.txt").write_text("".join(lines))
    return root


def run_reference(root, out, seed=42):
    """Two traced epochs of the reference with the tiny backbone, in double; its folder."""
    flags = f"--weights none --size 64 --epochs 2 --float64 --seed {seed}"
    rates = f"--lr-backbone {LR} --lr-head {10 * LR}"
    places = ["--data", root, "--out", out, "--store", root / "stores", "--device", "cpu"]
    real = train_resnet.resnet50
    train_resnet.resnet50 = lambda weights: tiny.backbone(2048, norm=True)
    words = [*flags.split(), *rates.split(), *map(str, places)]
    reference.trace_page(train_resnet, 100, words)
    train_resnet.resnet50 = real
    return out


def call(main, *words):
    """(exit code, what was printed) of a tool."""
    printed = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(printed), contextlib.ExitStack() as stack:
        stack.push(
            lambda kind, error, trace: kind is SystemExit and codes.append(error.code) is None
        )
        codes = []
        main([str(word) for word in words])
    return (codes or [code])[0], printed.getvalue()


def examine(bug, root, reference, folder, **style):
    """{tool: (exit code, what it said in one line)} of a variant with this bug."""
    accuracies = variant.train(bug, root, reference, folder / "a", LR, **style)
    second = []
    if bug in ("nondeterministic", ""):
        variant.train(bug, root, reference, folder / "b", LR, again=True, **style)
        second = ["--again", folder / "b"]
    files = {
        name: folder / "a" / f"{name}.tsv"
        for name in ("labels", "predictions", "repeated", "rebatched")
    }
    more = ["--repeated", files["repeated"], "--rebatched", files["rebatched"]]
    found = {
        "audit": call(audit.main, "--data", root, "--labels", files["labels"]),
        "judge": call(judge.main, "--data", root, "--predictions", files["predictions"],
                     "--reported-accuracy", *accuracies, *more),
        "compare": call(compare.main, reference, folder / "a", *second),
    }  # fmt: skip
    found["pytest"] = run_checks(root, files, reference, folder)
    return {tool: (code, sentences(tool, text)) for tool, (code, text) in found.items()}


def run_checks(root, files, reference, folder):
    """(1 or 0, names) of the checks of test_my_data.py that fail on the variant's files."""
    import test_my_data as checks

    options = {"--data": root, "--labels": files["labels"], "--reference": reference,
               "--predictions": files["predictions"], "--variant": folder / "a"}  # fmt: skip
    request = Namespace(config=Namespace(getoption=lambda name: options.get(name)))
    failed = []
    for check in (
        checks.test_my_labels_are_the_official_ones,
        checks.test_my_predictions_are_healthy,
        checks.test_my_trace_is_the_references,
    ):
        try:
            check(request)
        except AssertionError:
            failed.append(check.__name__.removeprefix("test_my_"))
    return int(bool(failed)), f"VERDICT {', '.join(failed) or '-'}"


def sentences(tool, text):
    """The verdict, or the causes, in one line."""
    lines = text.splitlines()
    if tool == "compare":
        words = ("CAUSE ", "INFO ")
        said = [line.split("  [")[0] for line in lines if line.startswith(words)]
        return "; ".join(line.partition(" ")[2] for line in said)
    return lines[0].removeprefix("VERDICT ") if lines else ""


def main(bugs):
    """Prints the matrix; exit code 1 where a bug is not named or a clean variant is accused."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = write_data(folder / "data")
        with contextlib.redirect_stdout(io.StringIO()):
            reference = run_reference(root, folder / "reference")
        named, wanted = set(), {number for number, bug, *_ in ZOO if not bugs or bug in bugs}
        for i, bug in enumerate(dict.fromkeys(bug for _, bug, *_ in ZOO)):
            if bugs and bug not in bugs:
                continue
            found = examine(bug, root, reference, folder / str(i))
            rows = [row for row in ZOO if row[1] == bug]
            right = all(words in found[tool][1] for _, _, tool, words in rows)
            named |= {rows[0][0]} if right else set()
            print(f"#{rows[0][0]:<3} {bug}: {'named' if right else 'NOT NAMED'}")
            for tool, (code, said) in found.items():
                print(f"       {tool:8} {code}  {said[:150] or '-'}")
        alarms = [] if bugs else clean(root, reference, folder)
    print(f"{len(named)} of {len(wanted)} bugs named; {len(alarms)} false alarms: {alarms}")
    return int(named != wanted or bool(alarms))


CLEAN = ("", "workers", "channels_last", "a group per tensor")


def clean(root, reference, folder, seeds=20):
    """False alarms on clean variants, each style over as many seeds."""
    alarms = []
    for seed in range(seeds):
        with contextlib.redirect_stdout(io.StringIO()):
            reference = run_reference(root, folder / f"clean{seed}", seed)
        style = CLEAN[seed % len(CLEAN)]
        found = examine("", root, reference, folder / f"variant{seed}", style=style, seed=seed)
        for tool, (code, said) in found.items():
            alarms += [(seed, style, tool, said)] if code else []
    return alarms


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
