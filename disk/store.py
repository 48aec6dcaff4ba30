"""The photo store: every photo decoded once, into one file that is mapped into memory."""

import hashlib
import json
import mmap
import os
import re
import time
import warnings
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
import PIL
import torch
from PIL import Image

from disk.errors import fail_on, one_line, show_progress, stop
from disk.files import check_space, replace_file

STORE_VERSION = 2
ROW = np.dtype([("box", "<u2", 4), ("crc", "<u4")])  # behind the photos, one for each
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
    """Photos [N, 3, size, size] and boxes [N, 5], memory-mapped; decodes them where need be.

    decode(path, size, fit) gives one photo, uint8 [3, size, size], and its box. One file in
    folder: N x 3 x size x size bytes of photos, then N of ROW. It is named after all that it
    depends on and renamed into place when whole, so a stale or half-written store is never used.
    The fifth number of a box is the CRC-32 of photo and box, see take_photos.
    """
    count, photo_bytes = len(paths), 3 * size * size
    path = folder / f"{store_key(paths, size, fit)}.store"
    if not is_whole(path, count, size):
        build_store(path, paths, size, fit, decode)
    photos = np.memmap(path, np.uint8, "r", shape=(count, 3, size, size))
    rows = np.memmap(path, ROW, "r", count * photo_bytes, shape=(count,))
    return photos, np.concatenate([rows["box"], rows["crc"][:, None]], 1, dtype=np.int64)


def store_bytes(count, size):
    """How long the file of so many photos, size x size pixels, is, in bytes."""
    return count * (3 * size * size + ROW.itemsize)


def is_whole(path, count, size):
    """Whether a store of so many photos of this size lies at path, as long as it must be."""
    return path.is_file() and path.stat().st_size == store_bytes(count, size)


def row_checksum(array, box):
    """CRC-32 of a photo's bytes and of its box."""
    return zlib.crc32(np.array(box, "<u2").tobytes(), zlib.crc32(np.ascontiguousarray(array)))


def build_store(path, paths, size, fit, decode):
    """Decodes the photos into the store at path, on every core, with progress on stderr.

    Ends the program with one line that names the photo, or the disk, that failed.
    """
    with fail_on(__file__, path.parent, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob("*.store.*.part"):
        own = re.fullmatch(r"[0-9a-f]{24}\.store\.[0-9a-f]{32}\.part", part.name)  # of replace_file
        if own and time.time() - part.stat().st_mtime > DAY:  # left by a build that was killed
            part.unlink(missing_ok=True)
    check_space(path.parent, store_bytes(len(paths), size), "the photo store")
    there = partial(is_whole, path, len(paths), size)  # built by another run meanwhile
    replace_file(path, lambda file: write_photos(file, paths, size, fit, decode), there)


def set_photo_warnings():
    """Has Pillow raise on a photo of more pixels than it takes for sane, and say nothing of a
    transparency that a palette has, which convert("RGB") leaves out.
    """
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)


def write_photos(file, paths, size, fit, decode):
    """Decodes photos on every core, a few ahead, and writes them in order, then their boxes.

    Threads suffice: Pillow decodes and resizes outside Python's interpreter lock. One more than
    there are cores works while another waits for that lock, and the disk is kept busy meanwhile.
    """
    set_photo_warnings()
    rows, waiting, workers = [], deque(), 1 + (os.cpu_count() or 1)
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
            rows.append((box, row_checksum(array, box)))
            if len(rows) % FLUSH_EVERY == 0:
                flushed.result()  # raises what the disk refused
                flushed = flusher.submit(os.fsync, file.fileno())
            last = len(rows) == len(paths)
            show_progress(f"decoding photo {len(rows)}/{len(paths)}", last)
        flushed.result()
    file.write(np.array(rows, ROW).tobytes())


def take_photos(photos, boxes, rows, device):
    """Photos [B, 3, S, S] uint8 and boxes [B, 4] of these rows of a store, on device.

    Ends the program where a photo of a store is no longer what was written: a flipped bit would
    else be believed.
    """
    if isinstance(photos, torch.Tensor):
        rows = torch.as_tensor(rows).to(photos.device, non_blocking=True)
        return photos[rows], boxes[rows, :4]
    taken, places = photos[rows], boxes[rows]
    for array, place in zip(taken, places.tolist(), strict=True):
        if len(place) > 4 and place[4] != row_checksum(array, place[:4]):
            path = getattr(photos, "filename", "the photo store")
            stop(__file__, f"{path}: damaged since it was written; delete it, it is built again")
    taken, places = torch.from_numpy(taken), torch.from_numpy(places[:, :4])
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
