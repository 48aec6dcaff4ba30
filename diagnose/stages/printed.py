"""By which arithmetic a trainer arrives at the accuracies and losses that it prints."""

import itertools
import re

from run.findings import CAUSE, SKIPPED, Row

VALIDATION = r"(?<![a-z])(?:e?val(?!ue)|test)"  # words of a line that is not of the training
FIGURES = {"accuracy": r"acc\w*", "loss": r"loss"}  # how each is called in a line
FEW = 3  # figures; fewer accuracies may be 1 - accuracy by chance
INVERTED = Row(
    "printed.accuracy_inverted",
    CAUSE,
    "the printed {figure} is 1 - {figure} ({figures} figures)",
)
ARITHMETIC = Row(
    "printed.arithmetic", CAUSE, "the printed {figure} is {arithmetic} ({figures} figures)"
)
PERHAPS_INVERTED = Row(
    "printed.accuracy_perhaps_inverted",
    SKIPPED,
    "the printed {figure} may be 1 - {figure} ({figures} figures), too few to tell",
)
ONE_OF = Row(
    "printed.one_of",
    SKIPPED,
    "the printed {figure} is one of: {arithmetics} ({figures} figures)",
)
NONE_OF = Row(
    "printed.none_of",
    SKIPPED,
    "the printed {figure} is none of {tried} arithmetics ({figures} figures)",
)
NO_FACTS = Row("printed.no_losses", SKIPPED, "the losses are not judged, so their figures are not")
NO_LINES = Row(
    "printed.no_figures",
    SKIPPED,
    "fewer than two lines with a training {figure} were printed",
)
VALIDATION_LINES = Row(
    "printed.validation",
    SKIPPED,
    "figures of the validation are not judged; see diagnose predictions",
)


def judge_printed(printed, facts):
    """Findings on printed figures: an arithmetic that alone gives them to all their digits.

    printed: [batches done, updates done, line]; facts: of each batch its accuracy, loss, pairs.
    """
    if not facts:
        return [NO_FACTS.found()]
    findings = []
    for figure in FIGURES:
        series = figures_of(figure, printed, len(facts))
        findings += [found for rows in series for found in explain_figures(figure, rows, facts)]
        findings += [] if series else [NO_LINES.found(figure=figure)]
    if any(re.search(VALIDATION, line, re.I) for _, _, line in printed):
        findings.append(VALIDATION_LINES.found())
    return findings


def figures_of(kind, printed, count):
    """[[(batch, figure as text, line)]] of each form of line that shows it at least twice."""
    forms = {}
    for batches, _, line in printed:
        ours = re.split(VALIDATION, line, flags=re.I)[0]
        found = re.search(rf"\b(?:train[_ ])?{FIGURES[kind]}[\s:=]{{1,4}}(-?\d+\.\d+)", ours, re.I)
        if found and 0 < batches <= count:
            rows = forms.setdefault(re.sub(r"[-\d.e+]+", "#", line), {})
            rows[batches - 1] = batches - 1, found[1], line
    return [list(rows.values()) for rows in forms.values() if len(rows) > 1]


def explain_figures(kind, rows, facts):
    """Findings on the figures of one form of line."""
    usual, other = arithmetics(kind, rows, facts)
    texts = [text for _, text, _ in rows]

    def fitting(ways):
        return [name for name, values in ways.items() if all(map(matches, texts, values))]

    if fitting(usual):
        return []
    fits, values = fitting(other), {"figure": kind, "figures": len(rows)}
    if fits and all(name.startswith("1 - ") for name in fits):
        return [(INVERTED if len(rows) >= FEW else PERHAPS_INVERTED).found(**values)]
    if len(fits) == 1:
        return [ARITHMETIC.found(**values, arithmetic=fits[0])]
    if fits:
        return [ONE_OF.found(**values, arithmetics=tuple(fits))]
    return [NONE_OF.found(**values, tried=len(usual) + len(other))]


def arithmetics(kind, rows, facts):
    """({name: [values]} that are usual, {name: [values]} that are not) for these figures."""
    places = [place for place, _, _ in rows]
    each = all(b == a + 1 for a, b in itertools.pairwise(places))
    epoch = not each and all(re.search("epoch", line, re.I) for _, _, line in rows)
    epoch = epoch and not any(re.search("step|batch|iter", line, re.I) for _, _, line in rows)
    usual, other = {}, {}
    for last, place in zip([-1, *places], places, strict=False):
        found, odd = {}, {}
        windows = [("so far", 0), ("since the line before", last + 1)]
        for where, first in windows[: 1 if each else 2]:
            means_of(kind, facts[first : place + 1], where, found, odd, epoch)
        if kind == "accuracy":
            odd |= {f"1 - {name}": 1 - value for name, value in (found | odd).items()}
            found |= {f"{name} in percent": 100 * value for name, value in found.items()}
        for ways, named in ((usual, found), (other, odd)):
            for name, value in named.items():
                ways.setdefault(name, []).append(value)
    return usual, other


def means_of(kind, facts, where, usual, other, epoch):
    """Adds the means and sums of these batches to those that are usual, and to the others."""
    values, pairs = [f[kind] for f in facts], [f["pairs"] for f in facts]
    total, sums = sum(pairs), sum(v * n for v, n in zip(values, pairs, strict=True))
    usual[f"the mean over the pairs {where}"] = sums / total
    means = other if epoch else usual
    means[f"the mean over batches, not over pairs, {where}"] = sum(values) / len(values)
    means["the last batch's alone"] = values[-1]
    if kind == "loss":
        other["the sum over the last batch"] = values[-1] * pairs[-1]
        other[f"the sum over the pairs {where}"] = sums
        other[f"the sum of the batches' means {where}"] = sum(values)
        other[f"the mean times the batch size {where}"] = sums / total * max(pairs)
        for times in sorted({max(pairs), *(2**k for k in range(10))}):
            text = f"the sum of the batches' means{f' times {times}' * (times > 1)}"
            text += f", over the number of pairs, {where}"
            other[text] = sum(values) * times / total


def matches(text, value):
    """Whether a figure is a value, to all the digits that are printed."""
    digits = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5 * 10**-digits * (1 + 1e-6) + 1e-12
