"""What a trained model shows of itself: photos swapped, against themselves, twice, one by one."""

import dataclasses

import numpy as np
import torch

from model import score_features


def probe(ranker, split, features, logits, embed, size):
    """(defects, evidence) of what only the model at hand can show.

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
    if spread > 1e-4:
        defects.append("the two photos do not go through the same backbone")
    if not torch.equal(again, features[: len(again)]):
        defects.append("two evaluations differ: dropout, or something random, is active")
    if change > 1e-3:
        defects.append("scores change with batching: BatchNorm is in training mode")
    return defects, [
        f"swapped pairs: the other photo is predicted in {turned:.4f} of them",
        f"self pairs: logits {alone[0, 0]:.4f} {alone[0, 1]:.4f}, spread {spread:.1e}",
        f"evaluated twice: {'equal' if torch.equal(again, features[: len(again)]) else 'differs'}"
        f"; one photo at a time: largest relative change {change:.1e}",
    ]
