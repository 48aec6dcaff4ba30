"""Relations of whole rows and columns; see diagnose.relation."""

import torch

from diagnose.describe import SEVERAL
from diagnose.numerics import estimated, relative_error
from diagnose.related import ENOUGH, TOLD, is_near, listed

MOST_ROWS = 64  # of a batch; each is sought among the others


def as_groups(related, tolerance):
    """Those of each row or column multiplied by a number, or with a number added."""
    for kind in ("rows", "columns"):
        groups = [(own, getattr(own, kind)) for own in related]
        groups = [(own, g.unique(return_inverse=True)[1]) for own, g in groups if g is not None]
        groups = [(own, g) for own, g in groups if len(g) >= ENOUGH * (int(g.max()) + 1)]
        if not groups:
            continue
        known = f" (seen in {len(groups)} of {len(related)}, of which enough is recorded)"
        some = known * (len(groups) < len(related))
        for act in (times_each, plus_each, linear_each):
            words = act(groups, tolerance, kind.removesuffix("s"))
            if words:
                return words + some
    return None


def summed(values, groups):
    """[G] sums of values [N] of each group."""
    return torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add(0, groups, values)


def times_each(groups, tolerance, kind):
    """Those of each group multiplied by a number of its own."""
    all_factors, lengths = [], []
    for own, g in groups:
        factors = summed(own.made * own.seen, g) / summed(own.made**2, g).clamp(min=1e-300)
        if not is_near(factors[g] * own.made, own.made, own.seen, tolerance):
            return None
        all_factors.append(factors)
        if own.width:
            lengths.append(summed(own.seen**2, g).sqrt())
    if lengths and len(lengths) == len(groups):
        length = torch.cat(lengths)
        if float(length.std()) <= tolerance * float(length.mean()) and len(length) > 1:
            return f"each {kind} brought to length {estimated(float(length.mean()))}"
    if bool(((torch.cat(all_factors) - 1).abs() <= TOLD).all()):
        return None
    return f"each {kind} multiplied by a number of its own, {listed(torch.cat(all_factors))}"


def plus_each(groups, tolerance, kind):
    """A number of its own added to those of each group."""
    shifts, means = [], []
    for own, g in groups:
        count = summed(torch.ones_like(own.made), g)
        shift = summed(own.seen - own.made, g) / count
        if not is_near(own.made + shift[g], own.made, own.seen, tolerance):
            return None
        shifts.append(shift)
        means.append(summed(own.made, g) / count)
    shift, mean = torch.cat(shifts), torch.cat(means)
    if all(own.width for own, _ in groups) and relative_error(-mean, shift) <= 10 * tolerance:
        return f"with the mean of each {kind} taken off"
    return f"with a number of its own added to each {kind}, {listed(shift)}"


def linear_each(groups, tolerance, kind):
    """Those of each group scaled and shifted by numbers of its own, as a normalization does."""
    means, spreads, all_factors = [], [], []
    for own, g in groups:
        count = summed(torch.ones_like(own.made), g)
        made, seen = (v - (summed(v, g) / count)[g] for v in (own.made, own.seen))
        factors = summed(made * seen, g) / summed(made**2, g).clamp(min=1e-300)
        mean = summed(own.seen, g) / count
        if not is_near(factors[g] * made + mean[g], own.made, own.seen, tolerance):
            return None
        all_factors.append(factors)
        means.append(mean)
        spreads.append((summed(seen**2, g) / count).sqrt())
    if bool(((torch.cat(all_factors) - 1).abs() <= TOLD).all()):
        return None
    mean, spread = torch.cat(means), torch.cat(spreads)
    if float(spread.max()) <= tolerance * float(mean.abs().max()):
        return f"one number all over each {kind}, {listed(mean)}"
    return (f"each {kind} scaled and shifted by numbers of its own, "
            f"to means {listed(mean)} and deviations {listed(spread)}")  # fmt: skip


def as_moved(related, tolerance):
    """Whole rows or columns at other places."""
    if len(related) > 1 or not related[0].width:
        return None
    made, seen = (t.view(-1, related[0].width) for t in (related[0].made, related[0].seen))
    for kind, a, b in (("rows", made, seen), ("columns", made.T, seen.T)):
        if len(a) < 2 or a.shape[1] < 2 or (kind == "rows" and len(a) > MOST_ROWS):
            continue
        own = torch.cdist(b, a, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        if relative_error(a[own], b) <= tolerance:
            return moved_words(kind, own)
    return None


def as_reordered(related, tolerance):
    """The values of each row at other places in it, sorted as by an op in place."""
    if not all(own.width > 1 for own in related):
        return None
    pairs = [[t.view(-1, own.width) for t in (own.made, own.seen)] for own in related]
    ordered = [[t.sort(1).values for t in pair] for pair in pairs]
    if any(relative_error(*pair) > tolerance for pair in ordered):
        return None
    for word, sign in (("ascending", 1), ("descending", -1)):
        if all(bool((sign * seen.diff(dim=1) >= 0).all()) for _, seen in pairs):
            return f"with the values of each row sorted, {word}"
    return "with the values of each row at other places in it"


def moved_words(kind, own):
    """How rows or columns are moved; own: [N], where each comes from."""
    numbers = torch.arange(len(own))
    if torch.equal(own, numbers.flip(0)):
        return f"with the {kind} in reverse order"
    steps = ((numbers - own) % len(own)).unique()
    if len(steps) == 1:
        return f"with the {kind} moved on by {int(steps)}"
    some = [f"{int(n) + 1} is that of {int(own[n]) + 1}" for n in numbers if own[n] != n]
    order = "in another order" if len(own.unique()) == len(own) else "taken from others"
    return f"with the {kind} {order}: {', '.join(some[:SEVERAL])}{' ...' * (len(some) > SEVERAL)}"


def as_mixed(related, tolerance):
    """Each row a mix of the rows of the batch."""
    if len(related) > 1 or not related[0].width:
        return None
    made, seen = (t.view(-1, related[0].width) for t in (related[0].made, related[0].seen))
    if not 1 < len(made) <= MOST_ROWS or made.shape[1] < 2 * len(made):
        return None
    mix = torch.linalg.lstsq(made.T, seen.T).solution.T
    if relative_error(mix @ made, seen) > tolerance:
        return None
    terms = [f"{estimated(float(w))} x row {n}" for n, w in enumerate(mix[0], 1)
             if abs(float(w)) > 1e-6]  # fmt: skip
    more = " ..." if len(terms) > SEVERAL else ""
    return f"each row a mix of the rows of its batch: row 1 is {' + '.join(terms[:SEVERAL])}{more}"
