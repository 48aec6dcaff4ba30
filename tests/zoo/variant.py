"""A foreign trainer, written apart from the reference, that can carry each bug of the zoo.

Its own parsing, dataset class, model and loop; of the project it takes tracer.py alone, as any
variant would, the reference's init.pt and the reference's order of pairs.
"""

import copy
import random
from pathlib import Path

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from diagnose import tracer

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZE, BATCH = 64, 8


class PhotoPairs(Dataset):
    """Pairs of one list."""

    def __init__(self, root, split, bug):
        self.folder = Path(root) / "train_val" / "train_val_imgs"
        self.bug, self.items, self.rows, self.known = bug, [], [], {}
        for text in (Path(root) / "train_val" / f"{split}_pairlist.txt").read_text().splitlines():
            series, left, right, _, rank_left, rank_right = text.split()
            better = 0 if int(rank_left) < int(rank_right) else 1
            if bug == "ranks read as winner ids":
                better = 0 if rank_left == left else 1
            if bug == "labels inverted in the loader":
                better = 1 - better
            names = [f"{int(series):06d}-{int(photo):02d}.JPG" for photo in (left, right)]
            self.items.append((*names, better))
            self.rows.append((int(series), int(left), int(right), better))

    def __len__(self):
        return len(self.items)

    def picture(self, name):
        image = Image.open(self.folder / name).convert("RGB")
        wide, high = image.size
        scale = SIZE / (min(wide, high) if self.bug == "crop" else max(wide, high))
        kind = Image.BICUBIC if self.bug == "other filter" else Image.BILINEAR
        shape = max(1, round(wide * scale)), max(1, round(high * scale))
        image = image.resize((SIZE, SIZE) if self.bug == "squash" else shape, kind)
        x = TF.to_tensor(image).double()
        if self.bug == "crop":
            x = TF.center_crop(x, [SIZE, SIZE])
        if self.bug == "BGR before normalisation":
            return TF.normalize(self.pad(x, torch.tensor(MEAN)).flip(0), MEAN, STD)
        if self.bug == "normalisation missing":
            return self.pad(x, torch.tensor(MEAN))
        colour = torch.zeros(3) if self.bug != "padded with grey" else torch.full((3,), 0.3)
        x = self.pad(TF.normalize(x, MEAN, STD), colour)
        if self.bug == "normalisation twice":
            x = TF.normalize(x, MEAN, STD)
        return x.flip(0) if self.bug == "BGR" else x

    def pad(self, x, colour):
        canvas = colour.double().view(3, 1, 1).repeat(1, SIZE, SIZE)
        top, left = (SIZE - x.shape[1]) // 2, (SIZE - x.shape[2]) // 2
        canvas[:, top : top + x.shape[1], left : left + x.shape[2]] = x
        return canvas

    def __getitem__(self, index):
        first, second, better = self.items[index]
        for name in (first, second):
            if name not in self.known:
                self.known[name] = self.picture(name)
        return self.known[first], self.known[second], better, first, second


class Encoder(nn.Module):
    """As the reference's tiny backbone in other words."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 2048)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.stem(x))).mean((2, 3)))


class Judge(nn.Module):
    """Two photos to two logits."""

    def __init__(self, bug):
        super().__init__()
        self.bug = bug
        self.scorer = nn.Linear(2048, 2)  # before the encoder: another order than the reference
        self.encoder = Encoder()
        if bug == "two backbones":
            self.second = Encoder()
        self.noise = nn.Dropout(0.3)

    def forward(self, a, b):
        if self.bug == "one concatenated pass":
            fa, fb = self.encoder(torch.cat([a, b])).chunk(2)
        else:
            fa = self.encoder(a)
            fb = (self.second if self.bug == "two backbones" else self.encoder)(b)
        gap = fb - fa if self.bug == "features_2 - features_1" else fa - fb
        if self.bug == "dropout at evaluation" and not self.training:
            gap = nn.functional.dropout(gap, 0.5, training=True)
        z = self.scorer(self.noise(gap) if self.bug == "dropout before the head" else gap)
        if self.bug == "log_softmax twice":
            z = torch.log_softmax(z, 1)
        return fa, fb, gap, z


def begin(bug, init):
    """The model from the reference's init.pt, matched by shape, with the bug's own changes."""
    model = Judge(bug).double()
    state = torch.load(init, weights_only=True)
    keys = [key for key in state if not key.startswith("head")]
    names = ["stem.weight", "stem.bias", "norm.weight", "norm.bias", "norm.running_mean",
             "norm.running_var", "norm.num_batches_tracked", "out.weight", "out.bias"]  # fmt: skip
    mine = {name: state[key] for name, key in zip(names, keys, strict=True)}
    model.encoder.load_state_dict(mine)
    model.scorer.load_state_dict({"weight": state["head.weight"], "bias": state["head.bias"]})
    if bug == "two backbones":
        model.second.load_state_dict(copy.deepcopy(mine))
    if bug == "head of zeros":
        nn.init.zeros_(model.scorer.weight)
    if bug == "head of fan_out":
        nn.init.kaiming_normal_(model.scorer.weight, mode="fan_out")
    if bug == "backbone frozen":
        model.encoder.requires_grad_(False)
    return model


def make_optimizer(bug, model, lr, style):
    """SGD with the reference's values, in one group per tensor where style says so."""
    slow, fast = (lr, lr * 10) if bug != "rates swapped" else (lr * 10, lr)
    fast = slow if bug == "one rate" else fast
    encoder = [p for name, p in model.named_parameters() if not name.startswith("scorer")]
    groups = [
        {"params": encoder, "lr": slow},
        {"params": list(model.scorer.parameters()), "lr": fast},
    ]
    if bug == "head missing from the optimizer":
        groups = groups[:1]
    if style == "a group per tensor":
        groups = [{"params": [p], "lr": g["lr"]} for g in reversed(groups) for p in g["params"]]
    momentum = 0.0 if bug == "no momentum" else 0.9
    decay = 0.0 if bug == "no weight decay" else 5e-4
    if bug == "no decay on one dimension":
        groups = [{"params": [p], "lr": g["lr"], "weight_decay": decay * (p.ndim > 1)}
                  for g in groups for p in g["params"]]  # fmt: skip
    nesterov = bug == "Nesterov"
    return torch.optim.SGD(groups, momentum=momentum, weight_decay=decay, nesterov=nesterov)


def loss_of(bug, z, y):
    """Cross-entropy, or what a bug makes of it."""
    if bug in ("labels inverted in the loss", "loss and metric inverted"):
        return nn.functional.cross_entropy(z, 1 - y)
    if bug == "softmax before cross-entropy":
        return nn.functional.cross_entropy(torch.softmax(z, 1), y)
    if bug == "NLL on probabilities":
        return nn.functional.nll_loss(torch.softmax(z, 1), y)
    factor = 0.5 if bug == "loss halved" else 1
    smoothing = 0.1 if bug == "label smoothing" else 0
    return factor * nn.functional.cross_entropy(z, y, label_smoothing=smoothing)


@torch.no_grad()
def predict(bug, model, dataset, batch):
    """Logits of every pair of a dataset, in evaluation mode, or not."""
    model.train(bug == "BatchNorm in training mode")
    rows = [model(a, b)[3] for a, b, *_ in DataLoader(dataset, batch)]
    model.train()
    z = torch.cat(rows)
    if bug == "output index swapped":
        z = z.flip(1)
    if bug == "class prior":
        share = sum(row[3] for row in dataset.rows) / len(dataset)
        z = torch.tensor([[1 - share, share]]).double().log().expand_as(z)
    return z


def write_predictions(path, dataset, z):
    """photo_1, photo_2, label and two logits of every pair."""
    lines = ["photo_1\tphoto_2\tlabel\tlogit_1\tlogit_2"]
    for (a, b, y), (z0, z1) in zip(dataset.items, z.tolist(), strict=True):
        lines.append(f"{a}\t{b}\t{y}\t{z0!r}\t{z1!r}")
    Path(path).write_text("\n".join(lines) + "\n")


def write_labels(path, train, val, bug):
    """The labels as used, with the split each pair fell into."""
    rows = [(*row, "train") for row in train.rows] + [(*row, "val") for row in val.rows]
    if bug == "split over pairs":
        rng = random.Random(0)
        rows = [(*row[:4], rng.choice(["train", "val"])) for row in rows]
    lines = ["series\tphoto_1\tphoto_2\tlabel\tsplit", *("\t".join(map(str, r)) for r in rows)]
    Path(path).write_text("\n".join(lines) + "\n")


def order_of(bug, reference, count, rng):
    """Two epochs of batches, as lists of positions: the reference's, or the bug's own."""
    if bug == "shuffling off":
        return [[list(range(i, min(i + BATCH, count))) for i in range(0, count, BATCH)]] * 2
    epochs = [[], []]
    for number, batch in enumerate(reference):
        epochs[number // -(-count // BATCH)].append(batch)
    if bug == "same order every epoch":
        epochs[1] = epochs[0]
    if bug == "random numbers consumed":
        flat = [i for batch in epochs[1] for i in batch]
        rng.shuffle(flat)
        epochs[1] = [flat[i : i + BATCH] for i in range(0, count, BATCH)]
    return epochs


def train(bug, root, reference, out, lr=1e-2, style="", seed=42, again=False):
    """Two epochs; leaves trace, predictions, labels and the accuracies it would print, in out."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    data, held = PhotoPairs(root, "train", bug), PhotoPairs(root, "val", bug)
    place = {item[:2]: i for i, item in enumerate(data.items)}
    batches = [[place[pair[:2]] for pair in b] for b in tracer.replay(reference / "trace.txt")]
    model = begin(bug, reference / "init.pt")
    if style == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(bug, model, lr, style)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    trace = tracer.Trace(out / "trace.txt", len(batches), f"zoo:{bug}", seed, "float64")
    rng, accuracies, best, step = random.Random(7), [], (-1.0, None), 0
    for epoch, plan in enumerate(order_of(bug, batches, len(data), rng)):
        losses, hits, sizes = [], [], []
        workers = 1 if style == "workers" and epoch == 0 else 0
        for a, b, y, first, second in DataLoader(data, batch_sampler=plan, num_workers=workers):
            if style == "channels_last":
                a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
            if bug == "nondeterministic" and again:
                a = a + 1e-6 * torch.randn_like(a)
            trace.begin()
            trace.pairs(first, second, y, data.folder)
            trace.inputs(a, b)
            trace.model(model)
            if bug == "BatchNorm frozen":
                model.encoder.norm.eval()
            fa, fb, gap, z = model(a, b)
            trace.forward(fa, fb, gap, z, y)
            loss = loss_of(bug, z, y)
            trace.loss(loss)
            if bug != "gradients not zeroed":
                optimizer.zero_grad()
            loss.backward()
            if bug == "AMP step skipped" and step == 1:
                for p in model.parameters():
                    p.grad.fill_(float("inf"))
            trace.gradients(model)
            if bug == "clipped after the trace":
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            if not (bug == "AMP step skipped" and step == 1):
                optimizer.step()
            trace.update(model, optimizer)
            right = int((z.argmax(1) == y).sum())
            right = (
                len(y) - right if bug in ("metric inverted", "loss and metric inverted") else right
            )
            trace.metrics(right, len(y), loss)
            losses.append(float(loss.detach()))
            hits.append(right)
            sizes.append(len(y))
            step += 1
            if bug == "scheduler per batch":
                scheduler.step()
        trace.epoch(mean_loss(bug, losses, sizes), mean_accuracy(bug, hits, sizes), sum(sizes))
        accuracies.append(score(bug, predict(bug, model, held, BATCH), held))
        if accuracies[-1] > best[0] or bug == "last saved as best":
            best = accuracies[-1], copy.deepcopy(model.state_dict())
        if bug == "last saved as best" and epoch == 1:
            nn.init.zeros_(model.scorer.weight)  # the last epoch went badly
            best = accuracies[-1], copy.deepcopy(model.state_dict())
            accuracies[-1] = score(bug, predict(bug, model, held, BATCH), held)
    model.load_state_dict(best[1])
    for name, size in (("predictions", BATCH), ("repeated", BATCH), ("rebatched", 3)):
        write_predictions(out / f"{name}.tsv", held, predict(bug, model, held, size))
    write_labels(out / "labels.tsv", data, held, bug)
    return [f"{accuracy:.4f}" for accuracy in accuracies]


def mean_loss(bug, losses, sizes):
    """The epoch's loss."""
    if bug == "last batch weighted wrongly":
        return sum(losses) * BATCH / sum(sizes)
    return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)


def mean_accuracy(bug, hits, sizes):
    """The epoch's accuracy."""
    if bug == "accuracy averaged per batch":
        return sum(h / s for h, s in zip(hits, sizes, strict=True)) / len(sizes)
    return sum(hits) / sum(sizes)


def score(bug, z, dataset):
    """The validation accuracy as the variant prints it."""
    y = torch.tensor([item[2] for item in dataset.items])
    right = (z.argmax(1) == y).double()
    if bug in ("metric inverted", "loss and metric inverted"):
        right = 1 - right
    if bug == "accuracy averaged per batch":
        return torch.stack([part.mean() for part in right.split(BATCH)]).mean().item()
    return right.mean().item()
