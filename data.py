"""Pairs and labels in the official PhotoTriage layout, preprocessing, the order of an epoch.

A pairlist line reads `series photo_1 photo_2 preference rank_1 rank_2`. The preference is the
probability that photo_1 is preferred; the ranks are ranks within the series, 1 = best, and not
photo numbers. `label` is 0 where photo_1 is preferred (rank_1 < rank_2), 1 where photo_2 is.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from disk.errors import fail_on, stop
from disk.layout import find_split, missing_photos, photo_names, shared_series, stop_at
from disk.pairlist import read_lines
from disk.store import move_store, open_store, take_photos

PAIR = np.dtype(
    [
        *(("series", "i8"), ("photo_1", "i8"), ("photo_2", "i8"), ("preference", "f8")),
        *(("rank_1", "i8"), ("rank_2", "i8"), ("label", "i8")),
        ("line", "i8"),  # the line of the pair in its pairlist
    ]
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAD_COLORS = {
    "imagenet": IMAGENET_MEAN,
    "train": (0.460, 0.450, 0.430),  # mean of the training photos, as the paper pads
}
LONGEST_TO_SHORTEST = 50  # a longer strip would be blown up to gigabytes before it is cropped


@dataclass(frozen=True)
class Split:
    """The chosen pairs of one split."""

    name: str
    folder: Path
    pairs: np.ndarray  # [P] of PAIR, in the order of the pairlist
    files: list  # [N] photo file names
    rows: np.ndarray  # [P, 2] rows of photo_1 and photo_2 in files


@dataclass(frozen=True)
class DecodedSplit(Split):
    """The same with its photos."""

    photos: np.ndarray | torch.Tensor  # [N, 3, S, S] uint8
    boxes: np.ndarray | torch.Tensor  # [N, 4] left, top, right, bottom; CRC-32 of a store
    pad_color: tuple  # what fills the padding: three numbers in 0..1


# Pairs and labels


def read_pairlist(path, labelled=True):
    """The pairs of one pairlist ([P] of PAIR) and a list of problems, each with file and line.

    Six columns; three, and label -1, where labelled is False (`test_pairlist.txt`).
    Where there are problems the pairs are incomplete.
    """
    lines, problems = read_lines(path, 6 if labelled else 3)
    pairs = []
    for number, fields in lines:
        pair = tuple(map(int, fields[:3]))
        if labelled:
            rank_1, rank_2 = map(int, fields[4:])
            label = 0 if rank_1 < rank_2 else 1  # read_lines refuses equal ranks
            pairs.append((*pair, float(fields[3]), rank_1, rank_2, label, number))
        else:
            pairs.append((*pair, 0.5, 0, 0, -1, number))
    return np.array(pairs, dtype=PAIR), problems


def read_list(root, split):
    """One split's pairs, names [P, 2], photo folder, and problems with file and line."""
    path, folder = find_split(root, split)
    pairs, problems = read_pairlist(path, labelled=split != "test")
    names, present = photo_names(pairs, folder)
    return pairs, names, folder, problems + missing_photos(path, pairs, names, folder, present)


def read_dataset(root, splits):
    """{split: (pairs [P] of PAIR, names [P, 2], photo folder)}, every line and photo checked.

    Ends the program where a list or a photo is wrong, or a series is in two lists.
    """
    lists = {split: read_list(root, split) for split in splits}
    problems = [problem for *_, found in lists.values() for problem in found]
    problems += shared_series({split: pairs for split, (pairs, *_) in lists.items()})
    stop_at(problems)
    return {split: found[:3] for split, found in lists.items()}


def choose_pairs(pairs, min_agreement, share, seed):
    """Positions of the pairs to use, in the order of the list.

    Keeps the pairs where at least min_agreement of the people agree, max(p, 1 - p), then the
    given share of the series, drawn with the seed.
    """
    agreement = np.maximum(pairs["preference"], 1 - pairs["preference"])
    kept = np.flatnonzero((agreement >= min_agreement - 1e-9) | (pairs["label"] < 0))
    series = np.unique(pairs["series"][kept])
    count = max(1, round(share * len(series))) if len(series) else 0
    drawn = np.random.default_rng(seed).permutation(series)[:count]
    return kept[np.isin(pairs["series"][kept], drawn)]


def read_splits(args, splits):
    """These splits of the dataset args.data, checked and chosen; not yet decoded.

    args holds data, min_agreement, quick_experiment and seed. Ends the program where
    something is wrong.
    """
    with fail_on(__file__, args.data, OSError):
        dataset = read_dataset(args.data, splits)
    chosen = []
    for name, (pairs, names, folder) in dataset.items():
        kept = choose_pairs(pairs, args.min_agreement, args.quick_experiment, args.seed)
        if not len(kept):
            stop(__file__, f"{name}_pairlist.txt: no pair has agreement {args.min_agreement}")
        files, rows = np.unique(names[kept].astype(str), return_inverse=True)
        chosen.append(Split(name, folder, pairs[kept], files.tolist(), rows.reshape(-1, 2)))
    return chosen


def decode(split, args):
    """The DecodedSplit of a split, from the store in args.store, which is built if need be.

    args holds size (pixels), fit, pad_color and device as well. Ends the program at a photo that
    cannot be decoded.
    """
    paths = [split.folder / name for name in split.files]
    with fail_on(__file__, args.store, OSError):
        store = open_store(paths, args.size, args.fit, Path(args.store), decode_photo)
    photos, boxes = move_store(*store, torch.device(args.device))
    color = parse_color(args.pad_color)
    return DecodedSplit(**vars(split), photos=photos, boxes=boxes, pad_color=color)


# The order of an epoch


def epoch_order(count, seed, epoch):
    """The order of count pairs in an epoch (from 1 on): a pure function of seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def epoch_batches(count, batch_size, seed, epoch):
    """The positions of an epoch's pairs in batches, the last perhaps smaller, in epoch_order."""
    return np.split(epoch_order(count, seed, epoch), range(batch_size, count, batch_size))


def take_batch(split, positions, device, dtype=torch.float32):
    """photo_1 and photo_2, each [B, 3, S, S], and label [B] of the pairs at these positions.

    split: a DecodedSplit.
    """
    photo_1, photo_2 = (take_inputs(split, rows, device, dtype) for rows in split.rows[positions].T)
    label = torch.from_numpy(split.pairs["label"][positions])
    return photo_1, photo_2, label.to(device, non_blocking=True)


def take_inputs(split, rows, device, dtype=torch.float32):
    """Network input [B, 3, S, S] of the photos in these rows of the split."""
    photos, boxes = take_photos(split.photos, split.boxes, rows, device)
    return to_input(photos, boxes, split.pad_color, dtype)


# Preprocessing


def decode_photo(path, size, fit):
    """fit_photo of a file, converted to RGB by Pillow and left in its stored orientation.

    Raises what Pillow raises for a file that is not a picture, truncated or a decompression bomb,
    and ValueError for a strip too long to be cropped.
    """
    with Image.open(path) as photo:
        width, height = photo.size
        if fit == "crop" and max(width, height) > LONGEST_TO_SHORTEST * min(width, height):
            raise ValueError(f"{width} x {height} pixels cannot be cropped to a square")
        return fit_photo(photo if photo.mode == "RGB" else photo.convert("RGB"), size, fit)


def fit_photo(photo, size, fit):
    """An RGB photo as uint8 [3, size, size], contiguous, and its box: left, top, right, bottom.

    `pad`: longer side to size (bilinear), centered; outside the box the array is 0, which
    means the padding color. `crop`: shorter side to size, center crop, as torchvision's
    Resize and CenterCrop do; the box is the whole.
    """
    width, height = photo.size
    if fit == "pad":
        longer = max(width, height)
        width, height = (max(1, round(size * side / longer)) for side in (width, height))
        left, top = (size - width) // 2, (size - height) // 2
        photo = photo.resize((width, height), Image.Resampling.BILINEAR)
        array = np.zeros((3, size, size), np.uint8)
        array[:, top : top + height, left : left + width] = np.asarray(photo).transpose(2, 0, 1)
        return array, (left, top, left + width, top + height)
    shorter = min(width, height)
    width, height = (int(size * side / shorter) for side in (width, height))
    left, top = round((width - size) / 2), round((height - size) / 2)
    photo = photo.resize((width, height), Image.Resampling.BILINEAR)
    photo = photo.crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(photo).transpose(2, 0, 1)), (0, 0, size, size)


def to_input(photos, boxes, pad_color, dtype=torch.float32):
    """Network input [B, 3, S, S] from photos [B, 3, S, S] uint8 and boxes [B, 4], one device.

    Divides by 255, fills the padding with pad_color (three numbers in 0..1), subtracts the
    ImageNet mean and divides by its deviation, in the order of torchvision's ToTensor and
    Normalize: bit-equal to the one-photo path, and 0 in padding of the ImageNet color.
    """
    color, mean, deviation = (
        per_channel(values, dtype, photos.device)
        for values in (pad_color, IMAGENET_MEAN, IMAGENET_STD)
    )
    side = torch.arange(photos.shape[-1], device=photos.device)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    columns, rows = (side >= left) & (side < right), (side >= top) & (side < bottom)
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    x = torch.where(inside, photos.to(dtype).div_(255), color)
    return x.sub_(mean).div_(deviation)


@lru_cache
def per_channel(values, dtype, device):
    """Three numbers as a tensor [3, 1, 1]; kept, since the copy would make the host wait."""
    return torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)


def parse_color(text):
    """Three numbers in 0..1 from `imagenet`, `train` or `R,G,B` in 0..255; None if neither."""
    if text in PAD_COLORS:
        return PAD_COLORS[text]
    parts = text.split(",")
    if len(parts) != 3 or not all(re.fullmatch("[0-9]{1,3}", p) and int(p) < 256 for p in parts):
        return None
    return tuple(int(part) / 255 for part in parts)
