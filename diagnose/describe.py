"""What no row explains: which rows of the batches depart, by the simplest rule that says exactly
which.

A description is not a cause. It is true of the recorded rows, and says where to look.
"""

import itertools
import math
import operator
from typing import NamedTuple

CHANCE = 0.1  # of a rule that fits by chance alone, more than which it is not told
SEVERAL = 3  # rules that fit equally and are told
FEW = 9  # distinct values of a fact; of one with more, a number, a bound is told


class Fact(NamedTuple):
    """Something that is known of every row.

    text: what is said of rows that have a value, as `the label is {value}`; bounds: the texts of
    numbers of at least, and at most, {value}; () where they are not compared.
    """

    text: str
    values: tuple
    bounds: tuple = ()


def rules_of(departs, facts):
    """The rules that hold in exactly the rows [N] that depart, as text, the simplest first.

    None where none does, where all rows depart or none, or where so many rules were tried on so
    few rows that one would fit by chance.
    """
    count, total = sum(departs), len(departs)
    if count in (0, total):
        return None
    tried, texts = 0, []
    for fact in facts:
        for text, holds in rules(fact):
            tried += 1
            texts += [text] * (holds == tuple(departs))
    chance = tried / math.comb(total, count)
    texts = list(dict.fromkeys(texts))[:SEVERAL] if chance <= CHANCE else []
    return "; or, equally, where ".join(texts) or None


def rules(fact):
    """(text, whether it holds in each row) of every rule that a fact makes."""
    known = sorted({value for value in fact.values if value is not None})
    if fact.text and len(known) <= FEW:
        for value in known:
            yield fact.text.format(value=value), tuple(v == value for v in fact.values)
    for low, high in itertools.pairwise(known) if fact.bounds else ():
        above = tuple(v is not None and v >= high for v in fact.values)
        below = tuple(v is not None and v <= low for v in fact.values)
        yield fact.bounds[0].format(value=high), above
        yield fact.bounds[1].format(value=low), below


def facts_of(rows):
    """The Facts of rows: [{what is known of it by the names of PAIR_FACTS: value}]."""
    if all(row.get("label") == row.get("official") for row in rows):
        rows = [row | {"official": None} for row in rows]  # says the same
    return [
        Fact(text, tuple(row.get(name) for row in rows), bounds)
        for name, (text, bounds) in PAIR_FACTS.items()
    ]


def of_logits(logits, label):
    """[B] of what logits [B, 2] and labels [B] say of each pair of a batch."""
    rows, top = [], logits.double().amax(0).tolist()
    for own, y in zip(logits.double().tolist(), label.tolist(), strict=True):
        prediction = int(own[1] > own[0])
        signs = {f"sign_{k + 1}": ("negative", "positive")[own[k] > 0] for k in (0, 1)}
        right = ("wrong", "right")[prediction == y]
        largest = "one" if any(map(operator.eq, own, top)) else "none"
        known = {"label": y, "prediction": prediction, "right": right, "largest": largest}
        rows.append(known | signs)
    return rows


def of_pair(pair):
    """What the record and the official lists say of a diagnose.official.RecordedPair."""
    known = {"step": pair.step + 1, "place": pair.row + 1, "back": pair.rows - pair.row}
    known |= {"label": pair.label} if pair.label is not None else {}
    if pair.official is None:
        return known
    row, preference = pair.official.row, float(pair.official.row["preference"])
    return known | {
        "official": pair.official.label,
        "agreement": round(max(preference, 1 - preference), 3),
        "swapped": ("first", "second")[pair.official.swapped],
        "series": int(row["series"]),
        "number": int(max(row["photo_1"], row["photo_2"])),
        "line": pair.official.place + 1,
    }


def examples_of(pairs):
    """Up to SEVERAL of some pairs, as a reader looks them up."""
    return tuple(
        {
            "step": pair.step + 1,
            "row": pair.row + 1,
            "photos": pair.names,
            "label": pair.label,
            "official": pair.official.label if pair.official else None,
        }
        for pair in itertools.islice(pairs, SEVERAL)
    )


def bounds(name):
    """The texts of at least, and at most, a value."""
    return f"{name} is {{value}} or more", f"{name} is {{value}} or less"


PAIR_FACTS = {  # {what of_pair and of_logits call it: (text, bounds) of its Fact}
    "label": ("the label is {value}", ()),
    "prediction": ("the prediction is {value}", ()),
    "right": ("the prediction is {value}", ()),
    "sign_1": ("the first logit is {value}", ()),
    "sign_2": ("the second logit is {value}", ()),
    "largest": ("{value} of its logits is the largest of its batch", ()),
    "back": ("the row is {value} from the end of its batch", ()),
    "place": ("the row in its batch is {value}", bounds("the row in its batch")),
    "step": ("the step is {value}", bounds("the step")),
    "official": ("the official label is {value}", ()),
    "swapped": ("the photo that is {value} in the list comes first", ()),
    "agreement": ("", bounds("the raters' agreement")),
    "number": (
        "the larger photo number is {value}",
        bounds("the larger photo number"),
    ),
    "line": ("", bounds("the line in its list")),
    "series": ("", bounds("the series")),
}
