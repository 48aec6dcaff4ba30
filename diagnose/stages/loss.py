"""The loss: which row of LOSSES gives it and its gradient, in every batch, at its own logits."""

import torch
from torch.nn import functional as F

from diagnose.criterion import cross_entropy, nearest_value, recipe_of
from diagnose.explain import Change, contradiction, one_of
from run.findings import CAUSE, DECLARED, DIFFERENT, HARMLESS, SKIPPED, UNEXPLAINED, WRONG, Row


def loss(name, text, terms, between=None, shares=False, **options):
    """A change of the loss: terms(logits [B, 2], label [B], value) [B], whose mean it is.

    between: two bounds of a value that is estimated from all batches; shares: whether the value is
    the official shares [B] of people that prefer photo_2.
    """
    if between:
        low, high = between
        options["values"] = lambda batches, others: nearest_value(terms, batches, others, low, high)

    def act(recipe, values):
        value = (lambda batch: batch.shares) if shares else values.get("value", 0.0)
        return recipe._replace(terms=terms, value=value)

    return Change(f"loss.{name}", CAUSE, text, act=act, **options)


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


def margin_of(batch, inverted):
    """The margin of a hinge that gives the loss of a batch."""
    z, y = batch.logits.double(), 1 - batch.label if inverted else batch.label
    active = (batch.gradient.abs().sum(1) > 0).double()
    return float((batch.loss * len(y) + (ahead(z, y) * active).sum()) / active.sum())


def margins(batches, changes):
    """Estimates a margin, whose gradient is flat, by what the loss says."""
    inverted = recipe_of(changes).inverted
    active = [batch for batch in batches if batch.gradient.any()]
    return [{"value": margin_of(batch, inverted)} for batch in active[:1]]


OF_ONE_LOGIT = (  # what holds a single logit, logits[:, 1] - logits[:, 0], against the label
    lambda z, y, v: (z[:, 1] - z[:, 0] - y) ** 2,
    lambda z, y, v: (z[:, 1] - z[:, 0] - y).abs(),
)
LOSSES = (
    loss(
        "softmax_twice",
        "softmax is applied before the cross-entropy, which applies it again",
        lambda z, y, v: cross_entropy(z.softmax(1), y),
        at=("softmax", "loss"),
        help="remove the softmax: pass the logits themselves to the cross-entropy",
    ),
    loss(
        "nll_of_probabilities",
        "NLLLoss receives probabilities (reference: log-probabilities)",
        lambda z, y, v: -z.softmax(1).gather(1, y[:, None])[:, 0],
        at=("softmax", "loss"),
        help="pass log-probabilities: nll_loss(log_softmax(logits, dim=1), label)",
        matters=WRONG,
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
        "mse_of_logit",
        "the loss is the mean squared error of the single logit and the label",
        OF_ONE_LOGIT[0],
    ),
    loss(
        "mae_of_logit",
        "the loss is the mean absolute error of the single logit and the label",
        OF_ONE_LOGIT[1],
    ),
    loss(
        "softmax_over_batch",
        "softmax runs over the batch, dim=0 (reference: over the two logits, dim=1)",
        lambda z, y, v: F.nll_loss(F.log_softmax(z, 0), y, reduction="none"),
        help="take the softmax over the two logits, dim=1",
        matters=WRONG,
    ),
    loss(
        "all_labels",
        "each pair is compared with the labels of all pairs: log_probabilities[:, label]",
        lambda z, y, v: -F.log_softmax(z, 1)[:, y].mean(1),
        help="gather each pair's own label: nll_loss(log_probabilities, label)",
        matters=WRONG,
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
        help="leave label_smoothing at 0",
    ),
    loss("focal", "the loss is a focal loss with gamma {value}", focal, between=(0.01, 8.0)),
    loss(
        "class_weights",
        "class weights are 1 and {value} (reference: none)",
        weighted,
        between=(0.02, 50.0),
        help="pass no weight",
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
        "softmax_plus",
        "the loss is -log(softmax + {value})",
        lambda z, y, v: -torch.log(z.softmax(1).gather(1, y[:, None])[:, 0] + v),
        between=(1e-6, 0.5),
        help="use log_softmax, which needs no small number added",
    ),
    loss(
        "added_to_label",
        "{value} is added to the logit of the label before the loss",
        lambda z, y, v: cross_entropy(z + v * one_hot(z, y), y),
        between=(-5.0, 5.0),
        help="pass the logits as they are",
    ),
    loss(
        "temperature",
        "the logits are multiplied by {value} before the loss",
        lambda z, y, v: cross_entropy(z * v, y),
        between=(0.01, 100.0),
    ),
)
INVERTED = Change(
    "loss.labels_inverted",
    CAUSE,
    "the loss is computed on 1 - label",
    act=lambda recipe, values: recipe._replace(inverted=True),
    help="pass the label itself: 0 where photo_1 is preferred, 1 where photo_2 is",
    matters=WRONG,
    at=("label", "loss"),
)
EVERY_LABEL = Change(
    "loss.every_label",
    CAUSE,
    "every output is compared with every label of the batch: shapes [B, 1] and [B] are broadcast "
    "to [B, B]",
    act=lambda recipe, values: recipe._replace(every_label=True),
    help="give both one shape: outputs.squeeze(1), or labels[:, None]",
    matters=WRONG,
)
LOGITS_SWAPPED = Row(
    "loss.logits_swapped",
    CAUSE,
    "the two logits are swapped after the head",
    help="keep logits[:, 0] for photo_1 and logits[:, 1] for photo_2",
    matters=WRONG,
)
EITHER = Row(
    "loss.inverted_or_swapped",
    CAUSE,
    "the loss is computed on 1 - label, or the two logits are swapped after the head",
    help="pass the label itself, and keep logits[:, 0] for photo_1",
    matters=WRONG,
    at=("label", "loss"),
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
    "none of {tried} losses reproduces the loss and its gradient at the logits[; the value of the "
    "loss is that of {value}, so it is the gradient that is another]",
    at=("function", "loss"),
)
ZERO_ROWS = Row(
    "loss.no_gradient",
    UNEXPLAINED,
    "{count} of {total} pairs have a gradient of 0 at the logits[: exactly where {rules}]",
)
OTHER_TARGETS = Row(
    "loss.other_targets",
    UNEXPLAINED,
    "the loss is the cross-entropy of other labels than the recorded ones: of 1 in {count} of "
    "{total} pairs[: exactly where {rules}]",
    matters=WRONG,
)
AGAINST = Row(
    "loss.against_the_label",
    UNEXPLAINED,
    "the loss pushes {count} of {total} pairs away from their label[: exactly where {rules}]",
)
TIMES = Row(
    "loss.weighted_rows",
    UNEXPLAINED,
    "the cross-entropy of {count} of {total} pairs counts {times} times as much as that of the "
    "others[: exactly where {rules}]",
)
OTHERWISE = Row(
    "loss.otherwise_cross_entropy",
    UNEXPLAINED,
    "the other pairs have the gradient of the cross-entropy, times {factors}",
)
IN_TURN = Row(
    "loss.cross_entropy_in_turn",
    UNEXPLAINED,
    "every pair has the gradient of the cross-entropy, times {factors} in the recorded batches in "
    "turn[; the loss itself is {value}]",
)
MIXED = Row(
    "loss.logits_mixed",
    UNEXPLAINED,
    "the loss is the cross-entropy of two logits whose difference is {first} times the head's "
    "first and {second} times its second (reference: 1 and -1)",
    matters=WRONG,
)
NO_SOFTMAX = Row(
    "loss.not_of_the_difference",
    UNEXPLAINED,
    "in {count} of {total} pairs the gradients at the two logits do not add up to 0, as those of a "
    "loss of their difference do[: exactly where {rules}]",
)
ADDED = Row(
    "loss.added", UNEXPLAINED, "{added} is added to the loss and does not depend on these logits"
)
CONTRADICTION = contradiction("loss")
NO_LOGITS = Row(
    "loss.other_logits",
    UNEXPLAINED,
    "the logits are not one or two numbers for each pair, in a row of its own, so the loss was not "
    "judged",
)
NO_GRADIENT = Row(
    "loss.no_gradient_at_logits",
    SKIPPED,
    "backward does not reach the logits, so no loss was judged",
)
NO_LABELS = Row("loss.no_labels", UNEXPLAINED, "no labels were seen, so the loss was not judged")
COARSE = Row(
    "loss.coarse", SKIPPED, "the logits are {dtype}, too coarse to judge; record without --as-is"
)
DIVIDED = Row(
    "loss.divided_by_batches",
    HARMLESS,
    "the loss is divided by the {batches} batches of a step",
    matters=DIFFERENT,
)
SUM = Row(
    "loss.sum",
    CAUSE,
    "the loss is the sum over the pairs[, or the mean times the batch size, "
    "{batch_size}] (reference: the mean)",
    help='use reduction="mean"',
)
FACTOR = Row(
    "loss.factor", CAUSE, "the loss is multiplied by {factor}", help="do not multiply the loss"
)
FACTORS = Row(
    "loss.factors",
    UNEXPLAINED,
    "the loss is multiplied by a different factor in each batch: {factors}",
)
