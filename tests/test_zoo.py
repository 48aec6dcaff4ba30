"""The kill matrix as a test: each bug is named, clean variants are not accused."""

import contextlib
import io
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "zoo"))

import zoo

pytestmark = pytest.mark.real  # variant and reference bring their own backbones


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    root = zoo.write_data(folder / "data")
    with contextlib.redirect_stdout(io.StringIO()):
        return root, zoo.run_reference(root, folder / "reference")


def test_the_list_of_bugs_is_whole():
    assert {row[0] for row in zoo.ZOO} == set(range(1, 36))


@pytest.mark.parametrize("bug", list(dict.fromkeys(row[1] for row in zoo.ZOO + zoo.MORE)))
def test_each_bug_is_named_by_the_right_sentence(bug, reference, tmp_path):
    found = zoo.examine(bug, *reference, tmp_path)
    for _, name, tool, words in zoo.ZOO + zoo.MORE:
        if name == bug:
            code, said = found[tool]
            assert words in said, (tool, said)
            assert code == (0 if bug in zoo.HARMLESS else 1)


def test_clean_variants_over_20_seeds_raise_no_alarm(reference, tmp_path):
    assert zoo.clean(*reference, tmp_path) == []
