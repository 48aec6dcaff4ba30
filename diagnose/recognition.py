"""Which photos recorded inputs show: by their content in coarse gray cells, however they lie."""

import numpy as np
from PIL import Image

CELLS = 8  # of a side, in the coarse picture by which photos are recognized


def coarse(gray):
    """[CELLS * CELLS] of a gray picture [H, W], standardized."""
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
    """Coarse pictures of a photo, [4, CELLS * CELLS]: mean of its channels, whole and its center,
    and its luminance, whole and its center.
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
    """left, top, right, bottom of what is not border of one color in an input [3, S, S]."""
    size = x.shape[-1]
    top, left = edge(x), edge(x.transpose(1, 2))
    bottom, right = size - edge(x.flip(1)), size - edge(x.transpose(1, 2).flip(1))
    return (left, top, right, bottom) if left < right and top < bottom else (0, 0, size, size)


def box_of(places):
    """(left, top, width, height) of the box around some places [S, S], of which there are any."""
    rows, columns = (places.any(dim).nonzero().flatten() for dim in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def edge(x):
    """How many rows of an input, from the first on, have the color of its first pixel."""
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
    alike += [(turns_of(mine[1]) @ described[:, center].T).max(0) for center in (1, 3)]
    return np.argsort(-np.max(alike, axis=0), axis=1)[:, :few].tolist()
