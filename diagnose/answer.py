"""What the findings on a trainer come to: the verdict, a line per stage and per finding."""

from collections import Counter

from diagnose.stages import STAGES
from run.findings import CAUSE, DECLARED, HARMLESS, SKIPPED, UNEXPLAINED, line_of, number

KINDS = {  # the word of a stage, the gravest first
    UNEXPLAINED: "unexplained",
    CAUSE: "changed",
    SKIPPED: "skipped, or in part",
    DECLARED: "declared below",
    HARMLESS: "equal",
}


def lines_of(findings, basis):
    """A line per stage, and the findings in the order of execution."""
    for stage in STAGES:
        kinds = {finding.kind for finding in findings if finding.stage == stage}
        word = next((word for kind, word in KINDS.items() if kind in kinds), "equal")
        pairs = f" ({basis.pairs} pairs identified)" if stage == "labels" else ""
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
    """What the findings come to, in one sentence or two."""
    kinds = Counter(finding.kind for finding in findings)
    steps = "step" if basis.steps == 1 else f"{basis.steps} steps"
    changes = "this change" if kinds[CAUSE] == 1 else f"these {kinds[CAUSE]} changes"
    them = "it" if kinds[CAUSE] == 1 else "them"
    where = ""
    if basis.size not in (None, basis.reference_size):
        where = f" at {basis.size} pixels (reference: {basis.reference_size})"
    where += " in what was judged" * bool(kinds[SKIPPED])
    proof = ""
    if basis.relative_error is not None:
        error, tolerance = (
            number(float(f"{value:.0e}")) for value in (basis.relative_error, basis.tolerance)
        )
        proof = f"; relative error up to {error} (tolerance {tolerance})"
    if kinds[UNEXPLAINED]:
        stages = dict.fromkeys(f.stage for f in findings if f.kind == UNEXPLAINED)
        text = f"Unexplained: {' and '.join(stages)}."
        if is_nothing_judged(findings):
            return f"{text} Nothing else was judged."
        with_changes = f" with {changes}" if kinds[CAUSE] else ""
        return f"{text} Elsewhere your trainer is the reference{where}{with_changes}."
    if kinds[CAUSE]:
        text = f"Your trainer is the reference with {changes}{where}. With {them} the reference"
        return f"{text} reproduces your first {steps}, each stage from your own values{proof}."
    text = f"EQUAL in {basis.steps} step{'s' * (basis.steps > 1)}{where}{proof}"
    return text + "; see what is declared" * bool(kinds[DECLARED])
