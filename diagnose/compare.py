"""Explains a recorded trainer as the reference with changes, each proved by reproduction.

    python -m diagnose compare mine.trace --data DATASET [--page train_resnet] [--json]

Every stage begins with what the trainer itself had before it, so that one difference does not
hide the next. Exit code 0: nothing is wrong, 1: something is a cause or unexplained, 2: cannot
be judged.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import torch

from diagnose.answer import commands, exit_code, in_order, lines_of, verdict
from diagnose.criterion import Evidence, recipe_of
from diagnose.finding import merge_steps
from diagnose.later import pairs_of, view_later
from diagnose.official import Official, RecordedPair
from diagnose.parameters import learning
from diagnose.pretrained import first_weights, judge_pretrained
from diagnose.progress import Progress
from diagnose.reference import (
    PAGES,
    Sides,
    choose_reference,
    is_reversed,
    match_weights,
    sides_of,
    weights_by_step,
)
from diagnose.stages import (
    STAGES,
    gradients,
    judge_pairs,
    judge_tricks,
    labels,
    replicas,
    start,
)
from diagnose.stages import judge_features as features
from diagnose.stages import judge_head as head
from diagnose.stages import judge_inputs as inputs
from diagnose.stages import judge_loss as loss
from diagnose.stages import judge_update as updates
from diagnose.stages import schedule as schedules
from diagnose.stages.features import GIVEN, IN_PARTS, NOT_TWO_SIDES, without_passes
from diagnose.stages.judge_evaluation import evaluations_of, judge_evaluation, write_predictions
from diagnose.stages.judge_steps import describe_steps
from diagnose.stages.printed import VALIDATION_LINES
from diagnose.stages.update import BY_HAND_OTHER, NOT_REPRODUCED, OTHER_CLASS
from diagnose.stepping import declared, history_of
from diagnose.trace import Batch, batches_of, read_trace
from diagnose.where import with_lines
from diagnose.whole import figures_by_step, judge_data, judge_figures
from disk.errors import command_line, fail_on, instrument, name_path, show_progress
from disk.files import check_new
from disk.tensors import load_tensors
from run.findings import UNEXPLAINED, give_answer


class Basis(NamedTuple):
    """On what an answer rests."""

    steps: int
    asked: int  # steps that were to be recorded
    recorded: int  # pairs
    pairs: int  # whose photos were identified and that are in the lists
    epochs: int | None  # that ended; None: not known
    later: int  # pairs behind the full steps
    later_found: int  # of them whose photos were identified
    asked_epochs: int  # whole ones that were to be recorded
    relative_error: float | None  # largest of the features, with the changes in place
    tolerance: float | None  # what rounding explains of it
    size: int | None  # of the inputs, pixels
    reference_size: int
    page: str  # of the reference, as train_resnet
    predictions: tuple | None = None  # of the recorded evaluation, see judge_evaluation


class BatchContext(NamedTuple):
    """What is known of one recorded batch before anything is replayed."""

    step: int
    batch: Batch
    sides: Sides
    matches: list  # the Match of each side
    pairs: list  # the RecordedPair of each that was identified
    evidence: Evidence | None  # of the loss
    changes: list  # of each input, see judge_inputs
    factor: float | None = None  # by which the reference's loss is multiplied


def explain(trace, root, page=None, weights=None):
    """(findings in the order to mend them in, each with the steps it holds in; the Basis).

    weights: a file of pretrained weights from which the trainer is to start, or None.
    """
    photo = trace.batches[0].passes[0].input
    size = None if photo is None else photo.shape[-1]
    reference = choose_reference(page, trace, size or 64)
    official, steps = Official(root, trace.files), len(trace.updates)
    progress = Progress(len(trace.batches))
    findings, views = view_batches(trace, reference, official, progress)
    findings += features.judge_running(trace)
    findings += [(0, found) for found in inputs.judge_draws([view.changes for view in views])]
    known = [pair for view in views for pair in view.pairs]
    inverted = labels.are_inverted(known)
    whole, views, fitted = judge_losses(views, inverted)
    swapped = fitted is not None and fitted.inverted
    found, passes = explain_batches(trace, views, reference, progress)
    if start.UNTRAINED not in [finding.row for _, finding in found]:
        told = judge_first_weights(views, trace, reference, weights)
        findings += [(0, finding) for finding in told]
    copies = replicas.copies_of(views)
    if copies:
        findings += found + replicas.judge_copies(trace, views, copies)
    else:
        findings += found + explain_updates(trace, views, reference)
    turned = bool(views) and is_turned(views[0])
    paths = official.of_thumbnails(trace.thumbnails, size or 64) if len(trace.thumbnails) else []
    later = view_later(trace, official, paths, turned)
    evaluations = evaluations_of(trace, official, paths, turned)
    told = swapped, inverted, fitted, bool(copies)
    whole += judge_figures(trace, views, later, findings, *told)
    told = swapped, reference.recipe, official, bool(copies)
    whole += judge_data(trace, views, known, later, *told)
    if all(f.row not in schedules.MOVES for _, f in findings):
        whole += schedules.judge_schedules(trace, reference.recipe, known + pairs_of(later))
    inputs_found = of_training([f for _, f in findings if f.stage == "inputs"])
    prepared = inputs_found, of_whole(trace, official)
    told = evaluations, known, later, prepared, root, figures_by_step(views, later, fitted)
    told, predictions = judge_evaluation(trace, *told)
    if evaluations:
        whole = [finding for finding in whole if finding.row is not VALIDATION_LINES]
    findings += [(step, f) for f in whole + told for step in range(steps)]
    identified = sum(pair.official is not None for pair in known)
    errors = [(p.relative_error, p.tolerance) for p in passes if p.recipe is not None]
    worst = map(max, zip(*errors, strict=True)) if errors else (None, None)
    recorded = sum(len(view.sides.features[0]) for view in views)
    numbers = {number for number, _ in judge_pairs.epochs_of(trace)} | {b.epoch for b in later}
    ended = None if -1 in numbers else judge_pairs.ended(trace, numbers)
    counts = steps, trace.asked, recorded, identified, ended
    behind = sum(b.size for b in later), len(pairs_of(later)), trace.asked_epochs
    sizes = size, reference.recipe["size"]
    basis = Basis(*counts, *behind, *worst, *sizes, reference.page, predictions)
    return with_lines(in_order(merge_steps(findings)), trace), basis


def of_training(findings):
    """The findings on the inputs of training, or None where nothing reproduces some of them."""
    return None if any(f.kind == UNEXPLAINED for f in findings) else findings


def of_whole(trace, official):
    """The findings on the inputs of the first evaluated batches; None where they are not known."""
    if trace.whole is None:
        return None
    whole = trace.whole.double()
    changes, _, worst = official.identify(whole)
    lost = [place for place, own in enumerate(changes) if own is None]
    if not lost:
        return inputs.name_inputs(changes, worst)
    finding, paths = inputs.look_at_lost(whole[lost], len(whole), official)
    return [finding] if any(paths) else None


def view_batches(trace, reference, official, progress):
    """([(step, finding)] on the photos of all batches, their BatchContexts)."""
    findings, views = [], []
    for step, batch in batches_of(trace):
        found, view = view_batch(trace, step, batch, reference, official)
        if view and any(is_again(view, other) for other in views):
            found, view = [gradients.SAME_PHOTOS.found()], None
        findings += [(step, f) for f in found]
        views += [view] if view else []
        progress.advance("identifying photos")
    return findings, views


def is_turned(view):
    """Whether photo_2 goes through the backbone first; see identify."""
    return not torch.equal(sides_of(view.batch).rows[0], view.sides.rows[0])


def is_again(view, other):
    """Whether a batch shows the photos of another one of its update once more."""
    if view.step != other.step or view.sides.inputs is None:
        return False
    return all(map(torch.equal, view.sides.inputs, other.sides.inputs))


def view_batch(trace, step, batch, reference, official):
    """(findings on the inputs, the BatchContext of a batch or None)."""
    sides = sides_of(batch)
    label = labels.label_of(batch.labels, len(batch.features[0]))
    if sides is None:
        row = IN_PARTS if batch.joined == "others" else NOT_TWO_SIDES
        skipped = (stage for stage in STAGES if stage not in ("pairs", "features", "printed"))
        shapes = tuple(str(list(side.shape)) for side in batch.features)
        told = row.found(shapes=" and ".join(shapes) if len(set(shapes)) > 1 else None)
        return [told, *(without_passes(stage).found() for stage in skipped)], None
    recorded, proved, changes = [], [], []
    if sides.inputs is None:
        findings = [inputs.NO_PHOTO.found(), GIVEN.found()]
    else:
        findings, paths, changes = inputs.judge_inputs(sides, official)
        recorded, proved, sides = identify(step, sides, batch, label, paths, official)
    matches = [match_weights(n, trace.weights, reference.weights) for n in sides.numbers]
    found, evidence = loss.evidence_of(batch, label, proved)
    view = BatchContext(step, batch, sides, matches, recorded, evidence, changes)
    return [*findings, *found], view


def identify(step, sides, batch, label, paths, official):
    """(the RecordedPairs of a batch, the OfficialPair of each where all are proved, its sides,
    photo_1 first).

    Where photo_2 goes through the backbone first and the difference is taken the other way round,
    that is the reference, and nothing is swapped. paths: see inputs.judge_inputs.
    """
    entered = label[0].tolist() if label else [None] * len(paths)
    proved = [a is not None and b is not None for a, b in paths]
    rows = [row for row, known in enumerate(proved) if known]
    found = [official.find(*paths[row]) for row in rows]
    if is_reversed(sides, batch) and all(pair and pair.swapped for pair in found):
        sides, found = sides.swapped(), [official.find(*paths[row][::-1]) for row in rows]
    recorded = [
        RecordedPair(entered[row], pair, step, row, len(paths), tuple(p.name for p in paths[row]))
        for row, pair in zip(rows, found, strict=True)
        if row < len(entered)
    ]
    return recorded, found if all(proved) else [], sides


def judge_losses(views, inverted):
    """(findings on the loss of all batches together, the views with its factor in each, the
    criterion.Recipe that gives it or None).

    inverted: whether labels come in as 1 where photo_1 is preferred, which that takes back.
    """
    known = [view for view in views if view.evidence]
    if not known:
        return [], views, None
    inversion = None if inverted else loss.inversion_of(known[0].batch)
    evidence, rows = zip(*((v.evidence, (v.step, v.pairs)) for v in known), strict=True)
    findings, fit = loss.judge_loss(evidence, inversion, rows)
    factors = iter(fit.factors if fit else [None] * len(known))
    views = [v._replace(factor=next(factors) if v.evidence else None) for v in views]
    return findings, views, fit and recipe_of(fit.changes)


def judge_first_weights(views, trace, reference, file):
    """Findings on the weights with which the backbone starts; file: see explain."""
    if not views or views[0].step or views[0].sides.inputs is None:
        return []
    batch, names, values = views[0].batch, views[0].matches[0].names, trace.updates[0].weights
    return judge_pretrained(reference.page, file, first_weights(batch, values, names))


def explain_batches(trace, views, reference, progress):
    """([(step, finding)] on all batches, from the passes to the gradients; the Passes of those
    whose photos were recorded).
    """
    weights = weights_by_step(trace)
    findings = []
    if views and views[0].step == 0:
        names = views[0].matches[0].names
        found = start.judge_start(views[0].batch, weights(0), trace.weights, names)
        findings += [(0, finding) for finding in found]
    roundings = [features.view_rounding(trace, view, weights(view.step)) for view in views]
    seen = [place for place, view in enumerate(views) if view.sides.inputs is not None]
    of_seen = [views[place] for place in seen], [roundings[place] for place in seen]
    found, passes = features.judge_passes(trace, *of_seen, reference, weights, progress)
    findings += found
    found, ways = head.judge_heads(views, weights, roundings)
    findings += found
    computed = {n for n, weight in enumerate(trace.weights) if weight.computed}
    own = dict(zip(seen, passes, strict=True))
    for place, view in enumerate(views):
        update, rounding = trace.updates[view.step], roundings[place]
        found = gradients.judge_head_backward(view, ways[place], rounding)
        found += gradients.judge_contribution(view, own.get(place), rounding, update, computed)
        findings += [(view.step, finding) for finding in found]
        progress.advance("repeating backward passes")
    show_progress("", last=True)
    return findings, passes


def explain_updates(trace, views, reference):
    """[(step, finding)] on all updates, from the gradients of their batches to the next step."""
    moving = schedules.describe_moving(trace)
    held, weights = set().union(*map(declared, trace.updates)), weights_by_step(trace)
    findings, steps, behind = [], [], []
    for place, update in enumerate(trace.updates):
        group = [view for view in views if view.step == place]
        if not group:
            continue
        earlier, batch = trace.updates[place - 1] if place else None, group[-1].batch
        parameters = learning(trace, group[-1].matches, batch, update, held)
        found = gradients.judge_zeroed(group, update, earlier, parameters)
        history = history_of(trace.updates[:place], parameters, reference.rules)
        found += updates.judge_update(update, parameters, reference.rules, history, moving)
        if {finding.row for finding in found} & {NOT_REPRODUCED, OTHER_CLASS, BY_HAND_OTHER}:
            found += describe_steps(update, earlier, parameters)
        found += updates.judge_computed(trace.weights)
        found += updates.judge_state(update, earlier, parameters)
        found += updates.judge_before(update, earlier, parameters)
        findings += [(place, finding) for finding in found]
        last, before = batch.backwards[-1].after, last_gradients(trace, place - 1)
        told = parameters, group[-1].factor, before
        steps.append(judge_tricks.step_of(place, update, last, *told))
        is_last = place + 1 == len(trace.updates)
        later = None if is_last else functools.partial(weights, place + 1)
        behind += updates.behind(place, update, parameters, later)
    return findings + judge_tricks.judge_tricks(steps) + updates.judge_afterwards(behind)


def last_gradients(trace, step):
    """The gradients right after the last backward of an update; None before the first."""
    batches = [batch for number, batch in batches_of(trace) if number == step]
    return batches[-1].backwards[-1].after if batches else None


@instrument("compare")
def main(argv=None):
    """Explains after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("trace", type=Path, help="what record.py wrote")
    parser.add_argument("--data", required=True, help="folder of the dataset")
    parser.add_argument("--page", choices=PAGES, help="the reference; found out if not given")
    text = "pretrained weights that the trainer starts from; torch's cache if not given"
    parser.add_argument("--weights", type=Path, metavar="FILE", help=text)
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    text = "writes the predictions of the recorded evaluation, for diagnose predictions"
    parser.add_argument("--predictions", type=Path, metavar="FILE", help=text)
    args = parser.parse_args(argv)
    check_new("--predictions", args.predictions)
    if args.weights:
        load_tensors(args.weights)  # refused before anything is replayed
    trace = read_trace(args.trace)
    unforeseen = () if args.debug else (Exception,)
    with fail_on(__file__, f"{args.trace}: cannot be replayed", *unforeseen), name_path(__file__):
        findings, basis = explain(trace, args.data, args.page, args.weights)
    if args.predictions:
        write_predictions(args.predictions, basis.predictions)
    lines = [*lines_of(findings, basis), *commands(findings, basis, args.data)]
    code = exit_code(findings)
    give_answer(verdict(findings, basis), code, findings, lines, args.json)
