"""Labels of other rows of the same table: which order gives them all."""

import random

import numpy as np
import torch

ENOUGH = 40  # labels; fewer may fit one of the orders by chance
SEEDS = (*range(101), 123, 1234, 1337, 2023, 2024, 2025, 2026)  # that people shuffle with
SHUFFLES = {  # {what it is called: (count, seed) -> the order of a shuffled table, [count]}
    "np.random.RandomState({seed}), as pandas' sample(frac=1, random_state={seed})": (
        lambda count, seed: np.random.RandomState(seed).permutation(count)
    ),
    "np.random.default_rng({seed})": (
        lambda count, seed: np.random.default_rng(seed).permutation(count)
    ),
    "random.seed({seed})": lambda count, seed: random.Random(seed).sample(range(count), count),
    "random.seed({seed}) and shuffle": lambda count, seed: shuffled(count, seed),
    "torch.manual_seed({seed})": (
        lambda count, seed: torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    ),
}


def shuffled(count, seed):
    """The order [count] in which random.shuffle leaves a list."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def order_of(label, truth, rows, places):
    """Which other rows the labels of all rows are those of, in words; None where nothing says so.

    label, truth [R]: of the file, and the official ones of its pairs; rows [R]: of the file;
    places [R]: of its pairs in the official lists.
    """
    if len(label) < ENOUGH or len(np.unique(label)) < 2:
        return None
    for words, order in orders(rows, places):
        if np.array_equal(label, truth[np.asarray(order)]):
            return words
    return None


def orders(rows, places):
    """(words, the row of each row's label [R]) of every order that is tried."""
    count = len(rows)
    listed = np.argsort(places, kind="stable")
    text = sorted(range(count), key=lambda n: str(tuple(rows[n])[:3]))
    numbers = np.lexsort((rows["photo_2"], rows["photo_1"], rows["series"]))
    yield "in the order of the official lists, while the names are in another", listed
    yield "as if the rows were in the order of the official lists", np.argsort(listed)
    for words, order in (("text (10 before 2)", np.array(text)), ("numbers", numbers)):
        yield f"in the order of the names as {words}", order
        yield f"as if the rows were in the order of the names as {words}", np.argsort(order)
    yield "in reversed order", np.arange(count)[::-1]
    for shift in range(1, count):
        by = min(shift, count - shift)
        way = "later" if shift == by else "earlier"
        yield f"shifted: of the row {by} {way}", np.roll(np.arange(count), -shift)
    for words, shuffle in SHUFFLES.items():
        for seed in SEEDS:
            order = np.asarray(shuffle(count, seed))
            yield f"shuffled by {words.format(seed=seed)}", order
            told = f"of a table shuffled by {words.format(seed=seed)}, read by their old index"
            yield told, np.argsort(order)
