"""The reference's network with a recorded trainer's weights, and the two sides of its batches."""

import copy
import functools
import importlib
import weakref
from argparse import Namespace
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from diagnose.numerics import FORMULA, relative_error
from diagnose.record import OpTracer, is_large

PAGES = ("train_resnet", "train_vgg")
FINEST = "layer1", "layer2"  # of ResNet; a pass of VGG keeps less


class Reference(NamedTuple):
    """What a trainer is compared with."""

    ranker: torch.nn.Module
    weights: list  # of its backbone, see reference_weights
    recipe: dict  # {flag: default}
    rules: dict  # {backbone or head: (class of the optimizer, values of its group)}
    page: str  # its module
    ops: list  # of its forward pass: (name, what it was told besides its tensors)


class Match(NamedTuple):
    """Which of the trainer's weights stand for which of the reference's backbone."""

    names: dict  # number of the trainer's weight: name in the reference's backbone
    missing: list  # names that have no counterpart
    extra: list  # numbers of the trainer's that have none


class Sides(NamedTuple):
    """The two sides of a recorded batch: inputs, features, their gradients (None: detached)."""

    inputs: list  # None where features were given
    features: list
    gradients: list
    numbers: list  # of the weights that each side met
    passes: list  # [N, 3, S, S] of each forward pass as it was made
    rows: list  # [B] places in all passes

    def swapped(self):
        """The same with the other side first."""
        lists = (self.inputs, self.features, self.gradients, self.numbers)
        return Sides(*(side[::-1] for side in lists), self.passes, self.rows[::-1])


# The trainer's weights and the reference's


def choose_reference(name, trace, size):
    """The Reference that the recorded weights fit best; name: of its page, or None."""
    best = None
    for page in [name] if name else PAGES:
        module = importlib.import_module(page)
        recipe = {key: row[0] for key, row in module.RECIPE.items()}
        args = Namespace(**(recipe | {"weights": "none", "size": size}))
        ranker = module.build(args)
        weights, ops = reference_weights(ranker, size)
        known = {k for k, _ in weights}
        share = sum(key(w) in known for w in trace.weights) / len(weights)
        if best is None or share > best[0]:
            rules = optimizer_rules(module.build_optimizer(args, ranker))
            best = share, Reference(ranker, weights, recipe, rules, page, ops)
        if share >= 1:
            break  # building another takes seconds and a gigabyte
    return best[1]


def optimizer_rules(optimizer):
    """{name of a group: (class, its values)} of an optimizer that a page builds."""
    rules = {}
    for group in optimizer.param_groups:
        values = {key: value for key, value in group.items() if key not in ("params", "name")}
        rules[group["name"]] = type(optimizer).__name__, values
    return rules


def key(weight):
    """By what a weight is told from others: its depth in weighted ops, the op, place and shape."""
    return weight.depth, weight.op, weight.place, weight.shape


def reference_weights(ranker, size):
    """([(key, name)] of the backbone's weights, in the order in which a photo meets them; (op, what
    it was told) of its forward pass, in order).
    """
    sight = OpTracer(False)
    names = {id(t): name for name, t in ranker.backbone.state_dict(keep_vars=True).items()}
    dtype = next(ranker.parameters()).dtype
    photo = torch.zeros(2, 3, size, size, dtype=dtype)
    with torch.no_grad(), sight:
        made = copy.copy(ranker.backbone).eval()(photo)
    (record,) = sight.tags[made].passes.values()
    found = [
        ((w["depth"], w["op"], w["place"], tuple(w["shape"])), names.get(id(w["tensor"])))
        for w in sight.weights
    ]
    sight.tags.clear()
    ops = list(zip(record["ops"], record["options"], strict=True))
    return [(k, name) for k, name in found if name], ops


def match_weights(numbers, weights, reference):
    """The Match of the weights that one pass of a photo met (their numbers, in order)."""
    free = {}
    for k, name in reference:
        free.setdefault(k, []).append(name)
    names, extra = {}, []
    for n in dict.fromkeys(numbers):
        left = free.get(key(weights[n]))
        if left:
            names[n] = left.pop(0)
        else:
            extra.append(n)
    return Match(names, [name for left in free.values() for name in left], extra)


def is_behind(weights, n, match):
    """Whether a weight is that of a linear layer behind all of the reference's backbone."""
    last = max((weights[other].depth for other in match.names), default=0)
    return weights[n].op == "linear" and weights[n].depth > last


def weights_by_step(trace):
    """A function of the step: all recorded weights as they were before it, tensors by number."""
    first = trace.updates[0].weights

    @functools.lru_cache(maxsize=1)  # whole networks
    def at(step):
        if step == 0:
            return first
        later = trace.updates[step].weights
        known = zip(first, later, strict=False)
        moved = [a + b.to(a.dtype) if is_large(a) else b for a, b in known]
        return (*moved, *later[len(first) :])

    return at


def load_backbone(ranker, match, values, dtype):
    """A copy of the reference's backbone with the trainer's weights, in a precision."""
    backbone = copy.deepcopy(ranker.backbone)
    kept = {name for name, _ in backbone.named_parameters()}
    # Parameters are those of the record where they have the precision; statistics move.
    own = {name: values[n].to(dtype, copy=name not in kept) for n, name in match.names.items()}
    backbone.load_state_dict(own, strict=False, assign=True)
    backbone.to(dtype)
    spare_memory(backbone)
    lost = {name.split(".")[0] for name in match.missing}
    for child in lost:  # a part without any of its weights is not used
        if all(n.split(".")[0] != child for n in match.names.values()):
            setattr(backbone, child, nn.Identity())
    return backbone.train()


def spare_memory(backbone):
    """Has the blocks at the two finest resolutions, which hold most of the activations of a pass,
    compute them once more in the backward pass. Running statistics then move twice.
    """
    again = functools.partial(checkpoint, preserve_rng_state=False, use_reentrant=False)
    for name in FINEST:
        for block in getattr(backbone, name, ()):
            itself = weakref.proxy(block)  # a block that held itself would not be freed at once
            block.forward = functools.partial(again, type(block).forward, itself)


# The two sides of a batch


def column(tensor):
    """Scores [B] as [B, 1], any other tensor as it is."""
    return tensor[:, None] if tensor.dim() == 1 else tensor


def is_reversed(sides, batch):
    """Whether the merge is the difference the other way round."""
    a, b = sides.features
    return relative_error(b - a, column(batch.merged)) <= FORMULA[a.dtype != torch.float64]


def order_of(rows):
    """The places of both sides, photo_1 first: the one that entered first; rows: see Batch."""
    return [1, 0] if bool((rows[1] < rows[0]).all()) else [0, 1]


def pass_of(batch, side):
    """The Pass of the first photo of a side; side: its rows."""
    ends = torch.tensor([len(record.input) for record in batch.passes]).cumsum(0)
    return batch.passes[int((ends <= side[0]).sum())]


def photos_at(passes, rows):
    """[B, 3, S, S] photos at rows [B] of all passes; no copy where they are a whole pass."""
    ends = torch.tensor([len(photos) for photos in passes]).cumsum(0).tolist()
    for photos, end in zip(passes, ends, strict=True):
        if rows.tolist() == list(range(end - len(photos), end)):
            return photos
    return torch.cat(passes)[rows]


def sides_of(batch):
    """The Sides of a recorded pair, photo_1 first; None where it has not two equal ones."""
    rows, passes = batch.rows, [record.input for record in batch.passes]
    features, alike = batch.features, {f.shape for f in batch.features}
    if batch.joined == "others" or len(features) != 2 or len(alike) > 1 or features[0].dim() > 2:
        return None
    if any(len(side) != len(features[0]) or bool((side < 0).any()) for side in rows):
        return None
    if features[0].dim() == 1 and any(len(set(side.tolist())) == 1 < len(side) for side in rows):
        return None  # features of one photo, not scores of many
    order = order_of(rows)
    features = [column(features[i]) for i in order]
    if all(x is None for x in passes):
        return Sides(None, features, [None, None], [[], []], [], rows)
    if any(x is None or x.shape[1:] != passes[0].shape[1:] for x in passes):
        return None
    slots = [batch.gradients.get(f"features_{i}", []) for i in order]
    gradients = [list(map(column, side)) for side in slots]
    rows = [rows[i] for i in order]
    numbers = [pass_of(batch, side).weights for side in rows]
    inputs = [photos_at(passes, side) for side in rows]
    return Sides(inputs, features, gradients, numbers, passes, rows)
