"""What an instrument finds, as data; its text and JSON are made here, at the end.

No code reads a sentence: ids and values are for code and tests, text is for people.
"""

import dataclasses
import json
import re
import sys
from dataclasses import dataclass
from typing import NamedTuple

from disk.errors import say

CAUSE = "CAUSE"  # the reference with this change reproduces what was recorded, or it was read
HARMLESS = "HARMLESS"  # so too, and no parameter moves otherwise
DECLARED = "DECLARED"  # what objects say of themselves, without effect in what was judged
UNEXPLAINED = "UNEXPLAINED"  # a difference that nothing reproduces
SKIPPED = "SKIPPED"  # what was not judged
EQUAL = "EQUAL"  # a figure or a fact in which nothing is wrong
# What a change does to a result, the gravest first.
WRONG = "wrong"  # it makes the result wrong, whatever the rest
LEARNS = "learns"  # it changes how the trainer learns
DIFFERENT = "different"  # it is only different
DIGITS = 4  # of a number in a text
SEVERAL = 2  # sentences of different steps that are told
SMALL = 1e-3  # numbers below are written as 5e-4

PART = re.compile(r"\[([^][]*\{[^][]*)\]")  # of a template: left out where a value in it is None
NAME = re.compile(r"\{(\w+)")


class Place(NamedTuple):
    """A line of code."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Row:
    """All that is said of one thing that can be found.

    id: `stage.name`. text: a template of the values; a part in [] is left out where one of its
    values is None. varies: names of values that may differ from step to step, which are then told
    as a series. is_wrong: whether it alone makes the exit code 1. help: what mends it, in one line.
    flag: what makes the reference do the same, a template of the values or a function of them.
    matters: what it does to a result. is_partial: of what is SKIPPED, whether the rest of its stage
    was judged, or there was nothing to judge. at: names of the lines that it points at, see
    diagnose.where.
    """

    id: str
    kind: str
    text: str
    varies: tuple = ()
    is_wrong: bool = None
    help: str = ""
    flag: str = ""
    matters: str = LEARNS
    is_partial: bool = False
    at: tuple = ()

    def __post_init__(self):
        if self.is_wrong is None:
            object.__setattr__(self, "is_wrong", self.kind in (CAUSE, UNEXPLAINED))

    @property
    def stage(self):
        """The stage that an id begins with."""
        return self.id.partition(".")[0]

    def found(self, **values):
        """A Finding of this row with these values."""
        return Finding(self, values)


def rows_of(stage):
    """A function that makes the rows of a stage: row(name, kind, text, **options)."""
    return lambda name, kind, text, **options: Row(f"{stage}.{name}", kind, text, **options)


@dataclass(frozen=True)
class Finding:
    """A row and what it was found with.

    values: what the trainer has, and the reference. relative_error: what it leaves, of which
    rounding explains the tolerance; size: of how many recorded numbers, 0 where it was read.
    where: the Places in the trainer's own code, nearest first.
    steps: those that it holds in, from 1 on. series: {name: its values} step by step, where a value
    varies.
    """

    row: Row
    values: dict
    relative_error: float = 0.0
    tolerance: float = 0.0
    size: int = 0
    where: tuple = ()
    steps: tuple = ()
    series: dict = dataclasses.field(default_factory=dict)

    @property
    def id(self):
        """The id of its row."""
        return self.row.id

    @property
    def stage(self):
        """The stage of its row."""
        return self.row.stage

    @property
    def kind(self):
        """The kind of its row."""
        return self.row.kind


# Text


class Shown:
    """A value as a template shows it: numbers with their digits, several with commas.

    A number takes Python's own formats; a dict takes `=` (k=v, ...), `n` (k accuracy (count)) and
    `*` (v x k + ...).
    """

    def __init__(self, value):
        self.value = value

    def __format__(self, form):
        if form and isinstance(self.value, int | float):
            return format(self.value, form)
        return show(self.value, form or " ")


def number(value):
    """A number as text, with the digits that matter."""
    value = float(value)
    if 0 < abs(value) < SMALL:
        mantissa, _, exponent = f"{value:.{DIGITS - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.{DIGITS}g}"


def brief(value):
    """A number as text, with one digit."""
    return number(float(f"{value:.0e}"))


def show(value, between=" "):
    """A value as text; between: what separates the keys and the values of a dict."""
    if isinstance(value, Finding):
        return text_of(value)
    if between == "n":
        return ", ".join(f"{k} {share:.3f} ({count})" for k, (share, count) in value.items())
    if isinstance(value, dict) and between == "*":
        return " + ".join(f"{number(factor)} x {name}" for name, factor in value.items())
    if isinstance(value, dict):
        pairs = (f"{k}{between}{v if between == '=' else show(v)}" for k, v in value.items())
        return (", " if between == "=" else "; ").join(pairs)
    if isinstance(value, tuple):
        return show_several(value)
    return number(value) if isinstance(value, float) else str(value)


def show_several(values):
    """Several values as text: numbers and names with commas, groups of them with semicolons."""
    if any(isinstance(value, dict) for value in values):
        return " | ".join(map(show, values))  # of several steps
    if not any(isinstance(value, tuple) for value in values):
        return ", ".join(map(show, values))
    if all(isinstance(value, Finding) for group in values for value in group):
        return "; ".join(" and ".join(map(show, group)) or "the reference" for group in values)
    return "; ".join(map(show, values))


def text_of(finding):
    """The text of a finding."""
    values = finding.values | {name: in_turn(told) for name, told in finding.series.items()}
    return fill(finding.row.text, values)


def in_turn(told):
    """The values of several steps as a template takes them; of sentences the first that differ."""
    if any(isinstance(value, str) and " " in value for value in told):
        several = list(dict.fromkeys(value for value in told if value))
        return " | ".join(several[:SEVERAL]) + " | ..." * (len(several) > SEVERAL)
    return tuple("all" if value is None else value for value in told)


def fill(template, values):
    """A template with these values; see Row."""
    shown = PART.sub(
        lambda part: part[1] * all(values.get(n) is not None for n in NAME.findall(part[1])),
        template,
    )
    return shown.format_map({name: Shown(value) for name, value in values.items()})


def help_of(finding):
    """What mends a finding; empty where nothing is known to."""
    return fill(finding.row.help, finding.values)


def flag_of(finding):
    """The flags that make the reference do the same; empty where none do."""
    flag = finding.row.flag
    return flag(finding.values) if callable(flag) else fill(flag, finding.values)


def line_of(finding, steps):
    """A finding as a line; steps: how many were judged."""
    error = ""
    if finding.relative_error > 0:
        proof = brief(finding.relative_error), brief(finding.tolerance)
        error = "  [relative error {}, tolerance {}]".format(*proof)
    at = finding.steps
    where = f"  (in step{'s' * (len(at) > 1)} {', '.join(map(str, at))})"
    where *= 0 < len(at) < steps and finding.stage != "start"
    return f"{finding.kind} {finding.stage}: {text_of(finding)}{error}{where}"


# JSON and the way out


def as_json(finding):
    """A finding as plain data."""
    return {
        "id": finding.id,
        "stage": finding.stage,
        "kind": finding.kind,
        "text": text_of(finding),
        "values": plain(finding.values),
        "series": plain(finding.series),
        "steps": list(finding.steps),
        "relative_error": finding.relative_error,
        "tolerance": finding.tolerance,
        "size": finding.size,
        "where": [place._asdict() for place in finding.where],
        "help": help_of(finding),
        "flag": flag_of(finding),
        "matters": finding.row.matters,
    }


def plain(value):
    """A value as JSON has it: findings within it as their ids and values."""
    if isinstance(value, Finding):
        return {"id": value.id, "values": plain(value.values)}
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple) else value


def code_of(verdict):
    """The exit code of the findings that make a verdict: 0 healthy, 1 a defect, 2 cannot judge."""
    if any(finding.row.is_wrong for finding in verdict):
        return 1
    return 2 if any(finding.kind == SKIPPED for finding in verdict) else 0


def give_verdict(verdict, evidence, as_json_):
    """Prints the findings that make a verdict, joined, and a line for each of the evidence."""
    words, lines = "; ".join(map(text_of, verdict)), map(text_of, evidence)
    give_answer(words, code_of(verdict), [*verdict, *evidence], lines, as_json_)


def give_answer(verdict, code, findings, lines, as_json_):
    """Prints a verdict and the lines below it, or the findings as JSON; ends with the code."""
    if as_json_:
        found = {"verdict": verdict, "exit_code": code, "findings": list(map(as_json, findings))}
        say(json.dumps(found, indent=1), sys.stdout)
    else:
        say("\n".join([f"VERDICT {verdict}", *(f"  {line}" for line in lines)]), sys.stdout)
    sys.exit(code)
