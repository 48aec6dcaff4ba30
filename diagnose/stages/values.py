"""What is done to the values of photos: normalization, padding, casts; rows of `inputs`."""

import torch

import data
from diagnose.stages.ways import cast, normalization, padding
from run.findings import DIFFERENT

# Normalization: act(scale [3], shift [3] of the page) -> those of values in 0..1.
NORMALIZED = normalization(
    "solved", "normalized", "inputs are normalized with mean {mean} and std {std}"
)
TIMES = 8  # that a photo may have been normalized, as at each access in place


def again(times, choice=None, name="normalized_again"):
    """The normalization that is done so many times; choice: what that is called."""
    choice = choice or f"{times} times"

    def act(scale, shift):
        made = scale, shift
        for _ in range(times - 1):
            made = scale * made[0], scale * made[1] + shift
        return made

    text = f"inputs are normalized {choice}"
    return normalization(choice, name, text, act, help="normalize once")


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
    again(2, "twice", "normalized_twice"),
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
