"""The reference's forward passes on a recorded batch, with the trainer's weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F

from diagnose.backward import weight_gradients
from diagnose.explain import act_on
from diagnose.numerics import FORWARD, is_float32, relative_error, replay_tolerance
from diagnose.record import trim_memory
from diagnose.reference import Sides, load_backbone

EVERY = "*"  # instead of the names of all layers


@dataclass(frozen=True)
class Recipe:
    """What the forward passes do; the defaults are the page's.

    own_passes: the inputs go through the backbone in the passes that the trainer made, not in one
    for each side. eval_mode: names of the BatchNorm layers in evaluation mode, or EVERY. eval_side:
    1 or 2 where they are so in the pass of that side alone, 0: in all. eps: of
    BatchNorm. max_pool: whether features are pooled by their maximum. linear: whether the trainer's
    own layer follows the backbone. after: functions of features [B, F] behind that. dropout:
    rate of the dropout behind them, whose mask is the trainer's own; 0: none.
    """

    own_passes: bool = False
    eval_mode: tuple = ()
    eval_side: int = 0
    eps: float | None = None
    max_pool: bool = False
    linear: bool = False
    after: tuple = ()
    dropout: float = 0.0

    def plus(self, function):
        """The same with one more function of the features."""
        return replace(self, after=(*self.after, function))


def recipe_of(changes):
    """The Recipe with some findings."""
    return act_on(Recipe(), changes)


@dataclass(frozen=True, eq=False)
class Replay:
    """One recorded batch, on which the reference's forward passes are made, each once.

    ranker: of the reference. weights: all of the trainer's before a step, by number (a function of
    the step). matches: the Match of each side. layer: numbers of the weights of a linear layer
    behind the backbone. rounding: see rounding_of. statistics: {name of a BatchNorm: its running
    mean and variance} in a forward pass that is in evaluation mode while the other is not. shown:
    see diagnose.explain.Replay. first: the replay of an earlier batch, on which rounding is
    measured; None: on this one. made, reached: features and gradients by recipe and precision.
    """

    step: int
    sides: Sides
    ranker: nn.Module
    weights: Callable
    matches: list
    layer: tuple
    rounding: float
    statistics: dict = field(default_factory=dict)
    shown: tuple = ()
    first: "Replay | None" = None
    made: dict = field(default_factory=dict)
    reached: dict = field(default_factory=dict)

    def backbones(self, dtype):
        """The two backbones, new copies; one and the same where the photos share it."""
        values = self.weights(self.step)
        first, second = self.matches
        made = [load_backbone(self.ranker, first, values, dtype)]
        if first.names.keys() == second.names.keys():
            return made * 2
        return [*made, load_backbone(self.ranker, second, values, dtype)]

    @cached_property
    def dtype(self):
        """The precision of the trainer's weights."""
        values = (self.weights(self.step)[n] for n in self.matches[0].names)
        return next((t.dtype for t in values if t.is_floating_point()), torch.float64)

    @cached_property
    def features(self):
        """The trainer's own features of both sides, [2 * B, F]."""
        return torch.cat(self.sides.features)

    @property
    def size(self):
        """How many recorded numbers are compared."""
        return self.features.numel()

    def run(self, recipe, dtype, always=False):
        """Makes the passes of a recipe, and with each at once its backward pass, where its features
        are those recorded (always: whatever they are), as its activations are large.
        """
        chosen, features, whole = self.backbones(dtype), [None, None], True
        for places, made in forward(chosen, self.sides, recipe, self.statistics):
            back = [p for p in places if self.sides.gradients[p]]
            if always or self.is_recorded(made, recipe, places):
                given = dict(zip(places, self.behind(made, recipe, places), strict=True))
                slots = [self.sides.gradients[p][0].to(dtype) for p in back]
                if back and given[back[0]].requires_grad:
                    torch.autograd.backward([given[p] for p in back], slots)
            else:
                whole = False
            for place, side in zip(places, made, strict=True):
                features[place] = side.detach()
            trim_memory()
        self.made[straight(recipe), dtype] = features
        if whole:
            self.reached[recipe, dtype] = weight_gradients(chosen, self.matches)

    def is_recorded(self, made, recipe, places):
        """Whether some features, straight from the backbone, give those recorded of these sides."""
        first, second = (sorted(match.names.values()) for match in self.matches)
        if first != second:
            return False  # sides of other widths
        made = self.behind([side.detach() for side in made], recipe, places)
        seen = [self.sides.features[place] for place in places]
        most = FORWARD[is_float32(self.rounding)][1]
        pairs = zip(made, seen, strict=True)
        return all(relative_error(m.to(s.dtype), s) <= most for m, s in pairs)

    def passes(self, recipe, dtype):
        """Features [B, F] of both sides, straight from the backbone."""
        if (straight(recipe), dtype) not in self.made:
            self.run(recipe, dtype)
        return self.made[straight(recipe), dtype]

    def gradients(self, recipe, dtype):
        """{number: values at the fixed places} of the backbone's weights, from the first gradients
        at the features.
        """
        if (recipe, dtype) not in self.reached:
            self.run(recipe, dtype, always=True)
        return self.reached[recipe, dtype]

    def output(self, recipe, dtype=None):
        """Features [2 * B, F] that the reference with a recipe gives; None of unequal shapes."""
        made = self.passes(recipe, dtype or self.dtype)
        if len({side.shape for side in made}) > 1:
            return None
        with torch.no_grad():
            return torch.cat(self.behind(made, recipe, (0, 1)))

    def behind(self, made, recipe, places):
        """What follows the backbone, on features [B, F] of these sides."""
        layer = [self.weights(self.step)[n] for n in self.layer * recipe.linear]
        if layer:
            made = [F.linear(side, *(t.to(side.dtype) for t in layer)) for side in made]
        for function in recipe.after:
            made = [function(side) for side in made]
        if recipe.dropout:
            seen = [self.sides.features[place] for place in places]
            masks = [(side != 0).double() / (1 - recipe.dropout) for side in seen]
            made = [side * mask.to(side.dtype) for side, mask in zip(made, masks, strict=True)]
        return made

    def error(self, changes):
        """(relative error of the features with these findings, its tolerance)."""
        recipe = recipe_of(changes)
        made = self.output(recipe)
        if made is None or made.shape != self.features.shape:
            return math.inf, 0.0
        error, tolerance = relative_error(made.to(self.features.dtype), self.features), 0.0
        if error > FORWARD[is_float32(self.rounding)][1]:
            return error, 0.0
        for replay in self.measured():
            tolerance = replay_tolerance(replay.lost(recipe), self.rounding, FORWARD)
            if error <= tolerance:
                break
        return error, tolerance

    def measured(self):
        """The replays that rounding is measured on; this one, where the first has too little."""
        return dict.fromkeys((self.first or self, self))

    def lost(self, recipe):
        """The relative error that float32 makes in the features of a recipe; 0 if not known."""
        single, double = (self.output(recipe, dtype) for dtype in (torch.float32, torch.float64))
        return 0.0 if single is None else relative_error(single, double)

    def lost_backward(self, recipe):
        """{number: relative error that float32 makes in a gradient} of the backbone's weights."""
        both = [self.gradients(recipe, dtype) for dtype in (torch.float32, torch.float64)]
        return {n: relative_error(value, both[1][n]) for n, value in both[0].items()}


def straight(recipe):
    """A recipe without what follows the backbone."""
    return replace(recipe, linear=False, after=(), dropout=0.0)


def forward(backbones, sides, recipe, statistics):
    """(places of sides, their features [B, F] straight from the backbone) of one pass after the
    other, of both sides at once where passes hold photos of both; statistics: see Replay.
    """
    for backbone in dict.fromkeys(backbones):
        for _, module in batchnorms(backbone):
            module.eps = module.eps if recipe.eps is None else recipe.eps
        if recipe.max_pool:
            replace_pooling(backbone)
    dtype = next((p.dtype for p in backbones[0].parameters()), torch.float64)  # it may have none
    if recipe.own_passes:
        set_mode(backbones[0], recipe.eval_mode)
        made = torch.cat([flat(backbones[0](x.to(dtype))) for x in sides.passes])
        yield (0, 1), list(made[torch.cat(sides.rows)].chunk(2))
        return
    for place, (backbone, x) in enumerate(zip(backbones, sides.inputs, strict=True)):
        set_mode(backbone, recipe.eval_mode if recipe.eval_side in (0, place + 1) else ())
        if recipe.eval_side == place + 1:
            set_statistics(backbone, statistics)
        yield (place,), [flat(backbone(x.to(dtype)))]


def flat(features):
    """Features [B, F]; of maps [B, F, H, W] their means."""
    return features.flatten(1) if features.dim() == 2 else features.mean((2, 3))


def set_mode(backbone, still):
    """Has BatchNorm layers of these names, or EVERY, in evaluation mode, and the others not."""
    for name, module in batchnorms(backbone):
        module.train(not {name, EVERY} & set(still))


def set_statistics(backbone, statistics):
    """Gives BatchNorm layers these running means and variances, by name."""
    for name, module in batchnorms(backbone):
        if name in statistics:
            module.running_mean, module.running_var = (
                kept.to(module.weight.dtype) for kept in statistics[name]
            )


def batchnorms(module):
    """(name, layer) of the BatchNorm layers of a module."""
    norm = nn.modules.batchnorm._BatchNorm
    return [(name, m) for name, m in module.named_modules() if isinstance(m, norm)]


def replace_pooling(module):
    """Global mean pooling by global maximum pooling, everywhere in a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            setattr(module, name, nn.AdaptiveMaxPool2d(child.output_size))
        replace_pooling(child)
