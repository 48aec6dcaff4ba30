"""Runs that are killed, starved, fed with nonsense: nothing is lost, and all is said."""

import io
import json
import os
import shutil
import signal
import time

import conftest
import numpy as np
import pytest
import torch
from PIL import Image
from test_run import COMPARED, same

import data
import eval as scoring
import train_resnet
import train_vgg
from disk import errors, files, store
from run import evidence, watch
from variants import train_frozen

# Dropout makes the random state matter; 4 steps an epoch, saved after 2 and 4.
FLAGS = [*conftest.SMALL, "--epochs", "3", "--save-every", "2"]
FLAGS += ["--hidden", "16", "--dropout", "0.5"]
# Each kill hits the run that goes on after the one before.
KILLS = """
data.decode_photo:3:before           the store's build
os.replace@.store:1:before           a whole store, not yet renamed
os.replace@.store:1:after            the second store renamed, no run folder yet
os.replace@environment:1:before      the first file of the run folder
os.replace@args.json:1:before        environment.txt without args.json
os.replace@train.log:1:after         an empty train.log
run.loop.log:4:after                 the log's header
run.loop.take_batch:2:before         the first step done
torch.save:1:before                  the first save: an empty file
torch.save:1:after                   the file written, not flushed
os.replace@last.pt:1:before          flushed, not renamed
run.loop:Run.count:3:after           step 3, after a save at 2
train_resnet.score_pairs:1:after     the epoch's evaluation
run.loop.write_history:1:before      best.pt and log newer than last.pt
os.replace@last.pt:1:before          last.pt at the end of an epoch
os.replace@last.pt:2:before          last.pt within the next epoch, over an older one
run.loop:Run.mark:9:before           in the middle of a step
run.loop:Run.end_epoch:2:after       the last epoch, not yet saved
run.loop:Run.leave_if_asked:1:after  all epochs done and saved
""".strip().splitlines()


def places(folder, demo):
    return ["--data", demo, "--out", folder / "run", "--store", folder / "stores"]


def finish(folder, demo, die="", flags=(), limit=0):
    """One process of a run, resumed where there is one; its exit code and its stderr."""
    resume = ["--resume"] if (folder / "run").exists() else []
    flags = [*FLAGS, *flags, *places(folder, demo), *resume]
    return conftest.finish(folder, "train_resnet", *flags, die=die, limit=limit)


def saved_position(run):
    """(epoch, steps done in it) of last.pt; (0, 0) where there is none yet."""
    if not (run / "last.pt").exists():
        return 0, 0
    position = torch.load(run / "last.pt", weights_only=True)["position"]
    return position["epoch"], position["step"]


def assert_same_run(run, whole):
    assert same(run, whole, COMPARED) == []
    best = [torch.load(folder / "best.pt", weights_only=True) for folder in (run, whole)]
    assert best[0]["epoch"] == best[1]["epoch"]
    for name, tensor in best[0]["model"].items():
        assert torch.equal(tensor, best[1]["model"][name]), name


def test_a_run_killed_anywhere_and_resumed_ends_with_the_same_bytes(demo, tmp_path):
    reached = (0, 0)
    for spec in KILLS:
        point = spec.split()[0]
        code, errors = finish(tmp_path, demo, f"{point}:SIGKILL")
        assert code == -signal.SIGKILL, (spec, code, errors)
        assert saved_position(tmp_path / "run") >= reached, spec  # a kill never costs a save
        reached = saved_position(tmp_path / "run")
    code, errors = finish(tmp_path, demo)
    assert code == 0, errors
    (tmp_path / "other").mkdir()
    assert finish(tmp_path / "other", demo)[0] == 0
    assert_same_run(tmp_path / "run", tmp_path / "other" / "run")


def test_a_run_asked_to_stop_anywhere_and_resumed_ends_with_the_same_bytes(demo, tmp_path):
    reached = (0, 0)
    for number, point in enumerate((
        "run.loop.take_batch:1:before", "run.loop:Run.count:3:after",
        "train_resnet.score_pairs:1:before", "run.loop.take_batch:2:before",
        "run.loop.save_last:1:before",
    )):  # fmt: skip
        asked = ("SIGTERM", "SIGINT", "SIGHUP")[number % 3]
        code, errors = finish(tmp_path, demo, f"{point}:{asked}")
        assert code == 128 + signal.Signals[asked], (point, errors)
        epoch, step = saved_position(tmp_path / "run")
        assert f"saved in epoch {epoch} with {step} steps done; the same command" in errors
        assert (epoch, step) > reached and "died" not in errors
        assert reached != (0, 0) or (epoch, step) == (1, 1)  # the step under way, no further
        reached = epoch, step
    assert finish(tmp_path, demo)[0] == 0
    (tmp_path / "other").mkdir()
    assert finish(tmp_path / "other", demo)[0] == 0
    assert_same_run(tmp_path / "run", tmp_path / "other" / "run")


def test_a_segmentation_fault_leaves_the_stack_and_is_told(demo, tmp_path):
    code, _ = finish(tmp_path, demo, "run.watch.note_finite:3:before:segv")
    crash = (tmp_path / "run" / "crash.log").read_text()
    assert code == -signal.SIGSEGV
    for words in ("Segmentation fault", "in see_gradients", "train_resnet.py"):
        assert words in crash
    code, errors = finish(tmp_path, demo)
    assert code == 0
    assert "died in epoch 1, step 3, backward pass" in errors
    assert "peak memory by epoch 1, step 2: " in errors and "crash.log holds" in errors
    assert (tmp_path / "run" / "crash-1.log").read_text() == crash
    assert not (tmp_path / "run" / "crash.log").exists()


def test_evidence_counts_the_seconds_since_its_start(tmp_path, monkeypatch):
    clock = iter([100.0, 107.25, 161.06])
    monkeypatch.setattr(evidence.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with evidence.Evidence(tmp_path, step_log=True) as kept:
        kept.mark(2, 3, "update")
        kept.note_resources(2, 3)
    assert (tmp_path / "step.log").read_text() == "7.2500 epoch 2, step 3, update\n"
    header, row = [
        line.split("\t") for line in (tmp_path / "resources.tsv").read_text().splitlines()
    ]
    assert dict(zip(header, row, strict=True)) | {"peak_memory_bytes": ""} == {
        "epoch": "2", "step": "3", "seconds": "61.1", "peak_memory_bytes": "",
        "peak_gpu_memory_bytes": "0",
    }  # fmt: skip


def test_a_second_signal_ends_a_run_at_once(monkeypatch, capsys):
    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    evidence.end_on_signals()
    assert set(handlers) == set(evidence.SIGNALS)
    received = evidence.catch_signals()
    for number in evidence.SIGNALS:
        handlers[number](number, None)
        assert received[-1] == number
        with pytest.raises(SystemExit) as ended:
            handlers[number](number, None)
        assert ended.value.code == 128 + number
        lines = capsys.readouterr().err.splitlines()
        said = "ended at once; the same command with --resume goes on"
        assert lines == ["finishing the step, then saving ...", said]
    assert received == evidence.SIGNALS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a process that was forked")
def test_a_full_disk_ends_with_one_line_and_the_checkpoint_intact(demo, tmp_path):
    assert finish(tmp_path, demo, "run.loop.take_batch:3:before:SIGKILL")[0] == -signal.SIGKILL
    before = (tmp_path / "run" / "last.pt").read_bytes()

    code, errors = finish(tmp_path, demo, limit=100_000)
    assert (code, "Traceback" in errors) == (2, False)
    assert errors.splitlines()[-1].startswith(f"files.py: {tmp_path / 'run'}")
    assert (tmp_path / "run" / "last.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.part"))


def test_an_unexpected_exception_stands_in_crash_log(tmp_path):
    folder = tmp_path / "evidence"
    folder.mkdir()
    with pytest.raises(RuntimeError), evidence.Evidence(folder) as kept:
        kept.mark(2, 7, "update")
        raise RuntimeError("out of memory")
    assert "RuntimeError: out of memory" in (folder / "crash.log").read_text()
    assert evidence.last_words(folder)[0].endswith("died in epoch 2, step 7, update")


def test_evidence_of_a_healthy_run(train):
    run = train("run", "--step-log")
    assert not (run / "crash.log").exists() and evidence.last_words(run) == []
    rows = [line.split("\t") for line in (run / "resources.tsv").read_text().splitlines()]
    assert rows[0] == evidence.RESOURCES.split() and [row[0] for row in rows[1:]] == ["1", "2"]
    assert 5e7 < int(rows[1][3]) < 1e11
    phases = [line.split(", ")[-1] for line in (run / "step.log").read_text().splitlines()]
    step = ["loading the photos", "forward pass of photo_1", "forward pass of photo_2"]
    assert phases[:6] == [*step, "backward pass", "update", "loading the photos"]


@pytest.mark.parametrize(
    "culprit", ["loss", "gradient of group head", "gradient of group backbone"]
)
@pytest.mark.parametrize("late", [False, True])  # a GPU is asked before a save alone
def test_numbers_that_are_not_finite_stop_the_run(
    culprit, late, train, monkeypatch, refused, demo, tmp_path
):
    run = train("run", "--epochs", 1)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    calls, note = [], watch.note_finite

    def poisoned(run):
        calls.append(run.batch)
        if len(calls) == 3 and culprit == "loss":
            run.loss = run.loss * float("nan")
        elif len(calls) == 3:
            part = run.ranker.head if culprit.endswith("head") else run.ranker.backbone
            next(part.parameters()).grad[0] = float("inf")
        note(run)

    monkeypatch.setattr(watch, "note_finite", poisoned)
    if late:  # the loop's own check alone
        monkeypatch.setattr(watch, "check_finite", lambda run: None)
    flags = [*conftest.SMALL, *places(tmp_path, demo), "--resume"]
    line = refused(train_resnet.main, flags, f"epoch 2, step 3: the {culprit} is not finite")
    assert line.count("train_pairlist.txt:") == len(calls[2]) == 8
    assert (len(calls) == 3) != late
    for name in ("last.pt", "best.pt", "history.tsv", "predictions.tsv"):
        assert (run / name).read_bytes() == before[name]


def test_a_validation_loss_that_is_not_finite_is_not_saved(
    train, monkeypatch, refused, demo, tmp_path
):
    run, score = train("run", "--epochs", 1), train_resnet.score_pairs
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    monkeypatch.setattr(train_resnet, "score_pairs", lambda *a: score(*a) * float("nan"))
    flags = [*conftest.SMALL, *places(tmp_path, demo), "--resume"]
    refused(train_resnet.main, flags, "epoch 2, step 4: the validation loss is not finite")
    for name in ("best.pt", "history.tsv", "predictions.tsv"):
        assert (run / name).read_bytes() == before[name]


def test_what_is_written_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    calls, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda n: calls.append(("on disk", os.fstat(n).st_size)))
    monkeypatch.setattr(os, "replace", lambda *a: calls.append("renamed") or replace(*a))
    files.write_text(tmp_path / "x", "all of it")
    assert calls == [("on disk", 9), "renamed"]
    calls.clear()
    with evidence.Evidence(tmp_path, step_log=True) as kept:
        kept.mark(1, 2, "update")
        assert (tmp_path / "step.log").read_text().endswith(" epoch 1, step 2, update\n")
        assert calls == [("on disk", (tmp_path / "step.log").stat().st_size)]
    stream = io.StringIO()
    stream.flush = lambda: calls.append(stream.getvalue())
    errors.say("a line", stream)
    assert calls[1:] == ["a line\n"]


# Bad input: how to damage a dataset, and the words of the one line.

LIST = "train_val/train_pairlist.txt"
PHOTO = "train_val/train_val_imgs/000001-02.JPG"
LINES = ["1 1 2 0.9 1 2", "2 1 2 0.2 2 1", "3 1 2 0.7 1 2"]


def line_2(text):
    return lambda root: (root / LIST).write_text(f"{LINES[0]}\n{text}\n{LINES[2]}\n")


def content(path, value):
    return lambda root: (root / path).write_bytes(value)


def picture(size, mode="RGB", kind="PNG", **options):
    return lambda root: Image.new(mode, size).save(root / PHOTO, kind, **options)


def truncate(root):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(root / PHOTO)
    (root / PHOTO).write_bytes((root / PHOTO).read_bytes()[:9000])


def two_ranks(root):
    shutil.copy(root / PHOTO, root / PHOTO.replace("-02", "-03"))
    lines = [LINES[0][:-1] + "3", *LINES[1:], "1 2 3 0.8 2 4"]
    (root / LIST).write_text("\n".join(lines))


BAD_DATA = {
    "no list": (lambda root: (root / LIST).unlink(), ["train_pairlist.txt"]),
    "empty list": (content(LIST, b""), ["train_pairlist.txt: the file is empty"]),
    "binary list": (content(LIST, b"\x00\x01\x02"), ["not a text file in UTF-8"]),
    "UTF-16 list": (content(LIST, "1 1 2 0.9 1 2\n".encode("utf-16")), ["UTF-16"]),
    "letters": (content(LIST, "1 1 2 0.9 1 2\nä\n".encode()), ["train_pairlist.txt:2"]),
    "too few columns": (line_2("2 1 2"), ["pairlist.txt:2: 3 columns instead of 6"]),
    "blank line": (line_2(""), [":2: 0 columns"]),
    "two ranks": (two_ranks, [":4: photo 2 of series 1 has rank 2, before 3"]),
    "dangling link": (
        lambda root: (root / PHOTO).unlink() or (root / PHOTO).symlink_to("nowhere"),
        ["has no file train_val_imgs/000001-02.JPG"],
    ),
    "not a number": (line_2("2 x 2 0.2 2 1"), [":2: 'x' is not a whole number"]),
    "preference above 1": (line_2("2 1 2 1.2 1 2"), [":2: preference '1.2'"]),
    "preference NaN": (line_2("2 1 2 nan 2 1"), [":2: preference 'nan'"]),
    "ranks contradict": (line_2("2 1 2 0.2 1 2"), [":2: preference 0.2 and ranks 1, 2"]),
    "equal ranks": (line_2("2 1 2 0.2 1 1"), [":2: both photos have rank 1"]),
    "photo 0": (line_2("2 0 2 0.2 2 1"), [":2: photo 0 is not in 1..99"]),
    "huge series": (line_2("12345678 1 2 0.2 2 1"), [":2: series 12345678"]),
    "photo against itself": (line_2("2 1 1 0.2 2 1"), [":2: photo 1 is paired with itself"]),
    "pair twice": (line_2(LINES[0]), [":2: photos 1, 2 of series 1 are in line 1 already"]),
    "both orders": (line_2("1 2 1 0.1 2 1"), [":2: photos 2, 1 of series 1 are in line 1 already"]),
    "series in both": (
        content("train_val/val_pairlist.txt", b"3 1 2 0.7 1 2\n"),
        ["val_pairlist.txt:1: series 3 is also in train_pairlist.txt"],
    ),
    "missing photo": (
        lambda root: (root / PHOTO).unlink(),
        [":1: photo 2 of series 1 has no file train_val_imgs/000001-02.JPG"],
    ),
    "empty photo": (content(PHOTO, b""), ["000001-02.JPG", "cannot identify"]),
    "text as photo": (content(PHOTO, b"no photo"), ["000001-02.JPG", "cannot identify"]),
    "truncated photo": (truncate, ["000001-02.JPG", "truncated"]),
    "bomb": (picture((20_000, 10_000), "1"), ["000001-02.JPG", "DecompressionBomb"]),
}


@pytest.fixture
def root(tmp_path):
    return conftest.write_dataset(tmp_path / "data", LINES, ["9 1 2 0.9 1 2"], lambda *_: 90)


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_ends_with_one_line(name, root, tmp_path, refused):
    damage, words = BAD_DATA[name]
    damage(root)
    refused(train_resnet.main, [*conftest.SMALL, *places(tmp_path, root)], *words)
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("stores/*.part"))


@pytest.mark.parametrize(
    "damage",
    [
        picture((1, 1)),
        picture((1, 5000)),
        picture((40, 30), "CMYK", "JPEG"),
        picture((40, 30), "I;16"),
        picture((40, 30), "P", transparency=b"\x00\x80"),
        lambda root: (root / LIST).write_text("\n".join(LINES) + "\n\n"),
        lambda root: (root / LIST).write_bytes("\r\n".join(LINES).encode()),
    ],
    ids=["1 x 1", "1 x 5000", "CMYK", "16 bit", "palette", "blank end", "CRLF"],
)
def test_odd_but_good_data(damage, root, tmp_path, train):
    damage(root)
    run = train("run", data=root)
    assert "Best: epoch" in (run / "train.log").read_text()


def test_an_exif_rotation_is_left_as_stored(root, tmp_path):
    photo = Image.new("RGB", (60, 30))
    exif = photo.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    photo.save(root / PHOTO, exif=exif)
    _, box = data.decode_photo(root / PHOTO, 64, "pad")
    assert box == (0, 16, 64, 48)


def test_a_strip_cannot_be_cropped(root, tmp_path, refused):
    picture((1, 5000))(root)
    flags = [*conftest.SMALL, *places(tmp_path, root), "--fit", "crop"]
    refused(train_resnet.main, flags, "000001-02.JPG", "1 x 5000")


def test_bad_out_folders(demo, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    stores = ["--data", demo, "--store", tmp_path / "stores"]
    for out, word in [
        (tmp_path / "file", "--out"),
        (tmp_path / "file" / "run", "--out"),
        ("/proc/none/run", "/proc: best.pt and last.pt needs"),
    ]:
        refused(train_resnet.main, [*conftest.SMALL, *stores, "--out", out], word)
    assert (tmp_path / "file").read_text() == "mine"


class Bomb:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return os.system, ("echo bomb > bomb.txt",)


def test_bad_checkpoints(train, demo, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train("run")
    flags = [*conftest.SMALL, *places(tmp_path, demo), "--resume", "--epochs", 3]
    score = ["--run", run, "--data", demo, "--store", tmp_path / "stores"]
    whole = {name: (run / name).read_bytes() for name in ("last.pt", "best.pt", "train.log")}
    other = train("other", script=train_vgg)
    for name, main, argv in [
        ("last.pt", train_resnet.main, flags),
        ("best.pt", scoring.main, score),
    ]:
        (run / name).write_bytes(whole[name][:5000])
        refused(main, argv, name, "not a checkpoint of plain tensors")
        torch.save(Bomb(), run / name)
        refused(main, argv, name, "not a checkpoint of plain tensors")
        torch.save({"model": {}}, run / name)
        refused(main, argv, name, "not a checkpoint of a run")
        shutil.copy(other / name, run / name)
        refused(main, argv, name, "of another run than args.json in its folder")
        (run / name).write_bytes(whole[name])
    assert not (tmp_path / "bomb.txt").exists()
    for text in ("{", "[]", "{}", '{"recipe": "train_resnet", "size": "64"}'):
        (run / "args.json").write_text(text)
        refused(train_resnet.main, flags, "args.json")
        refused(scoring.main, score, "args.json")
    assert {name: (run / name).read_bytes() for name in whole} == whole


def test_a_run_of_other_code_is_refused(train, demo, tmp_path, refused):
    run = train("run")
    flags = [*conftest.SMALL, *places(tmp_path, demo), "--resume"]
    settings = json.loads((run / "args.json").read_text())
    sources = settings["sources"]
    for path in ("train_resnet.py", "model.py", "disk/store.py", "run/loop.py"):
        other = settings | {"sources": sources | {path: "00000000"}}
        (run / "args.json").write_text(json.dumps(other))
        words = f"the checksum of {path} was 00000000", f"now it is {sources[path]}"
        way_out = "; bring the file back, or start again with another --out"
        refused(train_resnet.main, flags, *words, way_out)
    older = {key: value for key, value in settings.items() if key != "sources"}
    (run / "args.json").write_text(json.dumps(older))
    refused(train_resnet.main, flags, "args.json is that of another version")
    (run / "args.json").write_text(json.dumps(settings | {"recipe": "train_other"}))
    score = ["--run", run, "--data", demo, "--store", tmp_path / "stores"]
    refused(scoring.main, score, "recipe train_other is not a page", "bring its file back")
    for recipe in (["train_resnet"], None, "tests.tiny", "../train_resnet"):
        (run / "args.json").write_text(json.dumps(settings | {"recipe": recipe}))
        refused(scoring.main, score, f"recipe {recipe} is not a page")
    page = settings | {"sources": sources | {"train_resnet.py": "00000000"}}
    for other in (page, older, settings | {"sources": []}):
        (run / "args.json").write_text(json.dumps(other))
        refused(scoring.main, score, "the checksum of train_resnet.py was", "bring the file back")


def test_nothing_is_started_without_space(demo, tmp_path, refused, monkeypatch):
    free = iter([1000, 10**9, 1000])  # for the checkpoints; for them, then for the store
    usage = lambda folder: type("Usage", (), {"free": next(free)})  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    flags = [*conftest.SMALL, *places(tmp_path, demo)]
    refused(train_resnet.main, flags, "best.pt and last.pt needs")
    refused(train_resnet.main, flags, "the photo store needs")
    assert not (tmp_path / "run").exists()


def test_a_damaged_run_folder_is_not_taken_for_a_new_one(train, demo, tmp_path, refused):
    run, whole = train("run"), train("whole", "--epochs", 3)
    flags = [*conftest.SMALL, *places(tmp_path, demo), "--resume", "--epochs", 3]
    for name, words in [("last.pt", "but no last.pt"), ("best.pt", "has no best.pt")]:
        (run / name).rename(tmp_path / name)
        refused(train_resnet.main, flags, words)
        (tmp_path / name).rename(run / name)
    (run / "args.json").rename(tmp_path / "args.json")
    refused(train_resnet.main, flags, "no args.json of a run")
    (tmp_path / "args.json").rename(run / "args.json")
    (run / "train.log").unlink()  # last.pt holds it
    (run / "resources.tsv").write_text("")
    (run / "last_step.txt").write_text("epoch 1, step 1, update")
    train("run", "--epochs", 3, "--resume")
    assert same(run, whole, ["history.tsv", "predictions.tsv"]) == []
    log = [(folder / "train.log").read_text().splitlines()[2:] for folder in (run, whole)]
    assert [line.replace("/2 ", "/3 ") for line in log[0]] == log[1]


def test_a_death_before_the_first_file_of_a_run_can_be_resumed(demo, tmp_path):
    for die in ("SIGKILL", "segv", "segv", "SIGINT"):
        where = f"run.loop.describe_run:1:before:{die}"
        assert finish(tmp_path, demo, where, flags=["--step-log"])[0] != 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"step.log", "crash-1.log"} and "args.json" not in names
    assert finish(tmp_path, demo, flags=["--step-log"])[0] == 0


def test_a_clock_that_stands_still_does_not_end_the_run(train, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    assert (train("run", "--epochs", 1) / "last.pt").is_file()


@pytest.mark.parametrize("page", [train_resnet, train_frozen])
def test_a_photo_with_another_bit_in_its_middle_is_refused(page, demo, tmp_path, refused):
    root = tmp_path / "data"
    shutil.copytree(demo, root)
    flags = ["--weights", "none", "--size", 64, "--epochs", 2, *places(tmp_path, root)]
    page.main(list(map(str, flags)))
    photo = min((root / "train_val" / "train_val_imgs").iterdir())
    content = bytearray(photo.read_bytes())
    content[len(content) * 3 // 5] ^= 4  # as many bytes, other pixels
    photo.write_bytes(content)
    refused(page.main, [*flags, "--resume", "--epochs", 3], "photos_crc32 was")


def test_one_process_a_folder(demo, tmp_path, refused):
    (tmp_path / "run").mkdir()
    with evidence.Evidence(tmp_path / "run"):
        flags = [*conftest.SMALL, *places(tmp_path, demo), "--resume"]
        refused(train_resnet.main, flags, "another process runs in it")


def test_a_closed_pipe_or_terminal_does_not_end_the_run(demo, tmp_path, train):
    whole = train("whole", "--epochs", 3, "--save-every", 2, "--hidden", 16, "--dropout", "0.5")
    flags = [*FLAGS, *places(tmp_path, demo)]
    process = conftest.script("train_resnet", *flags)
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert_same_run(tmp_path / "run", whole)


def test_eval_says_where_the_pairs_are_not_those_of_the_run(train, demo, tmp_path, judge):
    run = train("run")
    other = conftest.write_dataset(tmp_path / "d", LINES, ["9 1 2 0.9 1 2"], lambda *_: 90)
    before = (run / "predictions.tsv").read_bytes()
    score = ["--run", run, "--data", other, "--store", tmp_path / "stores"]
    assert "not the pairs that the run was trained with" in judge(scoring.main, *score)[2]
    assert not (run / "predictions_val.tsv").exists()
    assert (run / "predictions.tsv").read_bytes() == before


def test_two_runs_that_build_one_store_at_once(demo, tmp_path):
    flags = [*conftest.SMALL, "--data", demo, "--store", tmp_path / "stores", "--out"]
    started = [conftest.script("train_resnet", *flags, tmp_path / name) for name in "ab"]
    ended = [(*process.communicate(timeout=100), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0, 0], ended
    assert same(tmp_path / "a", tmp_path / "b", COMPARED) == []
    assert [path.suffix for path in (tmp_path / "stores").iterdir()] == [".store"] * 2


def test_a_store_that_another_run_has_built_meanwhile_is_used(demo, tmp_path, monkeypatch):
    paths, first, replace = sorted((demo / "test" / "test_imgs").iterdir()), [], os.replace

    def decode(path, *how):
        if not first:  # the other run is done before this one's first photo
            first.append(path)
            first.append(store.open_store(paths, 64, "pad", tmp_path, data.decode_photo))
        return data.decode_photo(path, *how)

    def replace_as_windows_does(part, path):
        if path.exists():
            raise PermissionError(13, "another process has it open", str(path))
        replace(part, path)

    monkeypatch.setattr(os, "replace", replace_as_windows_does)
    mine, theirs = store.open_store(paths, 64, "pad", tmp_path, decode), first[1]
    assert [path.suffix for path in tmp_path.iterdir()] == [".store"]
    assert all(map(np.array_equal, mine, theirs)) and len(mine[0]) == len(paths)
