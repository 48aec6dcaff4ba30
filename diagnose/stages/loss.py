"""The loss: which row of LOSSES gives it and its gradient, in every batch, at its own logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from diagnose.criterion import Evidence, Recipe, cross_entropy, logits_of, nearest_value, recipe_of
from diagnose.explain import Change, alone, contradiction, explain, findings_of, one_of
from diagnose.numerics import estimated, relative_error
from run.findings import CAUSE, DECLARED, HARMLESS, SKIPPED, UNEXPLAINED, Row


@dataclass(frozen=True)
class Loss(Change):
    """A change of the loss: act(diagnose.criterion.Recipe, values of its finding)."""

    act: Callable = None


def loss(name, text, terms, between=None, shares=False, **options):
    """A Loss of this stage: terms(logits [B, 2], label [B], value) [B], whose mean it is.

    between: two bounds of a value that is estimated from all batches; shares: whether the value is
    the official shares [B] of people that prefer photo_2.
    """
    if between:
        low, high = between
        options["values"] = lambda batches, others: nearest_value(terms, batches, others, low, high)

    def act(recipe, values):
        value = (lambda batch: batch.shares) if shares else values.get("value", 0.0)
        return recipe._replace(terms=terms, value=value)

    return Loss(f"loss.{name}", CAUSE, text, act=act, **options)


def one_hot(z, y):
    """Labels [B] as [B, 2] of 0 and 1."""
    return F.one_hot(y, 2).to(z.dtype)


def ahead(z, y):
    """By how much the logit of the label is larger than the other, [B]."""
    return (z.gather(1, y[:, None]) - z.gather(1, 1 - y[:, None]))[:, 0]


def focal(z, y, gamma):
    """Focal loss [B]."""
    terms = cross_entropy(z, y)
    return (1 - torch.exp(-terms)) ** gamma * terms


def weighted(z, y, weight):
    """Class 1 counts `weight` times as much as class 0, as in NLLLoss(weight=...)."""
    weights = torch.where(y == 1, weight, torch.ones_like(weight)).to(z.dtype)
    return cross_entropy(z, y) * weights * len(y) / weights.sum()


def by_agreement(z, y, share):
    """Cross-entropy in which each pair counts as much as the people agree on it."""
    return cross_entropy(z, y) * torch.maximum(share, 1 - share)


def over_sum(terms):
    """Weighted terms whose mean is over the sum of the weights, not over the pairs."""
    return lambda z, y, v: terms(z, y, v) * len(y) / torch.maximum(v, 1 - v).sum()


def margins(batches, changes):
    """Estimates a margin, whose gradient is flat, by what the loss says."""
    inverted = recipe_of(changes).inverted
    active = [batch for batch in batches if batch.gradient.any()]
    return [{"value": margin_of(batch, inverted)} for batch in active[:1]]


LOSSES = (
    loss(
        "softmax_twice",
        "softmax is applied before the cross-entropy, which applies it again",
        lambda z, y, v: cross_entropy(z.softmax(1), y),
    ),
    loss(
        "nll_of_probabilities",
        "NLLLoss receives probabilities (reference: log-probabilities)",
        lambda z, y, v: -z.softmax(1).gather(1, y[:, None])[:, 0],
    ),
    loss(
        "bce_of_both",
        "binary cross-entropy is computed for each logit by itself",
        lambda z, y, v: F.binary_cross_entropy_with_logits(z, one_hot(z, y), reduction="none").mean(
            1
        ),
    ),
    loss(
        "mse_of_probabilities",
        "the loss is the mean squared error of the probabilities",
        lambda z, y, v: ((z.softmax(1) - one_hot(z, y)) ** 2).mean(1),
    ),
    loss(
        "mse_of_logits",
        "the loss is the mean squared error of the logits",
        lambda z, y, v: ((z - one_hot(z, y)) ** 2).mean(1),
    ),
    loss(
        "softmax_over_batch",
        "softmax runs over the batch, dim=0 (reference: over the two logits, dim=1)",
        lambda z, y, v: F.nll_loss(F.log_softmax(z, 0), y, reduction="none"),
    ),
    loss(
        "all_labels",
        "each pair is compared with the labels of all pairs: log_probabilities[:, label]",
        lambda z, y, v: -F.log_softmax(z, 1)[:, y].mean(1),
    ),
    loss(
        "soft_labels",
        "labels are the shares of people who prefer photo_2 (reference: 0 or 1)",
        lambda z, y, v: -(F.log_softmax(z, 1) * torch.stack([1 - v, v], 1)).sum(1),
        shares=True,
    ),
    loss(
        "by_agreement",
        "each pair is weighted by the agreement of its raters",
        by_agreement,
        shares=True,
    ),
    loss(
        "by_agreement_over_sum",
        "each pair is weighted by the agreement of its raters, over the sum of the weights",
        over_sum(by_agreement),
        shares=True,
    ),
    loss(
        "label_smoothing",
        "label smoothing is {value} (reference: none)",
        lambda z, y, v: (1 - v) * cross_entropy(z, y) - v * F.log_softmax(z, 1).mean(1),
        between=(0.0, 0.99),
    ),
    loss("focal", "the loss is a focal loss with gamma {value}", focal, between=(0.01, 8.0)),
    loss(
        "class_weights",
        "class weights are 1 and {value} (reference: none)",
        weighted,
        between=(0.02, 50.0),
    ),
    loss(
        "class_weights_over_pairs",
        "class weights are 1 and {value}, not divided by their sum (reference: none)",
        lambda z, y, v: cross_entropy(z, y) * torch.where(y == 1, v, torch.ones_like(v)),
        between=(0.02, 50.0),
    ),
    loss(
        "margin",
        "the loss is a hinge or margin ranking loss with margin {value}",
        lambda z, y, v: torch.relu(v - ahead(z, y)),
        values=margins,
    ),
    loss(
        "temperature",
        "the logits are multiplied by {value} before the loss",
        lambda z, y, v: cross_entropy(z * v, y),
        between=(0.01, 100.0),
    ),
)
INVERTED = Loss(
    "loss.labels_inverted",
    CAUSE,
    "the loss is computed on 1 - label",
    act=lambda recipe, values: recipe._replace(inverted=True),
)
LOGITS_SWAPPED = Row("loss.logits_swapped", CAUSE, "the two logits are swapped after the head")
EITHER = Row(
    "loss.inverted_or_swapped",
    CAUSE,
    "the loss is computed on 1 - label, or the two logits are swapped after the head",
)
FIRST_LOGIT = Row(
    "loss.logit_of_photo_1",
    DECLARED,
    "the single logit scores photo_1; inference must use the same sign",
)
ONE_OF = one_of("loss")
NONE_OF = Row(
    "loss.not_reproduced",
    UNEXPLAINED,
    "none of {tried} losses reproduces the loss and its gradient at the logits",
)
ADDED = Row(
    "loss.added", UNEXPLAINED, "{added} is added to the loss and does not depend on these logits"
)
CONTRADICTION = contradiction("loss")
NO_LOGITS = Row(
    "loss.other_logits",
    UNEXPLAINED,
    "the head has neither one nor two logits, so the loss was not judged",
)
NO_LABELS = Row("loss.no_labels", UNEXPLAINED, "no labels were seen, so the loss was not judged")
COARSE = Row(
    "loss.coarse", SKIPPED, "the logits are {dtype}, too coarse to judge; record without --as-is"
)
DIVIDED = Row(
    "loss.divided_by_batches", HARMLESS, "the loss is divided by the {batches} batches of a step"
)
SUM = Row(
    "loss.sum",
    CAUSE,
    "the loss is the sum over the pairs[, or the mean times the batch size, "
    "{batch_size}] (reference: the mean)",
)
FACTOR = Row("loss.factor", CAUSE, "the loss is multiplied by {factor}")
FACTORS = Row(
    "loss.factors",
    UNEXPLAINED,
    "the loss is multiplied by a different factor in each batch: {factors}",
)


def evidence_of(batch, labels, pairs):
    """(findings, the Evidence of a batch or None where its loss cannot be judged).

    labels: see diagnose.stages.labels.label_of; pairs: the OfficialPair of each, whose labels
    stand in for them.
    """
    logits, slopes = logits_of(batch)
    if logits.dim() != 2 or logits.shape[1] > 2:
        return [NO_LOGITS.found()], None
    if logits.dtype in (torch.float16, torch.bfloat16):
        return [COARSE.found(dtype=str(logits.dtype)[6:])], None
    official = bool(pairs) and None not in pairs
    if not slopes or not (labels or official):
        return [NO_LABELS.found()], None
    label, shares = labels[0] if labels else torch.tensor([pair.label for pair in pairs]), None
    if official:
        first = torch.tensor([pair.row["preference"] for pair in pairs], dtype=torch.float64)
        swapped = torch.tensor([pair.swapped for pair in pairs])
        shares = torch.where(swapped, first, 1 - first)
    slope, value = slopes[0].double(), batch.backwards[0].loss
    single = logits.shape[1] == 1
    if single:
        logits, slope = torch.cat([0 * logits, logits], 1), torch.cat([-slope, slope], 1)
    return [], Evidence(logits, label, shares, value, slope, single)


def outputs_swapped(view):
    """Whether a loss that fits the other label says that the logits are the other way round."""
    turned = any(entry.ops for entry in view.batch.labels)
    return view.evidence.single or (can_swap(view.batch) and not turned)


def can_swap(batch):
    """Whether an op that can exchange the two logits stands between the head and the loss."""
    last = max((i for i, op in enumerate(batch.ops) if op == "linear"), default=0)
    return any(op in ("__getitem__", "flip", "index_select", "roll") for op in batch.ops[last:])


def inversion_of(batch):
    """The row of a loss that fits the other label."""
    if any(entry.ops for entry in batch.labels):
        return INVERTED
    return LOGITS_SWAPPED if can_swap(batch) else EITHER


LEVELS = ([()], [(INVERTED,)], [(row,) for row in LOSSES], [(INVERTED, row) for row in LOSSES])


class Fit(NamedTuple):
    """A loss that gives all batches."""

    changes: tuple  # findings
    factors: list  # by which it is multiplied, for each batch

    @property
    def inverted(self):
        """Whether it takes the other label."""
        return recipe_of(self.changes).inverted


def judge_loss(batches, inversion):
    """(findings, the Fit to all batches or None).

    batches: Evidence of each. inversion: the row of a loss that takes 1 - label; None where labels
    come in inverted.
    """
    found = explain(batches, LEVELS)
    if not found.fits:
        return [describe_rest(batches, found.tried)], None
    fits = [Fit(changes, [batch.factor(changes) for batch in batches]) for changes in found.fits]
    plain = [fit for fit in fits if max(abs(f - 1) for f in fit.factors) < 1e-6]
    fits = plain or fits  # one change, rather than one and a factor
    found = found._replace(fits=tuple(fit.changes for fit in fits))
    return name_fits(found, fits[0].inverted, inversion, batches[0].single), fits[0]


def margin_of(batch, inverted):
    """The margin of a hinge that gives the loss of a batch."""
    z, y = batch.logits.double(), 1 - batch.label if inverted else batch.label
    active = (batch.gradient.abs().sum(1) > 0).double()
    return float((batch.loss * len(y) + (ahead(z, y) * active).sum()) / active.sum())


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
    findings = [FIRST_LOGIT.found()] * (inverted and single)
    return findings + findings_of(found._replace(fits=fits), ONE_OF)


def describe_rest(batches, tried):
    """The finding on a loss that no row gives in all batches."""
    made = [(batch.replay(Recipe()), batch) for batch in batches]
    (value, slope), worst = max(made, key=lambda pair: pair[1].departure(pair[0]))
    if relative_error(slope, worst.gradient) <= worst.error(())[1]:
        return ADDED.found(added=estimated(float(worst.loss) - float(value)))
    estimates = alone([worst], LEVELS) if len(batches) > 1 else ()
    return CONTRADICTION.found(estimates=estimates) if estimates else NONE_OF.found(tried=tried)


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
