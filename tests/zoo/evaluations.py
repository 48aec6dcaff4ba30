"""Evaluations as people get them wrong, for the trainers of the zoo.

Each trainer says how it makes logits; what it does with them is here.
"""

import pathlib
import tempfile

import torch
from torch.nn import functional as F

PLANTS = """
    eval_train_mode eval_with_graph eval_on_train eval_part eval_inverted eval_swapped
    eval_mean_over_batches eval_metric_inverted eval_percent eval_copy eval_average eval_mean
    eval_cropped eval_cut_difference eval_lowest_kept eval_first_state clean_eval
    eval_first_half eval_twice eval_shifted_labels eval_noised eval_flipped eval_last_batch
    eval_never_reset eval_random eval_random_again eval_bgr eval_of_training
    eval_crops clean_eval_both_orders eval_dropout_alone eval_stale_statistics eval_copy_earlier
    eval_copy_moved eval_state_overwritten eval_lowest_loss
""".split()  # noqa: SIM905
# What is evaluated is a copy of the network.
COPIES = {"eval_copy", "eval_average", "eval_mean", "eval_stale_statistics", "eval_copy_earlier",
          "eval_copy_moved"}  # fmt: skip
BEST = {"eval_lowest_kept", "eval_first_state", "eval_state_overwritten", "eval_lowest_loss"}


def changed(batches, plants):
    """Batches of (first, second, label) as a wrong loader of the validation gives them."""
    batches = list(batches)
    if "eval_first_half" in plants:
        batches = batches[: len(batches) // 2]
    if plants & {"eval_twice", "eval_random_again"}:
        batches += batches[:2]
    for first, second, label in batches:
        if "eval_shifted_labels" in plants:
            label = torch.tensor([*label.tolist()[1:], label.tolist()[0]])
        if plants & {"eval_noised", "eval_random_again"}:
            much = plants.value("eval_noised", 0.3) if "eval_noised" in plants else 0.02
            first, second = (x + much * torch.randn_like(x) for x in (first, second))
        if "eval_flipped" in plants:
            first = torch.stack([x.flip(2) if torch.rand(()) < 0.5 else x for x in first])
        if "eval_bgr" in plants:
            first, second = first.flip(1), second.flip(1)
        yield first, second, label


def accuracy_of(logits_of, batches, plants):
    """The accuracy of logits_of(first, second) [B, 2] on batches of (first, second, label)."""
    right, shares = plants.kept["right"] if "eval_never_reset" in plants else [], []
    with torch.set_grad_enabled("eval_with_graph" in plants):
        for first, second, label in changed(batches, plants):
            if "eval_part" in plants and len(label) < 8:
                continue
            if "eval_inverted" in plants:
                label = torch.tensor([1 - y for y in label.tolist()])
            if "eval_swapped" in plants:
                first, second = second, first
            if "eval_cropped" in plants:
                first, second = map(cropped, (first, second))
            logits = logits_of(first, second)
            if "eval_crops" in plants:
                others = (logits_of(first.roll(k, 3), second.roll(k, 3)) for k in (1, 2))
                logits = (logits + sum(others)) / 3
            if "clean_eval_both_orders" in plants:
                logits = logits.softmax(1) + logits_of(second, first).softmax(1).flip(1)
            if "eval_dropout_alone" in plants:
                logits = F.dropout(logits, plants.value("eval_dropout_alone", 0.5))
            if "eval_random" in plants:
                logits = logits + plants.value("eval_random", 0.5) * torch.randn_like(logits)
            cut = 0.5 if "eval_cut_difference" in plants else 0.0
            hits = (logits[:, 1] - logits[:, 0] > cut).long() == label
            right += hits.tolist()
            shares.append(float(hits.double().mean()))
    accuracy = sum(right) / len(right)
    if "eval_last_batch" in plants:
        accuracy = shares[-1]
    if "eval_mean_over_batches" in plants:
        accuracy = sum(shares) / len(shares)
    return 1 - accuracy if "eval_metric_inverted" in plants else accuracy


def cropped(photos):
    """The middle of photos [B, 3, S, S], three quarters of a side, enlarged to the old size."""
    size = photos.shape[-1]
    middle = photos[..., size // 8 : -(size // 8), size // 8 : -(size // 8)]
    return F.interpolate(middle, size=(size, size), mode="bilinear")


def follow(copied, tensors, plants):
    """Moves the tensors of a copy towards those that are trained."""
    plants.kept["followed"] += 1
    kept = {"eval_mean": 1 - 1 / plants.kept["followed"], "eval_stale_statistics": 0.0}
    kept |= {"eval_average": plants.value("eval_average", 0.9), "eval_copy_moved": 0.0}
    kept |= {"eval_copy_earlier": 0.0} if plants.kept["followed"] == 1 else {}
    share = next((kept[name] for name in kept if name in plants), 1.0)
    times = plants.value("eval_copy_moved", 1.01) if "eval_copy_moved" in plants else 1.0
    with torch.no_grad():
        for own, now in zip(copied, tensors, strict=True) if share < 1 else ():
            own.copy_(times * (share * own + (1 - share) * now))


def shown(accuracy, plants, training=0.0):
    """An accuracy as it is printed; training: that of the epoch's training pairs."""
    accuracy = training if "eval_of_training" in plants else accuracy
    return f"{100 * accuracy:.2f} %" if "eval_percent" in plants else f"{accuracy:.4f}"


def kept(accuracy, state, plants, load=None):
    """An accuracy as it is printed; keeps state(), tensors by name, as best by a wrong rule, or
    loads it again.
    """
    figures, states = plants.kept["figures"], plants.kept["states"]
    if not plants & BEST:
        return accuracy
    if "eval_lowest_kept" in plants and not figures:
        accuracy -= 0.1
    if "eval_lowest_loss" in plants:  # both fall
        accuracy += 0.1 * (not figures)
        print(f"val loss {0.7 / (len(figures) + 1):.4f}")
    figures.append(accuracy)
    states.append(state())
    with tempfile.TemporaryDirectory() as folder:
        if "eval_lowest_kept" in plants and accuracy == min(figures):
            torch.save(states[-1], pathlib.Path(folder) / "best_model.pt")
        if "eval_lowest_loss" in plants:
            torch.save(states[-1], pathlib.Path(folder) / "best_model.pt")
        if "eval_state_overwritten" in plants and len(figures) > 1:
            load(states[0])
        if "eval_first_state" in plants and len(figures) > 1:
            torch.save(states[0], pathlib.Path(folder) / "first.pt")
    return accuracy
