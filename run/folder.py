"""A run folder: args.json, environment.txt, train.log, history.tsv, predictions.tsv.

Whether a folder can take a run, and whether a run may go on in it, is decided here.
"""

import json
import os
import platform
import re
import socket
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision

from disk.errors import fail_on, say, stop
from disk.files import check_space, write_table, write_text
from disk.pairlist import LONGEST
from run.evidence import read_lightly
from run.scores import chance_levels

ROOT = Path(__file__).resolve().parent.parent
UNFINISHED = r"run\.lock|environment\.txt|last_step\.txt|step\.log|crash(-\d+)?\.log|.*\.part"
HISTORY = "epoch lr_backbone lr_head train_loss train_acc val_loss val_acc"
PREDICTIONS = "series photo_1 photo_2 label logit_1 logit_2"
CURVES = "training_curves.png"
MAY_CHANGE = ("epochs", "changed")  # between a run and its resumption


def recipe_name(script):
    """The name of a page by its file, as it is imported: train_resnet."""
    path = Path(script).resolve()
    if not path.is_relative_to(ROOT):
        stop(__file__, f"{path}: a page must be in the folder of this project or below")
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


# May it be done?


def check_out(args, settings):
    """Ends the program where --out cannot take this run, before any work is done.

    A new run needs an empty folder; --resume needs the same settings, but for more epochs, or a
    folder where nothing has begun, since a run may have been killed before.
    """
    out = Path(args.out)
    if os.path.lexists(out) and not out.is_dir():
        stop(__file__, f"--out {out}: is a file, or a link that leads to no folder")
    with fail_on(__file__, f"--out {out}", OSError):
        entries = list(out.iterdir()) if out.is_dir() else []
    names = [path.name for path in entries]
    begun = [name for name in names if not re.fullmatch(UNFINISHED, name)]  # before args.json
    if names and not args.resume:
        stop(__file__, f"--out {out}: holds a run or other files; name another, or --resume")
    for path in entries:  # what is written must lie in this folder
        if path.name != CURVES and (path.is_symlink() or not path.is_file()):
            kind = "a link" if path.is_symlink() else "no file"
            stop(__file__, f"--out {out}: {path.name} is {kind}; a run folder holds files alone")
    if "args.json" in names:
        check_resume(out, settings)
    elif begun:
        stop(__file__, f"--resume: {out} holds {begun[0]}, but no args.json of a run")
    parent = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        stop(__file__, f"--out {out}: {parent} cannot be written")


def check_room(out, ranker):
    """Ends the program where the disk has no room for the checkpoints of a new run."""
    if not (out / "last.pt").is_file():
        model_bytes = sum(t.numel() * t.element_size() for t in ranker.state_dict().values())
        places = (out.absolute(), *out.absolute().parents)
        folder = next(folder for folder in places if folder.is_dir())
        # best.pt, last.pt (with the momentum) and, while it is replaced, last.pt once more
        check_space(folder, 5 * model_bytes, "best.pt and last.pt")


def read_settings(out):
    """What args.json of a run folder holds; ends the program where it is not that of a run."""
    with fail_on(__file__, out / "args.json", OSError, ValueError, RecursionError, MemoryError):
        settings = json.loads((out / "args.json").read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not isinstance(settings.get("epochs"), int):
        stop(__file__, f"{out / 'args.json'}: not that of a run")
    return settings


def check_resume(out, settings):
    """Ends the program where out holds a run of another recipe, code or data, or a damaged one."""
    before = read_settings(out)
    if not isinstance(before.get("sources"), dict):
        stop(__file__, f"--resume: {out / 'args.json'} is that of another version, or damaged")
    for key, now in settings.items():
        if key not in ("sources", *MAY_CHANGE):
            tell_difference(out, key, before.get(key), now, "take the value that it had")
    for path, now in settings["sources"].items():
        old, what = before["sources"].get(path), f"the checksum of {path}"
        tell_difference(out, what, old, now, "bring the file back")
    if settings["epochs"] < before["epochs"]:
        stop(__file__, f"--resume: --epochs {settings['epochs']} is less than {before['epochs']}")


def tell_difference(out, what, old, now, way_back):
    """Ends the program where something is not as in the run that is to go on, with a way out."""
    if old != now:
        advice = f"{way_back}, or start again with another --out"
        old, now = (str(value)[:LONGEST] for value in (old, now))
        stop(__file__, f"--resume: {what} was {old} in {out}, now it is {now}; {advice}")


def run_checksum(out):
    """What tells one run from another: the checksum of its args.json, but what may change in it."""
    settings = read_settings(out)
    kept = {key: value for key, value in settings.items() if key not in (*MAY_CHANGE, "versions")}
    return checksum(json.dumps(kept, sort_keys=True).encode())


def check_files(out):
    """Ends the program where a run has lost last.pt after its first epoch: it would start again."""
    history = out / "history.tsv"
    epochs = read_lightly(history).count("\n") - 1
    if epochs > 1 and not (out / "last.pt").is_file():
        stop(__file__, f"--resume: {out} has {epochs} epochs in history.tsv, but no last.pt")


# What must be the same for two runs to be equal


def checksum(content):
    """CRC-32 of bytes in hexadecimal."""
    return f"{zlib.crc32(content):08x}"


def source_checksums(recipe):
    """{path: checksum} of the page and of every file that it imports, line ends aside."""
    page = f"{recipe.replace('.', '/')}.py"
    rooms = ["disk", "run"] + [page.rpartition("/")[0]] * ("/" in page)
    below = (path for room in rooms for path in sorted((ROOT / room).glob("*.py")))
    paths = dict.fromkeys([ROOT / page, ROOT / "model.py", ROOT / "data.py", *below])
    return {
        path.relative_to(ROOT).as_posix(): checksum(path.read_bytes().replace(b"\r\n", b"\n"))
        for path in paths
    }


def pairs_checksum(split):
    """Checksum of the pairs, their labels and the photos' names."""
    return checksum(split.pairs.tobytes() + "\n".join(split.files).encode())


def data_checksums(splits):
    """{name: checksum} of the pairs of each split, and of its decoded photos or features."""
    checksums = {}
    for split in splits:
        held = getattr(split, "features", None)
        held = split.boxes if held is None else held  # boxes hold the checksum of each photo
        checksums[f"{split.name}_pairs_crc32"] = pairs_checksum(split)
        checksums[f"{split.name}_photos_crc32"] = checksum(torch.as_tensor(held).cpu().numpy())
    return checksums


def describe_run(args, settings):
    """Writes args.json and a block of environment.txt, once it is clear that the run may go on."""
    out = Path(args.out)
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
    text = read_lightly(before)
    tell_changes(text, environment)
    text += "\n" * bool(text)
    write_text(out / "environment.txt", text + "".join(lines))
    write_text(out / "args.json", json.dumps(settings | {"versions": versions}, indent=1) + "\n")


def tell_changes(text, environment):
    """Says what of the machine is not as when the run was started last; text: environment.txt."""
    before = dict(re.findall(r"(.+?): (.*)", text.rpartition("\n\n")[2]))
    for key, value in environment.items():
        if key not in ("started", "command") and before.get(key, str(value)) != str(value):
            text = "equality to the bit holds where they are the same"
            say(f"{key} was {before[key]}, now it is {value}; {text}", sys.stderr)


# The log and the tables


def log(out, text):
    """Appends a line to train.log, the same text in every equal run, and prints it."""
    path = out / "train.log"
    with fail_on(__file__, path, OSError), open(path, "a", encoding="ascii", newline="\n") as file:
        file.write(f"{text}\n")
    say(text, sys.stdout)


def header(args, splits, groups):
    """Lines: the recipe, the data's counts and chance levels, each parameter group."""
    yield f"PhotoTriage reference, recipe {args.recipe}, seed {args.seed}"
    values = {key: getattr(args, key) for key in args.changed}
    if "weights" in values and values["weights"] not in ("imagenet", "none"):
        values["weights"] = "file"  # a path would differ between equal runs
    changed = [f"{key}={value}" for key, value in values.items()]
    yield f"Changed from the recipe: {', '.join(changed) or 'nothing'}"
    for split in splits:
        labels, series = split.pairs["label"], np.unique(split.pairs["series"])
        counts = f"{len(labels)} pairs, {len(series)} series, {len(split.files)} photos"
        chance = chance_levels(labels)
        yield f"{split.name + ':':6} {counts}, label 1 {labels.mean():.4f}, {chance}"
    for group in groups:
        numel = sum(p.numel() for p in group["params"] if p.requires_grad)
        tensors = len(group["params"])
        yield f"Group {group['name']}: {numel} values in {tensors} tensors, lr {rate(group['lr'])}"


def epoch_lines(row, epochs, labels):
    """Lines of one epoch, a row of HISTORY; labels: of the validation pairs."""
    epoch, *rates, train_loss, train_accuracy, val_loss, val_accuracy = row
    yield f"Epoch {epoch}/{epochs}  lr {'/'.join(map(rate, rates))}"
    yield f"  Train: loss={train_loss:.4f} acc={train_accuracy:.4f}"
    chance = f"{chance_levels(labels)}, n={len(labels)}"
    yield f"  Val:   loss={val_loss:.4f} acc={val_accuracy:.4f}  ({chance})"


def rate(lr):
    """A learning rate with up to four digits, as 1e-05."""
    digits, exponent = f"{lr:.3e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{exponent}"


def write_history(out, rows):
    """history.tsv: one line per epoch, floats as repr."""
    write_table(out / "history.tsv", [HISTORY.split(), *([repr(v) for v in row] for row in rows)])


def predictions_path(run, split, checksum=""):
    """Where the predictions of a scored split lie; checksum: of pairs that are not the run's."""
    return Path(run) / f"predictions_{split}{'_' * bool(checksum)}{checksum}.tsv"


def write_predictions(path, split, logits):
    """A predictions file: file names in the photo columns, floats as repr, label may be empty."""
    rows = [PREDICTIONS.split()]
    for pair, (row_1, row_2), scores in zip(split.pairs, split.rows, logits.tolist(), strict=True):
        label = "" if pair["label"] < 0 else str(pair["label"])
        photos = [split.files[row_1], split.files[row_2]]
        rows.append([str(pair["series"]), *photos, label, *map(repr, scores)])
    write_table(path, rows)
