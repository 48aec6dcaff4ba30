"""Which rows of the stage `features` a trainer's forward passes are, and what its record shows."""

import difflib
import math
from collections import Counter
from dataclasses import dataclass

import torch

from diagnose.explain import combinations_of, explain_each, findings_of
from diagnose.forward import Recipe, Replay, batchnorms, recipe_of
from diagnose.numerics import estimated, relative_error, rounding_of
from diagnose.reference import is_behind, pass_of
from diagnose.related import TOLD, whole
from diagnose.relation import relation_of
from diagnose.stages.departure import first_departure, pooled_as
from diagnose.stages.features import (
    AUTOCAST,
    DEPARTS,
    DEPARTS_BEHIND,
    DROPOUT,
    ENDS_BEFORE,
    EPS,
    EVALUATION,
    EVALUATION_OF_SIDE,
    IN_AUTOCAST,
    LINEAR,
    MAX_POOL,
    MOMENTUM,
    NO_STATISTICS,
    NOT_MET,
    NOT_REPRODUCED,
    ONE_OF,
    ONE_PASS,
    OTHER_LAYERS,
    OWN_BATCHNORM,
    OWN_PASSES,
    OWN_WEIGHTS,
    PASSES,
    SCORE,
    STATISTICS_MOVE,
    STILL,
    TWO_BACKBONES,
)
from diagnose.trace import batches_of

FEW = 3  # that are named of many
CONVOLUTION = ("stride", "padding", "dilation", "groups")
# Ops that compute, by a part of their names.
KINDS = ("conv2d", "batch_norm", "relu", "max_pool", "avg_pool", "linear", "add", "dropout", "gelu",
         "silu", "sigmoid", "tanh", "group_norm", "layer_norm", "interpolate")  # fmt: skip
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
    found, left = [], {}  # by layer, what each of its calls left
    for step, batch in batches_of(trace):
        if batch.joined:
            return []  # not all of its passes are those of one pair
        moved = []
        for norm in norms_of(batch):
            if norm.before[0] is not None and norm.weight is not None:
                own = left.setdefault(norm.weight, [norm.before])
                if not all(map(torch.equal, own[-1], norm.before)):
                    moved.append((own[:], norm.before))
                own.append(norm.after)
        found += [(step, STATISTICS_MOVE.found(how=moved_to(moved)))] if moved else []
    return found


def moved_to(moved):
    """What running statistics become between two calls, in words.

    moved: [([what each earlier call left], what the next one meets)] of layers, (mean, variance).
    """
    if all(not mean.any() and bool((variance == 1).all()) for _, (mean, variance) in moved):
        return "reset to mean 0 and variance 1"
    for dtype in (torch.float16, torch.bfloat16):
        rounded = [[t.to(dtype).to(t.dtype) for t in left[-1]] for left, _ in moved]
        if all(all(map(torch.equal, a, b)) for a, (_, b) in zip(rounded, moved, strict=True)):
            return f"rounded to {str(dtype)[6:]}"
    if all(any(all(map(torch.equal, a, b)) for a in left[:-1]) for left, b in moved):
        return "again those that an earlier forward pass left"
    return "changed by another forward pass in training mode, or overwritten"


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


def judge_missing(match, numbers):
    """The finding that a pass that is reproduced does not meet all weights of the backbone.

    numbers: of the weights that it meets, in order.
    """
    left = {name.split(".")[0] for name in match.missing}
    if left.isdisjoint(name.split(".")[0] for name in match.names.values()):
        return ENDS_BEFORE.found(layers=tuple(sorted(left)))
    if all("running_" in name for name in match.missing):
        return NO_STATISTICS.found()
    modules = tuple(dict.fromkeys(name.rpartition(".")[0] for name in match.missing))
    times = Counter(numbers)
    shared = [match.names[n].rpartition(".")[0] for n in match.names if times[n] > 1]
    shown = tuple(dict.fromkeys(shared))[:FEW] or None
    return NOT_MET.found(count=len(modules), modules=modules[:FEW], shared=shown)


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
    side = side_in_evaluation(batch, sides)
    if side:
        findings.append(EVALUATION_OF_SIDE.found(side=side))
    elif modes and not any(modes.values()):
        findings.append(EVALUATION.found())
    elif still:
        layers = tuple(dict.fromkeys(name.split(".")[0] for name in still))
        findings.append(STILL.found(layers=layers, modules=tuple(still)))
    findings += [EPS.found(eps=e, reference=min(usual)) for e in sorted(eps - usual)[:1] if usual]
    if layer:
        findings.append((SCORE if layer["outputs"] == 1 else LINEAR).found(**layer))
    return tuple(findings)


def side_in_evaluation(batch, sides):
    """1 or 2 where all of BatchNorm is in evaluation mode in the pass of that photo alone, or 0."""
    if not is_one_pass_each(sides):
        return 0
    modes = [{norm.training for norm in pass_of(batch, rows).norms} for rows in sides.rows]
    return {((False,), (True,)): 1, ((True,), (False,)): 2}.get(tuple(map(tuple, modes)), 0)


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


def related_features(replay):
    """How the features come from those that the reference gives, in words; None where not known."""
    made = replay.output(recipe_of(replay.shown))
    if made is None or made.shape != replay.features.shape:
        return None
    sides = [side.double().chunk(2) for side in (made, replay.features)]
    both = [whole(*pair) for pair in zip(*sides, strict=True)]
    lost = [n for n, own in enumerate(both, 1) if relative_error(own.made, own.seen) > TOLD]
    words = relation_of([both[n - 1] for n in lost], TOLD)
    return words and f"{words}, in photo_{lost[0]} alone" if len(lost) == 1 else words


def differing_ops(usual, own):
    """{missing, added: up to FEW ops, each with the op before it, or None} of a forward pass
    against the reference's: of those kinds that one of the two has more of.
    """
    usual, own = (list(filter(None, map(kind_of, ops))) for ops in (usual, own))
    parts = difflib.SequenceMatcher(None, usual, own, autojunk=False).get_opcodes()
    few, many = Counter(usual) - Counter(own), Counter(own) - Counter(usual)
    spans = [part[1:] for part in parts if part[0] != "equal"]
    missing = [n for a, b, *_ in spans for n in range(a, b) if usual[n] in few]
    added = [n for *_, a, b in spans for n in range(a, b) if own[n] in many]
    shown = ([told(usual, place) for place in missing], [told(own, place) for place in added])
    return dict(zip(("missing", "added"), (tuple(s[:FEW]) or None for s in shown), strict=True))


def differing_options(reference, record):
    """Up to FEW ops of a recorded Pass that are told other things than the reference's, such as a
    stride, in words; None where none is, or where they are others.
    """
    names = [name.rpartition(".")[0] for key, name in reference.weights
             if key[1] == "conv2d" and name.endswith("weight")]  # fmt: skip
    told, calls = [], list(zip(record.ops, record.options, strict=True))
    for kind in ("conv2d", "max_pool2d", "avg_pool2d", "leaky_relu"):
        usual, own = ([list(options) for op, options in ops if kind in op]
                      for ops in (reference.ops, calls))  # fmt: skip
        places = names if kind == "conv2d" and len(names) == len(usual) else range(1, len(own) + 1)
        reordered = sorted(map(str, usual)) == sorted(map(str, own))
        if len(usual) == len(own) and not reordered:  # else other layers may run first
            told += [f"{kind} {place} is told {numbers(b, kind)} (reference: {numbers(a, kind)})"
                     for place, a, b in zip(places, usual, own, strict=True)
                     if a != b]  # fmt: skip
    return (*told[:FEW], *["..."] * (len(told) > FEW)) or None


def numbers(options, kind):
    """What an op is told, in words."""
    own = [value[0] if isinstance(value, (list, tuple)) and len(set(value)) == 1 else value
           for value in options]  # fmt: skip
    if kind == "conv2d" and len(own) == len(CONVOLUTION):
        own = map(" ".join, zip(CONVOLUTION, map(str, own), strict=True))
    return ", ".join(map(str, own))


def kind_of(op):
    """What an op is called for all its forms; None of one that computes nothing."""
    name = op.strip("_").removeprefix("i")
    name = next((kind for kind in KINDS if kind in op), None) or name
    return name if name in KINDS else None


def told(ops, place):
    """An op, and the number of the last convolution or BatchNorm before it."""
    before = [op for op in ops[:place] if op in ("conv2d", "batch_norm")]
    return f"{ops[place]} after {before[-1]} {before.count(before[-1])}" if before else ops[place]


# Replayed


@dataclass(frozen=True, eq=False)
class Passes:
    """The forward passes of a batch: recipe: None where nothing reproduces its features."""

    replay: Replay
    recipe: Recipe | None
    relative_error: float
    tolerance: float


def replay_of(trace, view, rounding, reference, weights, first):
    """The Replay of the forward passes of a batch; first: see Replay; for others judge_passes."""
    values = weights(view.step)
    layer, told = linear_layer(trace.weights, view.matches[0], values)
    backbone = reference.ranker.backbone
    shown = shown_by(view.batch, view.sides, view.matches, backbone, told)
    own = view.step, view.sides, reference.ranker, weights, view.matches
    side, statistics = side_in_evaluation(view.batch, view.sides), {}
    if side:
        names = view.matches[side - 1].names
        norms = pass_of(view.batch, view.sides.rows[side - 1]).norms
        statistics = {names[n.weight].rpartition(".")[0]: n.before for n in norms
                      if n.weight in names and n.before[0] is not None}  # fmt: skip
    return Replay(*own, layer, rounding, statistics, shown, first)


def view_rounding(trace, view, values):
    """See rounding_of, for all that is replayed of a batch."""
    kept = [values[n] for n in view.matches[0].names] + view.sides.features
    return rounding_of(trace, view.step, kept)


def judge_passes(trace, views, roundings, reference, weights, progress):
    """([(step, finding)] on the forward passes of all batches, the Passes of each).

    views: see diagnose.compare.BatchContext, those whose photos were recorded; roundings: of each,
    see view_rounding; weights: see Replay; progress: see diagnose.progress.Progress.
    """
    replays = []
    for view, rounding in zip(views, roundings, strict=True):
        first = replays[0] if replays else None
        replays.append(replay_of(trace, view, rounding, reference, weights, first))
        replays[-1].error(replays[-1].shown)  # each keeps what it has computed
        progress.advance("repeating forward passes")
    free = [*PASSES, *[MAX_POOL] * calls(views, "max"), *[DROPOUT] * calls(views, "dropout")]
    owns = explain_each(replays, combinations_of(free))
    findings, passes = [], []
    for view, replay, own in zip(views, replays, owns, strict=True):
        recipe, match = None, view.matches[0]
        if own.fits:
            recipe = recipe_of((*own.shown[0], *own.fits[0]))
            told = list(map(own.proves, own.shown[0]))
            told += findings_of(own, ONE_OF)
            told += [IN_AUTOCAST.found()] * any(record.autocast for record in view.batch.passes)
            told += [judge_missing(match, view.batch.passes[0].weights)] * bool(match.missing)
        elif any(record.autocast for record in view.batch.passes):
            told = [AUTOCAST.found()]
        else:
            nearest = estimated(own.nearest) if math.isfinite(own.nearest) else None
            record = view.batch.passes[0]
            ops = differing_ops([op for op, _ in reference.ops], record.ops)
            ops |= {"otherwise": differing_options(reference, record)}
            where = first_departure(view.batch, replay)
            is_behind_all = bool(where) and where["departs"] is None
            words = pooled_as(replay) if is_behind_all else None
            ops |= {"relation": words or related_features(replay)}
            told = [NOT_REPRODUCED.found(tried=own.tried, nearest=nearest, **ops)]
            if where:
                row = DEPARTS if where["departs"] else DEPARTS_BEHIND
                told.append(row.found(**where))
        if match.names.keys() != view.matches[1].names.keys():
            told.append(judge_own(view.matches, trace.weights))
        told += judge_momentum(view.batch, match, reference.ranker.backbone)
        findings += [(view.step, finding) for finding in told]
        passes.append(Passes(replay, recipe, own.relative_error, own.tolerance))
    return findings, passes
