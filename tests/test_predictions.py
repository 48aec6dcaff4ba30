"""The verdicts of diagnose predictions, and the figures below them."""

import json

import conftest
import numpy as np
import pytest
import torch

import data
from diagnose.predictions import arithmetics, contradictions
from diagnose.predictions import judge as judging
from run import scores as scored
from run.findings import text_of
from run.scores import series_interval, tail

COUNT = 483  # as many pairs as the official validation list


def balance(rows):
    """The share of pairs whose photo_2 is preferred."""
    return np.mean([row[4] > row[5] for row in rows])


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    """A folder of made-up lists without photos, 483 pairs in val, and these pairs."""
    folder = tmp_path_factory.mktemp("lists") / "train_val"
    folder.mkdir()
    rows = conftest.made_up(260, 4)[0]
    assert abs(balance(rows[:COUNT]) - 0.5) < 0.02  # as official
    lines = [" ".join(map(str, row)) + "\n" for row in rows]
    (folder / "val_pairlist.txt").write_text("".join(lines[:COUNT]))
    last = int(lines[COUNT].split()[0])
    rest = [line for line in lines[COUNT:] if int(line.split()[0]) > last]
    (folder / "train_pairlist.txt").write_text("".join(rest))
    return folder.parent, data.read_pairlist(folder / "val_pairlist.txt")[0]


def write_predictions(path, pairs, share, seed=0, labels=None, predicted=None):
    """A predictions file with this share of right predictions, to the pair; logits to fit.

    labels: those of its label column, the official ones if None; () leaves the column out.
    """
    rng = np.random.default_rng(seed)
    right = rng.permutation(len(pairs)) < round(share * len(pairs))
    if predicted is None:
        predicted = np.where(right, pairs["label"], 1 - pairs["label"])
    margin = np.abs(rng.normal(0, 1.5, len(pairs))) * (2 * predicted - 1)
    labels = pairs["label"] if labels is None else labels
    lines = ["photo_1\tphoto_2\tlogit_1\tlogit_2" + ("\tlabel" if len(labels) else "")]
    for i, (pair, m) in enumerate(zip(pairs, margin.tolist(), strict=True)):
        names = [f"{pair['series']:06d}-{pair[side]:02d}.JPG" for side in ("photo_1", "photo_2")]
        lines.append(f"{names[0]}\t{names[1]}\t{-m / 2!r}\t{m / 2!r}")
        lines[-1] += f"\t{labels[i]}" if len(labels) else ""
    path.write_text("\n".join(lines) + "\n")
    return path


def test_each_inversion_gets_its_verdict(val, tmp_path, judge):
    root, pairs = val
    label, majority = pairs["label"], int(pairs["label"].mean() > 0.5)
    misread = np.where(pairs["rank_1"] == pairs["photo_1"], 0, 1)
    flipped = np.where(np.random.default_rng(1).random(COUNT) < 0.1, 1 - label, label)
    path, both = tmp_path / "p.tsv", "trained on inverted labels, or the two outputs are exchanged"
    right = "the file's labels are right, so the loss inverts them, or the outputs are exchanged"
    mine = "its own figure is 1 minus that, as it would be if the outputs were exchanged in this"
    for verdict, code, reported, share, changes in [
        ("healthy", 0, ".70", 0.7, {}),
        ("healthy", 0, None, 0.6, {}),
        ("the file's labels: labels are inverted", 1, ".30", 0.3, {"labels": 1 - label}),
        ("the file's labels: labels are inverted", 1, None, 0.3, {"labels": 1 - label}),
        ("the file's labels: ranks are read as photo numbers", 1, None, 0.6, {"labels": misread}),
        (f"{(flipped != label).sum()} of 483", 1, None, 0.7, {"labels": flipped}),
        ("metric inverted: the reported .30 is 1 - accuracy", 1, ".30", 0.7, {}),
        (f"{right}; {mine}", 1, ".70", 0.3, {}),
        (f"{both}; a label column (the label that your loss used) would tell; {mine}", 1, ".70",
         0.3, {"labels": ()}),
        (right, 1, ".30", 0.3, {}),
        (right, 1, None, 0.3, {}),
        (f"{both}; a label column (the label that", 1, None, 0.3, {"labels": ()}),
        ("no better than the constant predictor (p = ", 1, None, 0.5, {}),
        ("no better than the constant", 1, None, 0, {"predicted": np.full(COUNT, majority)}),
        ("not established: the reported .85 is not the accuracy", 1, ".85", 0.7, {}),
        ("not established: the reported .30 is not the accuracy of these predictions (0.75", 1,
         ".30", 0.76, {}),
    ]:  # fmt: skip
        write_predictions(path, pairs, share, **changes)
        told = ["--reported-accuracy", reported] if reported else []
        found = judge(judging.main, path, "--data", root, *told)
        assert found[0] == code and verdict in found[1], (verdict, found[2])


def test_the_polarity_of_predictions_can_be_declared(val, tmp_path, judge):
    root, pairs = val
    label = pairs["label"]
    wrong = np.random.default_rng(0).random(COUNT) < 0.2
    mine = 1 - np.where(wrong, 1 - label, label)  # 1 where photo_1 is predicted
    rows = [f"{s}\t{a}\t{b}\t{y}\t{1 - z}" for (s, a, b), y, z in zip(
        pairs[["series", "photo_1", "photo_2"]].tolist(), mine, label, strict=True)]  # fmt: skip
    path = tmp_path / "p.tsv"
    path.write_text("\n".join(["series\tphoto_1\tphoto_2\tpredicted\tlabel", *rows]) + "\n")
    code, verdict, _ = judge(judging.main, path, "--data", root, "--label-1-means", "photo_1")
    assert (code, verdict) == (0, "healthy")
    assert judge(judging.main, path, "--data", root)[0] == 1


def test_which_pairs_are_scored_comes_first(val, tmp_path, judge):
    root, pairs = val
    train, _ = data.read_pairlist(root / "train_val" / "train_pairlist.txt")
    strong = np.maximum(pairs["preference"], 1 - pairs["preference"]) >= 0.7 - 1e-9
    for rows, words in [
        (train, f"training pairs ({len(train)}): they say nothing of other photos; healthy"),
        (pairs[strong], "not all of val: only pairs of a subset: agreement of at least 0.7; "),
        (pairs[:100], "not all of val: only pairs of a subset: the first 100 rows of a list; "),
        (np.concatenate([pairs, train]), f"{len(train)} of {COUNT + len(train)} ("),
    ]:
        path = write_predictions(tmp_path / "p.tsv", rows, 0.8)
        code, verdict, printed = judge(judging.main, path, "--data", root)
        assert code == 1 and verdict.startswith(words), printed


def test_a_reported_figure_is_named_where_one_arithmetic_alone_gives_it(val, tmp_path, judge):
    root, pairs = val
    rng, label = np.random.default_rng(3), pairs["label"]
    correct = rng.random(COUNT) < np.where(label == 1, 0.8, 0.66)
    predicted = np.where(correct, label, 1 - label)
    groups = [correct[i : i + 32].mean() for i in range(0, COUNT, 32)]
    path = write_predictions(tmp_path / "p.tsv", pairs, 0, predicted=predicted)
    strong = np.maximum(pairs["preference"], 1 - pairs["preference"]) >= 0.7 - 1e-9
    for value, words in [
        (correct[label == 1].mean(), "is the recall of label 1, not the accuracy"),
        (correct[-(COUNT % 64) :].mean(), "is that of the last batch of 64"),
        (np.mean(groups), "is the mean over batches of 32, not the accuracy"),
        (correct[strong].mean(), "is that of the pairs with at least .7 agreement"),
        (0.1234, "not established: the reported .1234 is not the accuracy"),
    ]:
        reported = f"{value:.4f}".removeprefix("0")
        flags = ["--data", root, "--reported-accuracy", reported]
        code, verdict, printed = judge(judging.main, path, *flags)
        assert code == 1 and words in verdict, printed
        for digits in (2, 3):  # too few to name an arithmetic
            few = [*flags[:-1], reported[: digits + 1]]
            found = judge(judging.main, path, *few)
            assert "the reported" not in found[1] or "not established" in found[1], found[2]
    history = [".5000", f"{correct.mean():.4f}"[1:]]
    flags = ["--data", root, "--reported-accuracy", ".9123", *history]
    assert "the last checkpoint was saved as the best, or" in judge(judging.main, path, *flags)[1]


def test_winners_and_other_names_of_columns(val, tmp_path, judge):
    root, pairs = val
    right = np.random.default_rng(0).random(COUNT) < 0.7
    better = np.where(right, pairs["label"], 1 - pairs["label"])
    expected = f"accuracy {right.mean():.4f}"
    path = tmp_path / "p.csv"
    for header, best in (("s,left,right,best", True), ("s,left,right,predicted", False)):
        lines = [header]
        for pair, y in zip(pairs, better.tolist(), strict=True):
            photos = [int(pair["photo_1"]), int(pair["photo_2"])]
            lines.append(f"{pair['series']},{photos[0]},{photos[1]},{photos[y] if best else y}")
        path.write_text("\n".join(lines) + "\n")
        names = ["series=s", "photo_1=left", "photo_2=right"] + ["winner=best"] * best
        flags = ["--data", root, "--columns", *names]
        code, verdict, printed = judge(judging.main, path, *flags)
        assert (code, verdict) == (0, "healthy") and expected in printed, printed


def test_no_wrong_verdict_on_200_healthy_or_random_predictions(val):
    _, pairs = val
    wrong, own = [], np.full(COUNT, -1)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        share = 0.6 + 0.2 * rng.random() if seed < 150 else 0.5
        right = rng.permutation(COUNT) < round(share * COUNT)
        margin = np.where(right, 1, -1) * np.where(pairs["label"] == 0, 1, -1) * rng.random(COUNT)
        scores = np.stack([margin, -margin], 1)
        reported = [f"{right.mean():.2f}"] if seed % 2 else []
        verdict, _ = judging.judge(pairs, scores, own, right, reported, False)
        (found,) = (finding.id for finding in verdict)
        usual = ("predictions.healthy",) + ("predictions.no_better",) * (seed >= 150)
        wrong += [] if found in usual else [(seed, found)]
    assert wrong == []


def test_kinds_of_scores_mean_the_same(val, tmp_path, judge):
    root, pairs = val
    path = write_predictions(tmp_path / "p.tsv", pairs, 0.7)
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    logits = torch.tensor([[float(row[2]), float(row[3])] for row in rows], dtype=torch.float64)
    prob = torch.softmax(logits, 1)
    kinds = {
        "logprob_1,logprob_2": torch.log(prob), "prob_1,prob_2": prob, "prob_1": prob[:, :1],
        "prob_2": prob[:, 1:], "score_1": logits[:, :1], "score_2": logits[:, 1:],
    }  # fmt: skip
    expected = judge(judging.main, path, "--data", root)[2].splitlines()
    for header, values in kinds.items():
        lines = [f"photo_2,photo_1,{swap_sides(header)}"]  # photo_1 of the file is our photo_2
        for row, numbers in zip(rows, values.tolist(), strict=True):
            lines.append(",".join([row[1], row[0], *map(repr, numbers)]))
        lines[0] = lines[0].replace("photo_2,photo_1", "photo_1,photo_2")
        path.write_text("\n".join(lines) + "\n")
        found = judge(judging.main, path, "--data", root)[2].splitlines()
        assert found[0] == expected[0] and found[3] == expected[3], header
        assert any("loss  " in line for line in found) == ("score" not in header)


@pytest.mark.parametrize("kind", ["logit_1 logit_2", "logprob_1 logprob_2", "prob_1 prob_2",
                                  "prob_1", "prob_2", "score_1", "score_2"])  # fmt: skip
def test_the_scores_of_every_kind_of_column(kind, tmp_path):
    names, rng = kind.split(), np.random.default_rng(len(kind))
    likely = np.r_[rng.uniform(0.01, 0.99, 6), 0.0]
    known = np.stack([likely, 1 - likely], 1)
    logits = np.log(np.maximum(known, 1e-12))
    shown = {"logit": logits + 3, "logprob": logits, "prob": known, "score": known - 0.5}
    values = shown[names[0][:-2]][:, [int(name[-1]) - 1 for name in names]]
    rows = ["\t".join(["series", "photo_1", "photo_2", *names])]
    rows += [
        "\t".join(map(str, (n, 1, 2, *map(repr, row)))) for n, row in enumerate(values.tolist(), 1)
    ]
    (tmp_path / "p.tsv").write_text("\n".join(rows) + "\n")
    table, scores, soft = judging.read_predictions(tmp_path / "p.tsv", {})
    assert soft == ("score" not in kind) and len(table) == 7
    expected = known - 0.5 if "score" in kind else logits
    assert np.allclose(scores, expected, atol=1e-9)
    zeros = [text_of(f) for f in judging.what_is_missing(np.full(7, -1), [], soft, scores)[:-1]]
    is_told = "prob" in kind and "log" not in kind
    assert zeros == ["1 probabilities are 0; the loss counts 1e-12 for each"] * is_told


def swap_sides(header):
    return ",".join(name[:-1] + "21"[int(name[-1]) - 1] for name in header.split(","))


def test_numbers_from_0_are_those_of_the_lists(val, tmp_path, judge):
    root, pairs = val
    path = write_predictions(tmp_path / "p.tsv", pairs, 0.7)
    expected = judge(judging.main, path, "--data", root)
    rows = [line.split("\t")[2:] for line in path.read_text().splitlines()]
    for lowest in (0, 1):
        lines = ["\t".join(["series", "photo_1", "photo_2", *rows[0]])]
        for pair, row in zip(pairs, rows[1:], strict=True):
            numbers = pair["series"], *(pair[side] + lowest - 1 for side in ("photo_1", "photo_2"))
            lines.append("\t".join(map(str, (*numbers, *row))))
        path.write_text("\n".join(lines) + "\n")
        assert judge(judging.main, path, "--data", root)[:2] == expected[:2]


def test_predictions_made_again_and_rows_that_are_no_pairs(val, tmp_path, judge):
    root, pairs = val
    path = write_predictions(tmp_path / "p.tsv", pairs, 0.8)
    header, *lines = path.read_text().splitlines()
    moved = {}
    for flag, by in (("rebatched", 2.1e-3), ("repeated", 2.1e-6)):  # of one logit of one pair
        for name, times in ((f"{flag} far", 1), (f"{flag} near", 0.4)):
            row = lines[5].split("\t")
            row[2] = repr(float(row[2]) + by * times)
            moved[name] = tmp_path / f"{name}.tsv"
            moved[name].write_text(
                "\n".join([header, *lines[:5], "\t".join(row), *lines[6:]]) + "\n"
            )
    words = {"rebatched": "scores change with batching", "repeated": "two evaluations differ"}
    for flag, said in words.items():
        told = ["--data", root, f"--{flag}"]
        code, verdict, printed = judge(judging.main, path, *told, moved[f"{flag} far"])
        assert code == 1 and verdict.startswith(said)
        plain, again = (judging.read_predictions(p, {})[1] for p in (path, moved[f"{flag} far"]))
        gap = np.abs(plain - again).max()
        assert f"--{flag}: log-probabilities differ by up to {gap:.2g}" in printed
        code, verdict, printed = judge(judging.main, path, *told, moved[f"{flag} near"])
        assert (code, verdict) == (0, "healthy") and "differ" not in printed
    odd = lines[0].replace(lines[0][:6], "900000")
    path.write_text("\n".join([header, *lines, odd]) + "\n")
    code, verdict, _ = judge(judging.main, path, "--data", root)
    count = len(lines) + 1
    assert code == 1 and verdict.startswith(f"1 of {count} ({1 / count:.1%}".replace("%", " %"))
    assert "rows are no official pairs" in verdict
    path.write_text(f"{header}\n{odd}\n")
    code, verdict, printed = judge(judging.main, path, "--data", root)
    assert (code, verdict) == (2, "cannot judge: none of the pairs is an official pair")
    assert printed.count("\n") == 1


def test_the_sheet_of_a_file_of_predictions(tmp_path, judge, monkeypatch, refused):
    lines = [f"{n} 1 2 0.{9 - n % 3} 1 2" for n in range(1, 13)]
    root = conftest.write_dataset(tmp_path / "data", ["99 1 2 0.9 1 2"], lines, lambda s, p: 2 * s)
    pairs = data.read_pairlist(root / "train_val" / "val_pairlist.txt")[0]
    path, drawn = write_predictions(tmp_path / "p.tsv", pairs, 0.5), []
    monkeypatch.setattr(judging.sheet, "draw_errors", lambda *told: drawn.append(told))
    judge(judging.main, path, "--data", root, "--sheet", tmp_path / "s.png")
    picture, official, names, folder, scores, run = drawn[0]
    assert (picture, run) == (tmp_path / "s.png", "p.tsv")
    assert folder == root / "train_val" / "train_val_imgs"
    assert names.tolist() == [[f"{n:06d}-{p:02d}.JPG" for p in (1, 2)] for n in range(1, 13)]
    assert official["series"].tolist() == list(range(1, 13))
    assert np.array_equal(scores, judging.read_predictions(path, {})[1])
    monkeypatch.undo()
    lost = names[np.flatnonzero(scores.argmax(1) != pairs["label"])[0], 1]
    (folder / lost).unlink()
    flags = [path, "--data", root, "--sheet", tmp_path / "t.png"]
    refused(judging.main, flags, f"{lost}: the photo is missing, --sheet needs it")


def test_what_contradicts_health_is_in_the_verdict(val, tmp_path, judge):
    root, pairs = val
    rng = np.random.default_rng(5)
    margin = rng.normal(0.9, 1.1, len(pairs)) * (2 * pairs["label"] - 1)
    cut = (margin > rng.uniform(0.9, 1.3)).astype(int)  # of a logit, whose middle is 0
    path = write_predictions(tmp_path / "cut.tsv", pairs, 1, predicted=cut)
    code, verdict, _ = judge(judging.main, path, "--data", root)
    shares = f"photo_2 is predicted in {cut.mean():.2f} of the pairs and preferred in "
    assert code == 1 and verdict.startswith(f"{shares}{pairs['label'].mean():.2f} (p = ")
    guess = np.where(
        rng.random(len(pairs)) < rng.uniform(0.7, 0.9), pairs["label"], 1 - pairs["label"]
    )
    lines = [f"{p['series']:06d}-{p['photo_1']:02d}.JPG\t{p['series']:06d}-{p['photo_2']:02d}.JPG"
             f"\t{1 - g}.0\t{g}.0" for p, g in zip(pairs, guess, strict=True)]  # fmt: skip
    path = tmp_path / "rounded.tsv"
    path.write_text("photo_1\tphoto_2\tlogit_1\tlogit_2\n" + "\n".join(lines) + "\n")
    code, verdict, _ = judge(judging.main, path, "--data", root)
    assert code == 1 and "the scores have only 2 different values" in verdict


def test_rows_in_another_order_than_their_names_are_told(val, tmp_path, judge):
    root, pairs = val
    order = np.random.default_rng(6).permutation(len(pairs))
    wanted = pairs["label"][order]  # of a shuffled loader, with its own labels
    guess = np.where(np.random.default_rng(7).random(len(pairs)) < 0.74, wanted, 1 - wanted)
    path = write_predictions(tmp_path / "p.tsv", pairs, 1, labels=wanted, predicted=guess)
    code, verdict, _ = judge(judging.main, path, "--data", root)
    accuracy = (guess == wanted).mean()
    text = f"the predictions fit the file's labels ({accuracy:.4f}), and neither fits the photo"
    assert code == 1 and text in verdict


@pytest.mark.parametrize("size", [16, 64])
def test_an_accuracy_of_every_prediction_against_every_label_is_named(val, tmp_path, judge, size):
    root, pairs = val
    path = write_predictions(tmp_path / "p.tsv", pairs, 0.83, seed=size)
    rng = np.random.default_rng(size)
    right = rng.permutation(len(pairs)) < round(0.83 * len(pairs))
    guess = np.where(right, pairs["label"], 1 - pairs["label"])
    starts = range(0, len(pairs), size)
    every = [(guess[i : i + size, None] == pairs["label"][i : i + size]).mean(1) for i in starts]
    said = f"{np.concatenate(every).mean():.6f}"
    args = "--data", root, "--reported-accuracy", said.lstrip("0")
    code, verdict, _ = judge(judging.main, path, *args)
    name = f"every prediction against every label of its batch of {size}"
    assert code == 1 and f"the reported {said.lstrip('0')} is {name}" in verdict


@pytest.mark.parametrize("labelled", ["some", "all", "none"])
@pytest.mark.parametrize("seed, count", [(0, 37), (1, 300)])
def test_every_arithmetic_is_what_its_name_says(seed, count, labelled):
    rng = np.random.default_rng(seed)
    pairs = np.array([(*row, int(row[4] > row[5]), 0) for row in conftest.made_up(60, seed)[0]],
                     dtype=data.PAIR)[:count]  # fmt: skip
    count = len(pairs)
    likely = rng.uniform(0.01, 0.99, count)
    scores, truth = np.log(np.stack([1 - likely, likely], 1)), pairs["label"].tolist()
    guess = [int(p > 0.5) for p in likely]
    own = [int(t) if u < 0.6 else 1 - int(t) if u < 0.9 or labelled == "all" else -1
           for t, u in zip(truth, rng.random(count), strict=True)]  # fmt: skip
    own = [-1] * count if labelled == "none" else own
    order = rng.permutation(count).tolist()
    seen = [(guess[n], truth[n]) for n in order] + [(1, 1), (0, 1)]  # two rows repeated
    both = list(zip(guess, truth, strict=True))
    right = [g == t for g, t in both]

    def share(some):
        return sum(some) / len(some)

    expected = {
        "the share of label 1": share(truth), "the share of predicted 1": share(guess),
        "that of all rows, repeated pairs and all": share([g == t for g, t in seen]),
    }  # fmt: skip
    for c in (0, 1):
        expected[f"the recall of label {c}"] = share([g == c for g, t in both if t == c])
        expected[f"the precision of label {c}"] = share([t == c for g, t in both if g == c])
    if labelled != "none":
        agrees = [g == o for g, o in zip(guess, own, strict=True) if o >= 0]
        expected["that on the file's own labels"] = share(agrees)
        expected["1 - that on the file's own labels"] = 1 - share(agrees)
    recalls = [expected[f"the recall of label {c}"] for c in (0, 1)]
    expected["the mean of both recalls"] = share(recalls)
    for k in (6, 7, 8, 9):
        expected[f"that of the pairs with at least .{k} agreement"] = share([
            r for r, p in zip(right, pairs["preference"].tolist(), strict=True)
            if round(max(p, 1 - p), 6) >= k / 10
        ])  # fmt: skip
    for size in (4, 8, 16, 32, 64, 128, 256):
        parts = [seen[i : i + size] for i in range(0, len(seen), size)]
        if len(parts) == 1:
            continue
        means = [share([g == t for g, t in part]) for part in parts]
        expected[f"the mean over batches of {size}"] = share(means)
        expected[f"that of the last batch of {size}"] = means[-1]
        expected[f"that of the first batch of {size}"] = means[0]
        whole = [g == t for part in parts[:-1] for g, t in part]
        expected[f"that without the last batch of {size}"] = share(whole)
        every = [share([g == t for _, t in part]) for part in parts for g, _ in part]
        expected[f"every prediction against every label of its batch of {size}"] = share(every)
    rows = np.array(seen).T
    found = arithmetics.arithmetics(np.array(right), pairs, scores, np.array(own), rows)
    told = {name: value for names, value in found.items() for name in names.split(" or ")}
    top, series, *_ = scored.rank_series(pairs, scores)
    best = told.pop("the share of series whose best photo is found")
    assert best == pytest.approx(top / series)
    assert told == pytest.approx(expected, abs=1e-9)


def test_the_figures_are_right(val, tmp_path, judge):
    root, pairs = val
    path = write_predictions(tmp_path / "p.tsv", pairs, 1.0)
    printed = judge(judging.main, path, "--data", root, "--json")[2]
    evidence = "\n".join(found["text"] for found in json.loads(printed)["findings"])
    series = len(np.unique(pairs["series"]))
    assert "accuracy 1.0000  (483 of 483" in evidence and "photo_1 1.000 (" in evidence
    share = pairs["label"].mean()
    assert f"photo_2 is predicted in {share:.4f}, preferred in {share:.4f}" in evidence
    rng_path = write_predictions(tmp_path / "q.tsv", pairs, 0.7)
    printed = judge(judging.main, rng_path, "--data", root)[2]
    agreement = np.maximum(pairs["preference"], 1 - pairs["preference"])
    strong = int((agreement >= 0.9).sum())
    assert f".9-1 0.{printed.split('.9-1 0.')[1][:3]} ({strong})" in printed
    assert f"of {series} (" in printed.split("best photo of the series: ")[1][:20]
    logits = torch.tensor([[float(x) for x in line.split("\t")[2:4]]
                           for line in rng_path.read_text().splitlines()[1:]])  # fmt: skip
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(pairs["label"]))
    assert f"loss     {loss:.4f}" in printed


def test_every_figure_of_four_pairs_by_hand():
    # Series 1: the official order is 1, 3, 2, the model's 3, 1, 2. Series 2: 2 before 1 in both.
    rows = [(1, 1, 2, 0.9, 1, 3, 0, 1), (1, 1, 3, 0.7, 1, 2, 0, 2),
            (1, 2, 3, 0.35, 3, 2, 1, 3), (2, 1, 2, 0.25, 2, 1, 1, 4)]  # fmt: skip
    margin = torch.tensor([1.0, -0.5, -2.0, -0.3], dtype=torch.float64)
    scores = torch.log_softmax(torch.stack([margin, torch.zeros(4).double()], 1), 1).numpy()
    found = scored.describe(np.array(rows, dtype=data.PAIR), scores, True)
    lines = list(map(text_of, found))
    assert lines[0].startswith("accuracy 0.7500  (3 of 4, 95 % interval ")
    assert lines[0].endswith("1 - accuracy 0.2500")
    assert lines[1:] == [
        "constant 0.5000  (as good by chance: p = 0.31)",  # 5 of 16 outcomes
        "loss     0.4922  (prior loss 0.6931)",  # mean of ln(1 + e^-m) on the label's side
        "by agreement: .6-.7 1.000 (1), .7-.8 0.500 (2), .9-1 1.000 (1)",
        "by photos in the series: 2 1.000 (1), 3 0.667 (3)",
        "recall where the better one is: photo_1 0.500 (2), photo_2 1.000 (2)",
        "position: photo_2 is predicted in 0.7500, preferred in 0.5000",
        "calibration: mean confidence 0.7022, expected error 0.3590",
        "best photo of the series: 1 of 2 (50.0 %); rank correlation with the official ranks "
        "0.500 (1 series of 3 and more)",
    ]


def test_each_verdict_has_its_bound():
    def verdict(right, count=100):
        pairs = np.zeros(count, dtype=data.PAIR)
        pairs["series"], pairs["label"] = np.arange(count), np.arange(count) % 2
        predicted = np.where(np.arange(count) < right, pairs["label"], 1 - pairs["label"])
        scores = np.log(np.where(np.arange(2) == predicted[:, None], 0.9, 0.1))
        return scored.judge(pairs, scores)[0]

    # Of 100 fair coins: P(59 and more) = .044, P(58) = .067; P(34 and fewer) = 9e-4, P(35) = 2e-3
    rows = [scored.BELOW, scored.NO_BETTER, scored.NO_BETTER, scored.HEALTHY]
    assert [verdict(n).row for n in (34, 35, 58, 59)] == rows
    assert [verdict(16, n).row for n in (29, 30)] == [scored.TOO_FEW, scored.NO_BETTER]
    assert verdict(16, 29).values == {"pairs": 29}


@pytest.mark.parametrize("pairs, values, is_told", [(20, 4, True), (19, 4, False), (20, 5, False)])
def test_few_values_are_told_of_enough_pairs(pairs, values, is_told):
    label = np.arange(pairs) % 2
    size = 1 + np.arange(pairs) // 2 % (values // 2)
    size[-1] = max(size) + values % 2  # one more value, if any
    likely = 1 / (1 + np.exp(-size))
    scores = np.log(np.where(np.arange(2) == label[:, None], likely[:, None], 1 - likely[:, None]))
    scores = np.where(size[:, None] > values // 2, [[-0.5, -1]], scores)
    assert len(np.unique(scores.round(9))) == values + values % 2
    found = contradictions.contradictions(scores, label, True)
    assert [f.values for f in found] == [{"values": values}] * is_told
    assert contradictions.contradictions(scores, label, False) == []


@pytest.mark.parametrize("one_sided, is_told", [(21, True), (20, False)])
def test_errors_of_one_label_are_told_where_chance_would_not(one_sided, is_told):
    # all errors of one label: twice 2 ** -21 is below 1e-6, twice 2 ** -20 is not
    truth = np.arange(400) % 2
    predicted = truth.copy()
    predicted[np.flatnonzero(truth == 0)[:one_sided]] = 1
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 1, 400) ** 2 + 0.1
    scores = np.where(np.arange(2) == predicted[:, None], margin[:, None], -margin[:, None])
    found = contradictions.contradictions(scores, truth, False)
    shares = {"predicted": predicted.mean(), "preferred": 0.5, "chance": 2 * 2.0**-one_sided}
    assert [f.values for f in found] == [pytest.approx(shares)] * is_told


@pytest.mark.parametrize("right, is_named", [(56, True), (44, True), (55, False), (45, False)])
def test_a_figure_near_a_half_is_not_said_to_be_inverted(right, is_named):
    pairs = np.zeros(100, dtype=data.PAIR)
    pairs["series"], pairs["label"] = np.arange(100), np.arange(100) % 2
    correct = np.random.default_rng(3).permutation(100) < right
    predicted = np.where(correct, pairs["label"], 1 - pairs["label"])
    scores = np.log(np.where(np.arange(2) == predicted[:, None], 0.9, 0.1))
    own, rows = np.full(100, -1), (predicted, pairs["label"])
    reported = [f"{1 - right / 100:.2f}"]
    found, _ = judging.judge_reported(reported, correct, pairs, scores, own, rows)
    assert (found.row is judging.METRIC_INVERTED) == is_named
    assert is_named or found.row is judging.NOT_ACCURACY


@pytest.mark.parametrize("head, sound, wrong", [
    ("prob_1\tprob_2", "0.3\t0.70099", "0.3\t0.70101"),
    ("prob_1\tprob_2", "0\t1", "-0.0001\t1.0001"),
    ("logprob_1\tlogprob_2", "-0.69214\t-0.69216", "-0.69213\t-0.69215"),
    ("prob_1", "1", "1.0001"),
    ("predicted", "1", "2"),
    ("winner", "2", "3"),
])  # fmt: skip
def test_the_scores_of_a_row_at_their_limits(head, sound, wrong, tmp_path, capsys):
    path = tmp_path / "p.tsv"
    path.write_text(f"series\tphoto_1\tphoto_2\t{head}\n1\t1\t2\t{sound}\n")
    assert len(judging.read_predictions(path, {})[0]) == 1
    path.write_text(f"series\tphoto_1\tphoto_2\t{head}\n1\t1\t2\t{wrong}\n")
    with pytest.raises(SystemExit) as ended:
        judging.read_predictions(path, {})
    assert ended.value.code == 2 and "p.tsv:2: " in capsys.readouterr().err


def test_exact_binomial_tail():
    assert tail(10, 0, 0.3) == pytest.approx(1)
    assert tail(10, 10, 0.5) == pytest.approx(2**-10)
    assert tail(483, 249, 0.5155) == pytest.approx(0.518, abs=0.01)


def test_bad_predictions_end_with_one_line(val, tmp_path, refused):
    root, _ = val
    path, head = tmp_path / "p.csv", "series,photo_1,photo_2,"
    for text, word in [
        (f"{head}output\n1,1,2,.3\n", "name them with --columns"),
        (f"{head}prob_1,prob_2\n1,1,2,.3,.9\n", "p.csv:2: .3 .9 are no probabilities"),
        (f"{head}prob_2\n1,1,2,1.3\n", "p.csv:2: 1.3 are no probabilities"),
        (f"{head}logprob_1,logprob_2\n1,1,2,3,1\n", "p.csv:2: 3 1 are no log-probabilities"),
        (f"{head}logit_1,logit_2\n1,1,2,nan,1\n", "p.csv:2: nan 1 is not finite"),
        (f"{head}logit_1,logit_2\n1,1,2,x,1\n", "p.csv:2: x 1"),
        (f"{head}label,score_1\n1,1,2,7,1\n", "p.csv:2: label '7'"),
    ]:
        path.write_text(text)
        refused(judging.main, [path, "--data", root], word)
    refused(judging.main, ["--data", root], "required: FILE")
    flags = [path, "--data", root, "--reported-accuracy"]
    for reported in ("70", "1", "9e-1", ".7"):
        refused(judging.main, [*flags, reported], "a fraction from 0 to 1 with all its digits")


def test_interval_follows_the_series():
    rng = np.random.default_rng(0)
    correct = (rng.random(200) < 0.7).repeat(4)
    tight = series_interval(np.arange(800), correct)
    wide = series_interval(np.arange(200).repeat(4), correct)
    assert tight[0] < correct.mean() < tight[1]
    assert wide[1] - wide[0] > 1.7 * (tight[1] - tight[0])
