"""Every path flag of every command, found in its parser, with what is not a sound path."""

import argparse
import contextlib
import os
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from test_damage import ends

import bench
import eval as scoring
import make_demo
import train_resnet
import train_vgg
from diagnose import compare, dataset, record
from diagnose.labels import judge as labels
from diagnose.predictions import judge as predictions
from disk.tensors import load_weights
from run import curves
from variants import features, train_finetune, train_frozen

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs, links and modes here")
# Flags that take words, but no path; any other flag that takes words is tried as one. A folder to
# --join is tried in test_exits.py.
NO_PATHS = {"help", "device", "columns", "reported_accuracy", "pad_color", "freeze", "hang", "join"}
TRAIN = {"data": "demo", "store": "stores", "out": "new"}
SCORE = {"run": "run", "data": "demo", "store": "stores", "sheet": "new.png"}
# {command: (module, flags that take no path, {path flag: a sound value})}
COMMANDS = {
    "train_resnet": (train_resnet, conftest.SMALL, TRAIN | {"weights": "weights.pt"}),
    "train_vgg": (train_vgg, conftest.SMALL, TRAIN | {"weights": "none"}),
    "train_finetune": (train_finetune, ["--size", "64", "--freeze"], TRAIN | {"weights": "none"}),
    "train_frozen": (
        train_frozen, ["--size", "64", "--min-agreement", "0"],
        TRAIN | {"weights": "none", "votes": "votes.tsv"},
    ),
    "train_frozen --features": (train_frozen, [], {"data": "demo", "features": "features.npz"}),
    "eval": (scoring, [], SCORE),
    "eval --photos": (
        scoring, [], {"run": "run", "photos": "one.JPG", "sheet": "new.png"},
    ),
    "make_demo": (make_demo, [], {"out": "new", "like": "test_pairlist.txt"}),
    "bench": (bench, [], {}),
    "dataset": (dataset, [], {"data": "demo"}),
    "labels": (labels, [], {"labels": "votes.tsv", "data": "demo", "align": "new.tsv"}),
    "predictions": (
        predictions, [],
        {"predictions": "run/predictions.tsv", "data": "demo", "sheet": "new.png",
         "repeated": "run/predictions.tsv", "rebatched": "run/predictions.tsv"},
    ),
    "compare": (
        compare, [], {"trace": "mine.trace", "data": "demo", "weights": "weights.pt",
                      "predictions": "new.tsv"},
    ),
    "record": (record, [], {"out": "new.trace", "script": "trainer.py"}),
    "curves": (curves, [], {"runs": "run", "out": "new.png"}),
}  # fmt: skip
HOSTILE = ("folder", "missing parent", "long name", "link loop", "FIFO", "not permitted")
# Where such a path is legitimate: a folder that is made, or one with other files in it.
WORKS = {("out", "missing parent"), ("store", "missing parent"), ("store", "folder")}


class Seen(BaseException):
    """Carries a parser out of a main function."""


def path_flags(module, monkeypatch):
    """{name: words before its value} of the flags of a command that may take a path."""

    def show(parser, argv=None):
        raise Seen(parser)

    with monkeypatch.context() as patch, pytest.raises(Seen) as seen:
        patch.setattr(argparse.ArgumentParser, "parse_args", show)
        module.main([])
    return {
        action.dest: action.option_strings[:1]
        for action in seen.value.args[0]._actions
        if action.type in (None, str, Path) and not action.choices and action.nargs != 0
        and action.dest not in NO_PATHS
    }  # fmt: skip


@pytest.fixture(scope="module")
def house(demo):
    """A folder that others may enter, with something sound for every flag."""
    house = Path(tempfile.mkdtemp(prefix="paths"))
    shutil.copytree(demo, house / "demo")
    shutil.copy(demo / "test" / "test_pairlist.txt", house)
    flags = [*conftest.SMALL, "--data", house / "demo", "--store", house / "stores"]
    with pytest.MonkeyPatch.context() as patch:
        conftest.tiny.install(patch.setattr)
        torch.save(train_resnet.resnet50("none").state_dict(), house / "weights.pt")
        assert ends(train_resnet.main, [*flags, "--out", house / "run"]) == (0, "")
        with contextlib.suppress(SystemExit), record.Recording(house / "mine.trace", 1):
            train_resnet.main([*map(str, flags), "--out", str(house / "recorded")])
    lists = [house / f"demo/train_val/{split}_pairlist.txt" for split in ("train", "val")]
    lines = [line for path in lists for line in path.read_text().splitlines()]
    rows = [[*line.split()[:3], "3", "1"] for line in lines]
    rows.insert(0, ["series", "photo_1", "photo_2", "votes_1", "votes_2"])
    (house / "votes.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    (house / "trainer.py").write_text("print('nothing')\n")
    photos = sorted((house / "demo/train_val/train_val_imgs").iterdir())
    shutil.copy(photos[0], house / "one.JPG")
    names = [photo.name for photo in photos]
    np.savez(house / "features.npz", names=names, features=np.ones((len(names), 3)))
    for end in ("", ".npz"):
        (house / f"full{end}").mkdir()
        (house / f"full{end}" / "mine").write_text("mine")
        (house / f"loop{end}").symlink_to(house / f"loop{end}")
        os.mkfifo(house / f"fifo{end}")
    (house / "locked").mkdir(mode=0o555)
    for path in (house, *house.rglob("*")):
        if path.stem not in ("locked", "loop"):
            path.chmod(0o777 if path.is_dir() else 0o666)
    yield house
    shutil.rmtree(house)


def listed(house):
    """{path: what would tell that it was touched} of all that lies in a folder."""
    seen = {path: path.lstat() for path in house.rglob("*")}
    return {path: (s.st_mode, s.st_size, s.st_mtime_ns * stat.S_ISREG(s.st_mode))
            for path, s in seen.items()}  # fmt: skip


@contextlib.contextmanager
def as_another(path):
    """A user who may not read the path (nor, as root could, get around that), as long as this."""
    mode, root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    if root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)
        path.chmod(mode)


@contextlib.contextmanager
def in_time(seconds):
    """Ends what hangs, as on a FIFO that nobody writes to."""

    def late(number, frame):
        raise Seen("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def loaded(weights, width=2048):
    """A tiny backbone with the weights of a file, as torchvision's is loaded."""
    backbone = conftest.tiny.backbone(width, norm=width == 2048)
    load_weights(backbone, weights, None, "fc")
    return backbone


def hostile(kind, sound):
    """A path of this kind, and the context in which it is one; sound: one that the flag takes."""
    if kind == "not permitted" and os.path.exists(sound):
        return sound, as_another(Path(sound))
    path = {
        "folder": "full", "missing parent": "none/new", "long name": "n" * 300,
        "link loop": "loop", "FIFO": "fifo", "not permitted": "locked/new",
    }[kind] + ".npz" * sound.endswith(".npz")  # fmt: skip
    locked = kind == "not permitted"
    return path, as_another(Path("locked")) if locked else contextlib.nullcontext()


CASES = [(c, f, k) for c, (*_, flags) in COMMANDS.items() for f in flags for k in HOSTILE]


@posix
@pytest.mark.parametrize(("command", "flag", "kind"), CASES)
def test_a_path_that_is_none_is_one_line(command, flag, kind, house, monkeypatch, capsys):
    module, plain, sound = COMMANDS[command]
    monkeypatch.chdir(house)
    for made in (*house.glob("new*"), house / "none"):
        made.unlink() if made.is_file() else shutil.rmtree(made, ignore_errors=True)
    flags, before = path_flags(module, monkeypatch), listed(house)
    path, context = hostile(kind, sound[flag])
    values = sound | {flag: path}
    flags["photos"] = ["--photos", "demo/train_val/train_val_imgs/000001-01.JPG"]  # and another
    words = [word for name in sound for word in (*flags[name], values[name])]
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(curves, "available", lambda: True)
    monkeypatch.setattr(curves, "draw", lambda runs, path: [*map(curves.read_run, runs)])
    monkeypatch.setattr(train_resnet, "resnet50", loaded)
    monkeypatch.setattr(train_vgg, "vgg16", lambda weights, size, dropout: loaded(weights, 4096))
    for variant in (features, train_finetune):
        monkeypatch.setattr(variant, "resnet50", loaded)
    with context, in_time(30):
        code, said = ends(module.main, [*plain, *words])
    if code == 2 and said and said != "wrote new.png\n":  # else a verdict, on stdout
        assert len(said.strip().splitlines()) == 1, said
        assert "not foreseen" not in said and (path in said or f"--{flag}" in said), said
        assert listed(house) == before, said
    else:
        assert (flag, kind) in WORKS, (code, said)
        assert before.keys() <= listed(house).keys()


@pytest.mark.parametrize("module", {row[0] for row in COMMANDS.values()}, ids=lambda m: m.__name__)
def test_no_path_flag_is_forgotten(module, monkeypatch):
    tried = [set(flags) for other, _, flags in COMMANDS.values() if other is module]
    assert set(path_flags(module, monkeypatch)) == set().union(*tried)


@posix
def test_a_trace_is_written_through_no_link(house, tmp_path):
    recorder, link = record.Recorder(tmp_path / "linked.trace"), tmp_path / "linked.trace.part"
    link.symlink_to(house / "one.JPG")
    before = (house / "one.JPG").read_bytes()
    recorder.updates = [{}]
    recorder.save()
    assert (house / "one.JPG").read_bytes() == before and link.is_symlink()
    assert (tmp_path / "linked.trace").is_file()


def test_a_demo_like_test_lists_is_made(demo, tmp_path):
    paths = ["--like", demo / "test" / "test_pairlist.txt", "--out", tmp_path / "like"]
    assert ends(make_demo.main, paths) == (0, "")
    names = [sorted(p.name for p in (root / "test/test_imgs").iterdir())
             for root in (demo, tmp_path / "like")]  # fmt: skip
    assert names[0] == names[1]
