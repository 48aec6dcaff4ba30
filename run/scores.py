"""What logits and labels come to: accuracy, loss, chance levels, intervals, ranking, verdicts."""

import math

import numpy as np
from torch.nn import functional as F

from disk.errors import fail_on, stop
from run.findings import CAUSE, EQUAL, SKIPPED, UNEXPLAINED, Row

DRAWS = 2000  # of the bootstrap
ENOUGH = 30  # pairs; fewer do not establish anything
BELOW_CHANCE, ABOVE_CONSTANT = 1e-3, 0.05  # p-values, one-sided

# What predictions come to.
HEALTHY = Row("predictions.healthy", EQUAL, "healthy")
BELOW = Row(
    "predictions.below_chance",
    CAUSE,
    "below chance (accuracy {accuracy:.4f}, p = {p:.1e})[: {meaning}]",
)
TOO_FEW = Row("predictions.too_few", SKIPPED, "cannot judge: only {pairs} pairs")
NO_BETTER = Row(
    "predictions.no_better",
    UNEXPLAINED,
    "no better than the constant predictor (p = {p:.2f})",
)
ACCURACY = Row(
    "predictions.accuracy",
    EQUAL,
    "accuracy {accuracy:.4f}  ({right} of {pairs}, 95 % interval {low:.4f} to {high:.4f}, "
    "bootstrap over series), 1 - accuracy {inverted:.4f}",
)
CONSTANT = Row(
    "predictions.constant", EQUAL, "constant {constant:.4f}  (as good by chance: p = {p:.2g})"
)
LOSS = Row("predictions.loss", EQUAL, "loss     {loss:.4f}  (prior loss {prior:.4f})")
BY_AGREEMENT = Row("predictions.by_agreement", EQUAL, "by agreement: {groups:n}")
BY_SIZE = Row("predictions.by_size", EQUAL, "by photos in the series: {groups:n}")
RECALL = Row("predictions.recall", EQUAL, "recall where the better one is: {groups:n}")
POSITION = Row(
    "predictions.position",
    EQUAL,
    "position: photo_2 is predicted in {predicted:.4f}, preferred in {preferred:.4f}",
)
CALIBRATION = Row(
    "predictions.calibration",
    EQUAL,
    "calibration: mean confidence {confidence:.4f}, expected error {error:.4f}",
)
RANKING = Row(
    "predictions.ranking",
    EQUAL,
    "best photo of the series: {best}; rank correlation with the official ranks {spearman:.3f} "
    "({ranked} series of 3 and more)",
)


def accuracy(logits, labels):
    """Share of the pairs whose label has the larger logit."""
    return (logits.argmax(1) == labels).double().mean().item()


def cross_entropy(logits, labels):
    """Mean natural-log cross-entropy of the labels, in double."""
    return F.nll_loss(F.log_softmax(logits.double(), dim=1), labels).item()


def constant_accuracy(labels):
    """Accuracy of the better constant predictor on these labels (0 or 1)."""
    ones = float(np.mean(labels))
    return max(ones, 1 - ones)


def prior_loss(labels):
    """Natural-log cross-entropy of predicting the share of ones for every pair."""
    ones = float(np.mean(labels))
    return sum(-p * float(np.log(p)) for p in (ones, 1 - ones) if 0 < p < 1) or 0.0


def chance_levels(labels):
    """What the scores of these labels are compared with."""
    return f"constant {constant_accuracy(labels):.4f}, prior loss {prior_loss(labels):.4f}"


def percent(part, whole):
    """`5,659 of 11,423 (49.5 %)`."""
    return f"{part:,} of {whole:,} ({100 * part / max(whole, 1):.1f} %)"


def tail(count, hits, chance):
    """The probability of at least `hits` successes in `count` draws with this chance."""
    k = np.arange(hits, count + 1)
    logs = [math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) for i in k]
    chance = min(max(chance, 1e-12), 1 - 1e-12)
    return float(np.exp(logs + k * math.log(chance) + (count - k) * math.log(1 - chance)).sum())


def series_interval(series, correct):
    """95 % interval of the accuracy: bootstrap over series, a fixed seed; (low, high)."""
    _, index = np.unique(series, return_inverse=True)
    pairs, hits = np.bincount(index), np.bincount(index, weights=correct)
    drawn = np.random.default_rng(0).integers(0, len(pairs), (DRAWS, len(pairs)))
    return np.percentile(hits[drawn].sum(1) / pairs[drawn].sum(1), [2.5, 97.5])


def against_chance(labels, correct):
    """p-values of the constant predictor: doing as well by chance, and doing as badly."""
    count, hits, constant = len(labels), int(correct.sum()), constant_accuracy(labels)
    return tail(count, hits, constant), tail(count, count - hits, constant)


def judge(pairs, scores, with_loss=True):
    """(the finding that is the verdict, evidence) on scores [P, 2] of labelled pairs [P] of PAIR.

    with_loss: whether the scores are log-probabilities.
    """
    correct = scores.argmax(1) == pairs["label"]
    evidence = list(describe(pairs, scores, with_loss))
    above, below = against_chance(pairs["label"], correct)
    if below < BELOW_CHANCE:
        return BELOW.found(accuracy=float(correct.mean()), p=below, meaning=None), evidence
    if above < ABOVE_CONSTANT:
        return HEALTHY.found(), evidence
    if len(pairs) < ENOUGH:
        return TOO_FEW.found(pairs=len(pairs)), evidence
    return NO_BETTER.found(p=above), evidence


def describe(pairs, scores, with_loss):
    """Findings: accuracy, loss, bands, sizes, recall, bias, calibration and ranking."""
    truth, count = pairs["label"], len(pairs)
    correct = scores.argmax(1) == truth
    low, high = map(float, series_interval(pairs["series"], correct))
    share = float(correct.mean())
    right = int(correct.sum())
    yield ACCURACY.found(
        accuracy=share, right=right, pairs=count, low=low, high=high, inverted=1 - share
    )
    above, _ = against_chance(truth, correct)
    yield CONSTANT.found(constant=constant_accuracy(truth), p=above)
    if with_loss:
        loss = float(-scores[np.arange(count), truth].mean())
        yield LOSS.found(loss=loss, prior=prior_loss(truth))
    agreement = np.maximum(pairs["preference"], 1 - pairs["preference"])
    bands = np.minimum((agreement * 10 + 1e-9).astype(int), 9)
    names = {band: f".{band}-{'1' if band == 9 else f'.{band + 1}'}" for band in range(5, 10)}
    yield BY_AGREEMENT.found(groups=by_group(bands, correct, names))
    _, index, sizes = np.unique(pairs["series"], return_inverse=True, return_counts=True)
    photos = np.round((1 + np.sqrt(1 + 8 * sizes)) / 2).astype(int)[index]
    yield BY_SIZE.found(groups=by_group(photos, correct, {}))
    yield RECALL.found(groups=by_group(truth, correct, {0: "photo_1", 1: "photo_2"}))
    predicted = float((scores.argmax(1) == 1).mean())
    yield POSITION.found(predicted=predicted, preferred=float(truth.mean()))
    if with_loss:
        chance = np.exp(scores.max(1))
        bins = np.minimum((chance * 10).astype(int), 9)
        error = sum(abs((correct - chance)[bins == b].sum()) for b in range(5, 10)) / count
        yield CALIBRATION.found(confidence=float(chance.mean()), error=float(error))
    top, every, spearman, ranked = rank_series(pairs, scores)
    if every:
        yield RANKING.found(best=percent(top, every), spearman=spearman, ranked=ranked)


def by_group(groups, correct, names):
    """{name: (accuracy, count)} of each group."""
    return {
        names.get(int(g), int(g)): (float(correct[groups == g].mean()), int((groups == g).sum()))
        for g in np.unique(groups)
    }


SMALLER = 2.0**-16  # exact, and no sum over the pairs of a series overflows


def rank_series(pairs, scores):
    """(series with the right best photo, series, mean Spearman correlation, series of 3 on)."""
    own, top, correlations = np.nan_to_num(scores) * SMALLER, 0, []
    margin = own[:, 0] - own[:, 1]
    order = np.argsort(pairs["series"], kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(pairs["series"][order])) + 1)
    for group in groups:
        strength, rank = {}, {}
        for pair, m in zip(pairs[group], margin[group], strict=True):
            for side, sign in (("1", 1), ("2", -1)):
                photo = int(pair[f"photo_{side}"])
                strength[photo] = strength.get(photo, 0.0) + sign * m
                rank[photo] = int(pair[f"rank_{side}"])
        photos = sorted(rank, key=rank.get)
        top += photos[0] == max(photos, key=strength.get)
        if len(photos) > 2:
            mine = np.argsort(np.argsort([-strength[photo] for photo in photos]))
            correlations.append(np.corrcoef(mine, np.arange(len(photos)))[0, 1])
    return top, len(groups), float(np.mean(correlations or [0])), len(correlations)


def number(text):
    """A number in a file; ValueError where float alone takes more, 1_0 or digits of no ASCII."""
    if "_" in text or not text.isascii():
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def read_tsv(path):
    """The rows of a tab-separated file that this project wrote; ValueError where one is short."""
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # no other ends one
    rows = [line.split("\t") for line in lines]
    if len({len(row) for row in rows}) != 1:
        raise ValueError("its rows have not one length")
    if len(set(rows[0])) < len(rows[0]):
        raise ValueError("two columns have one name")
    return rows


def read_logits(path):
    """(labels [P], logits [2, P]) of a predictions.tsv of a run; ends the program at others."""
    with fail_on(__file__, path, ValueError):
        header, *rows = read_tsv(path)
        places = [header.index(name) for name in ("label", "logit_1", "logit_2")]
        label, *logits = np.array([[number(row[i]) for i in places] for row in rows]).T
    if not (np.isin(label, (0, 1)).all() and np.isfinite(logits).all()):
        stop(__file__, f"{path}: a label is neither 0 nor 1, or a logit not finite")
    return label, np.array(logits)


def quality(path):
    """(how good the model of a predictions.tsv is, compared with chance; whether it is better)."""
    if not path.is_file():
        return "how good this model is is not known: no predictions.tsv", False
    label, logits = read_logits(path)
    correct = (logits[1] > logits[0]) == label
    better = against_chance(label, correct)[0] < ABOVE_CONSTANT
    text = f"this model is right on {correct.mean():.4f} of {len(label)} validation pairs"
    text += f", {constant_accuracy(label):.4f} by chance"
    return text + ("" if better else ": no better than chance, so the order means nothing"), better
