"""Which rows of the stage `loss` a trainer's loss is, in all batches at once."""

import math
from typing import NamedTuple

import torch

from diagnose.criterion import Evidence, Recipe, logits_of, recipe_of
from diagnose.explain import alone, explain, findings_of
from diagnose.numerics import estimated, relative_error
from diagnose.stages.gradients import CUT, is_cut
from diagnose.stages.head import OF_LOGITS
from diagnose.stages.judge_rows import describe_rows
from diagnose.stages.loss import (
    ADDED,
    COARSE,
    CONTRADICTION,
    DIVIDED,
    EITHER,
    EVERY_LABEL,
    FACTOR,
    FACTORS,
    FIRST_LOGIT,
    INVERTED,
    LOGITS_SWAPPED,
    LOSSES,
    NO_GRADIENT,
    NO_LABELS,
    NO_LOGITS,
    NONE_OF,
    ONE_OF,
    SUM,
)


def evidence_of(batch, labels, pairs):
    """(findings, the Evidence of a batch or None where its loss cannot be judged).

    labels: see diagnose.stages.labels.label_of; pairs: the OfficialPair of each, whose labels
    replace them.
    """
    logits, logit_grads = logits_of(batch)
    if logits.dim() != 2 or logits.shape[1] > 2:
        return [NO_LOGITS.found()], None
    if logits.dtype in (torch.float16, torch.bfloat16):
        return [COARSE.found(dtype=str(logits.dtype)[6:])], None
    official = bool(pairs) and None not in pairs
    if is_cut(batch):
        return [CUT.found(), NO_GRADIENT.found()], None
    if not logit_grads or not (labels or official):
        return [NO_LABELS.found()], None
    label, shares = labels[0] if labels else torch.tensor([pair.label for pair in pairs]), None
    if official:
        first = torch.tensor([pair.row["preference"] for pair in pairs], dtype=torch.float64)
        swapped = torch.tensor([pair.swapped for pair in pairs])
        shares = torch.where(swapped, first, 1 - first)
    logit_grad, value = logit_grads[0].double(), batch.backwards[0].loss
    single = logits.shape[1] == 1
    if single:
        logits, logit_grad = (
            torch.cat([0 * logits, logits], 1),
            torch.cat([-logit_grad, logit_grad], 1),
        )
    return [], Evidence(logits, label, shares, value, logit_grad, single)


def outputs_swapped(view):
    """Whether a loss that fits the other label says that the logits are the other way round."""
    turned = any(entry.ops for entry in view.batch.labels)
    return view.evidence.single or (can_swap(view.batch) and not turned)


def can_swap(batch):
    """Whether an op that can swap the two logits comes between the head and the loss."""
    last = max((i for i, op in enumerate(batch.ops) if op == "linear"), default=0)
    return any(op in ("__getitem__", "flip", "index_select", "roll") for op in batch.ops[last:])


def inversion_of(batch):
    """The row of a loss that fits the other label."""
    if any(entry.ops for entry in batch.labels):
        return INVERTED
    return LOGITS_SWAPPED if can_swap(batch) else EITHER


VALUE = 1e-5  # relative difference of two losses that are one
EXACT = [row for row in LOSSES if row.values is None]  # whose value is not estimated
LEVELS = (
    [()],
    [(INVERTED,)],
    [(row,) for row in LOSSES],
    [(INVERTED, row) for row in LOSSES],
    [(OF_LOGITS,), (EVERY_LABEL,)],
    [(INVERTED, OF_LOGITS), *((EVERY_LABEL, row) for row in EXACT)],
    [(INVERTED, EVERY_LABEL, row) for row in EXACT],
)


class Fit(NamedTuple):
    """A loss that gives all batches."""

    changes: tuple  # findings
    factors: list  # by which it is multiplied, for each batch

    @property
    def inverted(self):
        """Whether it takes the other label."""
        return recipe_of(self.changes).inverted


def judge_loss(batches, inversion, known):
    """(findings, the Fit to all batches or None).

    batches: Evidence of each. inversion: the row of a loss that takes 1 - label; None where labels
    come in inverted. known: [(step, RecordedPairs)] of each.
    """
    found = explain(batches, LEVELS)
    if not found.fits:
        return [describe_rest(batches, found.tried), *describe_rows(batches, known)], None
    fits = [Fit(changes, [batch.factor(changes) for batch in batches]) for changes in found.fits]
    plain = [fit for fit in fits if max(abs(f - 1) for f in fit.factors) < 1e-6]
    fits = plain or fits  # one change, rather than one and a factor
    found = found._replace(fits=tuple(fit.changes for fit in fits))
    return name_fits(found, fits[0].inverted, inversion, batches[0].single), fits[0]


def name_fits(found, inverted, inversion, single):
    """Findings on the losses that fit equally; those of one meaning are one.

    inverted: whether the first takes 1 - label; inversion: see judge_loss; single: whether there is
    one logit, which may speak for either photo.
    """

    def named(finding):
        if finding.row is not INVERTED:
            return [finding]
        return [inversion.found()] if inversion and not single else []

    fits = tuple(tuple(f for finding in fit for f in named(finding)) for fit in found.fits)
    # labels that come in inverted make a logit of photo_1 as well, and both together none
    findings = [FIRST_LOGIT.found()] * (single and inverted != (inversion is None))
    return findings + findings_of(found._replace(fits=fits), ONE_OF)


def describe_rest(batches, tried):
    """The finding on a loss that no row gives in all batches."""
    made = [(batch.replay(Recipe()), batch) for batch in batches]
    (value, logit_grad), worst = max(made, key=lambda pair: pair[1].departure(pair[0]))
    if relative_error(logit_grad, worst.gradient) <= worst.error(())[1]:
        return ADDED.found(added=estimated(float(worst.loss) - float(value)))
    estimates = alone([worst], LEVELS) if len(batches) > 1 else ()
    if estimates:
        return CONTRADICTION.found(estimates=estimates)
    alike = (
        words for words, recipe in (("the cross-entropy", Recipe()),
                                    ("the cross-entropy of 1 - label", Recipe(inverted=True)))
        if all(math.isclose(float(b.replay(recipe)[0]), float(b.loss), rel_tol=VALUE)
               for b in batches)
    )  # fmt: skip
    return NONE_OF.found(tried=tried, value=next(alike, None))


def judge_factors(factors, pairs, groups):
    """Findings on the factors of the losses; pairs and groups: pairs of each batch, and batches
    of its update.
    """
    if all(abs(factor - 1) <= 1e-4 for factor in factors):
        return []
    if all(abs(f * k - 1) < 1e-4 and k > 1 for f, k in zip(factors, groups, strict=True)):
        return [DIVIDED.found(batches=groups[0])]
    if all(abs(f / n - 1) < 1e-4 for f, n in zip(factors, pairs, strict=True)):
        return [SUM.found(batch_size=pairs[0] if len(set(pairs)) == 1 else None)]
    if max(factors) / min(factors) - 1 < 1e-4:
        return [FACTOR.found(factor=estimated(factors[0]))]
    return [FACTORS.found(factors=tuple(map(estimated, factors[:3])))]
