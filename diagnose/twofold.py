"""Inputs that show two photos: one through the other, or one where the other is not."""

import torch

from diagnose.recognition import box_of
from diagnose.residue import ROUNDED, SMALLEST, Residue

LEAST = 0.02  # share of a photo that is told
APART = 4.0  # times that one photo alone must leave more than two
WHOLE = 0.98  # share of the values that depart from one photo, that are the other's, at least
AROUND = "the border around each photo shows another photo, as of a canvas that is used again"


def mix_of(x, made, names):
    """(place of the photo with the larger share, Residue) of an input [3, S, S] that is a sum of
    two photos; None where it is not.

    x, made: of photos as the reference has them [P, 3, S, S], normalized, in levels of 255 with 0
    for the mean color; names: of their files.
    """
    flat, own = made.flatten(1), x.flatten()
    squares, shares = flat @ flat.T, flat @ own
    diagonal = squares.diagonal()
    area = diagonal[:, None] * diagonal - squares**2
    area = torch.where(area > 1e-6 * diagonal[:, None] * diagonal, area, torch.inf)
    first = (shares[:, None] * diagonal - shares * squares) / area  # [P, P], of the one in a row
    gains = first * shares[:, None]
    left = (own @ own) - gains - gains.T
    a, b = divmod(int(left.argmin()), len(flat))
    a, b = (a, b) if float(first[a, b]) >= float(first[b, a]) else (b, a)
    factors = float(first[a, b]), float(first[b, a])
    miss = float((factors[0] * flat[a] + factors[1] * flat[b] - own).abs().mean())
    alone = min(float((own - (own @ p) / (p @ p) * p).abs().mean()) for p in (flat[a], flat[b]))
    if miss > ROUNDED or min(map(abs, factors)) < LEAST or alone < APART * max(miss, SMALLEST):
        return None
    terms = (f"{f:.3g} x {names[p]}" for f, p in zip(factors, (a, b), strict=True))
    return a, Residue("each input is a sum of two photos", " + ".join(terms), miss)


def patch_of(x, made, names, insides):
    """As mix_of, of an input each value of which is that of one of two photos.

    insides: where each photo lies, [P, S, S].
    """
    same = ((made - x).abs() <= SMALLEST).flatten(1)
    shares = same.double().mean(1)
    a = int(shares.argmax())
    given = same[:, ~same[a]].double().mean(1)
    if same[a].all():
        return None
    b = int(given.argmax())
    others = torch.cat([given[:b], given[b + 1 :]])
    if float(given[b]) < WHOLE or bool((others > given[b] / 2).any()):
        return None
    departs = ((x - made[a]).abs() > SMALLEST).any(0)
    if not bool((departs & insides[a]).any()):
        return a, Residue(AROUND, f"{names[b]} around {names[a]}", 0.0)
    left, top, width, height = box_of(departs)
    words = f"{names[b]} in {names[a]} within {width} x {height} pixels at ({left}, {top})"
    return a, Residue("part of each input is another photo", words, 0.0)


def twofold_of(x, made, names, insides):
    """(place of the photo that an input shows most of, Residue); None where it does not show two.

    See mix_of and patch_of.
    """
    return mix_of(x, made, names) or patch_of(x, made, names, insides)
