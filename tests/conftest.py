"""Fixtures: datasets on disk, tiny backbones, and the scripts as a user runs them."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import tiny  # noqa: E402

import data  # noqa: E402
import make_demo  # noqa: E402
import train_resnet  # noqa: E402
from diagnose.labels import align  # noqa: E402
from disk import errors  # noqa: E402

EVERY = errors.EVERY  # seconds, as the product has it
errors.EVERY = 1e9  # seconds: no line of progress where a slow test counts lines

SMALL = ["--weights", "none", "--size", "64", "--epochs", "2"]
SMALL += ["--lr-backbone", "1e-2", "--lr-head", "1e-2"]


def one_of_each(rows, kind=lambda row: None):
    """Rows for parametrize: of each kind the first; the others with `-m full` alone."""
    kinds, made = set(), []
    for row in rows:
        own = kind(row)
        made.append(pytest.param(row, marks=[pytest.mark.full] if own in kinds else []))
        kinds.add(own)
    return made


def pytest_addoption(parser):
    for name, what in (
        ("data", "your dataset"), ("run", "your run folder"),
        ("labels", "your labels, as for diagnose labels"),
        ("predictions", "yours, as for diagnose predictions"),
        ("recorded", "a trace of your trainer"),
    ):  # fmt: skip
        parser.addoption(f"--{name}", help=f"{what}, for tests/test_my_data.py")


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A demo dataset of 12 series in the official layout."""
    out = tmp_path_factory.mktemp("demo") / "data"
    make_demo.main(["--out", str(out), "--series", "12", "--seed", "1"])
    return out


@pytest.fixture(autouse=True)
def tiny_backbones(monkeypatch, request):
    """Tiny backbones in both recipes, but where a test is marked `real`."""
    if "real" not in request.keywords:
        tiny.install(monkeypatch.setattr)


@pytest.fixture
def train(demo, tmp_path):
    """train(name, *flags): a training run in this process on the demo data; its run folder."""

    def run(name, *flags, script=train_resnet, data=demo):
        places = ["--data", data, "--out", tmp_path / name, "--store", tmp_path / "stores"]
        script.main([str(word) for word in (*SMALL, *places, *flags)])
        return tmp_path / name

    return run


@pytest.fixture
def judge(capsys):
    """judge(main, *flags): exit code, verdict and everything printed of a tool."""

    def run(main, *flags):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, flags)])
        printed = capsys.readouterr().out
        return ended.value.code, printed.splitlines()[0].removeprefix("VERDICT "), printed

    return run


@pytest.fixture
def refused(capsys):
    """refused(main, argv, *words): the call ends with exit code 2 and one line with the words."""

    def check(main, argv, *words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in argv])
        lines = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert len(lines) == 1
        assert not [word for word in words if str(word) not in lines[0]], lines[0]
        return lines[0]

    return check


def decoded(args, root, stores, name):
    """The split of this name of a dataset, decoded as args say."""
    args.data, args.store, args.device = root, stores, "cpu"
    (split,) = data.read_splits(args, (name,))
    return data.decode(split, args)


def script(name, *words, die="", **options):
    """A script in a process of its own, with tiny backbones, as Popen; die as in tiny.py."""
    command = [sys.executable, str(Path(__file__).parent / "tiny.py"), name, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"DIE": die} if die else {})
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


@functools.cache
def nursery():
    """The process whose forks are runs, see tiny.py; it ends with the session."""
    words = [sys.executable, str(Path(__file__).parent / "tiny.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=ROOT, env=environment, text=True, stdin=pipe, stdout=pipe)


def finish(folder, name, *words, die="", limit=0):
    """A script in a process of its own, to its end: the exit code and what it says on stderr."""
    if not hasattr(os, "fork"):
        process = script(name, *words, die=die)
        _, errors = process.communicate(timeout=100)
        return process.returncode, errors
    said = folder / "stderr"
    nursery().stdin.write(json.dumps([[name, *map(str, words)], die, limit, str(said)]) + "\n")
    nursery().stdin.flush()
    return int(nursery().stdout.readline()), said.read_text()


def write_dataset(root, train, val, shade):
    """An official layout with these pairlist lines and plain photos; shade(series, photo)."""
    folder = root / "train_val"
    (folder / "train_val_imgs").mkdir(parents=True)
    for split, lines in (("train", train), ("val", val)):
        (folder / f"{split}_pairlist.txt").write_text("".join(f"{line}\n" for line in lines))
        for line in lines:
            series, *photos = map(int, line.split()[:3])
            for photo in photos:
                array = np.full((48, 64, 3), shade(series, photo), np.uint8)
                path = folder / "train_val_imgs" / f"{series:06d}-{photo:02d}.JPG"
                Image.fromarray(array).save(path)
    return root


def made_up(count=60, seed=0):
    """Official pairs of series of 2 to 4 photos, with preferences from votes, and the votes.

    The last are ten ties of .5 after three votes to three, and a preference of exactly .7.
    """
    rng = np.random.default_rng(seed)
    rows, votes, drawn = [], {}, []
    for _ in range(count):
        photos = int(rng.integers(2, 5))
        strength = rng.normal(0, 1.2, photos)
        wins = np.zeros((photos, photos))
        for a in range(photos):
            for b in range(a + 1, photos):
                wins[a, b] = rng.binomial(9, 1 / (1 + np.exp(strength[b] - strength[a])))
                wins[b, a] = 9 - wins[a, b]
        drawn.append(wins)
    strengths = {}
    for photos in (2, 3, 4):
        places = [i for i, wins in enumerate(drawn) if len(wins) == photos]
        fitted = align.fit_strengths(np.array([drawn[i] for i in places]))
        strengths |= dict(zip(places, fitted, strict=True))
    for series, wins in enumerate(drawn, 1):
        fitted, photos = strengths[series - 1], len(wins)
        ranks = np.argsort(np.argsort(-fitted, kind="stable")) + 1
        for a in range(photos):
            for b in range(a + 1, photos):
                preference = round(1 / (1 + np.exp(fitted[b] - fitted[a])), 3)
                rows.append((series, a + 1, b + 1, preference, ranks[a], ranks[b]))
                votes[series, a + 1, b + 1] = int(wins[a, b]), int(wins[b, a])
    edges = [(0.5, (2, 1), (3, 3))] * 10 + [(0.7, (1, 2), (7, 3))]
    for preference, ranks, won in edges:
        series += 1
        rows.append((series, 1, 2, preference, *ranks))
        votes[series, 1, 2] = won
    return rows, votes
