"""Learning rates from step to step: what moves them, and what is declared without effect yet.

Its findings are those of the stage `update`.
"""

import itertools

from diagnose.stepping import declared
from diagnose.trace import batches_of
from run.findings import CAUSE, DECLARED, Row, number

# What a schedule is told by, of its values.
TELLING = ("step_size", "gamma", "T_max", "eta_min", "milestones", "total_steps", "max_lr")
TELLING += ("factor", "start_factor", "total_iters", "warmup", "power")
CHANGE = "learning rates change from step to step: {lr}"


def step_flags(values):
    """The flags of a StepLR."""
    told = values["values"]
    if values["schedule"] != "StepLR":
        return ""
    return f"--lr-every {told['step_size']} --lr-factor {number(told['gamma'])}"


MOVING = Row("update.learning_rates_change", CAUSE, CHANGE)
SCHEDULED = Row(
    "update.learning_rates_scheduled",
    CAUSE,
    CHANGE + " ({schedules} is stepped after steps {updates})",
    help="step the schedule once per epoch",
    at=("schedule step", "schedule"),
)
EACH = Row(
    "update.learning_rates_scheduled_each",
    CAUSE,
    CHANGE + " ({schedules} is stepped after every step)",
    help="step the schedule once per epoch",
    at=("schedule step", "schedule"),
)
BEFORE = Row(
    "update.learning_rates_scheduled_before",
    CAUSE,
    CHANGE + " ({schedules} is stepped before every step, so its first learning rate is skipped)",
    help="step the schedule once per epoch, after optimizer.step()",
    at=("schedule step", "schedule"),
)
MOVES = (MOVING, SCHEDULED, EACH, BEFORE)
WITHIN_EPOCH = Row(
    "update.schedule_within_epoch",
    DECLARED,
    "{schedule} is stepped after steps {updates}, within an epoch",
    is_wrong=True,
    help="step the schedule once per epoch",
    at=("schedule step",),
)
END_UNKNOWN = Row(
    "update.schedule_stepped",
    DECLARED,
    "{schedule} is stepped after steps {updates}; whether an epoch ends there is not known",
    is_wrong=True,
    help="step the schedule once per epoch",
    at=("schedule step",),
)
SCHEDULE = Row(
    "update.schedule",
    DECLARED,
    "the schedule is {schedule}({values:=})",
    is_wrong=True,
    flag=step_flags,
    at=("schedule",),
)


def judge_schedules(trace, recipe, pairs):
    """Declarations of the recorded schedules, without effect in the recorded steps."""
    findings, ends = [], epoch_ends(trace, pairs)
    for schedule in trace.schedules:
        values, name = schedule.values, schedule.class_
        early = tuple(u for u in schedule.steps if 0 < u < len(trace.updates))
        if early and ends is None:
            findings.append(END_UNKNOWN.found(schedule=name, updates=early[:5]))
        elif set(early) - set(ends or ()):
            findings.append(WITHIN_EPOCH.found(schedule=name, updates=early[:5]))
        usual = recipe["lr_every"], recipe["lr_factor"]
        if name != "StepLR" or (values.get("step_size"), values.get("gamma")) != usual:
            told = {k: v for k, v in values.items() if k in TELLING}
            findings.append(SCHEDULE.found(schedule=name, values=told))
    return findings


def epoch_ends(trace, pairs):
    """After which updates an epoch ended: where pairs come again; None where they are unknown."""
    if any(pair.official is None for pair in pairs) or not pairs:
        return None
    ends, known, places = [], set(), iter([pair.official[:2] for pair in pairs])
    for done, batch in batches_of(trace):
        drawn = set(itertools.islice(places, len(batch.features[0])))
        if drawn & known:
            ends.append(done)
            known = set()
        known |= drawn
    return ends


def describe_moving(trace):
    """The finding on rates that change from one recorded step to the next; None where none do."""
    rates = {}  # of each weight, one after the other
    for update in trace.updates:
        for n, (_, values) in declared(update).items():
            rates.setdefault(n, []).append(values["lr"])
    columns = tuple(dict.fromkeys(tuple(row) for row in rates.values() if len(set(row)) > 1))
    if not columns:
        return None
    names = tuple(sorted({s.class_ for s in trace.schedules if s.steps}))
    if not names:
        return MOVING.found(lr=columns)
    last = len(trace.updates)
    early = {u for s in trace.schedules for u in s.steps if 0 < u < last}
    row = SCHEDULED
    if len(early) == last - 1:
        before = any(0 in s.steps for s in trace.schedules)
        row = BEFORE if before else EACH
    return row.found(lr=columns, schedules=names, updates=tuple(sorted(early)))
