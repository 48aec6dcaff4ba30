"""record.py and diagnose.compare: every bug of the zoo is named, and nothing else is."""

import ast
import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import textwrap
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parent / "zoo"))

import zoo

import data
import model
import train_resnet
import train_vgg
from diagnose import (
    answer,
    compare,
    criterion,
    numerics,
    preprocessing,
    recognition,
    record,
    reference,
)
from diagnose import official as official_module
from diagnose.explain import Change, explain
from diagnose.finding import merge_steps
from diagnose.labels import search
from diagnose.official import OfficialPair, RecordedPair
from diagnose.stages import STAGES, features, judge_tricks, labels
from diagnose.stages import judge_inputs as inputs
from diagnose.stages import judge_loss as loss
from diagnose.stages import judge_pairs as pair_stage
from diagnose.stepping import ULPS
from diagnose.trace import Sample, read_trace, typed
from disk.tensors import load_tensors
from model import SiameseRanker
from run.findings import CAUSE, DECLARED, SKIPPED, UNEXPLAINED, Row, text_of
from run.loop import Run

pytestmark = pytest.mark.real  # the zoo brings its own backbones
zoo.SIDES = 160, 200, 240  # pixels: a large dataset is drawn in less time
GOLDEN = conftest.ROOT / "golden"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# `make zoo` plants every one
@pytest.mark.parametrize(
    "plant", zoo.some([name for name in zoo.EXPECTED if name not in zoo.REPORTS], 3)
)
def test_each_bug_is_named_and_nothing_else_is(plant):
    assert zoo.wrong_with([plant], zoo.examine([plant])) == []


@pytest.mark.parametrize("plant", [*zoo.some(zoo.REPORTS, 2), "eval_train_mode"])
@pytest.mark.filterwarnings("ignore:Using a target size")  # which is the bug
def test_public_bug_reports_are_named_or_described(plant):
    findings = zoo.examine([plant], "reports")
    assert zoo.wrong_with([plant], findings, "reports") == []
    assert zoo.wrong_lines([plant], findings, "reports") == []


@pytest.mark.parametrize("plants", list(zoo.draws(4)), ids="+".join)
def test_two_and_three_bugs_are_named_together(plants):
    assert zoo.wrong_with(plants, zoo.examine(plants)) == []


@pytest.mark.parametrize("number", conftest.one_of_each([*zoo.OUTSIDE][::-1], zoo.OUTSIDE.get))
def test_a_bug_outside_the_tables_is_not_established(number):
    steps = 1 if zoo.OUTSIDE[number] == "inputs" else 2  # which take half a minute each
    found = {(f.kind, f.stage) for f in zoo.examine([f"outside_{number}"], steps=steps)}
    assert (UNEXPLAINED, zoo.OUTSIDE[number]) in found
    assert not [kind for kind, _ in found if kind == CAUSE]


@pytest.mark.parametrize("plant", [*zoo.HARMLESS, *zoo.CLEAN])
def test_what_is_harmless_is_no_alarm(plant):
    assert zoo.wrong_with([plant], zoo.examine([plant])) == []


@pytest.mark.parametrize("script", zoo.SCRIPTS)
@pytest.mark.parametrize("seed", range(2))
def test_clean_trainers_are_equal(script, seed):
    found = zoo.examine([], script, seed=seed, epochs=2 * seed)
    assert zoo.wrong_with([], found, script) == []


@pytest.mark.parametrize(
    "plant", zoo.some([p for p in zoo.plants_of("scores") if p in zoo.EXPECTED], 1)
)
def test_what_the_record_shows_is_combined_with_every_change(plant):
    assert zoo.wrong_with([plant], zoo.examine([plant], "scores"), "scores") == []


FIVE = ["label_invert_loss", "one_lr", "batch_size", "hidden_dropout", "metric_inverted"]


@pytest.mark.parametrize("script", ["plain", "workers", "functional"])
def test_the_five_bugs_that_this_project_began_with(script):
    found = {f.id: f.values for f in zoo.examine(FIVE, script) if f.kind == CAUSE}
    assert list(found) == [  # what makes the result wrong comes first
        "loss.labels_inverted", "printed.accuracy_inverted", "pairs.batch_size", "head.dropout",
        "head.hidden", "update.one_learning_rate",
    ]  # fmt: skip
    assert found["pairs.batch_size"] == {"batch_size": zoo.drawn("batch_size", 0), "reference": 8}
    assert found["head.hidden"] == {"widths": (130,), "functions": ("ReLU",)}
    assert found["head.dropout"] == {"rate": zoo.drawn("hidden_dropout", 0)}
    assert found["update.one_learning_rate"] == {"lr": 1e-4, "backbone": 1e-5, "head": 1e-4}


@pytest.mark.parametrize(
    "plants", conftest.one_of_each([["one_pass", "decay_weights_only"], [], ["layer3"]])
)
def test_the_real_resnet(plants):
    findings = zoo.examine(plants, real=True, steps=1)
    if plants == ["layer3"]:
        found = [(f.id, f.values) for f in findings if f.kind not in (SKIPPED, DECLARED)]
        assert found == [("features.truncated", {"layers": ("layer4",)})]
    else:
        assert zoo.wrong_with(plants, findings) == []


@pytest.mark.full
def test_another_pooling_is_told_on_the_real_resnet():
    found = zoo.examine(["corner_cell"], "reports", real=True, steps=1)
    told = {f.id: f.values for f in found}["features.not_reproduced"]
    assert told["relation"] == "the cell in row 2, column 1 of each 2 x 2 map (reference: its mean)"


@pytest.mark.parametrize(
    "plants, ids",
    [
        (["score_each"], ["features.score", "head.two_scores"]),
        (["ranknet"], ["features.score", "head.score_difference", "loss.logit_of_photo_1"]),
        (["one_logit_first"], ["head.one_logit", "loss.logit_of_photo_1"]),
        (
            ["one_logit", "labels_inverted", "metric_inverted"],
            [
                "printed.accuracy_inverted",
                "head.one_logit",
                "labels.of_one_logit",
                "loss.logit_of_photo_1",
            ],
        ),
    ],
    ids=lambda value: "+".join(value),
)
def test_one_logit_may_speak_for_either_photo(plants, ids):
    found = [f.id for f in zoo.examine(plants) if f.kind != SKIPPED and f.stage != "start"]
    assert found == ids


def test_nothing_is_written_where_nothing_was_recorded(tmp_path):
    (tmp_path / "trainer.py").write_text("print('no photos')")
    command = [sys.executable, str(conftest.ROOT / "diagnose" / "record.py"), "--out"]
    command += [str(tmp_path / "mine.trace"), str(tmp_path / "trainer.py")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and not (tmp_path / "mine.trace").exists()
    assert (
        ended.stderr.startswith("record.py: error: no update was seen")
        and ended.stderr.count("\n") == 1
    )


OWN = {  # a trainer whose files have the names of ours, and whose paths are relative
    "train.py": """
        import sys, torch, data, model
        from run.loop import train
        ours = sys.argv[2]
        assert not {ours, ours + "/diagnose"} & set(sys.path), sys.path
        assert not [name for name in sys.modules if name.partition(".")[0] in ("diagnose", "disk")]
        print(open(sys.argv[1]).read().strip())
        torch.manual_seed(0)
        train(data.load("photos"), model.Net())
    """,
    "data.py": """
        import torch, torchvision
        def photo(series, number):
            path = f"photos/train_val/train_val_imgs/{int(series):06d}-{int(number):02d}.JPG"
            return torchvision.io.read_image(path)[:, :64, :64] / 255.0
        def load(folder):
            lines = [line.split() for line in open(f"{folder}/train_val/train_pairlist.txt")]
            return [(photo(s, a), photo(s, b), int(r < q)) for s, a, b, _, r, q in lines]
    """,
    "model.py": """
        import torch
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.fc = torch.nn.Conv2d(3, 4, 8, 8), torch.nn.Linear(4, 2)
            def forward(self, a, b):
                a, b = (self.conv(x).relu().mean((2, 3)) for x in (a, b))
                return self.fc(a - b)
    """,
    "run/__init__.py": "",
    "run/loop.py": """
        import torch
        def train(pairs, net):
            optimizer = torch.optim.SGD(net.parameters(), 1e-3)
            for i in range(0, len(pairs), 8):
                a, b, label = map(list, zip(*pairs[i : i + 8]))
                logits = net(torch.stack(a), torch.stack(b))
                loss = torch.nn.functional.cross_entropy(logits, torch.tensor(label))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    """,
    "labels.py": "raise SystemExit('the wrong labels.py')",
    "settings/mine.txt": "settings of my own",
}


@pytest.mark.parametrize(
    "words", conftest.one_of_each([("diagnose", "record"), ("diagnose/record.py",)])
)
def test_a_trainer_is_recorded_in_its_own_folder(words, tmp_path):
    for name, text in OWN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    shutil.copytree(zoo.dataset()[1], tmp_path / "photos")
    command = [sys.executable, str(conftest.ROOT / words[0]), *words[1:], "--steps", "2"]
    command += ["--out", "mine.trace", "train.py", "settings/mine.txt", str(conftest.ROOT)]
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ended = subprocess.run(command, cwd=tmp_path, env=plain, text=True, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("settings of my own\n")
    recorded = read_trace(tmp_path / "mine.trace")
    assert len(recorded.updates) == 2
    assert [len(batch.labels[0].values) for batch in recorded.batches] == [8, 8]


@pytest.mark.parametrize("plants", [[], ["label_invert_loss", "adam", "bgr"]])
def test_a_trainer_as_it_is_in_single(plants):
    assert zoo.wrong_with(plants, zoo.examine(plants, as_is=True)) == []


@pytest.mark.parametrize("told", conftest.one_of_each([("1", "--epochs", "1"), ("3",)]))
def test_a_recorded_run_as_it_is_prints_the_same_figures(told, tmp_path):
    steps, *epochs = told
    script = str(zoo.HERE / "plain.py")
    words = ["--data", str(zoo.dataset()[1]), "--size", "64", "--tiny", "--steps", "3"]
    recorder = [str(conftest.ROOT / "diagnose" / "record.py"), "--steps", steps, "--as-is"]
    recorded = [*recorder, *epochs, "--out", str(tmp_path / "mine.trace"), script]
    printed = [
        subprocess.run([sys.executable, *start, *words], capture_output=True, text=True).stdout
        for start in ([script], recorded)
    ]
    lines = [[line for line in text.splitlines() if epochs or "step" in line] for text in printed]
    assert lines[0] == lines[1] and len(lines[0]) == 3 + len(epochs[:1])
    assert not epochs or "val accuracy" in lines[1][-1]  # the evaluation too, to the bit


def test_what_is_logged_is_read_as_what_is_printed(tmp_path, monkeypatch):
    plain = (zoo.HERE / "plain.py").read_text()
    logged = plain.replace('print("epoch %d step', 'logger.warning("epoch %d step')
    head = 'import logging\nlogger = logging.getLogger("mine")\nlogger.propagate = False\n'
    (tmp_path / "logs.py").write_text(f"{head}logger.addHandler(logging.StreamHandler())\n{logged}")
    monkeypatch.setattr(zoo, "HERE", tmp_path)
    found = zoo.examine(["metric_inverted"], "logs", steps=4)
    assert logged != plain and zoo.wrong_with(["metric_inverted"], found) == []


def record_page(script, folder, *flags):
    """The trace of a page of this project, run under record.py."""
    words = ["--weights", "none", "--size", "64", "--data", str(zoo.dataset()[1]), *flags]
    words += ["--out", str(folder / "run"), "--store", str(folder / "stores")]
    steps = [1, None] if script is train_resnet else [None]  # VGG-16 has 134 million weights
    quiet = contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO())
    recording = record.Recording(folder / "page.trace")
    with pytest.MonkeyPatch.context() as patch, quiet[0], quiet[1]:
        patch.setattr(Run, "count", lambda *_: steps.pop(0) or sys.exit())
        patch.setattr(recording.recorder, "save", lambda: None)  # gigabytes
        with recording:
            script.main(words)
    return recording.recorder.trace()


def digest(trace):
    """What a trace of the reference comes to: {name: number}."""
    numbers = {}
    for step, update in enumerate(trace["updates"]):
        batch = trace["batches"][step]
        numbers[f"{step} loss"] = float(batch["backwards"][0]["loss"])
        for i, logit in enumerate(batch["head"][-1]["output"].reshape(-1).tolist()):
            numbers[f"{step} logit {i}"] = logit
        for n, weight in enumerate(trace["weights"]):
            name = f"{step} {n} {weight['op']}.{weight['place']}"
            gradient, after = update["gradients"][n], update["after"][n]
            numbers[f"{name} gradient"] = gradient["l2"] if gradient else 0.0
            numbers[f"{name} weight"] = after["l2"]
    return numbers


@pytest.mark.parametrize(
    "script", conftest.one_of_each([train_resnet, train_vgg]), ids=lambda script: script.__name__
)
def test_the_pages_are_the_reference_and_give_the_golden_figures(script, tmp_path):
    trace = record_page(script, tmp_path)
    if script is train_resnet:
        read = typed(trace, "page.trace")
        findings, basis = compare.explain(read, zoo.dataset()[1], script.__name__)
        assert (zoo.wrong_with([], findings), basis.steps) == ([], 2)
    lines = (GOLDEN / f"{script.__name__}.txt").read_text().splitlines()
    golden = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    today = digest(trace)
    assert golden.keys() == today.keys()
    for name, value in golden.items():
        assert today[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


@functools.cache
def clean_trace(as_is):
    """One step of the plain foreign trainer with the tiny backbone, as it was written."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        trace = Path(folder) / "mine.trace"
        words = ["--data", str(zoo.dataset()[1]), "--size", "64", "--tiny"]
        patch.setattr(sys, "argv", [str(zoo.HERE / "plain.py"), *words])
        with contextlib.suppress(SystemExit), record.Recording(trace, 1, as_is):
            runpy.run_path(sys.argv[0], run_name="__main__")
        return load_tensors(trace)


def stages_that_depart(trace, monkeypatch):
    """The stages that depart in a trace, and what its answer rests on."""
    monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
    read = typed(trace, "mine.trace")
    findings, basis = compare.explain(read, zoo.dataset()[1], "train_resnet")
    return {f.stage for f in findings if f.kind in (CAUSE, UNEXPLAINED)}, basis


def shift_features(trace, basis, times):
    features = trace["batches"][0]["features"][0]
    features[0, 0] += times * basis.tolerance * features.abs().max()


def shift_merged(trace, basis, times):
    merged = trace["batches"][0]["merged"]
    merged[0, 0] += times * numerics.FORMULA[0] * merged.abs().max()


def shift_loss(trace, basis, times):
    trace["batches"][0]["backwards"][0]["loss"] *= 1 + times * 10 * numerics.FORMULA[0]


def shift_gradient(trace, basis, times):
    after, update = trace["batches"][0]["backwards"][0]["after"], trace["updates"][0]["gradients"]
    values = after[0]["values"]  # of the first layer; the tiny backbone's own noise is below least
    values[0] += times * numerics.BACKWARD[0][0] * values.abs().max()
    update[0]["values"] = values.clone()


def shift_update(trace, basis, times):
    first = trace["updates"][0]
    before, after = first["before"][0]["values"], first["after"][0]["values"]
    tolerance = ULPS * torch.finfo(torch.float64).eps * before[0].abs()
    after[0] += times * (tolerance + 1e-9 * (after - before).abs().max())
    if first["next"]:
        first["next"][0]["values"] = after.clone()


def shift_input(trace, basis, times):
    photo = trace["batches"][0]["passes"][0]["input"]
    photo[0, 0, 32, 32] += times * preprocessing.EXACT * photo[0].std()


SHIFTS = {"features": shift_features, "head": shift_merged, "loss": shift_loss,
          "gradients": shift_gradient, "update": shift_update, "inputs": shift_input}  # fmt: skip


@pytest.mark.parametrize("stage", SHIFTS)
def test_a_departure_above_the_noise_is_seen_and_one_below_is_not(stage, monkeypatch):
    _, basis = stages_that_depart(clean_trace(False), monkeypatch)
    for times, seen in ((0.4, False), (2.5, True)):
        trace = copy.deepcopy(clean_trace(False))
        SHIFTS[stage](trace, basis, times)
        assert (stage in stages_that_depart(trace, monkeypatch)[0]) is seen, times


def test_in_single_the_noise_is_that_of_single(monkeypatch):
    departing, basis = stages_that_depart(clean_trace(True), monkeypatch)
    assert departing == set() and 1e-6 < basis.tolerance < 2e-2
    for times, seen in ((0.4, False), (2.5, True)):
        trace = copy.deepcopy(clean_trace(True))
        shift_features(trace, basis, times)
        assert ("features" in stages_that_depart(trace, monkeypatch)[0]) is seen, times
    trace = copy.deepcopy(clean_trace(True))
    after = trace["updates"][0]["after"][0]["values"]
    after[0] = torch.nextafter(after[0], torch.tensor(9.0))
    assert "update" in stages_that_depart(trace, monkeypatch)[0]


def test_what_is_not_finite_is_no_small_difference():
    seen = torch.ones(3, dtype=torch.float64)
    assert numerics.relative_error(seen * float("nan"), seen) == float("inf")
    assert numerics.relative_error(seen, seen * float("inf")) == float("inf")


@pytest.mark.parametrize("real", [False, True], ids=["demo", "photographs"])
def test_every_photo_is_recognised(real, tmp_path, monkeypatch):
    folder = conftest.SHARED / "kodak_series" / "train_val" / "train_val_imgs"
    if real and not folder.is_dir():
        pytest.skip(f"no photographs in {folder}")
    if not real:
        with contextlib.redirect_stdout(io.StringIO()):
            monkeypatch.setattr(zoo.make_demo, "SIDES", (240, 320, 400))
            zoo.make_demo.main(["--out", str(tmp_path / "data"), "--series", "30", "--seed", "1"])
        folder = tmp_path / "data" / "train_val" / "train_val_imgs"
    paths = sorted(folder.iterdir())
    described = np.stack([recognition.describe_photo(path) for path in paths])
    made = [
        preprocessing.apply(preprocessing.Photo(path), preprocessing.reference(), 64)
        for path in paths[::3]
    ]
    found = recognition.recognize(made, described, few=5)
    assert len(made) > 15 and [3 * i in rows for i, rows in enumerate(found)] == [True] * len(made)


def by_v2(photo, sides):
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    return v2.functional.resize(pixels, sides[::-1], antialias=True).float() / 255


def as_floats(antialias):
    def act(photo, sides):
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255
        return v2.functional.resize(pixels, sides[::-1], antialias=antialias)

    return act


def by_cv2(kind):
    def act(photo, sides):
        cv2 = pytest.importorskip("cv2")
        made = cv2.resize(np.array(photo), sides, interpolation=getattr(cv2, kind))
        return torch.from_numpy(made).permute(2, 0, 1).float() / 255

    return act


RESIZED = {
    "byte_tensor_resize": by_v2,
    "tensor_resize": as_floats(True),
    "no_antialias": as_floats(False),
    "opencv_linear": by_cv2("INTER_LINEAR"),
    "opencv_area": by_cv2("INTER_AREA"),
}


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("name", RESIZED)
def test_the_resize_of_a_library_is_named(name, size):
    root = conftest.SHARED / "kodak_series" if size == 64 else zoo.dataset()[1]
    official = official_module.Official(root if root.is_dir() else zoo.dataset()[1], [])
    made, mean, std = [], *(torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    for path in official.every[:2]:
        with Image.open(path) as photo:
            scale = size / max(photo.size)
            sides = [round(side * scale) for side in photo.size]
            pixels = RESIZED[name](photo.convert("RGB"), sides)
        left, top = ((size - side) // 2 for side in sides)
        x = torch.zeros(3, size, size)
        x[:, top : top + sides[1], left : left + sides[0]] = (pixels - mean) / std
        made.append(x.double())
    changes, paths, _ = official.identify(torch.stack(made))
    assert [[row.id for row, _ in own] for own in changes] == [[f"inputs.{name}"]] * 2
    assert paths == official.every[:2]


@pytest.mark.parametrize("size", [64, 150])
@pytest.mark.parametrize("real", [False, True], ids=["demo", "photographs"])
def test_every_photo_is_known_by_its_thumbnail(real, size):
    root = conftest.SHARED / "kodak_series" if real else zoo.dataset()[1]
    if not root.is_dir():
        pytest.skip(f"no photographs in {root}")
    official, rng = official_module.Official(root, []), np.random.default_rng(size)
    crop = preprocessing.reference() | {"geometry": "crop"}
    official.keep_hint(crop)
    drawn = rng.permutation(len(official.every))[:24]
    ways = [crop, preprocessing.reference()] * 12
    photos = [preprocessing.Photo(official.every[n]) for n in drawn]
    made = [preprocessing.apply(*own, size) for own in zip(photos, ways, strict=True)]
    found = official.of_thumbnails(record.thumbnail(torch.stack(made)), size)
    assert found == [official.every[n] for n in drawn]
    blank = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(size))
    assert official.of_thumbnails(record.thumbnail(blank), size) == [None] * 3


def edited(function, old, new):
    """A function of a page, with another text."""
    source, names = inspect.getsource(function), dict(vars(sys.modules[function.__module__]))
    assert source.count(old) >= 1
    exec(source.replace(old, new), names)
    return names[function.__name__]


def other_optimizer(**changed):
    def build(args, ranker):
        return BUILD(Namespace(**(vars(args) | changed)), ranker)

    return build


BUILD = train_resnet.build_optimizer
SIDES = "round(size * side / longer)"
COLOR = {"imagenet": (0.3, 0.4, 0.7)}
CHANGES = {  # of a page: what a trainer that was the reference is called then
    "sign": (SiameseRanker, "compare", lambda self, a, b: self.head(b - a),
             {"head.reversed_difference"}),
    "filter": (data, "fit_photo", edited(data.fit_photo, "BILINEAR", "BICUBIC"),
               {"inputs.filter"}),
    "rounding of the sides": (
        data, "fit_photo", edited(data.fit_photo, SIDES, SIDES.replace("round", "int")),
        {"inputs.padded"},
    ),
    "padding color": (data, "PAD_COLORS", data.PAD_COLORS | COLOR, {"inputs.padding"}),
    "mean": (data, "to_input", edited(data.to_input, "IMAGENET_MEAN", "(0.4, 0.5, 0.3)"),
             {"inputs.normalized"}),
    "backbone's rate": (train_resnet, "build_optimizer", other_optimizer(lr_backbone=3e-5),
                        {"update.learning_rates"}),
    "decay": (train_resnet, "build_optimizer", other_optimizer(weight_decay=3e-4),
              {"update.weight_decay"}),
    "momentum": (train_resnet, "build_optimizer", other_optimizer(momentum=0.7),
                 {"update.momentum"}),
    "head's initialization": (
        model, "build_head", edited(model.build_head, '"fan_in"', '"fan_out"'),
        {"start.head_fan_in"},
    ),
    "label": (data, "read_pairlist", None, {"labels.inverted"}),
}  # fmt: skip


@functools.cache
def two_steps():
    """The trace of two steps of the clean plain trainer."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        trace = Path(folder) / "mine.trace"
        words = ["--data", str(zoo.dataset()[1]), "--size", "64", "--tiny"]
        patch.setattr(sys, "argv", [str(zoo.HERE / "plain.py"), *words])
        with contextlib.suppress(SystemExit), record.Recording(trace, 2):
            runpy.run_path(sys.argv[0], run_name="__main__")
        return compare.read_trace(trace)


@functools.cache
def ids_of_two_steps():
    """What is found in two_steps() by the pages as they are."""
    found, _ = compare.explain(two_steps(), zoo.dataset()[1], "train_resnet")
    return {f.id for f in found if f.kind != SKIPPED}


@pytest.mark.parametrize("change", CHANGES)
def test_the_pages_are_what_is_replayed(change, monkeypatch):
    owner, name, value, ids = CHANGES[change]
    plain = getattr(owner, name)
    if change == "label":

        def value(path, labelled=True):
            pairs, problems = plain(path, labelled)
            pairs["label"] = 1 - pairs["label"]
            return pairs, problems

        owner = official_module
    monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
    assert ids_of_two_steps() == {zoo.UNTRAINED}
    monkeypatch.setattr(owner, name, value)
    found, _ = compare.explain(two_steps(), zoo.dataset()[1], "train_resnet")
    assert {f.id for f in found if f.kind != SKIPPED} == ids | {zoo.UNTRAINED}


@pytest.mark.parametrize("page", [train_resnet, train_vgg])
def test_the_loss_of_the_pages_is_that_of_the_loss_stage(page):
    # It is a line of the loop, of which diagnose/criterion.py keeps the one copy.
    tree = ast.parse(Path(page.__file__).read_text())
    lines = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    names = {"nn": torch.nn, "F": torch.nn.functional}
    torch.manual_seed(0)
    names |= {"logits": torch.randn(5, 2).double(), "label": torch.tensor([0, 1, 1, 0, 1])}
    for start in ("criterion = ", "loss = "):
        exec(next(line for line in lines if line.startswith(start)), names)
    mine = criterion.cross_entropy(names["logits"], names["label"]).mean()
    assert torch.equal(names["loss"], mine)


def test_a_trained_backbone_is_not_called_untrained(monkeypatch):
    def said(trace):
        monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
        read = typed(trace, "mine.trace")
        findings, _ = compare.explain(read, zoo.dataset()[1], "train_resnet")
        return [f.kind for f in findings if f.id == zoo.UNTRAINED]

    assert said(copy.deepcopy(clean_trace(False))) == [DECLARED]
    trace = copy.deepcopy(clean_trace(False))
    trace["batches"][0]["passes"][0]["norms"][0]["before"][0][0] = 0.1  # as a probe leaves it
    assert said(trace) == [DECLARED]
    for place, weight in enumerate(trace["weights"]):
        if (weight["op"], weight["place"]) == ("batch_norm", 2):
            trace["updates"][0]["weights"][place][0] = 0.9
    assert said(trace) == []


def steps_of(*steps, loss_factor=1.0):
    """Steps whose one gradient has these norms and was multiplied by these factors."""
    made = []
    for place, (norm, factor) in enumerate(steps):
        values = torch.tensor([0.6, 0.8]).double() * norm
        last = Sample(values, norm, norm)
        after = Sample(values * factor, norm * factor, norm * factor)
        update = SimpleNamespace(gradients=[after], before=[after], clipped=None, weights=[values])
        made.append(judge_tricks.step_of(place, update, [last], {0: None}, loss_factor, None))
    return made


def test_a_clipped_norm_and_a_factor_are_told_apart_by_two_steps():
    def judged(*steps):
        return merge_steps(judge_tricks.judge_tricks(steps_of(*steps)))

    def told(finding):
        (value,) = (finding.values[key] for key in ("norm", "factor") if key in finding.values)
        return finding.id, round(value, 5)

    clip, scale = ("gradients.norm_clipped", 2.5), ("gradients.factor", 0.5)
    (both,) = judged((5.0, 0.5))
    ways = [list(map(told, way)) for way in both.values["ways"]]
    assert both.id == "gradients.one_of" and ways == [[clip], [scale]]
    assert text_of(both) == (
        "one of: the gradient norm is clipped (or set) to 2.5; the gradients are multiplied by 0.5"
    )
    for steps, right in (((5.0, 0.5), (10.0, 0.25)), clip), (((5.0, 0.5), (10.0, 0.5)), scale):
        (one,) = judged(*steps)
        assert (told(one), one.steps) == (right, (1, 2))
    (one,) = judge_tricks.judge_tricks(steps_of((5.0, 0.5), (10.0, 0.5), loss_factor=None))[:1]
    assert one[1].id == "gradients.factor_of_unknown_loss" and one[1].kind == SKIPPED
    # a norm below the bound is left alone, a factor leaves none
    (one,) = judged((5.0, 0.5), (2.0, 1.0))
    assert (told(one), one.steps) == (clip, (1,))
    (none,) = judged((5.0, 0.5), (10.0, 0.4))
    assert (none.id, none.kind) == ("gradients.contradiction", UNEXPLAINED)
    assert text_of(none).endswith("to 2.5; the gradient norm is clipped (or set) to 4")


def test_a_value_that_is_clipped_between_the_kept_places_is_seen():
    values = torch.tensor([0.6, 0.8]).double()
    last, after = (Sample(values, top, top) for top in (5.0, 4.0))
    update = SimpleNamespace(gradients=[after], before=[after], clipped=None, weights=[values])
    step = judge_tricks.step_of(0, update, [last], {0: None}, 1.0, None)
    ((_, found),) = judge_tricks.judge_tricks([step])
    assert (found.id, found.values) == ("gradients.values_clipped", {"bound": 4.0})


def test_counts_that_differ_from_step_to_step_are_told_as_a_series():
    def step(lost):
        usual = preprocessing.reference()
        ways = [usual | {"normalization": name}] * lost + [usual] * (8 - lost)
        return inputs.name_inputs(list(map(preprocessing.changes_of, ways)), 0.0)

    counts, name = [2, 6, 8, 5], "half"
    (found,) = merge_steps([(n, f) for n, lost in enumerate(counts) for f in step(lost)])
    assert found.id == "inputs.normalized_half" and found.steps == (1, 2, 3, 4)
    assert found.series == {"count": (2, 6, None, 5)}
    text = "inputs are normalized with mean 0.5 and std 0.5 (reference: ImageNet)"
    assert text_of(found) == f"{text} (2, 6, all, 5 of 8 photos)"
    name = "twice"
    (found,) = merge_steps([(n, f) for n, lost in enumerate(counts[:2]) for f in step(lost)])
    assert text_of(found).startswith("2, 6 of 8 photos are normalized more than once")
    (found,) = merge_steps([(0, f) for f in step(8)])
    assert text_of(found) == "inputs are normalized twice"


def test_a_padding_of_each_photo_is_one_change(demo):
    photo = preprocessing.Photo(sorted((demo / "train_val" / "train_val_imgs").iterdir())[0])
    slots = []
    for color in ((0.1, 0.2, 0.3), (0.5, 0.1, 0.9), (0.7, 0.7, 0.2)):
        border = torch.tensor(color).double()
        x = preprocessing.apply(photo, preprocessing.reference() | {"border": border}, 64)
        slots.append(preprocessing.changes_of(preprocessing.solve(x, [photo], 64)[1]))
    (found,) = inputs.name_inputs(slots, 0.0)
    assert found.id == "inputs.padding_of_each"


def batch_of(label, weight, seed=0):
    """The Evidence of a cross-entropy with two class weights on random logits."""
    torch.manual_seed(seed)
    logits = torch.randn(len(label), 2, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(weight, dtype=torch.float64)
    value = torch.nn.functional.cross_entropy(logits, torch.tensor(label), weight)
    (gradient,) = torch.autograd.grad(value, logits)
    label = torch.tensor(label)
    return criterion.Evidence(logits.detach(), label, None, value.detach(), gradient, single=False)


@pytest.mark.parametrize("photos, sides", [(4, True), (1, False)])
def test_features_of_one_photo_are_not_scores_of_many(photos, sides):
    known = SimpleNamespace(input=torch.rand(photos, 3, 8, 8), weights=())
    first = torch.arange(4) % photos
    batch = SimpleNamespace(
        features=[torch.rand(4)] * 2, gradients={}, joined="", passes=[known, known],
        rows=[first, first + photos],
    )  # fmt: skip
    assert (reference.sides_of(batch) is not None) == sides


WEIGHTS = ("loss.class_weights", {"value": 1.5})


def judge_loss(*batches):
    """See diagnose.stages.judge_loss; the pairs of the batches are not known."""
    known = [(step, []) for step in range(len(batches))]
    return loss.judge_loss(batches, loss.INVERTED, known)


def test_a_loss_must_give_every_batch():
    mixed, single = batch_of([0, 1, 1, 0, 1], [1, 1.5]), batch_of([1, 1, 1], [1, 1.5], 1)
    found, fit = judge_loss(single, mixed)
    assert [(f.id, f.values) for f in found] == [WEIGHTS]
    assert fit.factors == pytest.approx([1, 1])
    found, fit = judge_loss(mixed, batch_of([0, 1, 1, 0], [1, 1.2]))
    assert found[0].id == "loss.contradiction" and fit is None
    assert [(f.id, f.values) for f in found[0].values["estimates"][0]] == [WEIGHTS]


def test_a_loss_that_departs_late_is_told_by_the_step_in_which_it_does():
    plain = batch_of([0, 1, 1, 0, 1], [1, 1])
    found = judge_loss(plain, batch_of([0, 1, 1, 0], [1, 1.5]))[0][0]
    assert text_of(found) == (
        "what reproduces one step does not reproduce the next: class weights are 1 and 1.5 "
        "(reference: none)"
    )


def test_updates_of_different_numbers_of_batches_are_counted():
    recipe = {"batch_size": 8}
    counts = {
        (2, 2): ("pairs.accumulated", {"batches": 2}),
        (3, 1, 2): ("pairs.accumulated_unevenly", {"batches": (3, 1, 2)}),
    }
    for steps, told in counts.items():
        epochs = [(-1, None)] * sum(steps)
        sizes = [8] * sum(steps)
        found, unknown = pair_stage.judge_pairs([], sizes, recipe, steps, 100, epochs)
        assert (found.id, found.values) == told
        assert unknown.id == "pairs.unknown"  # no pair was identified


def recorded(count, seed):
    """RecordedPairs of made-up lists, some with photo_2 first, labelled rightly; their rows."""
    rows, _ = conftest.made_up(count, seed)
    lists = np.array([(*row, int(row[4] > row[5]), 0) for row in rows], dtype=data.PAIR)
    swapped = np.random.default_rng(seed).random(len(lists)) < 0.3
    official = [
        OfficialPair("train", n, int(row["label"]) ^ int(turn), bool(turn), row)
        for n, (row, turn) in enumerate(zip(lists, swapped, strict=True))
    ]
    return lists, swapped, [RecordedPair(pair.label, pair) for pair in official]


@pytest.mark.parametrize("number", range(1, 19))
def test_every_misreading_of_the_lists_is_named_as_diagnose_labels_names_it(number):
    lists, swapped, pairs = recorded(24, number)
    (rule,), _, made = list(search.rules(lists))[number]
    words = str(rule)
    assert len(list(search.rules(lists))) == 19
    keys = [(int(row["series"]), int(row["photo_1"]), int(row["photo_2"])) for row in lists]
    known = {key: ("train", n, row) for n, (key, row) in enumerate(zip(keys, lists, strict=True))}
    official = SimpleNamespace(pairs=known, labels=lambda split: lists["label"].tolist())
    own = [p._replace(label=int(y)) for p, y in zip(pairs, made ^ swapped, strict=True)]
    (found,) = labels.judge_labels(own, False, False, official)
    wrong = int((made != lists["label"]).sum())
    if wrong == 0:
        assert found.id == "labels.some_second_photo_first"
    elif found.id == "labels.misread":
        assert words in found.values["rules"].split(" or ") and found.values["wrong"] == wrong
    else:
        assert words in (
            "label = 0 if rank_1 == 1", "label = 1 if rank_1 == 1",
            "ranks are read as photo numbers: label = 0 if rank_1 == photo_1",
        ) or wrong < 4, (words, found)  # fmt: skip
    one = [own[0]._replace(label=1 - own[0].label), *own[1:]]
    assert labels.judge_labels(one, False, False, official)[0].id == "labels.not_official"


@pytest.mark.parametrize(
    "name", conftest.one_of_each(runpy.run_path(str(zoo.HERE / "backbones.py"))["BACKBONES"])
)
def test_another_backbone_is_said_to_be_one_and_the_rest_is_judged(name, tmp_path):
    trace, root = tmp_path / "mine.trace", zoo.dataset()[1]
    own = [str(zoo.HERE / "backbones.py"), "--data", str(root), "--backbone", name]
    words = [sys.executable, str(conftest.ROOT / "diagnose"), "record", "--steps", "2"]
    subprocess.run([*words, "--out", str(trace), *own], check=True, capture_output=True)
    findings = compare.explain(compare.read_trace(trace), root)[0]
    told = {f.id for f in findings if f.kind not in (SKIPPED, DECLARED)}
    others = {"loss.labels_inverted", "features.not_reproduced", "features.batchnorm_momentum"}
    assert {"loss.labels_inverted", "features.not_reproduced"} <= told <= others


def test_two_signs_that_cancel_are_both_named():
    found = [(f.id, f.values) for f in zoo.examine(["negated", "maximize"]) if f.kind == CAUSE]
    assert found[1] == ("loss.factor", {"factor": -1.0}) and found[0][0] == "update.maximize"


def test_an_answer_of_which_nothing_was_judged_says_so():
    basis = compare.Basis(1, 1, 8, 0, 0, 0, 0, 0, None, None, None, 224, "train_resnet")
    found = [Row(f"{stage}.skipped", SKIPPED, "").found() for stage in STAGES]
    found += [features.NOT_TWO_SIDES.found()]
    assert answer.verdict(found, basis) == "Unexplained: features. Nothing else was judged."
    assert answer.exit_code(found) == 2 and answer.exit_code(found[1:]) == 1
    assert "Elsewhere" in answer.verdict(found[1:], basis)


def test_photos_that_workers_opened_are_found(monkeypatch):
    trace = copy.deepcopy(clean_trace(False))
    trace["files"] = [sorted((zoo.dataset()[1] / "train_val" / "train_val_imgs").iterdir())[0].name]
    assert stages_that_depart(trace, monkeypatch)[0] == set()


def test_what_autocast_makes_too_coarse_is_not_judged():
    kinds = {f.stage: f.kind for f in zoo.examine(["clean_autocast"], as_is=True)}
    assert kinds["features"] == kinds["loss"] == kinds["gradients"] == SKIPPED
    assert not {CAUSE, UNEXPLAINED} & set(kinds.values())


def test_a_trace_that_the_disk_cannot_take_is_one_line(tmp_path, monkeypatch, capsys):
    def full(trace, file):
        file.write(b"a part")
        raise RuntimeError("file write failed\nat a place of its own")

    monkeypatch.setattr(torch, "save", full)
    recorder = record.Recorder(tmp_path / "mine.trace")
    recorder.updates = [{}]
    with pytest.raises(SystemExit) as ended:
        recorder.save()
    assert ended.value.code == 2 and list(tmp_path.iterdir()) == []
    line = capsys.readouterr().err
    assert line.endswith(": file write failed\n") and line.count("\n") == 1


@pytest.mark.parametrize("estimate, told", [(0.21412, 0.214), (0.299971, 0.3), (7.0, 7.0)])
def test_an_estimate_is_shortened_but_not_beyond_itself(estimate, told):
    # a tolerance that would let far shorter numbers pass
    row = Change("loss.made_up", CAUSE, "{value}", values=lambda *_: [{"value": estimate}])
    replay = SimpleNamespace(shown=(), size=1, error=lambda changes: (0.0 if changes else 1.0, 0.1))
    found = explain([replay], [[()], [(row,)]])
    ((finding,),) = found.fits
    assert finding.values == {"value": told} and found.tried == 2


def test_nothing_writes_into_a_trace():
    trace = two_steps()
    for record_, name in (
        (trace, "lines"),
        (trace.batches[0], "labels"),
        (trace.updates[0], "next"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record_, name, ())
    with pytest.raises(TypeError):
        trace.batches[0].gradients["merged"] = ()
    assert isinstance(trace.batches, tuple) and isinstance(trace.updates[0].gradients, tuple)


def test_what_is_no_trace_is_one_line(tmp_path, refused):
    path = tmp_path / "mine.trace"
    flags = [path, "--data", zoo.dataset()[1]]
    refused(compare.main, flags, "mine.trace", "no such file")
    path.write_text("nothing")
    refused(compare.main, flags, "mine.trace", "not a checkpoint of plain tensors")
    torch.save({"version": 1}, path)
    refused(compare.main, flags, "mine.trace", "not a trace of record.py")
    for version in (record.VERSION + 1, "1", None):
        torch.save(clean_trace(False) | {"version": version}, path)
        refused(compare.main, flags, f"recorded by version {version}, this is {record.VERSION}")


def test_the_answer_on_the_command_line(tmp_path, capsys, monkeypatch):
    trace = tmp_path / "mine.trace"
    words = [
        "--data",
        str(zoo.dataset()[1]),
        "--size",
        "64",
        "--epochs",
        "2",
        "--tiny",
        "--plant",
        *(zoo.word_of(plant, 0) for plant in FIVE),
    ]
    monkeypatch.setattr(sys, "argv", [str(zoo.HERE / "plain.py"), *words])
    with contextlib.suppress(SystemExit), record.Recording(trace, 3):
        runpy.run_path(sys.argv[0], run_name="__main__")
    monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        compare.main([str(trace), "--data", str(zoo.dataset()[1])])
    printed = capsys.readouterr().out
    assert ended.value.code == 1
    assert printed.count("\n  CAUSE ") == 6
    size = "at 64 pixels (reference: 224)"
    text = f"is the reference with these 6 changes {size}. With them"
    assert printed.startswith(f"VERDICT Your trainer {text}")
    with pytest.raises(SystemExit) as ended:
        compare.main([str(trace), "--data", str(zoo.dataset()[1]), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["verdict", "exit_code", "findings"] and found["exit_code"] == 1
    assert found["verdict"] == printed.splitlines()[0].removeprefix("VERDICT ")
    (batch,) = (row for row in found["findings"] if row["id"] == "pairs.batch_size")
    size = zoo.drawn("batch_size", 0)
    assert batch == {
        "id": "pairs.batch_size", "stage": "pairs", "kind": "CAUSE",
        "text": f"the batch size is {size} (reference: 8)",
        "values": {"batch_size": size, "reference": 8},
        "series": {}, "steps": [1, 2, 3], "relative_error": 0.0, "tolerance": 0.0, "size": 0,
        "where": batch["where"], "help": "make batches of 8 pairs: batch_size=8 in a DataLoader",
        "flag": f"--batch-size {size}", "matters": "learns",
    }  # fmt: skip
    (place,) = batch["where"]
    assert place["text"].startswith("train_loader = DataLoader(train_set, batch_size=batch")


if __name__ == "__main__":  # writes golden/ again
    for page in (train_resnet, train_vgg):
        with tempfile.TemporaryDirectory() as name:
            rows = digest(record_page(page, Path(name))).items()
        text = "".join(f"{name} {value:.12e}\n" for name, value in rows)
        (GOLDEN / f"{page.__name__}.txt").write_text(text)
