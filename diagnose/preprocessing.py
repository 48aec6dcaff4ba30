"""Which photos a recorded input shows, and how they were prepared: each part of it solved.

A photo is recognized by its content and prepared anew in every manner that people do it; what is
left is an affine map of each channel, solved by least squares. A preparation counts only where it
gives the recorded input back.
"""

import math
from functools import cache
from itertools import permutations, product

import numpy as np
import torch
from PIL import Image, ImageOps

import data

FILTERS = {
    name: getattr(Image.Resampling, name.upper())
    for name in ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")
}
GEOMETRIES = ("pad", "floor", "corner", "crop", "squash")
EVERY_FILTER = (*FILTERS, "no antialias", "antialias")
TURNS = {"hflip": [2], "vflip": [1], "rot180": [1, 2]}  # dimensions of [3, S, S]
CELLS = 8  # of a side, in the coarse picture by which photos are recognized
EXACT = 3e-6  # largest difference of a photo prepared in float32, in its own deviation


# The page's own preprocessing


def reference():
    """{part: choice} of the page's preprocessing, of the choices that people make."""
    own = {"turn": "none", "order": "RGB", "normalization": "imagenet", "padding": "mean"}
    return dict(zip(("geometry", "filter"), parts_of(data.fit_photo), strict=True)) | own | {
        "cast": "none"
    }  # fmt: skip


@cache
def parts_of(fit_photo):
    """(geometry, filter) by which the page fits a photo, tried on noise; else "page" twice."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    photo, size = Image.fromarray(noise), 32
    array, _ = fit_photo(photo, size, "pad")
    made = torch.from_numpy(array).double() / 255
    for geometry, filter_ in product(GEOMETRIES, EVERY_FILTER):
        if torch.equal(place(photo, geometry, filter_, size)[0], made):
            return geometry, filter_
    return "page", "page"


def colors():
    """{name: red, green and blue in 0..1} of the padding."""
    return {
        "mean": data.parse_color("imagenet"),
        "black": (0, 0, 0),
        "gray": (128 / 255,) * 3,
        "white": (1, 1, 1),
        "train": data.parse_color("train"),
        "rounded": (124 / 255, 116 / 255, 104 / 255),
    }


def normalizations():
    """{name: (scale [3], shift [3])} of values in 0..1; `imagenet` is what the page does."""
    return affines_of(data.to_input)


@cache
def affines_of(to_input):
    """As normalizations, by what the page's function makes of a black and of a white pixel."""
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    black, white = to_input(pixels, torch.tensor([[0, 0, 1, 1]] * 2), (0, 0, 0), torch.float64)
    shift, scale = black.flatten(), (white - black).flatten()
    mean, one = -shift / scale, torch.ones(3).double()
    return {
        "imagenet": (scale, shift),
        "none": (one, 0 * one),
        "half": (2 * one, -one),
        "255": (255 * one, 0 * one),
        "twice": (scale**2, scale * (shift - mean)),
        "centered": (one, -mean),
        "minus one": (one, -one),
    }


# Recognition


def coarse(gray):
    """[CELLS * CELLS] of a gray picture [H, W], standardised."""
    picture = Image.fromarray(np.ascontiguousarray(gray, dtype=np.float32), "F")
    cells = np.asarray(picture.resize((CELLS, CELLS), Image.Resampling.BOX)).astype(np.float64)
    cells = cells.ravel()
    return (cells - cells.mean()) / max(cells.std(), 1e-12)


def turns_of(cells):
    """The eight ways in which coarse pictures [N, C * C] can lie, [8, N, C * C]."""
    square = cells.reshape(-1, CELLS, CELLS)
    lying = [np.rot90(side, k, (1, 2)) for side in (square, square[:, :, ::-1]) for k in range(4)]
    return np.stack([x.reshape(len(square), -1) for x in lying])


def describe_photo(path):
    """Coarse pictures of a photo, [4, CELLS * CELLS]: mean of its channels, whole and its centre,
    and its luminance, whole and its centre.
    """
    with Image.open(path) as photo:
        photo.draft("RGB", (64, 64))
        colored = photo.convert("RGB")
    grays = np.asarray(colored, np.float32).mean(2), np.asarray(colored.convert("L"), np.float32)
    height, width = grays[0].shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    parts = (slice(None), slice(None)), (slice(top, top + side), slice(left, left + side))
    return np.stack([coarse(gray[part]) for gray in grays for part in parts])


def inner_box(x):
    """left, top, right, bottom of what is not border of one colour in an input [3, S, S]."""
    size = x.shape[-1]
    top, left = edge(x), edge(x.transpose(1, 2))
    bottom, right = size - edge(x.flip(1)), size - edge(x.transpose(1, 2).flip(1))
    return (left, top, right, bottom) if left < right and top < bottom else (0, 0, size, size)


def edge(x):
    """How many rows of an input, from the first on, have the colour of its first pixel."""
    other = (x != x[:, :1, :1]).any(2).any(0).nonzero()[:, 0]
    return int(other[0]) if len(other) else x.shape[1]


def boxes_of(x):
    """Where the picture may lie in an input: within its border, or all of it but a border.

    A white sky or a black ground looks like a border on one side; a border for padding is as wide
    on the opposite side, or lies right and below alone.
    """
    size, (left, top, right, bottom) = x.shape[-1], inner_box(x)
    across, down = min(left, size - right), min(top, size - bottom)
    even = across, down, size - across, size - down
    return [(left, top, right, bottom), (0, 0, size, size), (0, 0, right, bottom), even]


def recognize(inputs, described, few=20):
    """[N] lists of the few photos (rows of described [P, 4, C * C]) most like each input."""
    mine = np.zeros((4, len(inputs), CELLS * CELLS))
    for i, x in enumerate(inputs):
        gray = x.mean(0).numpy()
        for k, (left, top, right, bottom) in enumerate(boxes_of(x)):
            mine[k, i] = coarse(gray[top:bottom, left:right])
    alike = [(turns_of(m) @ described[:, whole].T).max(0) for m in mine for whole in (0, 2)]
    alike += [(turns_of(mine[1]) @ described[:, centre].T).max(0) for centre in (1, 3)]
    return np.argsort(-np.max(alike, axis=0), axis=1)[:, :few].tolist()


# Preparation


class Photo:
    """A photo file, and what has been made of it."""

    def __init__(self, path):
        with Image.open(path) as photo:
            self.orientation = photo.getexif().get(0x0112, 1)
            self.upright = ImageOps.exif_transpose(photo).convert("RGB")
            self.stored = photo.convert("RGB")
        self.made = {}

    def base(self, geometry, filter_, turn, size, gray=False):
        """(pixels [3, size, size] in 0..1, double; where the picture lies [size, size])."""
        key = geometry, filter_, turn, size, gray
        if key in self.made:
            return self.made[key]
        kind, _, late = turn.partition(" ")
        if late:  # turned behind the padding, which need not be as wide on both sides
            pixels, inside = self.base(geometry, filter_, "none", size, gray)
            made = pixels.flip(TURNS[kind]), inside.flip([d - 1 for d in TURNS[kind]])
        else:
            photo = self.upright if turn == "exif" else self.stored
            for dim in TURNS.get(turn, ()):
                photo = ImageOps.mirror(photo) if dim == 2 else ImageOps.flip(photo)
            photo = photo.convert("L").convert("RGB") if gray else photo
            own = (geometry, filter_) == parts_of(data.fit_photo)
            made = fit_by_page(photo, size) if own else place(photo, geometry, filter_, size)
        self.made[key] = made
        return made


def fit_by_page(photo, size):
    """A photo as the page fits it (data.fit_photo), as in Photo.base."""
    array, (left, top, right, bottom) = data.fit_photo(photo, size, "pad")
    inside = torch.zeros(size, size).bool()
    inside[top:bottom, left:right] = True
    return torch.from_numpy(array).double() / 255, inside


def place(photo, geometry, filter_, size):
    """A photo resized by one filter and placed by one geometry, as in Photo.base."""
    width, height = photo.size
    longer, shorter = max(width, height), min(width, height)
    cut = round if geometry in ("pad", "corner") else int
    fitted = shorter if geometry == "crop" else longer
    sides = [max(1, cut(size * side / fitted)) for side in (width, height)]
    sides = [size, size] if geometry == "squash" else sides
    array = resize(photo, sides, filter_)
    if geometry == "crop":
        left, top = (round((s - size) / 2) for s in sides)
        return array[:, top : top + size, left : left + size], torch.ones(size, size).bool()
    left, top = (0 if geometry == "corner" else (size - s) // 2 for s in sides)
    pixels, inside = torch.zeros(3, size, size).double(), torch.zeros(size, size).bool()
    pixels[:, top : top + sides[1], left : left + sides[0]] = array
    inside[top : top + sides[1], left : left + sides[0]] = True
    return pixels, inside


def resize(photo, sides, filter_):
    """The photo with these sides (width, height), [3, height, width] in 0..1, double."""
    if filter_ in FILTERS:
        resized = np.asarray(photo.resize(sides, FILTERS[filter_]))
        return torch.from_numpy(resized.copy()).permute(2, 0, 1).double() / 255
    whole = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].double() / 255
    return torch.nn.functional.interpolate(
        whole, sides[::-1], mode="bilinear", antialias=filter_ == "antialias"
    )[0]


def apply(photo, preparation, size):
    """The input [3, size, size], double, that a preparation makes of a photo."""
    gray = preparation["order"] == "gray"
    pixels, inside = photo.base(
        preparation["geometry"], preparation["filter"], preparation["turn"], size, gray
    )
    scale, shift = preparation.get("affine") or normalizations()[preparation["normalization"]]
    channels = pixels
    if preparation["order"] != "gray":
        channels = pixels[["RGB".index(c) for c in preparation["order"]]]
    x = channels * scale[:, None, None] + shift[:, None, None]
    color = preparation.get("border")
    if color is None:
        values = torch.tensor(colors()[preparation["padding"]], dtype=torch.float64)
        color = values * scale + shift
    x = torch.where(inside, x, color[:, None, None])
    if preparation["cast"] != "none":
        x = x.to(getattr(torch, preparation["cast"])).double()
    return x


def difference(x, y):
    """Largest difference of an input from a made one, in the input's own deviation."""
    gap = float((x - y).abs().max()) / max(float(x.std()), 1e-12)
    return gap if math.isfinite(gap) else math.inf


def allowed(x, preparation):
    """The difference that counts as none: float32's, or a last digit of a coarser cast."""
    if preparation["cast"] == "none":
        return EXACT
    digits = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[preparation["cast"]]
    return digits * float(x.abs().max()) / max(float(x.std()), 1e-12)


def held_against(x, photo, preparation, size):
    """(difference of an input from what a preparation makes of a photo, whether that is none).

    Where a coarse cast gives a last digit, nearly all elements must be equal all the same.
    """
    made = apply(photo, preparation, size)
    gap, near = difference(x, made), (made - x).abs() <= EXACT * x.std()
    same = float(near.double().mean())
    return gap, gap <= allowed(x, preparation) and (preparation["cast"] == "none" or same > 0.9)


# Solving


def solve(x, photos, size, hints=()):
    """(place of the photo that x shows, its preparation or None, the difference left).

    photos: the candidates; hints: preparations that held for other inputs, tried first.
    """
    for preparation in (reference(), *hints):
        for number, photo in enumerate(photos):
            gap, equal = held_against(x, photo, preparation, size)
            if equal:
                return number, preparation, gap
    fits = [(f, n) for n, photo in enumerate(photos) for f in coarse_fits(x, photo, size)]
    _, number = min(fits, key=lambda found: found[0][0])
    photo = photos[number]
    best = min(fine_fits(x, photo, size, [f for f, n in fits if n == number]), key=lambda f: f[0])
    if best[0] > 0.1:
        return number, None, best[0]
    preparation = dict(zip(("geometry", "filter", "turn", "order"), best[1:], strict=True))
    preparation = simplest(finish(x, photo, preparation, size), x, photo, size)
    gap, equal = held_against(x, photo, preparation, size)
    return number, (preparation if equal else None), gap


def coarse_fits(x, photo, size):
    """fit of every geometry and turn, with the reference's filter."""
    turns = ["none", *TURNS, *(f"{turn} late" for turn in TURNS)]
    turns += ["exif"] * (photo.orientation > 1)
    return [fit(x, photo, g, "bilinear", turn, size) for g in GEOMETRIES for turn in turns]


def fine_fits(x, photo, size, found):
    """fit of every filter for the geometries and turns that fit about best."""
    least = min(residual for residual, *_ in found)
    near = [(g, t) for residual, g, _, t, _ in found if residual <= 2 * least + 1e-9]
    return found + [fit(x, photo, g, f, t, size) for g, t in near for f in EVERY_FILTER]


def fit(x, photo, geometry, filter_, turn, size):
    """The best order of the channels for one base, with the residual of its affine fit."""
    pixels, inside = photo.base(geometry, filter_, turn, size)
    if int(inside.sum()) < 16:
        return math.inf, geometry, filter_, turn, "RGB"
    theirs = standardise(x[:, inside])
    is_gray = bool(((theirs - theirs[:1]).abs().max(1).values < 1e-2 * theirs.abs().max()).all())
    if is_gray:  # made before the resize, which rounds: filters are not told apart without
        pixels, _ = photo.base(geometry, filter_, turn, size, gray=True)
    match = theirs @ standardise(pixels[:, inside]).T  # [3, 3] correlations
    fits = {}
    for p in permutations("RGB"):
        fits["".join(p)] = sum(float(match[c, "RGB".index(p[c])]) for c in range(3)) / 3
    order = max(fits, key=fits.get)
    residual = math.sqrt(max(0.0, 2 - 2 * fits[order]))
    return residual, geometry, filter_, turn, "gray" if is_gray else order


def standardise(values):
    """Each row of values [C, N] with mean 0 and length 1."""
    values = values - values.mean(1, keepdim=True)
    return values / values.norm(dim=1, keepdim=True).clamp(min=1e-12)


def finish(x, photo, preparation, size):
    """The preparation with its normalization, padding and cast, by name where a name fits."""
    casts = ("bfloat16", "float16")
    same = (c for c in casts if torch.equal(x.to(getattr(torch, c)).double(), x))
    cast = next(same, "none")
    preparation = preparation | {"cast": cast, "normalization": "none", "padding": "mean"}
    plain = apply(photo, preparation | {"cast": "none"}, size)
    _, inside = photo.base(
        preparation["geometry"], preparation["filter"], preparation["turn"], size
    )
    a, b = plain[:, inside], x[:, inside]
    centred = a - a.mean(1, keepdim=True)
    scale = (centred * b).sum(1) / (centred**2).sum(1).clamp(min=1e-12)
    shift = b.mean(1) - scale * a.mean(1)
    near = 1e-4 if cast == "none" else 2e-2
    affines = dict(named_affines(preparation["order"]))
    names = []
    for name, (s, t) in affines.items():
        off = float((t - shift).abs().max() / scale.abs().max())
        names += [name] * (max(float(((s - scale) / s).abs().max()), off) < near)
    preparation["normalization"] = names[0].split("@")[0] if names else "solved"
    if not names or "@" in names[0]:
        preparation["affine"] = affines[names[0]] if names else (scale, shift)
    if not bool(inside.all()):
        border = x[:, ~inside]
        if float((border - border[:, :1]).abs().max()) == 0:
            preparation |= name_border(border[:, 0], preparation, near)
    return preparation


def named_affines(order):
    """(name, (scale, shift)) of each normalization, also as applied before the order changed."""
    yield from normalizations().items()
    if order not in ("RGB", "gray"):
        places = ["RGB".index(c) for c in order]
        for name, (scale, shift) in normalizations().items():
            yield f"{name}@before", (scale[places], shift[places])


def name_border(border, preparation, near):
    """The padding slot for a border [3]; 0 after the normalization is the mean colour before."""
    scale, shift = preparation.get("affine") or normalizations()[preparation["normalization"]]
    for name, color in colors().items():
        values = torch.tensor(color, dtype=torch.float64) * scale + shift
        if float((values - border).abs().max()) < near * max(1.0, float(scale.abs().max())) / 10:
            return {"padding": name}
    usual = preparation["normalization"] == "imagenet" and "affine" not in preparation
    if float(border.abs().max()) < 1e-6 and not usual:
        return {"padding": "mean", "border": border}
    return {"padding": "solved", "border": border}


def simplest(preparation, x, photo, size):
    """The same with the reference's choice wherever that gives the same, as on a square photo."""
    exact = difference(x, apply(photo, preparation | {"cast": "none"}, size)) <= EXACT
    preparation = (
        preparation | {"cast": "none"} if exact else preparation
    )  # whole numbers are not rounded
    for key in ("turn", "geometry", "filter", "order", "padding"):
        trial = preparation | {key: reference()[key]}
        if key == "padding":
            trial.pop("border", None)
        gap = difference(x, apply(photo, trial, size))
        if gap <= max(difference(x, apply(photo, preparation, size)), allowed(x, trial) / 3):
            preparation = trial
    return preparation
