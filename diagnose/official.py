"""The official pairs of a dataset, and which photos recorded inputs show."""

from typing import NamedTuple

import numpy as np
import torch

from data import read_pairlist
from diagnose import preprocessing, recognition
from diagnose.nearest import CANDIDATES, levels_of, moved_of, nearest_of, told_apart
from diagnose.record import thumbnail
from disk.errors import show_progress, stop
from disk.layout import find_split, photo_names

FEW = 3  # photos that are most like an input where the reference has them
MANY = 3000  # photos, more than which are not all prepared for one input
OWN = 3  # preparations with estimated values that are tried on the next inputs
COARSE = 64  # size of the inputs by which candidates are found for a thumbnail, pixels
HOPELESS = 4  # inputs of a batch that nothing reproduces, before the others are not tried


class OfficialPair(NamedTuple):
    """A pair of the official lists, in the order in which a trainer has its photos."""

    split: str
    place: int  # in its list
    label: int  # in this order
    swapped: bool  # whether photo_2 of the list comes first
    row: np.void  # of data.PAIR


class RecordedPair(NamedTuple):
    """A pair of a recorded batch."""

    label: int | None  # as it came in; None where none was seen
    official: OfficialPair | None
    step: int = 0
    row: int = 0  # in its batch
    rows: int = 0  # of its batch
    names: tuple = ("", "")  # of the files of both photos


class Official:
    """The official pairs of a dataset, and its photos."""

    def __init__(self, root, opened):
        self.pairs, self.every = {}, []
        for split in ("train", "val"):
            path, folder = find_split(root, split)
            pairs, problems = read_pairlist(path)
            if problems:
                stop(__file__, problems[0])
            names, present = photo_names(pairs, folder)
            for place, pair in enumerate(pairs):
                key = int(pair["series"]), int(pair["photo_1"]), int(pair["photo_2"])
                self.pairs[key] = (split, place, pair)
            self.every += [folder / name for name in sorted(set(names.ravel()) & present)]
        if not self.every:
            stop(__file__, "no photo of the pairs is there")
        opened = set(opened)
        self.paths = [path for path in self.every if path.name in opened] or self.every
        self.described, self.photos, self.hints = None, {}, []
        self.coarse, self.thumbnails = [], {}  # of every photo, nearly; of some, exactly
        self.sums = []  # of every photo: of all its levels, as the reference has it
        self.within = []  # of every photo: (thumbnail, where it lies)
        self.nearby = None  # the preparation that was nearest to the last input
        self.unsure = 0  # how many inputs in turn showed no photo for sure

    def count(self, split):
        """How many pairs the list of a split has."""
        return sum(of == split for of, _, _ in self.pairs.values())

    def labels(self, split):
        """The labels of the list of a split, line by line."""
        rows = sorted((place, row) for of, place, row in self.pairs.values() if of == split)
        return [int(row["label"]) for _, row in rows]

    def widen(self):
        """Whether there are photos that the trainer was not seen to open, which count from now on;
        workers open theirs out of sight.
        """
        more = len(self.paths) < len(self.every)
        if more:
            self.paths, self.described, self.photos = self.every, None, {}
            self.thumbnails, self.coarse, self.within, self.sums = {}, [], [], []
        return more

    def look(self):
        """Describes the photos once."""
        if self.described is not None:
            return
        described = []
        for count, path in enumerate(self.paths, 1):
            described.append(recognition.describe_photo(path))
            show_progress(f"looking at photo {count}/{len(self.paths)}", count == len(self.paths))
        self.described = np.stack(described)

    def photo(self, row):
        """The Photo of a row of paths."""
        if row not in self.photos:
            self.photos[row] = preprocessing.Photo(self.paths[row])
        return self.photos[row]

    def find(self, first, second):
        """The OfficialPair of two photo files, or None."""
        series = {int(path.stem.split("-")[0]) for path in (first, second)}
        a, b = (int(path.stem.split("-")[1]) for path in (first, second))
        if len(series) != 1:
            return None
        key = (series.pop(), min(a, b), max(a, b))
        if key not in self.pairs:
            return None
        split, place, row = self.pairs[key]
        label = int(row["label"])
        return OfficialPair(split, place, 1 - label if a > b else label, a > b, row)

    def identify(self, inputs):
        """(what of the preprocessing of each input [N, 3, S, S] is not the reference's, see
        preprocessing.changes_of, or None; its photo's path; largest difference).
        """
        preparations, paths, worst = self.solve(inputs)
        if not all(preparations) and self.widen():
            preparations, paths, worst = self.solve(inputs)
        changes = [own and preprocessing.changes_of(own) for own in preparations]
        return changes, paths, worst

    def nearest(self, inputs):
        """[(Nearest, path of its photo)] of inputs that nothing reproduces, [N, 3, S, S]; (None,
        None) where it is not sure which photo one shows.
        """
        self.look()
        size, found = inputs.shape[-1], []
        rows_of = recognition.recognize(inputs, self.described, CANDIDATES)
        for x, rows in zip(inputs, rows_of, strict=True):
            if self.unsure >= HOPELESS:
                found.append((None, None))
                continue
            rows = list(dict.fromkeys([*self.rows_within(x)[:FEW], *rows]))
            photos = [self.photo(row) for row in rows]
            own = nearest_of(x, photos, size, self.nearby)
            if not own.is_sure and len(self.paths) <= MANY:
                own, rows = self.moved(x, size) or (own, rows)
            self.nearby = own.preparation if own.is_sure else self.nearby
            self.unsure = 0 if own.is_sure else self.unsure + 1
            found.append((own, self.paths[rows[own.number]]) if own.is_sure else (None, None))
        return found

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
            show_progress(f"looking at photo {row + 1}/{len(self.paths)}")
            yield row

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

    def keep_hint(self, preparation):
        """Keeps how an input was prepared, to be tried first on the next ones.

        Of those with estimated values, which may be of one photo alone, the first OWN.
        """
        if preparation is None or any(preparation is hint for hint in self.hints):
            return
        if "affine" in preparation or "border" in preparation:
            own = len(self.hints) - len(self.plain_hints())
            self.hints += [preparation] * (own < OWN)
        elif preparation not in [preprocessing.reference(), *self.plain_hints()]:
            self.hints.append(preparation)

    def plain_hints(self):
        """The hints without estimated values."""
        return [hint for hint in self.hints if "affine" not in hint and "border" not in hint]

    def solve(self, inputs):
        """As identify, among the photos that count so far."""
        self.look()
        size = inputs.shape[-1]
        preparations, paths, worst = [], [], 0.0
        rows_of = recognition.recognize(inputs, self.described)
        for count, (x, rows) in enumerate(zip(inputs, rows_of, strict=True), 1):
            show_progress(f"identifying input {count}/{len(inputs)}", count == len(inputs))
            if len(preparations) >= HOPELESS and not any(preparations):
                preparations.append(None)
                paths.append(self.paths[rows[0]])
                continue
            photos = [self.photo(row) for row in rows]
            place, preparation, error = preprocessing.solve(x, photos, size, self.hints)
            self.keep_hint(preparation)
            preparations.append(preparation)
            paths.append(self.paths[rows[place]])
            worst = max(worst, error)
        return preparations, paths, worst


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
