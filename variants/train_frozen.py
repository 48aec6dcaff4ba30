"""Frozen features: extracted once, an MLP on features_1 - features_2 trained in a minute.

    python -m variants.train_frozen --data data/phototriage [--features resnet50 iqa]

The recipe "frozen" of this project's specification and of sim-bench (configs/frozen): 64 to 72 %
expected by its authors, on other labels. Here: not measured (needs the dataset and the weights).
Features are standardized by the training photos, which is ours: sets of unlike scale are joined.
"""

import torch
from torch import nn
from torch.nn import functional as F

from data import epoch_batches, read_splits
from disk.errors import exit_on_error, stop
from model import ACTIVATIONS, SiameseRanker, build_head, score_features
from run.flags import arguments
from run.loop import Run
from variants.features import (
    FeatureSplit,
    Standardize,
    build_extractor,
    extract,
    keep_features,
    keep_reviewed,
    width_of,
)

# name: (default, allowed range or choices, what it is; source)
RECIPE = {
    "features": (["resnet50"], None, "resnet50, resnet50:layer3, vgg16, iqa, .npz or .pt; spec."),
    "weights": ("imagenet", None, "imagenet, none, a torchvision file or a best.pt; specification"),
    "size": (224, (32, 4096), "side of the input in pixels, a multiple of 32"),
    "fit": ("pad", ("pad", "crop"), "as in train_resnet"),
    "pad_color": ("imagenet", None, "imagenet, train or R,G,B in 0..255"),
    "min_agreement": (0.7, (0, 1), "keep pairs where this share agrees; specification"),
    "votes": ("", None, "table of votes in official numbers (diagnose labels --align); or none"),
    "min_reviewers": (2, (1, 10**6), "votes of a pair to keep, where --votes is given; sim-bench"),
    "quick_experiment": (1.0, (1e-6, 1), "keep this share of the series, drawn with the seed"),
    "hidden": ([512, 256], (1, 65536), "widths of hidden layers of the head; specification"),
    "activation": ("relu", tuple(ACTIVATIONS), "after each hidden layer; specification"),
    "dropout": (0.5, (0, 0.99), "after each hidden layer; specification"),
    "batch_size": (32, (1, 4096), "pairs; specification"),
    "lr_head": (1e-3, (0, 100), "learning rate of AdamW; specification"),
    "weight_decay": (0.01, (0, 10), "of AdamW; specification"),
    "epochs": (50, (1, 10**5), "at most; specification"),
    "patience": (10, (1, 10**5), "epochs without a better validation accuracy before the end"),
    "seed": (42, (0, 2**63 - 1), "of the initial weights, the order of the pairs and dropout"),
}


def build(args):
    """The ranker of this recipe: two features [B, F] to two logits [B, 2], and its extractors."""
    if not args.features:
        stop(__file__, "--features: none is named, as in --features resnet50")
    width = sum(map(width_of, args.features))
    head = build_head(width, args.hidden, args.activation, args.dropout)
    ranker = SiameseRanker(Standardize(width), head)
    ranker.features = {n: build_extractor(n, args.weights, args.size) for n in args.features}
    ranker.extractors = nn.ModuleDict({n: m for n, m in ranker.features.items() if m is not None})
    return ranker


def embed(ranker, split, batch_size):
    """Standardised features [N, F] of the decoded photos of a split, in evaluation mode."""
    mean = ranker.eval().backbone.mean
    sets = ranker.features.items()
    found = [extract(n, m, split, batch_size, mean.device, mean.dtype) for n, m in sets]
    return ranker.backbone(torch.cat(found, 1))


@exit_on_error
def main(argv=None):
    """Trains after the command line and leaves a run folder."""
    args = arguments(__file__, __doc__, RECIPE, argv)
    train, val = read_splits(args, ("train", "val"))
    if args.votes:
        train, val = (keep_reviewed(s, args.votes, args.min_reviewers) for s in (train, val))

    torch.manual_seed(args.seed)  # before the model is built
    ranker = build(args).to(args.device)
    criterion = nn.NLLLoss()
    groups = [
        {"name": "backbone", "params": [], "lr": 0.0},  # frozen
        {"name": "head", "params": ranker.head.parameters(), "lr": args.lr_head},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=args.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)  # none

    def load(split, args):  # instead of the photos
        dtype, sets = ranker.backbone.mean.dtype, ranker.features.items()
        kept = [keep_features(name, module, split, args, dtype) for name, module in sets]
        features = torch.cat(kept, 1)
        if split is train:
            ranker.backbone.learn(features)
        return FeatureSplit(**vars(split), features=features)

    def take(split, positions, device, dtype):
        rows, label = split.rows[positions], torch.from_numpy(split.pairs["label"][positions])
        return *(split.features[side] for side in rows.T), label.to(device)

    parts = {"ranker": ranker, "criterion": criterion, "optimizer": optimizer, "schedule": schedule}
    with Run(args, train, val, **parts, load=load, take=take) as run:
        for epoch in run.epochs():
            ranker.train()  # the evaluation below leaves it in evaluation mode
            batches = epoch_batches(len(train.pairs), args.batch_size, args.seed, epoch)
            for features_1, features_2, label in run.batches(batches):
                logits = ranker(features_1, features_2)  # head(features_1 - features_2), [B, 2]
                loss = criterion(F.log_softmax(logits, dim=1), label)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.count(loss, logits, label)
            run.end_epoch(score_features(ranker, ranker.backbone(run.val.features), val.rows))
            schedule.step()


if __name__ == "__main__":
    main()
