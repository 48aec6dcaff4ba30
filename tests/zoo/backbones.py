"""A trainer that is right, but for its backbone, which is none of the reference's.

python backbones.py --data DATA --backbone NAME
"""

import argparse
import pathlib

import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIZE = 64


class Small(nn.Module):
    """A small network that somebody made."""

    def __init__(self):
        super().__init__()
        layers = []
        for width, before in ((16, 3), (32, 16), (48, 32)):
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(4, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        return self.layers(x)


def vision_transformer():
    """A transformer of patches."""
    shape = {"image_size": SIZE, "patch_size": 16, "num_layers": 2, "num_heads": 2}
    return torchvision.models.VisionTransformer(**shape, hidden_dim=32, mlp_dim=64)


MODELS = torchvision.models
BACKBONES = {
    "small": Small,
    "mobilenet": MODELS.mobilenet_v3_small,
    "squeezenet": MODELS.squeezenet1_1,
    "shufflenet": MODELS.shufflenet_v2_x0_5,
    "transformer": vision_transformer,
}


class Pairs(Dataset):
    """The official pairs, prepared as the reference does."""

    def __init__(self, root):
        self.folder = pathlib.Path(root) / "train_val"
        self.rows = [r.split() for r in (self.folder / "train_pairlist.txt").open()]

    def __len__(self):
        return len(self.rows)

    def photo(self, series, number):
        path = self.folder / "train_val_imgs" / f"{int(series):06d}-{int(number):02d}.JPG"
        image = Image.open(path).convert("RGB")
        sides = [round(side * SIZE / max(image.size)) for side in image.size]
        pixels = torchvision.transforms.functional.to_tensor(image.resize(sides, Image.BILINEAR))
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        canvas = mean.expand(3, SIZE, SIZE).clone()
        top, left = (SIZE - sides[1]) // 2, (SIZE - sides[0]) // 2
        canvas[:, top : top + sides[1], left : left + sides[0]] = pixels
        return (canvas - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def __getitem__(self, place):
        series, first, second, _, rank_1, rank_2 = self.rows[place]
        label = int(int(rank_1) > int(rank_2))
        return self.photo(series, first), self.photo(series, second), label


def main():
    """Trains for an epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", choices=BACKBONES, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    backbone = BACKBONES[args.backbone]()
    with torch.no_grad():
        width = backbone.eval()(torch.zeros(2, 3, SIZE, SIZE)).shape[1]
    head = nn.Linear(width, 2)
    nn.init.kaiming_normal_(head.weight, nonlinearity="relu")
    nn.init.zeros_(head.bias)
    groups = [{"params": backbone.parameters(), "lr": 1e-5}]
    groups += [{"params": head.parameters(), "lr": 1e-4}]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
    backbone.train()
    for first, second, label in DataLoader(Pairs(args.data), 8, shuffle=True):
        z = head(backbone(first) - backbone(second))
        loss = nn.functional.nll_loss(nn.functional.log_softmax(z, 1), 1 - label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
