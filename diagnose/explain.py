"""The one search: which changes of the reference reproduce what was recorded, in every step.

A stage gives a Replay of each recorded batch, step or series of figures, and levels of changes to
try: the reference alone, one change, two. What fits one replay and not the next explains nothing.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from run.findings import CAUSE, UNEXPLAINED, Row

DIGITS = 12  # of an estimated value, at most
NEAR = 1e-3  # relative change by which an estimated value may be shortened


@dataclass(frozen=True)
class Change(Row):
    """A row that is tried: the reference with it is replayed.

    act: what it does to the reference's part in its stage, see there; the last argument are the
    values of its finding. values(replays, changes): dicts of what it may be found with, read from
    the record or estimated with these other changes in place; None: it has no value. each: whether
    its values are answers of their own; all that fit are reported.
    """

    act: Callable = None
    values: Callable = None
    each: bool = False


class Replay(Protocol):
    """One recorded batch, step or series of figures, and what the reference gives instead.

    shown: findings that its record itself shows, which are always tried along. size: how many
    recorded numbers are compared.
    """

    shown: tuple
    size: int

    def error(self, changes):
        """(relative error of the reference with these findings, its tolerance)."""


class Explanation(NamedTuple):
    """What reproduces all replays.

    fits: tuples of findings that each do so equally well; () where none does. shown: those
    of each replay, without what makes no difference.
    """

    fits: tuple
    shown: tuple
    relative_error: float  # the largest that is left
    tolerance: float
    size: int  # how many recorded numbers are compared in all
    tried: int
    nearest: float  # relative error: what the best of all tried left

    def proves(self, finding):
        """A finding with what this rests on."""
        error, tolerance = self.relative_error, self.tolerance
        proof = {"relative_error": error, "tolerance": tolerance, "size": self.size}
        return dataclasses.replace(finding, **proof)


def act_on(recipe, changes):
    """A recipe with some findings, whose rows act on it one after the other."""
    for finding in changes:
        recipe = finding.row.act(recipe, finding.values)
    return recipe


def combinations_of(rows, most=2):
    """Levels of up to `most` of these rows at once, the reference alone first."""
    for size in range(most + 1):
        yield list(itertools.combinations(rows, size))


def explain(replays, levels):
    """The Explanation of the first level of tuples of rows in which some reproduce all replays."""
    tried, nearest = 0, math.inf
    shown, size = tuple(replay.shown for replay in replays), sum(r.size for r in replays)
    for level in levels:
        fits = []
        for rows in level:
            for changes in candidates(replays, rows):
                tried += 1
                error, tolerance = worst_error(replays, shown, changes)
                nearest = min(nearest, error)
                if error <= tolerance:
                    fits.append(changes)
                    if not any(row.each for row in rows):
                        break  # its other values are no better
        if fits:
            shown = needed(replays, shown, fits[0])
            fits = tuple(shortest(replays, shown, changes) for changes in fits)
            errors = worst_error(replays, shown, fits[0])
            return Explanation(fits, shown, *errors, size, tried, nearest)
    return Explanation((), shown, math.inf, 0.0, size, tried, nearest)


def explain_each(replays, levels):
    """The Explanation of each of some replays, one for all or, where none is, of the reference.

    A replay that the reference reproduces is so, whatever happens in the others.
    """
    found = explain(replays, levels)
    if found.fits:
        return [found._replace(shown=(shown,)) for shown in found.shown]
    owns = [explain([replay], [[()]]) for replay in replays]
    return [own if own.fits else own._replace(tried=found.tried, nearest=found.nearest)
            for own in owns]  # fmt: skip


def candidates(replays, rows, changes=()):
    """Tuples of findings of these rows, with each of the values that they may have."""
    if not rows:
        yield changes
        return
    first, *rest = rows
    for values in first.values(replays, changes) if first.values else [{}]:
        yield from candidates(replays, rest, (*changes, first.found(**values)))


def worst_error(replays, shown, changes):
    """(largest relative error, largest tolerance); of the first replay that is not reproduced."""
    errors = [(0.0, 0.0)]
    for replay, known in zip(replays, shown, strict=True):
        error, tolerance = replay.error((*known, *changes))
        if not error <= tolerance:
            return error, tolerance
        errors.append((error, tolerance))
    error, tolerance = map(max, zip(*errors, strict=True))
    return error, tolerance


def needed(replays, shown, changes):
    """What the records show, without the rows that can be left out of every replay."""
    for row in dict.fromkeys(finding.row for known in shown for finding in known):
        less = tuple(tuple(f for f in known if f.row is not row) for known in shown)
        error, tolerance = worst_error(replays, less, changes)
        shown = less if error <= tolerance else shown
    return shown


def shortest(replays, shown, changes):
    """The findings with their estimated numbers as short as all replays allow."""
    places = [(place, name) for place, finding in enumerate(changes)
              for name, value in finding.values.items() if isinstance(value, float)]  # fmt: skip
    for place, name in places:
        finding = changes[place]
        for digits in range(1, DIGITS):
            value = float(f"{finding.values[name]:.{digits}g}")
            trial = dataclasses.replace(finding, values=finding.values | {name: value})
            trial = (*changes[:place], trial, *changes[place + 1 :])
            error, tolerance = worst_error(replays, shown, trial)
            near = abs(value - finding.values[name]) <= NEAR * abs(value)
            if near and error <= tolerance:
                changes = trial
                break
    return changes


def contradiction(stage):
    """The row of what reproduces one step and not the next."""
    text = "what reproduces one step does not reproduce the next: {estimates}"
    return Row(f"{stage}.contradiction", UNEXPLAINED, text)


def alone(replays, levels):
    """What reproduces each of some replays by itself: one tuple of findings for each that differs
    from the reference.
    """
    fits = []
    for replay in replays:
        found = explain([replay], levels)
        own = (*found.shown[0], *found.fits[0]) if found.fits else ()
        if own and own not in fits:
            fits.append(own)
    return tuple(fits)


def one_of(stage):
    """The row of several explanations that reproduce all replays equally."""
    return Row(f"{stage}.one_of", CAUSE, "one of: {ways}")


def findings_of(explanation, row):
    """The findings of an explanation that hold in all replays; row: see one_of."""
    ways = tuple(tuple(map(explanation.proves, fit)) for fit in explanation.fits)
    return list(ways[0]) if len(ways) == 1 else [explanation.proves(row.found(ways=ways))]
