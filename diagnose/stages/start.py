"""How a trainer's parameters start: whether the backbone was trained, and the head's distribution.

The head's std is that of model.build_head: Kaiming normal with fan_in, relu.
"""

import math

from diagnose.numerics import estimated
from run.findings import CAUSE, DECLARED, SKIPPED, Row

UNTRAINED = Row(
    "start.untrained",
    DECLARED,
    "the backbone starts untrained ({seen}), not from ImageNet",
)
STATISTICS_RESET = Row(
    "start.statistics_reset",
    DECLARED,
    "BatchNorm's running statistics begin anew (means 0, variances 1), its weights do not",
)
FEATURES_GIVEN = Row(
    "start.features_given",
    SKIPPED,
    "whether the features come from a trained backbone is not seen",
)
BIASES = Row(
    "start.head_bias", CAUSE, "the head's biases[ of the layer of {layer}] do not start at 0"
)
ZERO = Row("start.head_zero", CAUSE, "the weights[ of the layer of {layer}] of the head are 0")
UNIFORM = Row(
    "start.head_uniform",
    CAUSE,
    "the head[ of the layer of {layer}] starts {distribution}, std {std}, not {reference}",
)
FAN_OUT = Row(
    "start.head_fan_out",
    CAUSE,
    "the head[ of the layer of {layer}] starts as Kaiming normal with fan_out: "
    "std {std}, not {reference}",
)
STD = Row(
    "start.head_std",
    CAUSE,
    "the head[ of the layer of {layer}] starts with another spread: std {std}, not {reference}",
)


def judge_start(batch, values, weights):
    """Findings on the initial weights: whether the backbone was trained, and the head's.

    values: of all weights, by number; weights: what is known of each.
    """
    layers = [entry for entry in batch.head if entry.op == "linear"]
    findings = judge_untrained(batch, values, weights)
    for entry in layers:
        weight, *bias = (values[n].double() for n in entry.weights)
        layer = None if len(layers) == 1 else weight.shape[0]
        findings += judge_weight(weight, layer)
        if bias and float(bias[0].abs().max()) > 0:
            findings.append(BIASES.found(layer=layer))
    return findings


def judge_weight(weight, layer):
    """Findings on the initial weight [out, in] of one layer of the head."""
    std, expected = float(weight.std()), math.sqrt(2 / weight.shape[1])
    values = {"layer": layer, "std": estimated(std), "reference": estimated(expected)}
    if not weight.any():
        return [ZERO.found(layer=layer)]
    if name := uniform_name(weight):
        return [UNIFORM.found(distribution=name, **values)]
    if abs(std / expected - 1) <= 6 / math.sqrt(2 * weight.numel()):
        return []
    fan_out = abs(std / math.sqrt(2 / weight.shape[0]) - 1) < 0.1
    return [(FAN_OUT if fan_out else STD).found(**values)]


def judge_untrained(batch, values, weights):
    """A declaration where BatchNorm's weights and biases are those that it is made with."""
    calls = (norm.before for norm in batch.passes[0].norms)
    norms = [before for before in calls if before[0] is not None]
    if batch.passes[0].input is None:
        return [FEATURES_GIVEN.found()]
    pairs = [(w.place, value) for w, value in zip(weights, values, strict=False)
             if w.op == "batch_norm" and w.place > 1]  # fmt: skip
    initial = all(
        not value.any() or (place == 2 and bool((value == 1).all())) for place, value in pairs
    )
    fresh = bool(norms) and all(not mean.any() and bool((var == 1).all()) for mean, var in norms)
    if not pairs or not (initial or fresh):
        return []
    if not initial:
        return [STATISTICS_RESET.found()]
    seen = "running means 0, variances 1" if fresh else "BatchNorm's weights 1, biases 0"
    return [UNTRAINED.found(seen=seen)]


def uniform_name(weight):
    """The name of a uniform distribution that the weights fill to its bound, or None."""
    top, n, least = float(weight.abs().max()), weight.numel(), 1 / math.sqrt(weight.shape[1])
    for name, bound in (
        ("as PyTorch's default, uniform", least),
        ("Xavier uniform", math.sqrt(6 / sum(weight.shape))),
        ("Kaiming uniform", math.sqrt(6) * least),
    ):
        ratio = float(weight.std()) / (bound / math.sqrt(3))
        if bound * (1 - 20 / n) <= top <= bound * (1 + 1e-6) and abs(ratio - 1) < 6 / math.sqrt(n):
            return name
    return None
