"""Every refusal of the product is provoked by a test that quotes it; and limits at their value."""

import ast
import dataclasses
import json
import re
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch
from PIL import Image

import bench
import data
import eval as scoring
import make_demo
import train_resnet
from diagnose import compare, record, records, tables, watch
from diagnose.labels import search
from diagnose.predictions import judge as predictions
from disk import errors, files, layout, pairlist, store, tensors
from examples import story
from run import arithmetic, checkpoint, curves, evidence, findings, scores, sheet
from run.folder import HISTORY, check_files, check_room, recipe_name
from run.watch import check_finite
from variants import features

ENDS = {"stop": 1, "refuse": -1}  # functions that end the program: the place of their message
FOLDERS = ("", "run/", "disk/", "variants/", "diagnose/", "diagnose/*/", "examples/")


def texts_of(node, names):
    """The texts that an expression can be, a line break for each value in it; names: {name of a
    variable: expressions it is assigned}.
    """
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        parts = [texts_of(part, names) for part in node.values]
        return ["".join(column) for column in zip(*(some[:1] for some in parts), strict=True)]
    if isinstance(node, ast.FormattedValue):
        is_name = isinstance(node.value, ast.Name)
        return texts_of(node.value, names) if is_name else ["\n"]
    if isinstance(node, ast.Name) and node.id in names:
        return [text for value in names[node.id] for text in texts_of(value, {})]
    if isinstance(node, ast.BinOp):
        return [a + b for a in texts_of(node.left, names) for b in texts_of(node.right, names)]
    return ["\n"]


def refusals():
    """{file:line: its texts} of every call that ends the program, with words of its own."""
    found = {}
    for path in sorted(p for folder in FOLDERS for p in conftest.ROOT.glob(f"{folder}*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            names = {}
            for n in ast.walk(function):
                if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name):
                    names.setdefault(n.targets[0].id, []).append(n.value)
            for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
                name = getattr(call.func, "id", "")
                if name in ENDS and call.args:
                    texts = texts_of(call.args[ENDS[name]], names)
                    place = f"{path.relative_to(conftest.ROOT).as_posix()}:{call.lineno}"
                    found[place] = [text for text in texts if pieces(text)]
    return {place: texts for place, texts in found.items() if texts}


def pieces(text):
    """The runs of three words of a text, of shorter runs all of their words."""
    runs = [run.split() for run in text.split("\n")]
    several = [" ".join(run[n : n + 3]) for run in runs for n in range(len(run) - 2)]
    short = [" ".join(run) for run in runs if len(run) == 2]
    return several or short


def quoted(text):
    """A text of a test without what joins strings and escapes characters."""
    return re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?r?"', "", text).replace("\\", ""))


def test_every_refusal_is_quoted_by_a_test():
    tests = [quoted(p.read_text(encoding="utf-8")) for p in (conftest.ROOT / "tests").glob("*.py")]
    known = refusals()
    assert len(known) > 120  # so that the search itself is not blind
    lost = {place: texts for place, texts in known.items()
            if not any(quoted(piece) in test for text in texts for piece in pieces(text)
                       for test in tests)}  # fmt: skip
    assert lost == {}


@pytest.fixture
def stopped(capsys):
    """stopped(function, words): the call ends with code 2 and one line that has these words."""

    def check(words, function, *args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            function(*args)
        said = capsys.readouterr().err
        assert ended.value.code == 2 and said.count("\n") == 1 and words in said, said

    return check


def test_refusals_of_the_pages_and_of_runs(stopped, tmp_path, monkeypatch):
    lines = ["1 1 2 0.6 1 2", "2 1 2 0.3 2 1"]
    root = conftest.write_dataset(tmp_path / "data", lines, ["9 1 2 0.9 1 2"], lambda *_: 90)
    args = SimpleNamespace(data=root, min_agreement=0.71, quick_experiment=False, seed=0)
    stopped("train_pairlist.txt: no pair has agreement 0.71", data.read_splits, args, ("train",))
    ranker = torch.nn.BatchNorm1d(3)
    args = SimpleNamespace(size=32, batch_size=8, device="cpu", compile=False)
    arithmetic.check_model(args, ranker, 16)
    words = "--size 32: a batch of one pair leaves BatchNorm a single value"
    stopped(words, arithmetic.check_model, args, ranker, 17)
    lists = tmp_path / "val_pairlist.txt"
    lists.write_text("1 1 2 0.9 1 2\n")
    flags = ["--like", str(lists), "--series", "12", "--out", str(tmp_path / "out")]
    stopped("no train_pairlist.txt is among --like", make_demo.main, flags)
    said = "history.tsv: no such file; is"
    stopped(said, curves.read_run, tmp_path)
    (tmp_path / "history.tsv").write_text("\t".join(curves.HISTORY.split()) + "\n")
    stopped("history.tsv: no epoch yet", curves.read_run, tmp_path)
    (tmp_path / "history.tsv").write_text("epoch\tloss\n1\t2\n")
    stopped("does not hold finite numbers of", curves.read_run, tmp_path)
    monkeypatch.setattr(curves, "available", lambda: False)
    stopped("needs matplotlib: python -m pip", curves.main, ["r", "--out", str(tmp_path / "c.png")])
    monkeypatch.setattr(curves, "available", lambda: True)

    def broken(*_):
        raise AttributeError("no attribute 'figure'")

    monkeypatch.setattr(curves, "draw", broken)
    words = "matplotlib is broken: AttributeError: no attribute 'figure'"
    stopped(words, curves.main, ["r", "--out", str(tmp_path / "c.png")])
    stopped("train_resnet.py ended with 2: --size 65", bench.run_until,
            ["--size", "65"], tmp_path, None)  # fmt: skip


def test_refusals_of_files(stopped, tmp_path, monkeypatch):
    photos = np.zeros((2, 3, 4, 4), np.uint8)
    rows = [store.row_checksum(photos[0], [0, 0, 4, 4]), 7]
    boxes = np.array([[0, 0, 4, 4, checksum] for checksum in rows])
    store.take_photos(photos, boxes, np.array([0]), "cpu")
    words = "damaged since it was written; delete it, it is built again"
    stopped(words, store.take_photos, photos, boxes, np.array([0, 1]), "cpu")
    path = tmp_path / "a.pt"
    torch.save({"values": torch.arange(1000)}, path)
    raw = bytearray(path.read_bytes())
    at = raw.index(torch.arange(500, 510).numpy().tobytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    stopped("data/0 is not what was written", tensors.load_tensors, path)
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    files.check_space(tmp_path, 10**6, "it")
    stopped("it needs 1000001 bytes, the disk has 1000000 free", files.check_space,
            tmp_path, 10**6 + 1, "it")  # fmt: skip
    stopped("no train_pairlist.txt in it, in", layout.find_split, tmp_path, "train")
    stopped("trace: .a is not what record.py writes", records.check, False, "trace: .a")
    with (
        pytest.raises(SystemExit),
        errors.fail_on(__file__, "m.trace: cannot be replayed", KeyError),
    ):
        raise KeyError("weight")
    photos = "photo_1\tphoto_2\tlabel\n"
    for text, said in (
        (f"series\tseries_id\t{photos}1\t1\t1\t2\t0", "may be series; name one with"),
        (f"series\t{photos}x\t1\t2\t0", "series 'x' is not an integer"),
    ):
        (tmp_path / "mine.tsv").write_text(text + "\n")
        stopped(said, tables.read_table, tmp_path / "mine.tsv", {})
    for name, order in (("a", "1\t2"), ("b", "2\t1")):
        text = f"series\tphoto_1\tphoto_2\tlogit_1\tlogit_2\n1\t{order}\t0.3\t0.4\n"
        (tmp_path / f"{name}.tsv").write_text(text)
    table, made, _ = predictions.read_predictions(tmp_path / "a.tsv", {})
    told = made, table, tmp_path / "b.tsv", {}, 0.1
    stopped(
        "other pairs, or another order, than in --predictions", predictions.compare_files, *told
    )


def test_refusals_of_a_run_folder(stopped, train, demo, tmp_path):
    run = train("run")
    flags = [*conftest.SMALL, "--data", demo, "--store", tmp_path / "stores", "--resume"]
    flags = [str(word) for word in (*flags, "--out", run)]
    whole = torch.load(run / "best.pt", weights_only=True)
    for logits, said in (
        ("none", "best.pt: holds no logits"),
        (whole["logits"][1:], "best.pt: holds logits of other pairs"),
    ):
        torch.save(whole | {"logits": logits}, run / "best.pt")
        stopped(said, train_resnet.main, flags)
    (run / "best.pt").unlink()
    stopped("has no best.pt, though epoch 1 is done", train_resnet.main, flags)
    torch.save(whole, run / "best.pt")
    settings = json.loads((run / "args.json").read_text())
    for change in ({"size": None}, {"size": "64"}):
        (run / "args.json").write_text(json.dumps(settings | change))
        stopped("args.json: size is not there, or no int", scoring.load_run, run)


def test_a_loss_that_is_not_finite_names_its_pairs(stopped):
    pairs = np.array([(5,), (9,)], dtype=[("line", "i8")])
    training = SimpleNamespace(pairs=pairs, rows=np.array([[0, 1], [2, 3]]), files=list("abcd"))
    group = SimpleNamespace(param_groups=[{"name": "head"}])
    run = SimpleNamespace(optimizer=group, train=training, position={"epoch": 2}, unchecked=[])
    check_finite(run)
    run.unchecked = [(1, [0], torch.tensor([True, True])), (2, [1], torch.tensor([True, False]))]
    said = "epoch 2, step 2: the gradient of group head is not finite; pairs: c d (train_pairlist"
    stopped(f"{said}.txt:9)", check_finite, run)


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_name_of_as_many_bytes_as_a_file_may_have(is_refused, stopped, tmp_path):
    for check, most in ((files.check_new, files.LONGEST_NAME), (record.check_out,
                                                               record.LONGEST_NAME)):  # fmt: skip
        path = tmp_path / ("a" * (most + is_refused))
        words = ("--out", path) if check is files.check_new else (path,)
        if is_refused:
            stopped(f": a name has at most {most} bytes", check, *words)
        else:
            check(*words)


def test_refusals_of_examples_and_variants(stopped, tmp_path):
    flags = ["--data", "x", "--out", "y", "--seeds", "4", "7", "4"]
    stopped("--seeds 4 7 4: one is given twice", story.main, flags)
    for dtype, shape in ((torch.float8_e4m3fn, (2, 3)), (torch.complex64, (2, 3))):
        kept = {"names": ["a", "b"], "features": torch.zeros(shape).to(dtype)}
        torch.save(kept, tmp_path / "f.pt")
        said = f"`features` is of {dtype}, not of 16 to 64 bits"
        stopped(said, features.read_file, str(tmp_path / "f.pt"))


def test_refusals_of_the_recorder(stopped, tmp_path):
    (tmp_path / "mine.trace").write_text("")
    said = "exists already; give another name, or remove it"
    stopped(said, record.check_out, tmp_path / "mine.trace")
    stopped(said, watch.main, ["--out", str(tmp_path / "mine.trace"), "x.py"])
    stopped("cannot be replayed", replay_nothing)


def replay_nothing():
    """What compare says of a trace whose replay fails."""
    with compare.fail_on(compare.__file__, "mine.trace: cannot be replayed", Exception):
        raise IndexError("no batch")


@pytest.mark.parametrize("epoch, epochs", [(3, 1), (3, 4), (2, 0), (1, 2)])
def test_a_history_that_is_not_of_its_position_is_refused(epoch, epochs, stopped, tmp_path):
    row = (1, *[0.5] * 6)
    position = {name: kind() for name, kind in checkpoint.POSITION.items()}
    run = SimpleNamespace(train=SimpleNamespace(pairs=[0] * 40), args=SimpleNamespace(batch_size=8))
    path = tmp_path / "last.pt"
    for whole in {epoch - 1, epoch} - {0}:  # at a limit, and at the other
        known = position | {"epoch": epoch, "history": [row] * whole}
        checkpoint.check_position(path, known, run)
    wrong = position | {"epoch": epoch, "history": [row] * epochs}
    said = f"epoch {epoch} with {epochs} epochs in its history"
    stopped(said, checkpoint.check_position, path, wrong, run)


def test_what_no_run_comes_to_is_refused_all_the_same(stopped, tmp_path):
    said = f"{tmp_path / 'page.py'}: a page must be in the folder of this project or below"
    stopped(said, recipe_name, tmp_path / "page.py")
    assert recipe_name(conftest.ROOT / "variants" / "x.py") == "variants.x"
    told = "how good this model is is not known: no predictions.tsv"
    assert scores.quality(tmp_path / "predictions.tsv") == (told, False)
    said = f"{tmp_path / 'train_pairlist.txt'}: no such file"
    assert pairlist.read_text(tmp_path / "train_pairlist.txt") == ([], said)
    stopped("--columns odd: not among label", tables.named_columns, ["odd=x"], ("label",))
    assert tables.named_columns(["label=a=b"], ("label",)) == {"label": "a=b"}
    pair = {"photo_1": "000001-01.JPG", "photo_2": "000002-01.JPG"}
    stopped("t:2: one pair of several series: 1, 2", tables.read_pair, pair, "t:2")
    for own in ({"series": "2"}, {"series": "x"}, {"series": "1", "photo_2": "000001-01.JPG"}):
        stopped("t:2: ", tables.read_pair, pair | own, "t:2")
    assert tables.read_pair({"photo_1": "000007-01.JPG", "photo_2": "2"}, "t:2") == (7, 1, 2)
    stopped("t:2: no series, neither", tables.read_pair, {"photo_1": "1", "photo_2": "2"}, "t:2")


@pytest.mark.parametrize("columns", [4, 5, 6])
def test_a_pairlist_without_a_header_is_a_table(columns, tmp_path):
    rows = [["7", "1", "2", "0.25", "2", "1"], ["8", "1", "3", "0.5", "1", "2"]]
    text = "".join(" ".join(row[:columns]) + "\n" for row in rows)
    (tmp_path / "list.txt").write_text(text)
    header, found, first = tables.read_rows(tmp_path / "list.txt")
    assert (header, first) == ([*tables.PAIRLIST[:columns]], 1)
    assert found == [row[:columns] for row in rows]
    table, kind = tables.read_table(tmp_path / "list.txt", {})
    ranked = columns == 6
    assert kind == ("rank_1" if ranked else "preference")
    assert table["label"].tolist() == ([1, 0] if ranked else [1, -1])
    assert table["line"].tolist() == [1, 2]


def test_photos_of_a_store_in_memory_are_taken_as_those_on_disk():
    rng = np.random.default_rng(2)
    photos, places = rng.integers(0, 256, (5, 3, 4, 4), np.uint8), rng.integers(0, 4, (5, 4))
    rows = np.array([3, 0, 3])
    checks = [
        [*place, store.row_checksum(p, place)] for p, place in zip(photos, places, strict=True)
    ]
    for kept in ((photos, np.array(checks)), (torch.from_numpy(photos), torch.tensor(checks))):
        taken, boxes = store.take_photos(*kept, rows, torch.device("cpu"))
        assert np.array_equal(taken, photos[rows]) and np.array_equal(boxes, places[rows])


@pytest.mark.parametrize("less, is_refused", [(0, False), (1, True)])
def test_a_run_needs_room_for_five_models(less, is_refused, stopped, tmp_path, monkeypatch):
    ranker = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    needed = 5 * sum(t.numel() * t.element_size() for t in ranker.state_dict().values())
    usage = SimpleNamespace(free=needed - less)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    if is_refused:
        said = f"best.pt and last.pt needs {needed} bytes, the disk has {needed - 1} free"
        stopped(said, check_room, tmp_path / "new" / "run", ranker)
        (tmp_path / "last.pt").write_bytes(b"")  # of a run that has its place already
    check_room(tmp_path, ranker)


@pytest.mark.parametrize("epochs, is_refused", [(0, False), (1, False), (2, True)])
def test_a_run_that_has_lost_its_last_checkpoint(epochs, is_refused, stopped, tmp_path):
    rows = ["\t".join(["1"] * 7)] * epochs
    (tmp_path / "history.tsv").write_text("\n".join(["\t".join(HISTORY.split()), *rows]) + "\n")
    if is_refused:
        stopped(f"has {epochs} epochs in history.tsv, but no last.pt", check_files, tmp_path)
        (tmp_path / "last.pt").write_bytes(b"")
    check_files(tmp_path)


def test_a_line_of_progress_is_redrawn_and_then_wiped(monkeypatch):
    written = []
    terminal = SimpleNamespace(isatty=lambda: True, write=written.append, flush=lambda: None)
    monkeypatch.setattr(errors.sys, "stderr", terminal)
    errors.show_progress("photo 1/2")
    errors.show_progress("photo 2/2", True)
    blank = "\r" + " " * 78 + "\r"
    drawn = [f"\r{text}{' ' * 69}" for text in ("photo 1/2", "photo 2/2")]
    assert "".join(written) == drawn[0] + drawn[1] + blank


def test_a_feature_that_does_not_vary_is_left_as_it_is():
    layer = features.Standardize(3)
    column = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64).T
    layer.double().learn(torch.cat([column * 0.99e-6, column * 1.01e-6, 5 + 2 * column], 1))
    assert layer.deviation.tolist() == pytest.approx([1, 1.01e-6, 2])
    assert layer.mean.tolist() == pytest.approx([0, 0, 5])
    made = layer(torch.tensor([[0.0, 1.01e-6, 9.0]], dtype=torch.float64))
    assert made.tolist() == [pytest.approx([0, 1, 2])]


@pytest.mark.parametrize("letters, shown", [(26, 26), (27, 23)])
def test_a_long_name_on_a_sheet_is_cut(letters, shown, tmp_path, monkeypatch):
    photo, drawn = tmp_path / ("a" * (letters - 4) + ".png"), []
    Image.new("RGB", (8, 8)).save(photo)
    block = sheet.draw_block
    monkeypatch.setattr(sheet, "draw_block", lambda *told: drawn.append(told[0]) or block(*told))
    sheet.draw_ranking(tmp_path / "s.png", [photo], [""], "a title")
    assert drawn == [f"1. {photo.name[:shown]}{'...' * (shown < letters)}"]


def test_crash_logs_of_earlier_deaths_are_numbered(tmp_path):
    path = tmp_path / "crash.log"
    for number in range(1, 4):
        evidence.keep_old_crash(path)  # where there is none
        path.write_text("")
        evidence.keep_old_crash(path)  # or an empty one
        assert path.exists()
        path.write_text(f"death {number}")
        evidence.keep_old_crash(path)
        kept = {p.name: p.read_text() for p in tmp_path.iterdir()}
        assert kept == {f"crash-{n}.log": f"death {n}" for n in range(1, number + 1)}


def test_the_memory_of_a_process_is_its_own_and_in_bytes():
    before = evidence.peak_memory()
    held = np.ones(3 * 10**7)  # 240 MB
    grown = evidence.peak_memory() - before
    assert grown == 0 or 10**8 < grown < 5 * 10**8, held[0]
    assert 5 * 10**7 < before < 10**11


@pytest.mark.parametrize("fields, problem", [
    ("999999 98 99 0 2 1", None), ("1 1 2 1 1 99", None), ("1 1 2 .5 99 1", None),
    ("1000000 1 2 0 2 1", "series 1000000 is not in 1..999999"),
    ("0 1 2 0 2 1", "series 0 is not in 1..999999"),
    ("1 99 100 0 2 1", "photo 100 is not in 1..99"), ("1 0 2 0 2 1", "photo 0 is not in 1..99"),
    ("1 1 2 0 100 1", "rank 100 is not in 1..99"), ("1 1 2 0 2 0", "rank 0 is not in 1..99"),
    ("1 1 2 1.0001 1 2", "preference '1.0001' is not a number from 0 to 1"),
    ("1 1 2 0.4999 1 2", "preference 0.4999 and ranks 1, 2 (1 = best) contradict each other"),
    (f"1 1 2 {'x' * 60} 1 2", f"preference '{'x' * 60}' is not a number from 0 to 1"),
    (f"1 1 2 {'x' * 61} 1 2", f"preference '{'x' * 60}' is not a number from 0 to 1"),
    (f"1 1 {'x' * 61} 0 1 2", f"'{'x' * 60}' is not a whole number from 1 on"),
])  # fmt: skip
def test_a_line_of_a_pairlist_at_its_limits(fields, problem):
    assert pairlist.line_problem(fields.split(), 6) == problem
    is_of_labels = problem is None or problem.startswith(("rank", "preference"))
    unlabelled = pairlist.line_problem(fields.split()[:3], 3)
    assert unlabelled == (None if is_of_labels else problem)


@pytest.mark.parametrize("text, found", [
    ("99", (None, 99)), ("0", (None, 0)), ("999999-99.JPG", (999_999, 99)),
    ("a/b-000007-03.jpeg", (7, 3)),
])  # fmt: skip
def test_a_photo_of_a_table_at_its_limits(text, found, stopped):
    assert tables.read_photo(text, "t.tsv:2") == found
    said = "photos go to 99, series to 999999"
    for beyond in ("100", "1000000-01.JPG", "1-100.JPG"):
        stopped(f"t.tsv:2: '{beyond}': {said}", tables.read_photo, beyond, "t.tsv:2")
    for odd, told in (("x" * 61, "x" * 60), ("1-", "1-")):
        said = f"t.tsv:2: '{told}' is neither a photo number"
        stopped(said, tables.read_photo, odd, "t.tsv:2")


def test_what_is_quoted_of_a_table_is_cut(stopped, tmp_path):
    names = ",".join(["photo_1", "photo_2", *(f"column{n}" for n in range(40))])
    (tmp_path / "m.csv").write_text(names + "\n" + ",".join(["1"] * 42) + "\n")
    cut = names.replace(",", ", ")[:200]
    said = f"its columns are {cut}; name them with --columns"
    stopped(said, tables.read_table, tmp_path / "m.csv", {})
    said = f"--columns label=mine: {tmp_path / 'm.csv'} has {cut}\n"
    stopped(said, tables.read_table, tmp_path / "m.csv", {"label": "mine"})
    pair = "series\tphoto_1\tphoto_2\t"
    for column, value, told in (
        ("label", "y" * 61, f":2: label '{'y' * 60}' is neither 0, 1 nor empty"),
        ("rank_1\trank_2", "0\t1", ":2: 0 1 are no rank_1 and rank_2"),
        ("preference", "1.01", ":2: preference 1.01 is not a number from 0 to 1"),
        ("votes_1\tvotes_2", f"{'z' * 58}\t12", f":2: {'z' * 58} 1 are no votes_1 and votes"),
    ):
        (tmp_path / "m.tsv").write_text(f"{pair}{column}\n1\t1\t2\t{value}\n")
        stopped(f"m.tsv{told}", tables.read_table, tmp_path / "m.tsv", {})


@pytest.mark.parametrize("column, value, wins, label", [
    ("label", "0", (1, 0), 0), ("label", "1", (0, 1), 1), ("label", "", (0, 0), -1),
    ("winner", "3", (1, 0), 0), ("winner", "5", (0, 1), 1), ("rank_1\trank_2", "4\t2", (2, 4), 1),
    ("rank_1\trank_2", "2\t2", (2, 2), -1), ("preference", "0.25", (0.25, 0.75), 1),
    ("preference", "1", (1, 0), 0), ("votes_1\tvotes_2", "7\t3", (7, 3), 0),
    ("votes_1\tvotes_2", "3\t3", (3, 3), -1),
])  # fmt: skip
def test_every_kind_of_column_gives_a_label(column, value, wins, label, tmp_path):
    text = f"series\tphoto_1\tphoto_2\t{column}\n8\t3\t5\t{value}\n8\t3\t6\t{value}\n"
    (tmp_path / "m.tsv").write_text(text)
    table, kind = tables.read_table(tmp_path / "m.tsv", {})
    row = table[0]
    assert (row["wins_1"], row["wins_2"], row["label"], row["line"]) == (*wins, label, 2)
    assert kind == column.split("\t")[0]
    assert [table[1]["strange_winner"], table[1]["line"]] == [value == "5", 3]
    turned = tables.inverted(table)
    assert turned[0]["label"] == (1 - label if label >= 0 else label)
    assert (turned[0]["wins_1"], turned[0]["wins_2"]) == wins[::-1]
    both = np.concatenate([table[:1], table[:1]])
    both["photo_1"][1], both["photo_2"][1] = 5, 3
    both["wins_1"][1], both["wins_2"][1] = wins[::-1]
    merged, several = tables.merge_votes(both)
    assert (len(merged), several) == (1, 1)
    assert (merged[0]["wins_1"], merged[0]["wins_2"]) == (2 * wins[0], 2 * wins[1])
    expected = -1 if wins[0] == wins[1] else int(wins[0] < wins[1])
    assert merged[0]["label"] == expected and merged[0]["photo_1"] == 3


@pytest.mark.parametrize("pairs, steps", [(40, 5), (41, 6), (47, 6), (48, 6)])
def test_a_position_has_at_most_the_steps_of_an_epoch(pairs, steps, stopped, tmp_path):
    position = {name: kind() for name, kind in checkpoint.POSITION.items()} | {"epoch": 1}
    args = SimpleNamespace(batch_size=8)
    run = SimpleNamespace(train=SimpleNamespace(pairs=[0] * pairs), args=args)
    for step in (0, steps):
        checkpoint.check_position(tmp_path / "last.pt", position | {"step": step}, run)
    for step in (-1, steps + 1):
        wrong = tmp_path / "last.pt", position | {"step": step}, run
        stopped(f"last.pt: step {step} of {steps}", checkpoint.check_position, *wrong)


@pytest.mark.parametrize("count", [1, 2, 10, 11, 25])
def test_problems_are_printed_up_to_ten_and_counted(count, capsys):
    problems = [f"problem {n}" for n in range(count)]
    layout.stop_at([])
    with pytest.raises(SystemExit) as ended:
        layout.stop_at(problems + problems[:3])
    first, *others = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    if count == 1:
        assert (first, others) == ("layout.py: problem 0", [])
    else:
        assert first == f"layout.py: {count} problems, the first {min(count, 10)}:"
        assert others == [f"layout.py: {problem}" for problem in problems[:10]]


@pytest.mark.parametrize("longer, is_taken", [(100, True), (102, False)])
def test_a_strip_at_the_limit_is_cropped_and_one_beyond_is_not(longer, is_taken, tmp_path):
    path = tmp_path / "strip.png"
    for size in ((longer, 2), (2, longer)):
        Image.new("RGB", size, "red").save(path)
        if is_taken:
            assert data.decode_photo(path, 32, "crop")[0].shape == (3, 32, 32)
        else:
            with pytest.raises(ValueError, match="cannot be cropped to a square"):
                data.decode_photo(path, 32, "crop")


def test_a_cleaning_up_that_finds_nothing_hides_no_error(capsys, tmp_path):
    with (
        pytest.raises(SystemExit),
        errors.fail_on(__file__, "last.pt", OSError, leftover=tmp_path / "none.part"),
    ):
        raise OSError("disk on fire")
    assert "last.pt: OSError: disk on fire" in capsys.readouterr().err
    with pytest.raises(SystemExit), record.Unwritten(tmp_path / "none.part"):
        raise OSError("disk on fire")
    assert "disk on fire" in capsys.readouterr().err
    (tmp_path / "some.part").write_text("half")
    with pytest.raises(SystemExit), record.Unwritten(tmp_path / "some.part"):
        raise OSError("disk on fire")
    assert not (tmp_path / "some.part").exists()


@pytest.mark.parametrize("seed", range(3))
def test_the_heading_of_the_sheet_is_the_accuracy(seed, tmp_path, monkeypatch):
    pairs, names, folder = made_up(tmp_path)
    rng, said = np.random.default_rng(seed), []
    scores = rng.normal(size=(len(pairs), 2))
    monkeypatch.setattr(sheet, "save", lambda path, blocks, head, legend: said.append(head))
    sheet.draw_errors(tmp_path / "s.png", pairs, names, folder, scores, "a run")
    right = sum(int(s[1] > s[0]) == int(p["label"]) for s, p in zip(scores, pairs, strict=True))
    share = max(np.mean(pairs["label"]), 1 - np.mean(pairs["label"]))
    wrong = len(pairs) - right
    assert said == [[f"a run: accuracy {right / len(pairs):.4f}, {share:.4f} by chance",
                     f"{min(wrong, sheet.ERRORS)} of {wrong} errors in {len(pairs)} pairs, "
                     "most confident first"]]  # fmt: skip


def made_up(tmp_path):
    """(pairs [9], names of their files [9, 2], their folder)."""
    lines = [f"{n} 1 2 0.{5 + n % 4 + 1} {1 + n % 2} {2 - n % 2}" if n % 2 == 0
             else f"{n} 1 2 0.{n % 4} {1 + n % 2} {2 - n % 2}" for n in range(1, 10)]  # fmt: skip
    root = conftest.write_dataset(tmp_path / "data", lines, ["30 1 2 0.9 1 2"], lambda *_: 90)
    return data.read_dataset(root, ("train",))["train"]


@pytest.mark.parametrize("lost, is_tried", [(10, False), (9, True)])
def test_a_numbering_that_loses_half_of_the_rows_is_not_tried(lost, is_tried, monkeypatch):
    fields = [("series", "i8"), ("photo_1", "i8"), ("photo_2", "i8"), ("label", "i8"),
              ("preference", "f8")]  # fmt: skip
    table = np.zeros(20, dtype=fields)
    table["photo_1"], table["photo_2"] = 1, 2
    places, tried = np.arange(20), []
    places[:lost] = -1
    found = places, np.zeros(20, bool)
    monkeypatch.setattr(search, "numberings", lambda: iter([((), 0, 0, lambda p, n: p)]))
    monkeypatch.setattr(search, "find_places", lambda *_: found)
    monkeypatch.setattr(search, "try_labels", lambda *told: tried.append(told))
    search.explain(table, table, np.zeros(20))
    assert bool(tried) == is_tried


# How a finding is told

ROW = findings.Row("part.name", findings.CAUSE, "{a} is wrong[, as {b}][: {c}]", help="set {a}")


@pytest.mark.parametrize("value, text", [
    (0.0, "0"), (0.001, "0.001"), (0.00099999, "1e-3"), (0.00098765, "9.877e-4"), (-2e-7, "-2e-7"),
    (0.123456, "0.1235"), (123456.0, "1.235e+05"), (1234.56, "1235"), (5e-4, "5e-4"),
])  # fmt: skip
def test_a_number_has_the_digits_that_matter(value, text):
    assert findings.number(value) == text
    assert findings.show((value, "x")) == f"{text}, x"


def test_values_are_told_by_their_kind():
    told = findings.Finding(ROW, {"a": 0.25, "b": None, "c": None})
    assert (
        findings.show(3) == "3" and findings.show(0.25) == "0.25" and findings.show("a b") == "a b"
    )
    assert findings.show({"a": 1, "b": 0.5}) == "a 1; b 0.5"
    assert findings.show({"a": 1, "b": 0.5}, "=") == "a=1, b=0.5"
    assert findings.show({"a": (0.25, 4), "b": (1.0, 2)}, "n") == "a 0.250 (4), b 1.000 (2)"
    assert findings.show({"x": 1.5, "y": -2}, "*") == "1.5 x x + -2 x y"
    assert findings.show(((1, 2), (3,))) == "1, 2; 3"
    assert findings.show(({"a": 1}, {"a": 2})) == "a 1 | a 2"
    assert findings.show(((told, told), ())) == "0.25 is wrong and 0.25 is wrong; the reference"
    assert findings.fill("{a:.1f}, {b:,}", {"a": 0.25, "b": 1234}) == "0.2, 1,234"
    assert findings.brief(0.0346) == "0.03" and findings.brief(3.46e-7) == "3e-7"


@pytest.mark.parametrize("values, text", [
    ({"a": 1, "b": None, "c": None}, "1 is wrong"),
    ({"a": 1, "b": 0, "c": None}, "1 is wrong, as 0"),
    ({"a": "it", "b": None, "c": (1, 2)}, "it is wrong: 1, 2"),
])  # fmt: skip
def test_a_part_of_a_text_without_its_value_is_left_out(values, text):
    found = ROW.found(**values)
    assert findings.text_of(found) == text
    assert findings.help_of(found) == f"set {values['a']}" and findings.flag_of(found) == ""


def test_values_of_several_steps_are_told_in_turn():
    assert findings.in_turn([1, None, 3]) == (1, "all", 3)
    assert findings.in_turn(["a b", "c d", "a b"]) == "a b | c d"
    assert findings.in_turn(["a b", None, "c d", "e f"]) == "a b | c d | ..."
    found = findings.Finding(ROW, {"a": 1, "b": None, "c": None}, series={"c": (4, None)})
    assert findings.text_of(found) == "1 is wrong: 4, all"


@pytest.mark.parametrize(
    "at, where",
    [((), ""), ((2,), "  (in step 2)"), ((1, 3), "  (in steps 1, 3)"), ((1, 2, 3), "")],
)
@pytest.mark.parametrize("error", [0.0, 2.34e-5])
def test_the_line_of_a_finding_names_its_steps_and_its_error(at, where, error):
    found = findings.Finding(ROW, {"a": 1, "b": None, "c": None}, error, 5.67e-6, steps=at)
    proof = "  [relative error 2e-5, tolerance 6e-6]" if error else ""
    assert findings.line_of(found, 3) == f"CAUSE part: 1 is wrong{proof}{where}"
    first = dataclasses.replace(found, row=dataclasses.replace(ROW, id="start.name"))
    assert findings.line_of(first, 3) == f"CAUSE start: 1 is wrong{proof}"


@pytest.mark.parametrize("kinds, code", [
    (["EQUAL"], 0), (["EQUAL", "CAUSE"], 1), (["UNEXPLAINED", "SKIPPED"], 1), (["SKIPPED"], 2),
    (["EQUAL", "SKIPPED"], 2), ([], 0),
])  # fmt: skip
def test_the_exit_code_is_the_gravest(kinds, code, capsys):
    verdict = [findings.Row("part.name", kind, f"it is {kind}").found() for kind in kinds]
    assert findings.code_of(verdict) == code
    with pytest.raises(SystemExit) as ended:
        findings.give_verdict(verdict, [ROW.found(a=1, b=None, c=None)], False)
    words = "; ".join(f"it is {kind}" for kind in kinds)
    assert (ended.value.code, capsys.readouterr().out) == (
        code, f"VERDICT {words}\n  1 is wrong\n")  # fmt: skip
    with pytest.raises(SystemExit):
        findings.give_verdict(verdict, [], True)
    told = json.loads(capsys.readouterr().out)
    assert [told["verdict"], told["exit_code"]] == [words, code]
    assert [found["kind"] for found in told["findings"]] == kinds
    nested = findings.Finding(ROW, {"a": (1, 2), "b": {"x": ROW.found(a=3)}, "c": None})
    assert findings.as_json(nested)["values"] == {
        "a": [1, 2], "b": {"x": {"id": "part.name", "values": {"a": 3}}}, "c": None}  # fmt: skip
