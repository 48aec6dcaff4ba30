"""When two tensors are equal: relative errors, and the tolerances that rounding explains."""

import math

import torch

from diagnose.record import is_large
from run.findings import number

# Largest relative error that counts as none, (float64, float32).
FORMULA = (1e-9, 3e-5)  # merge, head, loss: a few operations
# A pass through the backbone is held against its own rounding; least and most of that.
FORWARD = ((1e-13, 1e-8), (3e-6, 2e-2))
BACKWARD = ((1e-12, 1e-6), (3e-5, 3e-1))
GOLDEN = (math.sqrt(5) - 1) / 2
SAFETY = 100  # times the replay's own rounding: another batch order or machine moves it by 10


def relative_error(made, seen):
    """Largest difference of two tensors over the largest element seen; inf where not finite."""
    if made is None or seen is None or made.shape != seen.shape:
        return math.inf
    if not seen.numel():
        return 0.0
    made, seen = made.double(), seen.double()
    worst = float((made - seen).abs().max() / seen.abs().max().clamp(min=1e-30))
    return worst if math.isfinite(worst) else math.inf


def is_close(a, b):
    """Whether two tensors of one precision are equal but for a last digit or two."""
    return float((a - b).abs().max()) <= close_tolerance(b) * float(b.abs().max()) + 1e-300


def close_tolerance(tensor):
    """The relative error of a last digit or two in a tensor's precision."""
    return 1e-9 if tensor.dtype == torch.float64 else 1e-5


def rounding_of(trace, step, tensors):
    """By what a replay in float32 is to be multiplied for the rounding that a record holds.

    1 where one of these tensors of the record is in float32 itself; else 29 bits further down, or
    what is lost of later weights, whose change since the first step is kept in float32.
    """
    if any(t.dtype != torch.float64 for t in tensors if t.is_floating_point()):
        return 1.0
    first, now = (trace.updates[i].weights for i in (0, step))
    pairs = zip(first, now, strict=False) if step else ()
    moved = [float(b.norm() / a.norm()) for a, b in pairs if is_large(a) and float(a.norm())]
    return max(2.0**-29, *moved, 0.0)


def is_float32(rounding):
    """Whether a rounding, see rounding_of, is that of a record in float32."""
    return rounding == 1


def formula_tolerance(rounding, times=1):
    """The tolerance of a few operations, multiplied, or what rounding lost of later weights."""
    lost = 0.0 if is_float32(rounding) else 10 * times * rounding * 2.0**-24
    return max(times * FORMULA[is_float32(rounding)], lost)


def replay_tolerance(lost, rounding, bounds):
    """The relative error that rounding explains: SAFETY times that of the replay itself.

    In float64 it is what float32 makes, 29 bits further down.
    lost: the relative error of a replayed tensor in float32; rounding: see rounding_of. bounds:
    (least, most) in float64 and in float32, as what a hypothesis amplifies without end would prove
    anything.
    """
    least, most = bounds[is_float32(rounding)]
    return min(max(SAFETY * lost * rounding, least), most)


def factor_between(made, seen):
    """The factor by which tensors come nearest to others; both lists of one length."""
    pairs = [(a.double(), b.double()) for a, b in zip(made, seen, strict=True)]
    top = sum(float((a * b).sum()) for a, b in pairs)
    return top / max(sum(float((a**2).sum()) for a, _ in pairs), 1e-300)


def least(miss, grid):
    """Where miss(value) is least: at the best of a rising grid, narrowed by golden section."""
    start = min(range(len(grid)), key=lambda i: miss(grid[i]))
    a, b = grid[max(0, start - 1)], grid[min(len(grid) - 1, start + 1)]
    for _ in range(80):
        c, d = b - (b - a) * GOLDEN, a + (b - a) * GOLDEN
        a, b = (a, d) if miss(c) < miss(d) else (c, b)
    return (a + b) / 2


def estimated(value):
    """A value that was solved for, to the digits that matter."""
    return float(number(value))
