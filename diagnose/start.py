"""How a trainer's weights start: whether the backbone was trained, and the head's distribution."""

import math

from diagnose.finding import cause, skipped, stated, unknown
from diagnose.replay import number


def judge_start(batch, values):
    """Findings on the initial weights: whether the backbone was trained, and the head's."""
    layers = [entry for entry in batch["head"] if entry["op"] == "linear"]
    findings = judge_untrained(batch)
    for entry in layers:
        weight, *bias = (values[n].double() for n in entry["weights"])
        where = "" if len(layers) == 1 else f" of the layer of {weight.shape[0]}"
        findings += judge_weight(weight, where)
        if bias and float(bias[0].abs().max()) > 0:
            findings.append(cause("start", f"the head's biases{where} do not start at 0"))
    return findings


def judge_weight(weight, where):
    """Findings on the initial weight [out, in] of one layer of the head."""
    std, expected = float(weight.std()), math.sqrt(2 / weight.shape[1])
    against = f"std {number(std)}, not {number(expected)}"
    if not weight.any():
        return [cause("start", f"the weights{where} of the head are 0")]
    if name := uniform_name(weight):
        return [cause("start", f"the head{where} starts {name}, {against}")]
    if abs(std / expected - 1) <= 6 / math.sqrt(2 * weight.numel()):
        return []
    if abs(std / math.sqrt(2 / weight.shape[0]) - 1) < 0.1:
        return [cause("start", f"the head{where} starts as Kaiming normal with fan_out: {against}")]
    return [unknown("start", f"the head{where} starts with another spread: {against}")]


def judge_untrained(batch):
    """A statement where BatchNorm has not seen one photo before the first step."""
    told = (norm["before"] for norm in batch["passes"][0]["norms"])
    norms = [before for before in told if before[0] is not None]
    if batch["passes"][0]["input"] is None:
        return [skipped("start", "whether the features come from a trained backbone is not seen")]
    if not norms or any(bool(mean.any()) or bool((var != 1).any()) for mean, var in norms):
        return []
    text = "the backbone starts untrained (running means 0, variances 1), not from ImageNet"
    return [stated("start", text)]


def uniform_name(weight):
    """The name of a uniform distribution that the weights fill to its bound, or None."""
    top, n, least = float(weight.abs().max()), weight.numel(), 1 / math.sqrt(weight.shape[1])
    for name, bound in (
        ("as PyTorch's default, uniform", least),
        ("Xavier uniform", math.sqrt(6 / sum(weight.shape))),
        ("Kaiming uniform", math.sqrt(6) * least),
    ):
        spread = float(weight.std()) / (bound / math.sqrt(3))
        if bound * (1 - 20 / n) <= top <= bound * (1 + 1e-6) and abs(spread - 1) < 6 / math.sqrt(n):
            return name
    return None
