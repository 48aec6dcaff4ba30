"""The backbone's forward passes: from the inputs to the features of both photos."""

import math
from dataclasses import replace

import torch
from torch.nn import functional as F

from diagnose.explain import Change, one_of
from diagnose.forward import EVERY, recipe_of
from run.findings import CAUSE, DECLARED, SKIPPED, UNEXPLAINED, Row


def change(name, text, act, **options):
    """A change of the forward passes: act(diagnose.forward.Recipe, values)."""
    return Change(f"features.{name}", CAUSE, text, act=act, **options)


def after(name, text, function, **options):
    """A change with one more function of the features [B, F]."""
    return change(name, text, lambda recipe, values: recipe.plus(function), **options)


def dropout_rates(replays, changes):
    """Estimates the rate of a dropout whose mask is where the trainer's features are 0."""
    rates = []
    for replay in replays:
        made = replay.output(recipe_of((*replay.shown, *changes)))
        if made is None or made.shape != replay.features.shape:
            return []
        kept, there = replay.features != 0, made != 0
        made = made.to(replay.features.dtype)
        rate = 1 - float((made[kept] ** 2).sum() / (replay.features * made).sum())
        share = 1 - float(kept[there].double().mean())
        if not 0 < rate < 1 or abs(share - rate) > 3 / math.sqrt(int(there.sum())):
            return []
        rates.append(rate)
    return [{"rate": rates[0]}]


MAX_POOL = change(
    "max_pool",
    "features are max-pooled (reference: average-pooled)",
    lambda recipe, values: replace(recipe, max_pool=True),
)
DROPOUT = change(
    "dropout",
    "dropout {rate} is applied to the features of each photo",
    lambda recipe, values: replace(recipe, dropout=values["rate"]),
    values=dropout_rates,
)
# Tried alone and two at a time.
PASSES = (
    after("normalized", "features are normalized to length 1", F.normalize),
    after("sigmoid", "a sigmoid is applied to the features", torch.sigmoid),
    after("tanh", "a tanh is applied to the features", torch.tanh),
    after("relu", "a ReLU is applied to the features", torch.relu),
    after(
        "layer_norm",
        "a layer norm is applied to the features",
        lambda f: F.layer_norm(f, f.shape[1:]),
    ),
)
# Shown by the record of each batch.
ONE_PASS = change(
    "one_pass",
    "both photos go through the backbone in one forward pass, so BatchNorm mixes "
    "them (reference: one each)",
    lambda recipe, values: replace(recipe, own_passes=True),
    help="call the backbone once for each of the two photos",
)
OWN_PASSES = change(
    "own_passes",
    "the photos go through the backbone in {passes} forward passes, so BatchNorm "
    "sees other batches (reference: 2)",
    lambda recipe, values: replace(recipe, own_passes=True),
    varies=("passes",),
    help="call the backbone once for each of the two photos",
)
EVALUATION = change(
    "batchnorm_eval",
    "BatchNorm is in evaluation mode during training",
    lambda recipe, values: replace(recipe, eval_mode=(EVERY,)),
    help="train in training mode: no .eval() before the batches; model.train() after an evaluation",
    at=("eval", "forward"),
)
EVALUATION_OF_SIDE = change(
    "batchnorm_eval_of_side",
    "BatchNorm is in evaluation mode in the forward pass of photo_{side}, and in training mode in "
    "the other",
    lambda recipe, values: replace(recipe, eval_mode=(EVERY,), eval_side=values["side"]),
    help="call model.train() before both forward passes, and no .eval() between them",
    at=("eval", "forward"),
)
STILL = change(
    "batchnorm_partly_eval",
    "BatchNorm of {layers} is in evaluation mode during training",
    lambda recipe, values: replace(recipe, eval_mode=values["modules"]),
    help="train in training mode: no .eval() before the batches; model.train() after an evaluation",
    at=("eval", "forward"),
)
EPS = change(
    "batchnorm_eps",
    "BatchNorm eps is {eps} (reference: {reference})",
    lambda recipe, values: replace(recipe, eps=values["eps"]),
)
LINEAR = change(
    "linear",
    "a linear layer, {inputs} to {outputs}, is applied to the features of each photo",
    lambda recipe, values: replace(recipe, linear=True),
)
SCORE = change(
    "score",
    "a linear layer, {inputs} to {outputs}, is applied to the features of each "
    "photo: photos are scored one by one",
    lambda recipe, values: replace(recipe, linear=True),
)
ONE_OF = one_of("features")
NOT_REPRODUCED = Row(
    "features.not_reproduced",
    UNEXPLAINED,
    "no known change of the forward passes reproduces the features[; your forward pass lacks: "
    "{missing}][; it has besides: {added}][; {otherwise}][; compared with the reference's "
    "features, yours are {relation}]",
    varies=("tried", "nearest", "relation"),
    at=("hook", "function", "forward"),
)
DEPARTS = Row(
    "features.departs",
    UNEXPLAINED,
    "[in forward pass {pass} ]everything up to {agree} is as in the reference, and what enters "
    "{departs} is not",
)
DEPARTS_BEHIND = Row(
    "features.departs_behind",
    UNEXPLAINED,
    "everything up to {agree}, the last BatchNorm, is as in the reference: what follows it is not",
)
AUTOCAST = Row(
    "features.autocast",
    SKIPPED,
    "the forward passes run under autocast, which is not replayed; record without --as-is",
)
IN_AUTOCAST = Row(
    "features.autocast_declared",
    DECLARED,
    "the forward passes run under autocast, which has no effect on the recorded float64",
)
NOT_TWO_SIDES = Row(
    "features.not_two_sides",
    UNEXPLAINED,
    "the forward passes are not two sides of equal shape"
    "[: features of shapes {shapes} meet, and are broadcast]",
)
IN_PARTS = Row(
    "features.in_parts",
    UNEXPLAINED,
    "parts of a batch go through the head by themselves and meet in one loss, "
    "which is not replayed",
)
GIVEN = Row("features.given", SKIPPED, "features were given: no photo was seen")
# Facts.
MOMENTUM = Row(
    "features.batchnorm_momentum",
    CAUSE,
    "BatchNorm momentum[ of {layers}] is {momentum} (reference: {reference}); "
    "affects evaluation only",
)
STATISTICS_MOVE = Row(
    "features.statistics_change",
    CAUSE,
    "BatchNorm's running statistics change between the recorded forward passes (they are {how}); "
    "affects evaluation only",
)
NO_STATISTICS = Row(
    "features.no_statistics",
    CAUSE,
    "BatchNorm keeps no running statistics: evaluation uses those of its own batches",
)
OTHER_LAYERS = Row(
    "features.other_layers", UNEXPLAINED, "photo_1 and photo_2 go through different layers"
)
TWO_BACKBONES = Row(
    "features.two_backbones",
    CAUSE,
    "photo_1 and photo_2 have separate backbones",
    help="call one and the same backbone for both photos",
)
OWN_BATCHNORM = Row(
    "features.own_batchnorm",
    CAUSE,
    "photo_1 and photo_2 have separate BatchNorm layers",
    help="call one and the same backbone for both photos",
)
OWN_WEIGHTS = Row(
    "features.own_weights",
    CAUSE,
    "photo_1 and photo_2 have separate parameters in {layers}",
    help="call one and the same backbone for both photos",
)
ENDS_BEFORE = Row("features.truncated", CAUSE, "the backbone ends before {layers}")
NOT_MET = Row(
    "features.weights_not_met",
    UNEXPLAINED,
    "parameters of {count} modules are not used, first {modules}[; those of {shared} are used "
    "several times in one forward pass]",
)


def without_passes(stage):
    """The row of another stage that was not judged, since the passes were not."""
    return Row(f"{stage}.passes_skipped", SKIPPED, "not judged, since the passes are not")
