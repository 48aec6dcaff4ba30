"""How a trainer's parameters start: whether the backbone was trained, and the head's distribution.

The reference's is what model.build_head draws.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch

import model
from diagnose.numerics import estimated, is_close
from run.findings import CAUSE, DECLARED, SKIPPED, WRONG, Row

KAIMING = 'initialize with nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'
UNTRAINED = Row(
    "start.untrained",
    DECLARED,
    "the backbone is untrained: {seen} (reference: ImageNet weights)",
    help="start from torchvision's IMAGENET1K_V1 weights",
    flag="--weights none",
    at=("backbone", "forward"),
)
PARTLY = Row(
    "start.partly_untrained",
    CAUSE,
    "these layers of the backbone are untrained: {layers} (BatchNorm with weights 1, biases 0, "
    "means 0, variances 1); the others are not, so part of the weights was not loaded",
    help="look at what load_state_dict(..., strict=False) returns: missing and unexpected keys",
    matters=WRONG,
    at=("backbone", "forward"),
)
STATISTICS_RESET = Row(
    "start.statistics_reset",
    DECLARED,
    "BatchNorm's running statistics are reset (means 0, variances 1), its parameters are not",
    at=("forward",),
)
FEATURES_GIVEN = Row(
    "start.features_given",
    SKIPPED,
    "features were given: whether their backbone was trained was not seen",
    is_partial=True,
)
BIASES = Row(
    "start.head_bias",
    CAUSE,
    "the biases of the head[ in its layer of {layer} units] are not initialized with 0",
    help="zero the biases: nn.init.zeros_(layer.bias)",
    at=("bias",),
)
ZERO = Row(
    "start.head_zero",
    CAUSE,
    "the weights of the head[ in its layer of {layer} units] are initialized with 0",
    help=KAIMING,
)
EQUAL_ROWS = Row(
    "start.head_rows_equal",
    CAUSE,
    "the weights of the head[ in its layer of {layer} units] are the same for every output",
    help=KAIMING,
)
EQUAL_COLUMNS = Row(
    "start.head_columns_equal",
    CAUSE,
    "the weights of the head[ in its layer of {layer} units] are the same for every input: each "
    "output has one value of its own",
    help=KAIMING,
)
OPPOSITE = Row(
    "start.head_rows_opposite",
    CAUSE,
    "the weights of the head[ in its layer of {layer} units] are {times} times those of the first "
    "output in every other one",
    help=KAIMING,
)
EQUAL_LAYERS = Row(
    "start.equal_layers",
    CAUSE,
    "{count} layers of the backbone begin with the very weights of another one of their shape, as "
    "{second} with those of {first}",
    help="seed the random numbers once, before the network is made, and share no tensor",
    at=("backbone",),
)
STD = Row(
    "start.head_std",
    CAUSE,
    "the weights of the head[ in its layer of {layer} units] have std {std} "
    "(reference: {reference})",
    help=KAIMING,
)


COMPUTED = Row(
    "start.head_computed",
    CAUSE,
    "the weights of the head[ in its layer of {layer} units] are computed from others at every step"
    "[, as {by}: their largest singular value is 1] (reference: a plain layer)",
    help="remove the parametrization of the head",
    at=("built", "weight"),
)


@dataclass(frozen=True)
class Start(Row):
    """A distribution of initial weights: std(outputs, inputs), its name among others of its id."""

    std: Callable = None
    is_uniform: bool = False
    distribution: str = None


def start(name, distribution, std, is_uniform=False):
    """A Start of this stage."""
    text = "the weights of the head[ in its layer of {layer} units] are {distribution}, std {std} "
    text += "(reference: std {reference})"
    own = {"std": std, "is_uniform": is_uniform, "distribution": distribution, "help": KAIMING}
    return Start(f"start.{name}", CAUSE, text, **own)


STARTS = (
    start("head_fan_in", "Kaiming normal (fan_in)", lambda out, inputs: sqrt(2 / inputs)),
    start("head_fan_out", "Kaiming normal (fan_out)", lambda out, inputs: sqrt(2 / out)),
    start(
        "head_uniform",
        "uniform, as PyTorch's default",
        lambda out, inputs: sqrt(1 / (3 * inputs)),
        is_uniform=True,
    ),
    start(
        "head_uniform",
        "Xavier uniform",
        lambda out, inputs: sqrt(2 / (out + inputs)),
        is_uniform=True,
    ),
    start("head_uniform", "Kaiming uniform", lambda out, inputs: sqrt(2 / inputs), is_uniform=True),
)
NEARLY = 0.03  # from 1, that a singular value may be: it is found by iteration
SPECTRAL = "spectral_norm does"
ENOUGH = 60  # weights; with fewer, distributions cannot be told apart
DRAWN = 2**18  # weights of the page's own head, whose std is known to 0.14 percent by that


def judge_start(batch, values, weights, names):
    """Findings on the initial weights: whether the backbone was trained, and the head's.

    values: of all weights, by number; weights: what is known of each; names: see judge_untrained.
    """
    layers = [entry for entry in batch.head if entry.op == "linear"]
    findings = judge_untrained(batch, values, weights, names) + judge_equal(values, names)
    for entry in layers:
        weight, *bias = (values[n].double() for n in entry.weights)
        layer = None if len(layers) == 1 else weight.shape[0]
        if weights[entry.weights[0]].computed:
            is_one = abs(float(torch.linalg.matrix_norm(weight, 2)) - 1) < NEARLY
            findings.append(COMPUTED.found(layer=layer, by=SPECTRAL if is_one else None))
            continue
        drawn, has_bias = draw_layer(model.build_head, *weight.shape)
        findings += judge_weight(weight, drawn, layer)
        if bias and float(bias[0].abs().max()) > 0 and not has_bias:
            findings.append(BIASES.found(layer=layer))
    return findings


def judge_equal(values, names):
    """The finding on convolutions of the backbone that begin with equal weights, in a list."""
    known, equal = {}, []
    for n, name in names.items():
        weight = values[n]
        if weight.dim() == 4 and weight.numel() >= ENOUGH:
            alike = known.setdefault((tuple(weight.shape), float(weight.sum())), [])
            first = next((m for m in alike if torch.equal(values[m], weight)), None)
            equal += [(name, names[first])] if first is not None else []
            alike.append(n)
    if not equal:
        return []
    second, first = (name.removesuffix(".weight") for name in equal[0])
    return [EQUAL_LAYERS.found(count=len(equal), second=second, first=first)]


@functools.lru_cache(maxsize=8)
def draw_layer(build, outputs, inputs):
    """(initial weights [N, inputs] of a layer of these shapes as the page makes it, whether its
    biases start at others than 0).
    """
    count = max(1, DRAWN // (outputs * inputs))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layers = [build(inputs, (outputs,))[0] for _ in range(count)]
    weight = torch.cat([layer.weight.detach().double() for layer in layers])
    return weight, any(bool(layer.bias.any()) for layer in layers)


def judge_weight(weight, drawn, layer):
    """Findings on the initial weight [out, in] of one layer of the head; drawn: see draw_layer."""
    if not weight.any():
        return [ZERO.found(layer=layer)]
    if len(weight) > 1 and bool((weight == weight[:1]).all()):
        return [EQUAL_ROWS.found(layer=layer)]
    if weight.shape[1] > 1 and bool((weight == weight[:, :1]).all()):
        return [EQUAL_COLUMNS.found(layer=layer)]
    factors = (weight @ weight[0]) / (weight[0] @ weight[0])
    if len(weight) > 1 and is_close(factors[:, None] * weight[:1], weight):
        return [OPPOSITE.found(layer=layer, times=estimated(float(factors[1])))]
    usual = next((row for row in STARTS if fits(row, drawn, weight.shape)), None)
    reference = usual.std(*weight.shape) if usual else float(drawn.std())
    if fits(usual, weight, weight.shape) if usual else is_std(weight, reference):
        return []
    values = {"layer": layer, "std": estimated(float(weight.std()))}
    values |= {"reference": estimated(reference)}
    own = next((row for row in STARTS if fits(row, weight, weight.shape)), None)
    return [own.found(distribution=own.distribution, **values) if own else STD.found(**values)]


def is_std(weight, std):
    """Whether weights have a standard deviation, as far as their number tells."""
    return abs(float(weight.std()) / std - 1) <= 6 / sqrt(2 * weight.numel())


def fits(row, weight, shape):
    """Whether weights are those of a distribution for a layer of this shape."""
    std, count, top = row.std(*shape), weight.numel(), float(weight.abs().max())
    bound = std * sqrt(3)
    fills = bound * (1 - 20 / count) <= top <= bound * (1 + 1e-6)
    return count >= ENOUGH and is_std(weight, std) and fills == row.is_uniform


def judge_untrained(batch, values, weights, names):
    """Findings where BatchNorm layers of the trainer's own backbone are as they are made.

    names: {number of a weight: its name in the reference's backbone}. Another network that ran
    before, as a teacher, does not count.
    """
    if batch.passes[0].input is None:
        return [FEATURES_GIVEN.found()]
    moved, fresh = statistics_of(batch, names), {}
    for n, name in names.items():
        if weights[n].op == "batch_norm" and weights[n].place > 1:
            usual = not values[n].any() or (weights[n].place == 2 and bool((values[n] == 1).all()))
            fresh.setdefault(name.rpartition(".")[0], []).append(usual)
    if not fresh:
        return []
    initial = {module for module, usual in fresh.items() if all(usual)}
    untrained = {module for module in initial if not moved.get(module, False)}
    still = moved and not any(moved.values())
    if len(initial) == len(fresh) or (len(untrained) == len(fresh)):
        seen = "running means 0, variances 1" if still else "BatchNorm's weights 1, biases 0"
        return [UNTRAINED.found(seen=seen)]
    if still:
        return [STATISTICS_RESET.found()]
    layers = by_layer(untrained, fresh)
    return [PARTLY.found(layers=layers)] if layers else []


def statistics_of(batch, names):
    """{module: whether its running statistics are others than those that it is made with}."""
    moved = {}
    for norm in batch.passes[0].norms:
        mean, variance = norm.before
        if mean is not None and norm.weight in names:
            module = names[norm.weight].rpartition(".")[0]
            moved[module] = bool(mean.any()) or not bool((variance == 1).all())
    return moved


def by_layer(untrained, modules):
    """The parts of a backbone whose BatchNorm layers, among these, are all untrained."""
    parts = {}
    for module in modules:
        parts.setdefault(module.split(".")[0], []).append(module in untrained)
    return tuple(part for part, all_of in parts.items() if all(all_of))
