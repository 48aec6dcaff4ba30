"""Findings of several steps: equal ones as one."""

import dataclasses

LINE_AT = "line_at"  # the value of a finding that is the number of the line that it points at


def at_line(finding, number):
    """A finding that points at the line with this number."""
    return dataclasses.replace(finding, values=finding.values | {LINE_AT: number})


def is_same(a, b):
    """Whether two findings are of one row with equal values, but for those that vary."""
    return a.row == b.row and all(
        a.values[key] == b.values.get(key) for key in a.values if key not in a.row.varies
    )


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
