"""By which arithmetic a trainer arrives at the accuracies and losses that it prints."""

import itertools
import math
import re
from dataclasses import dataclass, replace

from diagnose.explain import Change, explain
from diagnose.finding import LINE_AT
from diagnose.stages.loss import OF_ONE_LOGIT
from run.findings import CAUSE, SKIPPED, UNEXPLAINED, WRONG, Row

VALIDATION = r"(?<![a-z])(?:e?val(?!ue)|test)"  # words of a line that is not of the training
# How each is called in a line, with what people write around it: Acc@1, avg_loss, Loss/train.
FIGURES = {"accuracy": r"acc(?:uracy)?(?:@1)?|top[-_ ]?1", "loss": r"loss"}
BEFORE = r"(?:train(?:ing)?|avg|average|mean|running|epoch|batch|total|step)[/_ .-]"
AFTER = r"(?:[/_ .-](?:train(?:ing)?|avg|average|mean))?"
NUMBER = r"-?\d+\.\d+(?:[eE][-+]?\d+)?"
COLORS = r"\x1b\[[0-9;]*[A-Za-z]"  # of a terminal
FEW = 3  # figures; fewer accuracies may be 1 - accuracy by chance
ROUNDED = 0.5 * (1 + 1e-6)  # of the last digit printed, that a figure may be off
SO_FAR, SINCE_LINE = "so far", "since the line before"


@dataclass(frozen=True)
class Arithmetic(Change):
    """A way to arrive at a figure; series: the key of the facts of a batch that it is made of,
    where that is not the figure itself.
    """

    series: str = ""


def arithmetic(name, text, act, values=None, **options):
    """An Arithmetic: act(values [N] of batches, their pairs [N], values of its finding); text: what
    the figure is.
    """
    text = f"the printed {{figure}} is {text} ({{figures}} figures)"
    return Arithmetic(f"printed.{name}", CAUSE, text, act=act, values=values, each=True, **options)


def windows(replays, changes):
    """Over which batches an arithmetic may go."""
    each = all(rows.is_each_batch for rows in replays)
    return [{"where": where} for where in (SO_FAR, SINCE_LINE)[: 1 if each else 2]]


def sizes(replays, changes):
    """By which whole number a sum of means may be multiplied, as with an upstream's batch size."""
    found = []
    for where in windows(replays, changes):
        means, pairs = replays[0].window(-1, where["where"], replays[0].places[0])
        times = round(float(replays[0].texts[0]) * sum(pairs) / sum(means)) if sum(means) else 0
        found += [{"times": times if times > 1 else None, **where}] * (times > 0)
    return found


def factors(replays, changes):
    """By which number a mean over the pairs may be multiplied: the middle of what all figures of
    the first replay allow.
    """
    rows, found = replays[0], []
    for where in (SO_FAR, SINCE_LINE):
        mean, places = (OVER_PAIRS.found(where=where),), [-1, *rows.places]
        usual = [rows.figure(a, b, mean) for a, b in itertools.pairwise(places)]
        if not all(usual):
            continue
        pairs = list(zip(rows.texts, usual, strict=True))
        bounds = [sorted((float(text) + sign * half_digit(text)) / mean for sign in (-1, 1))
                  for text, mean in pairs]  # fmt: skip
        low, high = max(low for low, _ in bounds), min(high for _, high in bounds)
        found += [{"factor": (low + high) / 2, "where": where}] if low <= high else []
    return found


def over_pairs(values, pairs):
    """The sum over all pairs of the means [N] of batches with these pairs [N]."""
    return sum(value * count for value, count in zip(values, pairs, strict=True))


OVER_PAIRS = arithmetic(
    "mean_over_pairs",
    "the mean over the pairs {where}",
    lambda v, n, told: over_pairs(v, n) / sum(n),
    windows,
)
OVER_BATCHES = arithmetic(
    "mean_over_batches",
    "the mean over batches, not over pairs, {where}",
    lambda v, n, told: sum(v) / len(v),
    windows,
    help="count the right pairs and divide by the number of pairs",
    matters=WRONG,
)
LAST_BATCH = arithmetic(
    "last_batch",
    "the last batch's alone",
    lambda v, n, told: v[-1],
    help="sum over the batches since the last line",
    matters=WRONG,
)
SUMS = (
    arithmetic("sum_over_batch", "the sum over the last batch", lambda v, n, told: v[-1] * n[-1]),
    arithmetic(
        "sum_over_pairs",
        "the sum over the pairs {where}",
        lambda v, n, told: over_pairs(v, n),
        windows,
    ),
    arithmetic(
        "sum_of_means",
        "the sum of the batches' means {where}",
        lambda v, n, told: sum(v),
        windows,
    ),
    arithmetic(
        "mean_times_batch_size",
        "the mean times the batch size {where}",
        lambda v, n, told: over_pairs(v, n) / sum(n) * max(n),
        windows,
    ),
    arithmetic(
        "sum_of_means_over_pairs",
        "the sum of the batches' means[ times {times}], over the number of pairs, {where}",
        lambda v, n, told: sum(v) * (told["times"] or 1) / sum(n),
        sizes,
        help="weight each batch's mean by its number of pairs",
        matters=WRONG,
    ),
)
SCALED = arithmetic(
    "multiplied",
    "{factor} times the mean over the pairs {where}",
    lambda v, n, told: over_pairs(v, n) / sum(n) * told["factor"],
    factors,
    help="print the mean itself",
)
EVERY_LABEL = arithmetic(
    "every_label",
    "the share of all predictions against all labels of a batch: shapes [B, 1] and [B] are "
    "broadcast to [B, B]",
    lambda v, n, told: v[-1],
    series="every_label",
    help="give both one shape before they are compared",
    matters=WRONG,
)
CUT = arithmetic(
    "cut_at_half",
    "the accuracy with the single logit cut at 0.5, where 0 is the middle",
    lambda v, n, told: v[-1],
    series="cut_at_half",
    help="cut a logit at 0, or its sigmoid at 0.5",
    matters=WRONG,
)
INVERTED = Change(
    "printed.accuracy_inverted",
    CAUSE,
    "the printed {figure} is 1 - {figure} ({figures} figures)",
    help="print the share of pairs that are right",
    matters=WRONG,
)
PERCENT = Change("printed.percent", CAUSE, "the printed {figure} is in percent")
PERHAPS_INVERTED = Row(
    "printed.accuracy_perhaps_inverted",
    SKIPPED,
    "the printed {figure} may be 1 - {figure} ({figures} figures), too few to tell",
    is_partial=True,
)
ONE_OF = Row(
    "printed.one_of",
    CAUSE,
    "one of: {ways}",
    matters=WRONG,
)
NONE_OF = Row(
    "printed.none_of",
    UNEXPLAINED,
    "the printed {figure} matches none of {tried} ways to compute it ({figures} figures)",
    matters=WRONG,
)
NO_FACTS = Row("printed.no_losses", SKIPPED, "the loss was not judged, so printed losses were not")
NO_LINES = Row(
    "printed.no_figures",
    SKIPPED,
    "fewer than two lines with a training {figure} were found in the output",
    is_partial=True,
)
NOTHING = Row(
    "printed.nothing",
    SKIPPED,
    "fewer than two lines with an accuracy or loss of the training were found in the output",
    is_partial=True,
)
VALIDATION_LINES = Row(
    "printed.validation",
    SKIPPED,
    "printed figures of the validation were not judged; see diagnose predictions",
    is_partial=True,
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
        where = way.values.get("where") or (SINCE_LINE if way.row.series else None)
        values, pairs = self.window(last, where, place, way.row.series)
        value = way.row.act(values, pairs, way.values)
        rows = {finding.row for finding in changes}
        value = 1 - value if INVERTED in rows else value
        return 100 * value if PERCENT in rows else value

    def window(self, last, where, place, series=""):
        """(values, pairs) of the batches that a figure behind a batch is about."""
        chosen = slice(last + 1 if where == SINCE_LINE else 0, place + 1)
        values = [fact[series] for fact in self.facts] if series else self.values
        return values[chosen], self.pairs[chosen]


OVER_PAIRS_SO_FAR = OVER_PAIRS.found(where=SO_FAR)


def misprint(text, value):
    """By how much a figure differs from a value, in units of what its rounding explains."""
    error = abs(float(text) - value) / (half_digit(text) + 1e-12)
    return error if math.isfinite(error) else math.inf


def half_digit(text):
    """What rounding to the last digit of a figure explains."""
    mantissa, _, exponent = text.lower().partition("e")
    return ROUNDED * 10 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


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
    }
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
            at = {LINE_AT: rows[-1][3]}
            found = explain_figures(figure, rows, facts)
            findings += [replace(finding, values=finding.values | at) for finding in found]
        findings += [] if series else [NO_LINES.found(figure=figure)]
    if any(re.search(VALIDATION, line, re.I) for _, _, line, _ in printed):
        findings.append(VALIDATION_LINES.found())
    return findings


def figures_of(kind, printed, count):
    """[[(batch, figure as text, line, its number)]] of each form of line that shows it twice.

    The form of a line is its words: numbers and the bar of a progress line differ in each.
    """
    forms = {}
    name = rf"(?<![A-Za-z])(?:{BEFORE})*(?:{FIGURES[kind]}){AFTER}"
    for batches, _, line, number in printed:
        ours = re.split(VALIDATION, re.sub(COLORS, "", line), flags=re.I)[0]
        found = re.search(rf"{name}[\"']?[\s:=]{{1,4}}({NUMBER})", ours, re.I)
        if found and 0 < batches <= count:
            words = tuple(re.findall(r"[A-Za-z@]{2,}", re.sub(NUMBER, "", ours)))
            rows = forms.setdefault(words, {})
            rows[batches - 1] = batches - 1, found[1], line, number
    return [list(rows.values()) for rows in forms.values() if len(rows) > 1]


def levels_of(kind, is_epoch):
    """Levels of the arithmetics that are right for a figure, and of those that are not."""
    means = [(OVER_BATCHES,), (LAST_BATCH,)]
    usual = [(OVER_PAIRS,), *([] if is_epoch else means)]
    other = [*(means if is_epoch else []), *((row,) for row in (*SUMS, SCALED) if kind == "loss")]
    if kind == "accuracy":
        other += [(EVERY_LABEL,), (CUT,)]
        other += [(INVERTED, *rows) for rows in usual + other]
        usual += [(PERCENT, *rows) for rows in usual]
    return usual, other


def explain_figures(kind, rows, facts):
    """Findings on the figures of one form of line."""
    places, texts, lines, _ = map(list, zip(*rows, strict=True))
    values, pairs = ([fact[key] for fact in facts] for key in (kind, "pairs"))
    figures = Figures(texts, places, values, pairs, facts)
    is_epoch = all(re.search("epoch", line, re.I) for line in lines) and not figures.is_each_batch
    is_epoch = is_epoch and not any(re.search("step|batch|iter", line, re.I) for line in lines)
    levels = levels_of(kind, is_epoch)
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
