"""The backbone's forward passes: from the inputs to the features of both photos."""

import itertools
import math
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.nn import functional as F

from diagnose.numerics import (
    FORWARD,
    estimated,
    is_float32,
    relative_error,
    replay_tolerance,
)
from diagnose.reference import copies, is_behind, load_backbone
from diagnose.trace import batches_of
from run.findings import CAUSE, SKIPPED, UNEXPLAINED, Row


@dataclass(frozen=True)
class Pass(Row):
    """A change of the forward passes. setting: what forward() is told with it."""

    setting: dict = field(default_factory=dict, hash=False)


def change(name, text, **setting):
    """A Pass of this stage."""
    return Pass(f"features.{name}", CAUSE, text, setting=setting)


ONE_PASS = change(
    "one_pass",
    "both photos go through the backbone in one pass, so BatchNorm mixes them",
    own_passes=True,
)
OWN_PASSES = change(
    "own_passes",
    "the photos go through the backbone in {passes} passes, so BatchNorm sees other batches",
    own_passes=True,
)
MAX_POOL = change("max_pool", "features are pooled by their maximum, not their mean", max_pool=True)
# Tried in this order, alone and two at a time.
PASSES = (
    change("batchnorm_eval", "BatchNorm is in evaluation mode while training", evaluation=True),
    MAX_POOL,
    change("normalized", "features are normalised to length 1", after=F.normalize),
    change("sigmoid", "a sigmoid stands behind the features", after=torch.sigmoid),
    change("tanh", "a tanh stands behind the features", after=torch.tanh),
    change("relu", "a ReLU stands behind the features", after=torch.relu),
    change(
        "layer_norm",
        "features are standardised by a layer norm",
        after=lambda f: F.layer_norm(f, f.shape[1:]),
    ),
)
# Whose values are read from the record.
EPS = change("batchnorm_eps", "BatchNorm's eps is {eps}, not {reference}")
STILL = change(
    "batchnorm_partly_eval", "BatchNorm of {layers} is in evaluation mode while training"
)
DROPOUT = change("dropout", "dropout {rate} behind the features of each photo")
LINEAR = change(
    "linear", "a linear layer, {inputs} to {outputs}, stands behind the features of each photo"
)
SCORE = change(
    "score",
    "a linear layer, {inputs} to {outputs}, stands behind the features of each photo: "
    "photos are scored one by one",
)
NOT_REPRODUCED = Row(
    "features.not_reproduced",
    UNEXPLAINED,
    "no change of the backbone's passes reproduces the features",
    varies=("tried", "nearest"),
)
AUTOCAST = Row(
    "features.autocast",
    SKIPPED,
    "the passes ran under autocast, which is not replayed; record without --as-is",
)
NOT_TWO_SIDES = Row(
    "features.not_two_sides", UNEXPLAINED, "the passes of this trainer are not two equal sides"
)
IN_PARTS = Row(
    "features.in_parts",
    UNEXPLAINED,
    "what goes through the head in parts meets in one loss, which is not replayed",
)
GIVEN = Row("features.given", SKIPPED, "features were given: no photo met a weight")
# Facts.
MOMENTUM = Row(
    "features.batchnorm_momentum",
    CAUSE,
    "BatchNorm's momentum[ of {layers}] is {momentum}, not {reference}, "
    "which evaluation alone feels",
)
STATISTICS_MOVE = Row(
    "features.statistics_change",
    CAUSE,
    "BatchNorm's running statistics change between the recorded passes (a reset, or another "
    "forward in training mode), which evaluation alone feels",
)
NO_STATISTICS = Row(
    "features.no_statistics",
    CAUSE,
    "BatchNorm keeps no running statistics: evaluation takes those of its own batches",
)
OTHER_LAYERS = Row(
    "features.other_layers", UNEXPLAINED, "the two photos do not go through the same layers"
)
TWO_BACKBONES = Row(
    "features.two_backbones",
    CAUSE,
    "the two photos go through two backbones with weights of their own",
)
OWN_BATCHNORM = Row(
    "features.own_batchnorm", CAUSE, "each of the two photos has a BatchNorm of its own"
)
OWN_WEIGHTS = Row(
    "features.own_weights", CAUSE, "each of the two photos has weights of its own in {layers}"
)
ENDS_BEFORE = Row("features.truncated", CAUSE, "the backbone ends before {layers}")
NOT_MET = Row("features.weights_not_met", UNEXPLAINED, "weights of {layers} are not met")


def without_passes(stage):
    """The row of another stage that was not judged, since the passes were not."""
    return Row(f"{stage}.passes_skipped", SKIPPED, "not judged, since the passes are not")


def forward(backbones, sides, setting):
    """Features [B, F] of both sides under the joined settings of some changes."""
    for backbone in dict.fromkeys(backbones):
        still = [backbone.get_submodule(name) for name in setting.get("still", ())]
        for module in batchnorms(backbone):
            module.train(not (setting.get("evaluation") or module in still))
            module.eps = setting.get("eps", module.eps)
        if setting.get("max_pool"):
            replace_pooling(backbone)
    dtype, own = next(backbones[0].parameters()).dtype, setting.get("own_passes")
    passes = sides.passes if own else sides.inputs
    chosen = backbones[:1] * len(passes) if own else backbones
    made = [backbone(x.to(dtype)) for backbone, x in zip(chosen, passes, strict=True)]
    made = [f.flatten(1) if f.dim() == 2 else f.mean((2, 3)) for f in made]
    made = list(torch.cat(made)[torch.cat(sides.rows)].chunk(2)) if own else made
    return behind(made, setting)


def behind(made, setting):
    """What a setting has behind the features of both photos: a function, or masks."""
    after, masks = setting.get("after"), setting.get("masks")
    made = [after(f) for f in made] if after else made
    return [f * mask.to(f.dtype) for f, mask in zip(made, masks, strict=True)] if masks else made


def batchnorms(module):
    """The BatchNorm layers of a module."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def replace_pooling(module):
    """Global mean pooling by global maximum pooling, everywhere in a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            setattr(module, name, nn.AdaptiveMaxPool2d(child.output_size))
        replace_pooling(child)


# Facts


def norms_of(batch):
    """The calls of batch_norm in all passes of a batch."""
    return [norm for record in batch["passes"] for norm in record["norms"]]


def judge_momentum(batch, match, backbone):
    """Findings on how fast BatchNorm's running statistics follow, by what its calls were told."""
    usual = {module.momentum for module in batchnorms(backbone)}
    norms = [norm for norm in norms_of(batch) if norm["training"] and norm["before"][0] is not None]
    other = [norm for norm in norms if norm["momentum"] not in usual]
    if not other or not usual:
        return []
    values = tuple(sorted({norm["momentum"] for norm in other}, key=str))
    layers = {match.names.get(norm["weight"], "?").split(".")[0] for norm in other}
    layers = tuple(sorted(layers)) if len(other) < len(norms) else None
    return [MOMENTUM.found(layers=layers, momentum=values, reference=min(usual))]


def judge_running(trace):
    """[(step, finding)] on running statistics that something but the recorded passes moves."""
    found, last = [], {}
    for step, batch in batches_of(trace):
        if batch["joined"]:
            return []  # not all of its passes are those of one pair
        moved = False
        for norm in norms_of(batch):
            if norm["before"][0] is not None and norm["weight"] is not None:
                before = last.get(norm["weight"], norm["before"])
                moved |= not all(map(torch.equal, before, norm["before"]))
                last[norm["weight"]] = norm["after"]
        found += [(step, STATISTICS_MOVE.found())] if moved else []
    return found


def judge_own(matches, weights):
    """The finding that the two photos do not meet the same weights."""
    first, second = ({name: n for n, name in match.names.items()} for match in matches)
    own = [n for name, n in first.items() if second.get(name) != n]
    if first.keys() != second.keys():
        return OTHER_LAYERS.found()
    if len(own) == len(first):
        return TWO_BACKBONES.found()
    if all(weights[n]["op"] == "batch_norm" for n in own):
        return OWN_BATCHNORM.found()
    layers = sorted({matches[0].names[n].split(".")[0] for n in own})
    return OWN_WEIGHTS.found(layers=tuple(layers))


def judge_missing(match):
    """The finding that a pass that is reproduced does not meet all weights of the backbone."""
    left = {name.split(".")[0] for name in match.missing}
    if left.isdisjoint(name.split(".")[0] for name in match.names.values()):
        return ENDS_BEFORE.found(layers=tuple(sorted(left)))
    if all("running_" in name for name in match.missing):
        return NO_STATISTICS.found()
    return NOT_MET.found(layers=tuple(sorted(left)))


# What is tried


def ways(batch, sides, backbone, read):
    """Tuples of changes, each (finding, setting), to try: at most two and what the record shows.

    read: changes that the record shows; they come alone, and with each of the others.
    """
    changes = [own_passes(sides)]
    pooled = any("max" in op for record in batch["passes"] for op in record["ops"])
    changes += [(row.found(), row.setting) for row in PASSES if row is not MAX_POOL or pooled]
    usual = {module.eps for module in batchnorms(backbone)}
    eps = sorted({norm["eps"] for norm in norms_of(batch) if norm["eps"]} - usual)[:1]
    changes += [(EPS.found(eps=e, reference=min(usual)), {"eps": e}) for e in eps if usual]
    shown = [tuple(read), *((change,) for change in read if len(read) > 1)] if read else []
    yield from [*shown, ()]
    extra = [(change,) for change in changes] + list(itertools.combinations(changes, 2))
    for some in extra:
        for known in [(), *shown[:1]]:
            keys = [key for _, setting in (*known, *some) for key in setting]
            if len(keys) == len(set(keys)):
                yield (*known, *some)


def own_passes(sides):
    """(finding, setting) of the passes as the trainer made them."""
    if len(sides.passes) == 1:
        return ONE_PASS.found(), ONE_PASS.setting
    return OWN_PASSES.found(passes=len(sides.passes)), OWN_PASSES.setting


def still_layers(batch, match):
    """[(finding, setting)] where the record says that a part of BatchNorm is in evaluation."""
    norms = norms_of(batch)
    modes = {match.names.get(n["weight"], "").rpartition(".")[0]: n["training"] for n in norms}
    still = tuple(sorted(name for name, training in modes.items() if name and not training))
    if not still or len(still) == len(modes):
        return []
    layers = tuple(dict.fromkeys(name.split(".")[0] for name in still))
    return [(STILL.found(layers=layers), {"still": still})]


def drops(batch):
    """Whether a dropout was called in the passes of a batch."""
    return any("dropout" in op for record in batch["passes"] for op in record["ops"])


def dropout_of(sides, made):
    """[(finding, setting)] where a dropout stands behind the features made of each photo.

    Its mask is where the trainer's own features are 0, its rate what brings the others nearest.
    """
    seen = torch.cat(sides.features)
    made = torch.cat(made).to(seen.dtype)
    if made.shape != seen.shape:
        return []
    kept, there = seen != 0, made != 0
    rate = 1 - float((made[kept] ** 2).sum() / (seen * made).sum())
    share = 1 - float(kept[there].double().mean())
    if not 0 < rate < 1 or abs(share - rate) > 3 / math.sqrt(int(there.sum())):
        return []
    found = DROPOUT.found(rate=estimated(rate))
    return [(found, {"masks": (kept.double() / (1 - rate)).chunk(2)})]


def linear_layer(weights, match, values):
    """[(finding, setting)] where one linear layer stands behind the features of each photo."""
    extra = [n for n in match.extra if is_behind(weights, n, match)]
    layer = [values[n] for n in sorted(extra, key=lambda n: weights[n]["place"])]
    if len(extra) < len(match.extra) or [t.dim() for t in layer] not in ([2], [2, 1]):
        return []
    outputs, inputs = layer[0].shape
    found = (SCORE if outputs == 1 else LINEAR).found(inputs=inputs, outputs=outputs)
    return [(found, {"after": lambda f: F.linear(f, *(t.to(f.dtype) for t in layer))})]


@dataclass(frozen=True)
class Replayed:
    """The replayed forward passes of a batch."""

    findings: list
    backbones: list  # the two, with the trainer's weights
    setting: dict | None  # of the changes that reproduce the features; None where none do
    again: tuple | None  # the changes to try first on the next batch; None: nothing reproduces it
    relative_error: float = math.inf  # that is left
    tolerance: float = 0.0


def judge_passes(trace, view, values, reference, rounding, again):
    """The Replayed of a batch.

    again: the changes that reproduced the batch before, tried first; None: nothing did, so only
    the reference is tried.
    """
    batch, sides, matches = view.batch, view.sides, view.matches
    findings = []
    backbones = [load_backbone(reference.ranker, match, values) for match in matches]
    if matches[0].names.keys() == matches[1].names.keys():
        backbones[1] = backbones[0]
    else:
        findings.append(judge_own(matches, trace["weights"]))
    tries = [()]
    if again is not None:
        read = still_layers(batch, matches[0])
        read += linear_layer(trace["weights"], matches[0], values)
        tries = [again, *ways(batch, sides, backbones[0], read)]
    made = search(sides, batch, backbones, rounding, tries)
    if made.setting is None and any(record["autocast"] for record in batch["passes"]):
        findings.append(AUTOCAST.found())
    else:
        missing = made.setting is not None and matches[0].missing
        findings += [judge_missing(matches[0])] * bool(missing) + made.findings
    findings += judge_momentum(batch, matches[0], backbones[0])
    return replace(made, findings=findings)


def search(sides, batch, backbones, rounding, tries):
    """The Replayed of the first of some tuples of changes that reproduces the features, of which
    no change can be left out.
    """
    replay = Replay(sides, backbones, rounding)
    if drops(batch):  # its mask needs the reference's own pass
        tries = [*tries, *((change,) for change in dropout_of(sides, replay.passes({})))]
    tried, nearest = 0, math.inf
    for changes in tries:
        tried += 1
        error, tolerance = replay.errors(changes)
        nearest = min(nearest, error)
        if error <= tolerance:
            return replay.minimal(changes)
    near = estimated(nearest) if math.isfinite(nearest) else None
    return Replayed(
        [NOT_REPRODUCED.found(tried=tried, nearest=near)], backbones, None, None, nearest
    )


class Replay:
    """The reference's forward passes on one batch, each made once."""

    def __init__(self, sides, backbones, rounding):
        self.sides, self.backbones, self.rounding = sides, backbones, rounding
        self.seen, self.made = torch.cat(sides.features), {}

    def passes(self, setting):
        """Features of both sides under a setting, but for what stands behind the backbone."""
        own = {key: value for key, value in setting.items() if key not in ("after", "masks")}
        key = frozenset(own.items())
        if key not in self.made:
            with torch.no_grad():
                self.made[key] = forward(copies(self.backbones), self.sides, own)
        return self.made[key]

    def errors(self, changes):
        """(relative error of the features with these changes, its tolerance)."""
        setting = join(changes)
        with torch.no_grad():
            halves = behind(self.passes(setting), setting)
        made = torch.cat(halves) if len({f.shape for f in halves}) == 1 else halves[0]
        error = relative_error(made.to(self.seen.dtype), self.seen)
        if error > FORWARD[is_float32(self.rounding)][1]:
            return error, 0.0
        sides, backbones = self.sides, self.backbones
        return error, forward_tolerance(sides, backbones, setting, made, self.rounding)

    def minimal(self, changes):
        """The Replayed of changes that reproduce the features, without those that do not matter."""
        for change in changes:
            less = tuple(other for other in changes if other is not change)
            error, tolerance = self.errors(less)
            changes = less if error <= tolerance else changes
        error, tolerance = self.errors(changes)
        findings = [finding.row.found(error, **finding.values) for finding, _ in changes]
        setting = join(changes)
        again = () if "masks" in setting else changes  # masks are of this batch
        return Replayed(findings, self.backbones, setting, again, error, tolerance)


def join(changes):
    """The joined settings of changes."""
    return {key: value for _, setting in changes for key, value in setting.items()}


def forward_tolerance(sides, backbones, setting, made, rounding):
    """The tolerance of the features `made` under a setting."""
    dtype = torch.float32 if made.dtype == torch.float64 else torch.float64
    with torch.no_grad():
        chosen = [backbone.to(dtype) for backbone in copies(backbones)]
        other = torch.cat(forward(chosen, sides, setting))
    fine, coarse = (made, other) if made.dtype == torch.float64 else (other, made)
    return replay_tolerance(coarse, fine, rounding, FORWARD)
