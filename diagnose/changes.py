"""The changes that people make to the step, in the order of execution; a row each.

A row is what a change is called in an answer, and what it puts in the reference's place. Values
are solved for, or read from what the trainer's own objects say. Preparations of the photos stand
in diagnose/inputs.py, whose slots are solved and not tried.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

# The backbone's passes: sentence, what to set in diagnose.replay.features.
PASSES = {
    "own passes": (
        (
            "both photos go through the backbone in one pass, so BatchNorm mixes them",
            "the photos go through the backbone in {} passes, so BatchNorm sees other batches",
        ),
        {"own_passes": True},
    ),
    "evaluation": ("BatchNorm is in evaluation mode while training", {"evaluation": True}),
    "max pool": ("features are pooled by their maximum, not their mean", {"max_pool": True}),
    "normalised": ("features are normalised to length 1", {"after": F.normalize}),
    "sigmoid": ("a sigmoid stands behind the features", {"after": torch.sigmoid}),
    "tanh": ("a tanh stands behind the features", {"after": torch.tanh}),
    "relu": ("a ReLU stands behind the features", {"after": torch.relu}),
    "standardised": (
        "features are standardised by a layer norm",
        {"after": lambda f: F.layer_norm(f, f.shape[1:])},
    ),
}

# How the features of two photos are merged: sentence (None: the reference), formula.
MERGES = {
    "difference": (None, lambda a, b: a - b),
    "reversed": (
        "features_2 - features_1 in the place of features_1 - features_2",
        lambda a, b: b - a,
    ),
    "absolute": (
        "the absolute difference of the features, which cannot tell the sides apart",
        lambda a, b: (a - b).abs(),
    ),
    "concatenated": (
        "the features are concatenated, not subtracted",
        lambda a, b: torch.cat([a, b], 1),
    ),
    "concatenated, 2 first": (
        "the features are concatenated, photo_2 first",
        lambda a, b: torch.cat([b, a], 1),
    ),
    "product": ("the product of the features, not their difference", lambda a, b: a * b),
    "squared": ("the squared difference of the features", lambda a, b: (a - b) ** 2),
    "sum": ("the sum of the features, not their difference", lambda a, b: a + b),
}

# What joins two scores, where no layer stands behind it.
SCORES = {  # by the merge and how many there are
    ("difference", 1): "the difference of the scores is the one logit",
    ("reversed", 1): "the difference of the scores is the one logit",
    ("concatenated", 2): "the two scores are the two logits",
    ("difference", 2): "the difference is taken of each photo's logits, not of its features",
    ("reversed", 2): "the difference is taken of each photo's logits, not of its features",
}

# Between two layers of the head.
ACTIVATIONS = {
    "ReLU": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "GELU": F.gelu,
    "leaky ReLU": F.leaky_relu,
    "ELU": F.elu,
    "SiLU": F.silu,
    "normalisation": F.normalize,
    "absolute value": torch.abs,
}


class Loss(NamedTuple):
    """A loss: sentence, terms(logits [B, 2], label [B], value) [B], and what value to solve for.

    The mean of the terms, times a factor that is solved for as well, is the loss.
    """

    sentence: str
    terms: object
    solve: tuple = ()  # least and largest value
    shares: bool = False  # whether the value is the official shares [B] that prefer photo_2


def cross_entropy(z, y, value=None):
    return F.nll_loss(F.log_softmax(z, 1), y, reduction="none")


def one_hot(z, y):
    return F.one_hot(y, 2).to(z.dtype)


def margin_terms(z, y, value):
    return torch.relu(value - (z.gather(1, y[:, None]) - z.gather(1, 1 - y[:, None]))[:, 0])


def focal(z, y, gamma):
    loss = cross_entropy(z, y)
    return (1 - torch.exp(-loss)) ** gamma * loss


def weighted(z, y, weight):
    """Class 1 counts `weight` times as much as class 0, as in NLLLoss(weight=...)."""
    weights = torch.where(y == 1, weight, torch.ones_like(weight)).to(z.dtype)
    return cross_entropy(z, y) * weights * len(y) / weights.sum()


def agreement(z, y, share):
    """Cross-entropy in which each pair counts as much as the people agree on it."""
    return cross_entropy(z, y) * torch.maximum(share, 1 - share)


def over_sum(terms):
    """Weighted terms whose mean is over the sum of the weights, not over the pairs."""
    return lambda z, y, v: terms(z, y, v) * len(y) / torch.maximum(v, 1 - v).sum()


LOSSES = {
    "cross-entropy": Loss("", cross_entropy),
    "softmax twice": Loss(
        "softmax stands before the cross-entropy, which has its own",
        lambda z, y, v: cross_entropy(z.softmax(1), y),
    ),
    "probabilities": Loss(
        "NLLLoss takes probabilities where it needs their logarithms",
        lambda z, y, v: -z.softmax(1).gather(1, y[:, None])[:, 0],
    ),
    "BCE of both": Loss(
        "binary cross-entropy of each logit by itself",
        lambda z, y, v: F.binary_cross_entropy_with_logits(z, one_hot(z, y), reduction="none").mean(
            1
        ),
    ),
    "MSE": Loss(
        "mean squared error of the probabilities",
        lambda z, y, v: ((z.softmax(1) - one_hot(z, y)) ** 2).mean(1),
    ),
    "MSE of logits": Loss(
        "mean squared error of the logits", lambda z, y, v: ((z - one_hot(z, y)) ** 2).mean(1)
    ),
    "softmax over the batch": Loss(
        "the softmax runs over the batch (dim 0), not over the two logits",
        lambda z, y, v: F.nll_loss(F.log_softmax(z, 0), y, reduction="none"),
    ),
    "all labels": Loss(
        "each pair is held against the labels of all pairs: log_probabilities[:, label]",
        lambda z, y, v: -F.log_softmax(z, 1)[:, y].mean(1),
    ),
    "shares": Loss(
        "the labels are the people's shares, not 0 and 1",
        lambda z, y, v: -(F.log_softmax(z, 1) * torch.stack([1 - v, v], 1)).sum(1),
        shares=True,
    ),
    "agreement": Loss("each pair counts by the people's agreement", agreement, shares=True),
    "agreement over its sum": Loss(
        "each pair counts by the people's agreement, over their sum",
        over_sum(agreement),
        shares=True,
    ),
    "smoothing": Loss(
        "label smoothing of {value}",
        lambda z, y, v: (1 - v) * cross_entropy(z, y) - v * F.log_softmax(z, 1).mean(1),
        (0.0, 0.99),
    ),
    "focal": Loss("focal loss with gamma {value}", focal, (0.01, 8.0)),
    "weights": Loss("class weights 1 to {value}", weighted, (0.02, 50.0)),
    "weights, mean over the pairs": Loss(
        "class weights 1 to {value}, not over their sum",
        lambda z, y, v: cross_entropy(z, y) * torch.where(y == 1, v, torch.ones_like(v)),
        (0.02, 50.0),
    ),
    "margin": Loss("a hinge or margin ranking loss with margin {value}", margin_terms, (0.0, 10.0)),
    "temperature": Loss(
        "the logits are multiplied by {value} before the loss",
        lambda z, y, v: cross_entropy(z * v, y),
        (0.01, 100.0),
    ),
}
