"""Which part of a photo an input shows, and where in the input: for crops and placements."""

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from diagnose.recognition import inner_box
from diagnose.residue import LIKE, Residue

COARSE = 48  # pixels of a side, to which photos are resized for the search
SHARES = tuple(0.75**n for n in range(10))  # of a side of a photo, that an input may show
LEAST = 5  # coarse pixels of a part, and pixels of the place in an input
ALIKE = 0.75  # correlation of a part with what is shown, at least
FINE = 1024  # pixels of the larger side of a photo, at most, for the exact place
APART = 2.0  # times that every other photo must leave more
TOP = 255


def part_of(shown, photos):
    """(place of the photo of which an input [3, S, S], in levels of 255, shows a part, None where
    others of its series are as like; Residue); None where none is found.

    photos: diagnose.preprocessing.Photo.
    """
    left, top, right, bottom = inner_box(shown)
    content = shown[:, top:bottom, left:right]
    if min(content.shape[1:]) < LEAST or float(content.std()) < 1:
        return None
    grays = torch.stack([gray_of(photo.stored, (COARSE, COARSE)) for photo in photos])
    found = {}
    for score, place, box in sorted(coarse_parts(content.mean(0).float(), grays), reverse=True):
        if score >= ALIKE:
            found.setdefault(place, box)
    sides = content.shape[2], content.shape[1]
    fine = [(*refined(content, photos[place].stored, box, sides), place)
            for place, box in list(found.items())[:3]]  # fmt: skip
    fine.sort(key=lambda own: own[0])
    if not fine or fine[0][0] > LIKE:
        return None
    (miss, box, place), *others = fine
    place = None if others and others[0][0] < APART * miss else place
    return place, told_of(box, (left, top), sides, miss * float(content.std()))


def told_of(box, corner, sides, miss):
    """The Residue that a box of a photo, in shares of its sides, is shown in so many pixels."""
    left, top, right, bottom = (f"{100 * share:.0f}" for share in box)
    words = f"columns {left} to {right} % and rows {top} to {bottom} % of the photo, "
    words += f"in {sides[0]} x {sides[1]} pixels at {corner}"
    return Residue("each input shows another part of its photo", words, miss)


def gray_of(photo, sides):
    """[height, width] of the levels of a photo that is resized to (width, height)."""
    resized = photo.resize(sides, Image.Resampling.BOX)
    return torch.from_numpy(np.array(resized)).float().mean(2)


def coarse_parts(content, grays):
    """(correlation, place of the photo, (left, top, right, bottom) in shares of its sides) of the
    part of each photo [P, C, C] that is most like what is shown [H, W], at each of its sizes.
    """
    for wide in SHARES:
        for high in SHARES:
            height, width = (round(share * COARSE) for share in (high, wide))
            if min(height, width) < LEAST:
                continue
            template = F.interpolate(
                content[None, None], (height, width), mode="bilinear", antialias=True
            )[0, 0]
            alike = correlations(template, grays)
            best, places = alike.flatten(1).max(1)
            for photo, (score, place) in enumerate(
                zip(best.tolist(), places.tolist(), strict=True)
            ):
                down, across = divmod(place, alike.shape[2])
                box = across, down, across + width, down + height
                yield score, photo, tuple(edge / COARSE for edge in box)


def correlations(template, grays):
    """The correlation of a template [h, w] with each place of pictures [P, C, C]."""
    own = template - template.mean()
    count, sides = own.numel(), tuple(own.shape)
    products = F.conv2d(grays[:, None], own[None, None])[:, 0]
    means = F.avg_pool2d(grays[:, None], sides, 1)[:, 0]
    squares = F.avg_pool2d(grays[:, None] ** 2, sides, 1)[:, 0]
    norms = ((squares - means**2).clamp(min=1) * count).sqrt() * own.norm().clamp(min=1e-9)
    return products / norms


def refined(content, photo, box, sides):
    """(mean difference in deviations of what is shown, box) of the box of a photo that comes
    nearest, from a coarse one on.
    """
    scale = min(1.0, FINE / max(photo.size))
    small = photo.resize([max(1, round(side * scale)) for side in photo.size], reducing_gap=2.0)

    def miss(box):
        edges = [edge * side for edge, side in zip(box, small.size * 2, strict=True)]
        made = small.resize(sides, Image.Resampling.BILINEAR, edges)
        made = torch.from_numpy(np.array(made)).permute(2, 0, 1).double()
        return float((made - content).abs().mean() / content.std())

    best, step = miss(box), 2 / COARSE
    while step * max(small.size) > 0.2:
        tried = [(miss(other), other) for other in moved(box, step)]
        least = min(tried, default=(np.inf, box))
        if least[0] < best:
            best, box = least
        else:
            step /= 2
    return best, box


def moved(box, step):
    """The boxes within a photo that are a step from one: an edge, or two together, is moved."""
    for edges in ((0,), (1,), (2,), (3,), (0, 2), (1, 3)):
        for way in (-step, step):
            other = tuple(e + way * (n in edges) for n, e in enumerate(box))
            if min(other) >= 0 and max(other) <= 1 and other[0] < other[2] and other[1] < other[3]:
                yield other
