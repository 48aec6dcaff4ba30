"""How OpenCV resizes photos of bytes, to the bit; without OpenCV.

Checked against opencv-python-headless 5.0.0 on noise, by tests/test_compare.py where that is
installed.
"""

import numpy as np

BITS = 11  # of the fixed-point weights of INTER_LINEAR
LEAST = 1e-3  # of a pixel, that counts at an edge in INTER_AREA


def linear_weights(count, whole):
    """(first pixel, second pixel, their weights times 2 ** BITS), [count] each, of a side."""
    places = ((np.arange(count) + 0.5) * (whole / count) - 0.5).astype(np.float32)
    first = np.floor(places).astype(int)
    share = (places - first).astype(np.float32)
    outside = (first < 0) | (first >= whole - 1)
    first, share = first.clip(0, whole - 1), np.where(outside, np.float32(0), share)
    weights = [np.rint(part * 2**BITS).astype(int) for part in (1 - share, share)]
    return first, np.minimum(first + 1, whole - 1), *weights


def resize_linear(photo, width, height):
    """A photo [H, W, 3] of bytes, resized as by cv2.INTER_LINEAR, [height, width, 3]."""
    pixels = photo.astype(np.int64)
    a, b, left, right = linear_weights(width, photo.shape[1])
    rows = pixels[:, a] * left[:, None] + pixels[:, b] * right[:, None]
    a, b, above, below = linear_weights(height, photo.shape[0])
    sums = above[:, None, None] * (rows[a] >> 4) >> 16
    sums += below[:, None, None] * (rows[b] >> 4) >> 16
    return (sums + 2 >> 2).clip(0, 255).astype(np.uint8)


def area_taps(count, whole):
    """(pixels [count, K], their weights [count, K]) over which INTER_AREA goes, of a side."""
    scale, every = whole / count, []
    for place in range(count):
        begin, end = place * scale, (place + 1) * scale
        cell, last = min(scale, whole - begin), min(int(np.floor(end)), whole - 1)
        first = min(int(np.ceil(begin)), last)
        taps = [(first - 1, (first - begin) / cell)] * (first - begin > LEAST)
        taps += [(pixel, 1 / cell) for pixel in range(first, last)]
        taps += [(last, min(end - last, 1.0, cell) / cell)] * (end - last > LEAST)
        every.append(taps)
    most = max(map(len, every))
    filled = np.array([taps + [(0, 0.0)] * (most - len(taps)) for taps in every])
    return filled[..., 0].astype(int), filled[..., 1].astype(np.float32)


def shrink(pixels, count):
    """The first side of pixels [N, ...] shrunk to count, summed in float32 one after the other."""
    places, weights = area_taps(count, len(pixels))
    made = np.zeros((count, *pixels.shape[1:]), np.float32)
    for place, weight in zip(places.T, weights.T, strict=True):
        made += pixels[place].astype(np.float32) * weight.reshape(-1, 1, 1)
    return made


def resize_area(photo, width, height):
    """A photo [H, W, 3] of bytes, shrunk as by cv2.INTER_AREA, [height, width, 3]."""
    down, across = photo.shape[0] / height, photo.shape[1] / width
    if down == across == 2:
        sums = photo.reshape(height, 2, width, 2, 3).astype(np.int64).sum((1, 3))
        return (sums + 2 >> 2).astype(np.uint8)
    if down == int(down) and across == int(across):
        shape = height, int(down), width, int(across), 3
        sums = photo.reshape(shape).astype(np.int64).sum((1, 3)).astype(np.float32)
        return np.rint(sums * np.float32(1 / (down * across))).astype(np.uint8)
    narrow = shrink(photo.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return np.rint(shrink(narrow, height)).clip(0, 255).astype(np.uint8)
