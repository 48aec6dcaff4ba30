"""The official layout on disk: where the lists and photos are, and what is wrong with them."""

import os
from pathlib import Path

import numpy as np

from disk.errors import speaker, stop
from disk.pairlist import DATASET

SHOWN = 10  # problems of a dataset, before they are only counted


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
    """[P, 2] file names of photo_1 and photo_2, and the set of names present in folder.

    pairs [P]: an array with the fields series, photo_1 and photo_2.
    """
    entries = os.scandir(folder) if folder.is_dir() else ()
    present = {entry.name for entry in entries if entry.is_file()}  # not a dangling link
    names = [
        [photo_name(pair["series"], pair[side], present) for side in ("photo_1", "photo_2")]
        for pair in pairs
    ]
    return np.array(names, dtype=object).reshape(-1, 2), present


def missing_photos(path, pairs, names, folder, present):
    """Problems, each with file and line: photos of a pairlist (path) that are not in folder.

    pairs [P] with the field line, names [P, 2] and the set of names present: see photo_names.
    """
    if len(pairs) and not any(name.lower().endswith(".jpg") for name in present):
        kinds = sorted({Path(name).suffix for name in present})
        other = f" (but files with {', '.join(kinds[:3])})" if kinds else ""
        zipped = f"unzip {folder.parent.name}.zip of {DATASET}"
        return [f"{folder}: no photo is there{other}; {zipped}"]
    problems = {}  # of each photo, told once
    for pair, pair_names in zip(pairs, names, strict=True):
        for side, name in zip(("photo_1", "photo_2"), pair_names, strict=True):
            where = f"{path.name}:{pair['line']}: photo {pair[side]} of series {pair['series']}"
            problems.setdefault(name, f"{where} has no file {folder.name}/{name}")
    return [problem for name, problem in problems.items() if name not in present]


def shared_series(lists):
    """Problems, each with file and line: series that are in two lists.

    lists: {split: pairs [P] with the fields series and line}.
    """
    owner, problems = {}, []
    for split, pairs in lists.items():
        for pair in pairs:
            other = owner.setdefault(int(pair["series"]), split)
            if other != split:
                where = f"{split}_pairlist.txt:{pair['line']}: series {pair['series']}"
                problems.append(f"{where} is also in {other}_pairlist.txt")
    return problems


def stop_at(problems):
    """Ends the program where there are problems: the first ten are printed, all are counted."""
    problems = list(dict.fromkeys(problems))  # train and val have one folder
    if len(problems) == 1:
        stop(__file__, problems[0])
    if problems:
        shown = "".join(f"\n{speaker(__file__)}: {problem}" for problem in problems[:SHOWN])
        stop(__file__, f"{len(problems)} problems, the first {min(SHOWN, len(problems))}:{shown}")
