"""A trainer in a fourth style: one forward pass for both photos, whose fc is the score of each.

    python scores.py --data DATA [--tiny] [--size 64] [--seed 0] [--plant NAME ...]

The network ends in a layer of one output, a photo's score; the two scores are the logits. It is
right, and very common. What --plant names is wrong on purpose.
"""

import argparse
import copy
import pathlib

import evaluations
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from plants import Plants

PLANTS = ["label_invert_loss", "bgr", "batch_size", "no_momentum", "one_lr", "bn_eval", "smoothing"]
PLANTS += [name for name in evaluations.PLANTS if name != "eval_of_training"]  # it prints none
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def picture(path, size, plants):
    """One photo, fitted into a square and padded with the mean, normalized."""
    image = Image.open(path).convert("RGB")
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.BILINEAR)
    x = torch.zeros(3, size, size)
    pixels = torchvision.transforms.functional.to_tensor(image)
    top, left = (size - height) // 2, (size - width) // 2
    x[:, top : top + height, left : left + width] = (pixels - MEAN) / STD
    return x.flip(0) if "bgr" in plants else x


def network(tiny):
    """A backbone whose last layer gives the score of a photo."""
    if tiny:
        norm = torch.nn.BatchNorm2d(16)
        layers = [torch.nn.Conv2d(3, 16, 8, 8, bias=False), norm, torch.nn.ReLU()]
        layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 2048)]
        return torch.nn.Sequential(*layers, torch.nn.Linear(2048, 1)), -1
    net = torchvision.models.resnet50()
    net.fc = torch.nn.Linear(2048, 1)
    return net, None


def read_batch(rows, folder, size, plants):
    """(photos of both sides [2 B, 3, S, S], labels [B]) of lines of a list."""
    photos = [
        picture(folder / "train_val_imgs" / f"{int(r[0]):06d}-{int(r[k]):02d}.JPG", size, plants)
        for k in (1, 2) for r in rows
    ]  # fmt: skip
    return torch.stack(photos), torch.tensor([0 if int(r[4]) < int(r[5]) else 1 for r in rows])


def validate(net, folder, size, plants):
    """The accuracy on a list, as it is printed."""
    net.train("eval_train_mode" in plants)
    name = "train" if "eval_on_train" in plants else "val"
    lines = [line.split() for line in (folder / f"{name}_pairlist.txt").read_text().splitlines()]

    def batches():
        for k in range(0, len(lines), 8):
            photos, label = read_batch(lines[k : k + 8], folder, size, plants)
            yield *photos.chunk(2), label

    def logits_of(first, second):
        return torch.stack(net(torch.cat([first, second])).squeeze(1).chunk(2), dim=1)

    accuracy = evaluations.accuracy_of(logits_of, batches(), plants)
    accuracy = evaluations.kept(accuracy, net.state_dict, plants, net.load_state_dict)
    return evaluations.shown(accuracy, plants)


def main():
    """Trains for a few epochs on the official pairs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--plant", nargs="+", default=[])
    args = parser.parse_args()
    plants = Plants(args.plant, PLANTS)
    torch.manual_seed(args.seed)
    folder = pathlib.Path(args.data) / "train_val"
    lines = [line.split() for line in (folder / "train_pairlist.txt").read_text().splitlines()]
    net, last = network(args.tiny)
    fc = net[last] if last else net.fc
    own = {id(p) for p in fc.parameters()}
    rest = [p for p in net.parameters() if id(p) not in own]
    rates = (1e-4, 1e-4) if "one_lr" in plants else (1e-5, 1e-4)
    groups = [{"params": rest, "lr": rates[0]}, {"params": fc.parameters(), "lr": rates[1]}]
    momentum = 0 if "no_momentum" in plants else 0.9
    optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=momentum, weight_decay=5e-4)
    count = int(plants.value("batch_size", 8))
    judged = copy.deepcopy(net) if plants & evaluations.COPIES else net
    for _ in range(args.epochs):
        net.train(mode="bn_eval" not in plants)
        order = torch.randperm(len(lines)).tolist()
        for first in range(0, len(order), count):
            rows = [lines[i] for i in order[first : first + count]]
            photos, label = read_batch(rows, folder, args.size, plants)
            score_1, score_2 = net(photos).squeeze(1).chunk(2)
            logits = torch.stack([score_1, score_2], dim=1)
            target = 1 - label if "label_invert_loss" in plants else label
            share = plants.value("smoothing", 0)
            loss = F.cross_entropy(logits, target, label_smoothing=share)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            evaluations.follow(judged.parameters(), net.parameters(), plants)
            print(f"loss {loss.item():.4f}")
        if plants & set(evaluations.PLANTS):
            print(f"val acc {validate(judged, folder, args.size, plants)}")


if __name__ == "__main__":
    main()
