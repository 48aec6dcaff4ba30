"""Where in the trainer's code a finding comes from, what mends it, and the command that does it."""

import contextlib
import io
import linecache
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import conftest
import pytest

sys.path.insert(0, str(Path(__file__).parent / "zoo"))

import zoo

import train_resnet
from diagnose import answer, compare, record
from run.findings import CAUSE, DECLARED, flag_of

pytestmark = pytest.mark.real  # the zoo brings its own backbones


@pytest.mark.parametrize("script", ["plain", "workers", "functional", "scores", "reports"])
def test_the_line_of_one_plant_of_each_stage(script):
    stages = {}
    for plant in zoo.plants_of(script):
        if plant in zoo.LINES[script]:
            stages.setdefault(zoo.EXPECTED[plant][0].split(".")[0], plant)
    assert len(stages) > 2
    for plant in list(stages.values())[::4]:  # `make zoo` holds every one
        assert zoo.wrong_lines([plant], zoo.examine([plant], script), script) == [], plant


TRAINER = """
import sys, torch
from torch.utils.data import DataLoader, Dataset
from PIL import Image

class Pairs(Dataset):
    def __init__(self, folder):
        self.folder = folder
        lines = open(folder + "/train_val/train_pairlist.txt").read().splitlines()
        self.rows = [line.split() for line in lines]
    def __len__(self):
        return len(self.rows)
    def photo(self, series, number):
        path = f"{self.folder}/train_val/train_val_imgs/{int(series):06d}-{int(number):02d}.JPG"
        photo = Image.open(path).convert("RGB")
        photo = photo.resize((64, 64))
        return torch.tensor(photo.getdata()).reshape(64, 64, 3).permute(2, 0, 1) / 255.0
    def __getitem__(self, i):
        series, a, b, _, r, q = self.rows[i]
        return self.photo(series, a), self.photo(series, b), int(int(r) > int(q))

class Trainer:
    def __init__(self, folder, workers, start):
        options = {"multiprocessing_context": start} if workers else {}
        self.loader = DataLoader(Pairs(folder), 8, shuffle=True, num_workers=workers, **options)
        self.conv, self.norm = torch.nn.Conv2d(3, 16, 8, 8, bias=False), torch.nn.BatchNorm2d(16)
        self.out, self.top = torch.nn.Linear(16, 2048), torch.nn.Linear(2048, 2)
        torch.nn.init.kaiming_normal_(self.top.weight, nonlinearity="relu")
        torch.nn.init.zeros_(self.top.bias)
        backbone = [*self.conv.parameters(), *self.norm.parameters(), *self.out.parameters()]
        groups = [{"params": backbone, "lr": 1e-5}, {"params": self.top.parameters(), "lr": 1e-4}]
        self.optimizer = torch.optim.SGD(groups, lr=0, momentum=0.7, weight_decay=5e-4)
    def features(self, x):
        return self.out(self.norm(self.conv(x)).relu().mean((2, 3)))
    def fit(self):
        for a, b, label in self.loader:
            logits = self.top(self.features(a) - self.features(b))
            loss = torch.nn.functional.cross_entropy(logits, 1 - label)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

if __name__ == "__main__":
    Trainer(sys.argv[1], int(sys.argv[2]), sys.argv[3]).fit()
"""
PLACES = {
    "loss.labels_inverted": "loss = torch.nn.functional.cross_entropy(logits, 1 - label)",
    "update.momentum": "self.optimizer = torch.optim.SGD(groups, lr=0, momentum=0.7, "
    "weight_decay=5e-4)",
}


def run_recorder(folder, *words, cwd=None):
    """Records in a process of its own; the trace."""
    trace = folder / "mine.trace"
    trace.unlink(missing_ok=True)
    command = [sys.executable, str(conftest.ROOT / "diagnose"), "record", "--steps", "2", "--out"]
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ended = subprocess.run([*command, str(trace), *words], cwd=cwd or folder, env=plain, text=True,
                           capture_output=True)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return compare.read_trace(trace)


def places(trace, monkeypatch):
    """{id: its Places} of the causes of a trace."""
    monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
    found, _ = compare.explain(trace, zoo.dataset()[1], "train_resnet")
    return {f.id: f.where for f in found if f.kind == CAUSE}


def test_another_loader_that_is_read_in_between_is_not_the_one():
    for script in ("plain", "workers"):
        found = zoo.examine(["batch_size", "clean_extra_forward"], script)
        (finding,) = (f for f in found if f.id == "pairs.batch_size")
        assert finding.where[0].text.startswith("train_loader = ")


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.py").write_text(textwrap.dedent(TRAINER))
    return tmp_path / "mine"


@pytest.mark.parametrize(
    "workers, start",
    [
        (2, "fork"),
        *(pytest.param(*own, marks=pytest.mark.full) for own in ((0, "fork"), (2, "spawn"))),
    ],
)
def test_a_class_its_workers_and_a_script_in_another_folder(mine, workers, start, monkeypatch):
    words = [str(mine / "train.py"), str(zoo.dataset()[1]), str(workers), start]
    found = places(run_recorder(mine, *words, cwd=mine.parent), monkeypatch)
    for name, text in PLACES.items():
        assert [(p.file, p.text) for p in found[name][:1]] == [("mine/train.py", text)]
    resize = "photo = photo.resize((64, 64))"
    own = resize if start == "fork" else "def __getitem__(self, i):"  # spawned: out of sight
    assert found["inputs.squash"][0].text == own
    assert found["inputs.not_normalized"][-1].text == "def __getitem__(self, i):"


def test_a_module_and_a_file_that_changes_afterwards(mine, monkeypatch):
    package = mine / "package"
    package.mkdir()
    shutil.move(mine / "train.py", package / "train.py")
    (package / "__init__.py").write_text("")
    trace = run_recorder(mine, "package.train", str(zoo.dataset()[1]), "0", "fork")
    (package / "train.py").write_text("nothing of before")
    place = places(trace, monkeypatch)["loss.labels_inverted"][0]
    assert (place.file, place.text) == ("package/train.py", PLACES["loss.labels_inverted"])


def test_cells_of_a_notebook_and_what_has_no_file(tmp_path, monkeypatch):
    cell, name = textwrap.dedent(TRAINER), "<ipython-input-4-0123abcd>"
    shown = cell.replace("1 - label)", "1 - label)  # \x1b[31m")
    linecache.cache[name] = (len(shown), None, shown.splitlines(keepends=True), name)
    for code, known in ((name, True), ("<generated>", False)):
        names = {"__name__": "cell"}
        monkeypatch.setattr(sys, "argv", ["notebook"])
        recording = record.Recording(tmp_path / f"{known}.trace", 2, root=str(tmp_path))
        with contextlib.suppress(SystemExit), recording:
            exec(compile(cell, code, "exec"), names)
            names["Trainer"](str(zoo.dataset()[1]), 0, "fork").fit()
        found = places(compare.read_trace(tmp_path / f"{known}.trace"), monkeypatch)
        where = found["loss.labels_inverted"]
        line = 1 + next(n for n, text in enumerate(cell.splitlines()) if "1 - label)" in text)
        text = f"{PLACES['loss.labels_inverted']}  # \\x1b[31m"
        assert where == (("cell 4", line, text),) * known


NOTEBOOK = """
import os, sys
sys.path.append(sys.argv[1])
import record
record.start("mine.trace", steps=1)
sys.path.insert(0, "mine")
import train
try:
    train.Trainer(sys.argv[2], 0, "fork").fit()
except SystemExit:  # as a kernel does, which goes on
    print("written" if os.path.exists("mine.trace") else "not yet")
"""


def test_a_notebook_has_its_trace_before_its_kernel_ends(mine):
    command = [sys.executable, "-c", NOTEBOOK, str(conftest.ROOT / "diagnose")]
    command.append(str(zoo.dataset()[1]))
    ended = subprocess.run(command, cwd=mine.parent, text=True, capture_output=True)
    assert (ended.stdout, ended.returncode) == ("written\n", 0), ended.stderr
    ended = subprocess.run(command, cwd=mine.parent, text=True, capture_output=True)
    assert ended.returncode == 2 and "mine.trace: exists already" in ended.stderr


AFTERWARDS = """
import builtins, os, sys
sys.path.insert(0, sys.argv[1])
import torch
import record
told, plain = [], (torch.get_default_dtype(), torch.save, torch.autograd.backward, sys.stdout)
class Events:
    def register(self, name, function):
        told.append((name, function))
class Shell:
    events = Events()
builtins.get_ipython = Shell
record.start("mine.trace", steps=1)
[(name, close)] = told
close()
print(name, torch.get_default_dtype())
sys.path.insert(0, "mine")
import train
try:
    train.Trainer(sys.argv[2], 0, "fork").fit()
except SystemExit:
    close()
own = torch.get_default_dtype(), torch.save, torch.autograd.backward, sys.stdout
print([a is b for a, b in zip(own, plain)], os.path.exists("mine.trace"))
"""


def test_a_notebook_finds_torch_as_it_was_behind_the_cell(mine):
    command = [sys.executable, "-c", AFTERWARDS, str(conftest.ROOT / "diagnose")]
    command.append(str(zoo.dataset()[1]))
    ended = subprocess.run(command, cwd=mine.parent, text=True, capture_output=True)
    said = "post_run_cell torch.float64\n[True, True, True, True] True\n"
    assert (ended.stdout, ended.returncode) == (said, 0), ended.stderr


@pytest.mark.parametrize("values", conftest.one_of_each(["steps=0", "steps=-1", "epochs=-2"]))
def test_a_notebook_that_asks_for_nothing_is_told_at_once(values, tmp_path):
    text = f"import sys; sys.path.insert(0, {str(conftest.ROOT / 'diagnose')!r}); import record; "
    command = [sys.executable, "-c", f"{text}record.start('mine.trace', {values})"]
    ended = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    said = "record.py: error: --steps is at least 1, --epochs at least 0\n"
    assert (ended.stderr, ended.returncode) == (said, 2)


FLAGS = {  # of the reference, which are recorded: the finding that they make
    "--batch-size 5": "pairs.batch_size",
    "--fit crop": "inputs.crop",
    "--pad-color train": "inputs.padding_train",
    "--pad-color 0,0,0": "inputs.padding_black",
    "--pad-color 128,128,128": "inputs.padding_gray",
    "--pad-color 255,255,255": "inputs.padding_white",
    "--pad-color 124,116,104": "inputs.padding_rounded",
    "--hidden 70 30 --activation tanh": "head.hidden",
    "--dropout 0.3 --hidden 70 --activation relu": "head.dropout",
    "--lr-backbone 3e-4 --lr-head 3e-4": "update.one_learning_rate",
    "--lr-backbone 1e-4 --lr-head 1e-5": "update.learning_rates_swapped",
    "--lr-backbone 3e-5 --lr-head 7e-4": "update.learning_rates",
    "--momentum 0.7": "update.momentum",
    "--weight-decay 3e-4": "update.weight_decay",
    "--lr-every 7 --lr-factor 0.4": "update.schedule",
}


@pytest.mark.parametrize("flags", conftest.one_of_each(FLAGS, lambda f: FLAGS[f].split(".")[0]))
def test_the_command_of_an_answer_gives_that_answer(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
    words = ["--weights", "none", "--size", "64", "--data", str(zoo.dataset()[1]), *flags.split()]
    words += ["--out", str(tmp_path / "run"), "--store", str(tmp_path / "stores")]
    quiet = contextlib.redirect_stdout(io.StringIO())
    with contextlib.suppress(SystemExit), quiet, record.Recording(tmp_path / "page.trace", 2):
        train_resnet.main(words)
    trace = compare.read_trace(tmp_path / "page.trace")
    found, basis = compare.explain(trace, zoo.dataset()[1], "train_resnet")
    told = [f for f in found if f.kind in (CAUSE, DECLARED)]
    assert FLAGS[flags] in {f.id for f in told}
    assert {flag_of(f) for f in told} - {"--weights none"} <= {
        flags,
        *flags.split(" --hidden")[:1],
        "--hidden 70 --activation relu",
    }
    command = list(answer.commands(found, basis, "DATA"))[1].split()
    assert sorted(command) == sorted(
        ["python", "train_resnet.py", "--data", "DATA", "--size", "64", "--weights", "none",
         *flags.split()]
    )  # fmt: skip
