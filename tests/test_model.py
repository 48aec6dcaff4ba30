"""The ranker, its head, and the parameter groups of both recipes with their real backbones."""

import copy
import math
import sys
from itertools import islice

import conftest
import pytest
import test_my_data as checks
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import eval as scoring
import model
import train_resnet
import train_vgg
from disk import tensors
from disk.tensors import imagenet_file
from run.loop import Run

real = pytest.mark.real
DEFAULTS = {
    "weights": "imagenet", "size": 224, "fit": "pad", "pad_color": "imagenet",
    "min_agreement": 0.0, "quick_experiment": 1.0, "hidden": [], "activation": "relu",
    "dropout": 0.0, "batch_size": 8, "lr_backbone": 1e-5, "lr_head": 1e-4, "momentum": 0.9,
    "weight_decay": 5e-4, "lr_factor": 0.3, "lr_every": 25, "epochs": 100, "patience": 10,
    "seed": 42,
}  # fmt: skip


def photos(count=8, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, 3, size, size, generator=generator)


@pytest.fixture(scope="module")
def ranker():
    torch.manual_seed(0)
    return model.SiameseRanker(model.resnet50("none"), model.build_head(2048))


@real
@pytest.mark.parametrize(
    "script, features, numel",
    [(train_resnet, 2048, 23_508_032), (train_vgg, 4096, 134_260_544)],
)
def test_groups_and_defaults(script, features, numel, monkeypatch, demo, tmp_path):
    given = []
    monkeypatch.setattr(
        script, "Run", lambda args, *_, **pieces: sys.exit(given.append((args, pieces)))
    )
    with pytest.raises(SystemExit):
        script.main(f"--weights none --data {demo} --out {tmp_path / 'run'}".split())
    args, pieces = given[0]
    ranker, optimizer, schedule = (pieces[key] for key in ("ranker", "optimizer", "schedule"))
    backbone, head = optimizer.param_groups
    assert sum(p.numel() for p in backbone["params"]) == numel
    assert [p.shape for p in head["params"]] == [(2, features), (2,)]
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in ranker.parameters() if p.requires_grad)
    for group, lr in ((backbone, 1e-5), (head, 1e-4)):
        values = [group[key] for key in ("lr", "momentum", "weight_decay", "nesterov", "dampening")]
        assert values == [lr, 0.9, 5e-4, False, 0]
    assert (schedule.step_size, schedule.gamma) == (25, 0.3)
    own = {"inner_dropout": 0.0} if script is train_vgg else {}
    given = {key: getattr(args, key) for key in script.RECIPE}
    assert given == DEFAULTS | own | {"weights": "none"}
    assert {key: row[0] for key, row in script.RECIPE.items()} == DEFAULTS | own


@pytest.mark.parametrize("features", [2048, 4096])
def test_head_is_kaiming_fan_in(features):
    head = model.build_head(features)
    assert head.weight.std().item() == pytest.approx(math.sqrt(2 / features), rel=0.05)
    assert not head.bias.any()


def test_head_variants():
    layers = model.build_head(4096, [128, 128], "tanh", 0.5)
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Linear", "Tanh", "Dropout"] * 2 + ["Linear"]
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    assert layers(torch.randn(3, 4096)).shape == (3, 2)


def test_vgg_runs_without_inner_dropout_unless_told_and_without_a_pooling_that_does_nothing():
    def facts(size, **options):
        backbone = model.vgg16("none", size, **options)
        rates = [layer.p for layer in backbone.classifier if isinstance(layer, nn.Dropout)]
        return len(backbone.classifier), rates, type(backbone.avgpool).__name__

    assert facts(64) == (6, [0, 0], "AdaptiveAvgPool2d")
    assert facts(224, inner_dropout=0.5) == (6, [0.5, 0.5], "Identity")


@real
def test_first_loss_is_ln_2_for_equal_photos_and_else_what_the_head_predicts(ranker):
    first, second = photos()
    label = torch.tensor([0, 1] * 4)
    ranker.train()
    with torch.no_grad():
        same = cross_entropy(ranker(first, first), label)
        difference = ranker.backbone(first) - ranker.backbone(second)
    assert same.item() == pytest.approx(math.log(2), abs=1e-6)
    # z1 - z0 is normal with deviation sqrt(2) * head std * |difference|: average over heads.
    heads = [model.build_head(2048) for _ in range(400)]
    with torch.no_grad():
        losses = [cross_entropy(head(difference), label).item() for head in heads]
    margins = difference.norm(dim=1, keepdim=True) * math.sqrt(2 * 2 / 2048) * torch.randn(8, 4000)
    predicted = softplus(margins).mean().item()
    assert predicted > math.log(2) + 0.02
    assert sum(losses) / len(losses) == pytest.approx(predicted, rel=0.1)


@real
def test_each_step_runs_batch_norm_twice_and_moves_every_parameter(train, monkeypatch):
    states = []

    class OneStep(Run):
        def batches(self, batches):
            states.append(copy.deepcopy(self.ranker.state_dict()))
            yield from islice(super().batches(batches), 1)
            states.append(self.ranker.state_dict())
            sys.exit()

    monkeypatch.setattr(train_resnet, "Run", OneStep)
    with pytest.raises(SystemExit):
        train("run")
    before, after = states
    counters = [name for name in after if name.endswith("num_batches_tracked")]
    assert len(counters) == 53 and all(after[name] - before[name] == 2 for name in counters)
    moved = [name for name in after if not torch.equal(after[name], before[name])]
    assert [name for name in after if name not in moved and name not in counters] == []


@real
def test_self_pairs_and_swapped_pairs(ranker):
    ranker.eval()
    bias = torch.tensor([0.3, -0.2])
    first, second = photos()
    with torch.no_grad():
        ranker.head.bias.copy_(bias)
        alone, ahead, behind = (
            ranker(a, b) for a, b in ((first, first), (first, second), (second, first))
        )
        ranker.head.bias.zero_()
    assert torch.equal(alone, bias.expand(8, 2))
    assert (ahead - bias).abs().min() > 1e-6
    torch.testing.assert_close(ahead - bias, bias - behind)


@real
def test_samples_of_a_batch_do_not_leak_into_each_other(ranker):
    ranker.eval()
    first, second = photos(4)
    changed = first.clone()
    changed[1] += 1
    with torch.no_grad():
        before, after = ranker(first, second), ranker(changed, second)
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert not torch.equal(before[1], after[1])


@real
def test_one_batch_can_be_overfitted():
    torch.manual_seed(0)
    ranker = model.SiameseRanker(model.resnet50("none"), model.build_head(2048)).train()
    optimizer = torch.optim.SGD(ranker.parameters(), lr=3e-3, momentum=0.9)
    (first, second), label = photos(), torch.tensor([0, 1, 1, 0, 0, 1, 0, 1])
    for _ in range(16):
        logits = ranker(first, second)
        loss = cross_entropy(logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 and torch.equal(logits.argmax(1), label)


def test_weights_from_a_file(tmp_path, monkeypatch, capsys):
    def load(path):
        torch.manual_seed(1)
        return model.resnet50(str(path))

    import torchvision

    torch.manual_seed(0)
    state = torchvision.models.resnet50().state_dict()
    torch.save(state, tmp_path / "whole.pth")
    loaded = load(tmp_path / "whole.pth").state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in loaded) and len(loaded) == 318
    torch.save({**state, "more": torch.zeros(1)}, tmp_path / "extra.pth")
    state.pop("conv1.weight")
    torch.save(state, tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, word in [
        ("extra", "1 tensors extra, first more"),
        ("missing", "1 tensors missing, first conv1.weight"),
        ("text", "not a checkpoint of plain tensors"),
        ("absent", "no such file"),
    ]:
        with pytest.raises(SystemExit):
            load(tmp_path / f"{name}.pth")
        assert word in capsys.readouterr().err


def write_best(folder, state):
    best = {"run": "0", "model": state, "epoch": 1, "accuracy": 0.5, "logits": torch.ones(1, 2)}
    torch.save(best, folder / "best.pt")
    return str(folder / "best.pt")


@real
@pytest.mark.parametrize(
    "build", conftest.one_of_each([model.resnet50, lambda weights: model.vgg16(weights, 64)])
)
def test_weights_of_a_run_are_its_backbone(build, tmp_path):
    torch.manual_seed(0)
    trained = build("none").state_dict()
    state = {f"backbone.{name}": tensor for name, tensor in trained.items()}
    head = {"head.weight": torch.ones(2, 8), "head.0.weight": torch.ones(3)}
    torch.manual_seed(1)
    loaded = build(write_best(tmp_path, state | head)).state_dict()
    assert list(loaded) == list(trained)
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)


@real
def test_weights_of_a_run_are_refused_with_any_other_tensor(tmp_path, refused):
    trained = model.resnet50("none").state_dict()
    state = {f"backbone.{name}": tensor for name, tensor in trained.items()}
    first, one = next(iter(state)), torch.ones(1)
    for wrong, words in (
        ({k: t for k, t in state.items() if k != first}, f"1 tensors missing, first {first}"),
        (state | {"backbone.fc.weight": one}, "1 tensors extra, first backbone.fc.weight"),
        (state | {"fc.weight": one}, "1 tensors extra, first fc.weight"),
        (state | {first: one}, f"of another shape or type, first {first}"),
        (state | {first: state[first] / 0}, f"{first} holds numbers that are not finite"),
        ([], "missing, first "),
    ):
        path = write_best(tmp_path, wrong)
        refused(lambda argv: model.resnet50(*argv), [path], f"--weights {path}", words)


def test_imagenet_means_the_weights_of_version_1(monkeypatch):
    asked = []
    monkeypatch.setattr(
        tensors, "imagenet_file", lambda url, size: sys.exit(asked.append((url, size)))
    )
    for build in (lambda: model.resnet50("imagenet"), lambda: model.vgg16("imagenet", 224)):
        with pytest.raises(SystemExit):
            build()
    names = [(url.rpartition("/")[2], round(size)) for url, size in asked]
    assert names == [("resnet50-0676ba61.pth", 98), ("vgg16-397923af.pth", 528)]


def test_imagenet_weights_from_the_cache_or_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    unreachable = "file:///nowhere/resnet50-0676ba61.pth"
    with pytest.raises(SystemExit) as stopped:
        imagenet_file(unreachable, 97.8)
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and line.count("\n") == 1
    assert f"put {unreachable} (98 MB) into {tmp_path / 'checkpoints'}" in line
    assert "--weights" in line
    cached = tmp_path / "checkpoints" / "resnet50-0676ba61.pth"
    cached.write_bytes(b"")
    assert imagenet_file(unreachable, 97.8) == cached


FORMULAS = {  # instead of SiameseRanker.compare
    "sign turned": lambda self, one, two: self.head(two - one),
    "head doubled": lambda self, one, two: 2 * self.head(one - two),
    "sum": lambda self, one, two: self.head(one + two),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_there_is_one_formula(name, train, demo, tmp_path, judge, monkeypatch):
    # Whoever changes it changes training and evaluation alike, and the checks notice.
    run = train("run", "--epochs", 1)
    score = [scoring.main, "--run", run, "--data", demo, "--store", tmp_path / "stores"]
    before = judge(*score)[2]
    recipe = scoring.load_run(run)
    split = conftest.decoded(recipe, demo, tmp_path / "stores", "val")
    mine = recipe, scoring.load_ranker(run, recipe, "cpu"), split
    checks.test_the_logits_are_those_of_the_formula(mine)

    monkeypatch.setattr(model.SiameseRanker, "compare", FORMULAS[name])
    with pytest.raises(AssertionError):
        checks.test_the_logits_are_those_of_the_formula(mine)
    assert judge(*score)[2] != before
    assert (run / "predictions_val.tsv").read_bytes() != (run / "predictions.tsv").read_bytes()
    other = train("other", "--epochs", 1)
    rows = [(folder / "history.tsv").read_text().split()[7:] for folder in (run, other)]
    assert rows[0][:3] == rows[1][:3] and rows[0][3] != rows[1][3] and rows[0][5] != rows[1][5]
