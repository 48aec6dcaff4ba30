"""The official PhotoTriage layout: pairs and labels, preprocessing, photo store, epoch order.

A pairlist line reads `series photo_1 photo_2 preference rank_1 rank_2`. The preference is the
probability that photo_1 is preferred; the ranks are ranks within the series, 1 = best, and not
photo numbers. `label` is 0 where photo_1 is preferred (rank_1 < rank_2), 1 where photo_2 is.
"""

import argparse
import hashlib
import io
import json
import mmap
import os
import re
import select
import shutil
import sys
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import PIL
import torch
from PIL import Image

PAIR = np.dtype(
    [
        *(("series", "i8"), ("photo_1", "i8"), ("photo_2", "i8"), ("preference", "f8")),
        *(("rank_1", "i8"), ("rank_2", "i8"), ("label", "i8")),
        ("line", "i8"),  # where the pair stands in its pairlist
    ]
)
LARGEST_SERIES, LARGEST_PHOTO = 999_999, 99  # what the names %06d-%02d.JPG can hold

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAD_COLORS = {
    "imagenet": IMAGENET_MEAN,
    "train": (0.460, 0.450, 0.430),  # mean of the training photos, as the paper pads
}
LONGEST_TO_SHORTEST = 50  # a longer strip would be blown up to gigabytes before it is cropped
STORE_VERSION = 1
FLUSH_EVERY = 128  # photos of a store
DAY = 86_400  # seconds


class Split(NamedTuple):
    """One split, ready to be read in batches."""

    name: str
    folder: Path
    pairs: np.ndarray  # [P] of PAIR, in the order of the pairlist
    files: list  # [N] photo file names, in the order of the store
    rows: np.ndarray  # [P, 2] rows of photo_1 and photo_2 in the store
    photos: np.ndarray | torch.Tensor  # [N, 3, S, S] uint8
    boxes: np.ndarray | torch.Tensor  # [N, 4] left, top, right, bottom within the padding, pixels


def stop(source, message):
    """Ends the program with exit code 2 and `source: message` as the last line on stderr."""
    say(f"{Path(source).name}: {message}", sys.stderr)
    sys.exit(2)


def say(text, stream, end="\n"):
    """Prints where somebody listens: a closed pipe or terminal is no reason to end a run."""
    if stream is None:
        return
    if stream in (sys.__stdout__, sys.__stderr__) and hasattr(select, "poll"):  # not on Windows
        poll = select.poll()
        poll.register(stream, 0)  # errors and hang-ups are always reported
        if poll.poll(0):
            return
    print(text, file=stream, end=end, flush=True)


def command_line(source, doc):
    """An argument parser whose errors are one line; flags cannot be abbreviated."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = lambda message: stop(source, message)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a cp1252 console cannot print every path
        sys.stdout.reconfigure(errors="backslashreplace")
    return parser


class stop_on:  # noqa: N801, reads as a verb where it is used
    """Context in which an error of the given kinds ends the program with one line.

    For the errors that cannot be checked beforehand: a full disk, a damaged file. Whatever the
    error, the file named leftover is removed. Without detail the library's words are left out.
    """

    def __init__(self, source, culprit, *kinds, leftover=None, detail=True):
        self.source, self.culprit, self.kinds = source, culprit, kinds
        self.leftover, self.detail = leftover, detail

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is not None and self.leftover is not None:
            self.leftover.unlink(missing_ok=True)
        if isinstance(error, self.kinds):
            detail = f": {one_line(error)}" if self.detail else ""
            stop(self.source, f"{self.culprit}{detail}")


def one_line(error):
    """The first line of an exception, with its kind."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def replace_file(path, write, part=None):
    """Calls write(file) on a file beside path, flushes it to disk and renames it over path.

    A kill at any moment leaves the old file or the new one, whole; a full disk leaves the old
    one and ends the program with one line.
    """
    part = Path(part or f"{path}.part")
    with stop_on(__file__, path, OSError, RuntimeError, leftover=part):
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def write_text(path, text):
    """Replaces a UTF-8 text file, whole or not at all."""
    replace_file(path, lambda file: file.write(text.encode(errors="backslashreplace")))


# Pairs and labels


def read_text(path):
    """The lines of an ASCII text file and, where it cannot be one, the problem (else None)."""
    if not path.is_file():
        return [], f"{path}: no such file"
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        return [], f"{path}: the file is empty"
    if b"\0" in raw or raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return [], f"{path}: not a text file in UTF-8 (binary or UTF-16)"
    if not raw.isascii():
        line = next(n for n, text in enumerate(raw.split(b"\n"), 1) if not text.isascii())
        return [], f"{path}:{line}: a pairlist holds numbers only"
    return raw.decode("ascii").rstrip().split("\n"), None


def line_problem(fields, columns):
    """What is wrong with the fields of one pairlist line, or None."""
    if len(fields) != columns:
        return f"{len(fields)} columns instead of {columns}"
    numbers = fields[:3] + fields[4:]
    for text in numbers:
        if not re.fullmatch(r"[0-9]{1,9}", text):
            return f"{text!r} is not a whole number from 1 on"
    series, photo_1, photo_2, *ranks = map(int, numbers)
    if not 1 <= series <= LARGEST_SERIES:
        return f"series {series} is not in 1..{LARGEST_SERIES}"
    for kind, number in [("photo", photo_1), ("photo", photo_2), *(("rank", r) for r in ranks)]:
        if not 1 <= number <= LARGEST_PHOTO:
            return f"{kind} {number} is not in 1..{LARGEST_PHOTO}"
    if photo_1 == photo_2:
        return f"photo {photo_1} stands against itself"
    return preference_problem(fields[3], *ranks) if ranks else None


def preference_problem(text, rank_1, rank_2):
    """What is wrong with a preference and the two ranks beside it, or None."""
    is_number = re.fullmatch(r"[0-9]*\.?[0-9]+(e-?[0-9]+)?|[0-9]+\.", text)
    if not is_number or not 0 <= float(text) <= 1:
        return f"preference {text!r} is not a number from 0 to 1"
    if rank_1 == rank_2:
        return f"both photos have rank {rank_1}"
    preference = float(text)
    if preference != 0.5 and (rank_1 < rank_2) != (preference > 0.5):
        return f"preference {text} and ranks {rank_1}, {rank_2} (1 = best) contradict each other"
    return None


def read_pairlist(path, labelled=True):
    """The pairs of one pairlist ([P] of PAIR) and a list of problems, each with file and line.

    Six columns; three, and label -1, where labelled is False (`test_pairlist.txt`).
    Where there are problems the pairs are incomplete.
    """
    lines, problem = read_text(path)
    problems, seen, ranks, rows = [problem] if problem else [], {}, {}, []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        problem = line_problem(fields, 6 if labelled else 3)
        if problem is None:
            series, photo_1, photo_2 = map(int, fields[:3])
            first = seen.setdefault((series, *sorted((photo_1, photo_2))), number)
            if first != number:
                problem = f"photos {photo_1}, {photo_2} of series {series} stand in line {first}"
        if problem:
            problems.append(f"{path.name}:{number}: {problem}")
            continue
        rest = (0.5, 0, 0, -1)
        if labelled:
            rank_1, rank_2 = int(fields[4]), int(fields[5])
            rest = (float(fields[3]), rank_1, rank_2, int(rank_2 < rank_1))
            for photo, rank in ((photo_1, rank_1), (photo_2, rank_2)):
                before = ranks.setdefault((series, photo), rank)
                if before != rank:
                    problem = f"photo {photo} of series {series} has rank {rank}, before {before}"
                    problems.append(f"{path.name}:{number}: {problem}")
        rows.append((series, photo_1, photo_2, *rest, number))
    return np.array(rows, dtype=PAIR), problems


def find_split(root, split, must=True):
    """The pairlist and the photo folder of `train`, `val` or `test` under root.

    root is the folder above train_val/ and test/, or train_val/ itself; unzipping often nests
    one level more. Where there is no such list the program ends, or, without must, it is None.
    """
    root = Path(root)
    folder = "test" if split == "test" else "train_val"
    places = [root / folder, root / folder / folder, root, root.parent / folder]
    for place in places if split == "test" else places[:3]:
        if (place / f"{split}_pairlist.txt").is_file():
            return place / f"{split}_pairlist.txt", place / f"{folder}_imgs"
    if not must:
        return None
    stop(__file__, f"{root}: no {split}_pairlist.txt in it, in {folder}/ or in {folder}/{folder}/")


def photo_name(series, photo, present):
    """The file name of a photo: %06d-%02d.JPG, or .jpg where only that is present."""
    name = f"{series:06d}-{photo:02d}.JPG"
    lower = f"{series:06d}-{photo:02d}.jpg"
    return lower if name not in present and lower in present else name


def photo_names(pairs, folder):
    """[P, 2] file names of photo_1 and photo_2, and the set of names present in folder."""
    entries = os.scandir(folder) if folder.is_dir() else ()
    present = {entry.name for entry in entries if entry.is_file()}  # not a dangling link
    names = [
        [photo_name(pair["series"], pair[side], present) for side in ("photo_1", "photo_2")]
        for pair in pairs
    ]
    return np.array(names, dtype=object).reshape(-1, 2), present


def read_split(root, split):
    """One split's pairs, names [P, 2], photo folder, and problems with file and line."""
    path, folder = find_split(root, split)
    pairs, problems = read_pairlist(path, labelled=split != "test")
    names, present = photo_names(pairs, folder)
    for pair, pair_names in zip(pairs, names, strict=True):
        for side, name in zip(("photo_1", "photo_2"), pair_names, strict=True):
            if name not in present:
                present.add(name)  # told once
                where = f"{path.name}:{pair['line']}: photo {pair[side]} of series"
                problems.append(f"{where} {pair['series']} has no file {folder.name}/{name}")
    return pairs, names, folder, problems


def read_dataset(root, splits):
    """{split: (pairs [P] of PAIR, names [P, 2], photo folder)}, every line and photo checked.

    Ends the program, before anything is decoded, where a list or a photo is wrong: the first
    ten problems are printed, each with file and line, and all are counted.
    """
    dataset, problems, owner = {}, [], {}
    for split in splits:
        pairs, names, folder, found = read_split(root, split)
        problems += found
        for pair in pairs:
            other = owner.setdefault(int(pair["series"]), split)
            if other != split:
                where = f"{split}_pairlist.txt:{pair['line']}: series {pair['series']}"
                problems.append(f"{where} is also in {other}_pairlist.txt")
        dataset[split] = pairs, names, folder
    if len(problems) == 1:
        stop(__file__, problems[0])
    if problems:
        shown = "".join(f"\ndata.py: {problem}" for problem in problems[:10])
        stop(__file__, f"{len(problems)} problems, the first {min(10, len(problems))}:{shown}")
    return dataset


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


def load(args, splits):
    """{split: Split} of the dataset args.data, checked, chosen and decoded into the store.

    args holds data, store (folders), size (pixels), fit, min_agreement, quick_experiment and
    seed. Ends the program with one line where something is wrong.
    """
    with stop_on(__file__, args.data, OSError):
        dataset, loaded = read_dataset(args.data, splits), {}
    for split, (pairs, names, folder) in dataset.items():
        kept = choose_pairs(pairs, args.min_agreement, args.quick_experiment, args.seed)
        if not len(kept):
            stop(__file__, f"{split}_pairlist.txt: no pair has agreement {args.min_agreement}")
        files, rows = np.unique(names[kept].astype(str), return_inverse=True)
        paths = [folder / name for name in files]
        with stop_on(__file__, args.store, OSError):
            store = open_store(paths, args.size, args.fit, Path(args.store))
        rows = rows.reshape(-1, 2)
        loaded[split] = Split(split, folder, pairs[kept], files.tolist(), rows, *store)
    return loaded


def constant_accuracy(labels):
    """Accuracy of the better constant predictor on these labels (0 or 1)."""
    ones = float(np.mean(labels))
    return max(ones, 1 - ones)


def prior_loss(labels):
    """Natural-log cross-entropy of predicting the share of ones for every pair."""
    ones = float(np.mean(labels))
    return sum(-p * float(np.log(p)) for p in (ones, 1 - ones) if 0 < p < 1) or 0.0


def epoch_order(count, seed, epoch):
    """The order of count pairs in an epoch (from 1 on): a pure function of seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def epoch_batches(count, batch_size, seed, epoch):
    """The positions of an epoch's pairs in batches, the last perhaps smaller, in epoch_order."""
    return np.split(epoch_order(count, seed, epoch), range(batch_size, count, batch_size))


# Preprocessing


def fit_photo(photo, size, fit):
    """An RGB photo as uint8 [3, size, size], contiguous, and its box: left, top, right, bottom.

    `pad`: longer side to size (bilinear), centred; outside the box the array is 0 and stands
    for the padding colour. `crop`: shorter side to size, centre crop, as torchvision's
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


def decode_photo(path, size, fit):
    """fit_photo of a file, converted to RGB by Pillow and left in its stored orientation.

    Raises what Pillow raises for a file that is no picture, truncated or a decompression bomb,
    and ValueError for a strip too long to be cropped.
    """
    with Image.open(path) as photo:
        width, height = photo.size
        if fit == "crop" and max(width, height) > LONGEST_TO_SHORTEST * min(width, height):
            raise ValueError(f"{width} x {height} pixels cannot be cropped to a square")
        return fit_photo(photo if photo.mode == "RGB" else photo.convert("RGB"), size, fit)


def to_input(photos, boxes, pad_color, dtype=torch.float32):
    """Network input [B, 3, S, S] from photos [B, 3, S, S] uint8 and boxes [B, 4], one device.

    Divides by 255, fills the padding with pad_color (three numbers in 0..1), subtracts the
    ImageNet mean and divides by its deviation, in the order of torchvision's ToTensor and
    Normalize: bit-equal to the one-photo path, and 0 in padding of the ImageNet colour.
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


# The photo store


def store_key(paths, size, fit):
    """What a store is known by: folder, names, bytes, modification times, size, fit, Pillow."""
    stats = [path.stat() for path in paths]
    files = [(p.name, s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats, strict=True)]
    folder = str(paths[0].parent.resolve())
    known = json.dumps([STORE_VERSION, PIL.__version__, size, fit, folder, files])
    return hashlib.sha256(known.encode()).hexdigest()[:24]


def open_store(paths, size, fit, folder):
    """Photos [N, 3, size, size] and boxes [N, 4], memory-mapped; decodes them where need be.

    One file in folder: N x 3 x size x size bytes of photos, then N x 4 uint16 of boxes. It is
    named after all it depends on and renamed into place when whole, so a stale or half-written
    store is never used.
    """
    count, photo_bytes = len(paths), 3 * size * size
    path = folder / f"{store_key(paths, size, fit)}.store"
    if not path.is_file() or path.stat().st_size != count * (photo_bytes + 8):
        build_store(path, paths, size, fit)
    photos = np.memmap(path, np.uint8, "r", shape=(count, 3, size, size))
    boxes = np.memmap(path, np.uint16, "r", count * photo_bytes, shape=(count, 4))
    return photos, boxes.astype(np.int64)


def build_store(path, paths, size, fit):
    """Decodes the photos into the store at path, on every core, with progress on stderr.

    Ends the program with one line that names the photo, or the disk, that failed.
    """
    with stop_on(__file__, path.parent, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob("*.store.*.part"):
        if time.time() - part.stat().st_mtime > DAY:  # left by a build that was killed
            part.unlink(missing_ok=True)
    check_space(path.parent, len(paths) * (3 * size * size + 8), "the photo store")
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")  # two builds do not meet
    replace_file(path, lambda file: write_photos(file, paths, size, fit), part)


def write_photos(file, paths, size, fit):
    """Decodes photos on every core, a few ahead, and writes them in order, then their boxes.

    Threads suffice: Pillow decodes and resizes outside Python's interpreter lock. One more than
    there are cores works while another waits for that lock, and the disk is kept busy meanwhile.
    """
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    boxes, waiting, workers = [], deque(), 1 + (os.cpu_count() or 1)
    with ExitStack() as stack:
        pool, flusher = ThreadPoolExecutor(workers), ThreadPoolExecutor(1)
        stack.callback(flusher.shutdown)
        stack.callback(pool.shutdown, cancel_futures=True)
        flushed = flusher.submit(file.flush)  # the first to wait for
        for ahead in range(len(paths) + 8 * workers):
            if ahead < len(paths):
                waiting.append((paths[ahead], pool.submit(decode_photo, paths[ahead], size, fit)))
            if ahead < 8 * workers or not waiting:
                continue
            path, future = waiting.popleft()
            if future.exception() is not None:
                stop(__file__, f"{path}: {one_line(future.exception())}")
            array, box = future.result()
            file.write(array)
            boxes.append(box)
            if len(boxes) % FLUSH_EVERY == 0:
                flushed.result()  # raises what the disk refused
                flushed = flusher.submit(os.fsync, file.fileno())
            last = len(boxes) == len(paths)
            show_progress(f"decoding photo {len(boxes)}/{len(paths)}", last)
        flushed.result()
    file.write(np.array(boxes, np.uint16).tobytes())


def check_space(folder, needed, purpose):
    """Ends the program where the disk of folder has less than needed bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        stop(__file__, f"{folder}: {purpose} needs {needed} bytes, the disk has {free} free")


def show_progress(text, last=False):
    """Redraws one line on stderr where that is a terminal; clears it with the last one."""
    if sys.stderr is not None and sys.stderr.isatty():
        say(f"\r{text:<78}", sys.stderr, end="\r" + " " * 78 + "\r" if last else "")


def take_photos(split, rows, device):
    """Photos [B, 3, S, S] uint8 and boxes [B, 4] of these rows of the store, on device."""
    if isinstance(split.photos, torch.Tensor):
        rows = torch.as_tensor(rows).to(split.photos.device, non_blocking=True)
        return split.photos[rows], split.boxes[rows]
    photos, boxes = torch.from_numpy(split.photos[rows]), torch.from_numpy(split.boxes[rows])
    mapping = split.photos.base
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapping.madvise(mmap.MADV_DONTNEED)  # else an epoch leaves the whole store resident
    return photos.to(device), boxes.to(device)


def take_pairs(split, pairs, device, pad_color, dtype=torch.float32):
    """Network input of photo_1 and of photo_2, each [B, 3, S, S], of these pairs of the split."""
    sides = (take_photos(split, split.rows[pairs, side], device) for side in (0, 1))
    return [to_input(*side, pad_color, dtype) for side in sides]


def move_store(split, device):
    """The split with its store on the GPU, where it takes at most half of the free memory."""
    if device.type != "cuda" or split.photos.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return split
    photos = torch.empty(split.photos.shape, dtype=torch.uint8, device=device)
    for rows in torch.arange(len(photos)).split(256):
        photos[rows[0] : rows[-1] + 1] = take_photos(split, rows.numpy(), device)[0]
    return split._replace(photos=photos, boxes=torch.from_numpy(split.boxes).to(device))
