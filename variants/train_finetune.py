"""The usual fine-tuning: first stages frozen, AdamW, warm-up and cosine, accumulated batches.

    python -m variants.train_finetune --data data/phototriage

The recipe "fine-tuning" of this project's specification (its sources 001 and 003). Here: not
measured (needs the dataset and the weights). Same head, labels and photos as the reference.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from data import epoch_batches, read_splits
from disk.errors import exit_on_error, stop
from model import ACTIVATIONS, SiameseRanker, build_head, resnet50, score_pairs
from run.flags import arguments
from run.loop import Run

# name: (default, allowed range or choices, what it is; source)
RECIPE = {
    "weights": ("imagenet", None, "imagenet, none, a torchvision file or a best.pt; specification"),
    "size": (224, (32, 4096), "side of the input in pixels, a multiple of 32"),
    "fit": ("pad", ("pad", "crop"), "as in train_resnet"),
    "pad_color": ("imagenet", None, "imagenet, train or R,G,B in 0..255"),
    "min_agreement": (0.0, (0, 1), "keep pairs where this share of people agrees; all"),
    "quick_experiment": (1.0, (1e-6, 1), "keep this share of the series, drawn with the seed"),
    "freeze": (["conv1", "bn1", "layer1", "layer2"], None, "stages that stay; specification"),
    "hidden": ([], (1, 65536), "widths of hidden layers of the head; none"),
    "activation": ("relu", tuple(ACTIVATIONS), "after each hidden layer"),
    "dropout": (0.0, (0, 0.99), "after each hidden layer; none"),
    "batch_size": (32, (1, 4096), "pairs of a pass; specification"),
    "accumulate": (2, (1, 1024), "passes of an update; specification"),
    "optimizer": ("adamw", ("adamw", "sgd"), "SGD has momentum .9; specification"),
    "lr_backbone": (5e-5, (0, 100), "of what is pretrained, a tenth; specification"),
    "lr_head": (5e-4, (0, 100), "of what is new; specification"),
    "weight_decay": (0.01, (0, 10), "on every tensor; specification"),
    "schedule": ("cosine", ("cosine", "onecycle"), "after warm-up, by epoch; or by update"),
    "warmup": (5, (0, 10**5), "epochs, linear; onecycle takes a tenth of all; specification"),
    "warmup_factor": (0.02, (1e-6, 1), "of the rates, where the warm-up begins; specification"),
    "lr_least": (1e-6, (0, 100), "where the cosine ends; specification"),
    "cycle": (50, (1, 10**5), "epochs that the schedule is drawn over; specification"),
    "epochs": (50, (1, 10**5), "at most; not more than cycle"),
    "patience": (10, (1, 10**5), "epochs without a better validation accuracy before the end"),
    "seed": (42, (0, 2**63 - 1), "of the initial weights, the order of the pairs and dropout"),
}


def build(args):
    """The ranker of this recipe: two photos [B, 3, S, S] to two logits [B, 2]."""
    backbone = resnet50(args.weights)
    parts = dict(backbone.named_children())
    for name in args.freeze:
        if name not in parts:
            stop(__file__, f"--freeze {name}: not among {', '.join(parts)}")
        parts[name].requires_grad_(False)
    return SiameseRanker(backbone, build_head(2048, args.hidden, args.activation, args.dropout))


def build_schedule(optimizer, args, updates):
    """The schedule over args.cycle epochs of so many updates, and whether it moves by update."""
    if args.schedule == "onecycle":
        rates, total = [group["lr"] for group in optimizer.param_groups], args.cycle * updates
        return lr_scheduler.OneCycleLR(optimizer, rates, total, pct_start=0.1), True
    length = max(1, args.cycle - args.warmup)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, length, args.lr_least)
    if not args.warmup:
        return cosine, False
    warmup = lr_scheduler.LinearLR(optimizer, args.warmup_factor, total_iters=args.warmup)
    return lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [args.warmup]), False


@exit_on_error
def main(argv=None):
    """Trains after the command line and leaves a run folder."""
    args = arguments(__file__, __doc__, RECIPE, argv)
    if args.epochs > args.cycle:
        stop(__file__, f"--epochs {args.epochs}: the schedule ends after --cycle {args.cycle}")
    train, val = read_splits(args, ("train", "val"))

    torch.manual_seed(args.seed)  # before the model is built
    ranker = build(args).to(args.device)
    frozen = [ranker.backbone.get_submodule(name) for name in args.freeze]
    criterion = nn.NLLLoss()
    learning = [p for p in ranker.backbone.parameters() if p.requires_grad]
    groups = [
        {"name": "backbone", "params": learning, "lr": args.lr_backbone},
        {"name": "head", "params": ranker.head.parameters(), "lr": args.lr_head},
    ]
    kinds = {"adamw": (torch.optim.AdamW, {}), "sgd": (torch.optim.SGD, {"momentum": 0.9})}
    kind, options = kinds[args.optimizer]
    optimizer = kind(groups, weight_decay=args.weight_decay, **options)
    pairs = args.batch_size * args.accumulate  # of an update
    updates = len(epoch_batches(len(train.pairs), pairs, args.seed, 1))
    schedule, by_update = build_schedule(optimizer, args, updates)

    parts = {"ranker": ranker, "criterion": criterion, "optimizer": optimizer, "schedule": schedule}
    with Run(args, train, val, **parts) as run:
        for epoch in run.epochs():
            ranker.train()  # the evaluation below leaves it in evaluation mode
            for stage in frozen:
                stage.eval()  # BatchNorm stays as it is
            for batch in run.batches(epoch_batches(len(train.pairs), pairs, args.seed, epoch)):
                optimizer.zero_grad()
                parts = zip(*(x.split(args.batch_size) for x in batch), strict=True)
                for photo_1, photo_2, label in parts:
                    logits = ranker(photo_1, photo_2)  # head(features_1 - features_2), [B, 2]
                    loss = criterion(F.log_softmax(logits, dim=1), label)
                    (loss * len(label) / len(batch[2])).backward()
                    run.count(loss, logits, label)
                optimizer.step()
                if by_update:
                    schedule.step()
            run.end_epoch(score_pairs(ranker, run.val, args.batch_size))
            if not by_update:
                schedule.step()


if __name__ == "__main__":
    main()
