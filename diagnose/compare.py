"""Holds a variant against the reference: names the first divergence, and its cause.

    python -m diagnose.compare runs/reference mine/trace.txt [--again mine/trace2.txt] [--json]
    python -m diagnose.compare --calibrate A/trace.txt B/trace.txt ...

REF and VARIANT are traces of tracer.py, or run folders that hold trace.txt. Stages are compared in
the order of execution, parameters without names. --again is a second trace of the same variant: the
two must be equal to the bit. Exit code 0: equal, 1: diverged, 2: cannot judge. --calibrate prints
the largest difference by stage between the first trace and each of the others.
"""

import json
import math
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diagnose import causes
from diagnose.tracer import VERSION
from disk.errors import command_line, say, stop, stop_on

STAGES = {
    "1D": "pairs",
    "2X": "inputs",
    "3I": "init",
    "4F": "forward",
    "5L": "loss",
    "6G": "gradients",
    "7U": "update",
    "8M": "metrics",
}
# Largest relative difference that rounding may make in the first step, by stage: (float32,
# float64); measured with --calibrate, the figures stand in the README. In float64 a variant may
# still prepare its photos in float32, as torchvision's ToTensor does.
TOLERANCE = {
    "2X": (1e-6, 1e-6),
    "3I": (1e-6, 1e-8),
    "4F": (1e-2, 1e-5),
    "5L": (1e-3, 1e-5),
    "6G": (3e-1, 1e-4),
    "7U": (5e-1, 1e-4),
    "8M": (1e-3, 1e-5),
}
# From step to step rounding grows about tenfold from random weights. What lies above the tolerance
# and below this is called drift. In float32 the second step already drifts without limit.
GROWTH, DRIFT = 10.0, (1e9, 5e-2)
DRIFTING = ("4F", "5L", "6G", "7U", "8M")
NUMBER = re.compile(r"[+-]?(nan|inf|[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?)")
NEGLIGIBLE = 1e-6  # a tensor this small beside the largest of its stage is rounding alone


class Line(NamedTuple):
    """One line of a trace."""

    number: int
    step: int
    stage: str
    name: str
    shape: tuple
    values: list  # floats; texts where they are none


class Trace(NamedTuple):
    """A trace: its file, what its header says, and lines by (step, stage), in file order."""

    path: Path
    header: dict
    lines: dict
    steps: int


def read_trace(path):
    """A trace from a file or a run folder; ends the program with the line that is wrong."""
    path = path / "trace.txt" if path.is_dir() else path
    if not path.is_file():
        stop(__file__, f"{path}: no such file")
    with stop_on(__file__, path, UnicodeDecodeError, OSError):
        rows = path.read_text(encoding="utf-8").split("\n")
    if rows[0] != f"# trace {VERSION}":
        stop(__file__, f"{path}:1: {rows[0][:40]!r} is not '# trace {VERSION}': another version?")
    header = dict(word.partition("=")[::2] for word in rows[1].removeprefix("# ").split())
    lines, steps = {}, 0
    for number, row in enumerate(rows[2:], 3):
        words = row.split(" ")
        if row == "" and number == len(rows):
            continue
        if len(words) < 5 or not words[0].isdigit() or words[1] not in ("0R", *STAGES):
            stop(__file__, f"{path}:{number}: no line of a trace: {row[:60]!r}")
        shape = () if words[3] == "-" else tuple(words[3].split(","))
        texts = words[1] in ("0R", "1D")
        values = words[4:] if texts else [as_number(word) for word in words[4:]]
        if shape and words[4] != "none" and len(values) < 5:
            stop(__file__, f"{path}:{number}: a fingerprint has five numbers: {row[:60]!r}")
        line = Line(number, int(words[0]), words[1], words[2], shape, values)
        lines.setdefault((line.step, line.stage), []).append(line)
        steps = max(steps, line.step + 1)
    if not lines:
        stop(__file__, f"{path}: no line after the header")
    for group in lines.values():
        group.sort(key=pair_number)
    return Trace(path, header, lines, steps)


def pair_number(line):
    """The place of a pair's line among the pairs of its batch; other lines keep their order."""
    number = line.name.removeprefix("pair_")
    return int(number) if number.isdigit() else -1


def as_number(word):
    """The word as a float where it is a number, nan and inf included."""
    return float(word) if NUMBER.fullmatch(word) else word


def difference(a, b, floor=0.0):
    """Relative difference of two fingerprints: their projections estimate |a - b|."""
    if len(a) < 5 or len(b) < 5 or isinstance(a[0], str) or isinstance(b[0], str):
        return 0.0 if a[:1] == b[:1] else math.inf
    if not np.all(np.isfinite([*a[:5], *b[:5]])):
        return 0.0 if str(a[:5]) == str(b[:5]) else math.inf
    gap = math.sqrt(sum((x - y) ** 2 for x, y in zip(a[1:5], b[1:5], strict=True)) / 4)
    gap = max(gap, abs(a[0] - b[0]))
    return gap / max(a[0], b[0], floor, 1e-300)


# Matching parameters without names


def match_parameters(ref, var):
    """({reference name: variant name}, remarks): by initial fingerprint, gradient, order.

    A pair that only its l2 norm and number of elements match is reported as transposed or
    reshaped; one that only its place matches, as guessed.
    """
    ours, theirs = (
        [line for line in trace.lines.get((0, "3I"), []) if isinstance(line.values[0], float)]
        for trace in (ref, var)
    )
    gradients = [
        {line.name: line.values for line in trace.lines.get((0, "6G"), [])} for trace in (ref, var)
    ]
    match, remarks, free = {}, [], {line.name: line for line in theirs}

    def take(test):
        """Matches what is left on both sides, line by line, where test(reference, variant)."""
        for line in ours:
            if line.name in match:
                continue
            kind = line.name.split(":")[0]
            found = [o for o in free.values() if o.name.split(":")[0] == kind and test(line, o)]
            if len(found) > 1:  # a tie: the gradient decides, then the order
                near = [difference(gradients[0].get(line.name, [0]), gradients[1].get(o.name, [1]))
                        for o in found]  # fmt: skip
                found = [found[int(np.argmin(near))]]
            if found:
                match[line.name] = found[0].name
                del free[found[0].name]

    take(lambda a, b: a.shape == b.shape and difference(a.values, b.values) < 1e-6)
    exact = len(match)
    take(lambda a, b: numel(a) == numel(b) > 1 and same_norm(a, b) and a.shape != b.shape)
    turned = list(match)[exact:]
    remarks += [f"{name} is transposed or reshaped: {match[name]}" for name in turned[:3]]
    first = len(match)
    take(lambda a, b: a.shape == b.shape)
    guessed = list(match)[first:]
    if guessed:
        remarks.append(
            f"{len(guessed)} tensors matched by place alone (guessed), {guessed[0]} first"
        )
    return match, remarks


def numel(line):
    """The number of elements of a line's tensor."""
    return math.prod(int(side) for side in line.shape)


def same_norm(a, b):
    """Whether two tensors have the same l2 norm, to rounding, and are not 0."""
    return a.values[0] > 0 and abs(a.values[0] - b.values[0]) < 1e-7 * a.values[0]


# Comparing stage by stage


def compare_stage(ref, var, step, stage, match, tolerance):
    """(`ok`, `drift`, `DIVERGED` or `not compared`, detail, difference) of one stage of a step."""
    ours, theirs = (trace.lines.get((step, stage), []) for trace in (ref, var))
    if stage == "3I":
        theirs = [line for line in theirs if line.name in match.values()]
    other = {line.name: line for line in theirs}
    largest = max([v.values[0] for v in ours if v.shape and isinstance(v.values[0], float)] or [0])
    worst, compared, detail = 0.0, 0, ""
    for line in ours:
        mine = other.get(match.get(line.name, line.name))
        if mine is None or line.name.startswith("group:") or line.name == "epoch":
            continue
        compared += 1
        gap = line_difference(line, mine, NEGLIGIBLE * largest)
        first = stage == "4F" and worst > tolerance[stage]  # of a forward pass the first counts
        if not gap <= worst:
            worst, detail = gap, detail if first else describe(line, mine)
    if not compared:
        return "not compared", "", 0.0
    allowed = tolerance.get(stage, 0.0)  # pairs are exact
    if worst <= allowed:
        return "ok", "", worst
    limit = tolerance["drift"] if step and stage in DRIFTING else 0.0
    drift = worst <= limit and (limit > 1 or worst <= allowed * GROWTH**step)
    return ("drift" if drift else "DIVERGED"), detail, worst


def line_difference(line, mine, floor):
    """The relative difference of two lines of one name; exact for texts and counts."""
    if line.stage == "1D":
        known = [
            (a, b) for a, b in zip(line.values, mine.values, strict=False) if "-" not in (a, b)
        ]
        return 0.0 if all(a == b for a, b in known) else math.inf
    if (
        line.name.startswith("pair_")
        or line.stage in ("5L", "8M")
        or line.name.endswith((".border", ".corner"))
    ):
        if any(isinstance(v, str) for v in (*line.values, *mine.values)):
            return math.inf
        scale = max([abs(v) for v in line.values] + [1e-3])
        gaps = [abs(a - b) / scale for a, b in zip(line.values, mine.values, strict=False)]
        return max(math.inf if math.isnan(gap) else gap for gap in gaps)
    return difference(line.values, mine.values, floor)


def describe(line, mine):
    """What is seen where two lines differ, the variant's numbers first."""
    name = "" if line.name == "loss" else f"{line.name}: "
    if line.shape and len(line.values) >= 5 and len(mine.values) >= 5:
        gap = difference(line.values, mine.values)
        norms = f"{mine.values[0]:.6g} against {line.values[0]:.6g}"
        return f"{name}relative difference {gap:.1e}, l2 {norms}"
    texts = [
        " ".join(v if isinstance(v, str) else f"{v:.6g}" for v in side.values[:3])
        for side in (mine, line)
    ]
    return f"{name}{' against '.join(texts)}"


def compare(ref, var):
    """The report as a dict: rows of stages, first divergence, causes, what was not compared."""
    match, remarks = match_parameters(ref, var)
    double = ref.header.get("dtype") == var.header.get("dtype") == "float64"
    tolerance = {name: pair[double] for name, pair in (TOLERANCE | {"drift": DRIFT}).items()}
    rows, first, missing, compared = [], None, set(), 0
    for step in range(min(ref.steps, var.steps)):
        row = []
        for stage, name in STAGES.items():
            if not ref.lines.get((step, stage)):
                continue
            state, detail, _ = compare_stage(ref, var, step, stage, match, tolerance)
            row.append(f"{name} {state}")
            compared += state != "not compared"
            if state == "not compared":
                missing.add(name)
            elif state == "DIVERGED" and first is None:
                first = {"step": step, "stage": name, "detail": detail}
        rows.append(f"step {step}: {' | '.join(row)}")
    if var.steps < ref.steps:
        missing.add(f"steps {var.steps} to {ref.steps - 1}")
        remarks.append(f"the variant has {var.steps} steps, the reference {ref.steps}")
    if first is None and any(" drift" in row for row in rows):
        remarks.append("drift is what rounding may do from the second step on; --float64 has less")
    found, ran, could_not = causes.search(ref, var, match, double)
    return {
        "rows": rows,
        "first": first,
        "causes": [c._asdict() for c in found],
        "remarks": remarks,
        "not_compared": sorted(missing),
        "checks": ran,
        "could_not": could_not,
        "compared": compared,
    }


def again(var, other):
    """The cause where two traces of one variant are not equal to the bit, or None."""
    first, second = (trace.path.read_bytes().splitlines()[2:] for trace in (var, other))
    for number, (a, b) in enumerate(zip(first, second, strict=False), 3):
        if a != b:
            where = f"{other.path}:{number}"
            return causes.Cause(
                "nondeterministic: the same run twice differs", where, 1.0, "defect"
            )
    if len(first) != len(second):
        return causes.Cause("nondeterministic: one run is shorter", str(other.path), 1.0, "defect")
    return None


def judge(report):
    """Exit code of a report: 0 equal or harmless, 1 diverged, 2 cannot judge."""
    defects = [cause for cause in report["causes"] if cause["kind"] == "defect"]
    harmless = [cause for cause in report["causes"] if cause["kind"] == "info"]
    if defects or (report["first"] and not harmless):
        return 1
    incomplete = report["not_compared"] and not report["first"]
    return 2 if incomplete or not report["compared"] else 0


def print_report(report, code):
    """The report as text: rows up to the first divergence, the causes, what was not done."""
    step = report["first"]["step"] if report["first"] else None
    for number, row in enumerate(report["rows"]):
        if step is None or number <= step:
            say(row, sys.stdout)
    if report["first"]:
        first = report["first"]
        say(
            f"FIRST DIVERGENCE step {first['step']}, {first['stage']}: {first['detail']}",
            sys.stdout,
        )
    for cause in report["causes"]:
        word = "INFO" if cause["kind"] == "info" else "CAUSE"
        say(f"{word} {cause['sentence']}  [{cause['where']}, fit {cause['fit']:.3f}]", sys.stdout)
    if code == 1 and not [c for c in report["causes"] if c["kind"] == "defect"]:
        say("CAUSE not established by any check", sys.stdout)
    for title in ("remarks", "not_compared", "could_not"):
        for text in report[title]:
            say(f"{title.replace('_', ' ')}: {text}", sys.stdout)
    say(f"checks: {', '.join(report['checks'])}", sys.stdout)
    say(["EQUAL", "DIVERGED", "CANNOT JUDGE"][code], sys.stdout)


def largest_differences(first, other):
    """{stage: largest relative difference} of the steps that both traces have."""
    none, gaps = dict.fromkeys([*TOLERANCE, "drift"], math.inf), {}
    match, _ = match_parameters(first, other)
    for stage in TOLERANCE:
        gaps[STAGES[stage]] = max(
            compare_stage(first, other, step, stage, match, none)[2]
            for step in range(min(first.steps, other.steps))
        )
    return gaps


def calibrate(traces):
    """Prints the largest difference by stage between the first trace and the others."""
    first, *others = traces
    for other in others:
        gaps = largest_differences(first, other).items()
        text = ", ".join(f"{stage} {gap:.1e}" for stage, gap in gaps)
        say(f"{other.path}: {text}", sys.stdout)


def main(argv=None):
    """Compares after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("ref", type=Path, metavar="REF")
    parser.add_argument("variants", type=Path, nargs="+", metavar="VARIANT")
    parser.add_argument("--again", type=Path, help="a second trace of the same variant")
    parser.add_argument("--calibrate", action="store_true", help="measure tolerances")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    args = parser.parse_args(argv)
    ref, *variants = map(read_trace, [args.ref, *args.variants])
    if args.calibrate:
        calibrate([ref, *variants])
        return
    if len(variants) > 1:
        stop(__file__, f"{args.variants[1]}: one variant at a time")
    report = compare(ref, variants[0])
    if args.again:
        found = again(variants[0], read_trace(args.again))
        report["causes"] += [found._asdict()] if found else []
    code = judge(report)
    if args.json:
        say(json.dumps(report | {"exit_code": code}, indent=1), sys.stdout)
    else:
        print_report(report, code)
    sys.exit(code)


if __name__ == "__main__":
    main()
