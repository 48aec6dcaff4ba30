"""The official pairs of a dataset, and which photos recorded inputs show."""

from typing import NamedTuple

import numpy as np

from data import read_pairlist
from diagnose import preprocessing, recognition
from diagnose.nearest import CANDIDATES, RESHAPED, by_residue, left_of, nearest_of
from diagnose.photos import Photos
from disk.errors import show_progress, stop
from disk.layout import find_split, photo_names

OWN = 3  # preparations with estimated values that are tried on the next inputs
HOPELESS = 4  # inputs of a batch that nothing reproduces, before the others are not tried
FEW = 3  # photos that are most like an input where the reference has them
LOOKED = 4  # inputs of which what is left is looked into, which takes a second each
MANY = 3000  # photos, more than which are not all prepared for one input


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


class Official(Photos):
    """The official pairs of a dataset, and its photos."""

    def __init__(self, root, opened):
        self.pairs, every = {}, []
        for split in ("train", "val"):
            path, folder = find_split(root, split)
            pairs, problems = read_pairlist(path)
            if problems:
                stop(__file__, problems[0])
            names, present = photo_names(pairs, folder)
            for place, pair in enumerate(pairs):
                key = int(pair["series"]), int(pair["photo_1"]), int(pair["photo_2"])
                self.pairs[key] = (split, place, pair)
            every += [folder / name for name in sorted(set(names.ravel()) & present)]
        if not every:
            stop(__file__, "no photo of the pairs is there")
        super().__init__(every, opened)
        self.unsure = 0  # how many inputs in turn showed no photo for sure
        self.looked, self.residues = 0, []  # into how many inputs, and what is left of these

    def count(self, split):
        """How many pairs the list of a split has."""
        return sum(of == split for of, _, _ in self.pairs.values())

    def labels(self, split):
        """The labels of the list of a split, line by line."""
        rows = sorted((place, row) for of, place, row in self.pairs.values() if of == split)
        return [int(row["label"]) for _, row in rows]

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
            if own.share and not (own.box or own.outside or own.moved == RESHAPED):
                own = self.looked_into(x, photos, own, size)
            self.nearby = own.preparation if own.is_sure else self.nearby
            self.unsure = 0 if own.is_sure else self.unsure + 1
            found.append((own, self.paths[rows[own.number]]) if own.is_sure else (None, None))
        return found

    def looked_into(self, x, photos, nearest, size):
        """The Nearest of an input after a look at its Residue, by which the photo may be known as
        well; of the first LOOKED inputs.
        """
        self.looked += 1
        if self.looked > LOOKED:
            return nearest
        found, residue = nearest, None
        if nearest.is_sure:
            residue = left_of(x, photos[nearest.number], nearest.preparation, size)
        else:
            found, residue = by_residue(x, photos, nearest, size)
        self.residues += [residue] if residue else []
        return found

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
