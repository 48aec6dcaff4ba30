"""The house rules, read off the syntax trees."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("train_resnet", "train_vgg")
# What each may import of this project. Pages and tools, named here by none, may import all but TOP.
BELOW = {"disk": {"disk"}, "data": {"disk"}, "model": {"disk", "data"}}
BELOW |= {"run": {"disk", "data", "model", "run"}}
TOP = ("diagnose", "variants", "examples")  # may import all; named below by none


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


ROOM_NAMES = ("run", "disk", "diagnose", "variants", "examples")
BELOW_ROOT = (path for name in ROOM_NAMES for path in sorted((ROOT / name).rglob("*.py")))
PRODUCT = [*sorted(ROOT.glob("*.py")), *BELOW_ROOT]
TEXTS = {name_of(path): path.read_text(encoding="utf-8") for path in PRODUCT}
TREES = {name: ast.parse(text) for name, text in TEXTS.items()}
ROOMS = {name.split(".")[0] for name in TREES}


def imported(nodes):
    """The names, such as run.loop, that these statements import of this project."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in ROOMS}


@pytest.mark.parametrize("name", TREES)
def test_house_rules(name):
    text = TEXTS[name]
    assert text.isascii() and max(map(len, text.splitlines())) <= 100
    for node in ast.walk(TREES[name]):
        assert not isinstance(node, ast.Try | ast.TryStar), f"try in line {node.lineno}"
        name = getattr(node, "attr", getattr(node, "id", ""))
        assert name not in ("suppress", "ignore_errors"), f"{name} in line {node.lineno}"
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 200, f"{node.name} is too long"


def test_files_are_short():
    lines = {name: len(text.splitlines()) for name, text in TEXTS.items()}
    long = {name for name in lines if lines[name] > 350 and name.startswith(ROOM_NAMES)}
    assert long <= {"diagnose.record"}  # one file that can be copied
    assert max(lines[f"variants.train_{name}"] for name in ("frozen", "finetune")) <= 130


@pytest.mark.parametrize("name", TREES)
def test_nothing_points_upwards(name):
    room = name.split(".")[0]
    allowed = ROOMS if room in TOP else BELOW.get(room, ROOMS - set(TOP))
    assert {other.split(".")[0] for other in imported(ast.walk(TREES[name]))} <= allowed


def flags_read(tree):
    """The attributes that are read of args, of a run's args and of a recipe."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {n.attr for n in nodes if ast.unparse(n.value) in ("args", "self.args", "recipe")}


@pytest.mark.parametrize("page", [name for name in TREES if "train_" in name])
def test_every_flag_of_a_recipe_is_read(page):
    # A flag whose line was replaced would be accepted, logged and dead.
    recipe = next(
        node.value for node in TREES[page].body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RECIPE"
    )  # fmt: skip
    below = (name for name in TREES if name == "data" or name.startswith("run."))
    read = [flags_read(TREES[name]) for name in (page, *below) if name != "run.flags"]
    flags = {key.value for key in recipe.keys}
    assert len(flags) > 10 and flags <= set().union(*read)


def test_imports_run_in_no_circle():
    graph = {name: imported(tree.body) for name, tree in TREES.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("page", PAGES)
def test_a_step_is_the_paper_alone(page):
    main = next(node for node in TREES[page].body if getattr(node, "name", "") == "main")
    *_, inner = (node for node in ast.walk(main) if isinstance(node, ast.For))
    assert [ast.unparse(statement) for statement in inner.body] == [
        "logits = ranker(photo_1, photo_2)",
        "loss = criterion(F.log_softmax(logits, dim=1), label)",
        "optimizer.zero_grad()",
        "loss.backward()",
        "optimizer.step()",
        "run.count(loss, logits, label)",
    ]


def test_the_two_recipes_differ_in_docstring_recipe_and_model_alone():
    def common(page):
        kept = []
        for node in TREES[page].body[1:]:
            assigned = isinstance(node, ast.Assign) and node.targets[0].id == "RECIPE"
            model = isinstance(node, ast.FunctionDef) and node.name == "build"
            imported = isinstance(node, ast.ImportFrom) and node.module == "model"
            kept += [] if assigned or model or imported else [ast.unparse(node)]
        return kept

    assert len(common("train_resnet")) >= 6
    assert common("train_resnet") == common("train_vgg")


def test_recipes_share_their_defaults():
    import train_resnet
    import train_vgg

    own = {"inner_dropout"}
    shared = {key: value for key, value in train_vgg.RECIPE.items() if key not in own}
    assert shared == train_resnet.RECIPE
