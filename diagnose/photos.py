"""The photos of a dataset, found again by what recorded inputs and thumbnails show."""

import numpy as np
import torch

from diagnose import preprocessing, recognition
from diagnose.nearest import CANDIDATES, levels_of, moved_of, told_apart
from diagnose.record import thumbnail
from disk.errors import show_progress

COARSE = 64  # size of the inputs by which candidates are found for a thumbnail, pixels
FEW = 3  # photos whose values may be those of an input


class Photos:
    """The photos of a dataset: those that a trainer was seen to open count first.

    hints: preparations that were found, and tried again; nearby: that which was nearest to the last
    input that none reproduces, or None.
    """

    def __init__(self, every, opened):
        self.every, opened = every, set(opened)
        self.paths = [path for path in every if path.name in opened] or every
        self.hints, self.nearby = [], None
        self.forget()

    def forget(self):
        """Forgets what is known of paths."""
        self.described, self.photos = None, {}
        self.coarse, self.thumbnails = [], {}  # of every photo, nearly; of some, exactly
        self.within = []  # of every photo: (thumbnail, where it lies)
        self.sums = []  # of every photo: of all its levels, as the reference has it

    def widen(self):
        """Whether there are photos that the trainer was not seen to open, which count from now on;
        workers open theirs out of sight.
        """
        more = len(self.paths) < len(self.every)
        if more:
            self.paths = self.every
            self.forget()
        return more

    def look(self):
        """Describes the photos once."""
        if self.described is not None:
            return
        paths = (self.paths[row] for row in self.every_row())
        self.described = np.stack(list(map(recognition.describe_photo, paths)))

    def photo(self, row):
        """The Photo of a row of paths."""
        if row not in self.photos:
            self.photos[row] = preprocessing.Photo(self.paths[row])
        return self.photos[row]

    def of_thumbnails(self, cells, size):
        """The paths of the photos that thumbnails [N, T, T] of record.py show, None where that is
        not sure: by the preparations that were found before. size: of the inputs, pixels.
        """
        paths = self.match(cells, size)
        if None in paths and self.widen():
            paths = self.match(cells, size)
        return paths

    def match(self, cells, size):
        """As of_thumbnails, among the photos that count so far."""
        ways = [preprocessing.reference(), *self.hints, *([self.nearby] if self.nearby else [])]
        if not self.coarse:
            self.coarse = [
                self.thumbnails_of(ways, row, COARSE, COARSE) for row in self.every_row()
            ]
        alike = torch.stack(self.coarse)  # [photos, ways, T, T]
        paths = []
        for own in cells.double():
            gaps = gaps_of(own, alike)
            rows = gaps.argsort()[:CANDIDATES].tolist()
            for row in rows:
                if row not in self.thumbnails:
                    self.thumbnails[row] = self.thumbnails_of(ways, row, size)
            fine = gaps_of(own, torch.stack([self.thumbnails[row] for row in rows]))
            place, is_sure = told_apart(fine)
            paths.append(self.paths[rows[place]] if is_sure else None)
        return paths

    def every_row(self):
        """The rows of paths, one after the other, with progress."""
        for row in range(len(self.paths)):
            yield row
            show_progress(
                f"looking at photo {row + 1}/{len(self.paths)}", row + 1 == len(self.paths)
            )

    def thumbnails_of(self, ways, row, size, least=None):
        """Thumbnails [ways, T, T] of the photo of a row of paths, prepared in these ways."""
        photo = preprocessing.Photo(self.paths[row], least)  # not kept: there are many
        made = [preprocessing.apply(photo, way, size) for way in ways]
        return thumbnail(torch.stack(made)).double()

    def rows_within(self, x):
        """Rows of paths of the photos that are most like an input [3, S, S] where the reference has
        them, whatever is around, the most like first.
        """
        if not self.within:
            for row in self.every_row():
                photo = preprocessing.Photo(self.paths[row], COARSE)
                pixels, inside = photo.base(preprocessing.reference(), COARSE)
                cells = thumbnail(torch.stack([pixels, inside.double().expand(3, -1, -1)])).double()
                self.within.append((cells[0], cells[1] == 1))
        own = thumbnail(x[None])[0].double()
        return np.argsort([misfit(own, *known) for known in self.within]).tolist()

    def moved(self, x, size):
        """(the Nearest, [its row of paths]) of an input that has a photo's values at other places;
        None where no photo's are.
        """
        total = float(levels_of(x).sum())
        if not self.sums:
            for row in self.every_row():
                made = preprocessing.apply(
                    preprocessing.Photo(self.paths[row]), preprocessing.reference(), size
                )
                self.sums.append(float(levels_of(made).sum()))
        for row in np.argsort(np.abs(np.array(self.sums) - total))[:FEW].tolist():
            own = moved_of(x, self.photo(row), size)
            if own:
                return own, [row]
        return None


def gaps_of(cells, made):
    """By how much a thumbnail [T, T] differs from the nearest of each photo's [photos, ways, T, T],
    relative to how much it varies, [photos].
    """
    size = torch.linalg.vector_norm(cells - cells.mean()).clamp(min=1e-12)
    return torch.linalg.vector_norm(made - cells, dim=(2, 3)).amin(1) / size


def misfit(cells, made, inside):
    """1 - the correlation of two thumbnails [T, T] where one has a photo; inside: where."""
    own, other = ((t[inside] - t[inside].mean()) for t in (cells, made))
    norms = torch.linalg.vector_norm(own) * torch.linalg.vector_norm(other)
    return 1 - float((own * other).sum() / norms.clamp(min=1e-12))
