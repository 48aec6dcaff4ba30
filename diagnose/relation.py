"""What no row explains: how recorded numbers come from those that they should be, by the simplest
relation that gives exactly them.

A relation is no cause: it is true of the recorded numbers, and says what to look for.
"""

import math

import torch

from diagnose.numerics import estimated, factor_between
from diagnose.related import ENOUGH, TOLD, all_near, listed, told
from diagnose.relation_rows import as_groups, as_mixed, as_moved, as_reordered

LIMITED = 3  # elements at a limit, that by chance are not equal
ROUNDING = 1e-12  # relative change that is none


def relation_of(related, tolerance):
    """How all of some Related come about, in words that follow `they are`; None: not known.

    tolerance: relative error that counts as none.
    """
    related = [own for own in related if own is not None and len(own.made)]
    if not related or not all(bool(own.seen.isfinite().all()) for own in related):
        return None
    if all(float((own.seen - own.made).abs().max()) <= ROUNDING * float(own.seen.abs().max())
           for own in related):  # fmt: skip
        return None
    for kind in RELATIONS:
        told = kind(related, tolerance)
        if told:
            return told
    return None


def as_constants(related, tolerance):
    """All equal, or equal in each tensor."""
    if all(len(own.seen) >= ENOUGH for own in related):
        means = [own.seen.mean() for own in related]
        if all_near([m.expand(len(o.seen)) for m, o in zip(means, related, strict=True)],
                    related, tolerance):  # fmt: skip
            values = {estimated(float(mean)) for mean in means}
            return f"{values.pop()} everywhere" if len(values) == 1 else "all equal"
    return None


def as_multiples(related, tolerance):
    """All multiplied by one number."""
    factor = factor_between([own.made for own in related], [own.seen for own in related])
    if all_near([factor * own.made for own in related], related, tolerance):
        return f"multiplied by {estimated(factor)}"
    return None


def as_tensors(related, tolerance):
    """Each of several tensors multiplied by a number of its own."""
    factors = torch.tensor([factor_between([own.made], [own.seen]) for own in related]).double()
    each = zip(factors.tolist(), related, strict=True)
    if len(related) < 2 or not all_near([f * own.made for f, own in each], related, tolerance):
        return None
    norms = torch.tensor([own.norm for own in related])
    if bool(norms.isfinite().all()) and float(norms.std()) <= tolerance * float(norms.mean()):
        return f"each tensor brought to norm {estimated(float(norms.mean()))}"
    return f"each tensor multiplied by a number of its own, {listed(factors)}"


def as_shifted(related, tolerance):
    """One number added to all."""
    count = sum(len(own.made) for own in related)
    shift = float(sum((own.seen - own.made).sum() for own in related)) / count
    if count >= ENOUGH and all_near([own.made + shift for own in related], related, tolerance):
        return f"with {estimated(shift)} added"
    return None


def as_limited(related, tolerance):
    """All brought to the nearest value between two limits."""
    low = min(float(own.seen.min()) for own in related)
    high = max(float(own.seen.max()) for own in related)
    for bounds in ((low, high), (None, high), (low, None)):
        limited = [own.made.clamp(*bounds) for own in related]
        met = [sum(int((own.seen == b).sum()) for own in related) for b in bounds if b is not None]
        if min(met) >= LIMITED and all_near(limited, related, tolerance):
            words = [f"at {kind} {estimated(bound)}"
                     for kind, bound in zip(("least", "most"), bounds, strict=True)
                     if bound is not None]  # fmt: skip
            return f"limited to {' and '.join(words)}"
    return None


def as_functions(related, tolerance):
    """A function of each element, times a number."""
    for words, act in FUNCTIONS.items():
        made = [act(own.made) for own in related]
        factor = factor_between(made, [own.seen for own in related])
        if factor and all_near([factor * values for values in made], related, tolerance):
            times = "" if abs(factor - 1) <= tolerance else f"{estimated(factor)} x "
            return f"{times}{words} each"
    return None


def as_rounded(related, tolerance):
    """All rounded to a coarser precision."""
    for dtype in (torch.float16, torch.bfloat16):
        if all_near([own.made.to(dtype).double() for own in related], related, tolerance):
            return f"rounded to {str(dtype).removeprefix('torch.')}"
    return None


def as_dropped(related, tolerance):
    """Some 0, the others multiplied by one number."""
    kept = [own.seen != 0 for own in related]
    if all(map(bool, map(torch.all, kept))) or not any(map(bool, map(torch.any, kept))):
        return None
    left = [own.made * keep for own, keep in zip(related, kept, strict=True)]
    factor = factor_between(left, [own.seen for own in related])
    if not all_near([factor * values for values in left], related, tolerance):
        return None
    times = "" if abs(factor - 1) <= tolerance else f", and multiplied by {estimated(factor)} else"
    return f"0 {where_of(related, kept)}{times}"


def as_two_multiples(related, tolerance):
    """Some multiplied by one number, the others by another."""
    made = torch.cat([own.made for own in related])
    ratios = torch.cat([own.seen for own in related]) / torch.where(made == 0, math.nan, made)
    known = ratios[ratios.isfinite()]
    if len(known) < 2 * ENOUGH:
        return None
    two = known.quantile(torch.tensor([0.0, 1.0]).double())[:, None]  # the least and the largest
    if not bool((((known - two).abs() <= tolerance * two.abs().max()).any(0)).all()):
        return None
    low, high = two.flatten().tolist()
    if high - low <= TOLD:
        return None
    large = [(own.seen - high * own.made).abs() <= (own.seen - low * own.made).abs()
             for own in related]  # fmt: skip
    first, second, kept = (low, high, large)
    if abs(low - 1) < abs(high - 1):
        first, second, kept = high, low, [~own for own in large]
    factors = [torch.where(keep, second, first) for keep in kept]
    if not all_near([f * own.made for f, own in zip(factors, related, strict=True)],
                    related, tolerance):  # fmt: skip
        return None
    others = "" if abs(second - 1) <= tolerance else f", else by {estimated(second)}"
    return f"multiplied by {estimated(first)} {where_of(related, kept)}{others}"


def where_of(related, kept):
    """Which numbers are dropped, in words."""
    for kind in ("rows", "columns"):
        groups = [getattr(own, kind) for own in related]
        if len(related) == 1 and groups[0] is not None:
            lost, left = groups[0][~kept[0]].unique(), groups[0][kept[0]].unique()
            if not set(lost.tolist()) & set(left.tolist()) and len(groups[0]) > len(lost):
                return f"in {kind} {told(lost)}"
    sizes = torch.cat([own.made for own in related])
    there = torch.cat(kept)
    lost, left = sizes[~there], sizes[there]
    if bool((lost <= 0).all()) and bool((left >= 0).all()):
        return "where they are negative"
    if bool((lost >= 0).all()) and bool((left <= 0).all()):
        return "where they are positive"
    if lost.max() <= left.min():
        return f"where they are below {estimated(float(left.min()))}"
    if lost.min() >= left.max():
        return f"where they are above {estimated(float(left.max()))}"
    if lost.abs().max() <= left.abs().min():
        return f"where they are smaller than {estimated(float(left.abs().min()))}"
    if lost.abs().min() >= left.abs().max():
        return f"where they are larger than {estimated(float(left.abs().max()))}"
    return f"in {100 * len(lost) / len(sizes):.3g} % of them"


FUNCTIONS = {  # {what each number becomes: how}
    "the absolute value of": torch.abs,
    "the sign of": torch.sign,
    "the square of": torch.square,
    "the square of, with its sign,": lambda x: x * x.abs(),
    "the root of, with its sign,": lambda x: x.sign() * x.abs().sqrt(),
    "the cube of": lambda x: x**3,
    "the positive part of": torch.relu,
    "the exponential of": torch.exp,
    "tanh of": torch.tanh,
    "the sigmoid of": torch.sigmoid,
    "sin of": torch.sin,
}
RELATIONS = (
    as_constants,
    as_multiples,
    as_tensors,
    as_shifted,
    as_dropped,
    as_limited,
    as_functions,
    as_rounded,
    as_two_multiples,
    as_moved,
    as_reordered,
    as_groups,
    as_mixed,
)
