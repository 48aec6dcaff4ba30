"""The reference's forward passes on a recorded batch, with the trainer's weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F

from diagnose.explain import act_on
from diagnose.numerics import FORWARD, is_float32, relative_error, replay_tolerance
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
    see diagnose.explain.Replay.
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
    made: dict = field(default_factory=dict)

    def backbones(self, dtype=None):
        """The two backbones, new copies; one and the same where the photos share it."""
        values = self.weights(self.step)
        first, second = self.matches
        made = [load_backbone(self.ranker, first, values, dtype)]
        if first.names.keys() == second.names.keys():
            return made * 2
        return [*made, load_backbone(self.ranker, second, values, dtype)]

    @cached_property
    def features(self):
        """The trainer's own features of both sides, [2 * B, F]."""
        return torch.cat(self.sides.features)

    @property
    def size(self):
        """How many recorded numbers are compared."""
        return self.features.numel()

    def passes(self, recipe, dtype=None):
        """Features [B, F] of both sides, straight from the backbone."""
        key = replace(recipe, linear=False, after=(), dropout=0.0), dtype
        if key not in self.made:
            with torch.no_grad():
                own = self.backbones(dtype), self.sides, recipe, self.statistics
                self.made[key] = forward(*own)
        return self.made[key]

    def output(self, recipe, dtype=None):
        """Features [2 * B, F] that the reference with a recipe gives; None of unequal shapes."""
        made = self.passes(recipe, dtype)
        if len({side.shape for side in made}) > 1:
            return None
        with torch.no_grad():
            return torch.cat(self.behind(made, recipe))

    def behind(self, made, recipe):
        """What follows the backbone, on the features [B, F] of both sides."""
        layer = [self.weights(self.step)[n] for n in self.layer * recipe.linear]
        if layer:
            made = [F.linear(side, *(t.to(side.dtype) for t in layer)) for side in made]
        for function in recipe.after:
            made = [function(side) for side in made]
        if recipe.dropout:
            masks = [(side != 0).double() / (1 - recipe.dropout) for side in self.sides.features]
            made = [side * mask.to(side.dtype) for side, mask in zip(made, masks, strict=True)]
        return made

    def error(self, changes):
        """(relative error of the features with these findings, its tolerance)."""
        recipe = recipe_of(changes)
        made = self.output(recipe)
        if made is None or made.shape != self.features.shape:
            return math.inf, 0.0
        error = relative_error(made.to(self.features.dtype), self.features)
        if error > FORWARD[is_float32(self.rounding)][1]:
            return error, 0.0
        is_double = made.dtype == torch.float64
        other = self.output(recipe, torch.float32 if is_double else torch.float64)
        fine, coarse = (made, other) if is_double else (other, made)
        return error, replay_tolerance(coarse, fine, self.rounding, FORWARD)


def forward(backbones, sides, recipe, statistics):
    """Features [B, F] of both sides, straight from the backbone; statistics: see Replay."""
    for backbone in dict.fromkeys(backbones):
        for _, module in batchnorms(backbone):
            module.eps = module.eps if recipe.eps is None else recipe.eps
        if recipe.max_pool:
            replace_pooling(backbone)
    dtype = next((p.dtype for p in backbones[0].parameters()), torch.float64)  # it may have none
    passes = sides.passes if recipe.own_passes else sides.inputs
    chosen = backbones[:1] * len(passes) if recipe.own_passes else backbones
    made = []
    for side, (backbone, x) in enumerate(zip(chosen, passes, strict=True), 1):
        set_mode(backbone, recipe.eval_mode if recipe.eval_side in (0, side) else ())
        if recipe.eval_side == side:
            set_statistics(backbone, statistics)
        made.append(backbone(x.to(dtype)))
    made = [f.flatten(1) if f.dim() == 2 else f.mean((2, 3)) for f in made]
    return list(torch.cat(made)[torch.cat(sides.rows)].chunk(2)) if recipe.own_passes else made


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
