"""Which rows of the stage `inputs` a trainer's preprocessing is, photo by photo."""

import dataclasses
import itertools
import math
from collections import Counter

import torch

from diagnose.nearest import changes_in
from diagnose.numerics import estimated
from diagnose.preprocessing import EXACT, affine_of, reference
from diagnose.residue import told_of
from diagnose.stages.values import NORMALIZED, PADDED, TIMES
from diagnose.stages.ways import COUNT, normalization, way
from run.findings import CAUSE, SKIPPED, UNEXPLAINED, Row

OFTEN = ("twice", *(f"{times} times" for times in range(3, TIMES + 1)))
SURE = 14  # bits that two batches share by no chance
FEW_OF_SIDE = 3  # photos; more are not all of one side by chance
FEW_BOXES = 3  # sizes that are told
OUTSIDE = "all of it outside of the photos, where the border is"
FEW = 2  # estimated values of photos in a batch, more than which are of each photo
# Where a value is estimated, and each photo has its own.
EACH = {
    PADDED: way("padding", "each", "padding_of_each", "each photo has a padding color of its own"),
    NORMALIZED: normalization(
        "each",
        "normalized_each",
        "each photo has a scale and shift of its own (normalized by itself, or color jitter)",
    ),
}
IN_PLACE = Row(
    "inputs.normalized_in_place",
    CAUSE,
    "{count} of {total} photos are normalized more than once, as where what is kept in memory is "
    "normalized in place at each access",
    varies=COUNT,
    help="normalize a copy: no sub_() or div_() on what is kept",
    at=("arithmetic", "dataset"),
)
SAME_DRAWS = Row(
    "inputs.same_draws",
    CAUSE,
    "the photos of batches {batches} are changed at random in the same way: the workers of a "
    "loader draw the same random numbers",
    help="seed every worker by its own number, in worker_init_fn",
    at=("dataset", "loader"),
)
NOT_REPRODUCED = Row(
    "inputs.not_reproduced",
    UNEXPLAINED,
    "{count} of {total} inputs match no known preprocessing"
    "[; {identified} photos were identified all the same][, and come nearest to: {nearest}]"
    "[, resized to {box} pixels][. They differ from that by up to {levels} of 255, in up to "
    "{share} % of the values][, {outside}][; they hold the same values, {moved}][; their values "
    "lie between {low} and {high}, in the reference between {least} and {most}][. In the {looked} "
    "that were looked into, {residue}]",
    varies=(*COUNT, "identified", "levels", "share", "box", "low", "high", "looked", "residue"),
)
NO_PHOTO = Row("inputs.no_photo", SKIPPED, "features were given: no photo was seen")


def judge_draws(batches):
    """The finding on random changes of the photos that are the same in two batches, in a list.

    batches: of each, what judge_inputs says of its inputs.
    """
    for (a, first), (b, second) in itertools.combinations(enumerate(batches, 1), 2):
        shares = [first.count(own) / len(first) for own in first]
        if None not in first and first == second and -sum(map(math.log2, shares)) > SURE:
            return [SAME_DRAWS.found(batches=(a, b))]
    return []


def judge_inputs(sides, official):
    """(findings, [B] of (path of photo_1, path of photo_2), of each input what of its preprocessing
    is not the reference's, None where nothing reproduces it) of a batch.

    The path is None where another photo is nearly as like: photos of a series are alike.
    """
    inputs = torch.cat([x.double() for x in sides.inputs])
    changes, paths, worst = official.identify(inputs)
    paths = [path if own is not None else None for path, own in zip(paths, changes, strict=True)]
    lost = [place for place, own in enumerate(changes) if own is None]
    findings = [] if lost else name_inputs(changes, worst)
    if lost:
        finding, nearest = look_at_lost(inputs[lost], len(inputs), official)
        for place, path in zip(lost, nearest, strict=True):
            paths[place] = path
        findings = [finding]
    half = len(paths) // 2
    return findings, list(zip(paths[:half], paths[half:], strict=True)), changes


def look_at_lost(inputs, total, official):
    """(the finding on inputs [N, 3, S, S] that nothing reproduces, of so many; the path of each
    one's photo, None where it is not sure).
    """
    nearest = official.nearest(inputs)
    own = [own for own, _ in nearest]
    finding = describe_lost(own, total, range_of(inputs), official.residues)
    return finding, [path for _, path in nearest]


def range_of(inputs):
    """{low, high: of the values of inputs, least, most: that the reference's can have}."""
    scale, shift = affine_of(reference())
    told = {"low": inputs.min(), "high": inputs.max()}
    told |= {"least": shift.min(), "most": (scale + shift).max()}
    return {name: estimated(float(value)) for name, value in told.items()}


def describe_lost(nearest, total, values, residues):
    """The finding on inputs that nothing reproduces; nearest: the Nearest of each, None where it is
    not sure which photo it shows; values: see range_of; residues: what is left of the first ones.
    """
    sure = [own for own in nearest if own is not None]
    counts = {"count": len(nearest), "total": total, "identified": len(sure)}
    counts |= {} if sure or residues else {"identified": None}
    told = dict.fromkeys(("nearest", "levels", "share", "box", "outside", "moved"))
    told |= {"looked": len(residues), "residue": told_of(residues)}
    if residues:  # which says more
        return NOT_REPRODUCED.found(**counts, **told, **dict.fromkeys(values))
    if not sure:
        return NOT_REPRODUCED.found(**counts, **told, **values)
    ways = {}  # those of one kind, whose estimated values differ
    for own in map(changes_in, sure):
        ways.setdefault(tuple(finding.row.choice for finding in own), []).append(own)
    common = max(ways.values(), key=len)[0]
    levels = estimated(max(own.levels for own in sure) if any(own.share for own in sure) else 0.0)
    share = estimated(100 * max(own.share for own in sure))
    boxes = dict.fromkeys(f"{own.box[0]} x {own.box[1]}" for own in sure if own.box)
    told["box"] = tuple(boxes)[:FEW_BOXES] or None
    told["outside"] = OUTSIDE if all(own.outside for own in sure) else None
    moved = {own.moved for own in sure}
    told["moved"] = moved.pop() if len(moved) == 1 and "" not in moved else None
    told |= {"nearest": (common,), "levels": levels, "share": share} | dict.fromkeys(values)
    return NOT_REPRODUCED.found(**counts, **told)


def name_inputs(changes, worst):
    """Findings on the preprocessing of the inputs of a batch; worst: the largest difference.

    changes: of each input its (Way, items of its values), or None where it is not reproduced.
    """
    first, places = {}, {}  # of choices that are called the same
    for place, own in enumerate(changes):
        for row, values in own:
            change = first.setdefault((row.id, row.text, values), (row, values))
            places.setdefault(change, []).append(place)
    counts, half = Counter({change: len(own) for change, own in places.items()}), len(changes) // 2
    for of_value, of_each in EACH.items():
        own = [change for change in counts if change[0] == of_value]
        if len(own) > FEW:
            counts[of_each, ()] = sum(counts.pop(change) for change in own)
            places[of_each, ()] = sorted(itertools.chain.from_iterable(map(places.get, own)))
    total = len(changes)
    often = [change for change in counts if change[0].choice in OFTEN]
    if sum(map(counts.get, often)) < total and often:
        counts[IN_PLACE, ()] = sum(map(counts.pop, often))
    proof = {"relative_error": worst, "tolerance": EXACT}
    findings = []
    for (row, values), count in counts.items():
        some = count if count < total or row is IN_PLACE else None
        own = places.get((row, values), [])
        side = {0: 1, half: 2}.get(own[0]) if len(own) == half > FEW_OF_SIDE else None
        side = side if side and own == list(range(own[0], own[0] + half)) else None
        found = row.found(**dict(values), count=some, total=total, side=side)
        findings.append(dataclasses.replace(found, **proof))
    return findings
