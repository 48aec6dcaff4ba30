"""Where in the trainer's own code a finding comes from, by the lines that record.py noted."""

import dataclasses

from diagnose.finding import LINE_AT
from diagnose.trace import batches_of
from run.findings import Place

# {stage: names of lines, nearest first}, for rows that say nothing else.
USUAL = {
    "pairs": ("loader",),
    "labels": ("label", "dataset"),
    "inputs": ("dataset",),
    "start": ("weight",),
    "features": ("forward",),
    "head": ("head", "merge"),
    "loss": ("loss",),
    "gradients": ("changed", "backward"),
    "update": ("optimizer",),
    "printed": ("own",),
    "evaluation": ("own",),
}
AFTER_BATCH = ("changed", "clip", "zero_grad", "step", "group", "freeze", "hook", "function")


def with_lines(findings, trace):
    """The same findings, each with the lines that it points at; those not known are left out."""
    batches = {}
    for step, batch in batches_of(trace):
        batches.setdefault(step, batch)
    return [
        dataclasses.replace(
            finding,
            where=places_of(finding, trace, batches),
            values={k: v for k, v in finding.values.items() if k != LINE_AT},
        )
        for finding in findings
    ]


def places_of(finding, trace, batches):
    """The Places of a finding, nearest first, each once."""
    step = finding.steps[0] - 1 if finding.steps else 0
    if step not in batches:
        return ()
    names = finding.row.at or USUAL[finding.stage]
    numbers = (n for name in names for n in numbers_of(name, finding, trace, step, batches[step]))
    known = dict.fromkeys(n for n in numbers if 0 <= n < len(trace.lines))
    lines = (trace.lines[n] for n in known)
    return tuple(Place(line.file, line.line, line.text) for line in lines)


def numbers_of(name, finding, trace, step, batch):
    """The numbers of the lines with a name, -1 where one is not known."""
    update = trace.updates[step]
    linear = [entry for entry in batch.head if entry.op == "linear"]
    places = {
        "label": [label.line for label in batch.labels[-1:]],
        "forward": [record.line for record in batch.passes],
        "head": [entry.line for entry in batch.head],
        "dropout": [entry.line for entry in batch.head if "dropout" in entry.op],
        "weight": [trace.weights[n].line for entry in linear for n in entry.weights[:1]],
        "built": [trace.weights[n].built for entry in linear[-1:] for n in entry.weights],
        "bias": [trace.weights[n].line for entry in linear for n in entry.weights[1:]],
        "backbone": [trace.weights[n].built for n in batch.passes[0].weights[:1]],
        "backward": [backward.line for backward in batch.backwards],
        "optimizer": [optimizer.line for optimizer in update.optimizers],
        "schedule": [schedule.line for schedule in trace.schedules],
        "schedule step": [schedule.stepped for schedule in trace.schedules],
        "own": [finding.values.get(LINE_AT, -1)],
        "moved": [later.lines.get("moved", -1) for later in trace.updates[step + 1 : step + 2]],
    }
    if name in places:
        return places[name]
    known = update.lines if name in AFTER_BATCH else dict(trace.photo_lines) | dict(batch.lines)
    return [known.get(name, -1)]
