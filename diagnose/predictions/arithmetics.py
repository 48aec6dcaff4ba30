"""What people report instead of an accuracy."""

import numpy as np

from diagnose.tables import UNDECIDED
from run import scores as figures

BATCHES = (4, 8, 16, 32, 64, 128, 256)


def arithmetics(correct, pairs, scores, own, rows):
    """{name: value} of what people report instead of an accuracy, equal values once.

    rows: (prediction, official label) [2, R] of each row of the file, in the order of its
    evaluation; own: see diagnose.predictions.judge.judge.
    """
    guessed, wanted = rows
    rows = guessed == wanted
    truth, predicted = pairs["label"], scores.argmax(1)
    agreement = np.maximum(pairs["preference"], 1 - pairs["preference"]) + 1e-9
    ways = {f"the recall of label {c}": correct[truth == c] for c in (0, 1)}
    ways |= {f"the precision of label {c}": correct[predicted == c] for c in (0, 1)}
    ways |= {f"that of the pairs with at least .{k} agreement": correct[agreement >= k / 10]
             for k in (6, 7, 8, 9)}  # fmt: skip
    ways["the share of label 1"], ways["the share of predicted 1"] = truth, predicted
    ways["that of all rows, repeated pairs and all"] = rows
    if (own != UNDECIDED).any():
        ways["that on the file's own labels"] = (predicted == own)[own != UNDECIDED]
        if (own != truth)[own != UNDECIDED].any():
            ways["1 - that on the file's own labels"] = (predicted != own)[own != UNDECIDED]
    for size in BATCHES:
        if size < len(rows):
            groups = [rows[i : i + size] for i in range(0, len(rows), size)]
            ways[f"the mean over batches of {size}"] = [group.mean() for group in groups]
            ways[f"that of the last batch of {size}"] = groups[-1]
            ways[f"that of the first batch of {size}"] = groups[0]
            every = [(guessed[i : i + size, None] == wanted[i : i + size]).mean(1)
                     for i in range(0, len(rows), size)]  # fmt: skip
            name = f"every prediction against every label of its batch of {size}"
            ways[name] = np.concatenate(every)
            ways[f"that without the last batch of {size}"] = rows[: len(groups[:-1]) * size]
    values = {name: float(np.mean(v)) for name, v in ways.items() if len(v)}
    values["the mean of both recalls"] = np.mean([correct[truth == c].mean() for c in (0, 1)])
    top, series, *_ = figures.rank_series(pairs, scores)
    values["the share of series whose best photo is found"] = top / max(series, 1)
    equal = {}
    for name, v in values.items():
        equal.setdefault(round(float(v), 9), []).append(name)
    return {" or ".join(names): v for v, names in equal.items()}
