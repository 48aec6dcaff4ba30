"""The photo store: every photo decoded once, into one file that is mapped into memory."""

import hashlib
import json
import mmap
import os
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import uuid4

import numpy as np
import PIL
import torch
from PIL import Image

from disk.errors import one_line, show_progress, stop, stop_on
from disk.files import check_space, replace_file

STORE_VERSION = 1
FLUSH_EVERY = 128  # photos
DAY = 86_400  # seconds


def store_key(paths, size, fit):
    """What a store is known by: folder, names, bytes, modification times, size, fit, Pillow."""
    stats = [path.stat() for path in paths]
    files = [(p.name, s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats, strict=True)]
    folder = str(paths[0].parent.resolve())
    known = json.dumps([STORE_VERSION, PIL.__version__, size, fit, folder, files])
    return hashlib.sha256(known.encode()).hexdigest()[:24]


def open_store(paths, size, fit, folder, decode):
    """Photos [N, 3, size, size] and boxes [N, 4], memory-mapped; decodes them where need be.

    decode(path, size, fit) gives one photo, uint8 [3, size, size], and its box. One file in
    folder: N x 3 x size x size bytes of photos, then N x 4 uint16 of boxes. It is named after all
    that it depends on and renamed into place when whole, so a stale or half-written store is
    never used.
    """
    count, photo_bytes = len(paths), 3 * size * size
    path = folder / f"{store_key(paths, size, fit)}.store"
    if not path.is_file() or path.stat().st_size != count * (photo_bytes + 8):
        build_store(path, paths, size, fit, decode)
    photos = np.memmap(path, np.uint8, "r", shape=(count, 3, size, size))
    boxes = np.memmap(path, np.uint16, "r", count * photo_bytes, shape=(count, 4))
    return photos, boxes.astype(np.int64)


def build_store(path, paths, size, fit, decode):
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
    replace_file(path, lambda file: write_photos(file, paths, size, fit, decode), part)


def write_photos(file, paths, size, fit, decode):
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
                waiting.append((paths[ahead], pool.submit(decode, paths[ahead], size, fit)))
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


def take_photos(photos, boxes, rows, device):
    """Photos [B, 3, S, S] uint8 and boxes [B, 4] of these rows of a store, on device."""
    if isinstance(photos, torch.Tensor):
        rows = torch.as_tensor(rows).to(photos.device, non_blocking=True)
        return photos[rows], boxes[rows]
    taken, places = torch.from_numpy(photos[rows]), torch.from_numpy(boxes[rows])
    mapping = photos.base
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapping.madvise(mmap.MADV_DONTNEED)  # else an epoch leaves the whole store resident
    return taken.to(device), places.to(device)


def move_store(photos, boxes, device):
    """Photos and boxes of a store on the GPU, where they take at most half of its free memory."""
    if device.type != "cuda" or photos.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return photos, boxes
    moved = torch.empty(photos.shape, dtype=torch.uint8, device=device)
    for rows in torch.arange(len(photos)).split(256):
        moved[rows[0] : rows[-1] + 1] = take_photos(photos, boxes, rows.numpy(), device)[0]
    return moved, torch.from_numpy(boxes).to(device)
