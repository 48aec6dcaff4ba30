"""What people bring that is not as it should be, and what must not end, or must end, a program."""

import copy
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import conftest
import numpy as np
import pytest
import torch
from PIL import Image

import data
import eval as scoring
import make_demo
import train_resnet
from diagnose import record, tables
from diagnose.labels import judge as labels
from diagnose.predictions import judge as predictions
from diagnose.trace import read_trace
from disk import errors, pairlist, store
from disk.errors import exit_on_error, warn_on
from run import checkpoint, scores


def ended(main, words, capsys):
    """The one line with which a command refuses its words, exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    errors = capsys.readouterr().err
    assert stopped.value.code == 2 and errors.count("\n") == 1
    return errors


ROWS = "series\tphoto_1\tphoto_2\tlabel\n1\t1\t2\t0\n2\t1\t2\t1\n"


@pytest.mark.parametrize(
    "text, words, said",
    [
        (ROWS.replace("photo_2\t", "photo_2\tlabel\t").replace("\t2\t", "\t2\t1\t"), [],
         "two columns are called label"),
        (ROWS, ["--columns", "label=label", "label=series"], "--columns label: given twice"),
        (ROWS.replace("2\t1\t2\t1", '2\t1\t2\t"1\n"'), [], ":3: a line break within quotes"),
        (ROWS.replace("2\t1\t2\t1", "2\t1\t2\t1\u2028\n3\t1\t2\tx"), [], ":4: label"),
        (ROWS.replace("2\t1\t2\t1", "2\t1\t2\tx\x0b"), [], ":3: label"),
    ],
)  # fmt: skip
def test_a_table_is_read_line_by_line_and_no_column_twice(
    text, words, said, demo, tmp_path, capsys
):
    path = tmp_path / "mine.tsv"
    path.write_bytes(text.encode())
    said_now = ended(labels.main, [str(path), "--data", str(demo), *words], capsys)
    assert said in said_now


READERS = {  # {column: what reads a table that rests on it}
    "label": lambda path: tables.read_table(path, {}),
    "votes_1\tvotes_2": lambda path: tables.read_table(path, {}, [("votes_1", "votes_2")]),
    "score_1": lambda path: predictions.read_predictions(path, {}),
    "logit_1\tlogit_2": lambda path: predictions.read_predictions(path, {}),
}
BREAKS = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("column", READERS)
def test_every_reader_of_tables_with_every_duplicate_and_every_line_break(column, tmp_path, capsys):
    path, names = tmp_path / "mine.tsv", ["series", "photo_1", "photo_2", *column.split("\t")]
    rows = [["1", "1", "2", *["1"] * (len(names) - 3)] for _ in range(2)]

    def read(header, *rows, end="\n"):
        lines = ["\t".join(row) for row in (header, *rows)]
        path.write_bytes("".join(line + end for line in lines).encode())
        return READERS[column](path)[0]["line"].tolist()

    def refuses(said, header, *rows):
        with pytest.raises(SystemExit) as stopped:
            read(header, *rows)
        assert stopped.value.code == 2 and f"{path}{said}" in capsys.readouterr().err

    for end in ("\n", "\r\n", "\r"):
        assert read(names, *rows, end=end) == [2, 3]
    for name in names:
        refuses(f": two columns are called {name}", [*names, name], *([*row, "1"] for row in rows))
    for place in range(len(names)):
        for character in BREAKS:
            odd = [*rows[0][:place], rows[0][place] + character + "1", *rows[0][place + 1 :]]
            refuses(":3: ", names, rows[0], odd)
        for end in ("\n", "\r", "\r\n"):
            odd = [*rows[0][:place], f'"{rows[0][place]}{end}"', *rows[0][place + 1 :]]
            refuses(":3: a line break within quotes", names, rows[0], odd, rows[1])


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError()])
@pytest.mark.parametrize("column", ["label", "score_1", "pairlist"])
def test_a_table_that_cannot_be_read_is_named(column, error, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.tsv"
    path.write_text(f"series\tphoto_1\tphoto_2\t{column}\n1\t1\t2\t1\n")

    def fail(path):
        raise error

    monkeypatch.setattr(type(path), "read_bytes", fail)
    with pytest.raises(SystemExit) as stopped:
        READERS[column](path) if column in READERS else pairlist.read_lines(path, 6)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert f"{path}: {type(error).__name__}" in said


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(2), MemoryError()])
def test_what_decorates_ends_nothing(error):
    with warn_on("no picture"):
        raise error


@pytest.mark.parametrize("error", [SystemExit(143), KeyboardInterrupt()])
def test_an_exit_that_somebody_asked_for_ends_it(error):
    with pytest.raises(type(error)), warn_on("no picture"):
        raise error


def test_where_nobody_listens_nothing_is_said_and_nothing_ends(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    errors.say("text", None)
    monkeypatch.setattr(sys, "stderr", None)
    errors.show_progress("photo 1/2", True)
    (gone := Gone()).fileno = lambda: os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(sys, "__stdout__", gone)
    monkeypatch.delattr(errors.select, "poll", raising=False)  # as on Windows
    errors.say("text", gone)
    with pytest.raises(BrokenPipeError):  # of a file of its own
        errors.say("text", Gone())


def test_ctrl_c_in_a_command_is_one_line(capsys):
    def stuck(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        exit_on_error(stuck)([])
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_parts_that_this_program_did_not_make_stay(tmp_path):
    own = tmp_path / f"{'a1' * 12}.store.{'0f' * 16}.part"
    other = tmp_path / "mine.store.x.part"
    young = tmp_path / f"{'a2' * 12}.store.{'0e' * 16}.part"  # of a run that goes on
    for path, age in ((own, 1.01), (other, 2), (young, 0.99)):
        path.write_bytes(b"1")
        os.utime(path, (0, time.time() - age * 86_400))
    photos = sorted((conftest.ROOT / "tests").glob("*.py"))[:1]

    def decode(path, size, fit):
        raise ValueError("no photo")

    with pytest.raises(SystemExit):
        store.build_store(tmp_path / "a.store", photos, 8, "pad", decode)
    assert other.exists() and young.exists() and not own.exists()


def test_an_overheard_output_is_an_output_as_before():
    heard, stream = [], io.StringIO()
    tee = record.Tee(stream, heard.append)
    tee.writelines(["loss 0.5\n", "acc"])
    print(" 0.7", file=tee)
    assert stream.getvalue() == "loss 0.5\nacc 0.7\n" and heard == ["loss 0.5", "acc 0.7"]
    assert isinstance(tee, io.TextIOBase)
    assert copy.copy(tee).getvalue() == stream.getvalue()
    with pytest.raises(TypeError, match="TextIOWrapper"):  # as of the stream itself
        copy.copy(record.Tee(sys.__stdout__, heard.append))
    del tee
    assert not stream.closed
    with record.Tee(stream, heard.append) as own:
        own.write("x")
    assert stream.closed  # as with the stream itself


TRAINER = """
    import sys, threading, time
    {imports}
    import torch
    torch.manual_seed(0)
    net, head = torch.nn.Conv2d(3, 4, 8), torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], 1e-3)
    {before}
    for step in range(9):
        a, b = (net(torch.rand(4, 3, 8, 8)).flatten(1) for _ in range(2))
        loss = torch.nn.functional.cross_entropy(head(a - b), torch.tensor([0, 1, 1, 0]))
        optimizer.zero_grad(); loss.backward(); optimizer.step()
"""


def recorded(folder, name, imports="", before=""):
    """The ended recording of a small trainer in a folder."""
    text = textwrap.dedent(TRAINER.format(imports=imports, before=before))
    (folder / name).write_text(text)
    words = ["record", "--steps", "2", "--out", "mine.trace", name]
    command = [sys.executable, str(conftest.ROOT / "diagnose"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_trainer_s_own_modules_are_its_own(tmp_path):
    ours = {path.stem for path in (conftest.ROOT / "diagnose").glob("*.py")} - {"__init__"}
    ours -= {"__main__", "trace", "stepping"}  # a trainer that shadows the standard library is ill
    for name in ours:
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    for path in (conftest.ROOT / "diagnose").iterdir():  # folders of ours, and folders of theirs
        if (path / "__init__.py").exists():
            ours.add(path.name)
            (tmp_path / path.name).mkdir()
            (tmp_path / path.name / "__init__.py").write_text("mine = True\n")
    (tmp_path / "losses.py").write_text("mine = True\n")
    assert {"compare", "labels", "predictions", "stages"} <= ours
    imports = "; ".join(f"import {name}; assert {name}.mine" for name in sorted(ours | {"losses"}))
    imports += "; import trace; assert hasattr(trace, 'Trace')"
    ended = recorded(tmp_path, "train.py", imports)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "mine.trace").exists()


@pytest.mark.parametrize("words, own", [
    (["record", "--out", "a.trace"], ["--", "--steps", "7"]),
    (["record", "--out", "a.trace", "--"], ["--steps", "--"]),
    (["watch"], ["--", "--hang", "7"]),
])  # fmt: skip
def test_words_of_the_trainer_are_passed_on_as_they_are(words, own, tmp_path):
    (tmp_path / "train.py").write_text("import sys; print(sys.argv)")
    command = [sys.executable, str(conftest.ROOT / "diagnose"), *words, "train.py", *own]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout == f"{['train.py', *own]}\n", ended.stderr


@pytest.mark.skipif(os.name == "nt", reason="descriptors of POSIX")
@pytest.mark.parametrize("closed", conftest.one_of_each([(0, 1, 2), (1,), (2,)]))
def test_a_trainer_without_outputs_is_recorded(closed, tmp_path):
    text = textwrap.dedent(TRAINER.format(imports="", before=""))
    (tmp_path / "train.py").write_text(text)
    words = ["record", "--steps", "2", "--out", "mine.trace", "train.py"]
    command = shlex.join([sys.executable, str(conftest.ROOT / "diagnose"), *words])
    shut = " ".join(f"{number}>&-" for number in closed)
    ended = subprocess.run(["sh", "-c", f"exec {command} {shut}"], cwd=tmp_path, timeout=120)
    assert ended.returncode == 0
    assert len(read_trace(tmp_path / "mine.trace").updates) == 2


def test_a_script_without_suffix_is_a_script(tmp_path):
    ended = recorded(tmp_path, "train")
    assert ended.returncode == 0, ended.stderr


def test_a_thread_that_never_ends_does_not_keep_the_process(tmp_path):
    before = "threading.Thread(target=time.sleep, args=(1000,)).start()"
    ended = recorded(tmp_path, "train.py", before=before)
    assert ended.returncode == 0 and (tmp_path / "mine.trace").exists()


@pytest.mark.parametrize("script, said", [
    ("cells.ipynb", "a notebook"),
    ("nowhere.train", "no such module"),
    ("missing.py", "no such file"),
])  # fmt: skip
def test_what_is_no_script_is_one_line(script, said, tmp_path):
    (tmp_path / "cells.ipynb").write_text("{}")
    command = [sys.executable, str(conftest.ROOT / "diagnose"), "record", "--out", "a", script]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and said in ended.stderr


@pytest.mark.parametrize("words", [["--steps", "0"], ["--steps", "-1"], ["--epochs", "-1"]])
def test_counts_below_the_least_are_refused(words, tmp_path, capsys, monkeypatch):
    said = ended(record.main, [*words, "--out", str(tmp_path / "a"), "x.py"], capsys)
    assert "--steps is at least 1" in said


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_has_appeared_meanwhile_is_left(kind, tmp_path, monkeypatch):
    target, own = tmp_path / "own", tmp_path / "mine.trace"
    target.write_text("of somebody else")
    if kind == "file":
        own.write_text("of somebody else")
    elif kind == "folder":
        own.mkdir()
    else:
        own.symlink_to(target)
    batch = {"passes": []}
    trace = {"updates": [1], "batches": [batch], "weights": [], "asked": 1, "epochs": []}
    trace["later"] = []
    trace |= {"asked_epochs": 0, "until": None}
    before, said = own.lstat(), []
    monkeypatch.setattr(record, "tell", said.append)
    record.write_trace(trace, own)
    assert own.lstat() == before and target.read_text() == "of somebody else"
    assert kind == "folder" or own.read_text() == "of somebody else"
    assert (tmp_path / "mine.trace.2").is_file() and not list(tmp_path.glob("*.part"))
    assert said[0] == f"record.py: {own} has appeared meanwhile and is left as it is"
    assert said[1].endswith(f" -> {own}.2")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", conftest.one_of_each(["SIGINT", "SIGTERM"]))
def test_a_demo_that_is_asked_to_end_does_so_at_once(name, tmp_path):
    script = [sys.executable, str(conftest.ROOT / "make_demo.py"), "--series", "400"]
    process = subprocess.Popen([*script, "--out", str(tmp_path / "made")], text=True,
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    while not list(tmp_path.glob("*/data/*/*/*.JPG")):
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    asked = time.monotonic()
    said = process.communicate(timeout=60)[1].splitlines()
    assert time.monotonic() - asked < 15  # all of its series take minutes
    assert process.returncode == 128 + getattr(signal, name)
    told = [line for line in said if "drawing series" not in line]
    assert told == ["interrupted"] * (name == "SIGINT")
    assert not list(tmp_path.iterdir())


def test_a_demo_stops_where_one_photo_fails(monkeypatch, tmp_path):
    drawn = []

    def fails(*words):
        drawn.append(words)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(make_demo, "take_shots", fails)
    with pytest.raises(SystemExit) as stopped:
        make_demo.main(["--series", "4000", "--out", str(tmp_path / "made")])
    assert stopped.value.code == 2 and len(drawn) < 4000
    assert not list(tmp_path.iterdir())


def test_photos_in_another_format_are_named(demo, tmp_path, refused):
    data = tmp_path / "data"
    shutil.copytree(demo, data)
    for path in (data / "train_val" / "train_val_imgs").iterdir():
        path.rename(path.with_suffix(".webp"))
    flags = ["--data", data, "--weights", "none", "--out", tmp_path / "run"]
    refused(train_resnet.main, flags, "no photo is there (but files with .webp)")


ALIASES = {  # headers and a row whose columns contradict each other: what is named
    "series\tseries_id\tphoto_1\tphoto_2\tlabel\n1\t2\t1\t2\t0": "both series and series_id",
    "series\tphoto_1\tcompareID1\tphoto_2\tlabel\n1\t1\t2\t3\t0": "both photo_1 and compareID1",
    "series\tphoto_1\tphoto_2\tlabel\twinner\n1\t1\t2\t0\t2":
        ":2: columns contradict each other: label says photo_1, winner says photo_2",
    "series\tphoto_1\tphoto_2\tlabel\trank_1\trank_2\n1\t1\t2\t1\t1\t2":
        ":2: columns contradict each other: label says photo_2, rank_1 rank_2 says photo_1",
    "series\tphoto_1\tphoto_2\tvotes_1\tvotes_2\tpreference\n1\t1\t2\t3\t5\t0.7":
        "contradict each other: preference says photo_1, votes_1 votes_2 says photo_2",
}  # fmt: skip


@pytest.mark.parametrize("text", ALIASES)
def test_columns_that_contradict_each_other_are_refused(text, tmp_path, capsys):
    path = tmp_path / "mine.tsv"
    path.write_text(text + "\n")
    with pytest.raises(SystemExit) as ended:
        tables.read_table(path, {})
    said = capsys.readouterr().err
    assert ended.value.code == 2 and ALIASES[text] in said and said.count("\n") == 1


def test_columns_that_agree_or_are_no_labels_are_read(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("series\tphoto_1\tphoto_2\tlabel\twinner\n1\t1\t2\t1\t2\n2\t1\t3\t0\tleft\n")
    table, kind = tables.read_table(path, {})
    assert table["label"].tolist() == [1, 0] and kind == "label"
    path.write_text("series\tphoto_1\tphoto_2\tlabel\twinner\n1\t1\t2\t0\t2\n")
    assert len(tables.read_table(path, {}, is_turned=True)[0]) == 1  # where 1 means photo_1


@pytest.mark.parametrize("code", [None, 0, 3, "no display"])
def test_a_library_that_exits_ends_nothing_that_it_decorates(code, capsys):
    with errors.warn_on("no training_curves.png"):
        raise SystemExit(code)
    assert capsys.readouterr().err.startswith("no training_curves.png: SystemExit")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_an_exit_by_a_signal_is_one(name):
    if not hasattr(signal, name):
        pytest.skip(f"no {name} here")
    with pytest.raises(SystemExit), errors.warn_on("no training_curves.png"):
        raise SystemExit(128 + getattr(signal, name))


def test_control_characters_of_a_name_do_nothing_to_a_terminal(tmp_path, capsys):
    name = "a\x1b[31m\x07b\x9b2J\rc\x7f"
    with pytest.raises(SystemExit):
        errors.stop("x.py", f"{name}: no such file")
    assert capsys.readouterr().err == "x.py: a\\x1b[31m\\x07b\\x9b2J\\x0dc\\x7f: no such file\n"
    errors.say("\rredrawn\tline\nß", sys.stderr)
    assert capsys.readouterr().err == "\rredrawn\tline\nß\n"


@pytest.mark.parametrize("break_", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_nothing_but_line_ends_ends_a_line_of_a_run_or_a_list(break_, tmp_path):
    path = tmp_path / "predictions.tsv"
    path.write_text(f"a\tb\n1{break_}2\t3\n", encoding="utf-8")
    assert scores.read_tsv(path) == [["a", "b"], [f"1{break_}2", "3"]]
    path.write_text("a\tb\ta\n1\t2\t3\n")
    with pytest.raises(ValueError, match="two columns have one name"):
        scores.read_tsv(path)
    listed = tmp_path / "train_pairlist.txt"
    listed.write_text(f"1 1 2 0.9 1{break_}2\n", encoding="utf-8")
    assert pairlist.read_lines(listed, 6)[1] and not pairlist.read_lines(listed, 6)[0]


def test_a_momentum_of_another_shape_is_named():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.check_shapes(optimizer)
    optimizer.state[layer.bias]["momentum_buffer"] = torch.ones(5)
    with pytest.raises(ValueError, match=r"momentum_buffer has shape \(5,\), its parameter \(2,\)"):
        checkpoint.check_shapes(optimizer)


def test_ctrl_c_while_a_command_is_imported_is_one_line(tmp_path):
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise KeyboardInterrupt\n")
    for command in ("compare", "dataset", "labels", "predictions"):
        words = [sys.executable, str(conftest.ROOT / "diagnose"), command, "--help"]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        ended = subprocess.run(words, text=True, capture_output=True, env=environment)
        assert (ended.returncode, ended.stderr) in ((130, "interrupted\n"), (0, ""))


def test_a_package_that_cannot_be_imported_is_one_line(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("raise OSError('no model hub')\n")
    words = [sys.executable, str(conftest.ROOT / "diagnose"), "record", "--out", "m.trace"]
    ended = subprocess.run([*words, "mine.train"], cwd=tmp_path, text=True, capture_output=True)
    said = (
        "diagnose record: error: mine.train: its package cannot be imported: OSError: no model hub"
    )
    assert (ended.returncode, ended.stderr) == (2, said + "\n")


INSTRUMENTS = {  # {command: its words, with a run, its dataset and a trace}
    "dataset": "dataset --data {data}",
    "labels": "labels {run}/predictions.tsv --data {data}",
    "predictions": "predictions {run}/predictions.tsv --data {data}",
    "compare": "compare {trace} --data {data}",
    "record": "record --steps 1 --out {made}/a.trace {trainer} {data}",
    "watch": "watch --out {made}/a.txt {trainer} {data}",
}
PAGES = {  # the same of the others, from the project's folder
    "train_resnet": "train_resnet.py --data {data} --weights none --size 64 --out {made}/r "
    "--store {made}",
    "train_frozen": "-m variants.train_frozen --data {data} --weights none --size 64 "
    "--min-agreement 0 --out {made}/r --store {made}",
    "eval": "eval.py --run {run} --data {data} --store {made}",
    "curves": "-m run.curves {run} --out {made}/c.png",
    "make_demo": "make_demo.py --series 30 --out {made}/d",
    "bench": "bench.py --size 64 --rounds 1 --device cpu",
}
COMMANDS = INSTRUMENTS | PAGES
ASKED = [(name, how, after) for name in COMMANDS for how in ("SIGINT", "SIGTERM")
         for after in (0.3, 1.2, 2.5)]  # fmt: skip
SLOW = "import time, torch\nfor _ in range(200):\n    torch.ones(3).sum()\n    time.sleep(0.05)\n"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    "name, how, after",
    [
        pytest.param(*own, marks=[pytest.mark.full] * (n not in (7, 20)))
        for n, own in enumerate(ASKED)
    ],
)
def test_a_command_that_is_asked_to_end_says_so_and_leaves_nothing(
    name, how, after, train, demo, tmp_path
):
    made, trainer = tmp_path / "made", tmp_path / "slow.py"
    made.mkdir(), trainer.write_text(SLOW)
    torch.save({}, tmp_path / "a.trace")
    places = {"run": train("run", "--epochs", 1), "data": demo, "trace": tmp_path / "a.trace"}
    words = COMMANDS[name].format(**places, made=made, trainer=trainer).split()
    program = [] if name in PAGES else [str(conftest.ROOT / "diagnose")]
    line = [sys.executable, *program, *words]
    process = subprocess.Popen(line, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                               start_new_session=True, cwd=conftest.ROOT)  # fmt: skip
    time.sleep(after)
    os.killpg(process.pid, getattr(signal, how))  # as a terminal does
    said = process.communicate(timeout=60)[1]
    number = getattr(signal, how)
    assert process.returncode in (128 + number, -number, 0, 1, 2), said
    imported = how == "SIGINT" and said.endswith("KeyboardInterrupt\n") and " import " in said
    its_own = name in ("record", "watch") or (name in PAGES and imported)  # see docs/run.md
    assert "Traceback" not in said or its_own, said
    assert not list(made.glob("*.part")), said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_warning_of_a_library_is_one_line(capsys):
    def warns(argv):
        warnings.warn("first\nsecond", UserWarning, stacklevel=1)

    exit_on_error(warns)([])
    assert capsys.readouterr().err == "test_hostile.py: warning: UserWarning: first\n"


@pytest.mark.parametrize("large", [False, True])
def test_what_pillow_warns_of_is_told_by_the_photo_or_not_at_all(
    large, train, demo, tmp_path, monkeypatch, capsys
):
    run, mine = train("run", "--epochs", 1), [tmp_path / f"{n}.png" for n in range(2)]
    for path in mine:
        photo = Image.fromarray(np.arange(768).astype(np.uint8).reshape(16, 16, 3)).quantize()
        photo.save(path, transparency=bytes([0, 128, 255]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16 - 1 if large else None)
    capsys.readouterr()
    words = ["--run", str(run), "--photos", *map(str, mine)]
    if large:
        assert f"{mine[0]}: DecompressionBombWarning" in ended(scoring.main, words, capsys)
    else:
        scoring.main(words)
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [1e308, 1e300])
def test_predictions_of_any_size_are_ranked(size, demo, tmp_path, capsys, recwarn):
    pairs, _ = data.read_pairlist(demo / "train_val" / "val_pairlist.txt")
    scored = np.where(pairs["label"] == 0, 1, -1)[:, None] * np.array([size, -size])
    ranked = scores.rank_series(pairs, scored)
    assert ranked[0] == ranked[1] and ranked[2] == pytest.approx(1) and not recwarn.list
    assert ranked == scores.rank_series(pairs, scored / size)
