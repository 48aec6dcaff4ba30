"""Refusals that no other test provokes: each is one line that names its flag, file or line."""

import subprocess
import sys
from pathlib import Path

import conftest
import pytest

import eval as scoring
import make_demo
import train_resnet
import train_vgg
from diagnose.labels import judge as labels
from diagnose.predictions import judge as predictions
from run import flags
from run.scores import read_logits
from variants import train_finetune, train_frozen

PAIR = "series\tphoto_1\tphoto_2\t"
TRAIN = ["--weights", "none", "--data", "nowhere", "--out", "run"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--size", "65"], "--size 65: not a multiple of 32"),
        (["--size", "31"], "--size 31: not in 32..4096"),
        (["--size", "4097"], "--size 4097: not in 32..4096"),
        (["--float64", "--amp"], "--float64: excludes --amp and --tf32"),
        (["--float64", "--tf32"], "--float64: excludes --amp and --tf32"),
        (["--tf32"], "--tf32: a CPU has no TensorFloat-32"),
        (["--pad-color", "1,2"], "--pad-color 1,2: not imagenet, train or R,G,B in 0..255"),
        (["--dropout", "0.3"], "--dropout 0.3: the direct head has no layer to drop"),
    ],
)  # fmt: skip
def test_flags_of_training(words, said, refused):
    refused(train_resnet.main, [*TRAIN, *words], said)


LIMITS = {  # {flag: least and largest value}, in every page that has it
    "size": (32, 4096), "min_agreement": (0, 1), "quick_experiment": (1e-6, 1),
    "hidden": (1, 65536), "dropout": (0, 0.99), "inner_dropout": (0, 0.99), "batch_size": (1, 4096),
    "lr_backbone": (0, 100), "lr_head": (0, 100), "momentum": (0, 0.9999), "weight_decay": (0, 10),
    "lr_factor": (1e-6, 1), "lr_every": (1, 100_000), "epochs": (1, 100_000),
    "patience": (1, 100_000), "seed": (0, 9_223_372_036_854_775_807), "accumulate": (1, 1024),
    "warmup": (0, 100_000), "warmup_factor": (1e-6, 1), "lr_least": (0, 100), "cycle": (1, 100_000),
    "min_reviewers": (1, 1_000_000), "save_every": (1, 1_000_000_000),
}  # fmt: skip


@pytest.mark.parametrize("page", [train_resnet, train_vgg, train_frozen, train_finetune])
def test_numbers_at_the_limits_of_a_flag_are_taken_and_those_beyond_are_not(page, capsys):
    numbers = {key: row for key, row in (page.RECIPE | flags.RUN_FLAGS).items()
               if row[1] and not isinstance(row[1][0], str)}  # fmt: skip
    assert len(numbers) > 10
    for key, row in numbers.items():
        low, high = LIMITS[key]
        for value in (low, high, *([low], [high]) * isinstance(row[0], list)):
            flags.check_value(page.__file__, key, value, *row)
        step = 1 if isinstance(row[0], int | list) else 1e-7
        for value in (low - step, high + step):
            with pytest.raises(SystemExit):
                flags.check_value(page.__file__, key, value, *row)
            said = capsys.readouterr().err
            assert said.startswith(f"{Path(page.__file__).name}: --{key.replace('_', '-')} {value}")
            assert said.endswith(f": not in {row[1][0]}..{row[1][1]}\n")


def test_the_least_and_the_largest_value_of_a_flag_are_taken(refused):
    for size in ("32", "4096"):  # refused later, for its data alone
        refused(train_resnet.main, [*TRAIN, "--size", size], "nowhere")


def test_a_file_in_the_place_of_a_run(tmp_path, demo, refused):
    (tmp_path / "run").write_text("mine")
    words = ["--weights", "none", "--data", demo, "--out", "run"]
    refused(train_resnet.main, words, "--out run: is a file")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    "main, words, said",
    [
        (scoring.main, ["--run", "none", "--data", "x"], "--run none: holds no run (no args.json)"),
        (scoring.main, ["--run", "none"], "--data: the labels come from the official lists"),
        (scoring.main, ["--run", "none", "--photos", "a", "b", "--json"],
         "--json: not with --photos, whose answer is a ranking"),
        (make_demo.main, ["--out", "x", "--seed", "-1"], "--seed -1: below 0"),
        (make_demo.main, ["--out", "x", "--series", "9"], "--series 9: not in 10..99999"),
        (make_demo.main, ["--out", "x", "--series", "100000"], "--series 100000: not in 10..99999"),
        (make_demo.main, ["--out", "x", "--like", "list.txt"],
         "--like list.txt: not one train_, val_ or test_pairlist.txt each"),
    ],
)  # fmt: skip
def test_flags_of_other_commands(main, words, said, tmp_path, refused):
    refused(main, words, said)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_first_epoch_has_not_ended(train, demo, refused):
    run = train("run", "--epochs", 1)
    (run / "best.pt").unlink()
    refused(scoring.main, ["--run", run, "--data", demo], f"--run {run}: no best.pt yet")


@pytest.mark.parametrize(
    "text, words, said",
    [
        (PAIR + "label\n1\t1\t2\t0\n", ["--align", "out.tsv"],
         "--align: labels alone fit many numberings; it takes votes or preferences"),
        (PAIR + "winner\n1\t1\t2\t2\n", ["--label-1-means", "photo_1"],
         "--label-1-means: mine.tsv has no label column, but winner"),
        (PAIR + "label\n1\tx-y\t2\t0\n", [], "2: 'x-y' is neither a photo number nor a file name"),
        (PAIR + "label\n1\t1\t2\t1\n1\t1\t2\t2\n", [], "3: label '2' is neither 0, 1 nor empty"),
        (PAIR + "votes_1\tvotes_2\n1\t1\t2\t1\t-3\n", [], "2: 1 -3 are no votes_1 and votes_2"),
        ("photo_1\tphoto_2\twinner\n000001-01.JPG\t000001-02.JPG\t000002-01.JPG\n", [],
         "2: the winner is of series 2, the photos are of 1"),
    ],
)  # fmt: skip
def test_files_of_labels(text, words, said, demo, tmp_path, refused):
    (tmp_path / "mine.tsv").write_text(text)
    refused(
        labels.main, ["mine.tsv", "--data", demo, *words], "mine.tsv" if not words else "", said
    )
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize(
    "text, said",
    [
        ("winner\n1\t1\t2\t3\n", "2: winner 3 is neither photo"),
        ("predicted\n1\t1\t2\t0.5\n", "2: predicted '0.5' is neither 0 nor 1"),
        ("logprob_1\tlogprob_2\n1\t1\t2\t0.3\t0.7\n", "are no log-probabilities; logits, perhaps"),
        ("prob_1\tprob_2\n1\t1\t2\t0.3\t0.702\n", "are no probabilities that add up to 1"),
        ("prob_1\n1\t1\t2\t1.01\n", "are no probabilities that add up to 1"),
        ("logit_1\tlogit_2\n1\t1\t2\tinf\t0\n", "2: inf 0"),
    ],
)
def test_files_of_predictions(text, said, demo, tmp_path, refused):
    (tmp_path / "mine.tsv").write_text(PAIR + text)
    refused(predictions.main, ["mine.tsv", "--data", demo], "mine.tsv", said)


def test_probabilities_that_add_up_as_nearly_as_is_allowed(demo, tmp_path):
    rows = "".join(f"{n}\t1\t2\t0.3\t0.7009\n" for n in range(1, 9))
    (tmp_path / "mine.tsv").write_text(PAIR + "prob_1\tprob_2\n" + rows)
    assert len(predictions.read_predictions(tmp_path / "mine.tsv", {})[0]) == 8


@pytest.mark.parametrize("row", ["2\t0.1\t0.2", "0.5\t0.1\t0.2", "0\tnan\t0.2", "1\t0.1\t-inf"])
def test_the_predictions_of_a_run(row, tmp_path, refused):
    path = tmp_path / "predictions.tsv"
    path.write_text("label\tlogit_1\tlogit_2\n1\t0.5\t-0.5\n" + row + "\n")
    refused(lambda argv: read_logits(Path(*argv)), [path], "predictions.tsv")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--out", "there.trace", "mine.py"], "--out there.trace: exists already"),
        (["mine.py"], "--out is missing: the trace to write"),
        (["--out", "new.trace"], "the trainer is missing: a file, or a module"),
        (["--out", "new.trace", "book.ipynb"], "book.ipynb: a notebook; see docs/frameworks.md"),
        (["--out", "new.trace", "gone.py"], "gone.py: no such file, or it cannot be read"),
        (["--out", "new.trace", "--steps", "0", "mine.py"], "--steps is at least 1"),
        (["--out", "no/new.trace", "mine.py"], "is not a folder that can be written to"),
    ],
)
def test_words_of_the_recorder(words, said, tmp_path):
    for name in ("there.trace", "mine.py", "book.ipynb"):
        (tmp_path / name).write_text("")
    command = [sys.executable, str(conftest.ROOT / "diagnose"), "record", *words]
    process = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert process.returncode == 2 and said in process.stderr
    assert process.stderr.count("\n") == 1 and "diagnose record: error: " in process.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"there.trace", "mine.py", "book.ipynb"}
