"""The official pairs of a dataset, and which photos recorded inputs show."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from data import read_pairlist
from diagnose import preprocessing, recognition
from diagnose.nearest import (
    CANDIDATES,
    RESHAPED,
    by_residue,
    centered,
    gaps_of,
    left_of,
    levels_of,
    nearest_of,
    told,
)
from diagnose.part import part_of
from diagnose.photos import Photos
from diagnose.preprocessing import apply, reference
from diagnose.residue import MOTION
from diagnose.twofold import twofold_of
from disk.errors import show_progress, stop
from disk.layout import find_split, photo_names

OWN = 3  # preparations with estimated values that are tried on the next inputs
HOPELESS = 4  # inputs in turn that nothing reproduces, before the search of a batch ends
FEW = 3  # photos that are most like an input where the reference has them
LOOKED = 4  # inputs of which what is left is looked into, which takes a second each
TOGETHER = 96  # photos of a batch, of which two may be in one input
PARTS = 120  # photos, a part of which an input may show where it is not sure which
PIXELS = 200e6  # of photos that are looked through together, 1.2 GB
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
        self.hopeless = False  # whether the last inputs were searched in vain
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
        every = [*itertools.chain(*rows_of), *range(min(len(self.paths), TOGETHER))]
        every = self.affordable(list(dict.fromkeys(every))[:TOGETHER])
        made = centered(torch.stack([apply(self.photo(row), reference(), size) for row in every]))
        insides = [self.photo(row).base(reference(), size)[1] for row in every]
        for x, rows in zip(inputs, rows_of, strict=True):
            own, row = self.twofold(x, made, insides, every) or self.nearest_to(x, rows, size)
            found.append((own, self.paths[row]) if own else (None, None))
        return found

    def affordable(self, rows):
        """The first of some rows of paths whose photos take no more memory than PIXELS."""
        sums = itertools.accumulate(map(math.prod, map(self.sides_of, rows)))
        return [row for row, total in zip(rows, sums, strict=True) if total <= PIXELS]

    def sides_of(self, row):
        """(width, height) of the photo of a row of paths."""
        with Image.open(self.paths[row]) as photo:
            return photo.size

    def twofold(self, x, made, insides, rows):
        """(Nearest, row of its path) of an input that shows two photos of its batch; None: not so.

        made: the inputs [P, 3, S, S] that the reference makes of the photos of these rows, and
        insides: where they lie; see diagnose.twofold.mix_of.
        """
        names = [self.paths[row].name for row in rows]
        shown = centered(x)
        two = twofold_of(shown, made, names, insides)
        if two is None:
            return None
        place, residue = two
        self.residues += [residue] * (len(self.residues) < LOOKED)
        return told(0, True, reference(), (shown - made[place]).abs()), rows[place]

    def nearest_to(self, x, rows, size):
        """(Nearest, row of its path) of one input; (None, None) where it is not sure."""
        if self.unsure >= HOPELESS:
            return None, None
        rows = list(dict.fromkeys([*self.rows_within(x)[:FEW], *rows]))
        photos = [self.photo(row) for row in rows]
        own = nearest_of(x, photos, size, self.nearby)
        if not own.is_sure and len(self.paths) <= MANY:
            own, rows = self.moved(x, size) or (own, rows)
        if own.share and not (own.box or own.outside or own.moved == RESHAPED):
            own, rows = self.looked_into(x, rows, own, size)
        self.nearby = own.preparation if own.is_sure else self.nearby
        self.unsure = 0 if own.is_sure else self.unsure + 1
        return (own, rows[own.number]) if own.is_sure else (None, None)

    def looked_into(self, x, rows, nearest, size):
        """(the Nearest of an input after a look at its Residue, by which the photo may be known as
        well, the rows of its photos); of the first LOOKED inputs.
        """
        self.looked += 1
        if self.looked > LOOKED:
            return nearest, rows
        photos = [self.photo(row) for row in rows]
        found, residue = nearest, None
        if nearest.is_sure:
            residue = left_of(x, photos[nearest.number], nearest.preparation, size)
        else:
            found, residue = by_residue(x, photos, nearest, size)
        if residue is None or residue.kind == MOTION:
            some = rows[nearest.number : nearest.number + 1] if nearest.is_sure else None
            some = some or self.affordable(range(min(len(self.paths), PARTS)))
            place, part = part_of(levels_of(x), list(map(self.photo, some))) or (None, None)
            residue = min(filter(None, (residue, part)), key=lambda own: own.left, default=None)
            if part is residue and place is not None:
                gaps = gaps_of(x, self.photo(some[place]), reference(), size)
                found, rows = told(0, True, reference(), gaps), [some[place]]
        self.residues += [residue] if residue else []
        return found, rows

    def keep_hint(self, preparation):
        """Keeps how an input was prepared, to be tried first on the next ones.

        Of those with estimated values, which may be of one photo alone, the first OWN.
        """
        if preparation is None or any(preparation is hint for hint in self.hints):
            return
        if "affine" in preparation or "border" in preparation:
            own = len(self.hints) - len(self.plain_hints())
            self.hints += [preparation] * (own < OWN)
        elif preparation not in [reference(), *self.plain_hints()]:
            self.hints.append(preparation)

    def plain_hints(self):
        """The hints without estimated values."""
        return [hint for hint in self.hints if "affine" not in hint and "border" not in hint]

    def solve(self, inputs):
        """As identify, among the photos that count so far."""
        self.look()
        size = inputs.shape[-1]
        preparations, paths, worst = [], [], 0.0
        in_vain, most = 0, 1 if self.hopeless else HOPELESS
        rows_of = recognition.recognize(inputs, self.described)
        for count, (x, rows) in enumerate(zip(inputs, rows_of, strict=True), 1):
            show_progress(f"identifying input {count}/{len(inputs)}", count == len(inputs))
            photos = [self.photo(row) for row in rows]
            known = preprocessing.solve_by(x, photos, size, (reference(), *self.hints))
            if known is None and in_vain < most:
                known = preprocessing.solve(x, photos, size)
                in_vain = 0 if known[1] else in_vain + 1
            place, preparation, error = known or (0, None, 0.0)
            self.keep_hint(preparation)
            preparations.append(preparation)
            paths.append(self.paths[rows[place]])
            worst = max(worst, error)
        self.hopeless = in_vain == most
        return preparations, paths, worst
