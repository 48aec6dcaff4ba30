"""Writes a trace of the first training steps; copy it beside your trainer. Needs torch alone.

    trace = tracer.Trace("trace.txt", steps=5, implementation="mine", seed=42)
    for step ...:
        trace.begin()
        trace.pairs(names_1, names_2, label, folder)      # file names, labels 0 or 1
        trace.inputs(photo_1, photo_2)                    # [B, 3, S, S] each
        trace.model(model)                                # before the first update
        ...
        trace.forward(features_1, features_2, difference, logits, label)
        trace.loss(loss)
        loss.backward()
        trace.gradients(model)
        optimizer.step()
        trace.update(model, optimizer)
        trace.metrics(correct, count, loss)
    trace.epoch(mean_loss, accuracy, count)               # at an epoch's end

After `steps` steps every call does nothing. What you cannot call, leave out: compare.py then says
"not compared". To begin where the reference began, load its init.pt; to take its pairs in its
order, iterate over tracer.replay("REF/trace.txt").

A line reads `step stage name shape values`. For a tensor these are its l2 norm and four sums of
its elements with signs +-1 from a fixed hash of the element's index, in double.
"""

import random
import zlib
from functools import lru_cache
from pathlib import Path

import torch

VERSION = 1
BLOCK = 65_536  # elements; the sign of element i is inner[i % BLOCK] * outer[i // BLOCK]


@lru_cache(maxsize=4)
def signs(count, salt):
    """[count, 4] of +-1 from a 32-bit hash of (index, column, salt)."""
    x = torch.arange(count * 4) + (salt << 24)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return (1 - 2 * ((x ^ (x >> 16)) & 1)).reshape(count, 4).double()


def fingerprint(tensor):
    """[l2, p0, p1, p2, p3] of a tensor's elements in their order, in double, piece by piece."""
    flat, total, square = tensor.detach().reshape(-1), torch.zeros(4, dtype=torch.float64), 0.0
    inner, outer = signs(BLOCK, 1), signs(max(4096, len(flat) // BLOCK + 1), 2)
    for start in range(0, len(flat), 16 * BLOCK):
        piece = flat[start : start + 16 * BLOCK].double().cpu()
        square += float(piece @ piece)
        for i in range(0, len(piece), BLOCK):
            block = piece[i : i + BLOCK]
            total += (block @ inner[: len(block)]) * outer[(start + i) // BLOCK]
    return [square**0.5, *total.tolist()]


class Trace:
    """A trace file; steps = 0 writes nothing and costs nothing."""

    def __init__(self, path, steps=5, implementation="", seed=None, dtype="", device=""):
        self.path, self.steps, self.step, self.before = Path(path), steps, -1, {}
        if steps:
            facts = f"implementation={implementation} seed={seed} dtype={dtype} device={device}"
            header = f"# trace {VERSION}\n# {facts} torch={torch.__version__}\n"
            self.path.write_bytes(header.encode())

    @property
    def active(self):
        return self.step < self.steps

    def write(self, stage, name, shape, *values):
        """One line; numbers as %.9e, where they are exact as they are."""
        if self.active:
            words = [f"{v:.9e}" if isinstance(v, float) else str(v) for v in values]
            shape = ",".join(map(str, shape)) or "-"
            line = " ".join(
                [str(max(self.step, 0)), stage, name.replace(" ", "%20"), shape, *words]
            )
            with open(self.path, "ab") as file:
                file.write(f"{line}\n".encode())

    def tensor(self, stage, name, tensor):
        """The fingerprint of one tensor; `none` where there is none."""
        if self.active and tensor is None:
            self.write(stage, name, (), "none")
        elif self.active:
            self.write(stage, name, tensor.shape, *fingerprint(tensor))

    def begin(self):
        """The next step, and the state of the random numbers."""
        self.step += 1
        if self.active:
            state = torch.get_rng_state().numpy().tobytes()
            self.write("0R", "torch", (), f"{zlib.crc32(state):08x}")
            self.write("0R", "python", (), f"{zlib.crc32(str(random.getstate()).encode()):08x}")

    def pairs(self, names_1, names_2, label, folder=None):
        """File names and labels of the batch in order, with the CRC of the files in folder."""
        for i, (*names, y) in enumerate(zip(names_1, names_2, label, strict=True)):
            if not self.active:
                return
            paths = [Path(folder) / name if folder else None for name in names]
            crcs = [f"{zlib.crc32(p.read_bytes()):08x}" if p else "-" for p in paths]
            words = [str(name).replace(" ", "%20") for name in names]
            self.write("1D", f"pair_{i}", (), *words, int(y), *crcs)

    def inputs(self, photo_1, photo_2):
        """Both inputs [B, 3, S, S], channel by channel, and how much of them is constant border."""
        for name, x in (("photo_1", photo_1), ("photo_2", photo_2)):
            if self.active:
                for channel in range(x.shape[1]):
                    self.tensor("2X", f"{name}.{channel}", x[:, channel])
                same = x == x[:, :, :1, :1]
                rows, columns = (int(same.all(1).all(d).sum()) for d in (2, 1))
                self.write("2X", f"{name}.border", (), rows, columns)
                padded = x[same.all(1).all(2).any(1) | same.all(1).all(1).any(1)]
                corner = padded[:, :, 0, 0].double().mean(0) if len(padded) else x.new_zeros(3)
                self.write("2X", f"{name}.corner", (), *corner.tolist())

    def model(self, model):
        """The initial parameters and buffers; only the first call counts."""
        if self.active and self.step <= 0:
            for name, parameter in model.named_parameters():
                self.tensor("3I", f"parameter:{name}", parameter)
            for name, buffer in model.named_buffers():
                self.tensor("3I", f"buffer:{name}", buffer)

    def forward(self, features_1, features_2, difference, logits, label):
        """Features [B, F], their difference, logits [B, 2], and each pair's logits and label."""
        names = ("features_1", "features_2", "difference", "logits")
        for name, x in zip(names, (features_1, features_2, difference, logits), strict=True):
            self.tensor("4F", name, x)
        if self.active:
            for i, (z, y) in enumerate(zip(logits.tolist(), label.tolist(), strict=True)):
                self.write("4F", f"pair_{i}", (), *map(repr, z), y)

    def loss(self, loss):
        """The mean loss of the batch, as it is printed and differentiated."""
        if self.active:
            self.write("5L", "loss", (), repr(float(loss.detach())))

    def gradients(self, model):
        """Gradients after backward; keeps the parameters to see the update."""
        if self.active:
            for name, parameter in model.named_parameters():
                self.tensor("6G", f"parameter:{name}", parameter.grad)
                self.before[name] = parameter.detach().clone()

    def update(self, model, optimizer):
        """After the optimizer's step: each update, its group, and the buffers."""
        if not self.active:
            self.before = {}
            return
        group_of = {id(p): i for i, g in enumerate(optimizer.param_groups) for p in g["params"]}
        for i, group in enumerate(optimizer.param_groups):
            facts = [float(group.get(k, 0.0)) for k in ("lr", "momentum", "weight_decay")]
            self.write("7U", f"group:{i}", (), *facts, sum(p.numel() for p in group["params"]))
        for name, parameter in model.named_parameters():
            moved = parameter.detach().double() - self.before.pop(name).double()
            numbers = fingerprint(moved)
            group = group_of.get(id(parameter), "-")
            self.write("7U", f"parameter:{name}", parameter.shape, *numbers, group)
        for name, buffer in model.named_buffers():
            self.tensor("7U", f"buffer:{name}", buffer)

    def metrics(self, correct, count, loss):
        """Right predictions and pairs of the batch, and the loss that goes into the epoch's."""
        if self.active:
            loss = float(torch.as_tensor(loss).detach())
            self.write("8M", "step", (), int(correct), int(count), repr(loss))

    def epoch(self, loss, accuracy, count):
        """What is logged for the epoch: mean loss, accuracy, number of pairs."""
        self.write("8M", "epoch", (), repr(float(loss)), repr(float(accuracy)), int(count))


def replay(path):
    """The reference's batches in order: lists of (photo_1, photo_2, label), names and 0 or 1."""
    batches = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        words = line.split(" ")
        if len(words) > 6 and words[1] == "1D":
            names = (word.replace("%20", " ") for word in words[4:6])
            batches.setdefault(int(words[0]), []).append((*names, int(words[6])))
    return iter([batches[step] for step in sorted(batches)])
