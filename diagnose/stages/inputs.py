"""How photos are prepared: what a preprocessing is called where it is not the reference's."""

from collections import Counter
from itertools import permutations

import torch

from diagnose import preprocessing
from diagnose.numerics import estimated
from run.findings import CAUSE, SKIPPED, UNEXPLAINED, Row

PART = ("count", "total")  # of the photos of a batch


def row(name, text):
    """A row of this stage; count is None where it holds for all photos of a batch."""
    return Row(f"inputs.{name}", CAUSE, f"{text}[ ({{count}} of {{total}} photos)]", varies=PART)


NOT_REPRODUCED = Row(
    "inputs.not_reproduced",
    UNEXPLAINED,
    "inputs that no preparation of a photo reproduces ({count} of {total})",
    varies=PART,
)
NO_PHOTO = Row("inputs.no_photo", SKIPPED, "features were given: no photo met a weight")
CHANNELS = row("channels", "the channels are {channels}, not RGB")
FILTER = row("filter", "the resampling filter is {filter}")
CAST = row("cast", "the input was rounded to {dtype}")
NORMALIZED = row("normalized", "normalised with mean {mean} and deviation {std}")
PADDED = row("padding", "the padding is {color} behind normalisation")
# {part of a preprocessing: {choice: row}}
ROWS = {
    "geometry": {
        "pad": row("padded", "photos are fitted by their longer side, rounded, and padded around"),
        "floor": row("side_cut_off", "the shorter side is cut off to a whole number, not rounded"),
        "corner": row(
            "corner", "the photo lies in the upper left corner, the padding right of and below it"
        ),
        "crop": row("crop", "the shorter side is fitted and the centre cropped"),
        "squash": row("squash", "both sides are stretched to the square, the aspect ratio is lost"),
    },
    "filter": dict.fromkeys(preprocessing.FILTERS, FILTER)
    | {
        "no antialias": row("no_antialias", "resized as a tensor, bilinear without antialiasing"),
        "antialias": row("tensor_resize", "resized as a tensor, bilinear with antialiasing"),
    },
    "turn": {
        "hflip": row("hflip", "photos are mirrored left to right"),
        "vflip": row("vflip", "photos are upside down (mirrored)"),
        "rot180": row("rot180", "photos are turned by 180 degrees"),
        "exif": row(
            "exif", "the EXIF rotation is applied; the reference leaves photos as they are stored"
        ),
    },
    "order": {"gray": row("gray", "photos are turned to gray")}
    | {"".join(p): CHANNELS for p in permutations("RGB")},
    "normalization": {
        "imagenet": row("normalized_imagenet", "normalised with the ImageNet mean and deviation"),
        "none": row("not_normalized", "values from 0 to 1, not normalised"),
        "half": row("normalized_half", "normalised with mean .5 and deviation .5"),
        "255": row("range_255", "values from 0 to 255, not normalised"),
        "twice": row("normalized_twice", "normalised twice"),
        "centered": row("centered", "the mean is subtracted, not divided by the deviation"),
        "minus one": row("minus_one", "divided by 255, then 1 subtracted"),
        "solved": NORMALIZED,
    },
    "padding": {
        "mean": row("padding_mean", "the padding is the ImageNet mean colour"),
        "black": row("padding_black", "the padding is black before the normalisation"),
        "gray": row("padding_gray", "the padding is gray, 128 of 255"),
        "white": row("padding_white", "the padding is white"),
        "train": row("padding_train", "the padding has the mean colour of the training photos"),
        "rounded": row(
            "padding_rounded", "the padding is the mean colour rounded to 124, 116, 104 of 255"
        ),
        "solved": PADDED,
    },
    "cast": dict.fromkeys(("float16", "bfloat16"), CAST),
}
# Where a value is estimated, and each photo has its own.
EACH = {
    PADDED: row("padding_of_each", "the padding has another colour in each photo"),
    NORMALIZED: row(
        "normalized_each",
        "each photo has its own scale and shift (normalised by itself, or jitter)",
    ),
}


def judge_inputs(sides, official):
    """(findings, [B] of (path of photo_1, path of photo_2)) of a batch.

    The path is None where the photo is not proved by its preparation: photos of a series are alike.
    """
    inputs = torch.cat([x.double() for x in sides.inputs])
    preparations, paths, worst = official.identify(inputs)
    paths = [
        path if preparation else None for path, preparation in zip(paths, preparations, strict=True)
    ]
    half = len(paths) // 2
    return name_inputs(preparations, worst), list(zip(paths[:half], paths[half:], strict=True))


def name_inputs(preparations, worst):
    """Findings on the preprocessing of each input of a batch; None where one is not reproduced."""
    lost = sum(preparation is None for preparation in preparations)
    if lost:
        return [NOT_REPRODUCED.found(count=lost, total=len(preparations))]
    counts = Counter(choice for preparation in preparations for choice in choices(preparation))
    for of_value, of_each in EACH.items():
        own = [choice for choice in counts if choice[0] == of_value]
        if len(own) > 2:
            counts[of_each, ()] = sum(counts.pop(choice) for choice in own)
    findings = []
    for (found, values), count in counts.items():
        part = count if count < len(preparations) else None
        finding = found.found(worst, **dict(values), count=part, total=len(preparations))
        findings.append(finding.with_alternatives() if found == NORMALIZED else finding)
    return findings


def choices(preparation):
    """(row, its values) of each part of a preprocessing that is not the reference's."""
    for part, usual in preprocessing.reference().items():
        choice = preparation[part].removesuffix(" late")
        if preparation[part] != usual:
            yield ROWS[part][choice], tuple(values_of(part, choice, preparation).items())


def values_of(part, choice, preparation):
    """The values of a choice; estimated ones in mean and std, as people write them."""
    if choice == "solved" and part == "padding":
        return {"color": tuple(map(estimated, preparation["border"]))}
    if choice == "solved":
        scale, shift = preparation["affine"]
        return {
            "mean": tuple(map(estimated, -shift / scale)),
            "std": tuple(map(estimated, 1 / scale)),
        }
    names = {"order": "channels", "filter": "filter", "cast": "dtype"}
    return {names[part]: choice} if part in names else {}
