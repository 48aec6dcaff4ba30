"""The two variants: frozen features, fine-tuning; each a run like any other."""

import contextlib
import io
import signal
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import tiny
import torch
from test_run import COMPARED, same
from torch import nn
from torch.optim import lr_scheduler

import eval as scoring
from diagnose import compare, record
from model import embed
from run.findings import HARMLESS, SKIPPED
from variants import features, train_finetune, train_frozen

SMALL = ["--weights", "none", "--size", "64", "--epochs", "3", "--batch-size", "4"]
FINE = [*SMALL, "--freeze", "0", "1", "--warmup", "2", "--cycle", "6"]


SHARED = {
    "weights": "imagenet", "size": 224, "fit": "pad", "pad_color": "imagenet",
    "quick_experiment": 1.0, "activation": "relu", "batch_size": 32, "weight_decay": 0.01,
    "epochs": 50, "patience": 10, "seed": 42,
}  # fmt: skip
DEFAULTS = {  # {page: what its specification asks for, where it is not ours}
    train_frozen: SHARED | {
        "features": ["resnet50"], "min_agreement": 0.7, "votes": "", "min_reviewers": 2,
        "hidden": [512, 256], "dropout": 0.5, "lr_head": 1e-3,
    },
    train_finetune: SHARED | {
        "min_agreement": 0.0, "freeze": ["conv1", "bn1", "layer1", "layer2"], "hidden": [],
        "dropout": 0.0, "accumulate": 2, "optimizer": "adamw", "lr_backbone": 5e-5,
        "lr_head": 5e-4, "schedule": "cosine", "warmup": 5, "warmup_factor": 0.02,
        "lr_least": 1e-6, "cycle": 50,
    },
}  # fmt: skip


@pytest.mark.parametrize("page", DEFAULTS)
def test_defaults_are_those_of_the_specification(page):
    assert {key: row[0] for key, row in page.RECIPE.items()} == DEFAULTS[page]


@pytest.fixture
def run_page(demo, tmp_path):
    """run_page(page, name, *flags): a run of a variant in this process; its folder."""

    def run(page, name, *flags, data=demo):
        small = FINE if page is train_finetune else SMALL
        places = ["--data", data, "--out", tmp_path / name, "--store", tmp_path / "stores"]
        page.main([str(word) for word in (*small, *places, *flags)])
        return tmp_path / name

    return run


def tensors(run, name="best.pt"):
    return torch.load(run / name, weights_only=True)["model"]


def kept(tmp_path):
    return sorted((tmp_path / "stores").glob("*.features"))


def test_frozen_features_are_those_of_the_backbone_to_the_bit(run_page, demo, tmp_path):
    run = run_page(train_frozen, "run", "--features", "resnet50", "iqa")
    recipe = scoring.load_run(run)
    ranker = scoring.load_ranker(run, recipe, "cpu")
    split = conftest.decoded(recipe, demo, tmp_path / "stores", "train")
    plain = nn.Module()
    plain.backbone = ranker.extractors["resnet50"]
    plain.weight = nn.Parameter(torch.zeros(1))
    expected = embed(plain, split, recipe.batch_size)
    found = [torch.load(path, weights_only=True) for path in kept(tmp_path)]
    assert any(f.shape == expected.shape and torch.equal(f, expected) for f in found)
    figures = features.iqa(torch.tensor(split.photos[:3]), torch.from_numpy(split.boxes[:3, :4]))
    left, top, right, bottom = split.boxes[0][:4]
    pixels = split.photos[0][:, top:bottom, left:right].astype(float) / 255
    gray = np.tensordot([0.299, 0.587, 0.114], pixels, 1)
    edges = (
        gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * gray[1:-1, 1:-1]
    )
    expected = [edges.var(), gray.mean(), gray.std(), pixels.var(0).mean()]
    assert figures[0].tolist() == pytest.approx(expected, rel=1e-9)
    both = torch.cat([f for f in found if len(f) == len(split.files)][::-1], 1)
    mean, deviation = (tensors(run)[f"backbone.{name}"] for name in ("mean", "deviation"))
    columns = {round(float(v), 4) for v in both.mean(0)}
    assert {round(float(v), 4) for v in mean} == columns and bool((deviation > 0).all())


def test_a_cached_run_equals_an_uncached_one_and_a_stale_cache_is_not_used(run_page, tmp_path):
    first = run_page(train_frozen, "first")
    before = {path: path.stat().st_mtime_ns for path in kept(tmp_path)}
    again = run_page(train_frozen, "again")
    assert {path: path.stat().st_mtime_ns for path in kept(tmp_path)} == before
    assert same(first, again) == []
    assert all(torch.equal(t, tensors(again)[name]) for name, t in tensors(first).items())
    for flags in (["--pad-color", "1,2,3"], ["--seed", 7], ["--size", 96]):  # other photos, weights
        count = len(kept(tmp_path))
        run_page(train_frozen, "other" + flags[0], "--epochs", 1, *flags)
        assert len(kept(tmp_path)) > count


@pytest.mark.parametrize("page", [train_frozen, train_finetune])
def test_eval_scores_a_variant_like_any_run(page, run_page, demo, tmp_path, judge):
    run = run_page(page, "run")
    judge(scoring.main, "--run", run, "--data", demo, "--store", tmp_path / "stores")
    assert (run / "predictions_val.tsv").read_bytes() == (run / "predictions.tsv").read_bytes()


def test_nothing_frozen_moves(run_page):
    run = run_page(train_frozen, "frozen")
    torch.manual_seed(42)
    start = train_frozen.build(scoring.load_run(run)).state_dict()
    moved = {name for name, t in tensors(run, "last.pt").items() if not torch.equal(t, start[name])}
    assert {name.split(".")[0] for name in moved} == {"backbone", "head"}  # mean and deviation
    run = run_page(train_finetune, "fine")
    torch.manual_seed(42)
    start = train_finetune.build(scoring.load_run(run)).state_dict()
    moved = {name for name, t in tensors(run, "last.pt").items() if not torch.equal(t, start[name])}
    assert moved and not [name for name in moved if name.startswith(("backbone.0", "backbone.1"))]


KILLS = ["run.loop:Run.count:3:after"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(
    "name", conftest.one_of_each(["variants.train_frozen", "variants.train_finetune"])
)
def test_killed_and_resumed_a_variant_ends_with_the_same_bytes(name, demo, tmp_path):
    small = [*(FINE if name.endswith("tune") else SMALL), "--save-every", "1", "--data", demo]

    def finish(folder, die=""):
        places = ["--out", tmp_path / folder, "--store", tmp_path / "stores"]
        resume = ["--resume"] * (tmp_path / folder).exists()
        return conftest.finish(tmp_path, name, *small, *places, *resume, die=die)

    for point in KILLS:  # the first of the fine-tuning lies between two passes of an update
        code, errors = finish("run", f"{point}:SIGKILL")
        assert code == -signal.SIGKILL, errors
    assert finish("run")[0] == 0 and finish("whole")[0] == 0
    assert same(tmp_path / "run", tmp_path / "whole", COMPARED) == []
    whole = tensors(tmp_path / "whole", "last.pt")
    assert all(torch.equal(t, whole[n]) for n, t in tensors(tmp_path / "run", "last.pt").items())


def rates(run):
    rows = [line.split("\t") for line in (run / "history.tsv").read_text().splitlines()[1:]]
    return [tuple(map(float, row[1:3])) for row in rows]


def test_the_rates_are_those_of_torchs_own_schedules(run_page):
    run = run_page(train_finetune, "cosine", "--epochs", 6, "--patience", 9)
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (5e-5, 5e-4)]
    optimizer, expected = torch.optim.SGD(groups), []
    for epoch in range(6):
        warm = [0.02 + 0.98 * epoch / 2] * 2
        if epoch >= 2:
            turn = (1 + np.cos(np.pi * (epoch - 2) / 4)) / 2
            warm = [(1e-6 + (lr - 1e-6) * turn) / lr for lr in (5e-5, 5e-4)]
        expected.append((5e-5 * warm[0], 5e-4 * warm[1]))
    assert np.allclose(rates(run), expected, rtol=1e-9)

    run = run_page(train_finetune, "onecycle", "--schedule", "onecycle", "--epochs", 6,
                   "--patience", 9)  # fmt: skip
    cycle = lr_scheduler.OneCycleLR(optimizer, [5e-5, 5e-4], 6 * 4, pct_start=0.1)
    expected = []
    for step in range(24):  # four updates an epoch: 29 pairs by eights
        optimizer.step()
        if step < 23:
            cycle.step()
        if step % 4 == 3:
            expected.append(tuple(group["lr"] for group in optimizer.param_groups))
    assert np.allclose(rates(run)[:5], expected[:5], rtol=1e-9)


@pytest.mark.real
def test_features_before_the_last_stage_are_means_of_its_maps():
    torch.manual_seed(3)
    module = features.build_extractor("resnet50:layer3", "none", 64).eval()
    torch.manual_seed(3)
    whole = features.resnet50("none").eval()
    x = y = torch.rand(2, 3, 64, 64)
    for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
        y = getattr(whole, part)(y)
    assert torch.allclose(module(x), y.mean((2, 3)), atol=1e-6)
    assert module(x).shape == (2, features.WIDTHS["resnet50:layer3"])
    assert not any(p.requires_grad for p in module.parameters())


def test_a_cosine_without_a_warmup_begins_at_the_rates():
    args = SimpleNamespace(schedule="cosine", cycle=8, warmup=0, lr_least=1e-6)
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (3e-5, 4e-4)]
    optimizer = torch.optim.SGD(groups)
    schedule, by_update = train_finetune.build_schedule(optimizer, args, 5)
    assert not by_update
    for epoch in range(9):
        turn = (1 + np.cos(np.pi * epoch / 8)) / 2
        expected = [1e-6 + (lr - 1e-6) * turn for lr in (3e-5, 4e-4)]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        optimizer.step()
        schedule.step()


def test_two_batches_of_four_are_one_of_eight(run_page, monkeypatch):
    monkeypatch.setattr(train_finetune, "resnet50", lambda w: tiny.backbone(2048, norm=False))
    parts = ["--batch-size", 4, "--accumulate", 2], ["--batch-size", 8, "--accumulate", 1]
    runs = [run_page(train_finetune, f"by {p[1]}", "--freeze", *p) for p in parts]
    logged = [(run / "history.tsv").read_text().split() for run in runs]
    figures = [[float(word) for word in words if "." in word] for words in logged]
    assert len(figures[0]) > 15 and np.allclose(*figures, rtol=1e-4)
    first, second = (tensors(run, "last.pt") for run in runs)
    assert max(float((second[n] - t).abs().max()) for n, t in first.items()) < 1e-6


def test_features_of_another_extractor(run_page, demo, tmp_path, refused):
    photos = demo / "train_val" / "train_val_imgs"
    names = np.array(sorted(path.name for path in photos.iterdir()))
    values = np.random.default_rng(0).normal(size=(len(names), 5)).astype(np.float32)
    path = tmp_path / "mine.npz"
    np.savez(path, names=names, features=values)
    run = run_page(train_frozen, "npz", "--features", path, "iqa")
    assert tensors(run)["backbone.mean"].shape == (9,)
    torch.save({"names": names.tolist(), "features": torch.from_numpy(values)}, tmp_path / "m.pt")
    other = run_page(train_frozen, "pt", "--features", tmp_path / "m.pt", "iqa")
    assert same(run, other, ["history.tsv", "predictions.tsv"]) == []
    broken = values.copy()
    broken[3, 2] = np.nan
    for kept_names, held, word in [
        (names[1:], values[1:], f"are missing, first {names[0][:-4]}"),
        (names, values[:-1], "names, but features of shape"),
        (names, broken, f"{names[3]} are not"),
        (np.append(names[:-1], names[0]), values, "a photo is in it twice"),
    ]:  # fmt: skip
        np.savez(path, names=kept_names, features=held)
        flags = [*SMALL, "--data", demo, "--store", tmp_path / "s", "--out", tmp_path / "no"]
        refused(train_frozen.main, [*flags, "--features", path], word)
    np.savez(path, names=names, features=values)
    scored = run_page(train_frozen, "score", "--features", path)
    with pytest.raises(SystemExit):
        scoring.main(["--run", str(scored), "--data", str(demo), "--store", str(tmp_path / "s")])
    predictions = (scored / "predictions_val.tsv").read_bytes()
    assert predictions == (scored / "predictions.tsv").read_bytes()
    path.write_bytes(b"PK nothing")
    refused(train_frozen.main, [*flags, "--features", path], "not an .npz of plain arrays")
    refused(train_frozen.main, [*flags, "--features", "clip"], "not among resnet50")
    refused(train_frozen.main, [*flags, "--features"], "--features: none is named")
    for number, odd in enumerate((torch.eye(3).to_sparse(), torch.ones(3, 3, device="meta"))):
        path = tmp_path / f"odd{number}.pt"
        torch.save({"names": ["a", "b", "c"], "features": odd}, path)
        refused(
            train_frozen.main,
            [*flags, "--features", path],
            "sparse or nested tensor, or one without",
        )
    flags = [*FINE, *flags[len(SMALL) :]]
    refused(train_finetune.main, [*flags, "--freeze", "layer9"], "layer9: not among 0, 1, 2")
    refused(train_finetune.main, [*flags, "--epochs", "7"], "the schedule ends after --cycle 6")


def test_pairs_with_few_votes_are_left_out(run_page, demo, tmp_path, refused):
    rows = [line.split() for line in open(demo / "train_val" / "train_pairlist.txt")]
    rows += [line.split() for line in open(demo / "train_val" / "val_pairlist.txt")]
    votes = tmp_path / "votes.tsv"
    lines = [f"{s}\t{a}\t{b}\t0\t{1 + i % 3}\t0" for i, (s, a, b, *_) in enumerate(rows)]
    header = "series\tphoto_1\tphoto_2\tlabel\tvotes_1\tvotes_2"  # as audit --align writes it
    votes.write_text("\n".join([header, *lines]) + "\n")
    run = run_page(train_frozen, "some", "--votes", votes, "--min-agreement", 0)
    count = sum(i % 3 > 0 for i in range(29))
    assert f"train: {count} pairs" in (run / "train.log").read_text()
    flags = ["--data", demo, "--votes", votes, "--min-reviewers", 9, "--out", tmp_path / "no"]
    refused(train_frozen.main, [*SMALL, *flags], "no pair of train has 9 votes")


def explained(page, words, tmp_path, demo):
    """(id, values) of what compare finds on a recorded variant, but for what was skipped."""
    trace = tmp_path / "page.trace"
    places = ["--data", demo, "--out", tmp_path / "recorded", "--store", tmp_path / "stores"]
    quiet = contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO())
    with quiet[0], quiet[1], record.Recording(trace, 2):
        page.main([str(word) for word in (*words, *places)])
    findings, _ = compare.explain(compare.read_trace(trace), demo, "train_resnet")
    return [(f.id, f.values) for f in findings if f.kind not in (SKIPPED, HARMLESS)]


def test_compare_says_what_the_variants_change(tmp_path, demo):
    frozen = explained(train_frozen, SMALL, tmp_path, demo)
    assert frozen == [
        ("pairs.batch_size", {"batch_size": 4, "reference": 8}),
        ("head.dropout", {"rate": 0.5}),
        ("head.hidden", {"widths": (512, 256), "functions": ("ReLU", "ReLU")}),
        (
            "update.optimizer",
            {"optimizers": ("AdamW",), "rates": (0.001,), "weight_decay": (0.01,)},
        ),
        (
            "update.schedule",
            {"schedule": "ConstantLR", "values": {"factor": 1.0, "total_iters": 5}},
        ),
    ]
    fine = explained(train_finetune, FINE, tmp_path / "fine", demo)
    assert fine.pop(-3)[0] == "start.untrained"
    assert fine == [
        ("pairs.batch_size", {"batch_size": 4, "reference": 8}),
        ("pairs.accumulated", {"batches": 2}),
        ("features.batchnorm_eval", {}),  # the tiny one has one
        ("update.frozen", {"parameters": "0 and 1", "others": None, "moving": None}),
        (
            "update.optimizer",
            {"optimizers": ("AdamW",), "rates": (1e-6, 1e-5), "weight_decay": (0.01,)},
        ),
        (
            "update.schedule",
            {"schedule": "CosineAnnealingLR", "values": {"T_max": 4, "eta_min": 1e-6}},
        ),
        (
            "update.schedule",
            {"schedule": "LinearLR", "values": {"start_factor": 0.02, "total_iters": 2}},
        ),
    ]
