"""docs/change.md, extend.md and plants.md, followed as they are written, on a copy."""

import ast
import re
import shutil
import subprocess
import sys

import conftest
import pytest
import test_rules

import train_resnet

pytestmark = pytest.mark.real
ROOT = conftest.ROOT


def blocks(guide):
    """(file that it names, old text, new text) of each diff of a guide."""
    text = (ROOT / "docs" / guide).read_text(encoding="utf-8")
    for name, diff in re.findall(r"```diff ?(.*?)\n(.*?)```", text, re.DOTALL):
        lines = diff.splitlines(keepends=True)
        sides = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
        yield name, *sides


def commands(guide):
    """The words behind python of each command of a guide."""
    text = (ROOT / "docs" / guide).read_text(encoding="utf-8")
    return [line.split() for line in re.findall(r"^    python (.*)", text, re.MULTILINE)]


@pytest.fixture
def copy(tmp_path, demo):
    """A copy of the product and of the rules, with a dataset in data/demo."""
    root = tmp_path / "copy"
    rooms = ("run", "disk", "diagnose", "variants", "examples", "tests")
    inside = (path for name in rooms for kind in ("*.py", "*.json")
              for path in (ROOT / name).rglob(kind))  # fmt: skip
    for path in (*ROOT.glob("*.py"), *inside):
        (root / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.relative_to(ROOT))
    shutil.copytree(demo, root / "data" / "demo")
    return root


def run(root, *words):
    done = subprocess.run([sys.executable, *words], cwd=root, text=True, capture_output=True)
    return done.returncode, done.stdout + done.stderr


def changed_page():
    """train_resnet.py with the edits of docs/change.md."""
    page = (ROOT / "train_resnet.py").read_text(encoding="utf-8")
    for _, old, new in blocks("change.md"):
        assert old and page.count(old) == 1, old
        page = page.replace(old, new)
    return page


def test_the_edits_of_the_guide_make_a_page_that_follows_the_rules(monkeypatch):
    tree = ast.parse(changed_page())
    monkeypatch.setitem(test_rules.TREES, "train_resnet", tree)
    test_rules.test_every_flag_of_a_recipe_is_read("train_resnet")
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"resnet18", "build", "main"} <= names


@pytest.mark.full
def test_the_guide_to_change_the_paper(copy):
    page = changed_page()
    (copy / "train_resnet18.py").write_text(page, encoding="utf-8")
    training, scoring = commands("change.md")[:2]
    code, said = run(copy, *training)
    assert code == 0 and "lr 5e-06/5e-05" in said, said
    # too few pairs for a verdict; what matters is that it is scored
    code, said = run(copy, *scoring)
    assert code in (0, 1, 2) and said.startswith("VERDICT "), said
    code, said = run(copy, training[0], "--lr-every", "2")
    assert code == 2 and "--lr-every" in said
    code, said = run(copy, "-m", "pytest", "-q", "tests/test_rules.py", "-p", "no:cacheprovider")
    assert code == 0, said
    text = page.replace("label_smoothing=0.1", "label_smoothing=0.2")
    (copy / "train_resnet18.py").write_text(text, encoding="utf-8")
    code, said = run(copy, *scoring)
    assert code == 2 and "the checksum of train_resnet18.py was " in said
    assert "bring the file back, or " in said


def test_a_flag_that_no_line_reads_is_noticed(monkeypatch):
    tree = ast.parse(test_rules.TEXTS["train_resnet"].replace("args.lr_every", "30"))
    monkeypatch.setitem(test_rules.TREES, "train_resnet", tree)
    with pytest.raises(AssertionError):
        test_rules.test_every_flag_of_a_recipe_is_read("train_resnet")
    assert "lr_every" in train_resnet.RECIPE


def test_the_guide_to_extend_the_diagnosis(copy):
    for name, old, new in (*blocks("extend.md"), *blocks("plants.md")):
        text = (copy / name).read_text(encoding="utf-8")
        assert old and text.count(old) == 1, old
        (copy / name).write_text(text.replace(old, new), encoding="utf-8")
    (words,) = commands("plants.md")
    code, said = run(copy, *words)
    assert code == 0 and "\n5 rows, 0 wrong\n" in said, said
    for name in ("loss.exponential", "head.maximum", "gradients.signs", "update.clamped",
                 "inputs.lower_corner"):  # fmt: skip
        assert f"{name}: " in said
