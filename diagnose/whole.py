"""What is judged of all batches together: printed figures, pairs and labels, the later ones too."""

import itertools
from collections import Counter

from diagnose.criterion import Recipe
from diagnose.later import figures_of, judge_known, pairs_of
from diagnose.stages import gradients, judge_pairs, labels, mixups
from diagnose.stages import judge_loss as loss
from diagnose.stages import judge_printed as printed
from diagnose.stages.judge_tricks import UNSCALED
from diagnose.trace import epoch_of

ABOUT = 1e-4  # relative difference of two factors of a loss that are one


def judge_figures(trace, views, later, findings, swapped, inverted, fitted, in_parts):
    """Findings on the factors of the losses and on what the trainer prints.

    later: see diagnose.later; findings: of the steps; swapped, inverted, fitted: see
    compare.judge_losses; in_parts: see judge_data.
    """
    back = {step for step, finding in findings if finding.row in UNSCALED}
    left = [view for view in views if view.factor and view.step not in back]
    lost = {step for step, finding in findings if finding.row in gradients.NOT_SUMMED}
    groups = [1 if v.step in lost else trace.updates[v.step].batches for v in left]
    sizes = [len(view.evidence.label) for view in left]
    found = loss.judge_factors([view.factor for view in left], sizes, groups)
    views = [view for view in views if view.evidence]
    if len(views) < len(trace.batches) or in_parts:
        # a printed figure may be of a batch that was not judged
        return found + printed.judge_printed(trace.printed, [])
    facts = [figures_of_view(view, fitted) for view in views]
    turned = [swapped and (inverted or loss.outputs_swapped(view)) for view in views]
    factors = [view.factor or 1 for view in views]
    behind = later_factors(later, factors, [fact["pairs"] for fact in facts])
    if behind is not None:
        facts += figures_of(later, fitted) or []
        turned += turned[-1:] * len(behind)
        factors += behind
    facts = [turn(fact) if other else fact for fact, other in zip(facts, turned, strict=False)]
    is_back = [view.step in back for view in views] + [bool(back)] * len(later)
    taken = [factor if own else 1 for factor, own in zip(factors, is_back, strict=False)]
    # many print a loss without its factor
    ways = [printed.judge_printed(trace.printed, divided(facts, by)) for by in (taken, factors)]
    if fitted is None and len(facts) == len(views):  # it may be taken before what backward is given
        plain = [fact | {"loss": float(view.evidence.replay(Recipe())[0])}
                 for fact, view in zip(facts, views, strict=True)]  # fmt: skip
        ways.append(printed.judge_printed(trace.printed, plain))
    return found + min(ways, key=len)


def figures_of_view(view, fitted):
    """{series: value} of a batch, as printed figures are made of; see judge_figures."""
    own = view.evidence
    shares = printed.accuracies(own.logits, own.label, own.single, fitted)
    facts = {"loss": float(own.loss), "pairs": len(own.label)}
    return shares | facts | {"epoch": view.batch.passes[0].epoch}


def figures_by_step(views, later, fitted):
    """[(step, see figures_of_view)] of all batches of training whose labels are known."""
    known = [(view.step, figures_of_view(view, fitted)) for view in views if view.evidence]
    behind = figures_of(later, fitted) or []
    return known + list(zip((batch.step for batch in later), behind, strict=False))


def later_factors(later, factors, sizes):
    """The factor of the loss of each later batch by those of the full steps and their pairs; None
    where they follow no rule.
    """
    if all(abs(f / factors[0] - 1) < ABOUT for f in factors):
        return [factors[0]] * len(later)
    if all(abs(f / n - 1) < ABOUT for f, n in zip(factors, sizes, strict=True)):
        return [batch.size for batch in later]
    return None


def turn(fact):
    """A fact with the shares of the other label."""
    return {k: v if k in ("loss", "pairs", "epoch") else 1 - v for k, v in fact.items()}


def divided(facts, factors):
    """Facts with their losses divided."""
    return [fact | {"loss": fact["loss"] / f} for fact, f in zip(facts, factors, strict=False)]


def judge_data(trace, views, known, later, swapped, recipe, official, in_parts):
    """Findings on the pairs and labels of all batches.

    later: see diagnose.later; in_parts: whether the batches of a step are parts of one.
    """
    single = any(view.evidence and view.evidence.single for view in views)
    every = known + pairs_of(later)
    kept = mixups.judge_kept(every, official)
    findings = kept or judge_pairs.judge_lists(every)
    if any(pair.official is None for pair in known) and not kept:
        findings = mixups.judge_pairing(views, official) or findings
    of_lists = [pair for pair in every if pair.official is not None]
    if kept:
        findings.append(labels.OF_OTHER_PHOTOS.found())
    elif every and 2 * len(of_lists) <= len(every):
        findings.append(labels.OF_OTHER_PAIRS.found())
    else:
        findings += labels.judge_labels(of_lists, single, swapped, official)
    sizes = [len(view.sides.features[0]) for view in views]
    counts = list(Counter(view.step for view in views).values())
    is_whole = len(views) == len(trace.batches)
    epochs = judge_pairs.epochs_of(trace) if is_whole else [(-1, None)] * len(views)
    unknown = judge_known(later, len(trace.updates))
    if in_parts:
        first = [n for n, view in enumerate(views) if n == 0 or views[n - 1].step != view.step]
        sizes = [sum(sizes[a:b]) for a, b in itertools.pairwise([*first, len(sizes)])]
        counts, epochs = [1] * len(first), [epochs[n] for n in first]
    elif not unknown and is_whole:
        known = every
        sizes += [batch.size for batch in later]
        counts += Counter(batch.step for batch in later).values()
        epochs += [(batch.epoch, epoch_of(trace, batch.epoch)) for batch in later]
    listed = official.count("train")
    is_sure = not kept and labels.OTHERS not in [finding.row for finding in findings]
    told = recipe, counts, listed, epochs, is_sure
    return findings + unknown + judge_pairs.judge_pairs(known, sizes, *told)
