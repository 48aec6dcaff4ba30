"""How photos are prepared: the ways in which people do each part of it, and what they are called.

The reference's own way is read off the page, by diagnose.preprocessing, which tries these rows.
"""

from itertools import permutations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from diagnose.resizing import resize_area, resize_linear
from diagnose.stages.values import CASTS, NORMALIZATIONS, PADDINGS
from diagnose.stages.ways import channels, filter_, geometry, turn
from run.findings import DIFFERENT

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


def crop(cut):
    """The geometry that crops the center of a photo whose sides are made whole by cut."""

    def act(width, height, size):
        sides = tuple(cut(size * side / min(width, height)) for side in (width, height))
        return sides, tuple(-round((side - size) / 2) for side in sides)

    return act


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
    *(
        geometry(
            choice,
            "crop",
            "photos are resized by the shorter side and center-cropped",
            crop(cut),
            help="resize by the longer side and pad",
            flag="--fit crop",
        )
        for choice, cut in (("crop", int), ("crop rounded", round))
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


def by_thumbnail(resample):
    """The filter of Pillow's thumbnail(), from the file; of a photo that was turned, without."""

    def act(photo, sides):
        path = getattr(photo, "filename", "")  # as an opened file has it
        if not path:
            return by_pillow(resample)(photo, sides)
        with Image.open(path) as file:
            file.thumbnail((max(sides), max(sides)), resample)
            made = np.array(file.convert("RGB"))
        return torch.from_numpy(made).permute(2, 0, 1).double() / 255

    return act


def by_opencv(resize):
    """A filter that OpenCV has for bytes."""

    def act(photo, sides):
        return torch.from_numpy(resize(np.asarray(photo), *sides)).permute(2, 0, 1).double() / 255

    return act


def as_bytes(photo, sides):
    """The bilinear filter of torch with antialiasing, for tensors of bytes."""
    whole = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    return F.interpolate(whole, sides[::-1], mode="bilinear", antialias=True)[0].double() / 255


def as_tensor(antialias, dtype):
    """The bilinear filter of torch, whose weights are rounded to a precision."""

    def act(photo, sides):
        whole = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].to(dtype) / 255
        return F.interpolate(whole, sides[::-1], mode="bilinear", antialias=antialias)[0].double()

    return act


FILTERS = (
    *(
        filter_(
            kind.name.lower(),
            "filter",
            "the resampling filter is {filter} (reference: {reference})",
            by_pillow(kind),
            "filter",
            help="resize with Pillow's {reference} filter",
        )
        for kind in Image.Resampling
    ),
    *(
        filter_(
            f"thumbnail {kind.name.lower()}",
            "thumbnail",
            "photos are resized by Image.thumbnail(), which decodes a smaller JPEG picture first, "
            f"with the {kind.name.lower()} filter",
            by_thumbnail(kind),
            help="resize with Pillow's resize() and its bilinear filter",
        )
        for kind in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    ),
    filter_(
        "opencv linear",
        "opencv_linear",
        "photos are resized with OpenCV's INTER_LINEAR, without antialiasing",
        by_opencv(resize_linear),
        help="resize with Pillow's bilinear filter",
    ),
    filter_(
        "opencv area",
        "opencv_area",
        "photos are resized with OpenCV's INTER_AREA",
        by_opencv(resize_area),
        help="resize with Pillow's bilinear filter",
        matters=DIFFERENT,
    ),
    filter_(
        "bytes",
        "byte_tensor_resize",
        "photos are resized as tensors of bytes, bilinear with antialiasing",
        as_bytes,
        help="resize with Pillow",
        matters=DIFFERENT,
    ),
    *(
        filter_(
            f"no antialias {dtype}",
            "no_antialias",
            "photos are resized as tensors, bilinear without antialiasing",
            as_tensor(False, dtype),
            help="resize with Pillow, or with antialias=True",
        )
        for dtype in (torch.float64, torch.float32)
    ),
    *(
        filter_(
            f"antialias {dtype}",
            "tensor_resize",
            "photos are resized as tensors, bilinear with antialiasing",
            as_tensor(True, dtype),
            help="resize with Pillow",
            matters=DIFFERENT,
        )
        for dtype in (torch.float64, torch.float32)
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

TABLES = (GEOMETRIES, FILTERS, TURNS, ORDERS, NORMALIZATIONS, PADDINGS, CASTS)
WAYS = {rows[0].part: {row.choice: row for row in rows} for rows in TABLES}
