"""What is done to the gradients between backward and the update. Its findings are of `gradients`.

A row of TRICKS acts on what backward left, and must give what the optimizer takes in every step.
"""

import functools
import math
from dataclasses import dataclass

import torch

from diagnose.backward import Gradients
from diagnose.explain import Change
from diagnose.numerics import close_tolerance, estimated, factor_between, relative_error
from diagnose.parameters import describe
from run.findings import CAUSE, DIFFERENT, HARMLESS, WRONG

PARTS = 4  # with values of their own, beyond which they are no explanation
UNTOUCHED = 1e-7  # from 1, that a factor of a part is none
EPS = 1e-6  # that torch.nn.utils.clip_grad_norm_ adds to a norm


@dataclass(frozen=True, eq=False)
class Step:
    """The gradients of one update; see diagnose.explain.Replay.

    given: right after the last backward; taken: as the optimizer takes them, zeros where it finds
    none; before: those of the batch before; factor: by which the loss is multiplied, or None;
    parameters: {number: diagnose.parameters.Parameter}; weights: {number: values of each}.
    """

    step: int
    given: Gradients
    taken: Gradients
    before: Gradients | None
    factor: float | None
    parameters: dict
    weights: dict
    clipped: float | None = None  # the norm that clip_grad_norm_ was given
    shapes: dict | None = None  # of all of each weight
    shown: tuple = ()

    @property
    def size(self):
        """How many recorded numbers are compared."""
        return sum(len(values) for values in self.given.values.values())

    def after(self, changes):
        """The gradients that some findings leave of those given."""
        made = self.given
        for finding in changes:
            made = finding.row.act(self, made, finding.values)
        return made

    def error(self, changes):
        """(relative error of the gradients with these findings, its tolerance)."""
        made = self.after(changes)
        if not changes:  # nobody touched them: to the bit
            same = all(torch.equal(v, self.taken.values[n]) for n, v in made.values.items())
            return (0.0, 0.0) if same and made.largest == self.taken.largest else (math.inf, 0.0)
        pairs = [(v, self.taken.values[n]) for n, v in made.values.items()]
        errors = [relative_error(a, b) if b.any() or a.any() else 0.0 for a, b in pairs]
        tops = [(top, self.taken.largest[n]) for n, top in made.largest.items()]
        errors += [abs(a - b) / max(b, 1e-30) if a != b else 0.0 for a, b in tops]
        worst = max(error if math.isfinite(error) else math.inf for error in errors)
        return worst, max(close_tolerance(b) for _, b in pairs)

    def factors(self, changes):
        """{number: factor} that brings each gradient with some findings to the one taken."""
        made = self.after((*self.shown, *changes))
        pairs = {n: (v, self.taken.values[n]) for n, v in made.values.items() if v.any()}
        return {n: factor_between([a], [b]) for n, (a, b) in pairs.items()}

    def scale(self, changes):
        """The factor that brings all gradients with some findings to those taken."""
        made = self.after((*self.shown, *changes))
        return factor_between(made.values.values(), self.taken.values.values())


def trick(name, text, act, values=None, kind=CAUSE, **options):
    """What is done to gradients: act(step, gradients, values)."""
    return Change(f"gradients.{name}", kind, text, act=act, values=values, **options)


clip = functools.partial(trick, help="do not clip gradients", at=("clip", "changed"))
lost = functools.partial(
    trick,
    help="call optimizer.zero_grad() before backward, not after it",
    matters=WRONG,
    at=("changed", "zero_grad"),
)


# Estimated values


def first_changed(steps, changes):
    """The first step that these findings do not yet explain."""
    return next((s for s in steps if not is_explained(s, changes)), steps[0])


def is_explained(step, changes):
    """Whether a step is reproduced with what its record shows and these findings."""
    error, tolerance = step.error((*step.shown, *changes))
    return error <= tolerance


def loss_factors(steps, changes):
    """The factor of the loss: one number, or one of each step."""
    factors = tuple(step.factor for step in steps)
    if None in factors:
        return []
    is_one = max(factors) - min(factors) <= 1e-6 * abs(factors[0])
    return [{"factor": factors[0] if is_one else factors}]


def norms(steps, changes):
    """The norm to which all gradients of a step are scaled down, or those of one part are, which
    another change may stand behind; with what torch adds to a norm, and without.
    """
    step = first_changed(steps, changes)
    norm = step.after((*step.shown, *changes)).norm()
    scales = [*sorted(groups_of(step.factors(changes)), reverse=True), step.scale(changes)]
    return [{"norm": scale * (norm + eps), "eps": eps}
            for scale in scales if 0 < scale < 1 and math.isfinite(norm)
            for eps in (EPS, 0.0)]  # fmt: skip


def factors(steps, changes):
    """The one factor of all gradients of a step."""
    return [{"factor": first_changed(steps, changes).scale(changes)}]


def bounds(steps, changes):
    """The largest element that an optimizer takes."""
    return [{"bound": max(max(step.taken.largest.values()) for step in steps)}]


def groups_of(own):
    """{factor: numbers of the weights} of the parts with factors of their own; {} of too many.

    own: see Step.factors.
    """
    groups = {}
    for n, factor in own.items():
        groups.setdefault(estimated(factor), []).append(n)
    if not 1 < len(groups) <= PARTS:
        return {}
    return {sum(map(own.get, some)) / len(some): some for some in groups.values()}


def part_factors(steps, changes):
    """{part: factor} where each of a few parts has one of its own in the first such step."""
    step = first_changed(steps, changes)
    own = step.factors(changes)
    free = [n for n in step.parameters if n not in own]  # with gradients of 0
    parts = {describe(some, step.parameters, free): (factor, tuple(some))
             for factor, some in sorted(groups_of(own).items())
             if abs(factor - 1) > UNTOUCHED}  # fmt: skip
    if not parts:
        return []
    factors = {part: factor for part, (factor, _) in parts.items()}
    return [{"factors": factors, "weights": {part: some for part, (_, some) in parts.items()}}]


def part_norms(steps, changes):
    """{part: norm} to which each of a few parts is scaled down."""
    step, found = first_changed(steps, changes), part_factors(steps, changes)
    if not found:
        return []
    made, parts = step.after((*step.shown, *changes)), found[0]["weights"]
    scales = {part: f for part, f in found[0]["factors"].items() if 0 < f < 1}
    return [{"norms": {part: f * (made.norm(parts[part]) + eps) for part, f in scales.items()},
             "eps": eps, "weights": parts} for eps in (EPS, 0.0)]  # fmt: skip


# How rows act


def divide(step, made, values):
    factor = step.factor if isinstance(values["factor"], tuple) else values["factor"]
    return made.times(dict.fromkeys(made.values, 1 / factor))


def multiply(step, made, values):
    return made.times(dict.fromkeys(made.values, values["factor"]))


def clip_norm(step, made, values):
    scale = min(1.0, values["norm"] / (made.norm() + values["eps"]))
    return made.times(dict.fromkeys(made.values, scale))


def multiply_parts(step, made, values):
    factors = dict.fromkeys(made.values, 1.0)
    for part, factor in values["factors"].items():
        factors |= dict.fromkeys(values["weights"][part], factor)
    return made.times(factors)


def clip_parts(step, made, values):
    factors = dict.fromkeys(made.values, 1.0)
    for part, norm in values["norms"].items():
        numbers = [n for n in values["weights"][part] if n in made.values]
        scale = min(1.0, norm / (made.norm(numbers) + values["eps"]))
        factors |= dict.fromkeys(numbers, scale)
    return made.times(factors)


def zeros(step, made, values):
    return made.times(dict.fromkeys(made.values, 0.0))


# Shown by the record of each step.
REMOVED = lost(
    "removed",
    "gradients are set to None between backward and the optimizer step, so no parameter moves",
    zeros,
)
STALE = trick(
    "of_the_batch_before",
    "each step uses the gradients of the batch before",
    lambda step, made, values: step.before or zeros(step, made, values),
    help="call optimizer.step() right after backward",
    matters=WRONG,
    at=("changed", "step"),
)
ZEROED = lost(
    "zeroed",
    "gradients are zeroed between backward and the optimizer step, so only weight decay acts",
    zeros,
)
SCALED_BACK = trick(
    "scaled_back",
    "the loss is scaled by {factor} and the gradients are unscaled",
    divide,
    loss_factors,
    HARMLESS,
    matters=DIFFERENT,
)
# Tried alone and two at a time.
TRICKS = (
    clip(
        "norm_clipped",
        "the gradient norm is clipped (or set) to {norm}",
        clip_norm,
        norms,
    ),
    trick("factor", "the gradients are multiplied by {factor}", multiply, factors),
    clip(
        "values_clipped",
        "gradient values are clipped to +-{bound}",
        lambda step, made, values: made.each(lambda g: g.clamp(-values["bound"], values["bound"])),
        bounds,
    ),
    trick(
        "factor_of_each",
        "gradients are multiplied by a factor of their own in each part: {factors}",
        multiply_parts,
        part_factors,
    ),
    clip(
        "norm_clipped_of_each",
        "the gradient norm is clipped in each part by itself: {norms}",
        clip_parts,
        part_norms,
    ),
)
