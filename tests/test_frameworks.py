"""Trainers whose loop and evaluation a framework has; skipped where that is not installed."""

import sys

import conftest
import pytest

sys.path.insert(0, str(conftest.ROOT / "tests" / "zoo"))
import zoo

pytestmark = pytest.mark.full
EVALUATED = {
    "clean_eval": None,
    "eval_inverted": "evaluation.predictions",
    "eval_swapped": "evaluation.photos_swapped",
    "eval_part": "evaluation.predictions",
}


@pytest.mark.parametrize("plant", EVALUATED)
@pytest.mark.parametrize("framework", ["lightning", "transformers", "ignite"])
def test_the_evaluation_of_a_framework_is_judged(framework, plant):
    pytest.importorskip(framework)
    plants = [framework] + [plant] * (plant != "clean_eval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.EXPECTED, framework, ())
        patch.setattr(zoo, "LARGE", {*zoo.LARGE, framework})
        patch.setitem(zoo.EPOCHS, framework, 1)
        if framework == "transformers":  # it steps a schedule after each batch, here a constant one
            declared = {"update.schedule_within_epoch", "update.schedule"}
            patch.setitem(zoo.STYLE, "frameworks", declared)
        assert zoo.wrong_with(plants, zoo.examine(plants, "frameworks"), "frameworks") == []
