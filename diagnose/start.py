"""How a trainer's weights start: whether the backbone was trained, and the head's distribution."""

import math

from diagnose.finding import cause, skipped, stated
from diagnose.replay import number


def judge_start(batch, values, weights):
    """Findings on the initial weights: whether the backbone was trained, and the head's.

    values: of all weights, by number; weights: what is known of each.
    """
    layers = [entry for entry in batch["head"] if entry["op"] == "linear"]
    findings = judge_untrained(batch, values, weights)
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
    return [cause("start", f"the head{where} starts with another spread: {against}")]


def judge_untrained(batch, values, weights):
    """A statement where BatchNorm's weights and biases are those that it is made with."""
    told = (norm["before"] for norm in batch["passes"][0]["norms"])
    norms = [before for before in told if before[0] is not None]
    if batch["passes"][0]["input"] is None:
        return [skipped("start", "whether the features come from a trained backbone is not seen")]
    pairs = [(w["place"], value) for w, value in zip(weights, values, strict=False)
             if w["op"] == "batch_norm" and w["place"] > 1]  # fmt: skip
    made = all(
        not value.any() or (place == 2 and bool((value == 1).all())) for place, value in pairs
    )
    fresh = bool(norms) and all(not mean.any() and bool((var == 1).all()) for mean, var in norms)
    if not pairs or not (made or fresh):
        return []
    text = "BatchNorm's running statistics begin anew (means 0, variances 1), its weights do not"
    if made:
        reason = "running means 0, variances 1" if fresh else "BatchNorm's weights 1, biases 0"
        text = f"the backbone starts untrained ({reason}), not from ImageNet"
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
