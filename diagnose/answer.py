"""What the findings on a trainer come to: the verdict, a line per stage and per finding."""

from collections import Counter

from diagnose.stages import STAGES
from run.findings import CAUSE, DECLARED, HARMLESS, SKIPPED, UNEXPLAINED, line_of

KINDS = {  # the word of a stage, the gravest first
    UNEXPLAINED: "not explained",
    CAUSE: "departs",
    SKIPPED: "not judged, or in part",
    DECLARED: "stated below",
    HARMLESS: "equal",
}


def lines_of(findings, basis):
    """A line per stage, and the findings in the order of execution."""
    for stage in STAGES:
        kinds = {finding.kind for finding in findings if finding.stage == stage}
        word = next((word for kind, word in KINDS.items() if kind in kinds), "equal")
        pairs = f" ({basis.pairs} pairs seen)" if stage == "labels" else ""
        yield f"{stage:10} {word}{pairs}"
    for finding in findings:
        yield line_of(finding, basis.steps)


def exit_code(findings):
    """0: nothing is wrong, 1: something is, 2: nothing was judged."""
    if is_nothing_judged(findings):
        return 2
    return int(any(finding.row.is_wrong for finding in findings))


def is_nothing_judged(findings):
    """Whether every stage is skipped or unexplained."""
    lost = {finding.stage for finding in findings if finding.kind in (UNEXPLAINED, SKIPPED)}
    unknown = any(finding.kind == UNEXPLAINED for finding in findings)
    return unknown and lost >= set(STAGES)


def verdict(findings, basis):
    """What the findings come to, in one sentence."""
    kinds = Counter(finding.kind for finding in findings)
    steps = "step" if basis.steps == 1 else f"{basis.steps} steps"
    near = ""
    if basis.relative_error is not None:
        near = f", to {basis.relative_error:.0e} (rounding: up to {basis.tolerance:.0e})"
    changes = "this change" if kinds[CAUSE] == 1 else f"these {kinds[CAUSE]} changes"
    part = ""
    if basis.size not in (None, basis.reference_size):
        part = f", at {basis.size} pixels (the recipe has {basis.reference_size})"
    part += ", in all that was judged" * bool(kinds[SKIPPED])
    if kinds[UNEXPLAINED]:
        stages = dict.fromkeys(f.stage for f in findings if f.kind == UNEXPLAINED)
        text = f"Not explained: {' and '.join(stages)}"
        if is_nothing_judged(findings):
            return f"{text}. Nothing else was judged."
        text += f". Elsewhere your trainer is the reference{part}"
        return text + (f", with {changes}." if kinds[CAUSE] else ".")
    if kinds[CAUSE]:
        text = f"Your trainer is the reference with {changes}{part}; with that it reproduces your "
        return text + f"first {steps}, each stage from your own values before it{near}."
    text = f"EQUAL in {basis.steps} step{'s' * (basis.steps > 1)}{part}{near}"
    return text + ", but for what is stated" * bool(kinds[DECLARED])
