"""The search for causes: signatures of silent bugs in a variant's trace, beside the reference's.

Each check returns causes, an empty list where it finds nothing, or a text saying why it could not
run. Most need the variant's own numbers alone, so that one bug does not raise the others.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from diagnose.tracer import fingerprint

IMAGENET = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))  # mean and deviation by channel
SAME = 1e-5  # relative difference that counts as equal where a signature is sought


class Cause(NamedTuple):
    """A cause: its sentence, file and step, how well it fits (1 is exact), `defect` or `info`."""

    sentence: str
    where: str
    fit: float
    kind: str = "defect"


class Traces(NamedTuple):
    """What every check gets."""

    ref: object
    var: object
    match: dict  # reference name of a parameter or buffer to the variant's
    double: bool

    def line(self, side, step, stage, name):
        """The line of one name, or None; side is `ref` or `var`."""
        lines = getattr(self, side).lines.get((step, stage), [])
        return next((line for line in lines if line.name == name), None)

    def where(self, step, stage, name=""):
        """File and line of a variant's line, for a cause."""
        lines = self.var.lines.get((step, stage), [])
        line = next((line for line in lines if line.name == name), lines[0] if lines else None)
        return f"{self.var.path}:{line.number if line else 1}, step {step}"

    def shared_steps(self):
        """Steps that both traces have."""
        return range(min(self.ref.steps, self.var.steps))


def search(ref, var, match, double):
    """(causes, names of the checks that ran, why the others could not)."""
    traces = Traces(ref, var, match, double)
    found, ran, could_not = [], [], []
    for check in CHECKS:
        result = check(traces)
        name = check.__name__.replace("_", " ")
        if isinstance(result, str):
            could_not.append(f"{name}: {result}")
        else:
            ran.append(name)
            found += result
    return sorted(found, key=lambda cause: cause.kind == "info"), ran, could_not


def near(a, b, tolerance=SAME):
    """Whether two lists of numbers are equal, relative to the larger."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0), 1e-300)
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= tolerance * scale))


# Pairs and their order


def pairs_of(trace, step):
    """[(photo_1, photo_2, label)] of a step."""
    lines = trace.lines.get((step, "1D"), [])
    return [(line.values[0], line.values[1], int(line.values[2])) for line in lines]


def epochs_of(trace):
    """Lists of the steps of each whole epoch, and of the rest: split where an epoch is logged."""
    ends = [s for s in range(trace.steps) for line in trace.lines.get((s, "8M"), [])
            if line.name == "epoch"]  # fmt: skip
    starts = [0, *(end + 1 for end in ends)]
    return [list(range(a, b + 1)) for a, b in zip(starts, ends, strict=False)]


def labels(t):
    """Labels of the same pairs, in whatever order the two come."""
    truth = {}
    for step in range(t.ref.steps):
        truth |= {pair[:2]: pair[2] for pair in pairs_of(t.ref, step)}
    mine = [pair for step in range(t.var.steps) for pair in pairs_of(t.var, step)]
    both = [(truth[p[:2]], p[2]) for p in mine if p[:2] in truth]
    both += [(1 - truth[p[1::-1]], p[2]) for p in mine if p[1::-1] in truth]
    if not both:
        return "no pair in common, or no pairs in one of the traces"
    wrong = sum(a != b for a, b in both)
    where = t.where(0, "1D")
    if wrong == len(both):
        return [Cause(f"labels inverted in the loader: all of {wrong} pairs", where, 1.0)]
    sentence = f"labels partly wrong in the loader: {wrong} of {len(both)} pairs"
    return [Cause(sentence, where, wrong / len(both))] if wrong else []


def order_of_pairs(t):
    """The order of the pairs: not shuffled, or shuffled from other random numbers."""
    orders = [[[p[:2] for s in epoch for p in pairs_of(trace, s)] for epoch in epochs_of(trace)]
              for trace in (t.ref, t.var)]  # fmt: skip
    if len(orders[0]) < 2 or len(orders[1]) < 2 or not orders[1][0]:
        return "needs two whole epochs of pairs in both traces"
    ours, theirs = orders
    where = t.where(0, "1D")
    if theirs[0] == sorted(theirs[0]):
        return [Cause("shuffling off: the pairs come in the order of the file", where, 1.0)]
    if theirs[0] == theirs[1] and ours[0] != ours[1]:
        return [Cause("shuffling off: every epoch has the same order", where, 1.0)]
    for epoch, (a, b) in enumerate(zip(ours, theirs, strict=False), 1):
        if a != b and sorted(a) == sorted(b):
            states = [t.line(side, 0, "0R", "torch") for side in ("ref", "var")]
            same = all(states) and states[0].values == states[1].values
            seen = "equal" if same else "different"
            sentence = "random numbers consumed before training, or another seed: the same pairs "
            sentence += f"in another order from epoch {epoch} on, random state {seen}"
            return [Cause(sentence, where, 1.0)]
    return []


# Inputs


def inputs(t):
    """Channel order, normalisation, geometry and resampling of the inputs of equal pairs."""
    steps = [s for s in t.shared_steps() if same_photos(t, s)]
    channels = [[channel_lines(t, side, steps, c) for c in range(3)] for side in ("ref", "var")]
    if not steps or not all(map(len, (*channels[0], *channels[1]))):
        return "no step with the same photos and inputs in both traces"
    ours, theirs = channels
    where = t.where(steps[0], "2X")
    flat = [[n for line in side for n in line.values[1:5]] for side in (*ours, *theirs)]
    if all(near(flat[c], flat[3 + c]) for c in range(3)):
        return []
    if all(near(flat[2 - c], flat[3 + c]) for c in range(3)):
        return [Cause("BGR for RGB: the inputs agree with their channels exchanged", where, 1.0)]
    if ours[0][0].shape != theirs[0][0].shape:
        sentence = f"inputs of another size: {theirs[0][0].shape} against {ours[0][0].shape}"
        return [Cause(sentence, where, 1.0)]
    turned = [affine(ours[2 - c], theirs[c]) for c in range(3)]
    fits = [affine(ours[c], theirs[c]) for c in range(3)]
    if all(error < 1e-4 for _, _, error in turned) and turned[0][2] < fits[0][2]:
        sentence = "BGR for RGB: exchanged before the normalisation, which is that of RGB"
        return [Cause(sentence, where, 1 - max(fit[2] for fit in turned))]
    if all(error < 1e-4 for _, _, error in fits):
        return [Cause(name_normalisation(fits), where, 1 - max(fit[2] for fit in fits))]
    return [name_geometry(t, steps[0], ours, theirs, where)]


def same_photos(t, step):
    """Whether both traces have the same photos in this step, by name and bytes where known."""
    ours, theirs = (trace.lines.get((step, "1D"), []) for trace in (t.ref, t.var))
    if len(ours) != len(theirs) or not ours:
        return False
    for a, b in zip(ours, theirs, strict=True):
        bytes_known = "-" not in (*a.values[3:], *b.values[3:])
        if a.values[:2] != b.values[:2] or (bytes_known and a.values[3:] != b.values[3:]):
            return False
    return True


def channel_lines(t, side, steps, channel):
    """The lines of one channel of both photos, in steps that have them."""
    lines = [t.line(side, s, "2X", f"photo_{i}.{channel}") for s in steps for i in (1, 2)]
    return [line for line in lines if line is not None]


def affine(ours, theirs):
    """(a, b, relative error) of theirs = a ours + b, by the projections and those of ones."""
    rows, right = [], []
    ones = {}
    for mine, other in zip(ours, theirs, strict=True):
        if mine.shape not in ones:
            ones[mine.shape] = fingerprint(torch.ones([int(side) for side in mine.shape]))
        rows += [[p, q] for p, q in zip(mine.values[1:5], ones[mine.shape][1:5], strict=True)]
        right += other.values[1:5]
    rows, right = np.array(rows), np.array(right)
    (a, b), *_ = np.linalg.lstsq(rows, right, rcond=None)
    error = np.linalg.norm(rows @ (a, b) - right) / max(np.linalg.norm(right), 1e-300)
    return float(a), float(b), float(error)


def name_normalisation(fits):
    """The sentence for inputs that are a ours + b in every channel."""
    text = ", ".join(f"{a:.4g} x + {b:.4g}" for a, b, _ in fits)
    missing = [(deviation, mean) for mean, deviation in IMAGENET]
    twice = [(1 / deviation, -mean / deviation) for mean, deviation in IMAGENET]
    for word, expected in (("missing", missing), ("twice", twice)):
        if all(near(fit[:2], pair, 1e-3) for fit, pair in zip(fits, expected, strict=True)):
            return f"normalisation {word}: by channel the input is {text}"
    if all(near(fit[:2], [255 * v for v in p], 1e-3) for fit, p in zip(fits, missing, strict=True)):
        return f"normalisation missing, and inputs in 0..255: by channel {text}"
    return f"another normalisation: by channel the input is {text} of the reference's"


def name_geometry(t, step, ours, theirs, where):
    """The cause for inputs that no normalisation explains."""
    borders = [t.line(side, step, "2X", "photo_1.border") for side in ("ref", "var")]
    gaps = [
        rms(a.values[1:5], b.values[1:5]) / max(a.values[0], 1e-300)
        for channel in range(3)
        for a, b in zip(ours[channel], theirs[channel], strict=True)
    ]
    gap = float(np.median(gaps))
    counts = [line.values if line else None for line in borders]
    seen = f"relative difference {gap:.1e}"
    if None not in counts and counts[0] != counts[1]:
        sentence = "crop, pad or squash differ: the same photos, constant border rows and columns "
        return Cause(f"{sentence}{counts[1]} against {counts[0]}, {seen}", where, 1.0)
    corners = [t.line(side, step, "2X", "photo_1.corner") for side in ("ref", "var")]
    if None not in corners and rms(corners[0].values, corners[1].values) > 1e-5:
        texts = [", ".join(f"{v:.4f}" for v in line.values) for line in reversed(corners)]
        sentence = f"another padding colour: {' against '.join(texts)} after normalisation"
        return Cause(f"{sentence}, {seen}", where, 1.0)
    if gap > 0.15:
        sentence = (
            "other pixels of the same photos, with the same borders: flipped, shifted, augmented, "
        )
        return Cause(f"{sentence}or BGR before the padding? {seen}", where, 0.5)
    sentence = f"another decoder or resampling filter: same geometry, {seen}"
    return Cause(sentence, where, 1 - gap)


def rms(a, b):
    """Root mean square of a - b: of the projections of two tensors, about |a - b|."""
    return math.sqrt(np.mean((np.array(a) - np.array(b)) ** 2))


# Initial parameters


def head_of(t):
    """The initial lines (reference, variant) of the last layer's weights, [2, F], or None."""
    for line in reversed(t.ref.lines.get((0, "3I"), [])):
        other = t.line("var", 0, "3I", t.match.get(line.name, ""))
        if len(line.shape) == 2 and line.shape[0] == "2" and other is not None:
            return line, other
    return None


def head_initialisation(t):
    """The head's deviation against sqrt(2 / F)."""
    pair = head_of(t)
    if pair is None:
        return "no initial head of shape 2,F matched"
    features = max(int(side) for side in pair[1].shape)
    found = pair[1].values[0] / math.sqrt(2 * features)
    expected = math.sqrt(2 / features)
    where = t.where(0, "3I", pair[1].name)
    if found == 0:
        loss = t.line("var", 0, "5L", "loss")
        seen = f", first loss {loss.values[0]:.4f}" if loss else ""
        return [
            Cause(
                f"head initialised with zeros{seen}: no gradient reaches the backbone", where, 1.0
            )
        ]
    if 0.9 < found / expected < 1.1:
        return []
    hint = " (fan_out)" if 0.9 < found < 1.1 else ""
    hint = hint or (" (PyTorch's default)" if 0.36 < found / expected < 0.45 else "")
    sentence = f"head initialised with deviation {found:.4g}{hint} against {expected:.4g}"
    return [Cause(sentence, where, 1.0)]


def number_of_parameters(t):
    """Two backbones where the reference shares one."""
    ours, theirs = (
        [line for line in trace.lines.get((0, "3I"), []) if line.name.startswith("parameter:")]
        for trace in (t.ref, t.var)
    )
    if not ours or not theirs:
        return "no initial parameters in one of the traces"
    sums = [sum(math.prod(map(int, line.shape)) for line in side) for side in (ours, theirs)]
    head = head_of(t)
    small = math.prod(map(int, head[0].shape)) + 2 if head else 0
    if sums[1] > sums[0] and abs((sums[1] - small) / (sums[0] - small) - 2) < 0.01:
        sentence = f"two backbones, weights not shared: {sums[1]} parameters against {sums[0]}"
        return [Cause(sentence, t.where(0, "3I"), 1.0)]
    if sums[0] != sums[1]:
        sentence = f"another model: {sums[1]} parameters against {sums[0]}"
        return [Cause(sentence, t.where(0, "3I"), 1.0)]
    return []


# Forward pass and loss


def logits_of(trace, step):
    """[B, 2] logits and [B] labels of a step."""
    lines = [li for li in trace.lines.get((step, "4F"), []) if li.name.startswith("pair_")]
    rows = [line.values[:3] for line in lines]
    if not rows or any(isinstance(value, str) for row in rows for value in row):
        return np.zeros((0, 2)), np.zeros(0, int)
    table = np.array(rows)
    return table[:, :2], table[:, 2].astype(int)


def forward_pass(t):
    """Sign of the difference, swapped logits, a needless log_softmax, one concatenated pass."""
    (ours, _), (theirs, _) = logits_of(t.ref, 0), logits_of(t.var, 0)
    if not len(ours) or len(ours) != len(theirs) or not same_photos(t, 0):
        return "no logits of the same photos in both traces"
    found, where = [], t.where(0, "4F")
    tolerance = 1e-7 if t.double else 1e-4
    lines = [t.line(side, 0, "4F", "difference") for side in ("ref", "var")]
    if all(lines) and near([-x for x in lines[0].values[1:5]], lines[1].values[1:5], tolerance):
        sentence = "features_2 - features_1: harmless where training and evaluation agree"
        found.append(Cause(sentence, where, 1.0, "info"))
    if not near(ours, theirs, tolerance):
        gaps = [side[:, 1] - side[:, 0] for side in (ours, theirs)]
        if near(ours[:, ::-1], theirs, tolerance):
            found.append(Cause("output index swapped: logits 0 and 1 exchanged", where, 1.0))
        elif near(*gaps, tolerance) and near(np.exp(theirs).sum(1), np.ones(len(ours)), 1e-4):
            sentence = "log_softmax before the loss, which applies it again: it changes nothing"
            found.append(Cause(sentence, where, 1.0, "info"))
        elif all(lines) and not near(ours, theirs, 1e-2) and not head_initialisation(t):
            same = near(lines[0].values[:5], lines[1].values[:5], max(tolerance, 1e-5))
            found += [other_head(where)] if same else []
    return found


def other_head(where):
    """The cause for equal differences and other logits from a head of the same deviation."""
    sentence = "between difference and logits: the same difference gives other logits (dropout, "
    return Cause(f"{sentence}another layer, other initial weights of the head?)", where, 0.5)


def batch_norm(t):
    """BatchNorm's counters: one concatenated pass, or batches counted between the steps."""
    ours, theirs = (counters(t, side) for side in ("ref", "var"))
    if not ours or not theirs:
        return "no BatchNorm counter in one of the traces"
    where = t.where(0, "7U")
    if len(ours) == len(theirs) and {row[0] for row in theirs} == {1.0} and ours[0][0] == 2:
        sentence = "one concatenated pass instead of two: BatchNorm counts 1 a step, not 2"
        return [Cause(sentence, where, 1.0)]
    if theirs[0][0] == 0 and ours[0][0] > 0:
        sentence = "BatchNorm in evaluation mode during training: its counter stands still"
        return [Cause(sentence, where, 1.0)]
    for step, (first, then) in enumerate(pairwise(theirs[0])):
        extra = then - first - theirs[0][0]
        if extra > 0:
            sentence = f"evaluation in training mode: BatchNorm counts {extra:.0f} batches between "
            return [Cause(f"{sentence}steps {step} and {step + 1}", t.where(step + 1, "7U"), 1.0)]
    return []


def counters(t, side):
    """For each of BatchNorm's counters its values after each step, less the initial one."""
    names = [line.name for line in getattr(t, side).lines.get((0, "7U"), [])
             if line.name.startswith("buffer:") and not line.shape]  # fmt: skip
    rows = []
    for name in names:
        before = t.line(side, 0, "3I", name)
        lines = [t.line(side, step, "7U", name) for step in range(getattr(t, side).steps)]
        if before is not None and None not in lines:
            rows.append([line.values[0] - before.values[0] for line in lines])
    return rows


def softmax(z):
    """Softmax of the rows of z."""
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def per_pair_losses(z, y):
    """{name: [B]} the six losses of each pair, for labels y."""
    p, rows = softmax(z), np.arange(len(z))
    margin = z[rows, y] - z[rows, 1 - y]
    target = np.eye(2)[y]
    return {
        "CE(logits, {})": -np.log(np.maximum(p[rows, y], 1e-300)),
        "NLL on probabilities({})": -p[rows, y],
        "CE on softmax({})": -np.log(softmax(p)[rows, y]),
        "BCE(logits, {})": np.logaddexp(0, -z * (2 * target - 1)).mean(1),
        "hinge(logits, {})": np.maximum(0, 1 - margin) / 2,
        "MSE(softmax, {})": ((p - target) ** 2).mean(1),
    }


def hypotheses(z, y, batch_size):
    """{(loss, reduction): value}, 36 losses of one batch; batch_size: that of a full batch."""
    values = {}
    for turned in (False, True):
        label = "1 - label" if turned else "label"
        for name, losses in per_pair_losses(z, 1 - y if turned else y).items():
            name = name.format(label)
            values[name, "mean"] = losses.mean()
            values[name, "sum"] = losses.sum()
            values[name, "sum / batch size"] = losses.sum() / batch_size
    return values


def loss_forensics(t):
    """Which of 36 losses the printed one is, from each batch's logits, labels and loss."""
    batches = []
    for step in range(t.var.steps):
        z, y = logits_of(t.var, step)
        line = t.line("var", step, "5L", "loss")
        if len(z) and line is not None and np.isfinite([line.values[0], *z.ravel()]).all():
            batches.append((z, y, line.values[0]))
    if not batches:
        return "no batch with logits, labels and loss"
    if max(np.abs(z).max() for z, _, _ in batches) < 1e-3:
        return "all logits are near zero: every loss of a kind is the same"
    errors, full = {}, max(len(y) for _, y, _ in batches)
    for z, y, loss in batches:
        for name, value in hypotheses(z, y, full).items():
            errors[name] = max(errors.get(name, 0.0), abs(value - loss) / max(abs(loss), 1e-6))
    true = ("CE(logits, label)", "mean")
    tolerance = 1e-5
    if errors[true] < tolerance:
        return []
    partial = min(len(y) for _, y, _ in batches) < full  # else the two reductions are the same
    fitting = sorted(
        (error, name)
        for name, error in errors.items()
        if error < tolerance and (partial or name[1] != "sum / batch size")
    )
    z, y, loss = batches[0]
    if not fitting:
        return [Cause(other_loss(batches, full), t.where(0, "5L"), 0.5)]
    return [Cause(name_loss(name, loss, hypotheses(z, y, full)[true]), t.where(0, "5L"), 1 - error)
            for error, name in fitting]  # fmt: skip


def other_loss(batches, full):
    """The sentence for a loss that is none of the hypotheses, but perhaps a multiple of CE."""
    true = [hypotheses(z, y, full)["CE(logits, label)", "mean"] for z, y, _ in batches]
    pairs = [(b[2], v) for b, v in zip(batches, true, strict=True) if v > 1e-6]
    ratios = [loss / value for loss, value in pairs] or [0.0]  # without saturated batches
    constant = max(abs(ratio - ratios[0]) for ratio in ratios) < 1e-5 * abs(ratios[0])
    power_of_2 = ratios[0] > 0 and abs(math.log2(ratios[0]) - round(math.log2(ratios[0]))) < 1e-5
    if constant and (len(ratios) > 1 or power_of_2):
        return f"loss scaled: {ratios[0]:.6g} times CE(logits, label) in every batch"
    text = f"{batches[0][2]:.4f} for {true[0]:.4f}"
    return (
        f"a loss that none of 36 hypotheses explains (smoothing, class weights, a penalty?): {text}"
    )


def name_loss(name, loss, true):
    """The sentence for a loss that is one of the hypotheses."""
    text = f"{loss:.4f} = {name[0]}, {name[1]}; it should be {true:.4f}"
    if name == ("CE(logits, 1 - label)", "mean"):
        return f"labels inverted in the loss: {text}"
    if name[0].startswith("CE on softmax"):
        return f"softmax before cross-entropy: {text}"
    if name[0].startswith("NLL on"):
        return f"NLL on probabilities instead of log-probabilities: {text}"
    return f"another loss: {text}"


# Gradients and updates


def parameters_of(t):
    """(reference name, variant name, index of the reference's group) of matched parameters."""
    groups = {line.name: line.values[5] for line in t.ref.lines.get((0, "7U"), [])
              if line.name.startswith("parameter:") and len(line.values) > 5}  # fmt: skip
    return [(a, b, groups[a]) for a, b in t.match.items() if a in groups]


def parameters_that_move(t):
    """Parameters without gradient or update, outside the optimizer, or skipped by AMP."""
    still, outside, skipped, seen, names = [], [], [], [], parameters_of(t)
    if not names or not t.var.lines.get((0, "7U")):
        return "no updates in one of the traces, or no matched parameters"
    head = head_of(t)
    zero_head = head is not None and head[1].values[0] == 0
    sizes = [line.values[0] for line in t.ref.lines.get((0, "6G"), []) if line.values[0] != "none"]
    least = 1e-6 * max(sizes, default=0.0)  # below, as before a BatchNorm, it is rounding alone
    for ours, theirs, group in names:
        lines = [t.line("var", 0, stage, theirs) for stage in ("6G", "7U")]
        reference = t.line("ref", 0, "7U", ours)
        before = t.line("ref", 0, "6G", ours)
        if None in (*lines, reference, before) or before.values[0] <= least:
            continue
        gradient, update = lines[0].values[0], lines[1].values[0]
        seen += [theirs] if group == 0 else []
        if isinstance(gradient, float) and not math.isfinite(gradient):
            skipped += [theirs] if update == 0 else []
        elif update == 0 and lines[1].values[-1] == "-" and gradient != "none":
            outside.append(theirs)
        elif update == 0 and not (zero_head and gradient == 0):
            still.append((theirs, gradient))
    where = t.where(0, "7U", (outside or [x[0] for x in still] or skipped or [""])[0])
    found = []
    if outside:
        is_head = head is not None and head[1].name in outside
        part = "head missing from the optimizer" if is_head else "missing from the optimizer"
        found.append(Cause(f"{part}: {len(outside)} tensors, {outside[0]} first", where, 1.0))
    if still:
        how = "no gradient" if still[0][1] == "none" else f"gradient {still[0][1]:.3g}, update 0"
        part = "backbone frozen" if seen == [name for name, _ in still] else "tensors frozen"
        sentence = f"{part} by mistake: {len(still)} of {len(names)} do not move ({how})"
        found.append(Cause(sentence, where, 1.0))
    return found + skipped_steps(t, names)


def skipped_steps(t, names):
    """Steps whose gradient is not finite and whose update is 0."""
    bad = []
    for step in range(t.var.steps):
        for _, name, _ in names:
            lines = [t.line("var", step, stage, name) for stage in ("6G", "7U")]
            if None not in lines and isinstance(lines[0].values[0], float):
                finite, update = math.isfinite(lines[0].values[0]), lines[1].values[0]
                bad += [step] if not finite and update == 0 else []
    if not bad:
        return []
    sentence = f"AMP step skipped: gradient not finite and update 0 in step {bad[0]}"
    return [Cause(sentence, t.where(bad[0], "6G"), 1.0)]


def gradients_not_zeroed(t):
    """Whether the second gradient is the reference's plus the first one."""
    names = parameters_of(t)
    sums, plain, scale = 0.0, 0.0, 0.0
    for ours, theirs, _ in names:
        lines = [t.line(*key) for key in (("ref", 0, "6G", ours), ("ref", 1, "6G", ours),
                                          ("var", 1, "6G", theirs))]  # fmt: skip
        if None in lines or any(len(line.values) < 5 for line in lines):
            continue
        first, second, mine = (np.array(line.values[1:5]) for line in lines)
        sums += np.sum((mine - second - first) ** 2)
        plain += np.sum((mine - second) ** 2)
        scale += np.sum(first**2)
    if scale == 0:
        return "needs two steps of gradients in both traces"
    if sums < 1e-4 * scale and plain > 0.1 * scale:
        sentence = "gradients not zeroed: the second is the reference's plus the first"
        return [Cause(sentence, t.where(1, "6G"), 1 - math.sqrt(sums / scale))]
    return []


def fit_sgd(t, side, names):
    """(lr, momentum, weight decay, error) that u_t = mu u_(t-1) - lr g_t - lr wd p_t fits, or None.

    The law holds for every projection; all tensors of a group are fitted together. Needs three
    finite steps, and double precision: in float32 rounding eats the figures.
    """
    rows, right = [], []
    for name in names:
        first = t.line(side, 0, "3I", name)
        if first is None:
            continue
        place, before = np.array(first.values[1:5]), np.zeros(4)
        for step in range(constant_rate(t, side)):
            lines = [t.line(side, step, stage, name) for stage in ("6G", "7U")]
            if (
                None in lines
                or len(lines[0].values) < 5
                or not np.isfinite(lines[0].values[:5]).all()
            ):
                break
            gradient, update = (np.array(line.values[1:5]) for line in lines)
            scale = np.abs(update).max()
            if scale == 0:
                break
            rows += (np.stack([before, -gradient, -place], 1) / scale).tolist()
            right += (update / scale).tolist()
            place, before = place + update, update
    if len(rows) < 12:
        return None
    rows, right = np.array(rows), np.array(right)
    norms = np.maximum(np.linalg.norm(rows, axis=0), 1e-300)
    solution, *_ = np.linalg.lstsq(rows / norms, right, rcond=1e-14)
    momentum, lr, decay = solution / norms
    error = np.linalg.norm(rows / norms @ solution - right) / max(np.linalg.norm(right), 1e-300)
    return lr, momentum, decay / lr if abs(lr) > 1e-300 else 0.0, float(error)


def constant_rate(t, side):
    """The number of first steps through which the stated learning rate does not change."""
    trace, rates = getattr(t, side), []
    for step in range(trace.steps):
        line = t.line(side, step, "7U", "group:0")
        rates.append(line.values[0] if line else None)
        if rates[-1] != rates[0]:
            return step
    return trace.steps


def claimed(t, side, group):
    """(lr, momentum, weight decay) as the optimizer of one side states them for a group."""
    line = t.line(side, 0, "7U", f"group:{int(group)}")
    return tuple(line.values[:3]) if line is not None else None


def optimizer_values(t):
    """Learning rates, momentum and weight decay: fitted in double, as stated in float32."""
    names, found = parameters_of(t), []
    groups = sorted({group for *_, group in names})
    where = t.where(0, "7U")
    values = {"ref": [], "var": []}
    for group in groups:
        ours = [a for a, _, g in names if g == group]
        theirs = [b for _, b, g in names if g == group]
        stated = {t.line("var", 0, "7U", b).values[-1] for b in theirs if t.line("var", 0, "7U", b)}
        stated -= {"-"}
        if t.double:
            pair = fit_sgd(t, "ref", ours), fit_sgd(t, "var", theirs)
        else:
            pair = claimed(t, "ref", group), claimed(t, "var", min(stated)) if stated else None
        if t.double and pair[1] and pair[1][3] > max(1e-3, 10 * pair[0][3]):
            return [Cause(other_optimizer(t, ours, theirs, pair[1][3]), where, 1 - pair[1][3])]
        if None in pair:
            return "needs three finite steps with gradients and updates in both traces"
        values["ref"].append(pair[0][:3])
        values["var"].append(pair[1][:3])
    if not groups:
        return "no matched parameters with updates"
    ours, theirs = np.array(values["ref"]), np.array(values["var"])
    how = "fitted" if t.double else "stated"
    moving = np.abs(theirs[:, 0]) > 1e-12  # a frozen group has no rate, and a cause of its own
    for place, word in ((1, "momentum"), (2, "weight decay")):
        if moving.any() and not near(theirs[moving, place], ours[moving, place], 0.02):
            mine, right = theirs[moving, place][0], ours[moving, place][0]
            none = f"no {word}" if abs(mine) < 0.02 * right else f"another {word}"
            found.append(Cause(f"{none}: {mine:.3g} {how}, {right:.3g} expected", where, 1.0))
    return found + name_rates(ours[:, 0], theirs[:, 0], moving, how, where)


def other_optimizer(t, ours, theirs, error):
    """The sentence for updates that SGD with momentum and weight decay does not explain."""
    flat = [(a, b) for a, b in zip(ours, theirs, strict=True) if dimensions(t, a) < 2]
    deep = [b for a, b in zip(ours, theirs, strict=True) if dimensions(t, a) > 1]
    fits = fit_sgd(t, "var", deep), fit_sgd(t, "var", [b for _, b in flat])
    if None not in fits and max(fit[3] for fit in fits) < 1e-2 and abs(fits[1][2]) < 1e-5:
        return "no weight decay on tensors of one dimension: biases and BatchNorm"
    sentence = "updates that are not those of SGD with momentum and weight decay: Nesterov, "
    sentence += "dampening, another optimizer, or gradients changed after they were traced"
    return f"{sentence} (the best fit leaves {error:.2g} of them)"


def dimensions(t, name):
    """The number of dimensions of a parameter of the reference."""
    line = t.line("ref", 0, "3I", name)
    return len(line.shape) if line else 0


def name_rates(ours, theirs, moving, how, where):
    """Causes that lie in the learning rates, one per group."""
    if len(ours) < 2 or near(ours[moving], theirs[moving], 0.02) or not moving.all():
        return []
    text = f"{theirs[0]:.3g} and {theirs[1]:.3g} {how}, {ours[0]:.3g} and {ours[1]:.3g} expected"
    if near(theirs[0], theirs[1], 0.02):
        return [Cause(f"one learning rate for all: {text}", where, 1.0)]
    if near(theirs[::-1], ours, 0.02):
        return [Cause(f"the two learning rates are swapped: {text}", where, 1.0)]
    return [Cause(f"other learning rates: {text}", where, 1.0)]


def schedule(t):
    """Whether a learning rate changes within an epoch."""
    for epoch in epochs_of(t.var):
        for a, b in pairwise(epoch):
            lines = [t.line("var", step, "7U", "group:0") for step in (a, b)]
            if None not in lines and not near(lines[0].values[:1], lines[1].values[:1], 1e-6):
                rates = [line.values[0] for line in lines]
                sentence = f"scheduler stepped per batch: rate {rates[0]:.3g}, then {rates[1]:.3g}"
                return [Cause(sentence, t.where(b, "7U", "group:0"), 1.0)]
    return [] if epochs_of(t.var) else "no whole epoch in the variant's trace"


# Metrics


def epoch_metrics(t):
    """How the epoch's loss and accuracy come from its batches."""
    found = []
    for epoch in epochs_of(t.var):
        steps = [t.line("var", step, "8M", "step") for step in epoch]
        line = t.line("var", epoch[-1], "8M", "epoch")
        if None in steps:
            continue
        table = np.array([step.values for step in steps], float)
        hits, counts, losses = table.T
        loss, accuracy, total = line.values
        where = t.where(epoch[-1], "8M", "epoch")
        if total != counts.sum() or len(set(counts)) == 1:
            continue
        true = float((losses * counts).sum() / total)
        ways = {
            "every batch counts alike": losses.mean(),
            "sum x batch size / n": losses.sum() * counts.max() / total,
        }
        for way, value in ways.items():
            if abs(loss - true) > 1e-6 * abs(true) and near(loss, value, 1e-6):
                sentence = "last partial batch weighted wrongly in the loss: "
                sentence += f"{way}, {loss:.4f} is {loss / true:.4f} times {true:.4f}"
                found.append(Cause(sentence, where, 1.0))
        mean = float((hits / counts).mean())
        if abs(accuracy * total - round(accuracy * total)) > 1e-6 and near(accuracy, mean, 1e-6):
            sentence = (
                f"accuracy averaged per batch: {accuracy:.4f} x {total:.0f} is no whole number"
            )
            found.append(Cause(sentence, where, 1.0))
    once = {cause.sentence.split(":")[0]: cause for cause in reversed(found)}
    return list(once.values()) if epochs_of(t.var) else "no whole epoch in the variant's trace"


def batch_accuracy(t):
    """Whether the right predictions are counted as wrong ones."""
    seen = []
    for step in range(t.var.steps):
        z, y = logits_of(t.var, step)
        line = t.line("var", step, "8M", "step")
        if len(z) and line is not None:
            seen.append((int((z.argmax(1) == y).sum()), int(line.values[0]), len(y)))
    if not seen:
        return "no batch with logits, labels and a count"
    wrong = [hits != counted for hits, counted, _ in seen]
    if any(wrong) and all(counted == count - hits for hits, counted, count in seen):
        sentence = f"metric inverted: {seen[0][1]} of {seen[0][2]} counted, {seen[0][0]} are right"
        return [Cause(sentence, t.where(0, "8M", "step"), 1.0)]
    if any(wrong):
        return [Cause("the number of right predictions is wrong", t.where(0, "8M", "step"), 1.0)]
    return []


CHECKS = (
    labels,
    order_of_pairs,
    inputs,
    head_initialisation,
    number_of_parameters,
    forward_pass,
    batch_norm,
    loss_forensics,
    parameters_that_move,
    gradients_not_zeroed,
    optimizer_values,
    schedule,
    epoch_metrics,
    batch_accuracy,
)
