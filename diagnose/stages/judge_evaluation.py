"""Which rows of the stage `evaluation` a trainer's recorded evaluation is."""

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
    FOUND,
    GRADIENTS,
    NO_LOGITS,
    NONE,
    NOT_AS_TRAINED,
    NOT_KNOWN,
    PREPARED,
    RANDOM,
    SERIES,
    SEVERAL,
    SWAPPED,
    TRAINING_MODE,
    VERDICT,
)
from diagnose.stages.evaluation_figures import (
    cut_at_half,
    is_on_own_labels,
    judge_of_training,
    judge_repeated,
    judge_running,
    printed_after,
    reported_of,
    turned_figure,
)
from diagnose.stages.judge_states import judge_parameters, judge_states
from diagnose.tables import TABLE, UNDECIDED
from disk.errors import stop
from disk.files import write_text
from run import scores
from run.findings import CAUSE, EQUAL

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


def judge_evaluation(trace, evaluations, known, later, prepared, root, facts):
    """(findings on the recorded evaluations, (rows, scores, whether with a loss) of the one with
    the most pairs, or None).

    known: the RecordedPairs of training; later: batches of it, see view_later; prepared: findings
    on how photos of training, and of the evaluation, are prepared, None where that is not known;
    root: of the dataset; facts: of training, see judge_of_training.
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
    findings += judge_preparation(*prepared) if own.times == 1 else []  # crops are others
    findings = [at_line(finding, own.batches[0].line) for finding in findings]
    unknown = sum(pair is None for pair in own.pairs)
    findings += judge_series(trace, own, known + pairs_of(later))
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
    figures = judge_running(trace, evaluations)
    others = [] if figures else judge_of_training(trace, evaluations, facts)
    told = rows, unknown, bool(figures), others
    found = figures + (judge_predictions(trace, own, made, root, *told) if len(made[0]) else [])
    found += judge_repeated(evaluations) * (TRAINING_MODE not in rows)
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


def judge_series(trace, own, known):
    """The finding on evaluated pairs of the training list whose series are trained on, but not
    these pairs, in a list; known: the RecordedPairs of training, which must be a whole epoch.
    """
    trained = {pair.official[:2] for pair in known if pair.official}
    if not any(epoch.ended and epoch.items == len(trained) for epoch in trace.epochs):
        return []
    series = {int(pair.official.row["series"]) for pair in known if pair.official}
    held = [pair.official for pair in own.pairs if pair is not None and pair.official]
    held = [of for of in held if of.split == "train" and of[:2] not in trained]
    count = sum(int(of.row["series"]) in series for of in held)
    if not count or len(held) < sum(pair is not None for pair in own.pairs):
        return []  # of which some are trained on themselves, or none of their series are
    return [at_line(SERIES.found(count=count, pairs=len(own.pairs)), own.batches[0].line)]


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


def judge_predictions(trace, own, made, root, rows, unknown, is_explained, others):
    """Findings on which pairs are evaluated, their labels, and the figure that is printed.

    rows: those that were found; unknown: how many pairs were not identified; is_explained: whether
    the figure is; others: findings on what else it may be, told where it is no accuracy of these
    pairs.
    """
    table, plain, soft = made
    reported, line = reported_of(trace, own)
    joined = join(table, plain, root)
    verdict, *_ = verdict_of(joined, reported, soft)
    is_lost = NOT_ACCURACY in [finding.row for finding in verdict]
    others = others if is_lost else []
    is_explained = is_explained or bool(others)
    half = [] if unknown or is_explained else cut_at_half(own, joined, reported)
    model = [finding for finding in verdict if finding.row in OF_MODEL]
    other = [f for f in verdict if f.row not in OF_MODEL and f.kind != EQUAL]
    counts = {"pairs": len(own.pairs)}
    if half:
        other = [finding for finding in other if finding.kind == CAUSE]
    if reported and NOT_ACCURACY in [finding.row for finding in other]:
        other = [turned_figure(finding) for finding in other]
    if unknown:  # the pairs that lack may be these, and the figure is of these as well
        other = [finding for finding in other if finding.row is not PART_OF_VAL]
    of_others = unknown or is_explained
    if of_others or (reported and is_on_own_labels(joined, float(reported[0]))):
        other = [finding for finding in other if finding.row not in OF_FIGURE]
    if SERIES in rows:  # which says more
        other = [finding for finding in other if finding.row not in (TRAINING, SOME_TRAINING)]
    if SWAPPED in rows:  # so labels and figures are those of the other photo
        other = [finding for finding in other if finding.row in OF_PAIRS]
    called, found = own.batches[0].line, (tuple(model),) if model else None
    findings = others + [at_line(finding, line) for finding in half]
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
