"""Which rows of the stage `evaluation` a trainer's recorded evaluation is."""

import re
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from diagnose.finding import at_line
from diagnose.later import pairs_of, recorded_pairs
from diagnose.predictions.judge import (
    ARITHMETIC,
    METRIC_INVERTED,
    NOT_ACCURACY,
    PART_OF_VAL,
    REPEATED,
    SOME_TRAINING,
    STRANGE,
    TRAINING,
    verdict_of,
)
from diagnose.predictions.reading import join
from diagnose.stages.evaluation import (
    ALONE,
    BOTH_ORDERS,
    CUT,
    FOUND,
    GRADIENTS,
    NO_LOGITS,
    NONE,
    NOT_AS_TRAINED,
    NOT_KNOWN,
    PREPARED,
    RANDOM,
    SEVERAL,
    SWAPPED,
    TRAINING_MODE,
    VERDICT,
)
from diagnose.stages.judge_states import judge_parameters, judge_states
from diagnose.stages.printed import FIGURES, NUMBER, VALIDATION
from diagnose.tables import TABLE, UNDECIDED
from disk.errors import stop
from disk.files import write_text
from run import scores
from run.findings import CAUSE, EQUAL

PRINTED = rf"(?:{FIGURES['accuracy']})\D{{1,12}}?({NUMBER})(\s*%)?"
LOSS = rf"(?:{FIGURES['loss']})\D{{1,12}}?({NUMBER})"
ABOUT = 1e-3  # between two figures that are one
MANY = 2  # digits of a figure, at least
OF_FIGURE = (METRIC_INVERTED, ARITHMETIC, NOT_ACCURACY)
OF_PAIRS = (TRAINING, SOME_TRAINING, PART_OF_VAL, STRANGE, REPEATED)
OF_MODEL = (scores.HEALTHY, scores.BELOW, scores.TOO_FEW, scores.NO_BETTER)  # not of the evaluation


class Evaluation(NamedTuple):
    """The evaluated batches between two updates.

    pairs: the RecordedPair of each pair, None where it was not identified; logits [P, 1 or 2] or
    None, the mean where a pair is evaluated several times; end: how many batches were evaluated by
    then; times: how often each pair is evaluated.
    """

    batches: list
    pairs: list
    logits: torch.Tensor | None
    end: int
    times: int = 1


def evaluations_of(trace, official, paths, is_turned):
    """The Evaluations of a trace; paths, is_turned: see diagnose.later.view_later."""
    groups = {}
    for place, batch in enumerate(trace.evaluated):
        pairs = recorded_pairs(batch, batch.update, official, paths, is_turned)[1]
        groups.setdefault(batch.update, []).append((place, batch, pairs))
    return [evaluation_of(group) for group in groups.values()]


def evaluation_of(group):
    """The Evaluation of [(place, batch, its pairs)]."""
    known = {place: (pairs, [logits_of(batch, len(pairs))]) for place, batch, pairs in group}
    for place, batch, pairs in group:
        first = known.get(batch.mean_with)
        if batch.mean_with != place and first and not is_reversed(first[0], pairs):
            first[1].extend(known.pop(place)[1])
    pairs = [pair for own, _ in known.values() for pair in own]
    logits, times = (
        [z for _, some in known.values() for z in some],
        {len(z) for _, z in known.values()},
    )
    whole = all(z is not None for z in logits) and len({z.shape[1] for z in logits}) == 1
    means = [torch.stack(some).mean(0) for _, some in known.values()] if whole else []
    told = torch.cat(means) if means else None, group[-1][0] + 1, max(times)
    return Evaluation([batch for _, batch, _ in group], pairs, *told)


def logits_of(batch, count):
    """The logits [P, 1 or 2] of an evaluated batch of so many pairs, or None."""
    if batch.logits is None or len(batch.logits) != count:
        return None
    return batch.logits.reshape(count, -1).double()


def is_reversed(pairs, others):
    """Whether pairs are those of a batch in the other order."""
    names = [(a.names, b.names) for a, b in zip(pairs, others, strict=False) if a and b]
    return any(own == other[::-1] != other for own, other in names)


def judge_evaluation(trace, evaluations, known, later, prepared, root):
    """(findings on the recorded evaluations, (rows, scores, whether with a loss) of the one with
    the most pairs, or None).

    known: the RecordedPairs of training; later: batches of it, see view_later; prepared: findings
    on how photos of training, and of the evaluation, are prepared, None where that is not known;
    root: of the dataset.
    """
    if not (trace.asked_epochs or trace.until):
        return [], None
    if not evaluations:
        return [ALONE.found(photos=trace.alone) if trace.alone else NONE.found()], None
    steps = len(trace.updates)
    own = max(evaluations, key=lambda one: (len(one.pairs), one.batches[0].update >= steps))
    own, both = in_one_order(own._replace(end=-1) if own.times > 1 else own)
    findings = [BOTH_ORDERS.found(pairs=len(own.pairs))] * both
    findings += [SEVERAL.found(pairs=len(own.pairs), times=own.times)] * (own.times > 1)
    findings += [*judge_mode(evaluations), *judge_order(own.pairs, known)]
    findings += judge_preparation(*prepared)
    findings = [at_line(finding, own.batches[0].line) for finding in findings]
    unknown = sum(pair is None for pair in own.pairs)
    trained, rows = sum(batch.size for batch in later), [finding.row for finding in findings]
    others = unknown > len(own.pairs) / 2 and PREPARED not in rows
    if others and trained and trained == len(pairs_of(later)):
        told = {"unknown": unknown, "pairs": len(own.pairs), "trained": trained}
        findings.append(at_line(NOT_AS_TRAINED.found(**told), own.batches[0].line))
    elif unknown:
        findings.append(NOT_KNOWN.found(unknown=unknown, pairs=len(own.pairs)))
    if own.logits is None or own.logits.shape[1] > 2:
        return [*findings, NO_LOGITS.found()], None
    made = rows_of(own)
    swapped = SWAPPED in rows
    found = judge_predictions(trace, own, made, root, swapped) if len(made[0]) else []
    found += judge_parameters(trace, evaluations)
    figures = [printed_after(trace, one.end) for one in evaluations]
    return findings + found + judge_states(trace, evaluations, figures), made


def in_one_order(own):
    """(an Evaluation without the second of pairs that come in both orders, whether all do)."""
    names = [None if pair is None else pair.names for pair in own.pairs]
    if None in names or len(set(names)) < len(names):
        return own, False
    if not names or {name[::-1] for name in names} != set(names):
        return own, False
    first = [place for place, name in enumerate(names) if name[::-1] not in names[:place]]
    logits = None if own.logits is None else own.logits[first]
    return own._replace(pairs=[own.pairs[n] for n in first], logits=logits, end=-1), True


def judge_mode(evaluations):
    """Findings on how the network is evaluated."""
    batches = [batch for one in evaluations for batch in one.batches]
    rows = (
        (any(batch.training for batch in batches), TRAINING_MODE),
        (any(batch.random for batch in batches), RANDOM),
        (any(batch.graph for batch in batches), GRADIENTS),
    )
    return [row.found() for holds, row in rows if holds]


def judge_order(pairs, known):
    """The finding on photos that come in another order than in training, in a list."""
    own, other = (
        {pair.official.swapped for pair in some if pair is not None and pair.official}
        for some in (pairs, known)
    )
    return [SWAPPED.found(pairs=len(pairs))] * (len(own) == len(other) == 1 and own != other)


def judge_preparation(trained, evaluated):
    """The finding on photos that are prepared otherwise than in training, in a list.

    Both are the findings on the inputs, None where they are not known.
    """
    if trained is None or evaluated is None or {f.id for f in trained} == {f.id for f in evaluated}:
        return []
    told = [tuple(found) for found in (evaluated, trained)]
    evaluated, trained = (((own,) if own else "as the reference") for own in told)
    return [PREPARED.found(evaluated=evaluated, trained=trained)]


def rows_of(own):
    """(rows [R] of diagnose.tables.TABLE, scores [R, 2], whether they have a loss) of the pairs of
    an Evaluation that were identified.
    """
    rows, places = [], []
    for place, pair in enumerate(own.pairs):
        if pair is not None and pair.official is not None:
            numbers = [int(name.split(".")[0].split("-")[1]) for name in pair.names]
            label = UNDECIDED if pair.label is None else pair.label
            series = int(pair.official.row["series"])
            rows.append((series, *numbers, label, 0, 0, False, "", place + 1))
            places.append(place)
    z, soft = own.logits[places], own.logits.shape[1] == 2
    made = F.log_softmax(z, 1) if soft else torch.cat([-z, z], 1)
    return np.array(rows, dtype=TABLE), made.numpy(), soft


def judge_predictions(trace, own, made, root, swapped):
    """Findings on which pairs are evaluated, their labels, and the figure that is printed.

    swapped: whether photos come in another order than in training.
    """
    table, plain, soft = made
    reported, line = reported_of(trace, own)
    joined = join(table, plain, root)
    verdict, *_ = verdict_of(joined, reported, soft)
    half = cut_at_half(own, joined, reported)
    model = [finding for finding in verdict if finding.row in OF_MODEL]
    other = [f for f in verdict if f.row not in OF_MODEL and f.kind != EQUAL]
    counts = {"pairs": len(own.pairs)}
    if half:
        other = [finding for finding in other if finding.kind == CAUSE]
    if reported and NOT_ACCURACY in [finding.row for finding in other]:
        other = [turned_figure(finding) for finding in other]
    if reported and is_on_own_labels(joined, float(reported[0])):
        other = [finding for finding in other if finding.row not in OF_FIGURE]
    if swapped:  # so labels and figures are those of the other photo
        other = [finding for finding in other if finding.row in OF_PAIRS]
    called, found = own.batches[0].line, (tuple(model),) if model else None
    findings = [at_line(finding, line) for finding in half]
    for finding in other:
        own_line = line if finding.row in OF_FIGURE else called
        findings.append(at_line(FOUND.found(**counts, found=((finding,),)), own_line))
    told = VERDICT.found(**counts, **accuracy_of(joined), found=found)
    return [*findings, at_line(told, called)]


def accuracy_of(joined):
    """{accuracy, constant} of the pairs of a Joined that are official."""
    known = joined.places >= 0
    truth = joined.official["label"][joined.places[known]]
    accuracy = float((joined.scores[known].argmax(1) == truth).mean()) if known.any() else 0.0
    constant = scores.constant_accuracy(truth) if known.any() else 0.0
    return {"accuracy": accuracy, "constant": float(constant)}


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
    if not reported or not known.any():
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


def write_predictions(path, predictions):
    """Writes the predictions of a recorded evaluation as diagnose predictions reads them; ends the
    program where none was recorded.
    """
    if predictions is None:
        stop(__file__, f"--predictions {path}: no evaluation was recorded; see record --epochs")
    table, scores, soft = predictions
    names = ("logprob_1", "logprob_2") if soft else ("score_2",)
    rows = [("series", "photo_1", "photo_2", "label", *names)]
    for row, own in zip(table, scores[:, -len(names) :].tolist(), strict=True):
        label = "" if row["label"] == UNDECIDED else row["label"]
        rows.append((row["series"], row["photo_1"], row["photo_2"], label, *map(repr, own)))
    write_text(path, "".join("\t".join(map(str, row)) + "\n" for row in rows))
