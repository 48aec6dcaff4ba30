"""Ratios, measured side by side in one call: programs run in turn (A B A B ...), medians, min, max.

    python bench.py [--device cpu] [--size 224] [--rounds 3]

Needs no dataset: it draws one. Prints one table; nothing is asserted here.
"""

import dataclasses
import os
import platform
import shutil
import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

import data
import engine
import train_resnet
from data import command_line, show_progress, stop
from evidence import Evidence, peak_memory
from make_demo import invent_dataset, write_dataset
from model import embed, score_features
from tracer import Trace

PAD = data.parse_color("imagenet")


def synchronize(device):
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(rounds, device, *programs):
    """[rounds] seconds of each program, run A B A B ..., after one call of each to warm up."""
    seconds = [[] for _ in programs]
    for number in range(rounds + 1):
        for program, times in zip(programs, seconds, strict=True):
            synchronize(device)
            start = time.perf_counter()
            program()
            synchronize(device)
            times += [time.perf_counter() - start] if number else []
    return seconds


def ratio(over, under):
    """`median (min to max)` of the ratios of neighbours in turn."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def make_run(folder, args, steps=0):
    """A run of the ResNet recipe on the drawn data, ready to step; not in a run folder's name."""
    torch.manual_seed(0)
    ranker = train_resnet.build(args).to(args.device)
    groups = [
        {"name": name, "params": part.parameters(), "lr": lr}
        for name, part, lr in (
            ("backbone", ranker.backbone, args.lr_backbone),
            ("head", ranker.head, args.lr_head),
        )
    ]
    optimizer = torch.optim.SGD(groups, momentum=args.momentum, weight_decay=args.weight_decay)
    out = Path(tempfile.mkdtemp(dir=folder))
    splits = data.load(args, ("train", "val"))
    device = torch.device(args.device)
    train, val = (data.move_store(splits[name], device) for name in ("train", "val"))
    trace = Trace(out / "trace.txt", steps)
    position = dict(engine.BEGINNING, history=[])
    pieces = (args, out, ranker, optimizer, None, train_resnet.loss_function, train, val)
    return engine.Run(*pieces, position, Evidence(out), trace)


def bare_step(run, photo_1, photo_2, label):
    """The model's step on tensors that are there already."""
    logits = run.ranker(photo_1, photo_2)
    loss = run.loss_function(logits, label)
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()


class PairsOnDisk(Dataset):
    """What people would write: decodes both photos of a pair each time it is asked for."""

    def __init__(self, split, size):
        self.split = split
        self.transform = transforms.Compose(
            [
                transforms.Resize(size - 1, max_size=size),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(data.IMAGENET_MEAN, data.IMAGENET_STD),
            ]
        )

    def __len__(self):
        return len(self.split.pairs)

    def __getitem__(self, index):
        paths = [self.split.folder / self.split.files[row] for row in self.split.rows[index]]
        photos = [self.transform(Image.open(path).convert("RGB")) for path in paths]
        return *photos, int(self.split.pairs["label"][index])


def plain_epoch(run, count, workers):
    """The baseline: a DataLoader over count pairs, and the same model and step."""
    pairs = torch.utils.data.Subset(PairsOnDisk(run.train, run.args.size), range(count))
    for photo_1, photo_2, label in DataLoader(pairs, run.args.batch_size, num_workers=workers):
        bare_step(run, photo_1.to(run.device), photo_2.to(run.device), label.to(run.device))


def measure_steps(run, rounds):
    """(a) loop against bare step, (c) epoch against a plain loop, (e) operations, (h) tracing."""
    batch = np.arange(run.args.batch_size)
    rows = run.train.rows[batch]
    photo_1, photo_2 = (
        data.to_input(*data.take_photos(run.train, rows[:, side], run.device), PAD)
        for side in (0, 1)
    )
    label = torch.from_numpy(run.train.pairs["label"][batch]).to(run.device)
    run.ranker.train()
    loop, bare = in_turn(
        2 * rounds,
        run.device,
        lambda: engine.train_step(run, batch),
        lambda: bare_step(run, photo_1, photo_2, label),
    )
    yield "a", "training loop / bare step", ratio(loop, bare), "<= 1.03, GPU 1.05"
    yield "", "bare step, seconds", f"{statistics.median(bare):.3f}", ""
    count = 3 * run.args.batch_size
    ours, plain = in_turn(
        rounds,
        run.device,
        lambda: [engine.train_step(run, batch) for _ in range(3)],
        lambda: plain_epoch(run, count, 2),
    )
    yield "c", "plain loop, 2 workers / ours, 24 pairs", ratio(plain, ours), ""
    with FlopCounterMode(display=False) as counter:
        bare_step(run, photo_1, photo_2, label)
    flops, peak = counter.get_total_flops(), sgemm_peak(run.device, rounds)
    rate = flops / statistics.median(bare)
    yield "e", "step's operations, as PyTorch counts them", f"{flops / 1e9:.1f} GFLOP", ""
    text = f"{rate / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s = {rate / peak:.2f}"
    yield "", "rate of the step of the sgemm peak", text, ""
    traced = Trace(run.out / "traced.txt", 10**6)

    def with_trace():
        engine.train_step(dataclasses.replace(run, trace=traced), batch)

    on, off = in_turn(1, run.device, with_trace, lambda: engine.train_step(run, batch))
    yield "h", "step with tracing / without", ratio(on, off), ""


def sgemm_peak(device, rounds, side=3072):
    """Operations per second of a float32 matrix product, the best of some rounds."""
    a, b = torch.randn(2, side, side, device=device)
    (seconds,) = in_turn(2 * rounds, device, lambda: a @ b)
    return 2 * side**3 / min(seconds)


def measure_evaluation(run, rounds):
    """(b) evaluation against one forward pass per photo of each pair."""
    split, size = run.val, 2 * run.args.batch_size

    def ours():
        score_features(run.ranker, embed(run.ranker, split, size, PAD), split.rows)

    @torch.no_grad()
    def per_pair():
        run.ranker.eval()
        for i in range(0, len(split.rows), size // 2):
            rows = split.rows[i : i + size // 2]
            sides = [data.take_photos(split, rows[:, side], run.device) for side in (0, 1)]
            run.ranker(*(data.to_input(*side, PAD) for side in sides))

    plain, once = in_turn(max(1, rounds - 2), run.device, per_pair, ours)
    pairs, photos = len(split.pairs), len(split.files)
    yield (
        "b",
        f"per-pair evaluation / ours, {pairs} pairs, {photos} photos",
        ratio(plain, once),
        (">= 1.85"),
    )


def measure_store(folder, args, rounds):
    """(d) building the store against one core of Pillow times the cores."""
    path, _ = data.find_split(args.data, "train")
    photos = sorted((path.parent / "train_val_imgs").iterdir())[:240]
    store, cores = folder / "bench.store", os.cpu_count()

    def one_core():
        for photo in photos:
            data.decode_photo(photo, args.size, args.fit)

    alone, built = in_turn(
        rounds,
        torch.device("cpu"),
        one_core,
        lambda: data.build_store(store, photos, args.size, args.fit),
    )
    rates = [len(photos) / seconds for seconds in built]
    yield (
        "d",
        f"store's rate / one core x {cores}",
        ratio(alone, [cores * t for t in built]),
        (">= 0.85"),
    )
    yield "", "photos a second into the store", f"{statistics.median(rates):.0f}", ""


def measure_growth(folder, args):
    """(g) start-up and memory against the number of pairs, with a built store of tiny photos."""
    for count in (750, 3000, 12_000):
        root = folder / f"pairs{count}"
        images = root / "train_val" / "train_val_imgs"
        images.mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(folder / "tiny.jpg")
        for series in range(1, count + 11):
            for photo in (1, 2):
                shutil.copyfile(folder / "tiny.jpg", images / f"{series:06d}-{photo:02d}.JPG")
        lines = [f"{series} 1 2 0.9 1 2\n" for series in range(1, count + 11)]
        (root / "train_val" / "train_pairlist.txt").write_text("".join(lines[:count]))
        (root / "train_val" / "val_pairlist.txt").write_text("".join(lines[count:]))
        small = Namespace(**{**vars(args), "data": root, "size": 64})
        data.load(small, ("train", "val"))
        before, start = peak_memory(), time.perf_counter()
        data.load(small, ("train", "val"))
        seconds = time.perf_counter() - start
        grown = (peak_memory() - before) / 2**20
        text = f"{seconds:.2f} s, {1e6 * seconds / count:.0f} us a pair, memory + {grown:.0f} MiB"
        yield "g", f"loading {count} pairs, {2 * count} photos, store built", text, ""
        shutil.rmtree(root)


def main(argv=None):
    """Prints the table."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each pair of programs")
    flags = parser.parse_args(argv)
    if flags.size % 32 or flags.size < 32 or flags.rounds < 1:
        stop(__file__, "--size is a multiple of 32 and --rounds at least 1")
    device = engine.resolve_device(__file__, flags.device)
    torch.use_deterministic_algorithms(True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {key: default for key, (default, _) in train_resnet.RECIPE.items()}
        places = {"data": folder / "data", "store": folder / "stores", "device": device}
        args = Namespace(**(values | places | {"weights": "none", "size": flags.size}))
        write_dataset(args.data, *invent_dataset(150, 0), 0)
        run = make_run(folder, args)
        rows = []
        for row in (
            *measure_store(folder, args, flags.rounds),
            *measure_steps(run, flags.rounds),
            *measure_evaluation(run, flags.rounds),
            *measure_growth(folder, args),
        ):
            rows.append(row)
            show_progress(f"{len(rows)} rows")
        run.evidence.__exit__(None, None, None)
    rows.append(("f", "peak memory of this program", f"{peak_memory() / 2**20:.0f} MiB", ""))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {device}"
    print(f"\n| | {machine}, size {flags.size} | measured | aim |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(f"\n{time.perf_counter() - started:.0f} seconds in all")


if __name__ == "__main__":
    main()
