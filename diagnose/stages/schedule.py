"""Learning rates from step to step: what moves them, and what is declared without effect yet.

Its findings are those of the stage `update`.
"""

import itertools
import math

from diagnose.stepping import declared
from diagnose.trace import batches_of, epoch_of
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
    if not {"step_size", "gamma"} <= told.keys():
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
LATER = Row(
    "update.learning_rates_change_later",
    DECLARED,
    "learning rates are {before} at first and {lr} from step {step} on[, where {where}] (changes "
    "in the recorded epochs: {changes})",
    is_wrong=True,
    help="keep the learning rates for 25 epochs, then multiply them by 0.3",
)
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
    """Declarations of the recorded schedules, without effect in the full steps."""
    ends, last = epoch_ends(trace, pairs), len(trace.updates) + len(trace.rates)
    findings = describe_later(trace, ends)
    for schedule in trace.schedules:
        values, name = schedule.values, schedule.class_
        early = tuple(u for u in schedule.steps if 0 < u < last)
        per_batch = early == tuple(range(1, last)) and is_recipe(values, recipe, trace)
        if name == "StepLR" and per_batch:
            continue
        if early and ends is None:
            findings.append(END_UNKNOWN.found(schedule=name, updates=early[:5]))
        elif set(early) - set(ends or ()):
            findings.append(WITHIN_EPOCH.found(schedule=name, updates=early[:5]))
        usual = recipe["lr_every"], recipe["lr_factor"]
        if name != "StepLR" or (values.get("step_size"), values.get("gamma")) != usual:
            told = {k: v for k, v in values.items() if k in TELLING}
            findings.append(SCHEDULE.found(schedule=name, values=told))
    return findings


def is_recipe(values, recipe, trace):
    """Whether the values of a StepLR that is stepped after every batch are the recipe's."""
    loader = epoch_of(trace, trace.batches[0].passes[0].epoch)
    if loader is None or not loader.items or not loader.batch_size:
        return False
    batches = loader.items / loader.batch_size
    batches = math.floor(batches) if loader.drops else math.ceil(batches)
    usual = recipe["lr_every"] * batches, recipe["lr_factor"]
    return (values.get("step_size"), values.get("gamma")) == usual


def describe_later(trace, ends):
    """The finding on rates that change after the full steps, in a list; ends: see epoch_ends."""
    begin = len(trace.updates)
    first = [group.values["lr"] for o in trace.updates[-1].optimizers for group in o.groups]
    series = list(itertools.pairwise([tuple(first), *trace.rates]))
    moved = [(begin + n, before, after) for n, (before, after) in enumerate(series)
             if before != after and len(before) == len(after)]  # fmt: skip
    if not moved:
        return []
    done, before, after = moved[0]
    told = {"before": before, "lr": after, "step": done + 1, "changes": len(moved)}
    at_ends = ends is not None and {done for done, *_ in moved} <= set(ends)
    return [LATER.found(**told, where="an epoch begins" if at_ends else None)]


def epoch_ends(trace, pairs):
    """After which updates an epoch ended: where its loader begins another one, or pairs come again;
    None where neither is known.
    """
    numbers = [(done, batch.passes[0].epoch) for done, batch in batches_of(trace)]
    numbers += [(len(trace.updates) + batch.update, batch.epoch) for batch in trace.later]
    if all(number >= 0 for _, number in numbers):
        return [b[0] for a, b in itertools.pairwise(numbers) if a[1] != b[1]]
    sizes = [len(batch.rows[0]) for _, batch in batches_of(trace)]
    sizes += [len(batch.rows[0]) for batch in trace.later]
    if any(pair.official is None for pair in pairs) or len(pairs) != sum(sizes):
        return None
    ends, known, places = [], set(), iter([pair.official[:2] for pair in pairs])
    for (done, _), size in zip(numbers, sizes, strict=True):
        drawn = set(itertools.islice(places, size))
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
