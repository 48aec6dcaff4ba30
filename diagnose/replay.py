"""The reference's step, replayed stage by stage from what a recorded trainer had before each.

One departure does not hide the next, since no stage takes anything from the one before it but
what the trainer itself had. A stage that departs is explained by the changes of
diagnose/changes.py and diagnose/inputs.py: a cause is a change with which the reference gives the
trainer's own numbers.
"""

import copy
import itertools
import math
from functools import reduce
from typing import NamedTuple

import torch
from torch import nn

from diagnose.changes import ACTIVATIONS, MERGES, PASSES, SCORES
from diagnose.finding import Finding, cause, unknown
from diagnose.record import Sight, is_large
from diagnose.trace import batches_of

# Largest relative difference that counts as none, (double, single).
FORMULA = (1e-9, 3e-5)  # merge, head, loss: a few operations
# A pass through the backbone is held against its own rounding, see noise; least and most of that.
FORWARD = ((1e-13, 1e-8), (3e-6, 2e-2))
BACKWARD = ((1e-12, 1e-6), (3e-5, 3e-1))
# A linear layer written out.
PRODUCTS, SUMS = ("matmul", "__matmul__", "mm", "einsum"), ("add", "__add__", "__radd__")


def gap(made, seen):
    """Largest difference of two tensors beside the largest element seen; inf where not finite."""
    if made is None or seen is None or made.shape != seen.shape:
        return math.inf
    if not seen.numel():
        return 0.0
    made, seen = made.double(), seen.double()
    worst = float((made - seen).abs().max() / seen.abs().max().clamp(min=1e-30))
    return worst if math.isfinite(worst) else math.inf


def near(a, b):
    """Whether two tensors of one precision are equal but for a last digit or two."""
    tight = 1e-9 if b.dtype == torch.float64 else 1e-5
    return float((a - b).abs().max()) <= tight * float(b.abs().max()) + 1e-300


def rounding_of(trace, step, tensors):
    """By what a replay in single is to be multiplied for the rounding that a record holds.

    1 where one of these tensors of the record is in single itself; else 29 bits further down, or
    what is lost of later weights, whose change since the first step is kept in single.
    """
    if any(t.dtype != torch.float64 for t in tensors if t.is_floating_point()):
        return 1.0
    first, now = (trace["updates"][i]["weights"] for i in (0, step))
    pairs = zip(first, now, strict=False) if step else ()
    moved = [float(b.norm() / a.norm()) for a, b in pairs if is_large(a) and float(a.norm())]
    return max(2.0**-29, *moved, 0.0)


def noise(single, double, rounding, bounds):
    """The relative difference that rounding explains: a hundred times that of the replay itself.

    Another order of the batch, other threads or another machine move it by several times ten. In
    double it is what single makes, 29 bits further down.
    single, double: one replayed tensor in both precisions; rounding: see rounding_of. bounds:
    (least, most) in double and in single, as what a hypothesis amplifies without end would prove
    anything.
    """
    least, most = bounds[rounding == 1]
    return min(max(100 * gap(single, double) * rounding, least), most)


def number(value):
    """A solved value with the digits that matter."""
    return f"{float(value):.4g}"


# The trainer's weights and the reference's


class Match(NamedTuple):
    """Which of the trainer's weights stand for which of the reference's backbone."""

    names: dict  # number of the trainer's weight: name in the reference's backbone
    missing: list  # names that have no counterpart
    extra: list  # numbers of the trainer's that have none


def key(weight):
    return weight["depth"], weight["op"], weight["place"], tuple(weight["shape"])


def reference_weights(ranker, size):
    """[(key, name)] of the backbone's weights, in the order in which a photo meets them."""
    sight = Sight(False)
    names = {id(t): name for name, t in ranker.backbone.state_dict(keep_vars=True).items()}
    dtype = next(ranker.parameters()).dtype
    photo = torch.zeros(2, 3, size, size, dtype=dtype)
    with torch.no_grad(), sight:
        copy.copy(ranker.backbone).eval()(photo)
    found = [(key(w), names.get(id(w["tensor"]))) for w in sight.weights]
    sight.tags.clear()
    return [(k, name) for k, name in found if name]


def match_weights(numbers, weights, reference):
    """The Match of the weights that one pass of a photo met (their numbers, in order)."""
    free = {}
    for k, name in reference:
        free.setdefault(k, []).append(name)
    names, extra = {}, []
    for n in dict.fromkeys(numbers):
        left = free.get(key(weights[n]))
        if left:
            names[n] = left.pop(0)
        else:
            extra.append(n)
    return Match(names, [name for left in free.values() for name in left], extra)


def weights_at(trace, step):
    """All recorded weights as they were before an update, tensors by number."""
    first = trace["updates"][0]["weights"]
    if step == 0:
        return first
    later = trace["updates"][step]["weights"]
    known = zip(first, later, strict=False)
    return [a + b.to(a.dtype) if is_large(a) else b for a, b in known] + later[len(first) :]


def load_backbone(ranker, match, values):
    """A copy of the reference's backbone with the trainer's weights, in their precision."""
    backbone = copy.deepcopy(ranker.backbone)
    kinds = (values[n].dtype for n in match.names if values[n].is_floating_point())
    backbone.to(next(kinds, torch.float64))
    own = backbone.state_dict(keep_vars=True)
    with torch.no_grad():
        for n, name in match.names.items():
            own[name].copy_(values[n])
    lost = {name.split(".")[0] for name in match.missing}
    for child in lost:  # a stage of which nothing is left was left out
        if all(n.split(".")[0] != child for n in match.names.values()):
            setattr(backbone, child, nn.Identity())
    return backbone.train()


# Features


class Sides(NamedTuple):
    """The two sides of a recorded batch: inputs, features, their gradients (None: detached)."""

    inputs: list  # None where features were given
    features: list
    gradients: list
    numbers: list  # of the weights that each side met
    passes: list  # [N, 3, S, S] of each pass as it was made
    rows: list  # [B] places in all passes

    def turned(self):
        """The same with the other side first."""
        lists = (self.inputs, self.features, self.gradients, self.numbers)
        return Sides(*(side[::-1] for side in lists), self.passes, self.rows[::-1])


def column(tensor):
    """Scores [B] as [B, 1], any other tensor as it is."""
    return tensor[:, None] if tensor.dim() == 1 else tensor


def is_reversed(sides, batch):
    """Whether the merge is the difference the other way round."""
    a, b = sides.features
    return gap(b - a, column(batch["merged"])) <= FORMULA[a.dtype != torch.float64]


def sides_of(batch):
    """The Sides of a recorded pair, photo_1 first; None where it has not two equal ones."""
    rows, passes = batch["rows"], [record["input"] for record in batch["passes"]]
    features, alike = batch["features"], {f.shape for f in batch["features"]}
    if batch["joined"] == "others" or len(features) != 2 or len(alike) > 1 or features[0].dim() > 2:
        return None
    if any(len(side) != len(features[0]) or bool((side < 0).any()) for side in rows):
        return None
    if features[0].dim() == 1 and any(len(set(side.tolist())) == 1 < len(side) for side in rows):
        return None  # features of one photo, not scores of many
    order = [1, 0] if bool((rows[1] < rows[0]).all()) else [0, 1]
    features = [column(features[i]) for i in order]
    if all(x is None for x in passes):
        return Sides(None, features, [None, None], [[], []], [], rows)
    if any(x is None or x.shape[1:] != passes[0].shape[1:] for x in passes):
        return None
    slots = [batch["gradients"].get(f"features_{i}", []) for i in order]
    gradients = [list(map(column, side)) for side in slots]
    photos, rows = torch.cat(passes), [rows[i] for i in order]
    ends = torch.tensor([len(x) for x in passes]).cumsum(0)
    first = [int((ends <= side[0]).sum()) for side in rows]
    numbers = [batch["passes"][place]["weights"] for place in first]
    inputs = [photos[side] for side in rows]
    return Sides(inputs, features, gradients, numbers, passes, rows)


def features(backbones, sides, setting):
    """Features [B, F] of both sides under a setting: rows of PASSES joined, and eps."""
    for backbone in dict.fromkeys(backbones):
        still = [backbone.get_submodule(name) for name in setting.get("still", ())]
        for module in backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(not (setting.get("evaluation") or module in still))
                module.eps = setting.get("eps", 1e-5)
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


def norms_of(batch):
    """The calls of batch_norm in all passes of a batch."""
    return [norm for record in batch["passes"] for norm in record["norms"]]


def judge_momentum(batch, match):
    """Findings on how fast BatchNorm's running statistics follow, by what its calls were told."""
    norms = [norm for norm in norms_of(batch) if norm["training"] and norm["before"][0] is not None]
    other = [norm for norm in norms if norm["momentum"] != 0.1]
    told = {norm["momentum"] for norm in other}
    values = ", ".join("None" if v is None else number(v) for v in sorted(told, key=str))
    parts = {match.names.get(norm["weight"], "?").split(".")[0] for norm in other}
    where = f" of {', '.join(sorted(parts))}" * (len(other) < len(norms))
    text = f"BatchNorm's momentum{where} is {values}, not 0.1, which evaluation alone feels"
    return [cause("features", text)] if told else []


def judge_running(trace):
    """[(step, finding)] on running statistics that something but the recorded passes moves."""
    text = "BatchNorm's running statistics change between the recorded passes (a reset, or another"
    text += " forward in training mode), which evaluation alone feels"
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
        found += [(step, cause("features", text))] if moved else []
    return found


def judge_own(matches, weights):
    """The finding that the two photos do not meet the same weights."""
    first, second = ({name: n for n, name in match.names.items()} for match in matches)
    own = [n for name, n in first.items() if second.get(name) != n]
    if first.keys() != second.keys():
        return unknown("features", "the two photos do not go through the same layers")
    if len(own) == len(first):
        text = "the two photos go through two backbones with weights of their own"
    elif all(weights[n]["op"] == "batch_norm" for n in own):
        text = "each of the two photos has a BatchNorm of its own"
    else:
        parts = sorted({matches[0].names[n].split(".")[0] for n in own})
        text = f"each of the two photos has weights of its own in {', '.join(parts)}"
    return cause("features", text)


def judge_missing(match):
    """The finding that a pass that is reproduced does not meet all weights of the backbone."""
    left = {name.split(".")[0] for name in match.missing}
    if left.isdisjoint(name.split(".")[0] for name in match.names.values()):
        return cause("features", f"the backbone ends before {', '.join(sorted(left))}")
    if all("running_" in name for name in match.missing):
        text = "BatchNorm keeps no running statistics: evaluation takes those of its own batches"
        return cause("features", text)
    return unknown("features", f"weights of {', '.join(sorted(left))} are not met")


def replace_pooling(module):
    """Global mean pooling by global maximum pooling, everywhere in a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            setattr(module, name, nn.AdaptiveMaxPool2d(child.output_size))
        replace_pooling(child)


def candidates(batch, sides):
    """(sentences, setting) to try in the reference's place, simplest first."""
    norms = norms_of(batch)
    rows = []
    for name, (sentence, setting) in PASSES.items():
        if name == "max pool" and not any("max" in op for p in batch["passes"] for op in p["ops"]):
            continue
        if "own_passes" in setting:
            sentence = sentence[len(sides.passes) > 1].format(len(sides.passes))
        rows.append(([sentence], setting))
    eps = {norm["eps"] for norm in norms if norm["eps"]} - {1e-5}
    rows += [([f"BatchNorm's eps is {number(e)}, not 1e-05"], {"eps": e}) for e in sorted(eps)[:1]]
    yield [], {}
    yield from rows
    for a, b in itertools.combinations(rows, 2):
        if not set(a[1]) & set(b[1]):
            yield a[0] + b[0], a[1] | b[1]


def copies(backbones):
    """Copies of the two backbones, one and the same where they are."""
    first = copy.deepcopy(backbones[0])
    return [first, first if backbones[0] is backbones[1] else copy.deepcopy(backbones[1])]


def still_rows(batch, match):
    """[(sentences, setting)] where the record says that a part of BatchNorm is in evaluation."""
    norms = norms_of(batch)
    modes = {match.names.get(n["weight"], "").rpartition(".")[0]: n["training"] for n in norms}
    still = tuple(sorted(name for name, training in modes.items() if name and not training))
    if not still or len(still) == len(modes):
        return []
    parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in still))
    return [([f"BatchNorm of {parts} is in evaluation mode while training"], {"still": still})]


def drops(batch):
    """Whether a dropout was called in the passes of a batch."""
    return any("dropout" in op for record in batch["passes"] for op in record["ops"])


def dropout_rows(sides, made):
    """[(sentences, setting)] where a dropout stands behind the features made of each photo.

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
    text = f"dropout {number(rate)} behind the features of each photo"
    return [([text], {"masks": (kept.double() / (1 - rate)).chunk(2)})]


def linear_rows(weights, match, values):
    """[(sentences, setting)] where one linear layer stands behind the features of each photo."""
    extra = [n for n in match.extra if is_behind(weights, n, match)]
    layer = [values[n] for n in sorted(extra, key=lambda n: weights[n]["place"])]
    if len(extra) < len(match.extra) or [t.dim() for t in layer] not in ([2], [2, 1]):
        return []
    out, width = layer[0].shape
    text = f"a linear layer, {width} to {out}, stands behind the features of each photo"
    text += ": photos are scored one by one" * (out == 1)
    return [([text], {"after": lambda f: nn.functional.linear(f, *(t.to(f.dtype) for t in layer))})]


def is_behind(weights, n, match):
    """Whether a weight is that of a linear layer behind all of the reference's backbone."""
    last = max((weights[other]["depth"] for other in match.names), default=0)
    return weights[n]["op"] == "linear" and weights[n]["depth"] > last


def judge_features(sides, batch, backbones, rounding, known=()):
    """(findings, setting that reproduces the features or None, difference left, noise).

    known: settings that held for other batches, tried first; None: that none did, so only the
    reference is tried.
    """
    seen, passes, best, tried = torch.cat(sides.features), {}, math.inf, 0
    rows = [([], {})] if known is None else [*known, *candidates(batch, sides)]
    if drops(batch):  # its mask needs the reference's own pass, which the rows then share
        with torch.no_grad():
            passes[frozenset()] = features(copies(backbones), sides, {})
        rows += dropout_rows(sides, passes[frozenset()])
    for sentences, setting in rows:
        way = {key: value for key, value in setting.items() if key not in ("after", "masks")}
        key = frozenset(way.items())
        with torch.no_grad():
            if key not in passes:
                passes[key] = features(copies(backbones), sides, way)
            halves = behind(passes[key], setting)
            made = torch.cat(halves) if len({f.shape for f in halves}) == 1 else halves[0]
        tried += 1
        worst = gap(made.to(seen.dtype), seen)
        if worst <= FORWARD[rounding == 1][1]:
            room = forward_noise(sides, backbones, setting, made, rounding)
            if worst <= room:
                return ([cause("features", s, worst) for s in sentences], setting, worst, room)
        best = min(best, worst)
    text = "no change of the backbone's passes reproduces the features"
    near = f"of {tried}, the nearest {best:.1e} off" if math.isfinite(best) else "of other sizes"
    return [unknown("features", text, near)], None, best, 0.0


def forward_noise(sides, backbones, setting, made, rounding):
    """The noise of the features `made` under a setting."""
    dtype = torch.float32 if made.dtype == torch.float64 else torch.float64
    with torch.no_grad():
        chosen = [backbone.to(dtype) for backbone in copies(backbones)]
        other = torch.cat(features(chosen, sides, setting))
    fine, coarse = (made, other) if made.dtype == torch.float64 else (other, made)
    return noise(coarse, fine, rounding, FORWARD)


# The head, from the trainer's own features


def judge_head(sides, batch, values, rounding):
    """(findings on the way from the features to the logits, link by link; that way as a function
    of both features, or None where it is not reproduced).
    """
    tolerance = FORMULA[rounding == 1]
    kept = max(tolerance, 10 * rounding * 2.0**-24 * (rounding < 1))  # of later weights
    merged = column(batch["merged"])
    layered = any(entry["op"] == "linear" for entry in batch["head"])
    if batch["joined"]:
        return [unknown("head", "two merges of the same photos meet; not replayed")], None
    if not batch["head"] and merged.shape[1:].numel() > 2:
        return [unknown("head", "no layer was seen between the merge and the loss")], None
    made = {n: gap(f(*sides.features), merged) for n, (_, f) in MERGES.items()}
    name = next((name for name, off in made.items() if off <= tolerance), None)
    if name is None:
        text = f"none of {len(MERGES)} merges of the features reproduces what {batch['merge']} gave"
        return [unknown("head", text)], None
    (sentence, merge), scores = MERGES[name], SCORES.get((name, merged.shape[1:].numel()))
    kind = "harmless" if name == "reversed" else "cause"
    found = [Finding("head", kind, sentence, "", made[name])] if sentence else []
    found = [cause("head", scores)] if scores and not layered else found
    current, layers, links = merged, [], []
    for entry in batch["head"]:
        words, link, lost = explain_layer(entry, current, values, tolerance, kept)
        if lost:
            return [*found, unknown("head", lost)], None
        layers, current = layers + words, entry["output"]
        links.append(link)
    return found + name_layers(layers), lambda a, b: reduce(lambda x, f: f(x), links, merge(a, b))


def explain_layer(entry, current, values, tolerance, kept):
    """(words of one layer and of what stands before it, both as a function, what is not reproduced
    or None).
    """
    ways = {"": lambda x: x} | ACTIVATIONS
    near = (name for name, f in ways.items() if gap(f(current), entry["input"]) <= tolerance)
    before = next(near, None)
    if before is None:
        return [], None, f"what stands before {entry['op']} in the head is not reproduced"
    words, activation = [before] * bool(before), ways[before]
    if "dropout" in entry["op"]:
        rate = dropout_rate(entry, tolerance)
        words += [f"dropout {rate}"] * bool(rate)
        mask = (entry["output"] != 0) / (1 - float(rate)) if rate else 1
        lost = "a dropout is not reproduced" if rate is None else None
        return words, lambda x: activation(x) * mask, lost
    layer = [values[n].to(entry["input"].dtype) for n in entry["weights"]]
    if entry["op"] in SUMS and gap(entry["input"] + layer[0], entry["output"]) <= kept:
        return [*words, "bias"], lambda x: activation(x) + layer[0], None
    if entry["op"] in PRODUCTS and layer[0].dim() == 2 and entry["input"].dim() == 2:
        across = layer[0].shape[0] == entry["input"].shape[1]  # [in, out]
        layer = [layer[0].T if across else layer[0]]
    elif entry["op"] != "linear":
        return words, None, f"{entry['op']} stands in the head"
    if gap(nn.functional.linear(entry["input"], *layer), entry["output"]) > kept:
        return words, None, "a linear layer is not reproduced"
    words += [f"linear {len(layer[0])}" + " without bias" * (len(layer) == 1)]
    return words, lambda x: nn.functional.linear(activation(x), *layer), None


def dropout_rate(entry, tolerance):
    """The rate of a dropout whose output is its input with a mask; "" off, None not explained."""
    if gap(entry["output"], entry["input"]) <= tolerance:
        return ""
    rate = next((o for o in entry["options"] if isinstance(o, float)), 0.5)
    kept = entry["output"] != 0
    made = torch.where(kept, entry["input"] / (1 - rate), 0.0 * entry["input"])
    share = float(kept[entry["input"] != 0].double().mean())
    near = 6 * math.sqrt(rate * (1 - rate) / max(1, int((entry["input"] != 0).sum()))) + 1e-3
    fits = gap(made, entry["output"]) <= tolerance and abs(share - (1 - rate)) < near
    return number(rate) if fits else None


def name_layers(layers):
    """Findings on the layers of a head; the reference has one linear layer and nothing else."""
    found, linears = [], [layer for layer in layers if layer.startswith("linear")]
    if linears and linears[-1].endswith("without bias") and "bias" not in layers:
        found.append(cause("head", "the last layer has no bias"))
    if linears and linears[-1].split()[1] == "1":
        found.append(cause("head", "the head ends in one logit, not two"))
    for rate in dict.fromkeys(layer for layer in layers if layer.startswith("dropout")):
        place = "before the only layer" if len(linears) == 1 else "in the head"
        found.append(cause("head", f"{rate} {place}"))
    if len(linears) > 1:
        widths = ", ".join(layer.split()[1] for layer in linears[:-1])
        functions = ", ".join(x for x in layers if x in ACTIVATIONS) or "nothing between"
        found.append(cause("head", f"the head has hidden layers: {widths} ({functions})"))
    elif any(x in ACTIVATIONS for x in layers):
        name = next(x for x in layers if x in ACTIVATIONS)
        found.append(cause("head", f"{name} stands between the merge and the head"))
    return found
