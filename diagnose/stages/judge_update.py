"""Which rows of the stage `update` a trainer's optimizer steps are."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from diagnose.explain import explain, findings_of
from diagnose.numerics import estimated, is_close
from diagnose.parameters import describe, layer_of
from diagnose.related import TOLD, sampled
from diagnose.relation import relation_of
from diagnose.stages.update import (
    AFTERWARDS,
    BY_HAND,
    BY_HAND_OTHER,
    CHANGED_AFTER,
    CHANGED_BEFORE,
    COMPUTED,
    FROZEN,
    FROZEN_STEPPED,
    IN_NO_OPTIMIZER,
    IN_OTHER_STEPS,
    MOMENTUM_RESET,
    NOT_REPRODUCED,
    ONE_OF,
    ONE_RATE,
    OPTIMIZER,
    OTHER_CLASS,
    RATES,
    RULE,
    STATE_CHANGED,
    STATE_LOADED,
    SWAPPED_RATES,
    TIMES,
)
from diagnose.stepping import declared, is_equal, misses, replay, state_of, stepped
from diagnose.trace import Sample


def judge_update(update, parameters, rules, history, moving):
    """Findings on one update.

    rules: {role: (class, values)} of the reference's optimizer; history: see stepped; moving: the
    finding on rates that change from step to step, or None.
    """
    own = declared(update)
    reference = {n: rules[parameter.role] for n, parameter in parameters.items()}
    if not update.optimizers:
        same = is_equal(replay(update, reference, history), update)
        return [(BY_HAND if same else BY_HAND_OTHER).found()]
    found = judge_absent(update, parameters, own)
    most = max(o.times for o in update.optimizers)
    if most > 1:
        found.append(TIMES.found(times=most))
    present = {n: rule for n, rule in reference.items() if n in own}
    moved = {n: rule for n, rule in present.items() if not is_still(n, update)}
    if not moved or is_equal(replay(update, moved, history), update):
        return found
    classes = tuple(sorted({own[n][0] for n in moved}))
    strange = [name for name in classes if not hasattr(torch.optim, name)]
    if strange:
        return [*found, OTHER_CLASS.found(optimizer=strange[0])]
    mine = {n: own[n] for n in moved}
    made = replay(update, mine, {})
    errors = misses(made, update)
    if max(errors.values()) > 1:
        lost = [n for n, error in errors.items() if error > 1]
        told = {"count": len(lost), "total": len(errors)}
        told["parameters"] = describe(lost, parameters) if len(lost) < len(errors) else None
        derived = {o.own for o in update.optimizers if o.own != o.class_}
        told["own"] = tuple(sorted(derived)) or None
        told["relation"] = relation_of([step_of(made[n], n, update) for n in lost], TOLD)
        return [*found, NOT_REPRODUCED.found(optimizers=classes, **told)]
    if classes == ("SGD",) and not is_equal(replay(update, mine, history), update):
        found.append(MOMENTUM_RESET.found())
    if classes != ("SGD",):
        return [*found, name_optimizer(classes, mine)]
    found += name_rates(update, mine, reference, parameters, history, moving)
    return found + name_rules(update, mine, reference, parameters, history)


def step_of(made, n, update):
    """The Related of the step of a weight, after - before; made: what it should be after."""
    before, after = (moment[n].values for moment in (update.before, update.after))
    return sampled(made - before, after - before, update.weights[n].shape)


def judge_computed(weights):
    """The finding that weights which a parametrization computes were not judged, if there are."""
    return [COMPUTED.found()] if any(weight.computed for weight in weights) else []


def judge_absent(update, parameters, own):
    """Findings on weights that no optimizer steps, or that are frozen."""
    others = sum(group.weights.count(-1) for o in update.optimizers for group in o.groups)
    fates = {}
    for n, parameter in parameters.items():
        learns = update.requires_grad[n]
        if is_still(n, update) or (n not in own and not learns):
            fates.setdefault(FROZEN, []).append(n)
        elif not learns:
            fates.setdefault(FROZEN_STEPPED, []).append(n)
        elif n not in own:
            fates.setdefault(IN_OTHER_STEPS if parameter.held else IN_NO_OPTIMIZER, []).append(n)
    return [
        row.found(
            parameters=describe(numbers, parameters),
            others=others or None,
            moving=moving_layers([parameters[n] for n in numbers]),
        )
        for row, numbers in fates.items()
    ]


def moving_layers(frozen):
    """The parts of the backbone whose BatchNorm layers, of some parameters, are in training mode;
    None where none is.
    """
    layers = dict.fromkeys(layer_of(parameter) for parameter in frozen if parameter.trains)
    return tuple(layers) or None


def is_still(n, update):
    """Whether an optimizer leaves a weight alone: it is frozen and has no gradient."""
    return not update.requires_grad[n] and update.gradients[n] is None


def name_optimizer(classes, mine):
    """The finding on optimizers of other classes than the reference's; mine: their rules."""
    decays = sorted({values.get("weight_decay") for _, values in mine.values()} - {None, 0})
    rates = tuple(sorted({estimated(values["lr"]) for _, values in mine.values()}))
    return OPTIMIZER.found(optimizers=classes, rates=rates, weight_decay=tuple(decays) or None)


def name_rules(update, mine, reference, parameters, history):
    """Findings on each value of SGD that matters to the step, but for the learning rate."""
    found = []
    for key, row in RULE.items():
        usual = reference[next(iter(mine))][1].get(key, 0)
        other = {n: values[key] for n, (_, values) in mine.items() if values.get(key, 0) != usual}
        restored = {n: ("SGD", mine[n][1] | {key: usual}) for n in other}
        errors = misses(replay(update, restored, history), update)
        values = sorted({other[n] for n, error in errors.items() if error > 1})
        if values:
            part = None if len(other) == len(mine) else describe(list(other), parameters)
            found.append(row.found(**{key: tuple(values)}, reference=usual, parameters=part))
    return found


def name_rates(update, mine, reference, parameters, history, moving):
    """Findings on the learning rates."""
    usual = {parameter.role: reference[n][1]["lr"] for n, parameter in parameters.items()}
    rates = {n: values["lr"] for n, (_, values) in mine.items()}
    other = {
        n: rate for n, rate in rates.items()
        if not math.isclose(rate, usual[parameters[n].role], rel_tol=1e-9)
    }  # fmt: skip
    restored = {n: ("SGD", mine[n][1] | {"lr": usual[parameters[n].role]}) for n in other}
    if not other or is_equal(replay(update, restored, history), update):
        return []
    if moving:
        return [moving]
    own = {role: {r for n, r in rates.items() if parameters[n].role == role} for role in usual}
    single = {role: min(those) for role, those in own.items() if len(those) == 1}
    if len(single) == 2 and single["backbone"] == single["head"]:
        return [ONE_RATE.found(lr=single["head"], **usual)]
    if len(single) == 2 and single == {"backbone": usual["head"], "head": usual["backbone"]}:
        return [SWAPPED_RATES.found(lr=single, **usual)]
    groups = {}
    for rate in sorted(set(other.values())):
        groups[describe([n for n in other if other[n] == rate], parameters)] = rate
    return [RATES.found(lr=groups, backbone=usual.get("backbone"), head=usual.get("head"))]


def judge_state(update, earlier, parameters):
    """Findings on what an optimizer carries from the update before to this one."""
    state = {}  # of the tensors alone
    for n, entries in state_of(update).items():
        tensors = {k: v for k, v in entries.items() if isinstance(v, Sample)}
        state |= {n: tensors} if n in parameters and tensors else {}
    if earlier is None:
        filled = (kept.max > 0 for tensors in state.values() for kept in tensors.values())
        return [STATE_LOADED.found()] if any(filled) else []
    rules = {n: rule for n, rule in declared(earlier).items() if n in state}
    if any(not hasattr(torch.optim, name) for name, _ in rules.values()):
        return []
    changed = {}
    for n, _, made in stepped(earlier, rules, {}):
        for k, kept in state[n].items():
            if k not in made or not is_close(made[k], kept.values):
                changed.setdefault(k, []).append(n)
    if changed and not is_equal(replay(earlier, rules, {}), earlier):
        return []  # its step is not made from these gradients, so neither is what it leaves
    return [
        STATE_CHANGED.found(
            entry=k, parameters=describe(some, parameters) if len(some) < len(rules) else None
        )
        for k, some in list(changed.items())[:1]
    ]


def judge_before(update, earlier, parameters):
    """Findings on weights that change between the passes and the update."""
    if earlier is None or earlier.next is None:
        return []
    pairs = [(earlier.next[n].values, update.before[n].values) for n in parameters]
    return [] if all(torch.equal(a, b) for a, b in pairs) else [CHANGED_BEFORE.found()]


@dataclass(frozen=True, eq=False)
class Behind:
    """The weights around one optimizer step; see diagnose.explain.Replay."""

    step: int
    before: torch.Tensor  # [N], of all weights, float64
    after: torch.Tensor
    later: torch.Tensor  # at the next step
    is_single: bool  # recorded in float32
    parameters: dict  # {number: Parameter}
    each: list  # of each parameter, its part of these
    shapes: list  # of each parameter, that of all of it
    whole: Callable | None  # gives all weights at the next step, by number; None where none is
    shown: tuple = ()

    @property
    def size(self):
        """How many recorded numbers are compared."""
        return self.later.numel()

    def error(self, changes):
        """(0 where some findings give the weights of the next step, else inf; 0)."""
        made = self.after
        for finding in changes:
            made = finding.row.act(self, finding.values)
        same = torch.equal(made, self.later)
        reached = same or (bool(changes) and self.is_reached(made))
        return (0.0 if reached else math.inf), 0.0

    def is_reached(self, made):
        """Whether the weights of the next step are those made.

        In float32 to a few units in the last place, where a hundred elements moved by far more.
        """
        if not self.is_single:
            return is_close(made, self.later)
        largest = self.after.abs().maximum(self.later.abs())
        tolerance = 4 * torch.finfo(torch.float32).eps * largest
        moved = int(((self.later - self.after).abs() > tolerance).sum())
        return bool(((made - self.later).abs() <= tolerance).all() and moved > 100)


def judge_afterwards(steps):
    """[(step, finding)] on weights that change between an optimizer step and the next batch.

    steps: Behind of each that has a next one.
    """
    found = explain(steps, [[()], [(row,) for row in AFTERWARDS]])
    moved = [step for step in steps if step.error(())[0]]
    if found.fits:
        told = findings_of(found, ONE_OF)
        return [(step.step, finding) for step in moved for finding in told]
    return [(step.step, describe_changed(step, steps)) for step in moved]


def describe_changed(step, steps):
    """The finding on weights that change between an optimizer step and the next batch."""
    sizes = [len(values) for values in step.each]
    parts = zip(step.parameters, step.after.split(sizes), step.later.split(sizes), step.shapes,
                strict=True)  # fmt: skip
    own = {n: (a, b, shape) for n, a, b, shape in parts if not torch.equal(a, b)}
    told = {"like": like_of(step, steps)}
    told["parameters"] = describe(own, step.parameters) if len(own) < len(sizes) else None
    related = [sampled(*values) for values in own.values()]
    whole = step.whole and step.whole()
    words = whole and lengths_of([whole[n] for n in own])
    told["relation"] = None if told["like"] else words or relation_of(related, TOLD)
    return CHANGED_AFTER.found(**told)


def lengths_of(tensors):
    """That all rows of whole tensors have one length, in words; None where they have not."""
    if any(t.dim() < 2 or len(t) < 2 for t in tensors):
        return None
    lengths = torch.cat([t.double().flatten(1).norm(dim=1) for t in tensors])
    mean = float(lengths.mean())
    alike = float((lengths - mean).abs().max()) <= TOLD / 10 * mean
    return f"each row brought to length {estimated(mean)}" if alike else None


def like_of(step, steps):
    """What the weights become between an optimizer step and the next batch; None: nothing known."""
    for dtype in (torch.float16, torch.bfloat16):
        if torch.equal(step.after.to(dtype).double(), step.later):
            return f"those rounded to {str(dtype)[6:]}"
    for other in steps:
        if other.step <= step.step and torch.equal(other.before, step.later):
            return f"again those before step {other.step + 1}"
    return None


def behind(place, update, parameters, later):
    """[Behind] of an update; [] where the trainer ended before the next batch.

    later: gives all weights at the next update, by number; None where none follows.
    """
    if update.next is None:
        return []
    moments = [[getattr(update, m)[n].values for n in parameters]
               for m in ("before", "after", "next")]  # fmt: skip
    is_single = any(values.dtype != torch.float64 for values in moments[0])
    made = (torch.cat([v.double() for v in m]) for m in moments)
    shapes = [update.weights[n].shape for n in parameters]
    return [Behind(place, *made, is_single, parameters, moments[0], shapes, later)]
