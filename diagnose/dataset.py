"""Checks a dataset in the official layout before anyone trains: lists, photos, splits.

    python -m diagnose dataset --data data/phototriage

The first line is the verdict, the evidence is below. Exit code 0: healthy, 1: a defect is
established. Every photo is decoded to its end.
"""

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from data import read_pairlist
from disk.errors import command_line, instrument, show_progress, stop
from disk.layout import SHOWN, find_split, photo_names
from disk.store import set_photo_warnings
from run.findings import CAUSE, EQUAL, SKIPPED, give_verdict, rows_of
from run.scores import chance_levels

SPLITS = ("train", "val")


row = rows_of("dataset")


HEALTHY = row("healthy", EQUAL, "healthy")
SPLIT = row(
    "split",
    EQUAL,
    "{split}: {pairs:,} pairs, {series:,} series, label 1 {ones:,} = {share:.4f}, {chance}, "
    "agreement with the majority {agreement:.3f}"
    "[ ({strong:.3f} on {strong_pairs:,} pairs with at least 0.7)], {ties} ties",
)
UNLABELED = row(
    "split_without_labels", EQUAL, "{split}: {pairs:,} pairs, {series:,} series, no labels"
)
SHARED = row("shared_series", CAUSE, "{count} series are in train and val, first {first}")
NO_PHOTOS = row("no_photos", CAUSE, "no photo of {split} is there ({folder}/)")
MISSING = row("missing_photos", CAUSE, "{split}: {count} photos have no file, first {first}")
PHOTOS = row("photos", EQUAL, "{folder}/: {photos} photos, {unused} are in no pair")
BROKEN = row("broken_photos", CAUSE, "{count} files are no whole photos, first {first}")
SIZES = row("sizes", EQUAL, "longer side {longer} pixels, shorter side {shorter}")
EQUAL_BYTES = row(
    "equal_bytes", CAUSE, "{count} photos have equal bytes across splits, first {first}"
)
PROBLEM = row("problem", EQUAL, "{problem}")
NO_TEST = row("no_test", SKIPPED, "not checked: test (no test_pairlist.txt)")
WRONG_LINES = row("wrong_lines", CAUSE, "{count} wrong lines in the pairlists")


# The dataset itself


def read_official(root):
    """The pairs of train, val and, where it is there, test: {split: (pairs, path, folder)}.

    Also the problems found in the lists, each with file and line.
    """
    official, problems = {}, []
    for split in ("train", "val", "test"):
        found = find_split(root, split, must=split != "test")
        if found is not None:
            pairs, wrong = read_pairlist(found[0], labelled=split != "test")
            official[split] = pairs, *found
            problems += wrong
    return official, problems


def read_labelled(root):
    """({split: (pairs, path, folder)}, the labelled pairs [P], which of SPLITS each is of [P]).

    Ends the program at the first wrong line of a list.
    """
    found, problems = read_official(root)
    if problems:
        stop(__file__, problems[0])
    lists = [found[split][0] for split in SPLITS]
    return found, np.concatenate(lists), np.repeat([0, 1], [len(pairs) for pairs in lists])


def describe_split(split, pairs):
    """The finding on a split: counts, balance, chance levels, and how far people agree."""
    counts = {"split": split, "pairs": len(pairs), "series": len(np.unique(pairs["series"]))}
    if split == "test" or not len(pairs):
        return UNLABELED.found(**counts)
    labels, preference = pairs["label"], pairs["preference"]
    agreement = np.maximum(preference, 1 - preference)
    strong = agreement >= 0.7 - 1e-9
    return SPLIT.found(
        **counts,
        ones=int(labels.sum()),
        share=float(labels.mean()),
        chance=chance_levels(labels),
        agreement=float(agreement.mean()),
        strong=float(agreement[strong].mean()) if strong.any() else None,
        strong_pairs=int(strong.sum()),
        ties=int((preference == 0.5).sum()),
    )


def shared_series(official):
    """Findings on series that are in more than one of train and val."""
    train, val = (set(official[split][0]["series"].tolist()) for split in ("train", "val"))
    both = sorted(train & val)
    return [SHARED.found(count=len(both), first=both[0])] if both else []


def check_photos(official):
    """Findings on the photos of the folders that are there: (defects, remarks)."""
    defects, remarks, owner = [], [], defaultdict(set)
    wanted = defaultdict(set)
    for split, (pairs, _, folder) in official.items():
        names, present = photo_names(pairs, folder)
        names = set(names.ravel())
        if not present:
            defects.append(NO_PHOTOS.found(split=split, folder=folder.name))
            continue
        wanted[folder] |= names
        missing = sorted(names - present)
        if missing:
            defects.append(MISSING.found(split=split, count=len(missing), first=missing[0]))
        for name in names & present:
            owner[hashlib.sha256((folder / name).read_bytes()).hexdigest()].add((split, name))
    for folder, names in wanted.items():
        files = [p for p in folder.iterdir() if p.suffix.lower() == ".jpg" and p.is_file()]
        unused = sorted({p.name for p in files} - names)
        remarks.append(PHOTOS.found(folder=folder.name, photos=len(files), unused=len(unused)))
        sizes, broken = look_at_photos(sorted(files))
        defects += [BROKEN.found(count=len(broken), first=broken[0])] if broken else []
        if sizes:
            sides = [[max(s) for s in sizes], [min(s) for s in sizes]]
            longer, shorter = (f"{min(side)} to {max(side)}" for side in sides)
            remarks.append(SIZES.found(longer=longer, shorter=shorter))
    twice = [found for found in owner.values() if len({split for split, _ in found}) > 1]
    if twice:
        names = " and ".join(f"{name} ({split})" for split, name in sorted(twice[0]))
        defects.append(EQUAL_BYTES.found(count=len(twice), first=names))
    return defects, remarks


def look_at_photos(paths):
    """(sizes of the photos that can be decoded to their end, names of the others)."""
    set_photo_warnings()
    sizes, broken = [], []
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(decode_coarsely, path) for path in paths]
        for count, (path, future) in enumerate(zip(paths, futures, strict=True), 1):
            if future.exception() is None:
                sizes.append(future.result())
            else:
                broken.append(path.name)
            if count % 100 == 0 or count == len(paths):
                show_progress(f"looking at photo {count}/{len(paths)}", count == len(paths))
    return sizes, broken


def decode_coarsely(path):
    """The size of a photo, which is read to its end; raises what Pillow raises."""
    with Image.open(path) as photo:
        size = photo.size
        photo.draft("RGB", (64, 64))
        photo.load()
    return size


def audit_dataset(root):
    """(findings of the verdict, evidence) on the dataset in the official layout under root."""
    official, problems = read_official(root)
    defects, remarks = check_photos(official)
    defects = [*shared_series(official), *defects]
    evidence = [describe_split(split, found[0]) for split, found in official.items()]
    evidence += [PROBLEM.found(problem=problem) for problem in problems[:SHOWN]] + remarks
    if "test" not in official:
        evidence.append(NO_TEST.found())
    if problems:
        defects.insert(0, WRONG_LINES.found(count=len(problems)))
    return defects or [HEALTHY.found()], evidence


@instrument("dataset")
def main(argv=None):
    """Gives the verdict after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--data", required=True, help="folder of the dataset; photos may be absent")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    args = parser.parse_args(argv)
    give_verdict(*audit_dataset(args.data), args.json)
