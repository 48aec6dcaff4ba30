"""Ratios, measured side by side in one call: programs run in turn (A B A B ...), medians, min, max.

    python bench.py [--device cpu] [--size 224] [--rounds 3]

Needs no dataset: it draws photos, and lists of the official shape. Prints one table for the README;
nothing is asserted here. It takes about twelve minutes on 2 cores and 3 GB of disk for that time.
"""

import contextlib
import importlib
import io
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

import data
import train_resnet
from disk.errors import command_line, exit_on_error, say, show_progress, stop
from disk.store import build_store, take_photos
from make_demo import invent_dataset, pairlist_lines, write_dataset
from model import score_pairs
from run.arithmetic import set_arithmetic, whole_step
from run.evidence import peak_memory
from run.flags import resolve_device
from run.loop import Run

# Series of the official lists by their number of photos; every pair of a series is in the list.
TRAIN_SHAPE = {2: 2791, 3: 1043, 4: 464, 5: 155, 6: 78, 7: 23, 8: 6}  # 12,075 pairs
VAL_SHAPE = {2: 122, 3: 45, 4: 22, 5: 3, 6: 1, 7: 1, 8: 1}  # 483 pairs of 503 photos


# Programs in turn


def now():
    """Seconds on a clock, once a GPU has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(program):
    """Seconds that a program takes, a GPU's work included."""
    start = now()
    program()
    return now() - start


def in_turn(rounds, *programs, warm=True):
    """[rounds] seconds of each program, run A B A B ...; first once each, unmeasured, if warm."""
    if warm:
        in_turn(1, *programs, warm=False)
    times = [[seconds_of(program) for program in programs] for _ in range(rounds)]
    return list(zip(*times, strict=True))


def ratio(over, under):
    """`median (min to max)` of the ratios of neighbours in turn."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def temporary_folder():
    """A folder for a while; Windows may keep files of it that are still mapped into memory."""
    return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


def in_page(flags, **methods):
    """Runs train_resnet with these flags, its Run replaced by one with these methods."""
    train_resnet.Run = type("MeasuredRun", (Run,), methods)
    with temporary_folder() as out, contextlib.redirect_stdout(io.StringIO()):
        train_resnet.main([*flags, "--weights", "none", "--out", str(Path(out) / "run")])
    train_resnet.Run = Run


def with_run(flags, measure):
    """What measure(run) gives, called where the page with these flags would train."""
    given = []

    def epochs(run):
        given.append(measure(run))
        return iter(())

    in_page(flags, epochs=epochs)
    return given[0]


def step_of(run):
    """A program: the page's step on the first pairs, in the run's arithmetic, with its hooks."""
    run.batch, photos = np.arange(run.args.batch_size), first_batch(run)

    def program():
        set_arithmetic(run.args)  # global, and two runs may take turns
        run.ranker.train()
        with whole_step(run.args):
            bare_step(run, *photos)
        run.unchecked.clear()

    return program


# Steps and epochs


def first_batch(run):
    """photo_1, photo_2 and label of the first pairs, on the device, in the run's format."""
    dtype = next(run.ranker.parameters()).dtype
    return data.take_batch(run.train, np.arange(run.args.batch_size), run.device, dtype)


def bare_step(model, photo_1, photo_2, label):
    """The step of the page on tensors that are there already; model: ranker, criterion, optimizer.

    A copy, since the page's own is inline; its loss.
    """
    logits = model.ranker(photo_1, photo_2)
    loss = model.criterion(F.log_softmax(logits, dim=1), label)
    model.optimizer.zero_grad()
    loss.backward()
    model.optimizer.step()
    return loss


def plain_model(run):
    """The same ranker, loss and optimizer without a run: no hooks, nothing that looks."""
    ranker = train_resnet.build(run.args).to(run.device)
    optimizer = torch.optim.SGD(ranker.parameters(), lr=1e-5, momentum=0.9, weight_decay=5e-4)
    return SimpleNamespace(ranker=ranker, criterion=nn.NLLLoss(), optimizer=optimizer)


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


def plain_epoch(run, model):
    """The baseline: DataLoaders with 2 workers, the same model, both photos of every pair."""
    train, val = (
        DataLoader(PairsOnDisk(split, run.args.size), run.args.batch_size, num_workers=2)
        for split in (run.train, run.val)
    )
    model.ranker.train()
    for photo_1, photo_2, label in train:
        bare_step(model, *(x.to(run.device) for x in (photo_1, photo_2, label)))
    model.ranker.eval()
    with torch.no_grad():
        for photo_1, photo_2, _ in val:
            model.ranker(photo_1.to(run.device), photo_2.to(run.device)).tolist()


def steps_in_turn(flags, rounds):
    """Seconds of the page's loop, a step each, and of the same step without a run, in turn."""
    loop, bare = [], []

    def batches(run, _):
        few, model = [np.arange(run.args.batch_size)] * (1 + rounds), plain_model(run)
        steps, photos = Run.batches(run, few), first_batch(run)
        for _ in few:
            start = now()
            yield next(steps)
            loop.append(now() - start)
            bare.append(seconds_of(lambda: bare_step(model, *photos)))

    in_page(flags, epochs=lambda run: iter([1]), batches=batches, end_epoch=lambda *_: None)
    return loop[1:], bare[1:]  # the first warms up


def epochs_in_turn(flags, rounds):
    """Seconds of an epoch of the plain loop and of one of the page, and how many pairs."""
    plain, ours, pairs = [], [], []

    def epochs(run):
        """Epochs of the plain loop and of the page in turn, instead of Run.epochs."""
        model = plain_model(run)
        pairs.extend([len(run.train.pairs), len(run.val.pairs)])
        for _ in range(rounds):
            plain.append(seconds_of(lambda: plain_epoch(run, model)))
            run.position |= {"step": 0, "loss_sum": 0.0, "correct": 0}
            start = now()
            yield 1
            ours.append(now() - start)

    in_page(flags, epochs=epochs, end_epoch=lambda *_: None)
    return plain, ours, pairs


def batches_of(run):
    """The pairs of the first epoch in batches."""
    return data.epoch_batches(len(run.train.pairs), run.args.batch_size, run.args.seed, 1)


def measure_steps(flags, device, rounds):
    """(a) loop against bare step, (f) memory, (e) operations, (c) epoch."""
    loop, bare = steps_in_turn(flags, 5 * rounds)
    yield "a", "training loop / bare step", ratio(loop, bare), "<= 1.03, GPU 1.05"
    yield "a", "bare step, seconds", f"{statistics.median(bare):.4f}", ""
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0
    memory = f"{peak_memory() / 2**20:.0f} MiB" + (f", {gpu:.0f} MiB on the GPU" if gpu else "")
    yield "f", "peak memory after these steps, two models", memory, ""
    flops = with_run(flags, count_operations)
    peak, how = sgemm_peak(device, rounds)
    rate = flops / statistics.median(bare)
    yield "e", "operations of a step, counted by PyTorch's FlopCounterMode", f"{flops:.4g}", ""
    text = f"{rate / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s: {rate / peak:.2f}"
    yield "e", f"the step's rate of the sgemm peak ({how})", text, ""
    plain, ours, pairs = epochs_in_turn(flags, max(1, rounds - 1))  # each takes long enough
    name = f"epoch of a plain loop, 2 workers / ours: {pairs[0]} pairs, and {pairs[1]} evaluated"
    yield "c", name, ratio(plain, ours), ""


def count_operations(run):
    """Floating-point operations of one step."""
    with FlopCounterMode(display=False) as counter:
        bare_step(plain_model(run), *first_batch(run))
    return counter.get_total_flops()


def sgemm_peak(device, rounds):
    """Operations per second of the fastest float32 matrix product found, and what it was.

    Plain products go through the BLAS library, 1x1 convolutions through the one for
    convolutions; which is faster depends on the machine.
    """
    rates = {}
    for side in (512, 1024, 2048):
        a, b = torch.randn(8192, side, device=device), torch.randn(side, side, device=device)
        x, w = a.view(8, 32, 32, side).permute(0, 3, 1, 2), b.view(side, side, 1, 1)
        for how, program in (
            ("product", lambda a=a, b=b: a @ b),
            ("1x1 convolution", lambda x=x, w=w: F.conv2d(x, w)),
        ):
            (seconds,) = in_turn(3 * rounds, program)
            rates[f"{how}, 8192 x {side} by {side} x {side}"] = 2 * 8192 * side**2 / min(seconds)
    how = max(rates, key=rates.get)
    return rates[how], how


# Evaluation, the store, loading


def measure_evaluation(run, rounds):
    """(b) evaluation against one forward pass per photo of each pair."""
    split, size = run.val, run.args.batch_size

    @torch.no_grad()
    def per_pair():
        run.ranker.eval()
        for i in range(0, len(split.rows), size):
            run.ranker(*data.take_batch(split, slice(i, i + size), run.device)[:2])

    plain, once = in_turn(
        max(1, rounds - 1),
        per_pair,
        lambda: score_pairs(run.ranker, split, size),
        warm=False,
    )
    text = f"per-pair evaluation / ours, {len(split.pairs)} pairs, {len(split.files)} photos"
    yield "b", text, ratio(plain, once), ">= 1.85"


def measure_extraction(run, rounds):
    """(h) frozen features of the validation photos against bare forward passes of as many."""
    page = importlib.import_module("variants.train_frozen")  # by name: variants/ is above
    values = {key: row[0] for key, row in page.RECIPE.items()}
    values |= {"weights": "none", "size": run.args.size}
    ranker = page.build(SimpleNamespace(**values)).to(run.device)
    split, size, backbone = run.val, run.args.batch_size, ranker.extractors["resnet50"].eval()
    weight, count = next(backbone.parameters()), len(run.val.files)
    batch = data.take_inputs(split, np.arange(min(size, count)), weight.device)

    @torch.no_grad()
    def bare():
        for first in range(0, count, size):
            backbone(batch[: count - first])

    passes, extraction = in_turn(
        max(1, rounds - 1), bare, lambda: page.embed(ranker, split, size), warm=False
    )
    text = f"bare forward passes / extraction of frozen features, {count} photos"
    yield "h", text, ratio(passes, extraction), ">= 0.9"


def measure_store(folder, photos, size, rounds):
    """(d) building the store against one core of Pillow times the cores."""
    cores, few = os.cpu_count(), photos[:: os.cpu_count()]
    store = folder / "bench.store"
    alone, _, built = in_turn(
        3 * rounds,
        lambda: [data.decode_photo(photo, size, "pad") for photo in few],
        lambda: store.unlink(missing_ok=True),  # to free a file takes its time as well
        lambda: build_store(store, photos, size, "pad", data.decode_photo),
    )
    share = len(photos) / len(few) / cores
    text = f"store's rate / one core of Pillow x {cores}, {len(photos)} photos"
    yield "d", text, ratio([share * t for t in alone], built), ">= 0.85"
    rate = len(photos) / statistics.median(built)
    yield "d", "photos a second into the store", f"{rate:.0f}", ""


def official_shape(root, part, photos):
    """Writes lists of the official shape, but for 1/part of the series; photos by turns."""
    rng, jpegs, series = np.random.default_rng(0), cycle(photos), 0
    images = root / "train_val" / "train_val_imgs"
    images.mkdir(parents=True)
    for split, shape in (("train", TRAIN_SHAPE), ("val", VAL_SHAPE)):
        lines = []
        for count, number in shape.items():
            for _ in range(-(-number // part)):
                series += 1
                lines += pairlist_lines(series, rng.normal(size=count), split)
                for photo, jpeg in enumerate(islice(jpegs, count), 1):
                    shutil.copyfile(jpeg, images / f"{series:06d}-{photo:02d}.JPG")
        (root / "train_val" / f"{split}_pairlist.txt").write_text("".join(lines))
    return root


def reset_peak_memory():
    """Resident memory in bytes, from which on peak_memory counts; None where Linux is not."""
    path = Path("/proc/self/clear_refs")
    if not path.is_file():
        return None
    path.write_text("5")  # proc(5): resets VmHWM
    return peak_memory()


def measure_growth(run):
    """(g) seconds and memory to load a dataset, and to read the photos of one epoch."""
    before = reset_peak_memory()
    loading = seconds_of(lambda: load(run.args))
    reading = seconds_of(lambda: read_epoch(run))
    memory = f"{(peak_memory() - before) / 2**20:.0f}" if before else "not measured"
    pairs, photos = len(run.train.pairs), len(run.train.files) + len(run.val.files)
    micro = 1e6 / pairs
    text = f"{loading:.2f} s, {micro * loading:.0f} us a pair; {micro * reading:.0f} us a pair"
    name = f"load, then read an epoch: {pairs} pairs, {photos} photos"
    yield "g", name, f"{text}, + {memory} MiB", "linear, no growth"


def load(args):
    """Both splits with their photos."""
    return [data.decode(split, args) for split in data.read_splits(args, ("train", "val"))]


def read_epoch(run):
    """Takes every photo of an epoch from the store, as training does."""
    for batch in batches_of(run):
        for rows in run.train.rows[batch].T:
            take_photos(run.train.photos, run.train.boxes, rows, run.device)


def measure_start(flags, folder, device):
    """From the call to the end of the first step, in a process of its own; on a GPU an epoch."""
    seconds = []
    for number in range(3):
        out = folder / f"start{number}"
        seconds.append(seconds_of(lambda out=out: run_until([*flags, "--out", str(out)], out, 2)))
    low, middle, high = sorted(seconds)
    text = "call to the end of the first step, 12,075 pairs, store built, seconds"
    yield "g", text, f"{middle:.1f} ({low:.1f} to {high:.1f})", "<= 8"
    if device != "cpu":
        out = folder / "epoch"
        program = [*flags, "--epochs", "1", "--out", str(out)]
        whole = seconds_of(lambda: run_until(program, out, None))
        yield "g", "a run of one epoch of 12,075 pairs, start to end, seconds", f"{whole:.0f}", ""


def run_until(flags, out, step):
    """Runs train_resnet.py in a process until it begins this step, or, with None, to its end."""
    script = [sys.executable, train_resnet.__file__, "--weights", "none", *flags]
    mark, begun = out / "last_step.txt", False
    with subprocess.Popen(script, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not begun:
            begun = step and mark.is_file() and f"step {step}," in mark.read_text()
            time.sleep(0.005)
        process.kill()
    if process.returncode and not begun:
        stop(__file__, f"train_resnet.py ended with {process.returncode}: {' '.join(flags)}")


def measure_diagnosis(flags, folder):
    """(j) recording against the page's own steps in float64, and comparing, each in a process."""
    page = [train_resnet.__file__, "--weights", "none", "--epochs", "1", *flags]
    trace, outs = folder / "bench.trace", [folder / "bare", folder / "recorded"]
    record = ["-m", "diagnose", "record", "--out", str(trace), *page]
    bare, _, own = child([*page, "--float64"], outs[0])
    recorded, whole, peak = child(record, outs[1])
    text = "seconds of a recorded step / of the page's own in float64"
    yield "j", text, f"{recorded / bare:.2f}", "<= 1.1"
    text = "to record 5 steps from the call on, seconds; peak memory, the page's own peak"
    yield "j", text, f"{whole:.0f}; {peak} MiB, {own} MiB", "own + 512 MiB"
    compare = ["-m", "diagnose", "compare", str(trace), "--data", flags[flags.index("--data") + 1]]
    _, whole, peak = child(compare)
    yield "j", "to compare them, seconds; peak memory", f"{whole:.0f}; {peak} MiB", "3072 MiB"


# Runs a command and prints the peak memory in KiB of it and of what it started.
MEASURED = "; ".join(
    (
        "import resource, subprocess, sys",
        "code = subprocess.call([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL)",
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)",
        "sys.exit(code)",
    )
)


def child(words, out=None):
    """(seconds of a step, seconds in all, peak memory in MiB) of Python with these words.

    out: its --out, of a run of train_resnet whose steps 2 to 4 are measured; None: of no run.
    """
    begun, at = now(), {}
    words = [*words, "--out", str(out)] if out else words
    script = [sys.executable, "-c", MEASURED, *words]
    mark = out / "last_step.txt" if out else None
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            text = mark.read_text() if mark and mark.is_file() else ""
            for step in (2, 5):
                if f"step {step}," in text:
                    at.setdefault(step, now())
            time.sleep(0.005)
        printed = process.stdout.read()
    if process.returncode not in (0, 1):
        stop(__file__, f"ended with {process.returncode}: {' '.join(words)}")
    step = (at[5] - at[2]) / 3 if out else None
    return step, now() - begun, int(printed.split()[-1]) // 1024


# Flags that change rounding


def measure_flags(run, flags, rounds):
    """What each flag that changes rounding gains, and how far it moves the first step."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(run.out)  # or a later call would not compile
    reference = first_step(run)
    chosen = [["--channels-last"], ["--amp"], ["--amp", "--channels-last"], ["--compile"]]
    chosen += [["--tf32"], ["--tf32", "--channels-last"]] if run.device.type == "cuda" else []
    for words in chosen:
        gain, moved = with_run(
            [*flags, *words], lambda other: measure_flag(run, other, reference, rounds)
        )
        yield "i", f"default step / step with {' '.join(words)}", gain, ""
        yield (
            "i",
            f"... moves {', '.join(moved)} of the first step by",
            ", ".join(moved.values()),
            "",
        )


def first_step(run):
    """{what: tensor} of a run's first step: its loss, and all gradients in one vector."""
    set_arithmetic(run.args)
    run.batch, photos = np.arange(run.args.batch_size), first_batch(run)
    run.ranker.train()
    with whole_step(run.args):
        loss = bare_step(run, *photos)
    gradients = [p.grad.reshape(-1) for p in run.ranker.parameters()]
    run.unchecked.clear()
    return {"loss": loss.detach().double(), "gradients": torch.cat(gradients).double()}


def measure_flag(run, other, reference, rounds):
    """Gain of speed, and the relative differences {what: text} of the first step."""
    start = now()
    moved = {
        name: f"{((x - reference[name]).norm() / reference[name].norm()).item():.1e}"
        for name, x in first_step(other).items()
    }
    first = now() - start
    gain = ratio(*in_turn(rounds + 1, step_of(run), step_of(other)))
    return gain + (f"; to compile: {first:.0f} s" if other.args.compile else ""), moved


# The table


def measure(folder, device, size, rounds):
    """Every row of the table: letter, what, figure, aim."""
    write_dataset(folder / "drawn", *invent_dataset(150, 0), 0)
    photos = sorted((folder / "drawn" / "train_val" / "train_val_imgs").iterdir())
    flags = ["--size", str(size), "--device", str(device), "--store", str(folder / "stores")]
    yield from measure_store(folder, 3 * photos, size, rounds)
    places = [*flags, "--data", str(official_shape(folder / "small", 16, photos))]
    few = [*places, "--quick-experiment", "0.06"]  # an epoch in small, of about 8 steps
    yield from measure_steps(few, device, rounds)
    if importlib.util.find_spec("resource"):  # not on Windows
        yield from measure_diagnosis(few, folder)
    yield from with_run(places, lambda run: list(measure_flags(run, places, rounds)))
    Image.new("RGB", (40, 30)).save(folder / "tiny.jpg")
    for part in (16, 4, 1):
        whole = official_shape(folder / f"part{part}", part, [folder / "tiny.jpg"])
        places = [*flags, "--data", str(whole)]
        yield from with_run(places, lambda run: list(measure_growth(run)))
    yield from measure_start(places, folder, device)
    yield from with_run(places, lambda run: list(measure_evaluation(run, rounds)))
    yield from with_run(places, lambda run: list(measure_extraction(run, rounds)))


@exit_on_error
def main(argv=None):
    """Prints the table."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each pair of programs")
    flags = parser.parse_args(argv)
    if flags.size % 32 or flags.size < 32 or flags.rounds < 1:
        stop(__file__, "--size is a multiple of 32 and --rounds at least 1")
    device, rows = resolve_device(__file__, flags.device), []
    started = time.perf_counter()
    with temporary_folder() as folder:
        for row in measure(Path(folder), device, flags.size, flags.rounds):
            rows.append(row)
            show_progress(f"{len(rows)} rows, {time.perf_counter() - started:.0f} s")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {device}"
    lines = [f"\n| | {machine}, size {flags.size} | measured | aim |\n|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row[0]):
        lines.append(f"| {' | '.join(row)} |")
    lines.append(f"\n{time.perf_counter() - started:.0f} seconds in all")
    say("\n".join(lines), sys.stdout)


if __name__ == "__main__":
    main()
