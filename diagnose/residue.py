"""What is left between an input and the photo that it shows, where no preparation makes it: where
it lies, and the simplest thing that gives nearly all of it.

Described, not proved: to a few levels of 255, which is what rounding to bytes leaves.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from diagnose.numerics import estimated

SMALLEST = 0.25  # levels of 255, less than which values count as equal
ROUNDED = 1.0  # mean levels that rounding to bytes may leave
FILLED = 0.6  # share of a box that departs, at least
WHOLE = 0.8  # share of the photo, of which a box is no part any more
BETTER = 0.5  # of the difference that a filter or motion leaves, at most
LIKE = 0.2  # of the deviation of a picture, that a motion leaves at most
PROMISING = 0.6  # the same, of a motion from which the search goes on
LARGEST = 2.5  # times by which a photo may be larger or smaller
SAME_SIDES = 0.03  # relative difference of two sides that are one
LEANING = 30  # degrees, at most
CLEAN = 0.98  # share of values that a function of each gives, at least
REACH = 2  # pixels to each side, of which a filter is made
ROUNDS = 40  # of the search for a motion
SCALES = (1.0, 0.5, 0.7, 0.85, 1.2, 1.5, 2.0)  # of a photo, at which it begins
ANGLES = (-90, -45, -20, -10, 10, 20, 45, 90)  # degrees
SHIFTS = (0.0, -0.17, 0.17, -0.34, 0.34)  # of half a side
BEGINNINGS = 3  # of which the search goes on
NOISE = 0.1  # correlation of neighbors, at most
CLIPPED = (0, 64, 128, 192, 255)  # levels whose new values are told
LEAST_TERM = 0.015  # share of a channel in another that is told
MIXED = 0.1  # share of another channel, at least: less is what rounding and chance give
FEW = 4  # levels, of which a formula is made at least
TOP = 255
SHOWN = 2  # values of different photos
MOTION = "the photo lies otherwise than in the reference"
NAMES = ("red", "green", "blue")


class Residue(NamedTuple):
    """What is left: its kind, which is the same for all photos of a fault, and its values.

    left: the mean difference that it does not give, in levels of 255.
    """

    kind: str
    values: str
    left: float


def residue_of(shown, photo, inside):
    """The Residue of an input from its photo, both [3, S, S] in levels of 255; None: not known.

    inside: where the photo lies, [S, S]; elsewhere it is not compared.
    """
    for look in (in_rectangle, by_value, by_channels, by_neighbors, by_motion, as_noise):
        found = look(shown, photo, inside)
        if found:
            return found
    return None


def in_rectangle(shown, photo, inside):
    """What departs in one rectangle alone."""
    departs = ((shown - photo).abs() > SMALLEST).any(0) & inside
    if not departs.any():
        return None
    sides = []
    for dim in (1, 0):
        places = departs.any(dim).nonzero().flatten()
        sides.append(slice(int(places[0]), int(places[-1]) + 1))
    box, area = departs[tuple(sides)], inside[tuple(sides)].sum()
    if box.double().mean() < FILLED or area > WHOLE * inside.sum():
        return None
    within = shown[:, sides[0], sides[1]].flatten(1)
    level = within[:, :1]
    held = ""
    if float((within - level).abs().max()) <= SMALLEST:
        held = f", all of ({', '.join(str(estimated(float(v))) for v in level.flatten())}) of 255"
    elif len(within.unique(dim=1).T) == within.shape[1] and is_noise(within.view(3, *box.shape)):
        held = ", of random values"
    top, left = sides[0].start, sides[1].start
    height, width = box.shape
    return Residue(
        "only a rectangle of each departs",
        f"{width} x {height} pixels at ({left}, {top}){held}",
        0.0,
    )


def by_value(shown, photo, inside):
    """What is a function of each value by itself: gamma, clipping, another cast."""
    sides = [side[:, inside] for side in (shown, photo)]
    own = [function_of(a, b) for a, b in zip(*sides, strict=True)]
    if None in own or all(float((a - b).abs().max()) <= ROUNDED for a, b, _ in own):
        return None
    left = max(gaps for *_, gaps in own)
    common = function_of(sides[0].flatten(), sides[1].flatten())
    if common:
        words = values_of(*common[:2])
    else:
        texts = (values_of(levels, middle) for levels, middle, _ in own)
        words = "; ".join(map(" ".join, zip(NAMES, texts, strict=True)))
    return Residue("each value of a photo becomes another, whatever is around it", words, left)


def function_of(own, other):
    """(levels [L] of a photo, what each becomes [L], mean difference from that) of the values [N]
    of an input and of its photo; None where it is no function of them.
    """
    levels, place, counts = other.round().unique(return_inverse=True, return_counts=True)
    order = torch.argsort(own)
    order = order[torch.argsort(place[order], stable=True)]
    middle = own[order][counts.cumsum(0) - 1 - counts // 2]  # the median of each level
    gaps = (own - middle[place]).abs()[counts[place] > 1]
    if len(gaps) < len(own) // 2 or (gaps <= ROUNDED).double().mean() < CLEAN:
        return None
    return levels, middle, float(gaps.mean())


def values_of(levels, middle):
    """What some levels become, in words."""
    near = dict.fromkeys(int((levels - level).abs().argmin()) for level in CLIPPED)
    listed = ", ".join(f"{levels[n]:.0f} -> {float(middle[n]) + 0.0:.0f}" for n in near)
    return f"{listed}{formula_of(levels, middle)}".replace("-0,", "0,")


def formula_of(levels, middle):
    """The formula of what levels become, in words; an empty one where none is known."""
    free = (middle > 0.5) & (middle < TOP - 0.5) & (levels > 0) & (levels < TOP)
    if int(free.sum()) < FEW:
        return ""
    known = torch.stack([levels[free], torch.ones(int(free.sum())).double()], 1)
    scale, shift = torch.linalg.lstsq(known, middle[free, None]).solution[:, 0].tolist()
    if float((scale * levels + shift).clamp(0, TOP).sub(middle).abs().max()) <= 2 * ROUNDED:
        moved = f" {shift:+.0f}" if abs(shift) > ROUNDED else ""
        return f" (x {scale:.3g}{moved}, limited to 0 and 255)"
    logs = (levels[free] / TOP).log(), (middle[free] / TOP).log()
    power = float((logs[0] * logs[1]).sum() / (logs[0] ** 2).sum())
    if float(((levels / TOP) ** power * TOP - middle).abs().max()) <= 2 * ROUNDED:
        return f" (a power: gamma {power:.3g})"
    return ""


def by_channels(shown, photo, inside):
    """What is a mix of the three channels of the same pixel, or of their products."""
    own, seen = photo[:, inside] / TOP, shown[:, inside] / TOP
    one = torch.ones(1, own.shape[1]).double()
    mix, left = mixed_of(torch.cat([own, one]), seen)
    pairs = list(itertools.combinations_with_replacement(range(3), 2))
    products = torch.stack([own[a] * own[b] for a, b in pairs])
    curved, less = mixed_of(torch.cat([own, products, one]), seen)
    kind, names = "the channels of each pixel are mixed", NAMES
    if less < BETTER * left and left * TOP > SMALLEST:
        kind = "each pixel is made of products of its own channels (0 to 1)"
        names = (*NAMES, *(f"{NAMES[a]} x {NAMES[b]}" for a, b in pairs))
        mix, left = curved, less
    own_terms = torch.eye(3, len(names)).bool()
    across = mix[:, : len(names)].masked_fill(own_terms, 0)
    if left * TOP > ROUNDED or across.abs().max() < MIXED or bool((own.std(1) * TOP < 1).any()):
        return None
    lines = []
    for name, row in zip(NAMES, mix.tolist(), strict=True):
        terms = [f"{w:.2g} x {other}" for w, other in zip(row, names, strict=False)
                 if abs(w) >= LEAST_TERM]  # fmt: skip
        shift = [f"{TOP * row[-1]:.0f} of 255"] * (abs(row[-1]) >= LEAST_TERM)
        lines.append(f"{name} is " + " + ".join(terms + shift))
    return Residue(kind, ", ".join(lines), TOP * left)


def mixed_of(known, seen):
    """(the mix [C, K] of known numbers [K, N] that comes nearest to those seen [C, N], the mean
    difference that it leaves).
    """
    mix = torch.linalg.lstsq(known.T, seen.T).solution.T
    return mix, float((mix @ known - seen).abs().mean())


def by_neighbors(shown, photo, inside):
    """What is a weighted sum of the pixels around: a blur, a sharpening, a shift of a pixel."""
    side = 2 * REACH + 1
    core = F.max_pool2d((~inside)[None, None].double(), side, 1, REACH)[0, 0] == 0
    core[:REACH], core[-REACH:], core[:, :REACH], core[:, -REACH:] = 0, 0, 0, 0
    if int(core.sum()) < 2 * side * side:
        return None
    around = F.unfold(photo[:, None], side, padding=REACH).view(3, side * side, *inside.shape)
    known = around[:, :, core].transpose(0, 1).flatten(1)
    known = torch.cat([known, torch.ones(1, known.shape[1]).double()])
    seen = shown[:, core].flatten()
    weights = torch.linalg.lstsq(known.T, seen[:, None]).solution[:, 0]
    before = (shown - photo)[:, core].abs().mean()
    left = float((weights @ known - seen).abs().mean())
    if left > min(ROUNDED, BETTER * float(before)):
        return None
    kernel = weights[:-1].view(side, side)
    place, own = int(kernel.argmax()), float(kernel[REACH, REACH])
    down, right = place // side - REACH, place % side - REACH
    if float(kernel.max()) > 0.95 and (down or right):
        moved = f"by ({-right}, {-down}) pixels (right, down)"
        return Residue("the photo is moved", moved, left)
    word = "sharpened" if own > 1 else "blurred"
    return Residue(
        f"each pixel is a weighted sum of those around it ({word})",
        f"{own:.2g} x itself, {float(kernel.sum()) - own:.2g} x the others",
        left,
    )


def by_motion(shown, photo, inside):
    """What is the photo at another size, place or angle, found by steepest descent."""
    own, other = shown.mean(0), photo.mean(0)
    found = [follow(own, other, inside, start) for start in beginnings(own, other, inside)]
    if not found:
        return None
    best, motion = min(found, key=lambda own: own[0])
    still = float(gap(own, other, inside, motion_of(1.0, 0, 0.0, 0.0)))
    words = words_of(motion, len(own))
    if best > min(LIKE, BETTER * still) or not words:
        return None
    left = best * float(own[inside].std())
    return Residue(MOTION, words, left)


def words_of(motion, size):
    """How a photo lies that is moved so, in words; empty where that is nothing that people do."""
    (a, b, right), (c, d, down) = motion.tolist()
    across, along = math.hypot(a, c), math.hypot(b, d)
    angle = math.degrees(math.atan2(c, a))
    lean = math.degrees(math.atan2(a * b + c * d, a * d - b * c))
    if not all(1 / LARGEST < side < LARGEST for side in (across, along)) or abs(lean) > LEANING:
        return ""
    wide, high = (round(1 / side, 2) for side in (across, along))
    words = [f"{wide} times as large"] if abs(wide - high) <= SAME_SIDES else (
        [f"{wide} times as wide and {high} times as high"])  # fmt: skip
    words = words if max(abs(wide - 1), abs(high - 1)) > SAME_SIDES else []
    way = "counterclockwise" if angle > 0 else "clockwise"
    words += [f"turned {way} by {abs(angle):.0f} degrees"] * (abs(angle) > 0.5)
    words += [f"sheared by {lean:.0f} degrees"] * (abs(lean) > 1)
    moved = [(-shift * size / 2 / side, way) for shift, side, way in
             ((right, across, ("right", "left")), (down, along, ("down", "up")))]  # fmt: skip
    words += [f"moved {way[step < 0]} by {abs(step):.1f} pixels" for step, way in moved
              if abs(step) > 0.3]  # fmt: skip
    return ", ".join(words)


def beginnings(own, other, inside):
    """The motions [2, 3] of a grid that bring one picture [S, S] nearest to the other."""
    places = itertools.product(SHIFTS, SHIFTS)
    grid = [(scale, 0, *place) for place in places for scale in SCALES]
    grid += [(1.0, angle, 0.0, 0.0) for angle in ANGLES]
    a, b = (smooth(picture, 1) for picture in (own, other))
    with torch.no_grad():
        gaps = [(float(gap(a, b, inside, motion_of(*start))), start) for start in grid]
    best = sorted(gaps)[:BEGINNINGS]
    return [motion_of(*start) for miss, start in best if miss < PROMISING]


def motion_of(scale, angle, right, down):
    """The motion [2, 3], see torch's affine_grid, of a photo that is turned by some degrees."""
    turn = math.radians(angle)
    rows = [[math.cos(turn), -math.sin(turn), right], [math.sin(turn), math.cos(turn), down]]
    motion = torch.tensor(rows, dtype=torch.float64)
    motion[:, :2] /= scale
    return motion


def follow(own, other, inside, start):
    """(gap of a picture [S, S] from another one moved, that motion [2, 3]) after a descent from a
    motion.
    """
    motion, best = start.clone().requires_grad_(), (math.inf, start)
    for width in (2, 0):  # of a blur, from coarse to fine
        optimizer = torch.optim.Adam([motion], 0.01 if width else 0.003)
        a, b = smooth(own, width), smooth(other, width)
        for _ in range(ROUNDS):
            optimizer.zero_grad()
            miss = gap(a, b, inside, motion)
            miss.backward()
            if not width and float(miss.detach()) < best[0]:
                best = float(miss.detach()), motion.detach().clone()
            optimizer.step()
    return best


def gap(own, other, inside, motion):
    """The mean difference of a picture from another one moved, where both are known, in deviations
    of the picture there.
    """
    grid = F.affine_grid(motion[None], (1, 1, *own.shape), align_corners=False)
    moved = F.grid_sample(other[None, None], grid, align_corners=False)[0, 0]
    known = F.grid_sample(inside[None, None].double(), grid, align_corners=False)[0, 0] > 0.99
    known = known & inside
    if int(known.sum()) < int(inside.sum()) // 4:
        return (motion * 0).sum() + math.inf
    return (own - moved)[known].abs().mean() / own[known].std().clamp(min=SMALLEST)


def smooth(picture, width):
    """A picture [S, S] blurred by boxes of so many pixels to each side, twice."""
    for _ in range(2 * bool(width)):
        picture = F.avg_pool2d(picture[None, None], 2 * width + 1, 1, width,
                               count_include_pad=False)[0, 0]  # fmt: skip
    return picture


def as_noise(shown, photo, inside):
    """What is as noise: not like anything around."""
    left = torch.where(inside, shown - photo, 0.0)
    if not is_noise(left):
        return None
    deviation = float(left[:, inside].std())
    return Residue("what is left is like noise", f"of deviation {deviation:.2g} of 255", deviation)


def is_noise(values):
    """Whether neighbors in [3, H, W] are unlike."""
    values = values - values.mean()
    pairs = ((values[:, 1:], values[:, :-1]), (values[:, :, 1:], values[:, :, :-1]))
    size = float((values**2).mean())
    return size > 0 and all(
        a.numel() and abs(float((a * b).mean())) <= NOISE * size for a, b in pairs
    )


def told_of(residues):
    """In words what is left of several inputs, of the most frequent kind; None of none."""
    kinds = [own.kind for own in residues]
    if not kinds:
        return None
    kind = max(dict.fromkeys(kinds), key=kinds.count)
    values = list(dict.fromkeys(own.values for own in residues if own.kind == kind))
    some = f" (in {kinds.count(kind)})" if kinds.count(kind) < len(kinds) else ""
    more = "; in others otherwise" * (len(values) > SHOWN)
    return f"{kind}{some}: {' | '.join(values[:SHOWN])}{more}"
