"""eval.py's verdicts on runs, its ranking and pictures; the curves of a run."""

import json
import shutil
import tempfile
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from PIL import Image

import data
import eval as scoring
import model
from run import curves, sheet

GOLDEN = conftest.ROOT / "golden"


def test_a_run_is_judged_with_its_model_at_hand(train, demo, tmp_path, judge):
    run = train("run", "--epochs", 8)
    places = ["--run", run, "--data", demo, "--store", tmp_path / "stores"]
    code, verdict, printed = judge(scoring.main, *places, "--split", "train")
    assert (code, verdict) == (0, "healthy"), printed
    assert "self pairs: logits" in printed and "evaluated twice: equal" in printed
    assert "one photo at a time: largest relative change" in printed
    assert judge(scoring.main, *places)[0] == 2  # 4 pairs

    # A BatchNorm that stays in training mode, as bug 21 has it.
    recipe = scoring.load_run(run)
    ranker = scoring.load_ranker(run, recipe, "cpu")
    split = conftest.decoded(recipe, demo, tmp_path / "stores", "train")
    ranker.backbone[1].track_running_stats = False
    ranker.backbone[1].running_mean = ranker.backbone[1].running_var = None
    features = model.embed(ranker, split, 16)
    logits = scoring.score_features(ranker, features, split.rows)
    defects, _ = scoring.probe(ranker, split, features, logits, model.embed, 16)
    assert "model.batching" in [defect.id for defect in defects]


@pytest.mark.parametrize(
    ("tilt", "again", "alone", "said"),
    [
        (0, 0, 0, None),
        (0.99e-4, 0, 0.99e-3, None),
        (1.01e-4, 0, 0, "model.two_backbones"),
        (0, 1e-6, 0, "model.random"),
        (0, 0, 1.01e-3, "model.batching"),
    ],
)
def test_each_defect_of_a_model_has_its_bound(tilt, again, alone, said, monkeypatch):
    features = torch.eye(2).repeat(2, 1)  # of four photos; against itself a photo then gives tilt
    ranker = model.SiameseRanker(torch.nn.Identity(), torch.nn.Linear(2, 2, bias=False))
    ranker.head.weight.data = torch.eye(2)
    formula = lambda self, one, two: self.head(one - (1 - tilt) * two)  # noqa: E731
    monkeypatch.setattr(model.SiameseRanker, "compare", formula)
    rows = np.array([[0, 1], [1, 2], [3, 0]])
    split = data.Split("val", None, None, [*"abcd"], rows)
    embed = lambda r, s, size: features * (1 + (alone if size == 1 else again))  # noqa: E731
    logits = model.score_features(ranker, features, rows)
    defects, lines = scoring.probe(ranker, split, features, logits, embed, 2)
    assert (lines[0].id, lines[0].values) == ("model.swapped", {"share": 1.0})
    assert [defect.id for defect in defects] == ([said] if said else [])


def test_evaluated_twice_means_in_the_same_batches(train, tmp_path, judge, monkeypatch):
    # A batch of another size may round differently, and that is no defect.
    lines = [f"{series} 1 2 0.9 1 2" for series in range(1, 42)]
    root = conftest.write_dataset(tmp_path / "data", lines[:40], lines[40:], lambda s, p: 99 + s)
    run = train("run", "--batch-size", 3, "--epochs", 1, data=root)
    sizes, embed = [], model.embed
    monkeypatch.setattr(model, "embed", lambda r, s, *a: sizes.append(s.files) or embed(r, s, *a))
    judge(scoring.main, "--run", run, "--data", root, "--store", tmp_path / "stores",
          "--split", "train")  # fmt: skip
    assert [len(files) for files in sizes] == [80, 33, 33]


def test_own_photos_are_ranked_best_first(tmp_path, train, capsys, refused):
    def lines(numbers):
        return [f"{series} 1 2 {['0.9 1 2', '0.1 2 1'][series % 2]}" for series in numbers]

    def shade(series, photo):
        better = (photo == 2) == (series % 2 == 1)
        return 90 + series * 37 % 140 - (0 if better else 70)

    root = conftest.write_dataset(tmp_path / "data", lines(range(1, 41)), lines([41, 42]), shade)
    run = train("run", "--epochs", 12, data=root)
    folder = tmp_path / "mine"
    folder.mkdir()
    for value in (40, 210, 120):
        Image.new("RGB", (90, 60), (value,) * 3).save(folder / f"shade {value}.jpg")
    capsys.readouterr()
    flags = ["--run", str(run), "--photos", str(folder)]
    scoring.main([*flags, "--sheet", str(tmp_path / "s.png")])
    told = capsys.readouterr()
    assert told.err.endswith(f"wrote {tmp_path / 's.png'}\n")
    title, *printed = told.out.splitlines()
    assert "no better than chance, so the order means nothing" in title  # two validation pairs
    assert not any("beats" in line for line in printed)
    names, values = "label\tlogit_1\tlogit_2", ["0\t1\t0\n", "1\t0\t1\n"] * 20 + ["0\t0\t1\n"]
    (run / "predictions.tsv").write_text(f"{names}\n{''.join(values)}")
    scoring.main(flags)
    title, *printed = capsys.readouterr().out.splitlines()
    assert title == "this model is right on 0.9756 of 41 validation pairs, 0.5122 by chance"
    assert [line.split("shade ")[1][:3].strip(".") for line in printed] == ["210", "120", "40"]
    chance = [float(line.split("with ")[1][:4]) for line in printed[:2]]
    assert min(chance) > 0.5 and "beats" not in printed[2]
    assert Image.open(tmp_path / "s.png").width == 1200
    (folder / "text.jpg").write_text("no photo")
    refused(scoring.main, ["--run", run, "--photos", folder], "text.jpg")
    refused(scoring.main, ["--run", run, "--photos", folder / "shade 40.jpg"], "at least two")


def test_sheet_of_errors(train, demo, tmp_path, judge, refused):
    run = train("run", "--epochs", 1, "--lr-backbone", 0, "--lr-head", 0)
    flags = ["--run", run, "--data", demo, "--store", tmp_path / "stores", "--split", "train"]
    judge(scoring.main, *flags, "--sheet", tmp_path / "errors.png")
    assert Image.open(tmp_path / "errors.png").width == 1200
    refused(scoring.main, [*flags, "--sheet", tmp_path / "errors.png"], "exists already")


def test_the_sheet_has_the_most_confident_errors_first(tmp_path, monkeypatch):
    draw_block, said = sheet.draw_block, []
    monkeypatch.setattr(sheet, "draw_block", lambda *a: said.append((a[0], a[3])) or draw_block(*a))
    lines = ["1 1 2 0.9 1 2", "2 1 2 0.2 2 1", "3 1 2 0.7 1 2", "4 1 2 0.6 1 2"]
    root = conftest.write_dataset(
        tmp_path, lines, [], lambda series, photo: 50 * series + 10 * photo
    )
    pairs, names, folder = data.read_dataset(root, ("train",))["train"]
    scores = np.array([[-2, -1], [-1, -9], [-1, -2], [-5, -1]])  # of the third alone right
    sheet.draw_errors(tmp_path / "s.png", pairs, names, folder, scores, "a run")
    assert said[1] == ("2. series 4, photos 1 and 2", ["people: 0.60", "model: 0.98"])
    drawn = np.asarray(Image.open(tmp_path / "s.png")).astype(int)
    colors = {sheet.GREEN: "people", sheet.RED: "model"}
    masks = [(drawn == color).all(2) for color in colors]
    top = np.flatnonzero(sum(masks).sum(1) > 400)[0]  # of the first row of frames
    row = np.argmax([np.zeros(1200), *(mask[top + 50] for mask in masks)], 0)
    edges = np.flatnonzero(np.diff(row))  # two a side of a frame, four a photo
    assert len(edges) == 16
    kinds = [list(colors.values())[row[edges[4 * photo] + 1] - 1] for photo in range(4)]
    assert kinds == ["model", "people", "people", "model"]  # series 2, then 4
    grays = [drawn[top + 50, edges[4 * photo + 1] + 50, 0] for photo in range(4)]
    assert np.allclose(grays, [110, 120, 210, 220], atol=1)
    within, apart = edges[4] - edges[3], edges[8] - edges[7]
    assert 4 * within < apart < edges[12] - edges[4]


def sheets(folder):
    """{name: a contact sheet}: of five errors, of none, and of a ranked series."""
    lines = [f"{n} 1 2 0.{n + 2} {1 + (n < 3)} {2 - (n < 3)}" for n in range(1, 7)]
    root = conftest.write_dataset(folder, lines, [], lambda series, photo: 30 * series + photo)
    pairs, names, photos = data.read_dataset(root, ("train",))["train"]
    Image.new("RGB", (40, 90), "blue").save(photos / names[1][0])  # portrait; below, a strip
    Image.new("RGB", (300, 20), "cyan").save(photos / names[3][1])
    long = photos / "a name of more than 26 letters.JPG"
    Image.new("RGB", (50, 50), "brown").save(long)
    likely = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.31, 0.69], [0.8, 0.2], [0.05, 0.95]])
    wins = np.eye(2)[pairs["label"]]
    sheet.draw_errors(folder / "errors.png", pairs, names, photos, likely, "a run")
    sheet.draw_errors(folder / "none.png", pairs, names, photos, wins, "another run")
    ranked = [photos / names[0][0], long, photos / names[1][0], photos / names[3][1]]
    words = ["beats the next with 0.71", "", "beats the next with 0.51", ""]
    sheet.draw_ranking(folder / "ranking.png", ranked, words, "this model is a guess")
    return {name: folder / f"{name}.png" for name in ("errors", "none", "ranking")}


def test_sheets_are_as_they_were_looked_at(tmp_path):
    for name, path in sheets(tmp_path).items():
        with Image.open(path) as drawn, Image.open(GOLDEN / path.name) as golden:
            assert drawn.size == golden.size, name
            differs = (np.asarray(drawn) != np.asarray(golden)).any(2)
            assert not differs.any(), (name, np.argwhere(differs)[0])


def test_curves(train, tmp_path, refused, capsys):
    pytest.importorskip("matplotlib")
    first, second = train("first", "--epochs", 4), train("second")
    assert Image.open(first / "training_curves.png").width >= 1200
    capsys.readouterr()
    curves.main([str(first), str(second), "--out", str(tmp_path / "curves.png")])
    assert capsys.readouterr().err == f"wrote {tmp_path / 'curves.png'}\n"
    assert Image.open(tmp_path / "curves.png").width >= 1200
    refused(curves.main, [tmp_path / "none", "--out", tmp_path / "x.png"], "history.tsv")
    refused(curves.main, [first, "--out", tmp_path / "curves.png"], "exists already")


COLUMNS = {
    "epoch": (1, 2, 3), "lr_backbone": (0, 1e-5, 3e-6), "lr_head": (1e-4, 1e-4, 3e-5),
    "train_loss": (66, 0.6, 0.5), "train_acc": (0.5, 0.6, 0.7), "val_loss": (0.8, 0.7, 0.9),
    "val_acc": (0.52, 0.51, 0.5),
}  # fmt: skip


def write_runs(folder, names, columns):
    """Run folders of these names with one history; their paths."""
    lines = ["\t".join(map(str, row)) for row in (columns, *zip(*columns.values(), strict=True))]
    for name in names:
        (folder / name).mkdir()
        (folder / name / "history.tsv").write_text("\n".join(lines))
        (folder / name / "train.log").write_text(
            "val:   77 pairs, constant 0.5714, prior loss 0.6829\n"
        )
    return [folder / name for name in names]


def looks_of(figure):
    """What a figure is drawn with, as JSON holds it: sizes, lines, steps, words, scales."""
    found = {"size": figure.get_size_inches().tolist(), "title": figure.get_suptitle()}
    found["runs"] = [text.get_text() for text in figure.legends[0].get_texts()]
    for axis in figure.axes:
        lines = [
            [line.get_label() * (not line.get_label().startswith("_")), line.get_color(),
             line.get_linestyle(), line.get_linewidth(), line.get_marker(), line.get_markersize(),
             line.get_markerfacecolor(), np.asarray(line.get_xdata(), float).tolist(),
             np.asarray(line.get_ydata(), float).tolist()]
            for line in axis.lines
        ]  # fmt: skip
        steps = [[list(s.get_edgecolor()), s.get_linewidth(), s.get_linestyle(),
                  s.get_data().edges.tolist(), list(map(float, s.get_data().values))]
                 for s in axis.patches]  # fmt: skip
        words = [[*map(float, text.get_position()), text.get_text()] for text in axis.texts]
        scale = axis.yaxis.get_transform()
        found[axis.get_title()] = {
            "lines": lines, "steps": steps, "words": words, "x": list(axis.get_xlim()),
            "label": axis.get_xlabel(), "y": list(axis.get_ylim()) * ("drawn" in axis.get_title()),
            "scale": [getattr(scale, name, None) for name in ("linthresh", "linscale")],
            "ticks": axis.get_yticks().tolist() * (axis.get_yscale() == "symlog"),
            "margin": axis.margins()[1], "legend": axis.get_legend() is not None,
        }  # fmt: skip
    return found


def figures(folder):
    """{name: a figure}: of three runs, two of them equal, with a burst; of a long one."""
    runs = write_runs(folder, ["first", "equal", "$odd"], COLUMNS)
    many = {name: [*values] * 5 for name, values in COLUMNS.items()}
    many |= {"lr_head": np.geomspace(1e-3, 1e-5, 15).tolist(), "epoch": list(range(1, 16))}
    many |= {"lr_backbone": many["lr_head"], "val_acc": [0.6 + n % 4 / 50 for n in range(15)]}
    long = write_runs(folder, ["long"], many)
    return {"three": curves.draw_figure(runs), "long": curves.draw_figure(long)}


def test_curves_are_as_they_were_looked_at(tmp_path):
    pytest.importorskip("matplotlib")
    golden = json.loads((GOLDEN / "curves.json").read_text())
    for name, figure in figures(tmp_path).items():
        looks = rounded(looks_of(figure))
        assert golden[name].keys() == looks.keys()
        for key, value in looks.items():
            assert json.dumps(value) == json.dumps(golden[name][key]), (name, key)


def rounded(value):
    """Nested lists and dicts with numbers of six digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def test_curves_stand_in_their_panels(tmp_path):
    pytest.importorskip("matplotlib")
    runs = write_runs(tmp_path, ["first", "equal"], COLUMNS)
    figure = curves.draw_figure(runs)
    losses, accuracies, rates, gaps = figure.axes
    for axis, names in (
        (losses, ("train_loss", "val_loss")),
        (accuracies, ("train_acc", "val_acc")),
    ):
        drawn = [tuple(line.get_ydata()) for line in axis.lines if len(line.get_ydata()) == 3]
        assert drawn == [COLUMNS[name] for name in names for _ in runs]
    steps = [tuple(step.get_data().values) for step in rates.patches]
    assert steps == [COLUMNS[name] for name in ("lr_head", "lr_backbone") for _ in runs]
    assert np.allclose(gaps.lines[1].get_ydata(), [-2, 9, 20])
    assert losses.get_ylim()[1] < 2 and "up to 66, in epoch 1" in losses.get_title()
    words = accuracies.get_legend().get_texts()
    assert [w.get_text() for w in words].count("constant predictor 0.5714") == 1
    text = figure.legends[0].get_texts()[0].get_text()
    assert "best accuracy 0.5200 in epoch 1" in text and "gap -2.0 points: no better" in text
    curves.draw(runs, tmp_path / "c.png")
    drawn = np.asarray(Image.open(tmp_path / "c.png"))[:450, :600, :3].astype(int)
    for color in ((31, 119, 180), (255, 127, 14)):  # the line below an equal one is seen
        assert (abs(drawn - color).max(2) < 30).sum() > 300


def test_the_gap_has_a_reading():
    gaps = (-0.049, 0.049, 0.051, 0.1, 0.101)
    readings = [curves.read_gap(gap, 0.8, 0.6, 77) for gap in gaps]
    assert readings == ["good", "good", "slight", "slight", "overfitting"]
    assert curves.read_gap(-0.02, 0.6, 0.6, 77) == "no better than chance"
    unusual = curves.read_gap(-0.08, 0.8, 0.6, 77)  # 1.96 * sqrt(0.8 * 0.2 / 77)
    assert unusual == "unusual: 77 pairs (+-8.9 points), or training mode against evaluation"


if __name__ == "__main__":  # draws what is in golden/ again; look at it
    with tempfile.TemporaryDirectory() as place:
        for path in sheets(Path(place)).values():
            shutil.copy(path, GOLDEN)
        looks = {name: rounded(looks_of(f)) for name, f in figures(Path(place)).items()}
        (GOLDEN / "curves.json").write_text(json.dumps(looks) + "\n")
