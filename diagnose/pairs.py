"""Which pairs a trainer took, from which photos and with which labels, by the official lists."""

import itertools
from collections import Counter

import numpy as np
import torch

from data import read_pairlist
from diagnose import inputs
from diagnose.finding import cause, harmless, skipped, stated, unknown
from diagnose.replay import number
from disk.errors import show_progress, stop
from disk.layout import find_split, photo_names

EACH = {  # where a value is solved for, and each photo has its own
    "padding": "the padding has another colour in each photo",
    "normalisation": "each photo has its own scale and shift (normalised by itself, or jitter)",
}
FEW = 16  # pairs whose labels are alike by chance once in 30,000 times
HOPELESS = 4  # inputs of a batch that nothing reproduces, before the others are not tried


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
        heard = set(opened)
        self.paths = [path for path in self.every if path.name in heard] or self.every
        self.described, self.opened, self.hints = None, {}, []

    def widen(self):
        """Whether there are photos that the trainer was not seen to open, which count from now on;
        workers open theirs out of sight.
        """
        found = len(self.paths) < len(self.every)
        if found:
            self.paths, self.described, self.opened = self.every, None, {}
        return found

    def look(self):
        """Describes the photos once."""
        if self.described is not None:
            return
        described = []
        for count, path in enumerate(self.paths, 1):
            described.append(inputs.describe_photo(path))
            show_progress(f"looking at photo {count}/{len(self.paths)}", count == len(self.paths))
        self.described = np.stack(described)

    def photo(self, row):
        if row not in self.opened:
            self.opened[row] = inputs.Photo(self.paths[row])
        return self.opened[row]

    def find(self, first, second):
        """(split, place, label for this order, turned) of a pair of photo files, or None."""
        series = {int(path.stem.split("-")[0]) for path in (first, second)}
        a, b = (int(path.stem.split("-")[1]) for path in (first, second))
        if len(series) != 1:
            return None
        key = (series.pop(), min(a, b), max(a, b))
        if key not in self.pairs:
            return None
        split, place, pair = self.pairs[key]
        label = int(pair["label"])
        return split, place, 1 - label if a > b else label, a > b, pair


def judge_inputs(sides, official):
    """(findings, [B] of (path of photo_1, path of photo_2)) of a batch.

    The path is None where the photo is not proved by its preparation: photos of a series are alike.
    """
    xs = torch.cat([x.double() for x in sides.inputs])
    slots, paths, worst = solve_inputs(xs, official)
    if not all(slots) and official.widen():
        slots, paths, worst = solve_inputs(xs, official)
    paths = [path if found else None for path, found in zip(paths, slots, strict=True)]
    half = len(paths) // 2
    return name_inputs(slots, worst), list(zip(paths[:half], paths[half:], strict=True))


def solve_inputs(xs, official):
    """(slots of each input [N, 3, S, S] or None, path of the photo, largest difference left)."""
    official.look()
    size, hints, slots, paths, worst = xs.shape[-1], official.hints, [], [], 0.0
    for x, rows in zip(xs, inputs.recognise(xs, official.described), strict=True):
        if len(slots) >= HOPELESS and not any(slots):
            slots.append(None)
            paths.append(official.paths[rows[0]])
            continue
        photos = [official.photo(row) for row in rows]
        place, found, off = inputs.solve(x, photos, size, hints)
        solved = found is None or "affine" in found or "border" in found
        if not solved and found not in [inputs.REFERENCE, *hints]:
            hints.append(found)
        slots.append(found)
        paths.append(official.paths[rows[place]])
        worst = max(worst, off)
    return slots, paths, worst


def name_inputs(slots, worst):
    """Findings on the slots of all inputs of a batch; None where one is not reproduced."""
    lost = sum(found is None for found in slots)
    if lost:
        text = f"inputs that no preparation of a photo reproduces ({lost} of {len(slots)})"
        return [unknown("inputs", text)]
    counts = Counter()
    for found in slots:
        for name, usual in inputs.REFERENCE.items():
            value = found[name]
            if value != usual:
                counts[name, words_of(name, value, found)] += 1
    findings = []
    for name, text in EACH.items():
        solved = [
            key for key in counts if key[0] == name and key[1] not in inputs.WORDS[name].values()
        ]
        if len(solved) > 2:
            counts[name, text] = sum(counts.pop(key) for key in solved)
    for (_, words), count in counts.items():
        share = "" if count == len(slots) else f" ({count} of {len(slots)} photos)"
        ways = (words,) if words.startswith("normalised with mean ") else ()
        findings.append(cause("inputs", words + share, worst)._replace(ways=ways))
    return findings


def words_of(name, value, found):
    """What a slot's value is called; a solved one in mean and deviation, as people write it."""
    if value == "solved":
        if name == "padding":
            return f"the padding is {', '.join(map(number, found['border']))} behind normalisation"
        scale, shift = found["affine"]
        mean, std = (", ".join(map(number, values)) for values in (-shift / scale, 1 / scale))
        return f"normalised with mean {mean} and deviation {std}"
    return inputs.WORDS[name][value.removesuffix(" late")]


def label_of(batch):
    """(labels [B] as they entered the step, as the loss took them), or None."""
    for entry in batch["labels"]:
        both = []
        for values in (entry["root"], entry["values"]):
            one_hot = values.dim() == 2 and values.shape[1] == 2
            flat = values.argmax(1) if one_hot else values.reshape(-1)
            both.append(flat.long())
        if all(int(b.min()) >= 0 and len(b) == len(batch["features"][0]) for b in both):
            return both
    return None


def are_inverted(seen):
    """Whether every label is the other one; with fewer than eight that may be chance."""
    known = [(y, found[2]) for y, found in seen if y is not None and found is not None]
    return len(known) >= 8 and all(y != label for y, label in known)


def judge_labels(seen, single, swapped):
    """Findings on labels; seen: (label, official pair or None) of every recorded pair.

    single: whether there is one logit, which takes labels that are 1 for either photo; swapped:
    whether the loss takes the other label.
    """
    strange = sum(found is None for _, found in seen)
    if strange:
        return [unknown("pairs", f"{strange} of {len(seen)} pairs are not official")]
    findings = []
    val = sum(found[0] == "val" for _, found in seen)
    if val:
        text = f"{val} of {len(seen)} pairs belong to the validation list"
        findings.append(cause("pairs", text))
    known = [(y, *found) for y, found in seen if y is not None]
    if not known:
        text = "no labels were seen" if seen else "which photos these are is not known"
        return [*findings, skipped("labels", text)]
    n, right = len(known), sum(y == label for y, _, _, label, _, _ in known)
    inverted, turned = are_inverted(seen), sum(t for *_, t, _ in known)
    if right == n:
        return findings + judge_turned([y for y, *_ in known], turned)
    winners = [pair["photo_2"] if t else pair["photo_1"] for *_, t, pair in known]
    wins = all(y == (row[-1]["rank_1"] != w) for (y, *row), w in zip(known, winners, strict=True))
    fixed = all((y == label) != t for y, _, _, label, t, _ in known)
    other = f"labels are 1 where photo_1 is preferred ({n} pairs)"
    ranks = f"rank_1 is photo_1's number ({n - right} of {n} wrong)"
    ways = (
        (right == 0 and single, stated, f"{other}, as one logit may have it"),
        (inverted and swapped, harmless, f"{other}, and the loss takes them so"),
        (
            right == 0 and turned == n,
            cause,
            f"the photos of each pair are exchanged, the label is not ({n} pairs)",
        ),
        (inverted, cause, f"labels are inverted before the loss ({n} pairs)"),
        (wins and n - right >= 4, cause, f"ranks are read as winner ids: label 0 where {ranks}"),
        (
            fixed and turned >= 2,
            cause,
            f"the photos of {turned} of {n} pairs are exchanged, their labels are not",
        ),
        (
            True,
            unknown,
            f"{n - right} of {n} labels are not the official ones; see diagnose.audit --labels",
        ),
    )
    kind, text = next((kind, text) for holds, kind, text in ways if holds)
    return [*findings, kind("labels", text)]


def judge_turned(labels, turned):
    """Findings where labels follow the photos of so many pairs that come the other way round."""
    n = len(labels)
    if turned == n:
        return [harmless("labels", "photo_2 comes first, and the labels follow")]
    if turned and n >= FEW and len(set(labels)) == 1:
        which = "preferred" if labels[0] == 0 else "other"
        text = f"the {which} photo always comes first, so every label is {labels[0]} ({n} pairs)"
        return [cause("labels", text)]
    text = f"photo_2 comes first in {turned} of {n} pairs, and the labels follow"
    return [cause("labels", text)] if turned else []


def judge_pairs(seen, sizes, recipe, steps, listed):
    """Findings on the size of the batches, their order, and how many make an update.

    sizes: of the batches; steps: how many make each update; listed: pairs of the training list.
    """
    findings = []
    if sizes and max(sizes) != recipe["batch_size"]:
        text = f"batches of {max(sizes)} pairs, not {recipe['batch_size']}"
        findings.append(cause("pairs", text))
    if max(steps, default=1) > 1:
        text = f"an update every {steps[0]} batches, not after each"
        if len(set(steps)) > 1:
            text = f"updates come after {', '.join(map(str, steps[:6]))} batches, not after each"
        findings.append(cause("pairs", text))
    places = [found[:2] for _, found in seen if found is not None]
    if not seen:
        text = "which pairs these are is not known, so their order is not judged"
        findings.append(skipped("pairs", text + ", nor the batch size" * (not sizes)))
    follow = all(b[1] == a[1] + 1 for a, b in itertools.pairwise(places))
    if len(places) > 8 and follow:
        findings.append(cause("pairs", "pairs come in the order of the list, unshuffled"))
    begins, known = [0, *itertools.accumulate(sizes)], len(places) == sum(sizes)
    batches = [places[a:b] for a, b in itertools.pairwise(begins)] if known else []
    twice = sum(len(batch) - len(set(batch)) for batch in batches)
    again = next((n for n, batch in enumerate(batches) if set(batch) & set(places[: begins[n]])), 0)
    if twice:
        text = f"{twice} of {len(places)} pairs come twice in their batch"
        findings.append(cause("pairs", text))
    elif again and begins[again] <= listed - max(sizes):
        text = f"pairs come again after {begins[again]} of {listed}: a part of the list"
        findings.append(cause("pairs", f"{text}, or drawn with replacement"))
    return findings
