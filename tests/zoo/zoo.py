"""The zoo: silent bugs planted into three foreign trainers, and what each must be called.

    python tests/zoo/zoo.py [--real] [--as-is] [--script plain] [PLANT ...]

The trainers were written apart from this project and are run unchanged under record.py. Prints
the kill matrix: planted, said. Without names: every plant alone, the clean variants over 20 seeds
and 100 draws of two or three. --real takes the real ResNet-50 in the place of a tiny backbone;
`real` as a PLANT stands for the plants of REAL.
"""

import contextlib
import functools
import io
import random
import runpy
import sys
import tempfile
from pathlib import Path

from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import make_demo  # noqa: E402
import train_resnet  # noqa: E402
from diagnose import compare, record  # noqa: E402

# plant: (kind, stage, words of the answer), stages in the order of execution.
EXPECTED = {
    "no_shuffle": ("cause", "pairs", "in the order of the list"),
    "batch_16": ("cause", "pairs", "batches of 16 pairs"),
    "batch_4": ("cause", "pairs", "batches of 4 pairs"),
    "same_batch": ("cause", "pairs", "pairs come again after 8 of"),
    "accumulate2": ("cause", "pairs", "an update every 2 batches"),
    "labels_inverted": ("cause", "labels", "labels are inverted before the loss"),
    "ranks_as_winner": ("cause", "labels", "ranks are read as winner ids"),
    "photos_turned": ("cause", "labels", "photos of each pair are exchanged, the label is not"),
    "photos_turned_random": ("cause", "labels", "pairs are exchanged, their labels are not"),
    "winner_first": ("cause", "labels", "the preferred photo always comes first"),
    "turned_rightly": ("cause", "labels", "photo_2 comes first in"),
    "part_wrong": ("unknown", "labels", "labels are not the official ones"),
    "bgr": ("cause", "inputs", "channels are BGR"),
    "no_normalize": ("cause", "inputs", "values from 0 to 1, not normalised"),
    "normalize_half": ("cause", "inputs", "mean .5 and deviation .5"),
    "normalize_twice": ("cause", "inputs", "normalised twice"),
    "range255": ("cause", "inputs", "values from 0 to 255"),
    "crop": ("cause", "inputs", "centre cropped"),
    "squash": ("cause", "inputs", "stretched to the square"),
    "pad_black": ("cause", "inputs", "padding is black"),
    "pad_topleft": ("cause", "inputs", "upper left corner"),
    "pad_gray128": ("cause", "inputs", "padding is gray"),
    "pad_train": ("cause", "inputs", "mean colour of the training photos"),
    "bicubic": ("cause", "inputs", "filter is bicubic"),
    "lanczos": ("cause", "inputs", "filter is lanczos"),
    "nearest": ("cause", "inputs", "filter is nearest"),
    "no_antialias": ("cause", "inputs", "without antialiasing"),
    "hflip": ("cause", "inputs", "mirrored left to right"),
    "hflip_random": ("cause", "inputs", "mirrored left to right ("),
    "vflip": ("cause", "inputs", "upside down"),
    "jitter": ("cause", "inputs", "each photo has its own scale and shift"),
    "grayscale": ("cause", "inputs", "turned to gray"),
    "half_input": ("cause", "inputs", "rounded to float16"),
    "bf16_input": ("cause", "inputs", "rounded to bfloat16"),
    "head_zero": ("cause", "start", "weights of the head are 0"),
    "head_fan_out": ("cause", "start", "fan_out"),
    "head_default": ("cause", "start", "PyTorch's default"),
    "head_xavier": ("cause", "start", "Xavier uniform"),
    "head_orthogonal": ("cause", "start", "another spread: std 0.0221"),
    "features_normalized": ("cause", "features", "normalised to length 1"),
    "features_sigmoid": ("cause", "features", "a sigmoid"),
    "features_tanh": ("cause", "features", "a tanh"),
    "dropout_each": ("cause", "features", "dropout 0.3 behind the features of each photo"),
    "features_relu": ("cause", "features", "a ReLU"),
    "max_pool": ("cause", "features", "by their maximum"),
    "two_backbones": ("cause", "features", "two backbones"),
    "one_pass": ("cause", "features", "in one pass"),
    "half_batches": ("cause", "features", "in 4 passes"),
    "each_photo": ("cause", "features", "in 16 passes"),
    "gathered": ("cause", "features", "in one pass"),
    "bn_reset": ("cause", "features", "running statistics change"),
    "bn_no_statistics": ("cause", "features", "keeps no running statistics"),
    "own_norms": ("cause", "features", "a BatchNorm of its own"),
    "bn_eval": ("cause", "features", "evaluation mode while training"),
    "bn_momentum": ("cause", "features", "momentum is 0.01"),
    "bn_eps": ("cause", "features", "eps is 0.001"),
    "reversed_difference": ("harmless", "head", "features_2 - features_1"),
    "abs_difference": ("cause", "head", "absolute"),
    "concat": ("cause", "head", "concatenated"),
    "product": ("cause", "head", "product of the features"),
    "dropout_features": ("cause", "head", "dropout 0.5"),
    "hidden_layer": ("cause", "head", "hidden layers: 128 (ReLU)"),
    "one_logit": ("cause", "head", "the head ends in one logit, not two"),
    "no_head_bias": ("cause", "head", "no bias"),
    "label_invert_loss": ("cause", "loss", "labels are inverted in the loss"),
    "logits_swapped": ("cause", "loss", "two logits are exchanged"),
    "logits_scaled": ("cause", "loss", "multiplied by 10 before the loss"),
    "smoothing": ("cause", "loss", "label smoothing of 0.1"),
    "focal": ("cause", "loss", "gamma 2"),
    "class_weights": ("cause", "loss", "class weights 1 to 1.5"),
    "pos_weight": ("cause", "loss", "class weights 1 to 3, not over their sum"),
    "softmax_then_ce": ("cause", "loss", "softmax stands before the cross-entropy"),
    "softmax_dim0": ("cause", "loss", "softmax runs over the batch"),
    "label_columns": ("cause", "loss", "the labels of all pairs"),
    "soft_labels": ("cause", "loss", "the people's shares, not 0 and 1"),
    "agreement_weights": ("cause", "loss", "by the people's agreement"),
    "agreement_weighted_mean": ("cause", "loss", "agreement, over their sum"),
    "nll_on_probs": ("cause", "loss", "takes probabilities"),
    "mse": ("cause", "loss", "mean squared error"),
    "margin": ("cause", "loss", "margin 1"),
    "negated": ("cause", "loss", "multiplied by -1"),
    "sum_loss": ("cause", "loss", "the sum over the pairs"),
    "loss_over_2": ("cause", "loss", "multiplied by 0.5"),
    "detach_second": ("cause", "gradients", "features_2 is detached"),
    "detach_backbone": ("cause", "gradients", "carry no gradient"),
    "no_zero_grad": ("cause", "gradients", "not zeroed between updates"),
    "zero_grad_late": ("cause", "gradients", "zeroed between backward and the update"),
    "backward_twice": ("cause", "gradients", "backward runs 2 times"),
    "clip_norm": ("cause", "gradients", "norm is clipped (or set) to 0.1"),
    "clip_value": ("cause", "gradients", "clipped to +-0.001"),
    "one_lr": ("cause", "update", "one learning rate for all"),
    "rates_swapped": ("cause", "update", "rates are exchanged"),
    "lr_10x": ("cause", "update", "other learning rates"),
    "no_momentum": ("cause", "update", "momentum 0, not 0.9"),
    "nesterov": ("cause", "update", "Nesterov"),
    "dampening": ("cause", "update", "dampening 0.1"),
    "no_weight_decay": ("cause", "update", "weight decay 0, not 0.0005"),
    "decay_weights_only": ("cause", "update", "on all biases and BatchNorm's weights"),
    "wd_1e_4": ("cause", "update", "weight decay 0.0001"),
    "adam": ("cause", "update", "Adam ("),
    "adamw": ("cause", "update", "AdamW"),
    "rmsprop": ("cause", "update", "RMSprop"),
    "adagrad": ("cause", "update", "Adagrad"),
    "step_twice": ("cause", "update", "the optimizer steps 2 times for one backward"),
    "head_missing": ("cause", "update", "the head: stepped by no optimizer"),
    "head_made_late": (
        "cause",
        "update",
        "holds weights that no recorded pass meets (tensors: 2",
    ),
    "optimizers_in_turn": ("cause", "update", "by no optimizer here, but by one in other steps"),
    "group_added": (
        "cause",
        "update",
        "the head: stepped by no optimizer here, but by one",
    ),
    "frozen_first": ("cause", "update", "the backbone: frozen (requires_grad False)"),
    "backbone_frozen": ("cause", "update", "the backbone: frozen"),
    "bn_frozen": ("cause", "update", "BatchNorm's weights and biases: frozen"),
    "bias_lr_double": ("cause", "update", "all biases of the backbone 2e-05"),
    "ema": ("cause", "update", "moving average, decay 0.9"),
    "decay_after": ("cause", "update", "multiplied by 0.999"),
    "warmup": ("cause", "update", "change from step to step"),
    "schedule_first": ("cause", "update", "stepped before each update, its first rate is left out"),
    "maximize": ("cause", "update", "maximize=True"),
    "optimizer_anew": ("cause", "update", "momentum begins anew"),
    "schedule_per_batch": ("stated", "update", "within the epoch"),
    "metric_inverted": ("cause", "printed", "1 - accuracy"),
    "epoch_mean_over_batches": ("cause", "printed", "mean over batches, not over pairs"),
    "loss_sum_over_n": ("cause", "printed", "means times 32, over the number of pairs"),
    "loss_last_batch": ("cause", "printed", "the last batch's alone"),
}
# Figures of an epoch need two epochs; two figures may be right by chance.
STEPS = dict.fromkeys(("epoch_mean_over_batches", "loss_sum_over_n", "loss_last_batch"), 10)
STEPS["metric_inverted"] = 4
UNTRAINED = "the backbone starts untrained"  # so do all of the zoo
HARMLESS = ("bce", "log_softmax_twice", "loss_scaled_unscaled")
CLEAN = ("clean_reversed_batch", "clean_double_after", "clean_float32", "clean_channels_last",
         "clean_extra_forward", "clean_autograd_backward", "clean_group_per_tensor",
         "clean_second_first", "clean_rows_stacked", "clean_rows_joined", "clean_in_place",
         "clean_masked", "clean_closure", "clean_one_is_first",
         "clean_head_written_out")  # fmt: skip
# Bugs that no row of the tables is: the stage at which they must be found unexplained.
OUTSIDE = {1: "labels", 2: "inputs", 3: "inputs", 5: "features", 6: "features",
           7: "loss", 8: "gradients", 9: "update", 10: "update",
           11: "loss", 12: "features", 13: "update", 14: "gradients", 15: "gradients",
           16: "loss"}  # fmt: skip
# One of each kind, for the real backbone in both precisions.
REAL = """
    labels_inverted bgr hflip bicubic normalize_half half_input crop pad_topleft head_zero
    bn_eval one_pass bn_momentum bn_eps max_pool features_tanh concat abs_difference
    hidden_layer dropout_features no_head_bias label_invert_loss smoothing focal class_weights
    softmax_then_ce sum_loss detach_second no_zero_grad zero_grad_late backward_twice clip_norm
    clip_value one_lr no_weight_decay decay_weights_only adam nesterov head_missing bn_frozen
    ema warmup reversed_difference bce clean_float32 clean_channels_last
"""
# Draws take one plant of a stage: several of one stage may be one (two losses, two optimizers).
DRAWN = ("bgr", "hflip", "bicubic", "normalize_half", "crop", "labels_inverted", "one_pass",
         "bn_eval", "features_tanh", "hidden_layer", "concat", "dropout_features", "no_head_bias",
         "label_invert_loss", "focal", "smoothing", "sum_loss", "backward_twice", "clip_norm",
         "no_zero_grad", "one_lr", "adam", "nesterov", "no_weight_decay", "bn_frozen", "batch_4",
         "metric_inverted")  # fmt: skip


def tiny(weights):
    """The tiny backbone of the foreign trainers' --tiny."""
    layers = [nn.Conv2d(3, 16, 8, 8, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2048))


@functools.cache
def dataset():
    """A demo dataset of 12 series, made once a process."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        make_demo.main(["--out", f"{folder.name}/data", "--series", "12", "--seed", "1"])
    return folder, Path(folder.name) / "data"


def examine(plants, script="plain", real=False, seed=0, steps=None, as_is=False):
    """The findings on a foreign trainer with these plants."""
    steps = steps or max((STEPS.get(plant, 2) for plant in plants), default=2)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        trace, root = Path(folder) / "mine.trace", dataset()[1]
        words = ["--data", str(root), "--size", "64", "--seed", str(seed)]
        words += (
            ["--epochs", "3"]
            + ([] if real else ["--tiny"])
            + (["--plant", *plants] if plants else [])
        )
        stack.callback(setattr, sys, "argv", sys.argv)
        sys.argv = [str(HERE / f"{script}.py"), *words]
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        with contextlib.suppress(SystemExit), record.Recording(trace, steps, as_is):
            runpy.run_path(sys.argv[0], run_name="__main__")
        if not real:
            stack.callback(setattr, train_resnet, "resnet50", train_resnet.resnet50)
            train_resnet.resnet50 = tiny
        return compare.explain(compare.read_trace(trace), root, "train_resnet")[0]


def wrong_with(plants, findings):
    """What is missing in the findings on these plants, and what should not be there."""
    said = [(f.kind, f.stage, f.sentence) for f, _ in findings if f.kind != "skipped"]
    free, problems = list(said), []
    for plant in plants:
        if plant not in EXPECTED:
            continue
        kind, stage, words = EXPECTED[plant]
        found = [row for row in free if row[:2] == (kind, stage) and words in row[2]]
        problems += [] if found else [f"missing: {plant}"]
        free = [row for row in free if row not in found]
    allowed = ["the head's biases do not start at 0"] if "head_default" in plants else []
    if {"head_missing", "head_made_late"} & set(plants):
        allowed += ["gradients of the head, which no optimizer steps, add up"]
    allowed += [sentence for _, _, sentence in free if sentence.startswith(UNTRAINED)]
    return problems + [
        f"not planted: {kind} {stage}: {sentence}"
        for kind, stage, sentence in free
        if sentence not in allowed and kind != "harmless"
    ]


def draws(count, seed=0):
    """Seeded draws of two or three plants of different stages."""
    rng = random.Random(seed)
    while count:
        plants = rng.sample(DRAWN, rng.choice((2, 3)))
        stages = {EXPECTED[plant][1] for plant in plants}
        cancel = {"labels_inverted", "label_invert_loss"} <= set(plants)  # the reference again
        if len(stages) == len(plants) and not cancel:
            count -= 1
            yield plants


def main(argv=None):
    """Prints the kill matrix and how many rows are wrong."""
    argv = sys.argv[1:] if argv is None else argv
    real, as_is, script = "--real" in argv, "--as-is" in argv, "plain"
    if "--script" in argv:
        script = argv[argv.index("--script") + 1]
    names = [word for word in argv if word in EXPECTED or word.startswith(("clean", "outside"))]
    names += REAL.split() if "real" in argv else []
    rows = [([name], 0) for name in names or [*EXPECTED, *HARMLESS, *CLEAN]]
    if not names:
        rows += [([], seed) for seed in range(20)] + [(plants, 0) for plants in draws(100)]
    bad = 0
    for plants, seed in rows:
        findings = examine(plants, script, real, seed, as_is=as_is)
        problems = wrong_with(plants, findings)
        bad += bool(problems)
        said = "; ".join(f.sentence for f, _ in findings if f.kind != "skipped") or "EQUAL"
        print(f"{'+'.join(plants) or 'clean'} | {said} | {'; '.join(problems) or 'ok'}", flush=True)
    for number, stage in OUTSIDE.items() if not names else ():
        kinds = {(f.kind, f.stage) for f, _ in examine([f"outside_{number}"], script, real)}
        right = ("unknown", stage) in kinds and not any(kind == "cause" for kind, _ in kinds)
        bad += not right
        print(f"outside_{number} | not established at {stage} | {'ok' if right else kinds}")
    print(f"{len(rows)} rows, {bad} wrong")


if __name__ == "__main__":
    main()
