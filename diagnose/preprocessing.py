"""How a recorded input was prepared from a photo: each part of it solved, by the rows of its stage.

A photo is prepared in every way of diagnose.stages.inputs; what is left is an affine map of
each channel, solved by least squares. A preprocessing counts only where it gives the recorded input
back.
"""

import math
from functools import cache
from itertools import product

import numpy as np
import torch
from PIL import Image, ImageOps

import data
from diagnose.numerics import estimated
from diagnose.stages.inputs import WAYS

PAGE = "page"  # a choice of the page that is none of the rows
FEW = 4  # candidates that are tried at once
UNLIKE = 0.8  # residual of the first filter, beyond which no other makes it the photo
EXACT = 3e-6  # largest difference of a photo prepared in float32, in its own standard deviation


# The page's own preprocessing


def reference():
    """{part: choice} of the page's preprocessing, of the choices that people make."""
    geometry, filter_ = parts_of(data.fit_photo)
    return {
        "geometry": geometry,
        "filter": filter_,
        "turn": "none",
        "channels": "RGB",
        "normalization": PAGE,
        "padding": "mean",
        "cast": "none",
    }


@cache
def parts_of(fit_photo):
    """(geometry, filter) by which the page fits a photo, tried on noise; else PAGE twice."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    photo, size = Image.fromarray(noise), 32
    array, _ = fit_photo(photo, size, "pad")
    made = torch.from_numpy(array).double() / 255
    for geometry, filter_ in product(WAYS["geometry"], WAYS["filter"]):
        if torch.equal(place(photo, geometry, filter_, size)[0], made):
            return geometry, filter_
    return PAGE, PAGE


def colors():
    """{choice: color [3]} of the padding."""
    return {choice: torch.tensor(row.act(), dtype=torch.float64)
            for choice, row in WAYS["padding"].items() if row.act}  # fmt: skip


def normalizations():
    """{choice: (scale [3], shift [3])} of values in 0..1; PAGE is what the page does."""
    return affines_of(data.to_input)


@cache
def affines_of(to_input):
    """As normalizations, by what the page's function makes of a black and of a white pixel."""
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    black, white = to_input(pixels, torch.tensor([[0, 0, 1, 1]] * 2), (0, 0, 0), torch.float64)
    shift, scale = black.flatten(), (white - black).flatten()
    rows = WAYS["normalization"].items()
    return {choice: row.act(scale, shift) for choice, row in rows if row.act}


# Preparation


class Photo:
    """A photo file, and what has been made of it.

    least: pixels of its sides that are enough, to which a JPEG file is decoded faster; None: all.
    """

    def __init__(self, path, least=None):
        with Image.open(path) as photo:
            photo.draft("RGB", least and (least, least))
            self.orientation = photo.getexif().get(0x0112, 1)
            self.upright = ImageOps.exif_transpose(photo).convert("RGB")
            self.stored = photo.convert("RGB")
        self.stored.filename = "" if least else str(path)  # thumbnail() decodes by itself
        self.made = {}

    def base(self, preparation, size):
        """(pixels [3, size, size] in 0..1, float64; where the photo lies [size, size])."""
        geometry, filter_, turn = (preparation[part] for part in ("geometry", "filter", "turn"))
        gray, late = preparation["channels"] == "gray", preparation.get("late", False)
        key = geometry, filter_, turn, late, size, gray
        if key not in self.made:
            row = WAYS["turn"][turn]
            photo = self.stored if row.act else self.upright
            if row.act and not late and turn != reference()["turn"]:
                turned = row.act(torch.from_numpy(np.array(photo)).permute(2, 0, 1))
                photo = Image.fromarray(turned.permute(1, 2, 0).contiguous().numpy())
            photo = photo.convert("L").convert("RGB") if gray else photo
            own = (geometry, filter_) == parts_of(data.fit_photo)
            made = fit_by_page(photo, size) if own else place(photo, geometry, filter_, size)
            self.made[key] = tuple(map(row.act, made)) if late else made
        return self.made[key]


def fit_by_page(photo, size):
    """A photo as the page fits it (data.fit_photo), as in Photo.base."""
    array, (left, top, right, bottom) = data.fit_photo(photo, size, "pad")
    inside = torch.zeros(size, size).bool()
    inside[top:bottom, left:right] = True
    return torch.from_numpy(array).double() / 255, inside


def place(photo, geometry, filter_, size):
    """A photo resized by one filter and placed by one geometry, as in Photo.base."""
    sides, (left, top) = WAYS["geometry"][geometry].act(*photo.size, size)
    array = WAYS["filter"][filter_].act(photo, [max(1, side) for side in sides])
    array = array[:, max(0, -top) :, max(0, -left) :][:, :size, :size]
    top, left = max(0, top), max(0, left)
    box = slice(top, top + array.shape[1]), slice(left, left + array.shape[2])
    pixels, inside = torch.zeros(3, size, size).double(), torch.zeros(size, size).bool()
    pixels[:, box[0], box[1]] = array
    inside[box] = True
    return pixels, inside


def affine_of(preparation):
    """(scale [3], shift [3]) of a preparation."""
    return preparation.get("affine") or normalizations()[preparation["normalization"]]


def apply(photo, preparation, size):
    """The input [3, size, size], float64, that a preparation makes of a photo."""
    pixels, inside = photo.base(preparation, size)
    scale, shift = affine_of(preparation)
    channels = WAYS["channels"][preparation["channels"]].act(pixels)
    x = channels * scale[:, None, None] + shift[:, None, None]
    color = preparation.get("border")
    if color is None:
        color = colors()[preparation["padding"]] * scale + shift
    x = torch.where(inside, x, color[:, None, None])
    return WAYS["cast"][preparation["cast"]].act(x)


def changes_of(preparation):
    """[(Way, items of its values)] of the parts of a preparation that are not the reference's."""
    usual = reference()
    rows = (WAYS[part][preparation[part]] for part in usual if preparation[part] != usual[part])
    return [(row, tuple(values_of(row, preparation).items())) for row in rows]


def values_of(row, preparation):
    """The values of a choice; estimated ones in mean and std, as people write them."""
    if row.act or row.value:
        own = {row.value: row.choice, "reference": reference()[row.part]}
        return own if row.value else {}
    if row.part == "padding":
        return {"color": tuple(map(estimated, preparation["border"]))}
    if row.part != "normalization":
        return {}
    scale, shift = preparation["affine"]
    return {"mean": tuple(map(estimated, -shift / scale)), "std": tuple(map(estimated, 1 / scale))}


def difference(x, y):
    """Largest difference of an input from a made one, in the input's own deviation."""
    gap = float((x - y).abs().max()) / max(float(x.std()), 1e-12)
    return gap if math.isfinite(gap) else math.inf


def allowed(x, preparation):
    """The difference that counts as none: float32's, or a last digit of a coarser cast."""
    if preparation["cast"] == "none":
        return EXACT
    digit = torch.finfo(getattr(torch, preparation["cast"])).eps
    return digit * float(x.abs().max()) / max(float(x.std()), 1e-12)


def held_against(x, photo, preparation, size):
    """(difference of an input from what a preparation makes of a photo, whether that is none).

    Where a coarse cast gives a last digit, nearly all elements must be equal all the same.
    """
    made = apply(photo, preparation, size)
    gap, near = difference(x, made), (made - x).abs() <= EXACT * x.std()
    same = float(near.double().mean())
    return gap, gap <= allowed(x, preparation) and (preparation["cast"] == "none" or same > 0.9)


# Solving


def solve_by(x, photos, size, preparations):
    """As solve, by some preparations alone; None where none of them makes the input."""
    for preparation in preparations:
        for number, photo in enumerate(photos):
            gap, equal = held_against(x, photo, preparation, size)
            if equal:
                return number, preparation, gap
    return None


def solve(x, photos, size):
    """(place of the photo, among these, that x shows; its preparation or None; difference left)."""
    nearest = []
    for first in range(0, len(photos), FEW):
        number, preparation, gap = solve_among(x, photos[first : first + FEW], size)
        if preparation:
            return first + number, preparation, gap
        nearest.append((gap, first + number))
    gap, number = min(nearest)
    return number, None, gap


def solve_among(x, photos, size):
    """As solve, among a few photos."""
    fits = [(f, n) for n, photo in enumerate(photos) for f in coarse_fits(x, photo, size)]
    (least, _), number = min(fits, key=lambda found: found[0][0])
    if least > UNLIKE:
        return number, None, least
    photo = photos[number]
    fine = fine_fits(x, photo, size, [f for f, n in fits if n == number])
    residual, preparation = min(fine, key=lambda found: found[0])
    if residual > 0.1:
        return number, None, residual
    preparation = simplest(finish(x, photo, preparation, size), x, photo, size)
    gap, equal = held_against(x, photo, preparation, size)
    return number, (preparation if equal else None), gap


def coarse_fits(x, photo, size):
    """fit of every geometry and turn, with one filter, also where turned behind the padding, which
    need not be as wide on both sides.
    """
    turns = [(turn, late) for turn, row in WAYS["turn"].items() for late in (False, True)
             if (row.act and not (late and turn == reference()["turn"]))
             or (not row.act and not late and photo.orientation > 1)]  # fmt: skip
    every = [{"geometry": geometry, "filter": "bilinear", "turn": turn, "late": late}
             for geometry in WAYS["geometry"] for turn, late in turns]  # fmt: skip
    return [fit(x, photo, parts, size) for parts in every]


def fine_fits(x, photo, size, found):
    """fit of every filter for the geometries and turns that fit about best."""
    least = min(residual for residual, _ in found)
    near = [parts for residual, parts in found if residual <= 2 * least + 1e-9]
    return found + [
        fit(x, photo, parts | {"filter": filter_}, size)
        for parts in near for filter_ in WAYS["filter"]
    ]  # fmt: skip


def fit(x, photo, parts, size):
    """(residual of the affine fit of one base, its parts with the best order of the channels)."""
    parts = parts | {"channels": "RGB"}
    pixels, inside = photo.base(parts, size)
    if int(inside.sum()) < 16:
        return math.inf, parts
    theirs = standardize(x[:, inside])
    is_gray = bool(((theirs - theirs[:1]).abs().max(1).values < 1e-2 * theirs.abs().max()).all())
    if is_gray:  # made before the resize, which rounds: filters are not told apart without
        pixels, _ = photo.base(parts | {"channels": "gray"}, size)
    match = theirs @ standardize(pixels[:, inside]).T  # [3, 3] correlations
    fits = {
        choice: float(row.act(match.T).diagonal().sum()) / 3
        for choice, row in WAYS["channels"].items() if (choice == "gray") == is_gray
    }  # fmt: skip
    order = max(fits, key=fits.get)
    return math.sqrt(max(0.0, 2 - 2 * fits[order])), parts | {"channels": order}


def standardize(values):
    """Each row of values [C, N] with mean 0 and length 1."""
    values = values - values.mean(1, keepdim=True)
    return values / values.norm(dim=1, keepdim=True).clamp(min=1e-12)


def finish(x, photo, preparation, size):
    """The preparation with its normalization, padding and cast, by name where a name fits."""
    same = (choice for choice, row in WAYS["cast"].items()
            if choice != "none" and torch.equal(row.act(x), x))  # fmt: skip
    cast = next(same, "none")
    preparation = preparation | {"cast": cast, "normalization": "none", "padding": "mean"}
    plain = apply(photo, preparation | {"cast": "none"}, size)
    _, inside = photo.base(preparation, size)
    a, b = plain[:, inside], x[:, inside]
    centered = a - a.mean(1, keepdim=True)
    scale = (centered * b).sum(1) / (centered**2).sum(1).clamp(min=1e-12)
    shift = b.mean(1) - scale * a.mean(1)
    near = 1e-4 if cast == "none" else 2e-2
    preparation |= name_affine(scale, shift, preparation["channels"], near)
    if not bool(inside.all()):
        border = x[:, ~inside]
        if float((border - border[:, :1]).abs().max()) == 0:
            preparation |= name_border(border[:, 0], preparation, near)
    return preparation


def name_affine(scale, shift, order, near):
    """The normalization of an affine map, by name where one fits, also as applied before the
    channels were reordered.
    """
    named = [(name, None, affine) for name, affine in normalizations().items()]
    reorder = WAYS["channels"][order].act
    for name, affine in normalizations().items():
        before = tuple(map(reorder, affine))
        named.append((name, before, before))
    for name, own, (s, t) in named:
        off = float((t - shift).abs().max() / scale.abs().max())
        if max(float(((s - scale) / s).abs().max()), off) < near:
            return {"normalization": name} | ({"affine": own} if own else {})
    return {"normalization": "solved", "affine": (scale, shift)}


def name_border(border, preparation, near):
    """The padding of a border [3]; 0 after the normalization is the mean color before."""
    scale, shift = affine_of(preparation)
    for name, color in colors().items():
        values = color * scale + shift
        if float((values - border).abs().max()) < near * max(1.0, float(scale.abs().max())) / 10:
            return {"padding": name}
    usual = preparation["normalization"] == PAGE and "affine" not in preparation
    if float(border.abs().max()) < 1e-6 and not usual:
        return {"padding": "mean", "border": border}
    return {"padding": "solved", "border": border}


def simplest(preparation, x, photo, size):
    """The same with the reference's choice wherever that gives the same, as on a square photo."""
    exact = difference(x, apply(photo, preparation | {"cast": "none"}, size)) <= EXACT
    preparation = (
        preparation | {"cast": "none"} if exact else preparation
    )  # whole numbers are not rounded
    for key in ("turn", "geometry", "filter", "channels", "padding"):
        trial = preparation | {key: reference()[key]}
        if key == "padding":
            trial.pop("border", None)
        if key == "turn":
            trial.pop("late", None)
        gap = difference(x, apply(photo, trial, size))
        if gap <= max(difference(x, apply(photo, preparation, size)), allowed(x, trial) / 3):
            preparation = trial
    return preparation
