"""What a step that no known optimizer makes is: of gradient, parameter and the step before."""

import torch

from diagnose.numerics import estimated, is_close
from diagnose.parameters import describe
from diagnose.stages.update import LINEAR, SHARED
from diagnose.stepping import declared, misses, replay

TERMS = ("gradient", "parameter", "the step before")
SHOWN = 4  # names of parameters that are told


def describe_steps(update, earlier, parameters):
    """Findings on an update that nothing reproduces; earlier: the update before, or None."""
    rules = {n: rule for n, rule in declared(update).items() if n in parameters}
    known = {n: rule for n, rule in rules.items() if hasattr(torch.optim, rule[0])}
    errors = misses(replay(update, known, {}), update)
    lost = {n: p for n, p in parameters.items() if errors.get(n, 2) > 1}
    return [*judge_linear(update, earlier, lost, parameters), *judge_shared(update, parameters)]


def judge_linear(update, earlier, lost, parameters):
    """Of which multiples of TERMS the steps of parameters that are not reproduced are made, those
    of the backbone and of the head apart, in a list.
    """
    findings = []
    for role in dict.fromkeys(parameter.role for parameter in lost.values()):
        own = [n for n, p in lost.items() if p.role == role and update.gradients[n]]
        rows = [terms_of(n, update, earlier) for n in own]
        if not rows:
            continue
        terms, steps = (torch.cat(part, -1) for part in zip(*rows, strict=True))
        for count in range(1, len(terms) + 1):
            factors = fitted(terms[:count], steps)
            if factors is not None:
                told = dict(zip(TERMS, map(estimated, factors), strict=False))
                findings.append(LINEAR.found(parameters=describe(own, parameters), terms=told))
                break
    return findings


def terms_of(n, update, earlier):
    """(TERMS [2 or 3, N] of one parameter, its step [N])."""
    before = update.before[n].values.double()
    terms = [update.gradients[n].values.double(), before]
    if earlier is not None:
        terms.append((earlier.after[n].values - earlier.before[n].values).double())
    return torch.stack(terms), update.after[n].values.double() - before


def fitted(terms, steps):
    """The factors of terms [T, N] whose sum is steps [N], or None."""
    sizes = terms.norm(dim=1, keepdim=True)
    if not bool((sizes > 0).all()) or not bool(steps.any()):
        return None
    factors = torch.linalg.lstsq((terms / sizes).T, steps[:, None]).solution[:, 0] / sizes[:, 0]
    return factors.tolist() if is_close(factors @ terms, steps) else None


def judge_shared(update, parameters):
    """The finding on parameters that have one memory, in a list: they are the same before and after
    the step, though their gradients are not.
    """
    groups = {}
    for n in (n for n in parameters if update.gradients[n]):
        before, after = update.before[n].values, update.after[n].values
        if not torch.equal(before, after):
            groups.setdefault((before.numpy().tobytes(), after.numpy().tobytes()), []).append(n)
    shared = [[parameters[n].name for n in own] for own in groups.values()
              if any(not torch.equal(update.gradients[n].values, update.gradients[own[0]].values)
                     for n in own)]  # fmt: skip
    if not shared:
        return []
    told = tuple(" and ".join(own[:SHOWN]) for own in shared[:SHOWN])
    return [SHARED.found(groups=told)]
