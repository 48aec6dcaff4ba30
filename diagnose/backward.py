"""Gradients: those recorded, and the reference's backward pass from the trainer's own behind it."""

import itertools
import math
from typing import NamedTuple

import torch

from diagnose.numerics import relative_error
from diagnose.record import places
from diagnose.stages.head import BIASED, PRODUCTS, SUMS
from diagnose.trace import Sample

LINEAR_OPS = ("linear", BIASED, *PRODUCTS, *SUMS)
ABSENT = 1e-9  # of the largest norm: a gradient that is smaller need not be there


class Gradients(NamedTuple):
    """Gradients by the numbers of their weights."""

    values: dict  # tensors, at the fixed places
    l2: dict  # of the whole tensors; nan where it is not known
    largest: dict  # absolute element of the whole tensors

    def norm(self, numbers=None):
        """The l2 norm of all of them, or of some."""
        chosen = self.l2 if numbers is None else numbers
        return math.sqrt(sum(self.l2[n] ** 2 for n in chosen))

    def times(self, factors):
        """The same, each multiplied by a number."""
        return Gradients(
            {n: values * factors[n] for n, values in self.values.items()},
            {n: l2 * abs(factors[n]) for n, l2 in self.l2.items()},
            {n: top * abs(factors[n]) for n, top in self.largest.items()},
        )

    def each(self, function):
        """The same with a non-decreasing function of each element; the norms are nan."""
        tops = {n: torch.tensor(top, dtype=torch.float64) for n, top in self.largest.items()}
        return Gradients(
            {n: function(values) for n, values in self.values.items()},
            dict.fromkeys(self.l2, math.nan),
            {n: float(function(top)) for n, top in tops.items()},
        )


def gradients_of(samples):
    """The Gradients of {number: sample}."""
    return Gradients(
        {n: sample.values for n, sample in samples.items()},
        {n: sample.l2 for n, sample in samples.items()},
        {n: sample.max for n, sample in samples.items()},
    )


def zero_like(sample):
    """A Sample of zeros."""
    return Sample(torch.zeros_like(sample.values), 0.0, 0.0)


def sampled(tensor):
    """The fixed places of a tensor, as record.py keeps them."""
    flat = tensor.detach().reshape(-1)
    return flat[places(len(flat))]


def contribution(backward):
    """What one backward added to each weight's gradient: {number: values}; None: no gradient."""
    rows, added = itertools.zip_longest(backward.before, backward.after), {}
    for n, (before, after) in enumerate(rows):
        if after is not None:
            added[n] = after.values - (before.values if before is not None else 0)
    return added


def weight_gradients(backbones, matches):
    """{number: values at the fixed places} of the gradients of two backbones, or of one twice."""
    gradients = {}
    for backbone, match in zip(dict.fromkeys(backbones), matches, strict=False):
        own = backbone.state_dict(keep_vars=True)
        reached = {n: own[name].grad for n, name in match.names.items()}
        for n, gradient in reached.items():
            if gradient is not None:  # of both backbones, where they share a weight
                gradients[n] = gradients.get(n, 0) + sampled(gradient)
    return gradients


def head_gradients(batch, shapes):
    """{number: values} of the head's linear layers, from the first gradient at their outputs.

    shapes: {number: of the weight}.
    """
    gradients = {}
    for place, entry in enumerate(batch.head):
        slots = batch.gradients.get(f"output_{place}")
        if entry.op not in LINEAR_OPS or not slots or entry.input.dim() != 2:
            continue
        g, x = slots[0].double(), entry.input.double()
        if len(g) == len(x):  # else pairs are columns
            made = {tuple(g.shape[1:]): g.sum(0), (g.shape[1], x.shape[1]): g.T @ x}
            if entry.op != "linear":  # which may have it [in, out]; of a square, it is not known
                made = {(x.shape[1], g.shape[1]): x.T @ g} | made
                made.pop((g.shape[1], g.shape[1]), None)
            for n in entry.weights:
                if shapes[n] in made:
                    gradients[n] = gradients.get(n, 0) + sampled(made[shapes[n]])
    return gradients


def compare_gradients(made, seen, tolerances=None):
    """([(relative error in units of the tolerance, number)] from the largest on, absent numbers).

    Of the weights' gradients that are more than rounding; tolerances: {number: relative error}.
    The absent are weights that should have a gradient and have none.
    """
    norms = [float(v.double().norm()) for v in made.values()] or [0.0]
    large = [n for n, v in made.items() if float(v.double().norm()) > max(norms) * ABSENT]
    rows = [
        (relative_error(made[n], seen[n]) / (tolerances[n] if tolerances else 1), n)
        for n in large
        if n in seen
    ]
    return sorted(rows, reverse=True), [n for n in large if n not in seen]
