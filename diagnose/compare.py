"""Explains a recorded trainer as the reference with changes, each proved by reproduction.

python -m diagnose.compare mine.trace --data DATASET [--page train_resnet] [--json]
"""

import importlib
import json
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from diagnose import gradients, losses, rates, replay, updates
from diagnose.finding import settle, skipped, unknown
from diagnose.pairs import Official, are_inverted, judge_inputs, judge_labels, judge_pairs, label_of
from diagnose.printed import judge_printed
from diagnose.start import judge_start
from diagnose.trace import batches_of, read_trace
from disk.errors import command_line, name_path, one_door, say, show_progress, stop_on

STAGES = ("pairs", "labels", "inputs", "start", "features", "head", "loss", "gradients")
STAGES += ("update", "printed")
PAGES = ("train_resnet", "train_vgg")
KINDS = {  # the word of a stage, the gravest first, and that of a line
    "unknown": ("not explained", "CAUSE not established:"),
    "cause": ("departs", "CAUSE"),
    "skipped": ("not judged, or in part", "NOT JUDGED"),
    "stated": ("stated below", "STATED"),
    "harmless": ("equal", "HARMLESS"),
}
DEPARTING = ("unknown", "cause", "stated")


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


class Told(NamedTuple):
    """On what an answer rests."""

    steps: int
    pairs: int  # whose photos were recognised
    worst: float | None  # largest relative difference of the features, with the changes in place
    noise: float  # what rounding explains of it
    size: str  # of the photos, where it is not the recipe's


class House(NamedTuple):
    """What the trainer is held against."""

    ranker: torch.nn.Module
    weights: list  # of its backbone, see diagnose.replay.reference_weights
    recipe: dict
    official: Official
    known: dict  # what explained the batches before: {stage: rows, or None where nothing did}


class View(NamedTuple):
    """What is known of one recorded batch before anything is replayed."""

    step: int
    batch: dict
    sides: replay.Sides
    matches: list  # the replay.Match of each side
    evidence: losses.Evidence | None  # of the loss
    factor: float | None = None  # by which the reference's loss is multiplied


def explain(trace, root, page=None):
    """(findings in the order of execution, each with the steps it holds in; Told)."""
    photo = trace["batches"][0]["passes"][0]["input"]
    pixels = None if photo is None else photo.shape[-1]
    module, ranker, weights = choose_page(page, trace, pixels or 64)
    recipe, steps = recipe_of(module), len(trace["updates"])
    house = House(ranker, weights, recipe, Official(root, trace["files"]), {})
    findings, views, seen, told = [], [], [], []
    for step, batch in batches_of(trace):
        count = len(seen)
        found, view = view_batch(trace, step, batch, house, seen)
        if view and any(is_again(view, other) for other in views):
            del seen[count:]
            text = "an update takes several passes or merges of the same photos; not replayed"
            found = [unknown("gradients", text)]
            view = None
        findings += [(step, f) for f in found]
        views += [view] if view else []
    findings += replay.judge_running(trace)
    inverted = are_inverted(seen)
    whole, views, swapped = judge_losses(views, inverted)
    moving = rates.describe_moving(trace)
    held = set().union(*map(updates.declared, trace["updates"]))
    for n, weight in enumerate(trace["weights"]):
        weight["held"] = n in held
    for step in range(steps):
        show_progress(f"replaying step {step + 1}/{steps}")
        group = [view for view in views if view.step == step]
        if group:
            findings += [(step, f) for f in explain_step(trace, group, house, moving, told)]
    show_progress("", True)
    whole += judge_figures(trace, views, findings, swapped, inverted)
    sizes = [len(view.sides.features[0]) for view in views]
    counts = list(Counter(view.step for view in views).values())
    listed = sum(split == "train" for split, _, _ in house.official.pairs.values())
    single = any(view.evidence and view.evidence.single for view in views)
    whole += judge_labels(seen, single, swapped)
    whole += judge_pairs(seen, sizes, recipe, counts, listed)
    if all(f.sentence != moving for _, f in findings):
        whole += rates.judge_schedules(trace, recipe, seen)
    findings = settle(findings) + [(step, f) for f in whole for step in range(steps)]
    known = sum(found is not None for _, found in seen)
    worst, noise = map(max, zip(*told, strict=True)) if told else (None, None)
    other = pixels not in (None, recipe["size"])
    size = f", at {pixels} pixels (the recipe has {recipe['size']})" if other else ""
    return join(findings), Told(steps, known, worst, noise, size)


def is_again(view, other):
    """Whether a batch shows the photos of another one of its update once more."""
    if view.step != other.step or view.sides.inputs is None:
        return False
    return all(map(torch.equal, view.sides.inputs, other.sides.inputs))


def view_batch(trace, step, batch, house, seen):
    """(findings on the inputs, the View of a batch or None); adds to the pairs seen."""
    sides, labels = replay.sides_of(batch), label_of(batch)
    if sides is None:
        text = "the passes of this trainer are not two equal sides"
        if batch["joined"] == "others":
            text = "what goes through the head in parts meets in one loss, which is not replayed"
        stages = (stage for stage in STAGES if stage not in ("pairs", "features", "printed"))
        rest = [skipped(stage, "not judged, since the passes are not") for stage in stages]
        return [unknown("features", text), *rest], None
    if sides.inputs is None:
        text = "features were given: no photo met a weight"
        findings, pairs = [skipped(stage, text) for stage in ("inputs", "features")], []
    else:
        findings, pairs, sides = judge_photos(sides, batch, labels, house, seen)
    matches_ = [replay.match_weights(n, trace["weights"], house.weights) for n in sides.numbers]
    said, evidence = losses.evidence_of(batch, labels, pairs)
    view = View(step, batch, sides, matches_, evidence)
    return [*findings, *said], view


def judge_losses(views, inverted):
    """(findings on the loss of all batches together, the views with its factor in each, whether it
    takes the other label).

    inverted: whether labels come in as 1 where photo_1 is preferred, which that takes back.
    """
    known = [view for view in views if view.evidence]
    if not known:
        return [], views, False
    words = "" if inverted else losses.words_of_swapped(known[0].batch)
    findings, fit = losses.judge_loss([view.evidence for view in known], words)
    factors = iter(fit.factors if fit else [None] * len(known))
    views = [v._replace(factor=next(factors) if v.evidence else None) for v in views]
    return findings, views, fit is not None and fit.swapped


def judge_figures(trace, views, findings, swapped, inverted):
    """Findings on the factors of the losses and on what the trainer prints.

    findings: of the steps; swapped, inverted: see judge_losses.
    """
    back = {step for step, f in findings if f.stage == "gradients" and f.kind == "harmless"}
    left = [view for view in views if view.factor and view.step not in back]
    groups = [trace["updates"][view.step]["batches"] for view in left]
    sizes = [len(view.evidence.label) for view in left]
    found = losses.judge_factors([view.factor for view in left], sizes, groups)
    facts, whole = [], []  # whole: of the losses without their factors, as many print them
    for view in views:
        if view.evidence:
            loss, label = float(view.evidence.loss), view.evidence.label
            right = (view.evidence.logits.argmax(1) == label).double().mean()
            turned = swapped and (inverted or losses.is_turned(view))
            fact = {"accuracy": float(1 - right if turned else right), "pairs": len(label)}
            without = loss / (view.factor or 1)
            facts.append(fact | {"loss": without if view.step in back else loss})
            whole.append(fact | {"loss": without})
    ways = [judge_printed(trace["printed"], known) for known in (facts, whole)]
    return found + min(ways, key=len)


def explain_step(trace, group, house, moving, told):
    """Findings on one update and its batches; adds (difference, noise) of the features to told.

    moving: what is said of rates that change from step to step.
    """
    step, matches_ = group[0].step, group[-1].matches
    update, values = trace["updates"][step], replay.weights_at(trace, step)
    findings = judge_start(group[0].batch, values, trace["weights"]) if step == 0 else []
    for view in group:
        findings += judge_view(trace, view, values, house, told)
    roles = updates.trainable(trace, matches_, group[-1].batch, update)
    for n, weight in enumerate(trace["weights"]):
        names = (match.names.get(n) for match in matches_)
        weight["name"] = next(filter(None, names), roles.get(n, "?"))
    earlier = trace["updates"][step - 1] if step else None
    findings += gradients.judge_zeroed(group, update, earlier, roles, trace["weights"])
    momentum, decay = house.recipe["momentum"], house.recipe["weight_decay"]
    update["history"] = updates.history_of(trace["updates"][:step], momentum, decay)
    last = group[-1].batch["backwards"][-1]["after"]
    findings += gradients.judge_step_gradients(update, last, roles, group[-1].factor)
    findings += updates.judge_update(update, roles, house.recipe, trace["weights"], moving)
    findings += updates.judge_state(update, earlier, roles)
    findings += updates.judge_before(update, earlier, roles)
    return findings + updates.judge_afterwards(update, roles)


def judge_view(trace, view, values, house, told):
    """Findings on one batch, from its passes to the gradients of its weights."""
    batch, sides = view.batch, view.sides
    kept = [values[n] for n in view.matches[0].names] + sides.features
    rounding = replay.rounding_of(trace, view.step, kept)
    findings, backbones, setting = [], None, None
    if sides.inputs is not None:
        findings, backbones, setting, about = judge_passes(trace, view, values, house, rounding)
        told += [about] if setting is not None else []
    found, way = replay.judge_head(sides, batch, values, rounding)
    findings += found + gradients.judge_way(view, way, rounding)
    update = trace["updates"][view.step]
    computed = {n for n, weight in enumerate(trace["weights"]) if weight["computed"]}
    return findings + gradients.judge_contribution(
        view, backbones, setting, rounding, update, computed
    )


def judge_photos(sides, batch, labels, house, seen):
    """(findings on the inputs, official pairs of the batch, its sides, photo_1 first); adds to the
    pairs seen.

    Where photo_2 goes through the backbone first and the difference is taken the other way round,
    that is the reference, and nothing is exchanged.
    """
    findings, paths = judge_inputs(sides, house.official)
    root = labels[0].tolist() if labels else [None] * len(paths)
    proved = [a is not None and b is not None for a, b in paths]
    sure = [path for path, known in zip(paths, proved, strict=True) if known]
    pairs = [house.official.find(a, b) for a, b in sure]
    if replay.is_reversed(sides, batch) and all(pair and pair[3] for pair in pairs):
        sides, pairs = sides.turned(), [house.official.find(b, a) for a, b in sure]
    known = [y for y, sure in zip(root, proved, strict=False) if sure]
    seen += list(zip(known, pairs, strict=False))
    return findings, pairs if all(proved) else [], sides


def judge_passes(trace, view, values, house, rounding):
    """(findings on the features, the two backbones, setting that reproduces them, (difference,
    noise) of the features).
    """
    batch, sides, matches_ = view.batch, view.sides, view.matches
    findings, known = [], house.known.get("features", [])
    same = matches_[0].names.keys() == matches_[1].names.keys()
    backbones = [replay.load_backbone(house.ranker, match, values) for match in matches_]
    if same:
        backbones[1] = backbones[0]
    else:
        findings.append(replay.judge_own(matches_, trace["weights"]))
    if known is not None:
        known = [*known, *replay.still_rows(batch, matches_[0])]
        known += replay.linear_rows(trace["weights"], matches_[0], values)
    made, setting, worst, room = replay.judge_features(sides, batch, backbones, rounding, known)
    row = ([f.sentence for f in made], setting)
    again = setting is not None and "masks" not in setting  # those of a dropout are of this batch
    house.known["features"] = None if setting is None else [row] * again
    if setting is None and any(record["autocast"] for record in batch["passes"]):
        text = "the passes ran under autocast, which is not replayed; record without --as-is"
        made = [skipped("features", text)]
    if setting is not None and matches_[0].missing:
        findings.append(replay.judge_missing(matches_[0]))
    findings += made
    return findings + replay.judge_momentum(batch, matches_[0]), backbones, setting, (worst, room)


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
    """Prints the stages, the changes in the order of execution, and the answer."""
    for stage in STAGES:
        kinds = {f.kind for f, _ in findings if f.stage == stage}
        word = next((words[0] for kind, words in KINDS.items() if kind in kinds), "equal")
        seen = f" ({on.pairs} pairs seen)" if stage == "labels" else ""
        say(f"{stage:10} {word}{seen}", sys.stdout)
    for f, at in findings:
        told = [f.evidence] * bool(f.evidence) + [f"to {f.gap:.0e}"] * (f.gap > 0)
        extra = f"  [{', '.join(told)}]" if told else ""
        where = f"  (in step{'s' * (len(at) > 1)} {', '.join(str(step + 1) for step in at)})"
        where *= len(at) < on.steps and f.stage != "start"
        say(f"{KINDS[f.kind][1]} {f.stage}: {f.sentence}{extra}{where}", sys.stdout)
    say(answer(findings, on), sys.stdout)


def answer(findings, on):
    """What the findings come to, in one sentence."""
    kinds = Counter(f.kind for f, _ in findings)
    steps = "step" if on.steps == 1 else f"{on.steps} steps"
    near = f", to {on.worst:.0e} (rounding: up to {on.noise:.0e})" if on.worst is not None else ""
    changes = "this change" if kinds["cause"] == 1 else f"these {kinds['cause']} changes"
    part = on.size + ", in all that was judged" * bool(kinds["skipped"])
    if kinds["unknown"]:
        stages = " and ".join(dict.fromkeys(f.stage for f, _ in findings if f.kind == "unknown"))
        if {f.stage for f, _ in findings if f.kind in ("unknown", "skipped")} >= set(STAGES):
            return f"Not explained: {stages}. Nothing else was judged."
        text = f"Not explained: {stages}. Elsewhere your trainer is the reference{part}"
        return text + (f", with {changes}." if kinds["cause"] else ".")
    if kinds["cause"]:
        text = f"Your trainer is the reference with {changes}{part}; with that it reproduces your "
        return text + f"first {steps}, each stage from your own values before it{near}."
    text = f"EQUAL in {on.steps} step{'s' * (on.steps > 1)}{part}{near}"
    return text + ", but for what is stated" * bool(kinds["stated"])


@one_door
def main(argv=None):
    """Explains after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("trace", type=Path, help="what record.py wrote")
    parser.add_argument("--data", required=True, help="folder of the dataset")
    parser.add_argument("--page", choices=PAGES, help="the reference; found out if not given")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    args = parser.parse_args(argv)
    trace = read_trace(args.trace)
    with stop_on(__file__, f"{args.trace}: cannot be replayed", Exception), name_path(__file__):
        findings, told = explain(trace, args.data, args.page)
    if args.json:
        rows = [f._asdict() | {"steps": at} for f, at in findings]
        say(json.dumps(rows, indent=1), sys.stdout)
    else:
        print_report(findings, told)
    sys.exit(int(any(f.kind in DEPARTING for f, _ in findings)))


if __name__ == "__main__":
    main()
