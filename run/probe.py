"""What a trained model shows of itself: photos swapped, against themselves, twice, one by one."""

import dataclasses

import numpy as np
import torch

from model import score_features
from run.findings import CAUSE, EQUAL, Row

TWO_BACKBONES = Row(
    "model.two_backbones", CAUSE, "the two photos do not go through the same backbone"
)
RANDOM = Row(
    "model.random", CAUSE, "two evaluations differ: dropout, or something random, is active"
)
BATCHING = Row(
    "model.batching", CAUSE, "scores change with batching: BatchNorm is in training mode"
)
SWAPPED = Row(
    "model.swapped", EQUAL, "swapped pairs: the other photo is predicted in {share:.4f} of them"
)
SELF = Row(
    "model.self_pairs",
    EQUAL,
    "self pairs: logits {logit_1:.4f} {logit_2:.4f}, spread {spread:.1e}",
)
TWICE = Row(
    "model.again",
    EQUAL,
    "evaluated twice: {again}; one photo at a time: largest relative change {change:.1e}",
)


def probe(ranker, split, features, logits, embed, size):
    """(findings of defects, evidence) of what only the model at hand can show.

    features [N, F] of the photos and logits [P, 2] of the pairs of the split; embed(ranker, split,
    batch_size) gives features; size: its usual batch.
    """
    swapped = score_features(ranker, features, split.rows[:, ::-1].copy())
    alone = score_features(ranker, features, np.arange(len(features)).repeat(2).reshape(-1, 2))
    count = size * -(-32 // size)  # whole batches: other sizes round differently
    few = dataclasses.replace(split, files=split.files[:count])
    again, one_by_one = (embed(ranker, few, at_once) for at_once in (size, 1))
    turned = (swapped.argmax(1) == 1 - logits.argmax(1)).double().mean().item()
    spread = (alone.amax(0) - alone.amin(0)).max().item()
    scale = features[: len(again)].abs().max().item()
    change = (one_by_one - features[: len(again)]).abs().max().item() / max(scale, 1e-30)
    defects = []
    equal = torch.equal(again, features[: len(again)])
    if spread > 1e-4:
        defects.append(TWO_BACKBONES.found())
    if not equal:
        defects.append(RANDOM.found())
    if change > 1e-3:
        defects.append(BATCHING.found())
    return defects, [
        SWAPPED.found(share=turned),
        SELF.found(logit_1=float(alone[0, 0]), logit_2=float(alone[0, 1]), spread=spread),
        TWICE.found(again="equal" if equal else "differs", change=change),
    ]
