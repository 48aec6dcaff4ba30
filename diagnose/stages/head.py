"""The head: how the features of both photos are merged, and the layers behind, to the logits."""

import torch
from torch import nn
from torch.nn import functional as F

from diagnose.explain import Change
from diagnose.numerics import (
    factor_between,
)
from model import SiameseRanker
from run.findings import CAUSE, DIFFERENT, HARMLESS, UNEXPLAINED, WRONG, Row

# A linear layer written out.
PRODUCTS, SUMS = ("matmul", "__matmul__", "mm", "einsum"), ("add", "__add__", "__radd__")
BIASED = "addmm"  # the product and the sum at once, the bias first


def merge(name, text, act, kind=CAUSE, **options):
    """How the features of two photos are merged: act(features_1, features_2) [B, F] each.

    It is the first op in which two photos meet; an op behind it, as abs, is one of ACTIVATIONS.
    """
    return Change(f"head.{name}", kind, text, act=act, **options)


def hidden_flags(values):
    """The flags of hidden layers, where the reference has their activation."""
    names = {"ReLU": "relu", "tanh": "tanh"}
    own = set(values["functions"])
    if len(own) != 1 or not own <= names.keys():
        return ""
    return f"--hidden {' '.join(map(str, values['widths']))} --activation {names[own.pop()]}"


def formula(features_1, features_2):
    """What the reference's head is given: the formula of the page, with no head behind it."""
    return SiameseRanker(None, nn.Identity()).compare(features_1, features_2)


DIFFERENCE = merge("difference", "", formula)  # the reference
REVERSED = merge(
    "reversed_difference",
    "the difference is features_2 - features_1 (reference: features_1 - features_2)",
    lambda a, b: formula(b, a),
    HARMLESS,
    matters=DIFFERENT,
    at=("merge",),
)
CONCATENATED = merge(
    "concatenated",
    "the features are concatenated (reference: features_1 - features_2)",
    lambda a, b: torch.cat([a, b], 1),
    help="give the head features_1 - features_2",
    at=("merge",),
)
MERGES = (
    DIFFERENCE,
    REVERSED,
    CONCATENATED,
    merge(
        "concatenated_2_first",
        "the features are concatenated, features_2 first (reference: features_1 - features_2)",
        lambda a, b: torch.cat([b, a], 1),
        help="give the head features_1 - features_2",
        at=("merge",),
    ),
    merge(
        "product",
        "the head receives the product of the features (reference: features_1 - features_2)",
        lambda a, b: a * b,
        help="give the head features_1 - features_2",
        matters=WRONG,
        at=("merge",),
    ),
    merge(
        "sum",
        "the head receives the sum of the features (reference: features_1 - features_2)",
        lambda a, b: a + b,
        help="give the head features_1 - features_2",
        matters=WRONG,
        at=("merge",),
    ),
)

# What joins two scores, where no layer follows.
SCORE_DIFFERENCE = Row(
    "head.score_difference", CAUSE, "the difference of the two scores is the single logit"
)
TWO_SCORES = Row("head.two_scores", CAUSE, "the two scores are the two logits")
LOGIT_DIFFERENCE = Row(
    "head.logit_difference",
    CAUSE,
    "the difference is taken of each photo's logits (reference: of its features)",
)
SCORES = {  # by the merge and how many there are
    (DIFFERENCE, 1): SCORE_DIFFERENCE,
    (REVERSED, 1): SCORE_DIFFERENCE,
    (CONCATENATED, 2): TWO_SCORES,
    (DIFFERENCE, 2): LOGIT_DIFFERENCE,
    (REVERSED, 2): LOGIT_DIFFERENCE,
}

# Between two layers of the head.
ACTIVATIONS = {
    "ReLU": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "GELU": F.gelu,
    "leaky ReLU": F.leaky_relu,
    "ELU": F.elu,
    "softplus": F.softplus,
    "SiLU": F.silu,
    "normalization": F.normalize,
    "normalization over the batch": lambda x: F.normalize(x, dim=0),
    "standardization over the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "absolute value": torch.abs,
    "square": torch.square,
}

NO_BIAS = Row(
    "head.no_bias",
    CAUSE,
    "the last layer of the head has no bias",
    help="make the last layer with bias=True",
    at=("built", "head"),
)
ONE_LOGIT = Row(
    "head.one_logit",
    CAUSE,
    "the head has a single logit (reference: two)",
    help="make the last layer with two outputs",
    at=("built", "head"),
)
DROPOUT = Row(
    "head.dropout",
    CAUSE,
    "the head has dropout {rate} (reference: none)",
    help="remove the dropout",
    flag="--dropout {rate}",
    at=("dropout",),
)
DROPOUT_FEATURES = Row(
    "head.dropout_features",
    CAUSE,
    "dropout {rate} is applied before the only layer of the head (reference: none)",
    help="remove the dropout",
    at=("dropout",),
)
HIDDEN = Row(
    "head.hidden",
    CAUSE,
    "the head has hidden layers of {widths} units with {functions} (reference: none)",
    help="make the head one nn.Linear(features, 2)",
    flag=hidden_flags,
)
ACTIVATION = Change(
    "head.activation",
    CAUSE,
    "{function} is applied between the merge and the head",
    act=lambda x, values: ACTIVATIONS[values["function"]](x),
    values=lambda replays, changes: [{"function": name} for name in ACTIVATIONS],
)
OF_LOGITS = Change(
    "head.logits_activation",
    CAUSE,
    "{function} is applied to the logits, behind the last layer (reference: nothing)",
    act=lambda recipe, values: recipe._replace(function=ACTIVATIONS[values["function"]]),
    values=lambda replays, changes: [{"function": name} for name in ACTIVATIONS],
    help="remove what follows the last layer of the head",
    matters=WRONG,
    at=("behind", "loss"),
)
SCALED = Change(
    "head.scaled",
    CAUSE,
    "what enters a layer of the head is multiplied by {factor} (reference: 1)",
    act=lambda x, values: values["factor"] * x,
    values=lambda replays, changes: [
        {"factor": factor_between([replay.given[0]], [replay.seen])}
        for replay in replays[:1]
        if replay.given[0].shape == replay.seen.shape
    ],
)
ZERO_COLUMNS = Row(
    "head.zero_columns",
    UNEXPLAINED,
    "{count} of the {total} features that enter the head, {first} to {last}, are 0 in every pair",
)
TWO_MERGES = Row(
    "head.two_merges",
    UNEXPLAINED,
    "two merges of the same photos are combined, which is not replayed",
)
TRANSPOSED = Row(
    "head.transposed",
    UNEXPLAINED,
    "{op} is applied in the head to {shape}, whose columns are the pairs, which is not replayed",
    help="transpose the output of such a layer, .t(): view and reshape mix the pairs",
    at=("head", "behind"),
)
NO_LAYER = Row("head.no_layer", UNEXPLAINED, "no layer was seen between the merge and the loss")
OTHER_MERGE = Row(
    "head.other_merge",
    UNEXPLAINED,
    "none of {tried} merges of the features reproduces the output of {op}[; it is {of}, "
    "{relation}]",
    varies=("relation",),
)
BEFORE = Row(
    "head.before_layer",
    UNEXPLAINED,
    "what is applied before {op} in the head is not reproduced[; what it receives, compared with "
    "what comes before: {relation}]",
    varies=("relation",),
)
DROPOUT_LOST = Row("head.dropout_not_reproduced", UNEXPLAINED, "a dropout is not reproduced")
OTHER_OP = Row("head.other_op", UNEXPLAINED, "{op} is applied in the head, which is not replayed")
LINEAR_LOST = Row(
    "head.linear_not_reproduced",
    UNEXPLAINED,
    "a linear layer is not reproduced[; its output is that of its parameters, {relation}]",
    varies=("relation",),
)
