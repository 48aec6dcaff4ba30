"""The loss of a recorded batch, from the logits and labels that the trainer's loss had.

cross_entropy is the one copy of the pages' line; a test holds it to them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from diagnose.explain import act_on
from diagnose.numerics import FORMULA, factor_between, least, relative_error
from diagnose.reference import column


def cross_entropy(z, y, value=None):
    """Natural-log cross-entropy [B] of labels [B] under logits [B, 2]: the line of the pages."""
    return F.nll_loss(F.log_softmax(z, 1), y, reduction="none")


class Recipe(NamedTuple):
    """What the loss is; the defaults are the page's.

    terms(logits [B, 2], label [B], value) [B], whose mean it is, times a factor; inverted: whether
    it takes 1 - label; value: a number, or a function of the Evidence, as the people's shares are;
    function: what is applied to the logits before; every_label: whether each pair is held against
    the labels of all pairs, as where [B, 1] meets [B].
    """

    terms: Callable = cross_entropy
    inverted: bool = False
    value: object = 0.0
    function: Callable = None
    every_label: bool = False


def recipe_of(changes):
    """The Recipe with some findings."""
    return act_on(Recipe(), changes)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one recorded batch says of the loss; see diagnose.explain.Replay."""

    logits: torch.Tensor  # [B, 2]; of a trainer with one logit, 0 and that one
    label: torch.Tensor  # [B], as it entered the step
    shares: torch.Tensor | None  # [B], of the people who prefer photo_2
    loss: torch.Tensor
    gradient: torch.Tensor  # [B, 2], of the loss at the logits
    single: bool  # whether there is one logit
    shown: tuple = ()

    @property
    def size(self):
        """How many recorded numbers are compared."""
        return self.gradient.numel() + 1

    def error(self, changes):
        """(relative error of a loss and its gradient, times the factor that fits; tolerance)."""
        recipe = recipe_of(changes)
        if callable(recipe.value) and recipe.value(self) is None:
            return math.inf, 0.0
        made = self.replay(recipe)
        factor = factor_between([made[1]], [self.gradient])
        is_sign = factor > 0 or abs(factor + 1) < 1e-6  # other negative factors are no factors
        error = self.departure(made, factor) if is_sign else math.inf
        return error, FORMULA[self.logits.dtype != torch.float64] * 10

    def departure(self, made, factor=1.0):
        """Largest relative error of a made (loss, gradient), times a factor."""
        value, logit_grad = made
        errors = [relative_error(factor * logit_grad, self.gradient)]
        return max(*errors, relative_error(factor * value, self.loss.double()))

    def replay(self, recipe):
        """(mean of the terms, gradient at the logits [B, 2]) of a loss, in float64."""
        z = self.logits.double().clone().requires_grad_()
        value = recipe.value(self) if callable(recipe.value) else recipe.value
        value = torch.as_tensor(value, dtype=torch.float64)
        label = 1 - self.label if recipe.inverted else self.label
        logits = recipe.function(z) if recipe.function else z
        if recipe.every_label:
            every = [recipe.terms(logits, torch.full_like(label, int(y)), value) for y in label]
            made = torch.stack(every).mean(0)
        else:
            made = recipe.terms(logits, label, value)
        (logit_grad,) = torch.autograd.grad(made.mean(), z, allow_unused=True)
        return made.mean().detach(), logit_grad if logit_grad is not None else torch.zeros_like(z)

    def factor(self, changes):
        """The factor by which a loss comes nearest to the trainer's."""
        return factor_between([self.replay(recipe_of(changes))[1]], [self.gradient])


def logits_of(batch):
    """(what the last layer gives or, where none is, what joins two scores, [B, 1 or 2]; the
    gradients at it).
    """
    places = [i for i, entry in enumerate(batch.head) if "dropout" not in entry.op]
    made = batch.head[places[-1]].output if places else batch.merged
    logit_grads = batch.gradients.get(f"output_{places[-1]}" if places else "merged", [])
    return column(made), list(map(column, logit_grads))


def nearest_value(terms, batches, changes, low, high):
    """[{"value": that with which a loss comes nearest to all gradients}], by golden section."""
    recipe = recipe_of(changes)._replace(terms=terms)

    def miss(value):
        own = recipe._replace(value=value)
        logit_grads = [(batch.replay(own)[1], batch.gradient) for batch in batches]
        rest = [float((factor_between([s], [g]) * s - g).norm() / g.norm()) for s, g in logit_grads]
        return sum(rest) if all(map(math.isfinite, rest)) else math.inf

    grid = [low + (high - low) * (i / 60) ** 2 for i in range(61)]
    middle = least(miss, grid)
    near = round(middle, 3)  # the miss is flat at its least, so that half of the digits are known
    return [{"value": v} for v in ((near, middle) if abs(near - middle) < 1e-5 else (middle,))]
