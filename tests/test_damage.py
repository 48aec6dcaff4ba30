"""Damaged files: a flipped bit is noticed or without effect; links, other runs."""

import io
import json
import os
import shutil
import sys
import warnings

import conftest
import numpy as np
import pytest
import torch
from test_run import same

import eval as scoring
import make_demo
import train_resnet
from diagnose import dataset
from diagnose.predictions import judge as judging
from disk.files import write_text
from disk.pairlist import DATASET
from disk.tensors import load_weights
from run import curves
from run.folder import CURVES
from run.loop import Run

KEPT = ("train.log", "history.tsv", "predictions.tsv")


def ends(main, argv):
    """The exit code of a call (0 where it returns) and what it says on stderr."""
    sys.stderr, before = io.StringIO(), sys.stderr
    try:
        main([str(word) for word in argv])
        code = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        said, sys.stderr = sys.stderr.getvalue(), before
    return code, said


def flip(path, rng):
    """Turns one random bit of a file around; where."""
    content = bytearray(path.read_bytes())
    place, bit = int(rng.integers(len(content))), int(rng.integers(8))
    content[place] ^= 1 << bit
    path.write_bytes(bytes(content))
    return place, bit


@pytest.fixture(scope="module")
def runs(tmp_path_factory, demo):
    """(folder, flags, score flags) with a finished run `done`, one half done and the store."""
    folder = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as patch:
        conftest.tiny.install(patch.setattr)
        places = ["--data", demo, "--store", folder / "stores"]
        flags = [*conftest.SMALL, *places, "--resume"]
        assert ends(train_resnet.main, [*flags, "--out", folder / "done"]) == (0, "")
        ended = iter((Run.end_epoch, lambda *_: sys.exit(0)))  # in the second epoch
        patch.setattr(Run, "end_epoch", lambda *args: next(ended)(*args))
        assert ends(train_resnet.main, [*flags, "--out", folder / "half"]) == (0, "")
    return folder, flags, places


@pytest.mark.parametrize(
    ("start", "count"),
    [
        *(("done", 40), ("half", 8), ("store", 8)),
        *(pytest.param(*own, marks=pytest.mark.full)
          for own in (("done", 230), ("half", 48), ("store", 48))),
    ],
)  # fmt: skip
def test_a_flipped_bit_is_noticed_or_without_effect(runs, tmp_path, start, count, capsys):
    folder, flags, places = runs
    rng, noticed, whole = np.random.default_rng(7), 0, folder / "done"
    files = sorted((folder / ("done" if start == "store" else start)).iterdir())
    files = sorted((folder / "stores").iterdir()) if start == "store" else files
    files = [path for path in files if path.stat().st_size]
    for number in range(count):
        file, run = files[number % len(files)], tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(folder / ("done" if start == "store" else start), run)
        before = file.read_bytes()
        where = file.name, flip(file if start == "store" else run / file.name, rng)
        resumed, said = ends(train_resnet.main, [*flags, "--out", run])
        if resumed == 0:
            assert same(run, whole, KEPT) == [], where
            resumed, said = ends(scoring.main, ["--run", run, *places])
            predicted = run / "predictions_val.tsv"
            assert resumed == 2 or predicted.read_bytes() == (whole / KEPT[2]).read_bytes(), where
        if resumed == 2 and said:
            noticed += 1
            assert len(said.strip().splitlines()) <= (4 if "died in" in said else 1), said
            assert "Traceback" not in said and "not foreseen" not in said, (where, said)
        if start == "store":
            file.write_bytes(before)
    assert noticed > count / 8


def test_nothing_is_written_through_a_link(runs, tmp_path, refused):
    folder, flags, places = runs
    run, victim = shutil.copytree(folder / "done", tmp_path / "run"), tmp_path / "victim"
    victim.write_text("mine")
    for name in ("step.log", "last.pt.part"):  # the files of a run: below
        (run / name).symlink_to(victim)
        refused(train_resnet.main, [*flags, "--epochs", 3, "--out", run], f"{name} is a link")
        (run / name).unlink()
    part = tmp_path / "sheet.png.part"
    part.write_text("mine")
    with pytest.raises(SystemExit):
        words = ["--run", run, *places, "--sheet", tmp_path / "sheet.png"]
        scoring.main([*map(str, words)])
    assert (tmp_path / "sheet.png").is_file()
    assert (victim.read_text(), part.read_text()) == ("mine", "mine")


def shut_out(path, kind, monkeypatch, victim):
    """Makes the place of a file one that cannot be written: in use as on Windows, or another."""
    if kind == "in use":
        replace = os.replace

        def refuse(part, target):
            if os.path.basename(target) == path.name:
                raise PermissionError(13, "another process has it open", str(target))
            replace(part, target)

        monkeypatch.setattr(os, "replace", refuse)
        return
    path.unlink(missing_ok=True)
    path.mkdir() if kind == "folder" else path.symlink_to(victim)


@pytest.mark.parametrize("kind", ["link", "folder", "in use"])
def test_every_file_of_a_run_where_something_else_is_in_its_place(
    kind, runs, tmp_path, monkeypatch
):
    folder, flags, _ = runs
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(curves, "available", lambda: True)
    monkeypatch.setattr(curves, "draw", lambda runs, path: write_text(path, "a picture"))
    names = {path.name for path in (folder / "done").iterdir()} | {CURVES}
    assert len(names) > 8
    for name in sorted(names):
        run = shutil.copytree(folder / "done", tmp_path / name / "run")
        with monkeypatch.context() as patch:
            shut_out(run / name, kind, patch, victim)
            code, said = ends(train_resnet.main, [*flags, "--epochs", 3, "--out", run])
        assert victim.read_text() == "mine" and not list(run.glob("*.part")), name
        if code == 0:  # what decorates, or what this epoch does not write again
            assert torch.load(run / "last.pt")["position"]["epoch"] == 4, name
            assert name == CURVES or kind == "in use", name
            assert (CURVES in said) == (name == CURVES and kind != "link"), said
        else:
            assert code == 2 and name in said and len(said.splitlines()) == 1, (name, said)
            assert name != CURVES


def test_the_last_checkpoint_of_another_run_is_refused(train, demo, tmp_path, refused):
    run, other = train("run"), train("other", "--seed", 7)
    shutil.copy(other / "last.pt", run / "last.pt")
    flags = [*conftest.SMALL, "--data", demo, "--store", tmp_path / "stores", "--resume"]
    refused(train_resnet.main, [*flags, "--out", run], "last.pt: of another run")
    shutil.rmtree(run)
    train("run")
    for change, word in (
        ({"step": 10**9}, "step 1000000000 of 4"), ({"epoch": 7}, "epoch 7 with 2 epochs"),
        ({"history": "x"}, "its position is not that of a run"),
        ({"loss_sum": None}, "its position is not that of a run"),
    ):  # fmt: skip
        state = torch.load(run / "last.pt", weights_only=True)
        torch.save(state | {"position": state["position"] | change}, run / "last.pt")
        refused(train_resnet.main, [*flags, "--out", run], word)
        state["position"] = {**state["position"]}
        torch.save(state, run / "last.pt")
    torch.save(state | {"optimizer": {"state": 3}}, run / "last.pt")
    refused(train_resnet.main, [*flags, "--out", run], "optimizer, schedule or random state")


def test_curves_that_fail_do_not_end_a_run(train, monkeypatch, capsys):
    monkeypatch.setattr(curves, "available", lambda: True)
    monkeypatch.setattr(curves, "draw", lambda *_: 1 / 0)
    run = train("run")
    assert (run / "last.pt").is_file()
    assert "no training_curves.png: ZeroDivisionError" in capsys.readouterr().err


@pytest.fixture
def output(monkeypatch):
    """output(file): from here on, what this process prints goes to this descriptor."""
    kept = os.dup(1)

    def turn(file):
        os.dup2(file, 1)
        os.close(file)
        stream = open(1, "w", closefd=False)  # the one before may know that it was a plain file
        monkeypatch.setattr(sys, "__stdout__", stream)
        monkeypatch.setattr(sys, "stdout", stream)

    yield turn
    os.dup2(kept, 1)
    os.close(kept)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("command", ["train", "score", "rank", "dataset", "predictions", "demo"])
def test_an_output_that_is_full_or_closed(command, runs, demo, tmp_path, output):
    folder, flags, places = runs
    run, predictions = folder / "done", folder / "done" / "predictions.tsv"
    photos = sorted((demo / "test" / "test_imgs").iterdir())[:2]
    main, argv = {
        "train": (train_resnet.main, [*flags, "--out", tmp_path / "new"]),
        "score": (scoring.main, ["--run", run, *places]),
        "rank": (scoring.main, ["--run", run, "--photos", *photos]),
        "dataset": (dataset.main, ["--data", demo]),
        "predictions": (judging.main, [predictions, "--data", demo]),
        "demo": (make_demo.main, ["--series", 10, "--out", tmp_path / "made"]),
    }[command]
    output(os.open("/dev/full", os.O_WRONLY))
    tool = command in ("dataset", "predictions")
    speaker = f"diagnose {command}: error" if tool else "errors.py"
    full = f"{speaker}: the output cannot be written: No space left on device\n"
    assert ends(main, argv) == (2, full)
    shutil.rmtree(tmp_path / "made", ignore_errors=True)
    reader, writer = os.pipe()
    os.close(reader)
    output(writer)
    code, said = ends(main, argv)
    assert (code, said) == ({"score": 2, "predictions": 2}.get(command, 0), "")  # too few to judge


def test_a_demo_that_the_disk_cannot_take_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    code, said = ends(make_demo.main, ["--series", 10, "--out", tmp_path / "made"])
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and f"--out {tmp_path / 'made'}: OSError" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error")  # a warning of torch's would be a second line
def test_weights_that_are_no_numbers_name_their_tensor(tmp_path):
    model, path = conftest.tiny.backbone(2048, norm=True), tmp_path / "weights.pt"
    state, name = model.state_dict(), "0.weight"
    holed = state[name].clone()
    holed[3, 1, 2, 4] = float("nan")
    for value, words in (
        (holed, "0.weight holds numbers that are not finite"),
        (holed.to("meta"), "1 tensors of another shape or type, first 0.weight"),
        (state[name].to_sparse(), "1 tensors of another shape or type, first 0.weight"),
        (state[name].cfloat(), "1 tensors of another shape or type, first 0.weight"),
        ([1.0], "1 tensors of another shape or type, first 0.weight"),
    ):
        with warnings.catch_warnings(action="ignore"):  # of making and writing it
            torch.save(state | {name: value}, path)
        ended = ends(lambda argv: load_weights(model, *argv, None, "fc"), [path])
        assert ended == (2, f"tensors.py: --weights {path}: {words}\n")


LONG = {"fit": "x" * 100_000}


@pytest.mark.parametrize(
    "change", [{"size": -64}, {"hidden": ["a"]}, {"hidden": [10**9]}, LONG, None]
)
def test_settings_that_are_not_those_of_a_run_are_named(change, runs, tmp_path):
    folder, flags, places = runs
    path = shutil.copytree(folder / "done", tmp_path / "run") / "args.json"
    text = json.dumps(json.loads(path.read_text()) | (change or {}))
    path.write_text(text if change else "[" * 100_000)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    for main, argv in (
        (scoring.main, ["--run", path.parent, *places]),
        (train_resnet.main, [*flags, "--out", path.parent]),
    ):
        code, said = ends(main, argv)
        assert code == 2 and len(said.splitlines()) == 1 and "not foreseen" not in said, said
        assert len(said) < 1000  # however long a value is
        assert "args.json" in said or f"{next(iter(change))} was" in said, said
    assert before == {file.name: file.read_bytes() for file in path.parent.iterdir()}


def test_a_long_field_is_quoted_in_part_and_missing_photos_are_told_once(demo, tmp_path):
    root = shutil.copytree(demo, tmp_path / "data")
    flags = [*conftest.SMALL, "--data", root, "--out", tmp_path / "run"]
    path = root / "train_val" / "train_pairlist.txt"
    whole = path.read_text()
    for column in range(6):
        for long in ("9" * 10**7, "x" * 10**7, "." + "9" * 10**7):
            fields = whole.split("\n")[0].split()
            fields[column] = long
            path.write_text(" ".join(fields))
            code, said = ends(train_resnet.main, flags)
            assert code == 2 and "train_pairlist.txt:1: " in said and len(said) < 200
    path.write_text(whole)
    shutil.rmtree(root / "train_val" / "train_val_imgs")
    flags = [*flags[2:], "--weights", tmp_path / "none.pt"]  # asked for behind the photos
    code, said = ends(train_resnet.main, flags)
    assert code == 2 and said.endswith(f"unzip train_val.zip of {DATASET}\n")
    assert len(said.splitlines()) == 1
