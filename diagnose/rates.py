"""Learning rates and their schedules: what moves them, and what is declared without effect yet."""

import itertools

from diagnose.finding import stated
from diagnose.replay import number
from diagnose.trace import batches_of
from diagnose.updates import declared

# What a schedule is told by, of its values.
TELLING = ("step_size", "gamma", "T_max", "eta_min", "milestones", "total_steps", "max_lr")
TELLING += ("factor", "start_factor", "total_iters", "warmup", "power")


def judge_schedules(trace, recipe, seen):
    """Statements of the recorded schedules, without effect in the recorded steps."""
    findings, ends = [], epoch_ends(trace, seen)
    for schedule in trace["schedules"]:
        values, name = schedule["values"], schedule["class"]
        early = [u for u in schedule["steps"] if 0 < u < len(trace["updates"])]
        at = f"{name} is stepped after updates {', '.join(map(str, early[:5]))}"
        if early and ends is None:
            text = f"{at}; whether epochs end there is not known"
            findings.append(stated("update", text))
        elif set(early) - set(ends or ()):
            findings.append(stated("update", f"{at}, within the epoch"))
        usual = recipe["lr_every"], recipe["lr_factor"]
        if name != "StepLR" or (values.get("step_size"), values.get("gamma")) != usual:
            told = ", ".join(f"{k}={v}" for k, v in values.items() if k in TELLING)
            findings.append(stated("update", f"the schedule is {name}({told})"))
    return findings


def epoch_ends(trace, seen):
    """After which updates an epoch ended: where pairs come again; None where they are unknown."""
    if any(found is None for _, found in seen) or not seen:
        return None
    ends, known, places = [], set(), iter([found[:2] for _, found in seen])
    for done, batch in batches_of(trace):
        drawn = set(itertools.islice(places, len(batch["features"][0])))
        if drawn & known:
            ends.append(done)
            known = set()
        known |= drawn
    return ends


def describe_moving(trace):
    """What is said of rates that change from one recorded step to the next; None of others."""
    rates = {}  # of each weight, one after the other
    for update in trace["updates"]:
        for n, (_, values) in declared(update).items():
            rates.setdefault(n, []).append(values["lr"])
    columns = [", ".join(map(number, row)) for row in rates.values() if len(set(row)) > 1]
    if not columns:
        return None
    names = " and ".join(sorted({s["class"] for s in trace["schedules"] if s["steps"]}))
    text = f"the learning rates change from step to step: {'; '.join(dict.fromkeys(columns))}"
    last = len(trace["updates"])
    early = {u for s in trace["schedules"] for u in s["steps"] if 0 < u < last}
    at = f"after updates {', '.join(map(str, sorted(early)))}"
    if len(early) == last - 1:
        before = any(0 in s["steps"] for s in trace["schedules"])
        at = "before each update, its first rate is left out" if before else "after each update"
    return text + (f" ({names} is stepped {at})" if names else "")
