"""Explains a recorded trainer as the reference with changes, each proved by reproduction.

python -m diagnose.compare mine.trace --data DATASET [--page train_resnet] [--json]
"""

import importlib
import itertools
import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import torch

from diagnose import replay, updates
from diagnose.finding import cause, harmless, skipped, stated, unknown
from diagnose.pairs import Official, judge_inputs, judge_labels, judge_pairs, label_of
from diagnose.printed import judge_printed
from diagnose.replay import number
from diagnose.start import judge_start
from disk.errors import command_line, one_door, say, show_progress, stop
from disk.tensors import load_tensors

STAGES = ("pairs", "labels", "inputs", "start", "features", "head", "loss", "gradients")
STAGES += ("update", "printed")
PAGES = ("train_resnet", "train_vgg")
# Sentences of losses with a value that is solved for; it must be the same in every step.
SOLVED = (
    "label smoothing of",
    "focal loss",
    "class weights",
    "a hinge",
    "the logits are mult",
    "the loss is mult",
)
# What a schedule is told by, of its values.
TELLING = ("step_size", "gamma", "T_max", "eta_min", "milestones", "total_steps", "max_lr")
TELLING += ("factor", "start_factor", "total_iters", "warmup", "power")
KEYS = "version torch double weights batches updates printed files schedules"


def read_trace(path):
    """A trace of record.py; ends the program where it is none, or holds no update."""
    trace = load_tensors(path)
    if not isinstance(trace, dict) or set(trace) != set(KEYS.split()):
        stop(__file__, f"{path}: not a trace of record.py")
    if not trace["updates"] or not trace["batches"]:
        stop(__file__, f"{path}: no update was recorded: no pair of photos met a loss")
    return trace


def recipe_of(page):
    return {key: row[0] for key, row in page.RECIPE.items()}


def choose_page(name, trace, size):
    """(page, its ranker, its weights) that the recorded weights fit best."""
    best = None
    for page in [name] if name else PAGES:
        module = importlib.import_module(page)
        args = Namespace(**(recipe_of(module) | {"weights": "none", "size": size}))
        ranker = module.build(args).double()
        reference = replay.reference_weights(ranker, size)
        known = {k for k, _ in reference}
        share = sum(replay.key(w) in known for w in trace["weights"]) / len(reference)
        if best is None or share > best[0]:
            best = share, module, ranker, reference
    return best[1:]


# What objects declare


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
    batches = iter(trace["batches"])
    for done, update in enumerate(trace["updates"]):
        for batch in itertools.islice(batches, update["batches"]):
            drawn = set(itertools.islice(places, len(batch["features"][0])))
            if drawn & known:
                ends.append(done)
                known = set()
            known |= drawn
    return ends


def join_rates(trace, findings):
    """(findings without those on single rates, one on rates that change from step to step)."""
    rates = [
        [
            group["values"]["lr"]
            for optimizer in update["optimizers"]
            for group in optimizer["groups"]
        ]
        for update in trace["updates"]
    ]
    about = [
        f
        for _, f in findings
        if f.sentence.startswith(("other learning", "one learning", "the two learning"))
    ]
    if all(row == rates[0] for row in rates) or not about:
        return findings, []
    columns = [", ".join(map(number, column)) for column in zip(*rates, strict=True)]
    names = " and ".join(sorted({s["class"] for s in trace["schedules"] if s["steps"]}))
    text = f"the learning rates change from step to step: {'; '.join(dict.fromkeys(columns))}"
    text += f" ({names} is stepped after each update)" if names else ""
    kept = [(step, f) for step, f in findings if f not in about]
    return kept, [cause("update", text)]


# The whole


class Told(NamedTuple):
    """On what an answer rests."""

    steps: int
    pairs: int  # whose photos were recognised
    worst: float  # largest relative difference of the features, with the changes in place
    noise: float  # what rounding explains of it


class House(NamedTuple):
    """What the trainer is held against."""

    ranker: torch.nn.Module
    weights: list  # of its backbone, see diagnose.replay.reference_weights
    recipe: dict
    official: Official
    known: dict  # what explained the batches before: {stage: rows, or None where nothing did}


def explain(trace, root, page=None):
    """(findings in the order of execution, each with the steps it holds in; Told)."""
    batches, start = trace["batches"], 0
    photo = batches[0]["passes"][0]["input"]
    size = 64 if photo is None else photo.shape[-1]
    module, ranker, weights = choose_page(page, trace, size)
    recipe = recipe_of(module)
    house = House(ranker, weights, recipe, Official(root, trace["files"]), {})
    findings, seen, facts = [], [], []
    for step, update in enumerate(trace["updates"]):
        show_progress(f"replaying step {step + 1}/{len(trace['updates'])}")
        group = batches[start : start + update["batches"]]
        start += update["batches"]
        findings += [(step, f) for f in explain_step(trace, step, group, house, seen, facts)]
    show_progress("", True)
    sizes = [len(b["features"][0]) for b in batches]
    steps = [u["batches"] for u in trace["updates"]]
    whole = judge_labels(seen) + judge_pairs(seen, sizes, recipe, steps)
    whole += judge_printed(trace["printed"], facts)
    findings, moving = join_rates(trace, updates.join_scales(one_for_all(findings, len(steps))))
    whole += moving or judge_schedules(trace, recipe, seen)
    findings += [(step, f) for f in whole for step in range(len(steps))]
    worst = max((f["gap"] for f in facts), default=math.inf)
    known = sum(found is not None for _, found in seen)
    return join(findings), Told(
        len(steps), known, worst, max((f["noise"] for f in facts), default=0)
    )


def one_for_all(findings, steps):
    """The findings with a value that was solved in single steps as unknown where it is not one.

    A value that fits one batch and not the next describes that batch and explains nothing.
    """
    for stage, heads in (("loss", SOLVED), ("inputs", ("normalised with mean",))):
        told = [(step, f) for step, f in findings if f.stage == stage and f.kind == "cause"]
        solved = [(step, f) for step, f in told if f.sentence.startswith(heads)]
        values = {f.sentence for _, f in solved}
        if len(values) > 1 or (values and len({step for step, _ in solved}) < steps):
            shown = "; ".join(sorted(values)[:3])
            text = f"what fits one step does not fit the next: {shown}"
            findings = [row for row in findings if row not in solved]
            findings += [(step, unknown(stage, text)) for step in range(steps)]
    return findings


def explain_step(trace, step, group, house, seen, facts):
    """Findings on one update and its batches; adds to the pairs seen and to the facts."""
    update, values, findings = trace["updates"][step], replay.weights_at(trace, step), []
    held, before = updates.declared(update), len(facts)
    for place, batch in enumerate(group):
        sides = replay.sides_of(batch)
        if sides is None:
            text = "the passes of this trainer are not two equal sides"
            return [unknown("features", text), *skip_all("since the passes are not")]
        matches_ = [replay.match_weights(n, trace["weights"], house.weights) for n in sides.numbers]
        if step == 0 and place == 0:
            findings += judge_start(batch, values)
        findings += judge_batch(trace, step, batch, sides, matches_, values, house, seen, facts)
        findings += judge_zeroed(batch, place, step, held)
    roles = updates.trainable(trace, matches_, batch, update)
    for n, weight in enumerate(trace["weights"]):
        names = (match.names.get(n) for match in matches_)
        weight["name"] = next(filter(None, names), roles.get(n, "?"))
    recipe = house.recipe
    update["history"] = updates.history_of(
        trace["updates"][:step], recipe["momentum"], recipe["weight_decay"]
    )
    factor = facts[-1]["factor"] if len(facts) > before else None
    if len(group) > 1 and factor and abs(factor * len(group) - 1) < 1e-4:
        text = f"the loss is divided by the {len(group)} batches of an update"
        findings = [
            harmless("loss", text) if f.sentence.startswith("the loss is multiplied") else f
            for f in findings
        ]
    last = group[-1]["backwards"][-1]["after"]
    between = updates.judge_step_gradients(update, last, roles, factor)
    if any(f.kind == "harmless" for f in between):
        findings = [f for f in findings if not f.sentence.startswith("the loss is multiplied")]
        for fact in facts[before:]:
            fact["loss"] /= factor
    findings += between
    findings += updates.judge_update(update, roles, recipe, trace["weights"])
    return findings + updates.judge_afterwards(update, roles)


def skip_all(why):
    """That no stage but the features is judged."""
    stages = (stage for stage in STAGES if stage not in ("pairs", "features", "printed"))
    return [skipped(stage, f"not judged, {why}") for stage in stages]


def judge_batch(trace, step, batch, sides, matches_, values, house, seen, facts):
    """Findings on one batch, from its photos to the gradients of its weights."""
    kept = [values[n] for n in matches_[0].names] + sides.features
    rounding, labels = replay.rounding_of(trace, step, kept), label_of(batch)
    single, about = rounding == 1, {"gap": 0.0, "noise": 0.0}
    if sides.inputs is None:
        text = "features were given: no photo met a weight"
        findings, pairs, backbones, setting = [skipped("inputs", text)], [], None, None
        findings.append(skipped("features", text))
    else:
        findings, pairs = judge_photos(sides, labels, house, seen)
        found, backbones, setting, about = judge_passes(
            batch, sides, matches_, values, house, rounding
        )
        findings += found
    findings += replay.judge_head(sides, batch, values, rounding)
    findings += judge_logits(batch, labels, pairs, single, facts, about)
    names, update = matches_[0].names | matches_[1].names, trace["updates"][step]
    return findings + judge_contribution(
        batch, sides, backbones, setting, matches_, rounding, update, names
    )


def judge_photos(sides, labels, house, seen):
    """(findings on the inputs, official pairs of the batch); adds to the pairs seen."""
    findings, paths = judge_inputs(sides, house.official)
    root = labels[0].tolist() if labels else [None] * len(paths)
    proved = [a is not None and b is not None for a, b in paths]
    pairs = [house.official.find(a, b) for (a, b), sure in zip(paths, proved, strict=True) if sure]
    known = [y for y, sure in zip(root, proved, strict=False) if sure]
    seen += list(zip(known, pairs, strict=False))
    pairs = pairs if all(proved) else []
    return findings, pairs


def judge_passes(batch, sides, matches_, values, house, rounding):
    """(findings on the features, the two backbones, setting that reproduces them, how closely)."""
    findings, known = [], house.known.get("features", [])
    same = matches_[0].names.keys() == matches_[1].names.keys()
    backbones = [replay.load_backbone(house.ranker, match, values) for match in matches_]
    if same:
        backbones[1] = backbones[0]
    else:
        text = "the two photos go through two backbones with weights of their own"
        findings.append(cause("features", text))
    if known is not None:
        known = [*known, *replay.still_rows(batch, matches_[0])]
    made, setting, worst, room = replay.judge_features(sides, batch, backbones, rounding, known)
    row = ([f.sentence for f in made], setting)
    house.known["features"] = None if setting is None else [row]
    if setting is None and any(record["autocast"] for record in batch["passes"]):
        text = "the passes ran under autocast, which is not replayed; record without --as-is"
        made = [skipped("features", text)]
    if setting is not None and matches_[0].missing:
        parts = ", ".join(sorted({name.split(".")[0] for name in matches_[0].missing}))
        findings.append(cause("features", f"the backbone ends before {parts}"))
    findings += made
    if setting is not None and same:
        findings += replay.judge_momentum(batch, backbones, matches_[0], sides, setting)
    return findings, backbones, setting, {"gap": worst, "noise": room}


def judge_zeroed(batch, place, step, held):
    """Findings on gradients that were there before a batch's first backward.

    held: the weights in an optimizer; zero_grad of an optimizer leaves the others.
    """
    before = [g for n, g in enumerate(batch["backwards"][0]["before"]) if n in held]
    if place == 0 and step > 0 and any(g is not None and g["max"] > 0 for g in before):
        return [cause("gradients", "gradients are not zeroed between updates")]
    return []


def logits_of(batch):
    """The logits [B, 2] behind the last layer of the head, and the gradients there, or None."""
    linears = [i for i, entry in enumerate(batch["head"]) if entry["op"] == "linear"]
    if not linears or batch["head"][linears[-1]]["output"].shape[-1] != 2:
        return None
    place = linears[-1]
    return batch["head"][place]["output"], batch["gradients"].get(f"output_{place}", [])


def shares_of(pairs):
    """[B], double: the official share of the people who prefer photo_2; None where unknown."""
    if not pairs or None in pairs:
        return None
    shares = [
        pair["preference"] if turned else 1 - pair["preference"] for *_, turned, pair in pairs
    ]
    return torch.tensor(shares, dtype=torch.float64)


def judge_logits(batch, labels, pairs, single, facts, about):
    """Findings on the loss, from the trainer's own logits; adds a fact: accuracy, loss, about."""
    found = logits_of(batch)
    if found is None:
        text = "the head does not end in two logits; the loss is not judged"
        return [unknown("loss", text)]
    logits, slopes = found
    if not slopes or (labels is None and (not pairs or None in pairs)):
        text = "no labels were seen; the loss is not judged"
        return [unknown("loss", text)]
    label = labels[0] if labels else torch.tensor([p[2] for p in pairs])
    loss, slope = batch["backwards"][0]["loss"], slopes[0].double()
    shares = shares_of(pairs)
    findings, factor = replay.judge_loss(batch, logits, label, shares, loss, slope, single)
    right = float((logits.argmax(1) == label).double().mean())
    if any("exchanged" in f.sentence for f in findings) and replay.exchanged(batch):
        right = 1 - right
    fact = {"accuracy": right, "loss": float(loss), "pairs": len(label)}
    facts.append(fact | {"factor": factor} | about)
    return findings


def judge_contribution(batch, sides, backbones, setting, matches_, rounding, update, names):
    """Findings on the gradient that the first backward gave to the weights.

    names: of the reference's weights, by number, for what no gradient reaches.
    """
    single = rounding == 1
    findings, frozen = [], {n for n, on in enumerate(update["requires_grad"]) if not on}
    added = [replay.contribution(backward) for backward in batch["backwards"]]
    if len(added) > 1:
        text = f"backward runs {len(added)} times on one loss, the gradients add up"
        findings.append(cause("gradients", text))
        if any(
            gap_ > 1e-3 for a in added[1:] for gap_, _ in replay.compare_gradients(added[0], a)[0]
        ):
            text = "one backward of a loss gives another gradient than the next"
            findings.append(unknown("gradients", text))
    none = [i + 1 for i, g in enumerate(sides.gradients) if not g and sides.inputs is not None]
    if len(none) == 1:
        text = f"features_{none[0]} is detached: no gradient goes through that photo"
        findings.append(cause("gradients", text))
    elif len(none) == 2 and not frozen >= matches_[0].names.keys():
        text = "the features carry no gradient (no_grad or detach): the backbone gets none"
        findings.append(cause("gradients", text))
    made = replay.head_gradients(batch, 0)
    rooms = dict.fromkeys(made, replay.BACKWARD[single][1])
    findings += name_gradients(made, added[0], rooms, "head", False, frozen, names)
    if sides.inputs is None:
        return findings
    if setting is None:
        text = "those of the backbone are not judged, since its features are not reproduced"
        return [*findings, skipped("gradients", text)]
    if len(none) == 2:
        return findings
    both = [
        replay.backbone_gradients(backbones, sides, setting, matches_, 0, dtype)
        for dtype in (torch.float32, torch.float64)
    ]
    rooms = {n: replay.noise(v, both[1][n], rounding, replay.BACKWARD) for n, v in both[0].items()}
    return findings + name_gradients(
        both[not single], added[0], rooms, "backbone", single, frozen, names
    )


def name_gradients(made, added, rooms, part, by_median, frozen, names):
    """Findings on the gradients of the head's or the backbone's weights.

    by_median: whether half of the tensors must depart, as in single where one ReLU turns over.
    """
    rows, absent = replay.compare_gradients(made, added, rooms)
    absent = sorted(set(absent) - frozen)
    findings = []
    if rows and rows[len(rows) // 2 if by_median else 0][0] > 1:
        behind = "logits" if part == "head" else "features"
        text = f"the {part}'s gradients are not those of its {behind}"
        seen = f"{sum(gap_ > 1 for gap_, _ in rows)} of {len(rows)} tensors"
        findings.append(unknown("gradients", text, seen))
    if absent and rows:
        which = ", ".join(dict.fromkeys(names.get(n, "the head").split(".")[0] for n in absent))
        text = f"no gradient reaches {which}, which no one froze (detached, or under no_grad)"
        findings.append(cause("gradients", text))
    return findings


def join(findings):
    """Findings of one sentence once, in the order of execution, with the steps they hold in."""
    joined = {}
    for step, f in findings:
        known = joined.setdefault((f.stage, f.kind, stem(f.sentence)), (f, []))
        known[1].append(step)
    rows = sorted(joined.values(), key=lambda row: STAGES.index(row[0].stage))
    return [(f, sorted(set(steps))) for f, steps in rows]


def stem(sentence):
    """A sentence without the counts that differ from step to step."""
    return sentence.split(" (")[0]


def print_report(findings, on):
    """The stages, the changes in the order of execution, and the answer; the exit code."""
    for stage in STAGES:
        kinds = {f.kind for f, _ in findings if f.stage == stage}
        words = {
            "unknown": "not explained",
            "cause": "departs",
            "skipped": "not judged, or in part",
            "stated": "stated below",
        }
        word = next((text for kind, text in words.items() if kind in kinds), "equal")
        seen = f" ({on.pairs} pairs seen)" if stage == "labels" else ""
        say(f"{stage:10} {word}{seen}", sys.stdout)
    words = {
        "cause": "CAUSE",
        "harmless": "HARMLESS",
        "stated": "STATED",
        "unknown": "CAUSE not established:",
        "skipped": "NOT JUDGED",
    }
    for f, at in findings:
        if f.kind in words:
            told = [f.evidence] * bool(f.evidence) + [f"to {f.gap:.0e}"] * (f.gap > 0)
            extra = f"  [{', '.join(told)}]" if told else ""
            where = "" if len(at) == on.steps or f.kind != "cause" else f"  (step {at[0]})"
            say(f"{words[f.kind]} {f.stage}: {f.sentence}{extra}{where}", sys.stdout)
    causes = [f for f, _ in findings if f.kind == "cause"]
    unknown = [f for f, _ in findings if f.kind == "unknown"]
    stated = [f for f, _ in findings if f.kind == "stated"]
    changes = "this change" if len(causes) == 1 else f"these {len(causes)} changes"
    part = ", in all that was judged" if any(f.kind == "skipped" for f, _ in findings) else ""
    if unknown:
        stages = " and ".join(dict.fromkeys(f.stage for f in unknown))
        text = f"Your trainer is not explained at {stages}; elsewhere{part} it is the reference"
        text += f" with {changes}." if causes else "."
    elif causes:
        text = f"Your trainer is the reference with {changes}{part}; with that it reproduces your "
        text += f"first {on.steps} steps, each stage from your own values before it, to "
        text += f"{on.worst:.0e} (rounding: up to {on.noise:.0e})."
    else:
        text = (
            f"EQUAL in {on.steps} steps{part}, to {on.worst:.0e} (rounding: up to {on.noise:.0e})"
        )
        text += ", but for what is stated" if stated else ""
    say(text, sys.stdout)
    return 1 if causes or unknown or stated else 0


@one_door
def main(argv=None):
    """Explains after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("trace", type=Path, help="what record.py wrote")
    parser.add_argument("--data", required=True, help="folder of the dataset")
    parser.add_argument("--page", choices=PAGES, help="the reference; found out if not given")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    args = parser.parse_args(argv)
    findings, told = explain(read_trace(args.trace), args.data, args.page)
    if args.json:
        rows = [f._asdict() | {"steps": at} for f, at in findings]
        say(json.dumps(rows, indent=1), sys.stdout)
        sys.exit(int(any(f.kind in ("cause", "unknown", "stated") for f, _ in findings)))
    sys.exit(print_report(findings, told))


if __name__ == "__main__":
    main()
