"""Which part of a photo an input shows, and where in the input: for crops and placements."""

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from diagnose.preprocessing import reference
from diagnose.recognition import box_of, inner_box
from diagnose.residue import LIKE, SMALLEST, Residue

COARSE = 48  # pixels of a side, to which photos are resized for the search
SHARES = tuple(0.75**n for n in range(10))  # of a side of a photo, that an input may show
LEAST = 5  # coarse pixels of a part, and pixels of the place in an input
ALIKE = 0.75  # correlation of a part with what is shown, at least
FINE = 1024  # pixels of the larger side of a photo, at most, for the exact place
APART = 2.0  # times that every other photo must leave more
ALL = 0.97  # share of both sides, from which on all of a photo is shown
KIND = "the photo is shown otherwise"


def part_of(shown, photos):
    """(place of the photo of which an input [3, S, S], in levels of 255, shows a part, None where
    others of its series are as like; Residue); None where none is found.

    photos: diagnose.preprocessing.Photo.
    """
    flat = first_of(shown, photos)
    if flat:
        return flat
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
    words = told_of(box, (left, top, *sides), usual_box(photos[place], shown.shape[-1]))
    place = None if others and others[0][0] < APART * miss else place
    return (place, Residue(KIND, words, miss * float(content.std()))) if words else None


def first_of(shown, photos):
    """As part_of, of an input that holds the first values of a photo in their order, as where an
    array is brought to a shape and no photo is resized.
    """
    for place, photo in enumerate(photos):
        left, top, width, height = usual_box(photo, shown.shape[-1])
        own = shown[:, top : top + height, left : left + width].permute(1, 2, 0).flatten()
        rows = min(photo.stored.height, 1 + len(own) // (3 * photo.stored.width))
        first = np.array(photo.stored.crop((0, 0, photo.stored.width, rows))).reshape(-1)
        first = torch.from_numpy(first[: len(own)].astype(float))
        if len(first) == len(own) and float((first - own).abs().max()) <= SMALLEST:
            words = f"{width} x {height} x 3, in their order, row by row"
            return place, Residue("only the first values of each photo are shown", words, 0.0)
    return None


def told_of(part, box, usual):
    """In words, that a part of a photo, in shares of its sides, is shown in a box (left, top,
    width, height), pixels; empty where all of it is shown in the usual box.
    """
    left, top, right, bottom = (f"{100 * share:.0f}" for share in part)
    is_all = min(part[2] - part[0], part[3] - part[1]) > ALL
    if is_all and max(abs(a - b) for a, b in zip(box, usual, strict=True)) <= 1:
        return ""
    words = "all" if is_all else f"columns {left} to {right} % and rows {top} to {bottom} %"
    own, reference = (f"{w} x {h} pixels at ({x}, {y})" for x, y, w, h in (box, usual))
    return f"{words} of the photo in {own} (reference: all of it in {reference})"


def usual_box(photo, size):
    """(left, top, width, height) of a photo in an input of the reference."""
    return box_of(photo.base(reference(), size)[1])


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
