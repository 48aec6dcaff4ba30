"""Sanity checks on your own dataset and run, and on what your own trainer wrote.

python -m pytest tests/test_my_data.py --data data/phototriage --run runs/train_resnet -v
python -m pytest tests/test_my_data.py --data data/phototriage --labels mine.csv
    --predictions mine.tsv --recorded mine.trace -v
"""

import dataclasses
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import eval as scoring
import model
import train_resnet
from diagnose import compare, tables
from diagnose import dataset as datasets
from diagnose.labels.judge import audit_labels
from diagnose.predictions import judge as predictions
from disk.layout import photo_names
from run.findings import code_of, text_of


def option(request, name):
    value = request.config.getoption(name)
    if not value:
        pytest.skip(f"{name} was not given")
    return value


@pytest.fixture
def dataset(request):
    """{split: pairs} of --data."""
    official, problems = datasets.read_official(option(request, "--data"))
    assert not problems, "\n".join(problems[:10])
    return official


@pytest.fixture
def mine(request, tmp_path):
    """(recipe, ranker, a few validation photos as a split) of --run and --data."""
    run, root = option(request, "--run"), option(request, "--data")
    pairs, _, folder = datasets.read_official(root)[0]["val"]
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    recipe = scoring.load_run(run)
    ranker = scoring.load_ranker(run, recipe, torch.device("cpu"))
    names, _ = photo_names(pairs[:8], folder)
    files, rows = np.unique(names.astype(str), return_inverse=True)
    split = data.Split("val", folder, pairs[:8], files.tolist(), rows.reshape(-1, 2))
    recipe.store, recipe.device = tmp_path, "cpu"
    return recipe, ranker, data.decode(split, recipe)


pytestmark = pytest.mark.real


def judge_file(request, path):
    """What `diagnose predictions` says of a predictions file, told nothing else."""
    args = dict.fromkeys(("sheet", "repeated", "rebatched"))
    args |= {"reported_accuracy": [], "columns": [], "predictions": path}
    args |= {"label_1_means": "photo_2"}
    return predictions.score_predictions(Namespace(**args, data=option(request, "--data")))


def test_my_labels_are_the_official_ones(request):
    labels = Path(option(request, "--labels"))
    verdict, evidence, *_ = audit_labels(option(request, "--data"), labels, {}, None)
    assert code_of(verdict) == 0, "\n".join(map(text_of, [*verdict, *evidence]))


def test_my_predictions_are_healthy(request):
    verdict, evidence = judge_file(request, option(request, "--predictions"))
    assert code_of(verdict) == 0, "\n".join(map(text_of, [*verdict, *evidence]))


def test_my_trainer_is_the_reference(request):
    trace = compare.read_trace(Path(option(request, "--recorded")))
    findings, _ = compare.explain(trace, option(request, "--data"))
    assert [text_of(finding) for finding in findings if finding.row.is_wrong] == []


def test_every_line_of_the_lists_is_right_and_labels_are_balanced(dataset):
    for split in ("train", "val"):
        labels = dataset[split][0]["label"]
        chance = 0.5 * np.sqrt(1 / len(labels))
        # Ranks read as winner ids put 69 to 71 % of the labels on one side.
        assert abs(labels.mean() - 0.5) < max(0.05, 4 * chance), f"{split}: {labels.mean():.4f}"


def test_no_series_is_in_both_splits(dataset):
    assert datasets.shared_series(dataset) == []


def test_photos_are_there_and_differ_between_splits(dataset):
    defects, _ = datasets.check_photos(dataset)
    assert [text_of(defect) for defect in defects] == []


def test_the_run_used_these_pairs(dataset, request):
    recipe = scoring.load_run(option(request, "--run"))
    pairs = dataset["val"][0]
    kept = data.choose_pairs(pairs, recipe.min_agreement, recipe.quick_experiment, recipe.seed)
    path = Path(option(request, "--run")) / "predictions.tsv"
    table, _, _ = predictions.read_predictions(path, {})
    assert np.array_equal(tables.pair_keys(table), tables.pair_keys(pairs[kept]))
    assert np.array_equal(table["label"], pairs["label"][kept])


def test_the_predictions_give_the_accuracy_of_the_log(request):
    run = Path(option(request, "--run"))
    table, scores, _ = predictions.read_predictions(run / "predictions.tsv", {})
    best = (run / "train.log").read_text(encoding="ascii").split("val acc=")[-1][:6]
    assert f"{(scores.argmax(1) == table['label']).mean():.4f}" == best


def test_the_run_is_judged_healthy(dataset, request):
    path = Path(option(request, "--run")) / "predictions.tsv"
    verdict, evidence = judge_file(request, path)
    if code_of(verdict) == 2:
        pytest.skip("; ".join(map(text_of, verdict)))
    assert [found.id for found in verdict] == ["predictions.healthy"], evidence


def test_the_logits_are_those_of_the_formula(mine):
    _, ranker, split = mine
    with torch.no_grad():
        photo_1, photo_2, _ = data.take_batch(split, np.arange(len(split.pairs)), "cpu",
                                              next(ranker.parameters()).dtype)  # fmt: skip
        by_hand = ranker.head(ranker.backbone(photo_1) - ranker.backbone(photo_2))
        torch.testing.assert_close(ranker(photo_1, photo_2), by_hand)
    torch.testing.assert_close(model.score_pairs(ranker, split, 16), by_hand, rtol=1e-3, atol=1e-4)


def test_a_photo_against_itself_says_nothing(mine):
    _, ranker, split = mine
    alone = dataclasses.replace(split, rows=split.rows[:, :1].repeat(2, axis=1))
    logits = model.score_pairs(ranker, alone, 16)
    assert torch.equal(logits, logits[:1].expand_as(logits))


def test_swapped_photos_swap_the_answer(mine):
    recipe, ranker, split = mine
    if recipe.hidden:
        pytest.skip("a head with hidden layers need not mirror its logits")
    swapped = dataclasses.replace(split, rows=split.rows[:, ::-1].copy())
    ahead, behind = (model.score_pairs(ranker, s, 16) for s in (split, swapped))
    bias = ranker.head.bias.detach()
    torch.testing.assert_close(ahead - bias, bias - behind)


def test_scores_do_not_depend_on_the_batch(mine):
    many, one = (model.score_pairs(*mine[1:], batch_size) for batch_size in (16, 1))
    torch.testing.assert_close(many, one, rtol=1e-3, atol=1e-4)


def test_two_evaluations_are_equal(mine):
    assert torch.equal(model.score_pairs(*mine[1:], 16), model.score_pairs(*mine[1:], 16))


def test_the_recipe_is_the_reference_but_for_what_its_log_says(request):
    recipe = scoring.load_run(option(request, "--run"))
    changed = [
        key for key, (default, *_) in train_resnet.RECIPE.items() if getattr(recipe, key) != default
    ]
    assert sorted(changed) == sorted(key for key in recipe.changed if key in train_resnet.RECIPE)
