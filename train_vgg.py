"""Reference recipe: Siamese VGG-16 on PhotoTriage, 4096 -> 2 on features_1 - features_2.

    python train_vgg.py --data data/phototriage

Chang, Yu, Wang, Ashley, Finkelstein: Automatic Triage for a Photo Series, SIGGRAPH 2016, with the
training details of the ICASSP 2020 repository Series-Photo-Selection (SPS below).
Published: about 73 % on pairs with at least 70 % agreement (secondary sources), with two hidden
layers: --hidden 128 128 --activation tanh --pad-color train. Here: not measured yet (needs the
dataset and the weights).
"""

import torch
from torch.nn import functional as F

from engine import arguments, fit
from model import SiameseRanker, build_head, vgg16

RECIPE = {
    "weights": ("imagenet", "imagenet, none or a torchvision state dict; SPS"),
    "size": (224, "side of the input in pixels, a multiple of 32; SPS"),
    "fit": ("pad", "pad: longer side to size, as the paper; crop: shorter side, as SPS"),
    "pad_color": ("imagenet", "imagenet, train (as the paper) or R,G,B in 0..255"),
    "min_agreement": (0.0, "keep pairs where this share of people agrees; all, as SPS"),
    "quick_experiment": (1.0, "keep this share of the series, drawn with the seed"),
    "hidden": ((), "widths of hidden layers of the head; none, design card"),
    "activation": ("relu", "after each hidden layer"),
    "dropout": (0.0, "after each hidden layer; none, design card"),
    "inner_dropout": (0.0, "inside VGG's classifier (torchvision: 0.5); none, see model.vgg16"),
    "batch_size": (8, "pairs; design card (SPS itself uses 32)"),
    "lr_backbone": (1e-5, "learning rate of the backbone; design card"),
    "lr_head": (1e-4, "learning rate of the head; design card"),
    "momentum": (0.9, "of SGD, without Nesterov; SPS"),
    "weight_decay": (5e-4, "of SGD, on every tensor; SPS"),
    "lr_factor": (0.3, "on both rates every lr_every epochs; SPS utils/lr_scheduler.py"),
    "lr_every": (25, "epochs between two such steps; SPS utils/lr_scheduler.py"),
    "epochs": (100, "at most"),
    "patience": (10, "epochs without a better validation accuracy before the run ends"),
    "seed": (42, "of the initial weights, the order of the pairs and dropout"),
}


def build(args):
    """The ranker of this recipe: two photos [B, 3, S, S] to two logits [B, 2]."""
    backbone = vgg16(args.weights, args.size, args.inner_dropout)
    return SiameseRanker(backbone, build_head(4096, args.hidden, args.activation, args.dropout))


def loss_function(logits, label):
    """Mean NLLLoss on the log-softmax of the logits [B, 2], on the correct label [B]."""
    return F.nll_loss(F.log_softmax(logits, dim=1), label)


def main(argv=None):
    """Trains after the command line and leaves a run folder."""
    args = arguments(__file__, __doc__, RECIPE, argv)
    torch.manual_seed(args.seed)  # before the model is built
    ranker = build(args).to(args.device)
    groups = [
        {"name": "backbone", "params": ranker.backbone.parameters(), "lr": args.lr_backbone},
        {"name": "head", "params": ranker.head.parameters(), "lr": args.lr_head},
    ]
    optimizer = torch.optim.SGD(
        groups, momentum=args.momentum, weight_decay=args.weight_decay, nesterov=False
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, args.lr_every, args.lr_factor)
    fit(args, ranker, optimizer, schedule, loss_function)


if __name__ == "__main__":
    main()
