"""Whole runs: the log, the run folder, equal runs, resuming and scoring."""

import json
import re
import shutil
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch

import eval as scoring
import train_resnet
import train_vgg
from disk import errors, store
from run import loop, watch
from run.folder import HISTORY
from variants import features, train_frozen

COMPARED = ("train.log", "history.tsv", "predictions.tsv", "args.json")


def same(run, other, names=COMPARED):
    return [name for name in names if (run / name).read_bytes() != (other / name).read_bytes()]


def test_log_and_history(train):
    run = train("run", "--epochs", 3, "--lr-every", 2)
    log = (run / "train.log").read_bytes().decode("ascii")
    assert "\r" not in log and str(run) not in log
    header = [
        r"PhotoTriage reference, recipe train_resnet, seed 42",
        r"Changed from the recipe: weights=none, size=64, lr_backbone=0.01, .*epochs=3",
        r"train: \d+ pairs, 8 series, \d+ photos, label 1 0\.\d{4}, constant .*, prior loss .*",
        r"val:   \d+ pairs, 2 series, .*",
        r"Group backbone: 19992 values in 6 tensors, lr 1e-02",
        r"Group head: 4098 values in 2 tensors, lr 1e-02",
    ]
    epoch = [
        r"Epoch {0}/3  lr {1}/{1}",
        r"  Train: loss=\d\.\d{{4}} acc=[01]\.\d{{4}}",
        r"  Val:   loss=\d+\.\d{{4}} acc=[01]\.\d{{4}}  \(constant 0\.\d+, prior loss .*, n=\d+\)",
    ]
    rates = {1: "1e-02", 2: "1e-02", 3: "3e-03"}
    patterns = header + [line.format(e, rate) for e, rate in rates.items() for line in epoch]
    lines = log.splitlines()
    assert len(lines) == len(patterns) + 1
    for line, pattern in zip(lines, patterns, strict=False):
        assert re.fullmatch(pattern, line), (line, pattern)
    rows = [line.split("\t") for line in (run / "history.tsv").read_text().splitlines()]
    assert rows[0] == HISTORY.split() and [row[0] for row in rows[1:]] == ["1", "2", "3"]
    assert f"loss={float(rows[1][3]):.4f} acc={float(rows[1][4]):.4f}" in lines[7]


def test_equal_runs_leave_equal_bytes(train):
    first = train("first", "--hidden", 16, "--dropout", "0.5")
    second = train("second", "--hidden", 16, "--dropout", "0.5")
    assert same(first, second) == []
    best = [torch.load(run / "best.pt", weights_only=True)["model"] for run in (first, second)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert same(first, train("third", "--hidden", 16, "--dropout", "0.5", "--seed", 7)) != []


def test_evaluation_does_not_change_what_training_does_next(train, demo, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(demo, other)
    val = other / "train_val" / "val_pairlist.txt"
    val.write_text(val.read_text().splitlines(keepends=True)[0])
    flags = ["--hidden", 16, "--dropout", "0.5", "--epochs", 3]
    runs = train("long", *flags), train("short", *flags, data=other)
    rows = [[line.split("\t") for line in (run / "history.tsv").open()] for run in runs]
    assert [row[:5] for row in rows[0]] == [row[:5] for row in rows[1]]
    assert [row[5:] for row in rows[0]] != [row[5:] for row in rows[1]]


def test_best_checkpoint_and_early_stop(train):
    run = train("run", "--lr-backbone", 0, "--lr-head", 0, "--patience", 3, "--epochs", 50)
    accuracies = [
        float(line.split("\t")[6]) for line in (run / "history.tsv").open() if "." in line
    ]
    best = 1 + int(np.argmax(accuracies))
    lines = (run / "train.log").read_text().splitlines()
    assert len(accuracies) == best + 3
    assert lines[-2] == "Early stop: no better validation accuracy for 3 epochs"
    assert lines[-1] == f"Best: epoch {best}, val acc={max(accuracies):.4f}"
    assert torch.load(run / "best.pt", weights_only=True)["epoch"] == best


def test_eval_reproduces_the_log(train, demo, tmp_path, judge):
    run = train("run", "--epochs", 3, "--fit", "crop")
    best = (run / "train.log").read_text().splitlines()[-1][-6:]
    places = ["--run", str(run), "--data", str(demo), "--store", str(tmp_path / "stores")]
    _, _, printed = judge(scoring.main, *places)
    assert f"accuracy {best}  (" in printed and "constant 0." in printed
    assert (run / "predictions_val.tsv").read_bytes() == (run / "predictions.tsv").read_bytes()
    code, verdict, _ = judge(scoring.main, *places, "--split", "test")
    assert (code, verdict) == (2, "cannot judge: no labels to score against")
    assert (run / "predictions_test.tsv").read_text().splitlines()[1].split("\t")[3] == ""


def test_the_train_loss_is_the_mean_over_pairs_and_not_over_batches(train, demo, tmp_path, judge):
    # Nothing moves and nothing depends on the mode, so the log must agree with eval.py.
    still = ["--lr-backbone", 0, "--lr-head", 0, "--epochs", 1, "--save-every", 2]
    run = train("run", *still, script=train_vgg)
    row = (run / "history.tsv").read_text().splitlines()[1].split("\t")
    logged = f"loss={float(row[3]):.4f} acc={float(row[4]):.4f}"
    places = ["--run", str(run), "--data", str(demo), "--store", str(tmp_path / "stores")]
    printed = judge(scoring.main, *places, "--split", "train")[2]
    assert 29 % 8  # the last batch is a smaller one
    assert logged == "loss={} acc={}".format(
        re.search(r"loss +([\d.]+)", printed.split("train: 29 pairs")[-1])[1],
        re.search(r"accuracy ([\d.]+)", printed)[1],
    )


def test_a_run_is_not_overwritten(train, demo, tmp_path, refused):
    run = train("run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    flags = [*conftest.SMALL, "--data", demo, "--store", tmp_path / "stores"]
    refused(train_resnet.main, [*flags, "--out", run], "--out", "holds a run")
    refused(train_resnet.main, [*flags, "--out", run / "train.log"], "--out", "train.log")
    refused(train_resnet.main, [*flags, "--out", demo], "--out", "other files")
    assert before == {path.name: path.read_bytes() for path in run.iterdir()}


def test_resume_refuses_another_recipe(train, demo, tmp_path, refused):
    run = train("run")
    flags = [*conftest.SMALL, "--data", demo, "--store", tmp_path / "stores", "--resume", "--out"]
    refused(
        train_resnet.main,
        [*flags, run, "--momentum", 0.5],
        "momentum was 0.9",
        "now it is 0.5; take the value",
    )
    refused(train_resnet.main, [*flags, run, "--seed", 7], "seed was 42", "now it is 7")
    refused(train_vgg.main, [*flags, run], "recipe was train_resnet")
    refused(train_resnet.main, [*flags, run, "--epochs", 1], "--epochs 1 is less than 2")


def test_epochs_may_grow_and_a_finished_run_stays_as_it_is(train):
    run, whole = train("run"), train("whole", "--epochs", 4)
    files = {name: (run / name).read_bytes() for name in COMPARED}
    train("run", "--resume")
    assert files == {name: (run / name).read_bytes() for name in COMPARED}
    train("run", "--resume", "--epochs", 4)
    assert same(run, whole, ["history.tsv", "predictions.tsv"]) == []


def test_progress_goes_to_a_terminal_alone(train, monkeypatch, capsys):
    train("quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    train("loud")
    assert "pairs/s" in capsys.readouterr().err


def test_args_json_holds_the_resolved_recipe(train, tmp_path):
    run = train("run", "--hidden", 8, 4)
    kept = json.loads((run / "args.json").read_text())
    assert (kept["recipe"], kept["hidden"], kept["epochs"]) == ("train_resnet", [8, 4], 2)
    assert kept["versions"]["torch"] == torch.__version__ and str(tmp_path) not in str(kept)


def test_wrong_flags_end_with_one_line(refused):
    for words in (
        "--size 65", "--size 0", "--size x", "--fit squash", "--pad-color 1,2,300", "--seed -1",
        "--batch-size 0", "--lr-head nan", "--lr-backbone -1", "--momentum 1", "--epochs 0",
        "--patience 0", "--dropout 0.5", "--hidden 0", "--min-agreement 2", "--save-every 0",
        "--quick-experiment 0", "--device tpu", "--device cuda:9", "--activation gelu", "--siz 64",
    ):  # fmt: skip
        refused(train_resnet.main, words.split(), words.split()[0])


def test_what_is_not_as_before_is_said_at_resume(train, capsys):
    run = train("run", "--epochs", 1)
    started = (run / "environment.txt").read_text()
    threads = f"threads: {torch.get_num_threads()}\n"
    (run / "environment.txt").write_text(started.replace(threads, "threads: 99\n"))
    capsys.readouterr()
    train("run", "--epochs", 1, "--resume")
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(", now")[0] for line in said] == ["threads was 99"]
    train("run", "--epochs", 1, "--resume")
    assert capsys.readouterr().err == ""


def test_every_photo_of_an_evaluation_is_progress(train, capsys, monkeypatch):
    monkeypatch.setattr("disk.errors.EVERY", 0)  # seconds between two lines
    run = train("run", "--epochs", 1, "--batch-size", 2)
    count = len(set(re.findall(r"\S+\.JPG", (run / "predictions.tsv").read_text())))
    lines = [s for s in capsys.readouterr().err.splitlines() if s.startswith("evaluation")]
    done = [min(k, count) for k in range(2, count + 2, 2)]
    assert lines == [f"evaluation: photo {k}/{count}" for k in done]


def test_help_is_in_groups_and_defaults_are_written_as_on_a_command_line(capsys):
    for page in (train_resnet, train_vgg):
        with pytest.raises(SystemExit):
            page.main(["--help"])
        told = " ".join(capsys.readouterr().out.split())
        titles = "the recipe, with its sources", "this run", "rounding and speed"
        places = [told.index(f" {title}: --") for title in titles]
        assert places == sorted(places)
        assert "(default: 1e-05)" in told and "[]" not in told and "(default: )" not in told


@pytest.mark.parametrize("page", [train_resnet, train_frozen])
def test_what_is_counted_is_counted_to_its_end(page, train, monkeypatch):
    told = []
    for module in (loop, watch, store, features):
        monkeypatch.setattr(module, "show_progress", lambda text, last: told.append((text, last)))
    flags = ["--features", "resnet50", "iqa"] if page is train_frozen else []
    rates = [] if page is train_resnet else ["--lr-head", "1e-2"]
    small = ["--weights", "none", "--size", "64", "--epochs", "2", "--batch-size", "3", *rates]
    monkeypatch.setattr(conftest, "SMALL", small)
    train("run", *flags, script=page)
    counted = [re.match(r"(.*?)(\d+)/(\d+)(.*)", text).groups() for text, _ in told]
    kinds = {re.sub(r"\d+", "N", begins) for begins, *_ in counted}
    own = {"resnetN: photo ", "iqa: photo "} if flags else {"evaluation: photo "}
    assert kinds == {"decoding photo ", "epoch N  step "} | own
    for (begins, done, count, _), (_, last) in zip(counted, told, strict=True):
        assert last == (done == count) and 0 < int(done) <= int(count), begins
    for begins in {begins for begins, *_ in counted}:
        numbers = [(int(done), int(count)) for name, done, count, _ in counted if name == begins]
        ends = [n for n, (done, count) in enumerate(numbers) if done == count]
        first = 0
        for end in ends:  # up to its end, then again from the beginning, of another split
            steps = [done for done, _ in numbers[first : end + 1]]
            assert steps == sorted(set(steps)) and steps[0] <= 3
            first = end + 1
        assert first == len(numbers)


def test_the_pace_is_of_the_steps_of_this_process(monkeypatch):
    told = []
    monkeypatch.setattr(loop, "show_progress", lambda *words: told.append(words))
    monkeypatch.setattr(loop.time, "monotonic", lambda: 1060.0)
    run = SimpleNamespace(args=SimpleNamespace(batch_size=8), position={"epoch": 3})
    for step in (30, 90, 100):  # begun a minute ago, after 20 steps
        loop.Run.show_pace(run, (1000.0, 20), step, 100)
    assert told == [
        ("epoch 3  step 30/100  1.3 pairs/s  7:00 left", False),
        ("epoch 3  step 90/100  9.3 pairs/s  0:08 left", False),
        ("epoch 3  step 100/100  10.7 pairs/s  0:00 left", True),
    ]


def test_where_no_terminal_is_a_line_comes_every_half_minute(monkeypatch, capsys):
    clock = iter([5.0, 34.9, 35.0, 64.9, 64.95, 65.0])
    monkeypatch.setattr(errors, "EVERY", conftest.EVERY)
    monkeypatch.setattr(errors, "PROGRESS", {})
    monkeypatch.setattr(errors.time, "monotonic", lambda: next(clock))
    for number in range(4):
        errors.show_progress(f"photo {number}")
    errors.show_progress("", True)
    errors.show_progress("photo 5", True)
    assert capsys.readouterr().err == "photo 2\nphoto 5\n"
