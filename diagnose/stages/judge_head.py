"""Which rows of the stage `head` a trainer's head is, op by op."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch.nn import functional as F

from diagnose.explain import act_on, explain_each
from diagnose.numerics import (
    FORMULA,
    estimated,
    formula_tolerance,
    is_close,
    is_float32,
    relative_error,
)
from diagnose.reference import column
from diagnose.related import TOLD, whole
from diagnose.relation import relation_of
from diagnose.stages.head import (
    ACTIVATION,
    BEFORE,
    BIASED,
    DIFFERENCE,
    DROPOUT,
    DROPOUT_FEATURES,
    DROPOUT_LOST,
    HIDDEN,
    LINEAR_LOST,
    MERGES,
    NO_BIAS,
    NO_LAYER,
    ONE_LOGIT,
    OTHER_MERGE,
    OTHER_OP,
    PRODUCTS,
    SCALED,
    SCORES,
    SUMS,
    TRANSPOSED,
    TWO_MERGES,
    ZERO_COLUMNS,
)
from run.findings import Finding


class Layer(NamedTuple):
    """One op of a head, and what is applied before it."""

    apply: Callable  # both, [B, in] to [B, out]
    before: Finding | None = None  # an activation, or a factor
    rate: float | None = None  # of a dropout
    width: int | None = None  # of a linear layer
    has_bias: bool = False


NEIGHBORS = 8  # features that are 0 in every pair by no chance


@dataclass(frozen=True, eq=False)
class Replay:
    """One op without weights of a recorded head; see diagnose.explain.Replay.

    given: its tensors. apply(findings): what the reference does with them instead.
    """

    given: tuple
    seen: torch.Tensor
    apply: Callable
    tolerance: float
    shown: tuple = ()

    @property
    def size(self):
        """How many recorded numbers are compared."""
        return self.seen.numel()

    def error(self, changes):
        """(relative error with these findings, its tolerance)."""
        return relative_error(self.apply(changes)(*self.given), self.seen), self.tolerance


def merge_of(changes):
    """The function of both features [B, F] that some findings stand for."""
    return (changes[0].row if changes else DIFFERENCE).act


def activation_of(changes):
    """The function of a tensor that some findings stand for."""
    return lambda x: act_on(x, changes)


def judge_heads(views, weights, roundings):
    """([(step, finding)] on the way from the features to the logits of all batches, op by op; that
    way of each, as a function of both features, or None where it is not reproduced).

    weights: all of the trainer's before a step, by number; roundings: of each, see rounding_of.
    """
    findings, ways = [], [None] * len(views)
    alike = {}  # places of batches whose heads have the same ops
    for place, view in enumerate(views):
        key = view.batch.joined, tuple((entry.op, entry.weights) for entry in view.batch.head)
        alike.setdefault(key, []).append(place)
    for places in alike.values():
        told = judge_alike([views[i] for i in places], weights, [roundings[i] for i in places])
        for place, (found, way) in zip(places, told, strict=True):
            findings += [(views[place].step, finding) for finding in found]
            ways[place] = way
    return findings + judge_columns(views), ways


def judge_columns(views):
    """The finding on features that are 0 in the input of the head in all batches, in a list.

    A few may be so by chance, as behind a ReLU, but not neighbors.
    """
    inputs = [view.batch.head[0].input for view in views if view.batch.head]
    if not inputs or len({x.shape[1:] for x in inputs}) > 1 or inputs[0].dim() != 2:
        return []
    zero = (torch.cat(inputs) == 0).all(0)
    places = zero.nonzero().flatten().tolist()
    if not zero.any() or zero.all() or len(places) < NEIGHBORS:
        return []
    if places != list(range(places[0], places[-1] + 1)):
        return []
    told = {"count": len(places), "total": len(zero), "first": places[0] + 1}
    return [(view.step, ZERO_COLUMNS.found(**told, last=places[-1] + 1)) for view in views]


def judge_alike(views, weights, roundings):
    """[(findings, way or None)] of batches whose heads have the same ops; see judge_heads."""
    current = [column(view.batch.merged) for view in views]
    if views[0].batch.joined:
        return [([TWO_MERGES.found()], None) for _ in views]
    if not views[0].batch.head and current[0].shape[1:].numel() > 2:
        return [([NO_LAYER.found()], None) for _ in views]
    merges = judge_merges(views, current, roundings)
    lost, layers = [None] * len(views), [[] for _ in views]
    for entries in zip(*(view.batch.head for view in views), strict=True):
        replays = [
            Replay((x,), entry.input, activation_of, FORMULA[is_float32(rounding)])
            for x, entry, rounding in zip(current, entries, roundings, strict=True)
        ]
        before = explain_each(replays, [[()], [(ACTIVATION,)], [(SCALED,)]])
        for place, (entry, found) in enumerate(zip(entries, before, strict=True)):
            if merges[place][1] is None or lost[place]:
                continue
            values = weights(views[place].step)
            layer, lost[place] = explain_layer(
                entry, found.fits, values, roundings[place], current[place], views[place].sides
            )
            layers[place].append(layer)
        current = [entry.output for entry in entries]
    return [
        (found, None) if row is None
        else ([*found, missing], None) if missing
        else (found + name_layers(own), way_of(row, own))
        for (found, row), missing, own in zip(merges, lost, layers, strict=True)
    ]  # fmt: skip


def way_of(row, layers):
    """The function of both features that a merge and the layers behind it are."""
    return lambda a, b: reduce(lambda x, layer: layer.apply(x), layers, row.act(a, b))


def judge_merges(views, merged, roundings):
    """[(findings on the merge, its row or None where none reproduces it)] of each batch."""
    replays = [
        Replay(tuple(view.sides.features), x, merge_of, FORMULA[is_float32(rounding)])
        for view, x, rounding in zip(views, merged, roundings, strict=True)
    ]
    found = explain_each(replays, [[()], [(row,) for row in MERGES if row is not DIFFERENCE]])
    return [name_merge(own, view, x)
            for own, view, x in zip(found, views, merged, strict=True)]  # fmt: skip


def name_merge(found, view, merged):
    """(findings on the merge of a batch, its row or None); found: the Explanation of it."""
    batch = view.batch
    if not found.fits:
        told = like_features(*view.sides.features, merged)
        return [OTHER_MERGE.found(tried=len(MERGES), op=batch.merge, **told)], None
    row = found.fits[0][0].row if found.fits[0] else DIFFERENCE
    layered = any(entry.op == "linear" for entry in batch.head)
    scores = None if layered else SCORES.get((row, merged.shape[1:].numel()))
    if scores:
        return [scores.found()], row
    return [found.proves(row.found())] if row is not DIFFERENCE else [], row


def like_features(first, second, merged):
    """{of, relation: how the output of a merge comes from the features}, None where not known."""
    terms = {"features_1 - features_2": DIFFERENCE.act(first, second)}
    terms |= {"features_1": first, "features_2": second}
    related = {of: relation_of([whole(made, merged)], TOLD) for of, made in terms.items()}
    known = {of: words for of, words in related.items() if words}
    both = combined(first, second, merged)
    known |= {"the features": both} if both and not known else {}
    of = next(iter(known), None)
    return {"of": of, "relation": known.get(of)}


def combined(first, second, seen):
    """By which numbers both features are multiplied to give what is seen, in words; None where none
    do.
    """
    if not first.shape == second.shape == seen.shape:
        return None
    sides = torch.stack([t.double().flatten() for t in (first, second)], 1)
    factors = torch.linalg.lstsq(sides, seen.double().flatten()[:, None]).solution
    if relative_error((sides @ factors)[:, 0], seen.double().flatten()) > TOLD:
        return None
    a, b = map(estimated, factors.flatten().tolist())
    return f"{a} x features_1 + {b} x features_2"


def explain_layer(entry, fits, values, rounding, given, sides):
    """(the Layer of one recorded op, or None; the finding of what is not reproduced, or None).

    fits: what is applied before it, see diagnose.explain.Explanation; given: what comes before it;
    sides: of the batch.
    """
    if not fits and is_transposed(entry.input, given):
        return None, TRANSPOSED.found(op=entry.op, shape=str(list(entry.input.shape)))
    if not fits:
        words = relation_of([whole(given, entry.input)], TOLD)
        words = words or combined(*sides.features, entry.input)
        return None, BEFORE.found(op=entry.op, relation=words)
    before = next(iter(fits[0]), None)
    function = activation_of(fits[0])
    if "dropout" in entry.op:
        rate = dropout_rate(entry, FORMULA[is_float32(rounding)])
        if rate is None:
            return None, DROPOUT_LOST.found()
        mask = (entry.output != 0).to(entry.output.dtype) / (1 - rate) if rate else 1
        rate = estimated(rate) if rate else None
        return Layer(lambda x: function(x) * mask, before, rate), None
    return explain_linear(entry, values, before, function, formula_tolerance(rounding))


def is_transposed(seen, given):
    """Whether a tensor is the transpose of another one, as far as rounding tells."""
    return seen.dim() == 2 and seen.shape == given.T.shape and is_close(seen, given.T)


def explain_linear(entry, values, before, function, tolerance):
    """As explain_layer, of an op with weights; before, function: what is applied before it."""
    layer = [values[n].to(entry.input.dtype) for n in entry.weights]
    layer = layer[::-1] if entry.op == BIASED else layer
    is_sum = entry.op in SUMS
    if is_sum and relative_error(entry.input + layer[0], entry.output) <= tolerance:
        return Layer(lambda x: function(x) + layer[0], before, has_bias=True), None
    if entry.op in (*PRODUCTS, BIASED) and layer[0].dim() == 2 and entry.input.dim() == 2:
        across = layer[0].shape[0] == entry.input.shape[1]  # [in, out]
        layer = [layer[0].T if across else layer[0], *layer[1:]]
    elif entry.op != "linear":
        return None, OTHER_OP.found(op=entry.op)
    if entry.input.shape[-1] != layer[0].shape[-1]:
        return None, OTHER_OP.found(op=entry.op)
    made = F.linear(entry.input, *layer)
    if relative_error(made, entry.output) > tolerance:
        return None, LINEAR_LOST.found(relation=relation_of([whole(made, entry.output)], TOLD))
    apply = lambda x: F.linear(function(x), *layer)  # noqa: E731
    return Layer(apply, before, width=len(layer[0]), has_bias=len(layer) > 1), None


def dropout_rate(entry, tolerance):
    """The rate of a dropout whose output is its input with a mask; 0 off, None not explained."""
    if relative_error(entry.output, entry.input) <= tolerance:
        return 0.0
    rate = next((o for o in entry.options if isinstance(o, float)), 0.5)
    kept, there = entry.output != 0, entry.input != 0
    made = torch.where(kept, entry.input / (1 - rate), 0.0 * entry.input)
    share = float(kept[there].double().mean())
    near = 6 * math.sqrt(rate * (1 - rate) / max(1, int(there.sum()))) + 1e-3
    fits = relative_error(made, entry.output) <= tolerance and abs(share - (1 - rate)) < near
    return rate if fits else None


def name_layers(layers):
    """Findings on the layers of a head; the reference has one linear layer and nothing else."""
    found, linears = [], [layer for layer in layers if layer.width]
    before = [layer.before for layer in layers if layer.before]
    found += [finding for finding in before if finding.row is SCALED]
    activations = [f.values["function"] for f in before if f.row is ACTIVATION]
    added = any(layer.has_bias and not layer.width for layer in layers)
    if linears and not linears[-1].has_bias and not added:
        found.append(NO_BIAS.found())
    if linears and linears[-1].width == 1:
        found.append(ONE_LOGIT.found())
    for rate in dict.fromkeys(layer.rate for layer in layers if layer.rate):
        found.append((DROPOUT_FEATURES if len(linears) == 1 else DROPOUT).found(rate=rate))
    if len(linears) > 1:
        widths = tuple(layer.width for layer in linears[:-1])
        functions = tuple(activations) or ("nothing between",)
        found.append(HIDDEN.found(widths=widths, functions=functions))
    elif activations:
        found.append(ACTIVATION.found(function=activations[0]))
    return found
