"""By which arithmetic a trainer arrives at the accuracies and losses that it prints."""

import itertools
from dataclasses import dataclass

from diagnose.explain import Change
from diagnose.numerics import least
from run.findings import CAUSE, SKIPPED, UNEXPLAINED, WRONG, Row

VALIDATION = r"(?<![a-z])(?:e?val(?!ue)|test)"  # words of a line that is not of the training
# How each is called in a line, with what people write around it: Acc@1, avg_loss, Loss/train.
FIGURES = {"accuracy": r"acc(?:uracy)?(?:@1)?|top[-_ ]?1", "loss": r"loss"}
BEFORE = r"(?:train(?:ing)?|avg|average|mean|running|epoch|batch|total|step)[/_ .-]"
AFTER = r"(?:[/_ .-](?:train(?:ing)?|avg|average|mean))?"
NUMBER = r"-?\d+\.\d+(?:[eE][-+]?\d+)?"
COLORS = r"\x1b\[[0-9;]*[A-Za-z]"  # of a terminal
FEW = 3  # figures; fewer accuracies may be 1 - accuracy by chance
MANY = 6  # digits behind the point, with which one figure does not fit by chance
ROUNDED = 0.5 * (1 + 1e-6)  # of the last digit printed, that a figure may be off
# Over which batches a figure goes: those of its epoch, where epochs are known, or all.
SO_FAR, SINCE_LINE, FROM_START = "so far", "since the line before", "from the first epoch on"
BEGINS = ZERO, FIRST, CORRECTED = "0", "the first batch", "0, and is corrected for that"
DECAYS = [place / 50 for place in range(50)] + [0.99, 0.995, 0.999]  # of an exponential average
SMOOTHED_VALUES = {"where": FROM_START}


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


def of_batch(series, text, help, name=None):
    """An Arithmetic that prints another series of the last batch; name: where it is not its own."""
    options = {"series": series, "help": help, "matters": WRONG}
    return arithmetic(name or series, text, lambda v, n, told: v[-1], **options)


def windows(replays, changes):
    """Over which batches an arithmetic may go; of two that are the same, one."""
    rows = replays[0]
    if rows.is_each_batch:
        return [{"where": SO_FAR}]
    places = list(itertools.pairwise([-1, *rows.places]))
    same = all(rows.window(*ends, SO_FAR) == rows.window(*ends, SINCE_LINE) for ends in places)
    told = [SO_FAR if len(places) == 1 else SINCE_LINE] if same else [SO_FAR, SINCE_LINE]
    return [{"where": where} for where in told]


def over_epochs(replays, changes):
    """[{"where": FROM_START}] where figures are of several epochs."""
    return [{"where": FROM_START}] * any(rows.has_epochs for rows in replays)


def sizes(replays, changes):
    """By which whole number a sum of means may be multiplied, as with an upstream's batch size."""
    found = []
    for where in windows(replays, changes) if len(replays[0].places) > 1 else ():
        means, pairs = replays[0].window(-1, replays[0].places[0], where["where"])
        times = round(float(replays[0].texts[0]) * sum(pairs) / sum(means)) if sum(means) else 0
        found += [{"times": times if times > 1 else None, **where}] * (times > 0)
    return found


def factors(replays, changes):
    """By which number a mean over the pairs may be multiplied: the middle of what all figures of
    the first replay allow.
    """
    rows, found = replays[0], []
    if len(rows.places) == 1:
        return []  # which any number fits
    for where in (SO_FAR, SINCE_LINE):
        mean, places = (OVER_PAIRS.found(where=where),), [-1, *rows.places]
        usual = [rows.figure(a, b, mean) for a, b in itertools.pairwise(places)]
        if not all(usual):
            continue
        pairs = list(zip(rows.texts, usual, strict=True))
        bounds = [sorted((float(text) + sign * half_digit(text)) / mean for sign in (-1, 1))
                  for text, mean in pairs]  # fmt: skip
        low, high = max(low for low, _ in bounds), min(high for _, high in bounds)
        own = {"factor": (low + high) / 2, "where": where}
        known = any(own["factor"] == other["factor"] for other in found)
        found += [own] if low <= high and not known else []
    return found


def decays(replays, changes):
    """With which decay an exponential average of the batches comes nearest to all figures of the
    first replay, for each way to begin it.
    """
    rows, found = replays[0], []
    if len(rows.places) < FEW + 1:
        return []
    for begin in BEGINS:
        way = SMOOTHED_VALUES | {"begin": begin}

        def miss(decay, way=way):
            own = [smoothed(rows.window(-1, place, FROM_START)[0], None, way | {"decay": decay})
                   for place in rows.places]  # fmt: skip
            return sum((float(t) - v) ** 2 for t, v in zip(rows.texts, own, strict=True))

        decay = round(least(miss, DECAYS), 3)
        found += [way | {"decay": decay}] * (decay > DECAYS[1])  # less is the last batch alone
    return found


def smoothed(values, pairs, told):
    """The exponential average of the batches' means; see arithmetic for the arguments."""
    decay, begin = told["decay"], told["begin"]
    mean = values[0] if begin == FIRST else 0.0
    for value in values[begin == FIRST :]:
        mean = decay * mean + (1 - decay) * value
    return mean / (1 - decay ** len(values)) if begin == CORRECTED else mean


def over_pairs(values, pairs):
    """The sum over all pairs of the means [N] of batches with these pairs [N]."""
    return sum(value * count for value, count in zip(values, pairs, strict=True))


def mean_over_pairs(values, pairs, told):
    """The mean over all pairs; see arithmetic for the arguments."""
    return over_pairs(values, pairs) / sum(pairs)


def mean_over_batches(values, pairs, told):
    """The mean over batches of any size; see arithmetic for the arguments."""
    return sum(values) / len(values)


OVER_PAIRS = arithmetic(
    "mean_over_pairs",
    "the mean over the pairs {where}",
    mean_over_pairs,
    windows,
)
OVER_BATCHES = arithmetic(
    "mean_over_batches",
    "the mean over batches, not over pairs, {where}",
    mean_over_batches,
    windows,
    help="count the right pairs and divide by the number of pairs",
    matters=WRONG,
)
NEVER_RESET = (
    arithmetic(
        "never_reset",
        "the mean over the pairs {where}: it is never reset",
        mean_over_pairs,
        over_epochs,
        help="set the sums to 0 where an epoch begins",
        matters=WRONG,
    ),
    arithmetic(
        "batches_never_reset",
        "the mean over batches, not over pairs, {where}: it is never reset",
        mean_over_batches,
        over_epochs,
        help="set the sums to 0 where an epoch begins",
        matters=WRONG,
    ),
)
ONE_MORE = arithmetic(
    "one_batch_more",
    "the sum of the batches' means over one batch more than there are, {where}",
    lambda v, n, told: sum(v) / (len(v) + 1),
    windows,
    help="divide by the number of batches",
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
        lambda v, n, told: mean_over_pairs(v, n, told) * max(n),
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
    lambda v, n, told: mean_over_pairs(v, n, told) * told["factor"],
    factors,
    help="print the mean itself",
)
SMOOTHED = arithmetic(
    "smoothed",
    "an exponential average of the batches with decay {decay}, which begins with {begin}",
    smoothed,
    decays,
    help="print the mean over the epoch: an average that begins with 0 is too small at first",
)
EVERY_LABEL = of_batch(
    "every_label",
    "the share of all predictions against all labels of a batch: shapes [B, 1] and [B] are "
    "broadcast to [B, B]",
    help="give both one shape before they are compared",
)
FLAT = of_batch(
    "argmax_of_all",
    "the share of labels that are the place of the largest of all logits of their batch: argmax() "
    "without a dimension",
    help="take the larger logit of each pair: logits.argmax(1)",
)
TRUE_ONES = of_batch(
    "true_ones",
    "the share of pairs whose prediction and label are both 1: they are multiplied, not compared",
    help="compare predictions with labels: prediction == label",
)
CUT = of_batch(
    "cut_at_half",
    "the accuracy with the single logit cut at 0.5, where 0 is the middle",
    help="cut a logit at 0, or its sigmoid at 0.5",
)
SIGNS = tuple(
    of_batch(
        f"sign_{number}",
        f"the share of pairs in which the sign of logit {number} alone predicts the label",
        name=f"sign_of_logit_{number}",
        help="compare the two logits: logits.argmax(1)",
    )
    for number in (1, 2)
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


def half_digit(text):
    """What rounding to the last digit of a figure explains."""
    mantissa, _, exponent = text.lower().partition("e")
    return ROUNDED * 10 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
