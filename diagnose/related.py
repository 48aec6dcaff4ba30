"""Numbers that are not those that they should be, side by side; see diagnose.relation."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diagnose.describe import SEVERAL
from diagnose.numerics import estimated, relative_error
from diagnose.record import places

TOLD = 1e-4  # relative error of a relation: it is told, and proves nothing
SMALL = 0.01  # of what changes, that may be left
ENOUGH = 4  # elements for each value that is estimated, that at least must be known


class Related(NamedTuple):
    """Numbers that should be `made` and are `seen`, [N] float64 each.

    rows, columns: to which each belongs, [N], None where that is not known; width: of whole
    matrices [B, width], 0 where only some of the elements are known; norm: l2, of the whole tensor
    that is seen, nan where it is not known.
    """

    made: Tensor
    seen: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None
    width: int = 0
    norm: float = math.nan


def whole(made, seen):
    """The Related of two whole tensors [B, ...] of one shape; None of unequal shapes."""
    if made.shape != seen.shape or made.dim() < 1:
        return None
    flat = [t.detach().double().reshape(len(t), -1) for t in (made, seen)]
    count, width = flat[0].shape
    rows = torch.arange(count).repeat_interleave(width)
    columns = torch.arange(width).repeat(count)
    return Related(flat[0].flatten(), flat[1].flatten(), rows, columns, width)


def sampled(made, seen, shape, norm=math.nan):
    """The Related of the fixed places of two tensors of a shape; see diagnose.record.places.

    norm: of the whole of what is seen.
    """
    numel = torch.Size(shape).numel()
    rows = places(numel) // max(numel // shape[0], 1) if len(shape) > 1 else None
    return Related(made.detach().double(), seen.detach().double(), rows, norm=norm)


def all_near(made, related, tolerance):
    """Whether numbers made otherwise are those seen, and not only nearly all of them."""
    pairs = zip(made, related, strict=True)
    return all(is_near(values, own.made, own.seen, tolerance) for values, own in pairs)


def is_near(values, made, seen, tolerance):
    """Whether values are those seen, also held against how much these differ from those made."""
    changed = float((seen - made).abs().max()) / max(float(seen.abs().max()), 1e-300)
    return relative_error(values, seen) <= min(tolerance, SMALL * changed)


def told(numbers):
    """Some numbers of rows or columns, counted from 1."""
    numbers = [int(n) + 1 for n in numbers]
    if len(numbers) > SEVERAL and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers[:SEVERAL])) + " ..." * (len(numbers) > SEVERAL)


def listed(values):
    """Some values, or the least and the largest of many."""
    if len(values) <= SEVERAL:
        return ", ".join(str(estimated(float(v))) for v in values)
    return f"{estimated(float(values.min()))} to {estimated(float(values.max()))}"
