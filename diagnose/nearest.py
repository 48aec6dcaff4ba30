"""Inputs that no preparation reproduces: which photo each shows all the same, and what comes
nearest.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from diagnose.preprocessing import (
    affine_of,
    apply,
    changes_of,
    coarse_fits,
    fine_fits,
    finish,
    fit,
    name_affine,
    name_border,
    reference,
    simplest,
)
from diagnose.recoded import recoded_of
from diagnose.recognition import inner_box
from diagnose.residue import MOTION, SMALLEST, residue_of
from diagnose.stages.inputs import WAYS

CANDIDATES = 6  # photos that are like an input
ALIKE = 0.5  # least residual of a photo that an input may show: 0 is the same, 1.4 unrelated
APART = 2.0  # times the residual of the photo, that every other one must have at least
CLOSE = 2.0  # mean levels that a motion leaves where it is not sure which photo is shown
ABOUT = 0.1  # relative difference of a normalization that is about another
LEAST = 8  # pixels of a box in which a photo may be
SAME = 0.6  # share of equal values, more than which an input shows a photo
LEVELS = 255
MOVED = "at other places"
RESHAPED = "at other places: [H, W, 3] is reshaped to [3, H, W], not permuted"


class Nearest(NamedTuple):
    """What comes nearest to an input."""

    number: int  # of the photo among the candidates
    is_sure: bool  # whether no other photo is nearly as near
    preparation: dict
    levels: float  # largest difference, in levels of 255
    share: float  # of the values that differ
    box: tuple | None = None  # (width, height) to which the photo was resized, where that is it
    outside: bool = False  # whether all that differs is outside of the photo
    moved: str = ""  # how its values came to other places, where that is all


def nearest_of(x, photos, size, hint=None):
    """The Nearest of an input [3, S, S] among the photos that are like it, which come first.

    hint: the preparation that was nearest to another input, whose parts are tried first.
    """
    for preparation in (*([hint] if hint else []), reference()):
        gaps = [gaps_of(x, photo, preparation, size) for photo in photos]
        insides = [photo.base(preparation, size)[1] for photo in photos]  # padding is alike in all
        shares = [float((own[:, inside] <= SMALLEST).double().mean())
                  for own, inside in zip(gaps, insides, strict=True)]  # fmt: skip
        same = torch.tensor(shares)
        number = int(same.argmax())
        others = torch.cat([same[:number], same[number + 1 :]])
        if same[number] > SAME and bool((APART * others < same[number]).all()):
            own = told(number, True, preparation, gaps[number])
            return own._replace(outside=shares[number] == 1 and not bool(insides[number].all()))
    if hint:
        parts = {part: hint[part] for part in ("geometry", "filter", "turn")}
        parts["late"] = hint.get("late", False)
        fits = [[fit(x, photo, parts, size)] for photo in photos]
        number, is_sure = told_apart(least_of(fits))
    boxed = in_box(x, photos)
    if boxed:
        return boxed
    if not hint or not is_sure:
        fits = [coarse_fits(x, photo, size) for photo in photos]
        number, is_sure = told_apart(least_of(fits))
    photo = photos[number]
    fine = fine_fits(x, photo, size, fits[number])
    _, parts = min(fine, key=lambda found: found[0])
    preparation = loosely(simplest(finish(x, photo, parts, size), x, photo, size))
    return told(number, is_sure, preparation, gaps_of(x, photo, preparation, size))


def levels_of(x, preparation=None):
    """The values of an input [3, S, S] before a normalization, the page's where none is given, in
    levels of 255.
    """
    scale, shift = affine_of(preparation or reference())
    return (x - shift[:, None, None]) / scale[:, None, None] * LEVELS


def centered(x):
    """Inputs [..., 3, S, S] in levels of 255, with 0 for the mean color."""
    scale, _ = affine_of(reference())
    return x / scale[:, None, None] * LEVELS


def moved_of(x, photo, size):
    """The Nearest of an input that holds exactly the values of a photo, at other places; None where
    it does not.
    """
    made = apply(photo, reference(), size)
    own, other = levels_of(x), levels_of(made)
    if float((own.flatten().sort().values - other.flatten().sort().values).abs().max()) > SMALLEST:
        return None
    inside = photo.base(reference(), size)[1]
    sides = int(inside.any(1).sum()), int(inside.any(0).sum())
    shown = other[:, inside].view(3, *sides).permute(1, 2, 0).reshape(3, *sides)
    is_reshaped = float((own[:, inside].view(3, *sides) - shown).abs().max()) <= SMALLEST
    moved = RESHAPED if is_reshaped else MOVED
    return told(0, True, reference(), gaps_of(x, photo, reference(), size))._replace(moved=moved)


def in_box(x, photos):
    """The Nearest of an input [3, S, S] that shows a photo, resized to the box within its border of
    one color, wherever that is; None where it is not sure.
    """
    left, top, right, bottom = inner_box(x)
    sides, shown = (right - left, bottom - top), x[:, top:bottom, left:right]
    if min(sides) < LEAST or max(sides) == x.shape[-1]:
        return None
    values = levels_of(shown)
    made = [pixels_of(photo, sides) for photo in photos]
    spread = values.std().clamp(min=SMALLEST)
    number, is_sure = told_apart(torch.stack([(own - values).std() / spread for own in made]))
    if not is_sure:
        return None
    gaps = (made[number] - values).abs()
    share = float((gaps > SMALLEST).double().mean())
    return Nearest(number, True, reference(), float(gaps.max()), share, sides)


def pixels_of(photo, sides):
    """The levels [3, height, width] of a photo resized as the page does."""
    resized = photo.stored.resize(sides, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).double()


def gaps_of(x, photo, preparation, size):
    """By how much an input differs from what a preparation makes of a photo, [3, S, S], levels."""
    scale, _ = affine_of(preparation)
    return (apply(photo, preparation, size) - x).abs() / scale.abs()[:, None, None] * LEVELS


def told(number, is_sure, preparation, gaps):
    """The Nearest with these differences; see gaps_of."""
    share = float((gaps > SMALLEST).double().mean())
    return Nearest(number, is_sure, preparation, float(gaps.max()), share)


def loosely(preparation):
    """A preparation with a normalization and padding by name, where one is about the same."""
    if preparation["normalization"] == "solved":
        order = preparation["channels"]
        named = name_affine(*preparation["affine"], order, ABOUT)
        preparation = {k: v for k, v in preparation.items() if k != "affine"} | named
        if "border" in preparation:
            border = preparation.pop("border")
            preparation |= name_border(border, preparation, ABOUT)
    return preparation


def least_of(fits):
    """The least residual of each photo; fits: of each, see preprocessing.fit."""
    return torch.tensor([min(residual for residual, _ in own) for own in fits])


def left_of(x, photo, preparation, size):
    """The Residue of an input [3, S, S] from its photo, as the reference prepares it, or else as
    what is nearest does.
    """
    again = recoded_of(levels_of(x), photo, size)
    if again:
        return again
    for own in (reference(), preparation):
        solved = own["normalization"] == "solved"
        shown = levels_of(x, None if solved else own)
        found = residue_of(shown, *shown_by(photo, own, size))
        if found:
            return found
    return None


def by_residue(x, photos, nearest, size):
    """(the Nearest of an input by the one photo that has a Residue, or by far the least one, that
    Residue); the given one and None where there is none.
    """
    own = [
        residue_of(levels_of(x), *shown_by(photo, reference(), size))
        for photo in photos[:CANDIDATES]
    ]
    # another shot of the same scene, which lies otherwise, is like any photo that is blurred a bit
    own = [
        None if found and found.kind == MOTION and found.left > CLOSE else found for found in own
    ]
    lefts = torch.tensor([found.left if found else LEVELS for found in own])
    number = int(lefts.argmin())
    others = torch.cat([lefts[:number], lefts[number + 1 :]])
    if own[number] is None or bool((others <= APART * lefts[number] + SMALLEST).any()):
        alike = {found.kind for found in own if found}
        return nearest, own[number] if len(alike) == 1 else None  # whichever photo it is
    gaps = gaps_of(x, photos[number], reference(), size)
    return told(number, True, reference(), gaps), own[number]


def shown_by(photo, preparation, size):
    """(levels [3, S, S] of a photo that is prepared so but not normalized; where it lies)."""
    pixels, inside = photo.base(preparation, size)
    return WAYS["channels"][preparation["channels"]].act(pixels) * LEVELS, inside


def told_apart(residuals):
    """(number of the photo with the least residual, whether it is like the input and no other is).

    residuals: of each photo.
    """
    number = int(residuals.argmin())
    others = torch.cat([residuals[:number], residuals[number + 1 :]])
    least = float(residuals[number])
    return number, least < ALIKE and bool((others > APART * least).all())


def changes_in(nearest):
    """The findings that its preparation is, without the counts; () where it is the reference's."""
    return tuple(row.found(**dict(values), count=None, total=None, side=None)
                 for row, values in changes_of(nearest.preparation))  # fmt: skip
