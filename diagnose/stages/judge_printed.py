"""Which arithmetic of the stage `printed` gives the figures that a trainer prints."""

import itertools
import math
import re
from dataclasses import dataclass

from diagnose.explain import explain
from diagnose.finding import at_line
from diagnose.stages.loss import OF_ONE_LOGIT
from diagnose.stages.printed import (
    AFTER,
    BEFORE,
    COLORS,
    CUT,
    EVERY_LABEL,
    FEW,
    FIGURES,
    FLAT,
    FROM_START,
    INVERTED,
    LAST_BATCH,
    MANY,
    NEVER_RESET,
    NO_FACTS,
    NO_LINES,
    NONE_OF,
    NOTHING,
    NUMBER,
    ONE_MORE,
    ONE_OF,
    OVER_BATCHES,
    OVER_PAIRS,
    PERCENT,
    PERHAPS_INVERTED,
    SCALED,
    SIGNS,
    SINCE_LINE,
    SMOOTHED,
    SO_FAR,
    SUMS,
    TRUE_ONES,
    VALIDATION,
    VALIDATION_LINES,
    half_digit,
)


@dataclass(frozen=True, eq=False)
class Figures:
    """The figures of one form of line; see diagnose.explain.Replay.

    facts: of every batch its accuracy, loss and other series.
    """

    texts: list  # of the figures
    places: list  # of the last batch before each
    values: list  # accuracy or loss of every batch
    pairs: list  # of every batch
    facts: list = ()
    shown: tuple = ()

    @property
    def is_each_batch(self):
        """Whether there is a figure for each batch from the first on."""
        return all(b == a + 1 for a, b in itertools.pairwise(self.places))

    @property
    def size(self):
        """How many recorded numbers are compared."""
        return len(self.texts)

    def error(self, changes):
        """(largest difference of a figure in units of its last digit's half, 1)."""
        made = map(self.figure, [-1, *self.places], self.places, itertools.repeat(changes))
        return max(map(misprint, self.texts, made)), 1.0

    def figure(self, last, place, changes):
        """A figure behind a batch, where the one before was behind the batch `last`."""
        way = next((f for f in changes if f.row.act), OVER_PAIRS_SO_FAR)
        where = way.values.get("where") or (SINCE_LINE if way.row.series else SO_FAR)
        values, pairs = self.window(last, place, where, way.row.series)
        value = way.row.act(values, pairs, way.values)
        rows = {finding.row for finding in changes}
        value = 1 - value if INVERTED in rows else value
        return 100 * value if PERCENT in rows else value

    @property
    def epochs(self):
        """The number of the epoch of each batch; all the same where one is not known."""
        numbers = [fact.get("epoch", -1) for fact in self.facts]
        return [0] * len(self.values) if -1 in numbers or not numbers else numbers

    @property
    def has_epochs(self):
        """Whether a figure is of another epoch than the first batch."""
        return any(self.epochs[place] != self.epochs[0] for place in self.places)

    def window(self, last, place, where, series=""):
        """(values, pairs) of the batches that a figure behind a batch is about."""
        first = {SINCE_LINE: last + 1, FROM_START: 0, SO_FAR: self.epochs.index(self.epochs[place])}
        chosen = slice(first[where], place + 1)
        values = [fact[series] for fact in self.facts] if series else self.values
        return values[chosen], self.pairs[chosen]


OVER_PAIRS_SO_FAR = OVER_PAIRS.found(where=SO_FAR)


def misprint(text, value):
    """By how much a figure differs from a value, in units of what its rounding explains."""
    error = abs(float(text) - value) / (half_digit(text) + 1e-12)
    return error if math.isfinite(error) else math.inf


def accuracies(logits, label, single, fitted):
    """{series: share of right pairs} of a batch by its logits [B, 2] and labels [B].

    single: whether there is one logit, the other 0; fitted: the criterion.Recipe of its loss, or
    None. Where a single logit is fitted to 0 and 1, 0.5 is its middle.
    """
    z = logits.double()
    z = fitted.function(z) if fitted and fitted.function else z
    cut = 0.5 if single and fitted and fitted.terms in OF_ONE_LOGIT else 0.0
    prediction = (z[:, 1] - z[:, 0] > cut).long()
    shares = {
        "accuracy": prediction == label,
        "every_label": prediction[:, None] == label,
        "cut_at_half": (z[:, 1] - z[:, 0] > 0.5).long() == label,
        "argmax_of_all": z.argmax() == label,
        "true_ones": prediction * label == 1,
    }
    if not single:
        shares["sign_1"], shares["sign_2"] = (z[:, 0] <= 0) == label, (z[:, 1] > 0) == label
    return {name: float(right.double().mean()) for name, right in shares.items()}


def judge_printed(printed, facts):
    """Findings on printed figures: an arithmetic that alone gives them to all their digits.

    printed: [batches done, updates done, text, number of its line]; facts: of each batch its
    accuracy, loss, pairs.
    """
    findings, count = [], len(facts) or math.inf
    every = {figure: figures_of(figure, printed, count) for figure in FIGURES}
    if not any(every.values()):
        every, findings = {}, [NOTHING.found()]
    for figure, series in every.items():
        if series and not facts:
            return [NO_FACTS.found()]
        for rows in series:
            found = explain_figures(figure, rows, facts)
            findings += [at_line(finding, rows[-1][3]) for finding in found]
        findings += [] if series else [NO_LINES.found(figure=figure)]
    if any(re.search(VALIDATION, line, re.I) for _, _, line, *_ in printed):
        findings.append(VALIDATION_LINES.found())
    return findings


def figures_of(kind, printed, count):
    """[[(batch, figure as text, line, its number)]] of each form of line that shows it twice, or
    once with MANY digits.

    The form of a line is its words: numbers and the bar of a progress line differ in each.
    """
    forms = {}
    name = rf"(?<![A-Za-z])(?:{BEFORE})*(?:{FIGURES[kind]}){AFTER}"
    for batches, _, line, number, _ in printed:
        ours = re.split(VALIDATION, re.sub(COLORS, "", line), flags=re.I)[0]
        found = re.search(rf"{name}[\"']?[\s:=]{{1,4}}({NUMBER})", ours, re.I)
        if found and 0 < batches <= count:
            words = tuple(re.findall(r"[A-Za-z@]{2,}", re.sub(NUMBER, "", ours)))
            rows = forms.setdefault(words, {})
            rows[batches - 1] = batches - 1, found[1], line, number
    series = [list(rows.values()) for rows in forms.values()]
    return [rows for rows in series if len(rows) > 1 or digits_of(rows[0][1]) >= MANY]


def digits_of(text):
    """How many digits a figure has behind the point."""
    return len(text.lower().partition("e")[0].partition(".")[2])


def levels_of(kind, is_epoch, has_signs):
    """Levels of the arithmetics that are right for a figure, and of those that are not.

    has_signs: whether there are two logits, each with a sign of its own.
    """
    means = [(OVER_BATCHES,), (LAST_BATCH,)]
    usual = [(OVER_PAIRS,), *([] if is_epoch else means)]
    other = [*(means if is_epoch else []), *((row,) for row in NEVER_RESET)]
    other += [(row,) for row in (*SUMS, SCALED) if kind == "loss"] + [(SMOOTHED,), (ONE_MORE,)]
    if kind == "accuracy":
        other += [(EVERY_LABEL,), (CUT,), (TRUE_ONES,)] + [(FLAT,)] * has_signs
        other += [(INVERTED, *rows) for rows in usual + other]
        other += [(row,) for row in SIGNS] if has_signs else []
        usual += [(PERCENT, *rows) for rows in usual]
    return usual, other


def explain_figures(kind, rows, facts):
    """Findings on the figures of one form of line."""
    places, texts, lines, _ = map(list, zip(*rows, strict=True))
    values, pairs = ([fact[key] for fact in facts] for key in (kind, "pairs"))
    figures = Figures(texts, places, values, pairs, facts)
    is_epoch = all(re.search("epoch", line, re.I) for line in lines) and not figures.is_each_batch
    is_epoch = is_epoch and not any(re.search("step|batch|iter", line, re.I) for line in lines)
    levels = levels_of(kind, is_epoch, "sign_1" in facts[0])
    usual = explain([figures], levels[:1])
    if usual.fits:
        return []
    found, values = explain([figures], levels[1:]), {"figure": kind, "figures": len(rows)}
    if not found.fits:
        return [NONE_OF.found(**values, tried=usual.tried + found.tried)]
    if all(fit[0].row is INVERTED for fit in found.fits):
        return [(INVERTED if len(rows) >= FEW else PERHAPS_INVERTED).found(**values)]
    told = [fit[0].row.found(**fit[0].values, **values) for fit in found.fits]
    return told if len(told) == 1 else [ONE_OF.found(**values, ways=tuple((f,) for f in told))]
