"""The house rules, read off the syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted(ROOT.glob("*.py"))


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: path.name)
def test_house_rules(path):
    text = path.read_text(encoding="utf-8")
    assert text.isascii() and max(map(len, text.splitlines())) <= 100
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Try | ast.TryStar), f"try in line {node.lineno}"
        name = getattr(node, "attr", getattr(node, "id", ""))
        assert name not in ("suppress", "ignore_errors"), f"{name} in line {node.lineno}"
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


def test_the_two_recipes_differ_in_docstring_recipe_and_model_alone():
    def common(name):
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        kept = []
        for node in tree.body[1:]:
            assigned = isinstance(node, ast.Assign) and node.targets[0].id == "RECIPE"
            model = isinstance(node, ast.FunctionDef) and node.name == "build"
            imported = isinstance(node, ast.ImportFrom) and node.module == "model"
            kept += [] if assigned or model or imported else [ast.unparse(node)]
        return kept

    assert len(common("train_resnet.py")) >= 6
    assert common("train_resnet.py") == common("train_vgg.py")


def test_recipes_share_their_defaults():
    import train_resnet
    import train_vgg

    own = {"inner_dropout"}
    shared = {key: value for key, value in train_vgg.RECIPE.items() if key not in own}
    assert shared == train_resnet.RECIPE
