"""What the findings on a trainer come to: the verdict, a line per stage and per finding."""

from collections import Counter

from diagnose.stages import STAGES
from run.findings import (
    CAUSE,
    DECLARED,
    DIFFERENT,
    HARMLESS,
    LEARNS,
    SKIPPED,
    UNEXPLAINED,
    WRONG,
    brief,
    flag_of,
    help_of,
    line_of,
)

NOTHING = ("printed.nothing", "evaluation.none")  # of a stage without anything to judge
FINETUNE = ("update.optimizer", "pairs.accumulated", "update.learning_rates_scheduled_each")
KINDS = {  # the word of a stage, the gravest first
    UNEXPLAINED: "unexplained",
    CAUSE: "changed",
    SKIPPED: "skipped",
    DECLARED: "declared below",
    HARMLESS: "equal",
}


def lines_of(findings, basis):
    """A line per stage, and the findings in their order, each with its place and what mends it."""
    yield f"covers     {covered(basis)}"
    for stage in STAGES:
        own = [finding for finding in findings if finding.stage == stage]
        if stage == "evaluation" and not own:
            continue
        kinds = {finding.kind for finding in own if not finding.row.is_partial}
        word = next((word for kind, word in KINDS.items() if kind in kinds), "equal")
        if any(finding.id in NOTHING for finding in own):
            word = "nothing to judge"
        in_part = any(finding.row.is_partial for finding in own if finding.id not in NOTHING)
        if stage == "labels" and SKIPPED not in kinds:
            word += f" ({basis.pairs + basis.later_found} pairs judged)"
        yield f"{stage:10} {word}" + ", judged in part" * in_part
    for finding in findings:
        yield line_of(finding, basis.steps)
        if finding.kind != SKIPPED:
            yield from below(finding)


def covered(basis):
    """What an answer rests on: steps, pairs, and whether an epoch ended within them."""
    steps = f"{basis.steps} step{'s' * (basis.steps > 1)}"
    if basis.steps < basis.asked:
        steps += f" of {basis.asked} that were asked for: your trainer ended then"
    pairs = f"{basis.recorded} pairs, {basis.pairs} of them found in the official lists"
    if basis.later:
        pairs += f"; {basis.later} later pairs by thumbnails, {basis.later_found} of them found"
    if basis.epochs is None:
        return f"{steps}; {pairs}; where an epoch ends is not known"
    epochs = f"the end of {basis.epochs} epoch{'s' * (basis.epochs > 1)}"
    if basis.epochs < basis.asked_epochs:
        epochs += f", of {basis.asked_epochs} that were asked for: your trainer ended then"
    return f"{steps}; {pairs}; {epochs if basis.epochs else 'no end of an epoch'}"


def skipped_stages(findings):
    """The stages in which there was something to judge and nothing was."""
    lost = {f.stage for f in findings if f.kind == SKIPPED and not f.row.is_partial}
    return [stage for stage in STAGES if stage in lost]


def below(finding):
    """The lines below a finding: where it is in the trainer's own code, and what mends it."""
    for place in finding.where[:1]:
        yield f"  --> {place.file}:{place.line}"
        yield f"      {place.text}"
    for own in finding.values.get("examples", ()):
        label = "not in the lists" if own["official"] is None else f"official {own['official']}"
        photos = ", ".join(own["photos"])
        yield f"  step {own['step']}, row {own['row']}: {photos}: label {own['label']}, {label}"
    if finding.row.help and finding.kind != HARMLESS:
        yield f"  help: {help_of(finding)}"


def in_order(findings):
    """Findings in the order to mend them in: first what makes a result wrong whatever the rest,
    then what changes how it learns, then what is only different; within each as they are executed.
    """
    kinds = {HARMLESS: DIFFERENT, DECLARED: DECLARED, SKIPPED: SKIPPED}
    ranks = (WRONG, LEARNS, DIFFERENT, DECLARED, SKIPPED)

    def rank(finding):
        own = kinds.get(finding.kind, finding.row.matters)
        return ranks.index(own), STAGES.index(finding.stage)

    return sorted(findings, key=rank)


def commands(findings, basis, data):
    """Lines with the command that trains the reference with the same changes, as far as it has
    flags for them; data: the folder of the dataset.
    """
    told = [f for f in findings if f.kind in (CAUSE, DECLARED, UNEXPLAINED)]
    flags = dict.fromkeys(filter(None, map(flag_of, told)))
    size = [f"--size {basis.size}"] * (basis.size not in (None, basis.reference_size))
    folder = f'"{data}"' if " " in str(data) else data
    words = [f"python {basis.page}.py --data {folder}", *size, *flags]
    without = dict.fromkeys(f.id for f in told if not flag_of(f) and f.kind != DECLARED)
    yield "the reference with the same changes" + ", as far as it has flags" * bool(without) + ":"
    yield f"  {' '.join(words)}"
    if without:
        yield f"  without a flag: {', '.join(without)}"
    if without.keys() & set(FINETUNE):
        yield "  variants/train_finetune.py has AdamW, a warm-up and several batches a step"


def exit_code(findings):
    """0: nothing is wrong, 1: something is, 2: nothing was judged."""
    if is_nothing_judged(findings):
        return 2
    return int(any(finding.row.is_wrong for finding in findings))


def is_nothing_judged(findings):
    """Whether every stage is skipped or unexplained."""
    lost = {finding.stage for finding in findings if finding.kind in (UNEXPLAINED, SKIPPED)}
    unknown = any(finding.kind == UNEXPLAINED for finding in findings)
    return unknown and lost >= set(STAGES) - {"evaluation"}


def verdict(findings, basis):
    """What the findings come to, in one sentence or two."""
    kinds = Counter(finding.kind for finding in findings)
    steps = "1 step" if basis.steps == 1 else f"{basis.steps} steps"
    changes = "this change" if kinds[CAUSE] == 1 else f"these {kinds[CAUSE]} changes"
    them = "it" if kinds[CAUSE] == 1 else "them"
    where = ""
    if basis.size not in (None, basis.reference_size):
        where = f" at {basis.size} pixels (reference: {basis.reference_size})"
    skipped = skipped_stages(findings)
    where += f" in what was judged (skipped: {', '.join(skipped)})" if skipped else ""
    proof = ""
    if basis.relative_error is not None:
        error, tolerance = brief(basis.relative_error), brief(basis.tolerance)
        proof = f", the features to a relative error of {error} (tolerance {tolerance})"
    if kinds[UNEXPLAINED]:
        stages = dict.fromkeys(f.stage for f in findings if f.kind == UNEXPLAINED)
        text = f"Unexplained: {' and '.join(stages)}."
        if is_nothing_judged(findings):
            return f"{text} Nothing else was judged."
        with_changes = f" with {changes}" if kinds[CAUSE] else ""
        return f"{text} Elsewhere your trainer is the reference{where}{with_changes}."
    if kinds[CAUSE]:
        text = f"Your trainer is the reference with {changes}{where}. With {them} the reference"
        first = steps.removeprefix("1 ")
        return f"{text} reproduces your first {first}, each stage from your own values{proof}."
    text = f"EQUAL in {steps}{where}{proof}"
    if skipped:
        not_judged = [*skipped, *["evaluation"] * (basis.predictions is None)]
        judged = ", ".join(stage for stage in STAGES if stage not in not_judged)
        text = f"EQUAL in what was judged: {judged}; skipped: {', '.join(skipped)}{proof}"
    return text + "; see what is declared" * bool(kinds[DECLARED])
