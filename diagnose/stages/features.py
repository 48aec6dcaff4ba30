"""The backbone's forward passes: from the inputs to the features of both photos."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from diagnose.explain import Change, combinations_of, explain_each, findings_of, one_of
from diagnose.forward import EVERY, Recipe, Replay, batchnorms, recipe_of
from diagnose.numerics import estimated, rounding_of
from diagnose.reference import is_behind
from diagnose.trace import batches_of
from run.findings import CAUSE, SKIPPED, UNEXPLAINED, Row


@dataclass(frozen=True)
class Pass(Change):
    """A change of the forward passes: act(diagnose.forward.Recipe, values of its finding)."""

    act: Callable = None


def change(name, text, act, **options):
    """A Pass of this stage."""
    return Pass(f"features.{name}", CAUSE, text, act=act, **options)


def after(name, text, function):
    """A Pass with one more function of the features [B, F]."""
    return change(name, text, lambda recipe, values: recipe.plus(function))


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
)
OWN_PASSES = change(
    "own_passes",
    "the photos go through the backbone in {passes} forward passes, so BatchNorm "
    "sees other batches (reference: 2)",
    lambda recipe, values: replace(recipe, own_passes=True),
    varies=("passes",),
)
EVALUATION = change(
    "batchnorm_eval",
    "BatchNorm is in evaluation mode during training",
    lambda recipe, values: replace(recipe, eval_mode=(EVERY,)),
)
STILL = change(
    "batchnorm_partly_eval",
    "BatchNorm of {layers} is in evaluation mode during training",
    lambda recipe, values: replace(recipe, eval_mode=values["modules"]),
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
    "no known change of the forward passes reproduces the features",
    varies=("tried", "nearest"),
)
AUTOCAST = Row(
    "features.autocast",
    SKIPPED,
    "the forward passes run under autocast, which is not replayed; record without --as-is",
)
NOT_TWO_SIDES = Row(
    "features.not_two_sides", UNEXPLAINED, "the forward passes are not two sides of equal shape"
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
    "BatchNorm's running statistics change between the recorded forward passes "
    "(they are reset, or another forward pass runs in training mode); affects evaluation only",
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
)
OWN_BATCHNORM = Row(
    "features.own_batchnorm", CAUSE, "photo_1 and photo_2 have separate BatchNorm layers"
)
OWN_WEIGHTS = Row(
    "features.own_weights", CAUSE, "photo_1 and photo_2 have separate parameters in {layers}"
)
ENDS_BEFORE = Row("features.truncated", CAUSE, "the backbone ends before {layers}")
NOT_MET = Row("features.weights_not_met", UNEXPLAINED, "parameters of {layers} are not used")


def without_passes(stage):
    """The row of another stage that was not judged, since the passes were not."""
    return Row(f"{stage}.passes_skipped", SKIPPED, "not judged, since the passes are not")


# Facts


def norms_of(batch):
    """The calls of batch_norm in all passes of a batch."""
    return [norm for record in batch.passes for norm in record.norms]


def judge_momentum(batch, match, backbone):
    """Findings on how fast BatchNorm's running statistics follow, by what its calls were told."""
    usual = {module.momentum for _, module in batchnorms(backbone)}
    norms = [norm for norm in norms_of(batch) if norm.training and norm.before[0] is not None]
    other = [norm for norm in norms if norm.momentum not in usual]
    if not other or not usual:
        return []
    values = tuple(sorted({norm.momentum for norm in other}, key=str))
    layers = {match.names.get(norm.weight, "?").split(".")[0] for norm in other}
    layers = tuple(sorted(layers)) if len(other) < len(norms) else None
    return [MOMENTUM.found(layers=layers, momentum=values, reference=min(usual))]


def judge_running(trace):
    """[(step, finding)] on running statistics that something but the recorded passes moves."""
    found, last = [], {}
    for step, batch in batches_of(trace):
        if batch.joined:
            return []  # not all of its passes are those of one pair
        moved = False
        for norm in norms_of(batch):
            if norm.before[0] is not None and norm.weight is not None:
                before = last.get(norm.weight, norm.before)
                moved |= not all(map(torch.equal, before, norm.before))
                last[norm.weight] = norm.after
        found += [(step, STATISTICS_MOVE.found())] if moved else []
    return found


def judge_own(matches, weights):
    """The finding that the two photos do not meet the same weights."""
    first, second = ({name: n for n, name in match.names.items()} for match in matches)
    own = [n for name, n in first.items() if second.get(name) != n]
    if first.keys() != second.keys():
        return OTHER_LAYERS.found()
    if len(own) == len(first):
        return TWO_BACKBONES.found()
    if all(weights[n].op == "batch_norm" for n in own):
        return OWN_BATCHNORM.found()
    layers = sorted({matches[0].names[n].split(".")[0] for n in own})
    return OWN_WEIGHTS.found(layers=tuple(layers))


def judge_missing(match):
    """The finding that a pass that is reproduced does not meet all weights of the backbone."""
    left = {name.split(".")[0] for name in match.missing}
    if left.isdisjoint(name.split(".")[0] for name in match.names.values()):
        return ENDS_BEFORE.found(layers=tuple(sorted(left)))
    if all("running_" in name for name in match.missing):
        return NO_STATISTICS.found()
    return NOT_MET.found(layers=tuple(sorted(left)))


# What the record shows


def shown_by(batch, sides, matches, backbone, layer):
    """The findings that the record of a batch shows by itself, which are always tried along.

    backbone: the reference's; layer: values of the finding on a linear layer behind it, or None.
    """
    modes = {norm.weight: norm.training for norm in norms_of(batch)}
    names = {n: name.rpartition(".")[0] for match in matches for n, name in match.names.items()}
    still = sorted({names.get(n, "") for n, training in modes.items() if not training} - {""})
    eps = {norm.eps for norm in norms_of(batch) if norm.eps}
    usual = {module.eps for _, module in batchnorms(backbone)}
    findings = []
    if not is_one_pass_each(sides):
        count = len(sides.passes)
        findings.append(ONE_PASS.found() if count == 1 else OWN_PASSES.found(passes=count))
    if modes and not any(modes.values()):
        findings.append(EVALUATION.found())
    elif still:
        layers = tuple(dict.fromkeys(name.split(".")[0] for name in still))
        findings.append(STILL.found(layers=layers, modules=tuple(still)))
    findings += [EPS.found(eps=e, reference=min(usual)) for e in sorted(eps - usual)[:1] if usual]
    if layer:
        findings.append((SCORE if layer["outputs"] == 1 else LINEAR).found(**layer))
    return tuple(findings)


def is_one_pass_each(sides):
    """Whether each side went through the backbone whole, in a pass of its own."""
    if len(sides.passes) != 2:
        return False
    whole = (any(x.shape == side.shape and torch.equal(x, side) for x in sides.passes)
             for side in sides.inputs)  # fmt: skip
    return all(whole)


def linear_layer(weights, match, values):
    """(numbers of the weights of the one linear layer behind the backbone, values of the finding
    on it); ((), None) where there is none.
    """
    extra = [n for n in match.extra if is_behind(weights, n, match)]
    numbers = tuple(sorted(extra, key=lambda n: weights[n].place))
    if len(extra) < len(match.extra) or [values[n].dim() for n in numbers] not in ([2], [2, 1]):
        return (), None
    outputs, inputs = values[numbers[0]].shape
    return numbers, {"inputs": inputs, "outputs": outputs}


def calls(views, name):
    """Whether an op with this in its name was called in the forward passes of some batches."""
    passes = (record for view in views for record in view.batch.passes)
    return any(name in op for record in passes for op in record.ops)


# Replayed


@dataclass(frozen=True, eq=False)
class Passes:
    """The forward passes of a batch: recipe: None where nothing reproduces its features."""

    replay: Replay
    recipe: Recipe | None
    relative_error: float
    tolerance: float


def replay_of(trace, view, reference, weights):
    """The Replay of the forward passes of a batch; see judge_passes."""
    values = weights(view.step)
    layer, told = linear_layer(trace.weights, view.matches[0], values)
    backbone = reference.ranker.backbone
    shown = shown_by(view.batch, view.sides, view.matches, backbone, told)
    ranker, rounding = reference.ranker, view_rounding(trace, view, values)
    return Replay(view.step, view.sides, ranker, weights, view.matches, layer, rounding, shown)


def view_rounding(trace, view, values):
    """See rounding_of, for all that is replayed of a batch."""
    kept = [values[n] for n in view.matches[0].names] + view.sides.features
    return rounding_of(trace, view.step, kept)


def judge_passes(trace, views, reference, weights):
    """([(step, finding)] on the forward passes of all batches, the Passes of each).

    views: see diagnose.compare.View, those whose photos were recorded; weights: see Replay.
    """
    replays = [replay_of(trace, view, reference, weights) for view in views]
    free = [*PASSES, *[MAX_POOL] * calls(views, "max"), *[DROPOUT] * calls(views, "dropout")]
    owns = explain_each(replays, combinations_of(free))
    findings, passes = [], []
    for view, replay, own in zip(views, replays, owns, strict=True):
        recipe, match = None, view.matches[0]
        if own.fits:
            recipe = recipe_of((*own.shown[0], *own.fits[0]))
            told = list(map(own.proves, own.shown[0]))
            told += findings_of(own, ONE_OF)
            told += [judge_missing(match)] * bool(match.missing)
        elif any(record.autocast for record in view.batch.passes):
            told = [AUTOCAST.found()]
        else:
            nearest = estimated(own.nearest) if math.isfinite(own.nearest) else None
            told = [NOT_REPRODUCED.found(tried=own.tried, nearest=nearest)]
        if match.names.keys() != view.matches[1].names.keys():
            told.append(judge_own(view.matches, trace.weights))
        told += judge_momentum(view.batch, match, reference.ranker.backbone)
        findings += [(view.step, finding) for finding in told]
        passes.append(Passes(replay, recipe, own.relative_error, own.tolerance))
    return findings, passes
