"""Which loss a trainer takes: the row of diagnose/changes.py that gives, of every recorded batch,
the loss and its gradient at the trainer's own logits.
"""

import math
from typing import NamedTuple

import torch

from diagnose.changes import LOSSES, margin_terms
from diagnose.finding import cause, harmless, skipped, stated, unknown
from diagnose.replay import FORMULA, column, gap, number


class Evidence(NamedTuple):
    """What one recorded batch says of the loss."""

    logits: torch.Tensor  # [B, 2]; of a trainer with one logit, 0 and that one
    label: torch.Tensor  # [B], as it entered the step
    shares: torch.Tensor | None  # [B], of the people who prefer photo_2
    loss: torch.Tensor
    gradient: torch.Tensor  # [B, 2], of the loss at the logits
    single: bool  # whether there is one logit


class Fit(NamedTuple):
    """A loss that gives all batches."""

    name: str
    swapped: bool  # whether it took 1 - label
    value: object
    factors: list  # by which it is multiplied, for each batch
    worst: float  # largest relative difference


def evidence_of(batch, labels, pairs):
    """(findings, the Evidence of a batch or None where its loss cannot be judged).

    labels: see diagnose.pairs.label_of; pairs: the official ones, whose labels stand in for them.
    """
    logits, slopes = logits_of(batch)
    if logits.dim() != 2 or logits.shape[1] > 2:
        text = "the head does not end in two logits, nor in one; the loss is not judged"
        return [unknown("loss", text)], None
    if logits.dtype in (torch.float16, torch.bfloat16):
        text = f"the logits are in {str(logits.dtype)[6:]}, too coarse; record without --as-is"
        return [skipped("loss", text)], None
    official = bool(pairs) and None not in pairs
    if not slopes or not (labels or official):
        return [unknown("loss", "no labels were seen; the loss is not judged")], None
    label, shares = labels[0] if labels else torch.tensor([pair[2] for pair in pairs]), None
    if official:
        first = torch.tensor([row["preference"] for *_, row in pairs], dtype=torch.float64)
        turned = torch.tensor([turned for *_, turned, _ in pairs])
        shares = torch.where(turned, first, 1 - first)
    slope, loss = slopes[0].double(), batch["backwards"][0]["loss"]
    single = logits.shape[1] == 1
    if single:
        logits, slope = torch.cat([0 * logits, logits], 1), torch.cat([-slope, slope], 1)
    return [], Evidence(logits, label, shares, loss, slope, single)


def logits_of(batch):
    """(what the last layer gives or, where none is, what joins two scores, [B, 1 or 2]; the
    gradients at it).
    """
    places = [i for i, entry in enumerate(batch["head"]) if "dropout" not in entry["op"]]
    made = batch["head"][places[-1]]["output"] if places else batch["merged"]
    slopes = batch["gradients"].get(f"output_{places[-1]}" if places else "merged", [])
    return column(made), list(map(column, slopes))


def is_turned(view):
    """Whether a loss that fits the other label says that the logits are the other way round."""
    told = any(entry["ops"] for entry in view.batch["labels"])
    return view.evidence.single or (exchanged(view.batch) and not told)


def exchanged(batch):
    """Whether an op that can exchange the two logits stands between the head and the loss."""
    last = max((i for i, op in enumerate(batch["ops"]) if op == "linear"), default=0)
    return any(op in ("__getitem__", "flip", "index_select", "roll") for op in batch["ops"][last:])


def words_of_swapped(batch):
    """What it is called that the loss fits the other label."""
    if any(entry["ops"] for entry in batch["labels"]):
        return "labels are inverted in the loss"
    if exchanged(batch):
        return "the two logits are exchanged behind the head"
    return "labels are inverted in the loss, or the two logits are exchanged behind the head"


def judge_loss(seen, swapped_words):
    """(findings, the Fit to all batches or None).

    seen: Evidence of every batch; a loss that fits one batch and not the next explains nothing.
    """
    tolerance = FORMULA[any(batch.logits.dtype != torch.float64 for batch in seen)] * 10
    usual, others = [*LOSSES][:1], [*LOSSES][1:]
    for swapped, names in ((False, usual), (True, usual), (False, others), (True, others)):
        fits = [fit for name in names if (fit := reproduce(name, seen, swapped, tolerance))]
        if fits:
            break
    else:
        return [unknown("loss", describe_rest(seen, tolerance, swapped_words))], None
    plain = [fit for fit in fits if fit.name == "cross-entropy"]
    alone = [fit for fit in fits if max(abs(f - 1) for f in fit.factors) < 1e-6]
    fits = plain or alone or fits  # one change, rather than one and a factor
    return name_fits(fits, swapped_words, seen[0].single), fits[0]


def reproduce(name, seen, swapped, tolerance):
    """The Fit of one row of LOSSES to all batches, or None."""
    row = LOSSES[name]
    if row.shares and any(batch.shares is None for batch in seen):
        return None
    for value in solve(row, seen, swapped) if row.solve else [None]:
        made = [evaluate(row, batch, swapped, value) for batch in seen]
        slopes = zip((slope for _, slope in made), seen, strict=True)
        factors = [best_factor(slope, batch.gradient) for slope, batch in slopes]
        worst = max(map(departure, factors, made, seen))
        negated = all(abs(factor + 1) < 1e-6 for factor in factors)
        if (min(factors) > 0 or negated) and worst <= tolerance:
            return Fit(name, swapped, value, factors, worst)
    return None


def departure(factor, made, batch):
    """Largest relative difference of a made (loss, gradient), times the factor, from a batch's."""
    loss, slope = made
    return max(gap(factor * slope, batch.gradient), gap(factor * loss, batch.loss.double()))


def evaluate(row, batch, swapped, value=None):
    """(mean of the terms, gradient at the logits) of a loss, in double."""
    z = batch.logits.double().clone().requires_grad_()
    value = batch.shares if row.shares else torch.tensor(value or 0.0, dtype=torch.float64)
    terms = row.terms(z, 1 - batch.label if swapped else batch.label, value)
    (slope,) = torch.autograd.grad(terms.mean(), z, allow_unused=True)
    return terms.mean().detach(), slope if slope is not None else torch.zeros_like(z)


def best_factor(slope, gradient):
    """The factor by which a gradient comes nearest to the recorded one."""
    return float((slope * gradient).sum() / (slope**2).sum().clamp(min=1e-300))


def solve(row, seen, swapped):
    """The values with which a loss comes nearest to all gradients, by golden section."""
    if row.terms is margin_terms:  # a flat gradient: the margin is what the loss says
        return [margin_of(batch, swapped) for batch in seen if batch.gradient.any()][:1]

    def miss(value):
        slopes = [(evaluate(row, batch, swapped, value)[1], batch.gradient) for batch in seen]
        rest = [float((best_factor(s, g) * s - g).norm() / g.norm()) for s, g in slopes]
        return sum(rest) if all(map(math.isfinite, rest)) else math.inf

    low, high = row.solve
    grid = [low + (high - low) * (i / 60) ** 2 for i in range(61)]
    start = min(range(61), key=lambda i: miss(grid[i]))
    a, b = grid[max(0, start - 1)], grid[min(60, start + 1)]
    for _ in range(80):
        c, d = b - (b - a) * 0.6180339887498949, a + (b - a) * 0.6180339887498949
        a, b = (a, d) if miss(c) < miss(d) else (c, b)
    middle = (a + b) / 2
    return [round(middle, 3), middle] if abs(round(middle, 3) - middle) < 1e-5 else [middle]


def margin_of(batch, swapped):
    """The margin of a hinge that gives the loss of a batch."""
    z, y = batch.logits.double(), (1 - batch.label if swapped else batch.label)[:, None]
    active = (batch.gradient.abs().sum(1) > 0).double()
    ahead = (z.gather(1, y) - z.gather(1, 1 - y))[:, 0]
    return float((batch.loss * len(y) + (ahead * active).sum()) / active.sum())


def name_fits(fits, swapped_words, single):
    """Findings on the losses that fit equally; those of one sentence are one.

    single: whether there is one logit, which may speak for either photo.
    """
    ways, found = set(), []
    for fit in fits:
        row = LOSSES[fit.name]
        words = row.sentence.format(value=number(fit.value) if row.solve else "")
        swapped = swapped_words * (fit.swapped and not single)
        ways.add(tuple(word for word in (swapped, words) if word))
    if fits[0].swapped and single:
        text = "the one logit speaks for photo_1; so must what reads it"
        found.append(stated("loss", text))
    if len(ways) == 1:
        return found + [cause("loss", word, fits[0].worst) for word in ways.pop()]
    words = "one of: " + "; ".join(" and ".join(way) or "the reference" for way in sorted(ways))
    return [*found, cause("loss", words, fits[0].worst)]


def describe_rest(seen, tolerance, swapped_words):
    """What is known of a loss that no row gives."""
    made = [(evaluate(LOSSES["cross-entropy"], batch, False), batch) for batch in seen]
    (loss, slope), worst = max(made, key=lambda pair: departure(1, *pair))
    if gap(slope, worst.gradient) <= tolerance:
        more = number(float(worst.loss) - float(loss))
        return f"{more} is added to the loss, which does not go through these logits"
    if len(seen) > 1:
        alone = [f for f in judge_loss([worst], swapped_words)[0] if f.kind == "cause"]
        if alone:
            words = " and ".join(f.sentence for f in alone)
            return f"what fits one step does not fit the next: {words}"
    return f"none of {2 * len(LOSSES)} losses gives the loss and its gradient at the logits"


def judge_factors(factors, pairs, groups):
    """Findings on the factors of the losses; pairs and groups: pairs of each batch, and batches
    of its update.
    """
    if all(abs(factor - 1) <= 1e-4 for factor in factors):
        return []
    if all(abs(f * k - 1) < 1e-4 and k > 1 for f, k in zip(factors, groups, strict=True)):
        return [harmless("loss", f"the loss is divided by the {groups[0]} batches of an update")]
    if all(abs(f / n - 1) < 1e-4 for f, n in zip(factors, pairs, strict=True)):
        text = "the sum over the pairs, not the mean"
        text += " (or the mean times the batch size)" * (len(set(pairs)) == 1)
        return [cause("loss", text)]
    if max(factors) / min(factors) - 1 < 1e-4:
        return [cause("loss", f"the loss is multiplied by {number(factors[0])}")]
    told = ", ".join(map(number, factors[:3]))
    return [unknown("loss", f"the loss is multiplied by another factor in each batch: {told}")]
