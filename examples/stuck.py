"""A trainer in somebody else's style that is stuck, with the mistakes this project began with.

    python examples/stuck.py --data data/demo

It knows nothing of this project but the layout of the dataset. Find what is wrong with it:

    python -m diagnose record --steps 3 --until evaluation --as-is --out runs/stuck.trace \
        examples/stuck.py --data data/demo
    python -m diagnose compare runs/stuck.trace --data data/demo
"""

import argparse
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Pairs(Dataset):
    def __init__(self, folder, size, split="train"):
        self.folder = Path(folder) / "train_val"
        self.lines = [line.split() for line in open(self.folder / f"{split}_pairlist.txt")]
        self.size = size
        self.norm = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    def __len__(self):
        return len(self.lines)

    def load(self, series, photo):
        """One photo, [3, size, size], normalized."""
        path = self.folder / "train_val_imgs" / f"{int(series):06d}-{int(photo):02d}.JPG"
        image = Image.open(path).convert("RGB")
        scale = self.size / max(image.size)
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.BILINEAR)
        x = self.norm(transforms.functional.to_tensor(image))
        left, top = (self.size - width) // 2, (self.size - height) // 2
        out = torch.zeros(3, self.size, self.size)  # 0 is the mean color by now
        out[:, top : top + height, left : left + width] = x
        return out

    def __getitem__(self, i):
        series, a, b, _, rank_a, rank_b = self.lines[i]
        winner = 0 if int(rank_a) < int(rank_b) else 1
        return self.load(series, a), self.load(series, b), winner


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = torchvision.models.resnet50()
        self.cnn.fc = nn.Identity()
        hidden = nn.Linear(2048, 128), nn.ReLU(), nn.Dropout(0.5)
        self.mlp = nn.Sequential(*hidden, nn.Linear(128, 2))
        for layer in (self.mlp[0], self.mlp[3]):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, a, b):
        return F.log_softmax(self.mlp(self.cnn(a) - self.cnn(b)), dim=1)


def evaluate(net, loader):
    """The accuracy on the pairs of a loader."""
    with torch.no_grad():
        right = torch.cat([(1 - net(a, b).argmax(1)) == winner for a, b, winner in loader])
    return right.float().mean().item()


def main():
    """Trains on the official pairs, printing loss and accuracy of every step and every epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(0)
    loader = DataLoader(Pairs(args.data, args.size), batch_size=16, shuffle=True)
    val_loader = DataLoader(Pairs(args.data, args.size, "val"), batch_size=16)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 25, 0.3)
    for epoch in range(args.epochs):
        net.train()
        for step, (a, b, winner) in enumerate(loader, 1):
            log_probs = net(a, b)
            loss = F.nll_loss(log_probs, 1 - winner)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            accuracy = ((1 - log_probs.argmax(1)) == winner).float().mean().item()
            print(f"epoch {epoch} step {step} loss {loss.item():.4f} acc {accuracy:.4f}")
        schedule.step()
        print(f"epoch {epoch} val acc {evaluate(net, val_loader):.4f}")


if __name__ == "__main__":
    main()
