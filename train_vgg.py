"""Reference recipe: Siamese VGG-16 on PhotoTriage, 4096 -> 2 on features_1 - features_2.

    python train_vgg.py --data data/phototriage

Chang, Yu, Wang, Ashley, Finkelstein: Automatic Triage for a Photo Series, SIGGRAPH 2016, with the
training details of the ICASSP 2020 repository Series-Photo-Selection (SPS below); what neither
says is this project's specification, which the README explains.
Published: about 73 % on pairs with at least 70 % agreement (secondary sources), with two hidden
layers: --hidden 128 128 --activation tanh --pad-color train. Here: not measured yet (needs the
dataset and the weights).
"""

import torch
from torch import nn
from torch.nn import functional as F

from data import epoch_batches, read_splits
from disk.errors import exit_on_error
from model import ACTIVATIONS, SiameseRanker, build_head, score_pairs, vgg16
from run.flags import arguments
from run.loop import Run

# name: (default, allowed range or choices, what it is; source)
RECIPE = {
    "weights": ("imagenet", None, "imagenet, none, a torchvision state dict or a best.pt; SPS"),
    "size": (224, (32, 4096), "side of the input in pixels, a multiple of 32; SPS"),
    "fit": ("pad", ("pad", "crop"), "longer side to size, as the paper; or shorter side, as SPS"),
    "pad_color": ("imagenet", None, "imagenet, train (as the paper) or R,G,B in 0..255"),
    "min_agreement": (0.0, (0, 1), "keep pairs where this share of people agrees; all, as SPS"),
    "quick_experiment": (1.0, (1e-6, 1), "keep this share of the series, drawn with the seed"),
    "hidden": ([], (1, 65536), "widths of hidden layers of the head; none, specification"),
    "activation": ("relu", tuple(ACTIVATIONS), "after each hidden layer"),
    "dropout": (0.0, (0, 0.99), "after each hidden layer; none, specification"),
    "inner_dropout": (
        0.0,
        (0, 0.99),
        "inside VGG's classifier; none, see model.vgg16",
    ),
    "batch_size": (8, (1, 4096), "pairs; specification (SPS itself uses 32)"),
    "lr_backbone": (1e-5, (0, 100), "learning rate of the backbone; specification"),
    "lr_head": (1e-4, (0, 100), "learning rate of the head; specification"),
    "momentum": (0.9, (0, 0.9999), "of SGD, without Nesterov; SPS"),
    "weight_decay": (5e-4, (0, 10), "of SGD, on every tensor; SPS"),
    "lr_factor": (0.3, (1e-6, 1), "on both rates every lr_every epochs; SPS utils/lr_scheduler.py"),
    "lr_every": (25, (1, 10**5), "epochs between two such steps; SPS utils/lr_scheduler.py"),
    "epochs": (100, (1, 10**5), "at most"),
    "patience": (10, (1, 10**5), "epochs without a better validation accuracy before the end"),
    "seed": (42, (0, 2**63 - 1), "of the initial weights, the order of the pairs and dropout"),
}


def build(args):
    """The ranker of this recipe: two photos [B, 3, S, S] to two logits [B, 2]."""
    backbone = vgg16(args.weights, args.size, args.inner_dropout)
    return SiameseRanker(backbone, build_head(4096, args.hidden, args.activation, args.dropout))


def build_optimizer(args, ranker):
    """SGD over two parameter groups, each with its own learning rate."""
    groups = [
        {"name": "backbone", "params": ranker.backbone.parameters(), "lr": args.lr_backbone},
        {"name": "head", "params": ranker.head.parameters(), "lr": args.lr_head},
    ]
    return torch.optim.SGD(
        groups, momentum=args.momentum, weight_decay=args.weight_decay, nesterov=False
    )


@exit_on_error
def main(argv=None):
    """Trains after the command line and leaves a run folder."""
    args = arguments(__file__, __doc__, RECIPE, argv)
    train, val = read_splits(args, ("train", "val"))

    torch.manual_seed(args.seed)  # before the model is built
    ranker = build(args).to(args.device)
    criterion = nn.NLLLoss()
    optimizer = build_optimizer(args, ranker)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, args.lr_every, args.lr_factor)

    parts = {"ranker": ranker, "criterion": criterion, "optimizer": optimizer, "schedule": schedule}
    with Run(args, train, val, **parts) as run:
        for epoch in run.epochs():
            ranker.train()  # the evaluation below leaves it in evaluation mode
            batches = epoch_batches(len(train.pairs), args.batch_size, args.seed, epoch)
            for photo_1, photo_2, label in run.batches(batches):  # label 0: photo_1 is preferred
                logits = ranker(photo_1, photo_2)  # head(features_1 - features_2), [B, 2]
                loss = criterion(F.log_softmax(logits, dim=1), label)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.count(loss, logits, label)
            run.end_epoch(score_pairs(ranker, run.val, args.batch_size))
            schedule.step()


if __name__ == "__main__":
    main()
