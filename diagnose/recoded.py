"""Inputs of photos that were stored once more as a JPEG file, which loses a little."""

import io

import numpy as np
import torch
from PIL import Image

from diagnose.preprocessing import fit_by_page
from diagnose.recognition import box_of
from diagnose.residue import Residue

USUAL = (10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95)  # what people give, of large files
EVERY = range(1, 99)
MOST = 20.0  # mean levels of 255 that such a file may change
LEAST = 0.05  # the same, less than which there is nothing to explain
GIVEN = 0.4  # share of what is left that it may leave
KIND = "the photo passed through a JPEG file"
STAGES = ("as it was stored", "after it was resized")
TOP = 255


def recoded_of(shown, photo, size):
    """The Residue of an input [3, S, S], in levels of 255, of a photo that was stored as a JPEG
    file before, or after, it was resized; None where that leaves nearly as much.
    """
    pixels, inside = fit_by_page(photo.stored, size)
    before = miss_of(shown, pixels * TOP, inside)
    if not LEAST < before < MOST:
        return None

    def miss(stage, quality):
        return miss_of(shown, made(photo, size, stage, quality) * TOP, inside)

    tried = {(stage, q): miss(stage, q)
             for stage, some in zip(STAGES, (USUAL, EVERY), strict=True) for q in some}  # fmt: skip
    stage, quality = least = min(tried, key=tried.get)
    if tried[least] > GIVEN * before:
        return None
    about = "" if tried[least] < LEAST else "about "
    return Residue(KIND, f"{stage}, of quality {about}{quality}", tried[least])


def miss_of(shown, other, inside):
    """The mean difference of two pictures [3, S, S] where a photo lies."""
    return float((shown - other)[:, inside].abs().mean())


def made(photo, size, stage, quality):
    """The pixels [3, S, S] in 0..1 of a photo that was stored with a quality in a stage."""
    if stage == STAGES[0]:
        return fit_by_page(stored(photo.stored, quality), size)[0]
    pixels, inside = fit_by_page(photo.stored, size)
    left, top, width, height = box_of(inside)
    box = slice(top, top + height), slice(left, left + width)
    own = (pixels[:, box[0], box[1]] * TOP).round().byte().permute(1, 2, 0).contiguous().numpy()
    again = np.array(stored(Image.fromarray(own), quality))
    pixels = pixels.clone()
    pixels[:, box[0], box[1]] = torch.from_numpy(again).permute(2, 0, 1).double() / TOP
    return pixels


def stored(photo, quality):
    """A photo as a JPEG file of a quality has it."""
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality)
    with Image.open(file) as again:
        return again.convert("RGB")
