"""Findings of several steps: those that hold in all of them, and equal ones as one."""

import dataclasses

from run.findings import UNEXPLAINED, Row


def is_same(a, b):
    """Whether two findings are of one row with equal values, but for those that vary."""
    return a.row == b.row and all(
        a.values[key] == b.values.get(key) for key in a.values if key not in a.row.varies
    )


def contradiction(stage):
    """The row of estimates that do not agree from step to step.

    A value that fits one step and not the next describes that step and explains nothing.
    """
    text = "what fits one step does not fit the next: {estimates}"
    return Row(f"{stage}.contradiction", UNEXPLAINED, text)


def intersect_over_steps(findings):
    """[(step, Finding)] in which those with alternatives are what all of their stage leave."""
    told = [finding for _, finding in findings if finding.alternatives]
    return [
        (step, settle(finding, [f for f in told if f.stage == finding.stage]))
        for step, finding in findings
    ]


def settle(finding, others):
    """One finding as what all others of its stage with alternatives leave of its own."""
    if not finding.alternatives:
        return finding
    left = [
        way for way in finding.alternatives
        if all(any(is_same(way, choice) for choice in other.alternatives) for other in others)
    ]  # fmt: skip
    if left:
        return dataclasses.replace(left[0], alternatives=tuple(left) * (len(left) > 1))
    firsts = []
    for other in others:
        firsts += [] if any(is_same(other, first) for first in firsts) else [other]
    plain = (dataclasses.replace(first, alternatives=()) for first in firsts[:3])
    return contradiction(finding.stage).found(estimates=tuple((first,) for first in plain))


def merge_steps(findings):
    """Findings of [(step, Finding)], equal ones once, with their steps, and values as a series."""
    groups = []
    for step, finding in findings:
        group = next((group for group in groups if is_same(group[0][1], finding)), None)
        if group is None:
            groups.append([(step, finding)])
        elif step not in {s for s, _ in group}:
            group.append((step, finding))
    return list(map(merge, groups))


def merge(group):
    """One finding of several steps."""
    first = group[0][1]
    series = {}
    for name in first.row.varies:
        told = tuple(finding.values[name] for _, finding in group)
        if any(value != told[0] for value in told):
            series[name] = told
    worst = max(finding.relative_error for _, finding in group)
    steps = tuple(sorted(step + 1 for step, _ in group))
    return dataclasses.replace(first, steps=steps, relative_error=worst, series=series)
