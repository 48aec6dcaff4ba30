"""Which parameters are evaluated, and which state dict is kept as the best."""

import math

import torch

from diagnose.finding import at_line
from diagnose.numerics import estimated, least
from diagnose.record import BATCH_NORM_STATISTICS
from diagnose.stages.evaluation import (
    COPY,
    EARLIER,
    EXPONENTIAL,
    LOWEST_LOSS,
    MEAN,
    NOT_THE_BEST,
    OTHER_NETWORK,
    OTHER_STATISTICS,
    OTHER_VALUES,
    OVERWRITTEN,
    SAVED_LATE,
    STALE_STATISTICS,
)

EXPONENTS = [place / 12 for place in range(1, 61)]  # of 10, of 1 - a decay: .17 to .99999
SHARE = 1e-3  # of what an average moves, that rounding may leave, besides the last digit
BEST = "best"  # in the name of a file


def judge_parameters(trace, evaluations):
    """Findings on which parameters are evaluated after updates, one of each row."""
    trained, findings = learned(trace, trace.batches[0].passes[0].weights), {}
    for own in evaluations:
        batch = own.batches[0]
        if not batch.update:
            continue
        now = trace.marks.get(batch.update)
        other = trained and not trained & learned(trace, batch.weights)
        known = batch.marks is not None and now is not None and is_like(batch.marks, now)
        found = judge_marks(trace, batch, now) if known else []
        if other:
            found += [(OTHER_NETWORK if found or not known else COPY).found()]
        for finding in found:
            findings.setdefault(finding.id, at_line(finding, batch.line))
    if COPY.id in findings and len(findings) > 1:
        del findings[COPY.id]
    return list(findings.values())


def learned(trace, numbers):
    """Those of some weights that are parameters, and no running statistics."""
    places = ((number, trace.weights[number]) for number in numbers)
    return {n for n, weight in places if (weight.op, weight.place) not in BATCH_NORM_STATISTICS}


def is_like(marks, other):
    """Whether marks are of parameters like the other's."""
    both = marks.parameters, other.parameters
    return None not in both and both[0].shape == both[1].shape


def judge_marks(trace, batch, now):
    """Findings on the parameters and running statistics of an evaluated batch; now: the Marks of
    those that are trained.
    """
    before = [trace.marks[n] for n in range(batch.update) if n in trace.marks]
    if len(before) < batch.update:
        return []
    if not torch.equal(batch.marks.parameters, now.parameters):
        return [which_of(batch.marks.parameters, [m.parameters for m in [*before, now]])]
    own, last = batch.marks.statistics, now.statistics
    seen_late = batch.training or batch.graph  # when they have moved
    if own is None or last is None or seen_late or torch.equal(own, last):
        return []
    earlier = [n for n, marks in enumerate(before) if torch.equal(marks.statistics, own)]
    told = {"taken": earlier[-1], "done": batch.update} if earlier else {}
    return [(STALE_STATISTICS if earlier else OTHER_STATISTICS).found(**told)]


def which_of(own, history):
    """The finding on parameters [N] that are not the last of a history."""
    done = len(history) - 1
    earlier = [n for n, values in enumerate(history) if torch.equal(values, own)]
    if earlier:
        return EARLIER.found(taken=earlier[-1], done=done)
    values = torch.stack(history)
    for count in range(2, done + 1):
        if is_made(values[-count:].mean(0), own, values):
            return MEAN.found(count=count, done=done)
    for first in (0, 1)[:done]:  # where the average begins
        decay = decay_between(values[first:], own)
        if is_made(averaged(values[first:], decay), own, values):
            return EXPONENTIAL.found(decay=estimated(decay))
    return OTHER_VALUES.found()


def decay_between(values, own):
    """The decay with which an exponential average of values [U, N] comes nearest to own [N]."""

    def miss(exponent):
        return float((averaged(values, 1 - 10**-exponent) - own).norm())

    return 1 - 10 ** -least(miss, EXPONENTS)


def averaged(values, decay):
    """The exponential average [N] of values [U, N], the first of which it starts from."""
    shares = decay ** torch.arange(len(values) - 1, -1, -1, dtype=torch.float64)
    shares[1:] *= 1 - decay
    return shares @ values


def is_made(made, own, values):
    """Whether an average is what was evaluated, as far as rounding tells."""
    moved = float((own - values[-1]).norm())
    in_single = torch.equal(own.float().double(), own)
    digits = in_single * torch.finfo(torch.float32).eps * float(own.norm())
    return float((made - own).norm()) <= SHARE * moved + digits


def judge_states(trace, evaluations, figures):
    """Findings on the state dicts that are saved and loaded.

    figures: [(accuracy, loss) that was printed after each Evaluation, None where none was].
    """
    findings = []
    for state in trace.states:
        if 0 <= state.taken < state.update:
            told = {"done": state.update, "taken": state.taken}
            late = SAVED_LATE.found(**told, file=state.file or None)
            found = OVERWRITTEN.found(**told) if state.kind == "loaded" else late
            findings.append(at_line(found, state.line))
    return findings + judge_best(trace, evaluations, figures)


def judge_best(trace, evaluations, figures):
    """Findings on a file that is named best: whether it is written after the best evaluations."""
    saved = [state for state in trace.states if state.kind == "saved"]
    findings = []
    for file in sorted({state.file for state in saved if BEST in state.file.lower()}):
        own = [state for state in saved if state.file == file]
        ends = [one.end for one in evaluations]
        written = [n for n, end in enumerate(ends) if any(is_after(s, ends, n) for s in own)]
        told = {"file": file, "line": own[0].line, "written": written}
        findings += judge_written(figures, **told)
    return findings


def is_after(state, ends, place):
    """Whether a state was kept after the evaluation at a place, and before the next."""
    following = ends[place + 1] if place + 1 < len(ends) else math.inf
    return ends[place] <= state.evaluated < following


def judge_written(figures, file, line, written):
    """The finding on a file that is written after some evaluations, in a list."""
    accuracies, losses = zip(*figures, strict=True) if figures else ((), ())
    if len(accuracies) < 2 or None in accuracies:
        return []
    if is_at_each_best(accuracies, written):
        return []
    if None not in losses and is_at_each_best([-loss for loss in losses], written):
        return [at_line(LOWEST_LOSS.found(file=file), line)]
    told = {"written": tuple(n + 1 for n in written), "figures": tuple(accuracies)}
    return [at_line(NOT_THE_BEST.found(file=file, **told), line)]


def is_at_each_best(figures, written):
    """Whether a file is written after each figure that is higher than all before, and after no
    lower one; after an equal one it may be.
    """
    before = [max(figures[:n], default=-math.inf) for n in range(len(figures))]
    best = {n for n, figure in enumerate(figures) if figure > before[n]}
    equal = {n for n, figure in enumerate(figures) if figure == before[n]}
    return best <= set(written) <= best | equal
