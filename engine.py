"""fit(): all that the recipes share and that is not the paper.

The loop, evaluation, checkpoints, resume and the log. A run folder holds args.json (the resolved
recipe), environment.txt (what may differ between equal runs), train.log, history.tsv,
predictions.tsv (validation, best epoch), best.pt, last.pt and what evidence.py keeps.
"""

import argparse
import json
import os
import platform
import re
import signal
import socket
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from torch import nn

import data
import plot
from data import (
    constant_accuracy,
    prior_loss,
    replace_file,
    say,
    show_progress,
    stop,
    stop_on,
    write_text,
)
from evidence import ENDED, Evidence
from model import ACTIVATIONS, accuracy, cross_entropy, load_checkpoint, load_state, score_pairs
from tracer import Trace

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts

# Flags that say where to run and what to keep; none of them changes a number.
RUN_FLAGS = {
    "data": ("data/phototriage", "folder of the dataset in the official layout"),
    "out": ("", "run folder; runs/ and the recipe's name where empty"),
    "resume": (False, "go on from last.pt in --out"),
    "save_every": (500, "steps between two writes of last.pt"),
    "step_log": (False, "flush a line per phase of a step to step.log, to hunt a crash"),
    "trace": (0, "steps to trace to trace.txt, with init.pt; see compare.py"),
    "store": ("data/stores", "folder of the decoded photos; may be deleted when no run reads it"),
    "device": ("auto", "auto, cpu, cuda, cuda:1, ..."),
}
# Flags that change the rounding of every number, and the speed; see README, "How fast".
ROUNDING_FLAGS = {
    "float64": (False, "train in double, to align another implementation"),
    "channels_last": (False, "weights and activations in memory with the channels innermost"),
    "amp": (False, "the backbone's passes of training in bfloat16 (autocast)"),
    "compile": (False, "the backbone's passes of training through torch.compile"),
    "tf32": (False, "TensorFloat-32 products on a GPU (PyTorch's own default in convolutions)"),
}
CHOICES = {"fit": ("pad", "crop"), "activation": tuple(ACTIVATIONS)}
LIMITS = {
    "size": (32, 4096),
    "min_agreement": (0, 1),
    "quick_experiment": (1e-6, 1),
    "hidden": (1, 65536),
    "dropout": (0, 0.99),
    "inner_dropout": (0, 0.99),
    "batch_size": (1, 4096),
    "lr_backbone": (0, 100),
    "lr_head": (0, 100),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 10),
    "lr_factor": (1e-6, 1),
    "lr_every": (1, 100_000),
    "epochs": (1, 100_000),
    "patience": (1, 100_000),
    "seed": (0, 2**63 - 1),
    "save_every": (1, 10**9),
    "trace": (0, 10_000),
}
# Windows has no SIGHUP.
SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
UNFINISHED = r"run\.lock|environment\.txt|last_step\.txt|step\.log|crash(-\d+)?\.log|.*\.part"
BEGINNING = {"epoch": 1, "step": 0, "loss_sum": 0.0, "correct": 0}
BEGINNING |= {"best_epoch": 0, "best_accuracy": -1.0}
HISTORY = "epoch lr_backbone lr_head train_loss train_acc val_loss val_acc"
PREDICTIONS = "series photo_1 photo_2 label logit_1 logit_2"


# Flags


def arguments(script, doc, recipe, argv=None):
    """The flags of a training script (its __file__): those of its recipe and the two lists above.

    recipe maps a name to (default, explanation with source). Adds `recipe`, the script's name,
    and resolves `device` and `out`. A wrong value ends the program with one line.
    """
    name, parser = Path(script).stem, data.command_line(script, doc)
    for key, (default, explanation) in (recipe | RUN_FLAGS | ROUNDING_FLAGS).items():
        text = f"{explanation} (default: {default})".replace("%", "%%")
        options = {"default": default, "help": text}
        if default is False:
            options["action"] = "store_true"
        elif isinstance(default, tuple):
            options |= {"nargs": "*", "type": int}
        else:
            options |= {"type": type(default), "choices": CHOICES.get(key)}
        parser.add_argument(f"--{key.replace('_', '-')}", **options)
    args = parser.parse_args(argv)
    for number in SIGNALS:
        signal.signal(number, end_at_once)
    args.hidden = list(args.hidden)
    check_values(script, args)
    args.recipe, args.out = name, args.out or f"runs/{name}"
    args.changed = [key for key in recipe if getattr(args, key) != _plain(recipe[key][0])]
    args.changed += [key for key in ROUNDING_FLAGS if getattr(args, key)]
    check_out(args)
    data.find_split(args.data, "train")  # before weights are loaded, or fetched, for nothing
    return args


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def check_values(script, args):
    """Ends the program where a flag's value makes no sense; resolves args.device."""
    for key, (low, high) in LIMITS.items():
        value = getattr(args, key, low)
        if not all(low <= v <= high for v in (value if isinstance(value, list) else [value])):
            stop(script, f"--{key.replace('_', '-')} {value}: not in {low}..{high}")
    if args.size % 32:
        stop(script, f"--size {args.size}: not a multiple of 32")
    if data.parse_color(args.pad_color) is None:
        stop(script, f"--pad-color {args.pad_color}: not imagenet, train or R,G,B in 0..255")
    if args.dropout and not args.hidden:
        stop(
            script, f"--dropout {args.dropout}: the direct head has no layer to drop; see --hidden"
        )
    args.device = resolve_device(script, args.device)
    if args.float64 and (args.amp or args.tf32):
        stop(script, "--float64: excludes --amp and --tf32")
    if args.tf32 and args.device == "cpu":
        stop(script, "--tf32: a CPU has no TensorFloat-32")


def resolve_device(script, name):
    """`auto` as cuda or cpu; ends the program where the device does not exist."""
    count = torch.cuda.device_count()
    known = ["cpu"] + (["cuda"] if count else []) + [f"cuda:{i}" for i in range(count)]
    if name != "auto" and name not in known:
        stop(script, f"--device {name}: not among auto, {', '.join(known)}")
    if ":" in name:
        torch.cuda.set_device(name)  # what is asked without a device is meant of this one
    return ("cuda" if count else "cpu") if name == "auto" else name


# The run folder


def check_out(args):
    """Ends the program where --out cannot take this run, before any work is done.

    A new run needs an empty folder; --resume needs the same recipe, but for more epochs, or a
    folder where nothing has begun, since a run may have been killed before.
    """
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        stop(__file__, f"--out {out}: is a file")
    with stop_on(__file__, f"--out {out}", OSError):
        names = [path.name for path in out.iterdir()] if out.is_dir() else []
    begun = [name for name in names if not re.fullmatch(UNFINISHED, name)]  # before args.json
    if names and not args.resume:
        stop(__file__, f"--out {out}: holds a run or other files; name another, or --resume")
    if "args.json" in names:
        check_resume(out, settings_of(args))
    elif begun:
        stop(__file__, f"--resume: {out} holds {begun[0]}, but no args.json of a run")
    parent = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        stop(__file__, f"--out {out}: {parent} cannot be written")


def settings_of(args, splits=None):
    """What must be the same for two runs to be equal: the recipe, and checksums of the data."""
    settings = {"recipe": args.recipe}
    settings |= {key: value for key, value in vars(args).items() if key not in RUN_FLAGS}
    for name, split in (splits or {}).items():
        sizes = [(split.folder / file).stat().st_size for file in split.files]
        settings[f"{name}_pairs_crc32"] = pairs_checksum(split)
        settings[f"{name}_photo_bytes_crc32"] = f"{zlib.crc32(str(sizes).encode()):08x}"
    return settings


def pairs_checksum(split):
    """CRC-32, in hexadecimal, of the pairs, their labels and the photos' names."""
    content = split.pairs.tobytes() + "\n".join(split.files).encode()
    return f"{zlib.crc32(content):08x}"


def check_resume(out, settings):
    """Ends the program where out holds a run of another recipe or other data, or a damaged one."""
    with stop_on(__file__, out / "args.json", OSError, ValueError):
        before = json.loads((out / "args.json").read_text(encoding="utf-8"))
    if not isinstance(before, dict) or not isinstance(before.get("epochs"), int):
        stop(__file__, f"--resume: {out / 'args.json'} is not that of a run")
    for key, value in settings.items():
        if before.get(key) != value and key not in ("epochs", "changed"):
            stop(__file__, f"--resume: {key} was {before.get(key)} in {out}, now it is {value}")
    if settings["epochs"] < before["epochs"]:
        stop(__file__, f"--resume: --epochs {settings['epochs']} is less than {before['epochs']}")


def check_files(out):
    """Ends the program where a run has lost last.pt after its first epoch: it would start anew."""
    history = out / "history.tsv"
    epochs = history.read_text(encoding="utf-8").count("\n") - 1 if history.is_file() else 0
    if epochs > 1 and not (out / "last.pt").is_file():
        stop(__file__, f"--resume: {out} has {epochs} epochs in history.tsv, but no last.pt")


def open_run(args):
    """Makes and locks the run folder; its Evidence."""
    out = Path(args.out)
    with stop_on(__file__, f"--out {out}", OSError):
        out.mkdir(parents=True, exist_ok=True)
    return Evidence(out, args.step_log)


def describe_run(args, splits):
    """Writes args.json and a block of environment.txt, once it is clear that the run may go on."""
    out, settings = Path(args.out), settings_of(args, splits)
    if (out / "args.json").is_file():
        check_resume(out, settings)
        check_files(out)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }
    environment = versions | {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "device": args.device,
        "threads": torch.get_num_threads(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv),
    }
    lines = [f"{key}: {value}\n" for key, value in environment.items()]
    before = out / "environment.txt"  # a resumed run may go on elsewhere: one block per start
    text = before.read_text(encoding="utf-8") + "\n" if before.is_file() else ""
    write_text(out / "environment.txt", text + "".join(lines))
    write_text(out / "args.json", json.dumps(settings | {"versions": versions}, indent=1) + "\n")


def log(out, text):
    """Appends a line to train.log, the same text in every equal run, and prints it."""
    path = out / "train.log"
    with stop_on(__file__, path, OSError), open(path, "a", encoding="ascii", newline="\n") as file:
        file.write(f"{text}\n")
    with stop_on(__file__, "the output", OSError):
        say(text, sys.stdout)


def log_header(run):
    """The recipe, the data's counts and chance levels, and each parameter group."""
    args, out = run.args, run.out
    log(out, f"PhotoTriage reference, recipe {args.recipe}, seed {args.seed}")
    values = {key: getattr(args, key) for key in args.changed}
    if "weights" in values and values["weights"] not in ("imagenet", "none"):
        values["weights"] = "file"  # a path would differ between equal runs
    changed = [f"{key}={value}" for key, value in values.items()]
    log(out, f"Changed from the recipe: {', '.join(changed) or 'nothing'}")
    for split in (run.train, run.val):
        labels, series = split.pairs["label"], np.unique(split.pairs["series"])
        counts = f"{len(labels)} pairs, {len(series)} series, {len(split.files)} photos"
        chance = f"constant {constant_accuracy(labels):.4f}, prior loss {prior_loss(labels):.4f}"
        log(out, f"{split.name + ':':6} {counts}, label 1 {labels.mean():.4f}, {chance}")
    for group in run.optimizer.param_groups:
        numel = sum(p.numel() for p in group["params"] if p.requires_grad)
        tensors = len(group["params"])
        log(out, f"Group {group['name']}: {numel} values in {tensors} tensors, lr {rate(group)}")


def rate(group):
    """A group's learning rate with up to four digits, as 1e-05."""
    digits, exponent = f"{group['lr']:.3e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{exponent}"


def log_epoch(run, losses, accuracies):
    """The lines of one epoch; losses and accuracies are (train, val)."""
    labels, rates = run.val.pairs["label"], map(rate, run.optimizer.param_groups)
    log(run.out, f"Epoch {run.position['epoch']}/{run.args.epochs}  lr {'/'.join(rates)}")
    log(run.out, f"  Train: loss={losses[0]:.4f} acc={accuracies[0]:.4f}")
    chance = f"constant {constant_accuracy(labels):.4f}, prior loss {prior_loss(labels):.4f}"
    val = f"loss={losses[1]:.4f} acc={accuracies[1]:.4f}"
    log(run.out, f"  Val:   {val}  ({chance}, n={len(labels)})")


def write_history(out, rows):
    """history.tsv: one line per epoch, floats as repr."""
    lines = [HISTORY.split(), *([repr(value) for value in row] for row in rows)]
    write_text(out / "history.tsv", "".join("\t".join(line) + "\n" for line in lines))


def write_predictions(path, split, logits):
    """A predictions file: file names in the photo columns, floats as repr, label may be empty."""
    lines = [PREDICTIONS.split()]
    for pair, (row_1, row_2), scores in zip(split.pairs, split.rows, logits.tolist(), strict=True):
        label = "" if pair["label"] < 0 else str(pair["label"])
        photos = [split.files[row_1], split.files[row_2]]
        lines.append([str(pair["series"]), *photos, label, *map(repr, scores)])
    write_text(path, "".join("\t".join(line) + "\n" for line in lines))


# Checkpoints


def save_last(run):
    """last.pt: all that a run needs to go on to the bit, in plain types and tensors."""
    mark(run, "saving last.pt")
    run.position["log"] = (run.out / "train.log").read_text(encoding="ascii")
    state = {
        "model": run.ranker.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "position": run.position,
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None,
    }
    replace_file(run.out / "last.pt", lambda file: torch.save(state, file))
    run.evidence.note_resources(run.position["epoch"], run.step)


def load_last(run):
    """Puts the run where last.pt left it, train.log and history.tsv included."""
    keys = ("model", "optimizer", "schedule", "position", "random", "cuda_random")
    state = load_checkpoint(run.out / "last.pt", keys)
    load_state(run.ranker, state["model"], run.out / "last.pt")
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    run.position = state["position"]
    torch.set_rng_state(state["random"])
    if run.device.type == "cuda" and state["cuda_random"] is not None:
        torch.cuda.set_rng_state(state["cuda_random"], run.device)
    write_history(run.out, run.position["history"])
    write_text(run.out / "train.log", run.position["log"])
    if run.position["best_epoch"] and not (run.out / "best.pt").is_file():
        stop(__file__, f"--resume: {run.out} has no best.pt, though epoch 1 is done")


def keep_best(run, logits, accuracy):
    """best.pt and predictions.tsv, where the epoch is better than every one before it."""
    position = run.position
    if accuracy <= position["best_accuracy"]:
        return
    mark(run, "saving best.pt")
    position |= {"best_epoch": position["epoch"], "best_accuracy": accuracy}
    state = {"model": run.ranker.state_dict(), "epoch": position["epoch"], "accuracy": accuracy}
    replace_file(run.out / "best.pt", lambda file: torch.save(state, file))
    write_predictions(run.out / "predictions.tsv", run.val, logits)


# The loop


@dataclass
class Run:
    """A training run: what the loop, the checkpoints and the log all need."""

    args: argparse.Namespace
    out: Path
    ranker: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    loss_function: Callable  # (logits [B, 2], label [B]) to the mean loss of the batch
    train: data.Split
    val: data.Split
    position: dict  # epoch (from 1 on) and steps done in it, sums so far, best, history
    evidence: Evidence
    trace: Trace
    backbone: Callable  # of the training steps: the ranker's own, or compiled
    step: int = 0  # the step under way, from 1 on
    unchecked: list = field(default_factory=list)  # (step, batch, flags), see watch_finite

    @property
    def device(self):
        return next(self.ranker.parameters()).device

    @property
    def dtype(self):
        return next(self.ranker.parameters()).dtype


def fit(args, ranker, optimizer, schedule, loss_function):
    """Trains the ranker after the recipe in args and leaves a run folder.

    optimizer has named parameter groups; schedule steps once per epoch;
    loss_function(logits [B, 2], label [B]) gives the mean loss of a batch.
    """
    set_arithmetic(args)
    shape_model(args, ranker)
    check_pooling(args, ranker)
    check_room(args, ranker)
    check_compiler(args)
    splits = data.load(args, ("train", "val"))
    check_batch_norm(args, ranker, len(splits["train"].pairs))
    with open_run(args) as evidence:
        describe_run(args, splits)
        device = next(ranker.parameters()).device
        train, val = (data.move_store(splits[name], device) for name in ("train", "val"))
        pieces = (args, Path(args.out), ranker, optimizer, schedule, loss_function)
        trace, backbone = start_trace(args, ranker), choose_backbone(args, ranker)
        run = Run(*pieces, train, val, dict(BEGINNING, history=[]), evidence, trace, backbone)
        begin(run)
        train_epochs(run)


def set_arithmetic(args):
    """Deterministic algorithms, and float32 as it is written but where args says --tf32."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads such memory
    # Not through fp32_precision, the newer names: torch.compile reads these two, and PyTorch 2.11
    # ends a program that reads the one after it has set the other.
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    torch.backends.cudnn.allow_tf32 = args.tf32


def shape_model(args, ranker):
    """Puts the ranker, in place, into the number format and memory order that args asks for."""
    if args.float64:
        ranker.double()
    if args.channels_last:
        ranker.to(memory_format=torch.channels_last)


def choose_backbone(args, ranker):
    """What maps photos to features in the training steps; evaluation never runs compiled."""
    if not args.compile:
        return ranker.backbone
    # fallback_random: dropout draws the same numbers as without
    return torch.compile(ranker.backbone, dynamic=False, options={"fallback_random": True})


def train_epochs(run):
    """The loop, from the run's position to the last epoch, or until patience or a signal ends."""
    args, position, received = run.args, run.position, catch_signals()
    while position["epoch"] <= args.epochs and not out_of_patience(run):
        run.ranker.train()
        count, epoch = len(run.train.pairs), position["epoch"]
        batches = data.epoch_batches(count, args.batch_size, args.seed, epoch)
        loss_sum = torch.tensor(position["loss_sum"], dtype=torch.float64, device=run.device)
        correct = torch.tensor(position["correct"], device=run.device)
        clock = time.monotonic(), position["step"]
        for step in range(position["step"], len(batches)):
            run.step = step + 1
            loss, hits = train_step(run, batches[step])
            loss_sum += loss * len(batches[step])
            correct += hits
            show_pace(run, clock, step + 1, len(batches))
            last = step + 1 == len(batches)
            due = (step + 1) % args.save_every == 0 or bool(received)
            if due or last:
                check_finite(run)
                position |= {"step": step + 1, "loss_sum": loss_sum.item()}
                position |= {"correct": correct.item()}
            if due and not last:
                save_last(run)
                leave_if_asked(run, received)
        finish_epoch(run)
        leave_if_asked(run, received)
    if out_of_patience(run):
        log(run.out, f"Early stop: no better validation accuracy for {args.patience} epochs")
    log(run.out, f"Best: epoch {position['best_epoch']}, val acc={position['best_accuracy']:.4f}")
    mark(run, ENDED)


def start_trace(args, ranker):
    """The trace of a new run's first steps, with init.pt to start from; else one of no steps."""
    out = Path(args.out)
    steps = 0 if (out / "last.pt").is_file() else args.trace
    if args.trace and not steps:
        say("--trace: the first steps are over, no more are traced", sys.stderr)
    if steps:
        state = ranker.state_dict()
        replace_file(out / "init.pt", lambda file: torch.save(state, file))
    dtype = "float64" if args.float64 else "float32"
    return Trace(out / "trace.txt", steps, args.recipe, args.seed, dtype, args.device)


def begin(run):
    """Goes on from last.pt where that is there; else opens the log."""
    if (run.out / "last.pt").is_file():
        load_last(run)
        return
    write_text(run.out / "train.log", "")
    if not plot.available():
        say("no training_curves.png: matplotlib is not installed", sys.stdout)
    log_header(run)


def check_room(args, ranker):
    """Ends the program where the disk has no room for the checkpoints of a new run."""
    out = Path(args.out).absolute()
    if not (out / "last.pt").is_file():
        model_bytes = sum(t.numel() * t.element_size() for t in ranker.state_dict().values())
        folder = next(folder for folder in (out, *out.parents) if folder.is_dir())
        # best.pt, last.pt (with the momentum) and, while it is replaced, last.pt once more
        data.check_space(folder, 5 * model_bytes, "best.pt and last.pt")


def mark(run, phase):
    """Puts on file, in case the process dies in it, which phase of a step begins."""
    run.evidence.mark(run.position["epoch"], run.step, phase)


def train_step(run, batch):
    """One update on these pairs; the loss (double) and the number correct, on the device."""
    mark(run, "loading the photos")
    pad_color = data.parse_color(run.args.pad_color)
    photo_1, photo_2 = data.take_pairs(run.train, batch, run.device, pad_color, run.dtype)
    label = torch.from_numpy(run.train.pairs["label"][batch]).to(run.device, non_blocking=True)
    trace, files = run.trace, run.train.files
    names_1, names_2 = ([files[row] for row in side] for side in run.train.rows[batch].T)
    trace.begin()
    trace.pairs(names_1, names_2, label, run.train.folder)
    trace.inputs(photo_1, photo_2)
    trace.model(run.ranker)
    # One after the other, not as one batch: BatchNorm sees each side alone.
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.args.amp):
        mark(run, "forward pass of photo_1")
        features_1 = run.backbone(photo_1)
        mark(run, "forward pass of photo_2")
        features_2 = run.backbone(photo_2)
    features_1, features_2 = features_1.to(run.dtype), features_2.to(run.dtype)
    difference = features_1 - features_2
    logits = run.ranker.head(difference)
    trace.forward(features_1, features_2, difference, logits, label)
    loss = run.loss_function(logits, label)
    trace.loss(loss)
    mark(run, "backward pass")
    run.optimizer.zero_grad()
    loss.backward()
    trace.gradients(run.ranker)
    watch_finite(run, batch, loss)
    mark(run, "update")
    run.optimizer.step()
    trace.update(run.ranker, run.optimizer)
    correct = (logits.argmax(1) == label).sum()
    trace.metrics(correct, len(batch), loss)
    return loss.detach().double(), correct


def watch_finite(run, batch, loss):
    """Notes whether the loss and each group's gradient are finite, and on a CPU looks at once.

    On a GPU to look is to wait for it, so there the loop looks before anything is saved. A
    gradient longer than 1.8e19, whose square float32 cannot hold, counts as not finite.
    """
    sizes = [loss.detach()]
    for group in run.optimizer.param_groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        sizes.append(torch.nn.utils.get_total_norm(gradients))
    flags = torch.stack(sizes).isfinite()
    run.unchecked.append((run.step, batch, flags))
    if run.device.type == "cpu":
        check_finite(run)


def check_finite(run):
    """Ends the program, nothing of it saved, where a loss or gradient noted was not finite."""
    if not run.unchecked:
        return
    flags = torch.stack([flags for _, _, flags in run.unchecked]).tolist()  # one wait for all
    for (step, batch, _), finite in zip(run.unchecked, flags, strict=True):
        if not all(finite):
            groups = [f"gradient of group {group['name']}" for group in run.optimizer.param_groups]
            culprit = ["loss", *groups][finite.index(False)]
            pairs, rows = run.train.pairs[batch], run.train.rows[batch]
            names = [
                f"{run.train.files[a]} {run.train.files[b]} (train_pairlist.txt:{pair['line']})"
                for pair, (a, b) in zip(pairs, rows, strict=True)
            ]
            where = f"epoch {run.position['epoch']}, step {step}"
            stop(__file__, f"{where}: the {culprit} is not finite; pairs: {', '.join(names)}")
    run.unchecked.clear()


def finish_epoch(run):
    """Evaluates, keeps the best, logs the epoch, steps the schedule and saves."""
    args, position, labels = run.args, run.position, torch.from_numpy(run.val.pairs["label"])
    pairs, pad_color = len(run.train.pairs), data.parse_color(args.pad_color)
    mark(run, "evaluation")
    logits = score_pairs(run.ranker, run.val, args.batch_size, pad_color)
    losses = position["loss_sum"] / pairs, cross_entropy(logits, labels)
    accuracies = position["correct"] / pairs, accuracy(logits, labels)
    if not np.isfinite(losses[1]):
        where = f"epoch {position['epoch']}, step {run.step}"
        stop(__file__, f"{where}: the validation loss is not finite; nothing of it was saved")
    run.trace.epoch(losses[0], accuracies[0], pairs)
    rates = [group["lr"] for group in run.optimizer.param_groups]
    row = (position["epoch"], *rates, losses[0], accuracies[0], losses[1], accuracies[1])
    position["history"].append(row)
    keep_best(run, logits, accuracies[1])
    log_epoch(run, losses, accuracies)
    write_history(run.out, position["history"])
    if plot.available():
        plot.draw([run.out], run.out / "training_curves.png")
    run.schedule.step()
    position |= {"epoch": position["epoch"] + 1, "step": 0, "loss_sum": 0.0, "correct": 0}
    save_last(run)


def out_of_patience(run):
    """Whether the last `patience` epochs brought no better validation accuracy."""
    return run.position["epoch"] - 1 - run.position["best_epoch"] >= run.args.patience


def check_batch_norm(args, ranker, pairs):
    """Ends the program where a batch would leave BatchNorm one value per channel."""
    has_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in ranker.modules())
    if has_norm and args.size < 64 and 1 in (args.batch_size, pairs % args.batch_size):
        stop(__file__, f"--size {args.size}: a batch of one pair leaves BatchNorm a single value")


def check_pooling(args, ranker):
    """Ends the program where pooling has no deterministic backward pass: on a GPU, not to 1 x 1."""
    pools = [m.output_size for m in ranker.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    if args.device != "cpu" and any(size not in (1, (1, 1)) for size in pools):
        advice = "VGG-16 takes --size 224 there, or --device cpu"
        stop(__file__, f"--size {args.size}: no deterministic pooling on a GPU; {advice}")


def check_compiler(args):
    """Ends the program where torch.compile finds no compiler that works; it tries a trifle."""
    if args.compile:
        with stop_on(__file__, "--compile", Exception):
            torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=args.device))


def end_at_once(number, frame):
    """Handler of a signal before the first step, where there is nothing to finish."""
    say("ended at once; the same command with --resume goes on", sys.stderr)
    sys.exit(128 + number)


def catch_signals():
    """A list that SIGINT, SIGTERM and SIGHUP append to; a second one ends the program at once."""
    received = []

    def handler(number, frame):
        received.append(number)
        signal.signal(number, end_at_once)
        say("finishing the step, then saving ...", sys.stderr)

    for number in SIGNALS:
        signal.signal(number, handler)
    return received


def leave_if_asked(run, received):
    """After a signal, with all saved: says how to go on, ends with 128 + the signal's number."""
    if received:
        where = f"epoch {run.position['epoch']} with {run.position['step']} steps done"
        say(f"saved in {where}; the same command with --resume goes on", sys.stderr)
        mark(run, ENDED)
        sys.exit(128 + received[0])


def show_pace(run, clock, step, steps):
    """The progress line: pairs per second and the time left in the epoch."""
    seconds = max(time.monotonic() - clock[0], 1e-3)  # Windows' clock may stand still for a step
    pairs = (step - clock[1]) * run.args.batch_size
    left = int(seconds / (step - clock[1]) * (steps - step))
    text = f"epoch {run.position['epoch']}  step {step}/{steps}  {pairs / seconds:.1f} pairs/s"
    show_progress(f"{text}  {left // 60}:{left % 60:02d} left", step == steps)
