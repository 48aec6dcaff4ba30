"""How photos are prepared: the ways in which people do each part of it, and what they are called.

The reference's own way is read off the page, by diagnose.preprocessing, which tries these rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import permutations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

import data
from run.findings import CAUSE, DIFFERENT, Row

COUNT = ("count", "total")  # of the photos of a batch
# {part: what is done to a photo in the lines that do it, see record.PHOTO_KINDS}
LINES = {"geometry": ("resize", "placement"), "filter": ("resize",), "turn": ("turn",)}
LINES |= {"channels": ("channels",), "normalization": ("arithmetic",)}
LINES |= {"padding": ("placement",), "cast": ("cast",)}
COUNTED = "[ ({count} of {total} photos)]"  # left out where it holds for all photos of a batch


@dataclass(frozen=True)
class Way(Row):
    """A way to do one part of the preprocessing.

    part: which; choice: the name among the ways of that part; act: what it does, see the tables of
    rows; value: the name under which the choice is a value of the finding, or None.
    """

    part: str = ""
    choice: str = ""
    act: Callable = None
    value: str = None


def way(part, choice, name, text, act=None, value=None, **options):
    """A Way of this stage."""
    options = {"at": (*LINES[part], "dataset")} | options | {"varies": COUNT}
    own = {"part": part, "choice": choice, "act": act, "value": value}
    return Way(f"inputs.{name}", CAUSE, text + COUNTED, **options, **own)


geometry, filter_, channels, cast = (
    partial(way, part) for part in ("geometry", "filter", "channels", "cast")
)
turn = partial(way, "turn", help="use photos as they are stored")
normalization = partial(way, "normalization", help="normalize with the ImageNet mean and std")
padding = partial(way, "padding", help="pad after normalization with 0, which is the ImageNet mean")


# Geometry: act(width, height, size) -> the sides to which a photo is resized, and where its upper
# left corner lies in the input, both (across, down).


def around(sides, size):
    """Where a photo with these sides lies in the middle."""
    return tuple((size - side) // 2 for side in sides)


def by_longer(cut):
    """The sides of a photo whose longer one becomes the size, made whole by cut."""
    return lambda width, height, size: tuple(
        cut(size * side / max(width, height)) for side in (width, height)
    )


def pad(cut):
    """The geometry that pads around."""

    def act(width, height, size):
        sides = by_longer(cut)(width, height, size)
        return sides, around(sides, size)

    return act


def crop(width, height, size):
    """The geometry that crops the center."""
    sides = tuple(int(size * side / min(width, height)) for side in (width, height))
    return sides, tuple(-round((side - size) / 2) for side in sides)


GEOMETRIES = (
    geometry(
        "pad",
        "padded",
        "photos are resized by the longer side, with rounded sides, and padded around",
        pad(round),
    ),
    geometry(
        "floor",
        "side_cut_off",
        "the shorter side is truncated to an integer (reference: rounded)",
        pad(int),
        help="round the shorter side",
        matters=DIFFERENT,
    ),
    geometry(
        "corner",
        "corner",
        "photos are placed in the upper left corner and padded at the right and bottom",
        lambda width, height, size: (by_longer(round)(width, height, size), (0, 0)),
        help="place the photo in the middle, at (size - side) // 2",
        at=("placement", "dataset"),
    ),
    geometry(
        "crop",
        "crop",
        "photos are resized by the shorter side and center-cropped",
        crop,
        help="resize by the longer side and pad",
        flag="--fit crop",
    ),
    geometry(
        "squash",
        "squash",
        "photos are stretched to a square (reference: the aspect ratio is kept)",
        lambda width, height, size: ((size, size), (0, 0)),
        help="keep the aspect ratio: resize by the longer side and pad",
    ),
)


# Filters: act(photo, sides) -> the photo resized to (width, height), [3, height, width] in 0..1.


def by_pillow(resample):
    """The filter that Pillow has."""

    def act(photo, sides):
        resized = np.asarray(photo.resize(sides, resample))
        return torch.from_numpy(resized.copy()).permute(2, 0, 1).double() / 255

    return act


def as_tensor(antialias):
    """The bilinear filter of torch."""

    def act(photo, sides):
        whole = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].double() / 255
        return F.interpolate(whole, sides[::-1], mode="bilinear", antialias=antialias)[0]

    return act


FILTERS = (
    *(
        filter_(
            kind.name.lower(),
            "filter",
            "the resampling filter is {filter} (reference: {reference})",
            by_pillow(kind),
            "filter",
        )
        for kind in Image.Resampling
    ),
    filter_(
        "no antialias",
        "no_antialias",
        "photos are resized as tensors, bilinear without antialiasing",
        as_tensor(False),
        "filter",
        help="resize with Pillow, or with antialias=True",
    ),
    filter_(
        "antialias",
        "tensor_resize",
        "photos are resized as tensors, bilinear with antialiasing",
        as_tensor(True),
        "filter",
        help="resize with Pillow",
        matters=DIFFERENT,
    ),
)


# Turns: act(array [..., height, width]) -> the same, turned; None: by the photo's EXIF.


def flip(*dims):
    """The turn that flips these dimensions."""
    return lambda pixels: pixels.flip(dims)


TURNS = (
    turn("none", "stored", "photos are used as they are stored", flip()),
    turn("hflip", "hflip", "photos are mirrored left to right", flip(-1)),
    turn("vflip", "vflip", "photos are flipped upside down", flip(-2)),
    turn("rot180", "rot180", "photos are rotated by 180 degrees", flip(-2, -1)),
    turn("exif", "exif", "the EXIF orientation is applied (reference: ignored)"),
)

# Channels: act(pixels [3, ...]) -> the same in another order; gray is made before the resize.


def reorder(order):
    """The order of the channels with these names."""
    places = ["RGB".index(name) for name in order]
    return lambda pixels: pixels[places]


ORDERS = (
    *(
        channels(
            "".join(order),
            "channels",
            "channels are in the order {channels} (reference: {reference})",
            reorder(order),
            "channels",
            help="feed RGB: no [..., ::-1], and cv2.cvtColor(photo, cv2.COLOR_BGR2RGB) with OpenCV",
        )
        for order in permutations("RGB")
    ),
    channels(
        "gray",
        "gray",
        "photos are converted to grayscale",
        lambda pixels: pixels,
        "channels",
        help='keep the three channels: convert("RGB")',
    ),
)

# Normalization: act(scale [3], shift [3] of the page) -> those of values in 0..1.
NORMALIZED = normalization(
    "solved", "normalized", "inputs are normalized with mean {mean} and std {std}"
)
TIMES = 8  # that a photo may have been normalized, as at each access in place


def again(times):
    """The normalization that is done so many times."""

    def act(scale, shift):
        made = scale, shift
        for _ in range(times - 1):
            made = scale * made[0], scale * made[1] + shift
        return made

    return normalization(
        f"{times} times",
        "normalized_again",
        f"inputs are normalized {times} times",
        act,
        help="normalize once",
    )


NORMALIZATIONS = (
    normalization(
        "page",
        "normalized_imagenet",
        "inputs are normalized with the ImageNet mean and std",
        lambda scale, shift: (scale, shift),
    ),
    normalization(
        "none",
        "not_normalized",
        "inputs are in 0..1 and not normalized",
        lambda scale, shift: (torch.ones_like(scale), torch.zeros_like(shift)),
    ),
    normalization(
        "half",
        "normalized_half",
        "inputs are normalized with mean 0.5 and std 0.5 (reference: ImageNet)",
        lambda scale, shift: (torch.full_like(scale, 2), torch.full_like(shift, -1)),
    ),
    normalization(
        "255",
        "range_255",
        "inputs are in 0..255 and not normalized",
        lambda scale, shift: (torch.full_like(scale, 255), torch.zeros_like(shift)),
        help="divide by 255, then normalize with the ImageNet mean and std",
    ),
    normalization(
        "twice",
        "normalized_twice",
        "inputs are normalized twice",
        lambda scale, shift: (scale**2, scale * shift + shift),
        help="normalize once",
    ),
    *map(again, range(3, TIMES + 1)),
    normalization(
        "255 normalized",
        "range_255_normalized",
        "inputs are in 0..255 when they are normalized with the ImageNet mean and std (reference: "
        "0..1)",
        lambda scale, shift: (255 * scale, shift),
        help="divide by 255 before the normalization",
    ),
    normalization(
        "centered",
        "centered",
        "the mean is subtracted from inputs, which are not divided by the std",
        lambda scale, shift: (torch.ones_like(scale), shift / scale),
        help="divide by the std after the mean is subtracted",
    ),
    normalization(
        "minus one",
        "minus_one",
        "inputs are divided by 255 and 1 is subtracted",
        lambda scale, shift: (torch.ones_like(scale), torch.full_like(shift, -1)),
    ),
    NORMALIZED,
)

# Padding: act() -> its color, red, green and blue in 0..1.
PADDED = padding("solved", "padding", "the padding is {color} after normalization")
PADDINGS = (
    padding(
        "mean",
        "padding_mean",
        "the padding is the ImageNet mean color",
        lambda: data.parse_color("imagenet"),
    ),
    padding(
        "black",
        "padding_black",
        "the padding is black before normalization",
        lambda: (0, 0, 0),
        flag="--pad-color 0,0,0",
    ),
    padding(
        "gray",
        "padding_gray",
        "the padding is gray (128 of 255)",
        lambda: (128 / 255,) * 3,
        flag="--pad-color 128,128,128",
    ),
    padding(
        "white",
        "padding_white",
        "the padding is white",
        lambda: (1, 1, 1),
        flag="--pad-color 255,255,255",
    ),
    padding(
        "train",
        "padding_train",
        "the padding is the mean color of the training photos",
        lambda: data.parse_color("train"),
        flag="--pad-color train",
    ),
    padding(
        "rounded",
        "padding_rounded",
        "the padding is the ImageNet mean color rounded to 124, 116, 104 of 255",
        lambda: (124 / 255, 116 / 255, 104 / 255),
        flag="--pad-color 124,116,104",
        matters=DIFFERENT,
    ),
    PADDED,
)

# Casts: act(input) -> the same, as rounded.
CASTS = (
    cast("none", "not_cast", "inputs are not rounded", lambda x: x),
    *(
        cast(
            str(dtype)[6:],
            "cast",
            "inputs are rounded to {dtype}",
            lambda x, dtype=dtype: x.to(dtype).double(),
            "dtype",
        )
        for dtype in (torch.bfloat16, torch.float16)
    ),
)

TABLES = (GEOMETRIES, FILTERS, TURNS, ORDERS, NORMALIZATIONS, PADDINGS, CASTS)
WAYS = {rows[0].part: {row.choice: row for row in rows} for rows in TABLES}
