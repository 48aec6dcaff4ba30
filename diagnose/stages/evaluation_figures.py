"""Which arithmetic the printed figures of the recorded evaluations are."""

import re

import numpy as np
import torch

from diagnose.finding import at_line
from diagnose.predictions.judge import METRIC_INVERTED, NOT_ACCURACY
from diagnose.record import NOWHERE
from diagnose.stages.evaluation import CUT, NEVER_RESET, OF_TRAINING, PAIR_DIFFERS
from diagnose.stages.printed import FIGURES, NUMBER, VALIDATION
from diagnose.tables import UNDECIDED

PRINTED = rf"(?:{FIGURES['accuracy']})\D{{1,12}}?({NUMBER})(\s*%)?"
LOSS = rf"(?:{FIGURES['loss']})\D{{1,12}}?({NUMBER})"
ABOUT = 1e-3  # between two figures that are one
MANY = 2  # digits of a figure, at least
ROUNDED = 1e-3  # relative difference of two logits of one pair that rounding explains


def judge_running(trace, evaluations):
    """The finding on figures that go on from one evaluation to the next, in a list."""
    known = [(hits_of(own), reported_of(trace, own)) for own in evaluations]
    known = [(hits, *told) for hits, told in known if hits is not None and told[0]]
    if len(known) < 2:
        return []
    right, every = (np.cumsum([hits[k] for hits, *_ in known]) for k in (0, 1))
    own = [is_figure(told[0], hits[0] / hits[1]) for hits, told, _ in known]
    goes_on = [is_figure(told[0], a / b)
               for (_, told, _), a, b in zip(known, right, every, strict=True)]  # fmt: skip
    found = at_line(NEVER_RESET.found(count=len(known)), known[-1][-1])
    return [found] * (all(goes_on) and not all(own))


def hits_of(own):
    """(how many pairs of an Evaluation are right by the trainer's own labels, how many there are);
    None where that is not known.
    """
    labels = [None if pair is None else pair.label for pair in own.pairs]
    if own.logits is None or None in labels or own.logits.shape[1] > 2 or not labels:
        return None
    z = own.logits
    guess = z.argmax(1) if z.shape[1] == 2 else (z[:, 0] > 0).long()
    return int((guess == torch.tensor(labels)).sum()), len(labels)


def is_figure(text, value):
    """Whether a figure, as text, is a value to all its digits."""
    return abs(float(text) - value) <= 0.5 * 10.0 ** -len(text.partition(".")[2]) + 1e-9


def judge_of_training(trace, evaluations, trained):
    """The finding on figures of the validation that are those of training, in a list.

    trained: [(step, {accuracy, pairs, epoch})] of the batches of training.
    """
    told, since = [], 0
    for own in evaluations:
        reported, hits, now = reported_of(trace, own)[0], hits_of(own), own.batches[0].update
        facts = [fact for step, fact in trained
                 if step < now and (step >= since or fact["epoch"] != NOWHERE)]  # fmt: skip
        since = now
        if reported and hits and facts and not is_figure(reported[0], hits[0] / hits[1]):
            told.append({name for name, value in shares_of(facts).items()
                         if is_figure(reported[0], value)})  # fmt: skip
    which = sorted(set.intersection(*told)) if told else []
    line = reported_of(trace, evaluations[-1])[1]
    return [at_line(OF_TRAINING.found(which=" or ".join(which)), line)] * bool(which)


def shares_of(facts):
    """{what it is: accuracy} of the batches of training before an evaluation."""
    epoch = [fact for fact in facts if fact["epoch"] == facts[-1]["epoch"]]
    pairs, shares = ([fact[k] for fact in epoch] for k in ("pairs", "accuracy"))
    return {
        "all pairs of the epoch": float(np.average(shares, weights=pairs)),
        "the mean over the batches of the epoch": float(np.mean(shares)),
    }


def judge_repeated(evaluations):
    """The finding on a pair whose logits differ within one evaluation, in a list."""
    for own in evaluations:
        logits = {}
        for place, pair in enumerate(own.pairs if own.logits is not None else ()):
            if pair is not None:
                logits.setdefault(pair.names, []).append(own.logits[place])
        several = {names: torch.stack(z) for names, z in logits.items() if len(z) > 1}
        spread = {names: float((z - z[0]).abs().max()) for names, z in several.items()}
        apart = [names for names, gap in spread.items()
                 if gap > ROUNDED * float(own.logits.abs().max())]  # fmt: skip
        if apart:
            told = {"count": len(apart), "total": len(several), "photos": " and ".join(apart[0])}
            return [at_line(PAIR_DIFFERS.found(**told), own.batches[0].line)]
    return []


def turned_figure(finding):
    """A finding, or, on a figure that is none of many, that it is 1 - accuracy where it is.

    It was printed after this very evaluation, so no other epoch's accuracy is it by chance.
    """
    if finding.row is not NOT_ACCURACY:
        return finding
    reported, accuracy = finding.values["reported"], finding.values["accuracy"]
    near = 10.0 ** -len(reported.partition(".")[2])
    is_turned = abs(1 - float(reported) - accuracy) <= near
    return METRIC_INVERTED.found(reported=reported) if is_turned else finding


def is_on_own_labels(joined, reported):
    """Whether an accuracy is that on the labels that the evaluation has, which are judged."""
    known = (joined.places >= 0) & (joined.own != UNDECIDED)
    own = joined.own[known]
    if not known.any() or (own == joined.official["label"][joined.places[known]]).all():
        return False
    return abs(float((joined.scores[known].argmax(1) == own).mean()) - reported) < ABOUT


def cut_at_half(own, joined, reported):
    """The finding on logits that are cut elsewhere than in their middle, in a list."""
    known = joined.places >= 0
    if not reported or not known.any() or is_on_own_labels(joined, float(reported[-1])):
        return []
    logits, truth = joined.scores[known], joined.official["label"][joined.places[known]]
    near = 10.0 ** -len(reported[-1].partition(".")[2])
    accuracy = float((logits.argmax(1) == truth).mean())
    if abs(accuracy - float(reported[-1])) <= near:
        return []
    scores = {"the single logit": logits[:, 1]}
    if own.logits.shape[1] == 2:
        scores = {"logit 2 - logit 1": logits[:, 1] - logits[:, 0], "logit 2 alone": logits[:, 1]}
    ways = ((name, cut) for name in scores for cut in (0, 0.5))
    shares = {way: float(((scores[way[0]] > way[1]) == truth).mean()) for way in ways}
    told = [f"{name} cut at {cut:g}" for (name, cut), share in shares.items()
            if abs(share - float(reported[-1])) <= near]  # fmt: skip
    values = {"reported": reported[-1], "ways": " or ".join(told), "accuracy": accuracy}
    return [CUT.found(**values)] * bool(told)


def reported_of(trace, own):
    """([the validation accuracy that was printed after an Evaluation, as text of a fraction], the
    number of its line); [] and -1 where none was.
    """
    for text, line in validation_lines(trace, own.end):
        said = re.search(PRINTED, text, re.I)
        figure = as_fraction(said[1], said[2]) if said else ""
        if len(figure.partition(".")[2]) >= MANY:
            return [figure], line
    return [], -1


def validation_lines(trace, end):
    """(what is said of the validation, number of the line) of lines that were printed when so many
    batches were evaluated.
    """
    for *_, text, line, evaluated in trace.printed:
        parts = re.split(VALIDATION, text, maxsplit=1, flags=re.I)
        if evaluated == end and len(parts) > 1:
            yield parts[1], line


def printed_after(trace, end):
    """(validation accuracy, validation loss) as numbers that were printed when so many batches were
    evaluated; None where none was.
    """
    texts = [text for text, _ in validation_lines(trace, end)]
    said = (next(filter(None, (re.search(p, t, re.I) for t in texts)), None)
            for p in (PRINTED, LOSS))  # fmt: skip
    return tuple(float(found[1]) if found else None for found in said)


def as_fraction(text, percent):
    """A figure as a fraction of 1, with all its digits."""
    digits = len(text.partition(".")[2])
    if not percent and float(text) <= 1:
        return text
    return f"{float(text) / 100:.{digits + 2}f}"
