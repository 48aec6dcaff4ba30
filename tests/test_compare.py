"""The tracer and diagnose.compare: fingerprints, fits, forensics, broken traces, golden traces."""

import itertools
import json
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch

import make_demo
import train_resnet
import train_vgg
from diagnose import causes, compare, reference, tracer

GOLDEN = conftest.ROOT / "golden"


@pytest.fixture
def traced(train):
    """Two traced epochs of the tiny reference in double."""
    flags = ["--float64", "--lr-backbone", "1e-2", "--lr-head", "1e-1"]
    return train("traced", *flags, steps=100)


def edit(run, out, change):
    """A copy of a run's trace, its lines changed; its path."""
    lines = (run / "trace.txt").read_text().splitlines()
    out.write_text("\n".join(change(lines)) + "\n")
    return out


def test_fingerprints_see_what_norms_and_hashes_do_not():
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    logits, y = x[:, :2, 0, 0], torch.tensor([0, 1, 1, 0, 0, 1, 0, 0]).double()
    for name, a, b in [
        ("BGR", x, x.flip(1)),
        ("reversed batch", x, x.flip(0)),
        ("swapped logits", logits, logits.flip(1)),
        ("inverted labels", y, 1 - y),
        ("negated features", x, -x),
    ]:
        gap = compare.difference(tracer.fingerprint(a), tracer.fingerprint(b))
        assert gap > 0.1, name


def test_fingerprints_are_linear_estimate_distances_and_do_not_depend_on_pieces(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300_000, generator=generator).double()
    b = torch.randn(300_000, generator=generator).double()
    prints = [np.array(tracer.fingerprint(t)) for t in (a, b, a - 2 * b)]
    np.testing.assert_allclose(prints[2][1:], prints[0][1:] - 2 * prints[1][1:], rtol=1e-9)
    assert prints[0][0] == pytest.approx(a.norm().item(), rel=1e-12)
    turned = torch.cat([a[tracer.BLOCK : 2 * tracer.BLOCK], a[: tracer.BLOCK]])
    both = [tracer.fingerprint(t) for t in (a[: 2 * tracer.BLOCK], turned)]
    assert compare.difference(*both) > 0.1  # blocks exchanged
    ratios = []
    for seed in range(60):
        noise = torch.randn(5000, generator=torch.Generator().manual_seed(seed)).double()
        print_ = tracer.fingerprint(noise)
        ratios.append(np.sqrt(np.mean(np.square(print_[1:]))) / print_[0])
    assert 0.6 < np.median(ratios) < 1.1 and max(ratios) < 2.5


def test_tracing_changes_nothing_else(train):
    flags = ["--float64", "--hidden", 16, "--dropout", "0.5"]  # random numbers matter
    plain, traced = train("plain", *flags), train("with", *flags, steps=100)
    for name in ("train.log", "history.tsv", "predictions.tsv", "args.json"):
        assert (plain / name).read_bytes() == (traced / name).read_bytes()
    best = [torch.load(run / "best.pt", weights_only=True)["model"] for run in (plain, traced)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert not (plain / "trace.txt").exists()
    init = torch.load(traced / "init.pt", weights_only=True)
    assert init["head.0.weight"].dtype == torch.float64


def test_replay_gives_the_pairs_of_the_trace(traced):
    batches = list(tracer.replay(traced / "trace.txt"))
    assert [len(batch) for batch in batches] == [8, 8, 8, 5] * 2
    first, second = (sorted(itertools.chain(*half)) for half in (batches[:4], batches[4:]))
    assert first == second
    assert {label for batch in batches for *_, label in batch} == {0, 1}


def test_fits_agree_with_the_truth_to_three_digits(traced):
    trace = compare.read_trace(traced)
    match, _ = compare.match_parameters(trace, trace)
    both = causes.Traces(trace, trace, match, True)
    names = causes.parameters_of(both)
    for group, lr in ((0, 1e-2), (1, 1e-1)):
        found = causes.fit_sgd(both, "var", [a for a, _, g in names if g == group])
        assert found[:3] == pytest.approx((lr, 0.9, 5e-4), rel=1e-6) and found[3] < 1e-6


class Batches:
    """A trace of made-up batches: logits, labels and the loss of one hypothesis."""

    def __init__(self, name, scale=1.0):
        self.path, self.lines, self.steps = Path("made-up"), {}, 2
        rng = np.random.default_rng(0)
        for step, size in enumerate((8, 5)):
            z, y = scale * rng.normal(0, 1, (size, 2)), rng.integers(0, 2, size)
            value = causes.hypotheses(z, y, 8)[name]
            rows = [[*row, label] for row, label in zip(z.tolist(), y.tolist(), strict=True)]
            self.lines[step, "4F"] = [
                compare.Line(1, step, "4F", f"pair_{i}", (), row) for i, row in enumerate(rows)
            ]
            self.lines[step, "5L"] = [compare.Line(1, step, "5L", "loss", (), [value])]


def test_loss_forensics_tells_all_36_apart_and_refuses_at_zero():
    names = list(causes.hypotheses(np.ones((2, 2)), np.array([0, 1]), 2))
    assert len(names) == 36
    for name in names:
        found = causes.loss_forensics(causes.Traces(None, Batches(name), {}, True))
        if name == ("CE(logits, label)", "mean"):
            assert found == []
        else:
            assert len(found) == 1 and f"= {name[0]}, {name[1]};" in found[0].sentence, name
    zero = causes.Traces(None, Batches(names[0], 1e-9), {}, True)
    assert causes.loss_forensics(zero) == (
        "all logits are near zero: every loss of a kind is the same"
    )


def test_broken_traces_are_never_equal(traced, tmp_path, judge, refused):
    path = tmp_path / "t.txt"

    def line_of(lines, start):
        return next(i for i, line in enumerate(lines) if line.startswith(start))

    def replaced(start, text):
        def change(lines):
            i = line_of(lines, start)
            return [*lines[:i], text(lines[i]), *lines[i + 1 :]]

        return change

    def without(stage):
        return lambda lines: [line for line in lines if f" {stage} " not in line]

    assert judge(compare.main, traced, traced)[0] == 0
    for change, code, word in [
        (replaced("0 6G", lambda s: s.replace(s.split()[5], "nan")), 1, "gradients DIVERGED"),
        (replaced("2 5L", lambda s: "2 5L loss - nan"), 1, "step 2, loss"),
        (replaced("0 2X photo_1.0", lambda s: s.replace(s.split()[5], "inf")), 1, "inputs"),
        (without("5L"), 2, "loss not compared"),
        (without("2X"), 2, "inputs not compared"),
        (without("1D"), 2, "pairs not compared"),
        (lambda lines: [s for s in lines if s[:2] in ("# ", "0 ", "1 ")], 2, "has 2 steps"),
    ]:
        found, _, printed = judge(compare.main, traced, edit(traced, path, change))
        assert found == code and word in printed and "EQUAL" not in printed.split(), printed
    for change, word in [
        (lambda lines: ["# trace 9", *lines[1:]], "another version?"),
        (replaced("1 4F features_1", lambda s: s[:30]), "t.txt:"),
        (replaced("0 3I", lambda s: "0 3I"), "no line of a trace"),
        (lambda lines: lines[:2], "no line after the header"),
    ]:
        refused(compare.main, [traced, edit(traced, path, change)], word)
    refused(compare.main, [traced, tmp_path / "none"], "no such file")


def test_the_order_of_lines_and_names_changes_nothing(traced, tmp_path, judge):
    def renamed(lines):
        names = {line.split()[2] for line in lines if ":" in line.split()[2]}
        new = {name: f"{name.split(':')[0]}:z{99 - i}" for i, name in enumerate(sorted(names))
               if not name.startswith("group")}  # fmt: skip
        return [" ".join(new.get(word, word) for word in line.split(" ")) for line in lines]

    def shuffled(lines):
        rng = np.random.default_rng(0)
        key = [(int(s.split()[0]), s.split()[1], rng.random()) for s in lines[2:]]
        return [*lines[:2], *(s for _, s in sorted(zip(key, lines[2:], strict=True)))]

    def broken(lines):
        return [line.replace("1 5L loss - ", "1 5L loss - 9") for line in lines]

    base = judge(compare.main, traced, edit(traced, tmp_path / "a.txt", broken))[2]
    for change in (renamed, shuffled):
        path = edit(traced, tmp_path / "b.txt", change)
        assert judge(compare.main, traced, path)[0] == 0
        path = edit(traced, tmp_path / "b.txt", lambda lines, c=change: broken(c(lines)))
        found = judge(compare.main, traced, path)[2]
        first = [[s for s in text.splitlines() if "DIVERGENCE" in s] for text in (base, found)]
        assert first[0] == first[1] != []


def test_the_report_as_json(traced, tmp_path, judge):
    def wrong(lines):
        return [s.replace("5L loss - ", "5L loss - 1") for s in lines]

    code, _, printed = judge(compare.main, traced, edit(traced, tmp_path / "a", wrong), "--json")
    report = json.loads(printed)
    assert code == report["exit_code"] == 1
    assert report["first"]["stage"] == "loss" and report["first"]["step"] == 0


# Recipe, traced steps, share of the demo's series: an epoch just long enough.
RECIPES = [(train_resnet, 5, 0.15), (train_vgg, 2, 0.06)]


def golden_trace(script, steps, share, folder):
    """The trace of today's code that must equal golden/SCRIPT.txt."""
    data = folder / "demo"
    if not data.exists():
        make_demo.main(["--out", str(data)])
    out = folder / script.__name__
    flags = "--weights none --size 64 --epochs 1 --seed 42 --float64"
    flags += f" --quick-experiment {share} --device cpu"
    places = ["--data", data, "--out", out, "--store", folder / "stores"]
    reference.trace_page(script, steps, [*flags.split(), *map(str, places)])
    return out / "trace.txt"


@pytest.fixture(scope="module")
def demo_120(tmp_path_factory):
    return tmp_path_factory.mktemp("golden")


@pytest.mark.real
@pytest.mark.parametrize("script, steps, share", RECIPES)
def test_todays_code_gives_the_golden_traces(script, steps, share, demo_120, monkeypatch):
    golden = compare.read_trace(GOLDEN / f"{script.__name__}.txt")
    monkeypatch.setattr(torch, "save", lambda state, file: file.write(b""))  # 3 GB in double
    today = compare.read_trace(golden_trace(script, steps, share, demo_120))
    assert golden.steps == today.steps == steps
    match, _ = compare.match_parameters(golden, today)
    tolerance = dict.fromkeys([*compare.TOLERANCE, "drift"], 1e-7)
    advice = "if that is meant: python tests/test_compare.py makes golden/ anew"
    compared = 0
    for step, stage in itertools.product(range(golden.steps), compare.STAGES):
        state, detail, _ = compare.compare_stage(golden, today, step, stage, match, tolerance)
        assert state in ("ok", "not compared"), f"step {step}, {stage}: {detail}; {advice}"
        compared += state == "ok"
    assert compared == 7 * golden.steps + 1  # all stages of a step, and init once


if __name__ == "__main__":  # makes golden/ anew
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        for recipe, count, part in RECIPES:
            path = golden_trace(recipe, count, part, Path(name))
            (GOLDEN / f"{recipe.__name__}.txt").write_bytes(path.read_bytes())
