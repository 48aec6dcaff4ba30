"""What diagnose labels and dataset find, on the official lists and made-up ones."""

import json
import math
import re

import conftest
import numpy as np
import pytest

import data
from diagnose import dataset, tables
from diagnose.dataset import SPLITS
from diagnose.labels import align, rows, subsets
from diagnose.labels import judge as judging
from diagnose.labels import search as labels

PHOTOTRIAGE = conftest.SHARED / "phototriage"
official = pytest.mark.skipif(
    not PHOTOTRIAGE.is_dir(), reason=f"the official lists are not in {PHOTOTRIAGE}"
)


def write(path, header, *columns):
    rows = zip(*columns, strict=True)
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A folder with made-up lists and no photos: every tenth series is in val; rows and votes."""
    rows, votes = conftest.made_up(180)
    root = tmp_path_factory.mktemp("made_up")
    folder = root / "train_val"
    folder.mkdir()
    for split in SPLITS:
        lines = [row for row in rows if (row[0] % 10 == 0) == (split == "val")]
        text = "".join(" ".join(map(str, row)) + "\n" for row in lines)
        (folder / f"{split}_pairlist.txt").write_text(text)
    return root, rows, votes


def read_lists(root):
    """The official pairs of both lists, and which list each is of."""
    lists = [data.read_pairlist(root / f"train_val/{s}_pairlist.txt")[0] for s in SPLITS]
    return np.concatenate(lists), np.repeat([0, 1], [len(pairs) for pairs in lists])


@pytest.fixture(scope="module", params=["made up", "official"])
def lists(request):
    """(folder, pairs, list of each pair): of made-up lists, and of the official ones."""
    root = PHOTOTRIAGE
    if request.param == "made up":
        root, *_ = request.getfixturevalue("made_up")
    elif not root.is_dir():
        pytest.skip(f"the official lists are not in {PHOTOTRIAGE}")
    return root, *read_lists(root)


MADE_UP = pytest.mark.parametrize(
    "lists", conftest.one_of_each(["made up", "official"]), indirect=True
)


def table_of(pairs, **changed):
    """[(series, photo_1, photo_2, label)] of these pairs, with columns changed."""
    names = ("series", "photo_1", "photo_2", "label")
    return list(zip(*(changed.get(name, pairs[name]).tolist() for name in names), strict=True))


def planted(pairs, split_of):
    """{what was done to the official lists: (rows, words of the verdict)}."""
    rng, label = np.random.default_rng(0), pairs["label"]
    photos = np.zeros(pairs["series"].max() + 1, int)
    np.maximum.at(photos, pairs["series"], pairs["photo_2"])
    count, half = photos[pairs["series"]], rng.random(len(pairs)) < 0.5
    a, b, rank = pairs["photo_1"], pairs["photo_2"], pairs["rank_1"]
    noisy = np.where(rng.random(len(pairs)) < 0.05, label, 1 - label)
    wrong = f"{(noisy == label).sum():,} of {len(pairs):,}"
    turned = {"photo_1": np.where(half, b, a), "photo_2": np.where(half, a, b)}
    rolled = {name: pairs[name] % count + 1 for name in ("photo_1", "photo_2")}
    backwards = {name: count + 1 - pairs[name] for name in ("photo_1", "photo_2")}
    one = "the official labels with 1 change: "
    return {
        "nothing": (table_of(pairs), "equal"),
        "inverted": (table_of(pairs, label=1 - label), f"{one}labels are inverted"),
        "reversed": (table_of(pairs, **backwards), f"{one}photo numbers run backwards"),
        "rotated": (table_of(pairs, **rolled), f"{one}photo numbers are rotated by +1"),
        "inverted and 5 % wrong": (
            table_of(pairs, label=noisy), f"{one}labels are inverted; besides, {wrong}"),
        "validation inverted": (
            table_of(pairs, label=label ^ split_of), f"{one}labels are inverted in the validation"),
        "half turned": (
            table_of(pairs, **turned), f"{one}photo_1 and photo_2 are swapped, the label is not"),
        "series shifted": (
            table_of(pairs, series=pairs["series"] + 1), f"{one}series numbers are shifted by +1"),
        "rows shifted": (
            table_of(pairs, label=np.roll(label, 1)), f"{one}labels are shifted by +1 rows"),
        "winner ids": (
            table_of(pairs, label=1 * (rank != a)), "label = 0 if rank_1 == photo_1"),
        "rank_1 == photo_2": (
            table_of(pairs, label=1 * (rank == b)), "label = 1 if rank_1 == photo_2"),
        "threshold": (
            table_of(pairs, label=1 * (pairs["preference"] <= 0.6)),
            f"{one}label 0 where the preference is above 0.6"),
        "ties": (
            table_of(pairs, label=1 * (pairs["preference"] < 0.5)),
            f"{one}ties of .5 have label 0"),
    }  # fmt: skip


HEADER = "series\tphoto_1\tphoto_2\tlabel"
PLANTED = ["nothing", "inverted", "reversed", "rotated", "inverted and 5 % wrong",
           "validation inverted", "half turned", "series shifted", "rows shifted", "winner ids",
           "rank_1 == photo_2", "threshold", "ties"]  # fmt: skip


def audit_rows(judge, root, path, rows, *flags, header=HEADER):
    path = write(path, header, *zip(*rows, strict=True))
    return judge(judging.main, path, "--data", root, *flags)


@pytest.mark.parametrize("what", PLANTED)
def test_what_was_done_to_the_labels_is_said(lists, judge, tmp_path, what):
    root, pairs, split_of = lists
    rows, words = planted(pairs, split_of)[what]
    code, verdict, printed = audit_rows(judge, root, tmp_path / "t.tsv", rows)
    assert words in verdict and code == int(what != "nothing"), printed


def exchanged(count, rng):
    """{words of the verdict: (order of the names, order of the labels)} of mixed-up rows."""
    every, seed = np.arange(count), int(rng.integers(101))
    drawn, by = np.random.RandomState(seed).permutation(count), int(rng.integers(2, 9))
    shuffle, usual = f"shuffled by np.random.RandomState({seed})", rng.permutation(count)
    return {
        f"of the row {by} later": (every, np.roll(every, -by)),
        f"of the row {by} earlier": (usual, np.roll(usual, by)),
        "in reversed order": (every, every[::-1]),
        "in the order of the official lists, while the names": (usual, every),
        f"other rows: {shuffle}": (every, drawn),
        f"of a table {shuffle}": (every, np.argsort(drawn)),
    }


@pytest.mark.parametrize(
    "place",
    [0, 3, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 2, 4, 5)),
     pytest.param(-1, marks=[official, pytest.mark.full])],
)  # fmt: skip
def test_labels_of_other_rows_are_named_with_their_order(made_up, judge, tmp_path, place):
    root = PHOTOTRIAGE if place < 0 else made_up[0]
    pairs, _ = read_lists(root)
    every = exchanged(len(pairs), np.random.default_rng(place + 1))
    words, (names, order) = list(every.items())[place]
    labels = pairs["label"][order]
    columns = [pairs[name][names] for name in ("series", "photo_1", "photo_2")]
    rows = list(zip(*columns, labels, strict=True))
    header = "series\tphoto_1\tphoto_2\tlabel"
    code, verdict, printed = audit_rows(judge, root, tmp_path / "t.tsv", rows, header=header)
    assert code == 1 and verdict.startswith("the official labels, but of other rows"), printed
    assert words in verdict
    rows[0] = (*rows[0][:3], 1 - rows[0][3])
    _, verdict, printed = audit_rows(judge, root, tmp_path / "u.tsv", rows, header=header)
    assert verdict.startswith("not established") and "exactly as many" not in printed
    rows = list(zip(*columns, np.random.default_rng(9).permutation(labels), strict=True))
    _, verdict, printed = audit_rows(judge, root, tmp_path / "v.tsv", rows, header=header)
    assert verdict.startswith("not established") and "exactly as many" in printed
    times = int(re.search(r"once in about ([0-9,]+)", printed)[1].replace(",", ""))
    count = len(labels)
    chance = math.exp(math.lgamma(count + 1) - 2 * math.lgamma(count / 2 + 1) - count * math.log(2))
    assert abs(times - 1 / chance) < 1  # of as many heads as tails


@pytest.mark.parametrize("count, is_named", [(40, True), (39, False)])
def test_an_order_is_named_from_as_many_labels_on(count, is_named):
    rng = np.random.default_rng(count)
    truth = rng.integers(0, 2, count)
    table = np.zeros(count, tables.TABLE)
    table["series"], table["photo_1"], table["photo_2"] = np.arange(count), 1, 2
    told = rows.order_of(truth[::-1], truth, table, np.arange(count))
    assert told == ("in reversed order" if is_named else None)
    assert rows.order_of(np.ones(count), np.ones(count), table, np.arange(count)) is None


@pytest.mark.parametrize(
    "preference, is_told", [(0.50607, True), (0.50606, False), (0.49393, True)]
)
def test_an_order_is_told_where_it_is_as_likely_as_asked(preference, is_told):
    # exp(-d) of the other order, d = (1 - 2 p)^2 / (2 x 0.005^2), is at most 1 / 0.95 - 1
    fitted = np.array([[0.5, preference], [1 - preference, 0.5]])
    orders = np.array([[0, 1], [1, 0]])
    found = align.best_order(fitted, {(1, 2): preference}, [1, 2], orders)
    assert (found is not None) == is_told and (not is_told or found.tolist() == [0, 1])


def unexplained(same, count, noise=0.0, *, agree):
    """What is said of votes of `count` pairs, each alone in its series, of which `same` agree.

    agree: how many of 100 labels are the official ones.
    """
    rng = np.random.default_rng(count)
    official = np.zeros(count, data.PAIR)
    official["series"], official["photo_1"], official["photo_2"] = np.arange(count), 1, 2
    official["preference"] = np.where(np.arange(count) % 2, 0.5 + rng.uniform(0.01, 0.4, count),
                                      0.5 - rng.uniform(0.01, 0.4, count))  # fmt: skip
    official["label"] = official["preference"] < 0.5
    table = np.zeros(count, tables.TABLE)
    for name in ("series", "photo_1", "photo_2"):
        table[name] = official[name]
    strength = np.abs(official["preference"] - 0.5) + noise * rng.uniform(-1, 1, count)
    kept = np.arange(count) < same
    table["label"] = np.where(kept, official["label"], 1 - official["label"])
    sign = np.where(table["label"] == 0, 1, -1)
    table["wins_1"], table["wins_2"] = 0.5 + sign * strength, 0.5 - sign * strength
    truth = np.arange(100) % 2
    label = np.where(np.arange(100) < agree, truth, 1 - truth)
    return judging.name_unexplained(label, truth, None, table, np.arange(count), official, [])


@pytest.mark.parametrize("same, count, noise, is_permuted", [
    (60, 100, 0, True), (61, 100, 0, False), (40, 100, 0, True), (39, 100, 0, False),
    (15, 30, 0, True), (15, 29, 0, False), (50, 100, 0.08, True), (50, 100, 0.2, False),
])  # fmt: skip
def test_numbers_are_said_to_be_permuted_where_strength_agrees_and_the_sign_does_not(
    same, count, noise, is_permuted
):
    found, lines = unexplained(same, count, noise, agree=80)
    assert found.row is (judging.PERMUTED if is_permuted else judging.NOT_REPRODUCED)
    told = [line.values for line in lines if line.row is judging.STRENGTH]
    assert len(told) == (count >= 30)
    if told:
        share = f"{same} of {count} ({same / count:.1%})".replace("%", " %")
        assert told[0]["agree"] == share and (told[0]["correlation"] > 0.9) == (noise < 0.1)


@pytest.mark.parametrize("agree, is_unrelated", [(60, True), (61, False), (40, True), (39, False)])
def test_labels_near_a_half_are_unrelated(agree, is_unrelated):
    found, _ = unexplained(29, 29, agree=agree)  # no order is looked for: other rows than labels
    assert found.row is (judging.UNRELATED if is_unrelated else judging.NOT_REPRODUCED)
    share = f"{agree} of 100 ({agree}.0 %)"
    assert found.values == {"agree": share}


@pytest.mark.parametrize("joined, count, row", [
    (29, 59, "OTHER_PAIRS"), (29, 58, "TOO_FEW"), (30, 58, None),
])  # fmt: skip
def test_labels_that_are_too_few_are_not_judged(joined, count, row):
    official = np.zeros(60, data.PAIR)
    official["label"] = np.arange(60) % 2
    table = np.zeros(count, tables.TABLE)
    table["photo_1"], table["photo_2"], table["label"] = 1, 2, np.arange(count) % 2
    places = np.where(np.arange(count) < joined, np.arange(count), -1)
    found, lines = judging.name_labels((None, [], None, 0), table, places, official, False)
    assert found.row is getattr(judging, row or "NOT_REPRODUCED") and bool(lines) == (row is None)


@pytest.mark.parametrize("wrong", [1, 10, 11])
def test_the_lines_of_wrong_labels_are_told_up_to_ten(wrong):
    official, table = np.zeros(400, data.PAIR), np.zeros(400, tables.TABLE)
    official["label"] = table["label"] = np.arange(400) % 2
    table["photo_1"], table["photo_2"], table["line"] = 1, 2, np.arange(400) + 2
    away = np.arange(400) % 7 == 3
    away &= np.cumsum(away) <= wrong
    chain = labels.Chain(0.0, (), official["label"].astype(np.int8), away, np.arange(400))
    _, lines = judging.name_labels((chain, [], None, 9), table, np.arange(400), official, False)
    (told,) = (line.values["lines"] for line in lines if line.row is judging.LINES)
    figures = {line.row: line.values for line in lines}
    share = f"{400 - wrong} of 400 ({(400 - wrong) / 400:.1%})".replace("%", " %")
    assert figures[judging.REPRODUCED] == {"labels": share}
    assert figures[judging.BALANCE] == {"share": 0.5} and figures[judging.TRIED] == {"tried": 9}
    assert figures[judging.ROWS] == {"rows": "400 of 400 (100.0 %)"}
    shown = [str(n + 2) for n in np.flatnonzero(away)[:10]]
    assert told == ", ".join(shown) + (", ..." if wrong > 10 else "")


@pytest.mark.parametrize("photos", [2, 3, 5])
def test_strengths_are_those_that_the_votes_are_likeliest_with(photos):
    rng = np.random.default_rng(photos)
    wins = rng.integers(0, 9, (20, photos, photos)).astype(float)
    wins[:, range(photos), range(photos)] = 0
    strengths = align.fit_strengths(wins)
    assert np.allclose(strengths.mean(1), 0)
    for won, strength in zip(wins + 0.1 * (1 - np.eye(photos)), strengths, strict=True):
        likely = 1 / (1 + np.exp(strength[None] - strength[:, None]))
        expected = ((won + won.T) * likely).sum(1)  # as many wins as there are: the slope is 0
        assert np.allclose(won.sum(1), expected, atol=2e-3)


@pytest.mark.parametrize("photos, is_told", [(5, True), (6, True), (8, True), (9, False)])
def test_alignment_of_series_of_many_photos(photos, is_told, tmp_path):
    strengths = {series: np.random.default_rng(series).normal(0, 1.3, photos) for series in (3, 4)}
    official, mine = [], []
    for series, strength in strengths.items():
        order = np.random.default_rng(series + 10).permutation(photos)  # official number - 1
        for a in range(photos):
            for b in range(a + 1, photos):
                chance = 1 / (1 + np.exp(strength[b] - strength[a]))
                label = int(chance < 0.5)
                official.append((series, a + 1, b + 1, chance, 1 + label, 2 - label, label, 0))
                own = 1 / (1 + np.exp(strength[order[b]] - strength[order[a]]))
                wins = 1e5 * own, 1e5 * (1 - own)
                mine.append((series, a + 1, b + 1, int(own < 0.5), *wins, True, "", 0))
    official, mine = np.array(official, dtype=data.PAIR), np.array(mine, dtype=tables.TABLE)
    told, untold = align.align_series(mine, official)
    assert sorted(told) == (list(strengths) if is_told else []) and untold == (
        [] if is_told else list(strengths))  # fmt: skip
    for series, numbers in told.items():
        order = np.random.default_rng(series + 10).permutation(photos)
        assert numbers == {n + 1: int(o) + 1 for n, o in enumerate(order)}
    if is_told:
        lines = align.write_alignment(tmp_path / "a.tsv", mine, official)
        small = 2 if photos <= 5 else 0
        assert lines[1] == (
            f"recovered the numbering of 2 series, {small} of 2 to 5 photos ({photos}: 2)"
        )
        strong = np.maximum(official["preference"], 1 - official["preference"]) >= 0.7 - 1e-9
        assert f"agree on {strong.sum()} of {strong.sum()} (100.0 %)" in lines[3]
        alone = align.align_series(mine[mine["photo_1"] != 1], official)
        assert alone == ({}, list(strengths))  # a file of fewer photos
        kept = np.flatnonzero(official["series"] == 3)[1:]  # a list that lacks a pair
        assert align.align_series(mine, official[kept]) == ({}, [3])


def test_the_polarity_of_a_file_can_be_declared(lists, judge, tmp_path, refused):
    root, pairs, _ = lists
    rows = table_of(pairs, label=1 - pairs["label"])
    declared = ("--label-1-means", "photo_1")
    code, verdict, _ = audit_rows(judge, root, tmp_path / "t.tsv", rows, *declared)
    assert (code, verdict) == (0, "equal")
    path = tmp_path / "v.tsv"
    path.write_text("series\tphoto_1\tphoto_2\twinner\n1\t1\t2\t1\n")
    refused(judging.main, [path, "--data", root, *declared], "--label-1-means", "no label column")


@MADE_UP
def test_which_pairs_are_in_the_file_is_said(lists, judge, tmp_path):
    root, pairs, split_of = lists
    rng, rows, names = np.random.default_rng(0), table_of(pairs), np.array(SPLITS)[split_of]
    agreement = np.maximum(pairs["preference"], 1 - pairs["preference"])
    strong, train = agreement >= 0.7 - 1e-9, np.flatnonzero(split_of == 0)
    lost = set(rng.choice(train, 75, replace=False).tolist())
    twice = [(*row, name) for row, name in zip(rows, names, strict=True)]
    twice += [(*row, "train") for row, name in zip(rows, names, strict=True) if name == "val"]
    cut = [(*row, SPLITS[rng.random() < 0.1]) for row in rows]
    split, val = f"{HEADER}\tsplit", int((split_of == 1).sum())
    some = [row for i, row in enumerate(rows) if i not in lost]
    turned = [(s, b, a, 1 - y) for s, a, b, y in rows]
    for word, code, table, header in [
        (f"75 of {len(train):,}", 1, some, HEADER),
        ("by none of the rules tried", 1, some, HEADER),
        ("agreement of at least 0.7;", 1, [r for r, s in zip(rows, strong, strict=True) if s],
         HEADER),
        ("the whole train list, and nothing of val", 0, rows[: len(train)], HEADER),
        ("the first 60 rows of a list", 1, rows[:60], HEADER),
        (f"; {val} pairs are in both train and val", 1, twice, split),
        ("a split drawn over pairs: ", 1, cut, split),
        (f"both orders counted: {len(rows):,} pairs", 1, rows + turned, HEADER),
        ("; 10 rows repeat a pair", 1, rows + rows[:10], HEADER),
        ("; 1 of ", 1, [*rows, (900_000, 1, 2, 0)], HEADER),
    ]:  # fmt: skip
        found, verdict, printed = audit_rows(judge, root, tmp_path / "t", table, header=header)
        assert word in verdict and verdict.startswith("the labels are the official"), printed
        assert found == code, printed
    assert sum("val" in row for row in twice) == val


@pytest.mark.parametrize("alone", [None, 0, 1])
@pytest.mark.parametrize("rule, words", [
    ("few photos", "at most 3 photos in the series"),
    ("many photos", "at least 3 photos in the series"),
    ("strong", "agreement of at least 0.75"),
    ("first", "the first 11 rows of a list"),
    ("last", "the last rows of a list, from row 7 on, counted from 0"),
    ("none", None),
])  # fmt: skip
def test_by_which_rule_a_file_has_a_part_of_the_pairs(rule, words, alone, made_up):
    _, pairs, split_of = dataset.read_labelled(made_up[0])
    photos = {
        s: pairs["photo_2"][pairs["series"] == s].max() for s in set(pairs["series"].tolist())
    }
    present = []
    for row, (pair, split) in enumerate(zip(pairs.tolist(), split_of.tolist(), strict=True)):
        within = row - (split_of == 0).sum() * split  # the row in its own list
        kept = {
            "few photos": photos[pair[0]] <= 3, "many photos": photos[pair[0]] >= 3,
            "strong": max(pair[3], 1 - pair[3]) >= 0.75, "first": within < 11, "last": within >= 7,
            "none": within % 5 > 0,
        }[rule]  # fmt: skip
        present.append(kept and (alone is None or split == alone))
    present = np.array(present)
    told, code = subsets.name_missing(present, split_of, pairs)
    lost = [int(((split_of == s) & ~present).sum()) for s in (0, 1)]
    parts = [f"{lost[s]:,} of {(split_of == s).sum():,} ({lost[s] / (split_of == s).sum():.1%}) "
             f"{SPLITS[s]} pairs are missing".replace("%)", " %)") for s in (0, 1)]  # fmt: skip
    counts, where = " and ".join(parts), "" if alone is None else f" ({SPLITS[alone]} alone)"
    by = f"only pairs of a subset{where}: {words}; {counts}"
    assert (told, code) == (by if words else f"{counts}, by none of the rules tried", 1)


def test_what_a_split_column_says(made_up, judge, tmp_path):
    root, pairs, split_of = made_up[0], *read_lists(made_up[0])
    rows = table_of(pairs)
    words = [["training", "dev"][split] for split in split_of]
    header = f"{HEADER}\tsplit"

    def said(split):
        told = [(*row, word) for row, word in zip(rows, split, strict=True)]
        return audit_rows(judge, root, tmp_path / "t", told, header=header)[:2]

    assert said(words) == (0, "equal")
    moved = np.unique(pairs["series"])[::7][:5]  # whole series, which change sides
    inside = np.isin(pairs["series"], moved)
    other = [["dev", "training"][s] if i else w
             for s, i, w in zip(split_of, inside, words, strict=True)]  # fmt: skip
    count = f"{inside.sum():,} of {len(pairs):,} ({inside.mean():.1%})".replace("%", " %")
    code, verdict = said(other)
    assert code == 1 and f"another split: {count} pairs change sides" in verdict
    code, verdict = said(["holdout", "b", "c", "dd", *words[4:]])
    assert code == 1 and "the split column is not checked: b, c, dd" in verdict


def test_a_threshold_between_two_close_preferences_is_told_with_all_its_digits():
    for low, high, words in (
        (0.5, 0.75, "label 0 where the preference is above 0.7"),
        (0.6123456, 0.6123457, "label 0 where the preference is above 0.612346"),
        (0.61234561, 0.61234569, "label 0 where the preference is above 0.612346"),
        (0.55, 0.6, "label 0 where the preference is at least 0.6"),
    ):
        preference = np.array([0.2, low, high, 0.9])
        told, below = labels.solve_threshold(np.array([1, 1, 0, 0]), preference)
        assert (told, below) == (words, low)
    assert labels.solve_threshold(np.array([1, 0]), np.array([0.4, 0.4])) is None


@pytest.mark.parametrize("split", [0, 1])
def test_a_whole_list_is_no_part(split, made_up):
    _, pairs, split_of = dataset.read_labelled(made_up[0])
    said = f"the whole {SPLITS[split]} list, and nothing of {SPLITS[1 - split]}"
    assert subsets.name_missing(split_of == split, split_of, pairs) == (said, 0)


@MADE_UP
@pytest.mark.parametrize("count", [6, pytest.param(50, marks=pytest.mark.full)])
def test_chains_of_two_are_named_or_tied_with_the_truth(lists, count):
    root, pairs, split_of = lists
    rng, wrong = np.random.default_rng(0), []
    for seed in range(count if root != PHOTOTRIAGE else 12):
        rows, done = np.zeros(len(pairs), tables.TABLE), []
        for name in ("series", "photo_1", "photo_2", "label"):
            rows[name] = pairs[name]
        for change in sorted(rng.choice(4, 2, replace=False).tolist()):
            done += [CHANGES[change](rows, pairs, split_of, rng)]
        best, alike, _, _ = labels.explain(rows, pairs, split_of)
        answers = [tuple(map(str, rules)) for rules in ([best.rules, *alike] if best else [])]
        named = any(set(done) == set(answer) for answer in answers)
        shorter = best and not best.wrong.any() and len(best.rules) < 2  # an inverted `label 1`
        wrong += [] if named or shorter else [(seed, done, answers)]
    assert wrong == []


def plant_rule(rows, pairs, split_of, rng):
    rank, photo, value = rng.choice(["rank_1", "rank_2"]), rng.choice(["photo_1", "photo_2"]), 1
    rows["label"] = np.where(pairs[rank] == pairs[photo], value, 1 - value)
    return f"ranks are read as photo numbers: label = {value} if {rank} == {photo}"


def plant_inversion(rows, pairs, split_of, rng):
    where = rng.choice(["", " in the validation pairs"])
    rows["label"] = np.where((split_of == 1) | (where == ""), 1 - rows["label"], rows["label"])
    return f"labels are inverted{where}"


def plant_numbers(rows, pairs, split_of, rng):
    photos = np.zeros(pairs["series"].max() + 1, int)
    np.maximum.at(photos, pairs["series"], pairs["photo_2"])
    count, by = photos[pairs["series"]], int(rng.choice([0, 1, 2]))
    for name in ("photo_1", "photo_2"):
        rows[name] = count - pairs[name] + 1 if by == 0 else pairs[name] - 1
    if by == 0:
        return "photo numbers run backwards in each series"
    return str(labels.FROM_0)


def plant_shift(rows, pairs, split_of, rng):
    by = int(rng.choice([1, -1]))
    rows["label"] = np.roll(rows["label"], by)
    return f"labels are shifted by {by:+d} rows"


CHANGES = (plant_rule, plant_inversion, plant_numbers, plant_shift)


def test_each_bound_of_an_explanation_stands_between_two_files(made_up):
    _, pairs, split_of = dataset.read_labelled(made_up[0])
    rows, val = np.zeros(len(pairs), tables.TABLE), np.flatnonzero(split_of == 1)
    train, count = np.flatnonzero(split_of == 0), len(pairs)
    for name in ("series", "photo_1", "photo_2"):
        rows[name] = pairs[name]

    def words(*flipped):
        """What explains labels of which these rows are inverted, one set after the other."""
        rows["label"] = pairs["label"]
        for places in flipped:
            rows["label"][places] = 1 - rows["label"][places]
        best = labels.explain(rows, pairs, split_of)[0]
        return best and tuple(map(str, best.rules))

    def some(places, number):
        return np.random.default_rng(1).choice(places, number, replace=False)

    noise, wrong, rest = int(0.15 * count), int(0.15 * len(val)), len(val) // 2
    inverted = ("labels are inverted in the validation pairs",)
    assert words(some(train, noise)) == () and words(some(train, noise + 1)) is None
    assert words(val, some(val, wrong)) == inverted != words(val, some(val, wrong + 1))
    assert words(val, some(train, rest)) == inverted != words(val, some(train, rest + 1))
    assert words(np.arange(40, 48)) == ("labels are inverted in rows 41 to 48",)
    assert words(np.arange(40, 47)) == ()


PRICES = {  # {how the text of a change begins: its bits}; a limit to some rows: LIMITED more
    "photo numbers count": 2, "photo numbers are one": 2, "photo numbers run": 4,
    "photo numbers are rotated": 4, "series numbers": 4, "ranks are read": 5, "label = ": 5,
    "the order of the photos": 6, "ties of .5": 4, "all labels": 5, "label 0 where": 12,
    "photo_1 and photo_2 are swapped": 2, "labels are inverted": 2, "labels are shifted": 3,
}  # fmt: skip
LIMITED, LOST, MOST = 4, 6, 3  # bits of a limit, of a row without its pair; changes of a chain


@pytest.mark.parametrize("lowest", [0, 1, 2])
def test_every_chain_costs_what_its_changes_cost(lowest, made_up, monkeypatch):
    _, pairs, split_of = dataset.read_labelled(made_up[0])
    rng, offered, prices = np.random.default_rng(lowest), set(), dict.fromkeys(PRICES, 0)
    kept = np.sort(rng.choice(len(pairs), 150, replace=False))
    rows = np.zeros(len(kept), tables.TABLE)
    turned = rng.random(len(kept)) < 0.4
    for name, other in (("series", "series"), ("photo_1", "photo_2"), ("photo_2", "photo_1")):
        rows[name] = np.where(turned, pairs[other][kept], pairs[name][kept])
    rows["photo_1"] += lowest - 1
    rows["photo_2"] += lowest - 1
    rows["series"][rng.choice(len(kept), 7)] = 99_999
    rows["label"] = rng.choice([0, 1, tables.UNDECIDED], len(kept), p=[0.5, 0.45, 0.05])

    def offer(search, bits, words, made, judged):
        lost = int((search.places < 0).sum())
        bits -= labels.choose(len(rows), lost) + LOST * lost
        for rule in words:
            (begins,) = (text for text in PRICES if rule.name.startswith(text))
            in_rows = rule.limit.startswith("in rows ") and rule.limit[8].isdigit()
            limited = 2 * np.log2(len(rows)) if in_rows else LIMITED * bool(rule.limit)
            bits -= PRICES[begins] + limited
            prices[begins] += 1
        assert bits == pytest.approx(0, abs=1e-9), words
        there = search.places >= 0
        by = next((int(r.name.split()[4]) for r in words if r.name.startswith("labels are s")), 0)
        expected = there & (rows["label"] != tables.UNDECIDED)
        for n in range(len(rows)) if by else ():  # a row takes the label of its neighbor, if any
            expected[n] &= 0 <= n - by < len(rows) and there[n - by]
        assert np.array_equal(judged, expected), words
        assert len(words) <= MOST and (words, search.key) not in offered
        offered.add((words, search.key))
        plain_offer(search, bits, words, made, judged)

    plain_offer = labels.Search.offer
    monkeypatch.setattr(labels.Search, "offer", offer)
    assert labels.explain(rows, pairs, split_of)[3] == len(offered)
    # a numbering by which more than half of the rows have no pair is not tried
    unused = {begins for begins, count in prices.items() if not count}
    one, series, zero = "photo numbers are one", "series numbers", "photo numbers count"
    known = {0: {one, series}, 1: {one, zero}, 2: {zero, series, "photo numbers run"}}
    assert unused == known[lowest]


@pytest.mark.parametrize("with_votes", [False, True])
def test_majorities_are_not_held_against_a_tie_of_the_lists(with_votes, made_up):
    _, pairs, split_of = dataset.read_labelled(made_up[0])
    rows = np.zeros(len(pairs), tables.TABLE)
    for name in ("series", "photo_1", "photo_2", "label"):
        rows[name] = pairs[name]
    tied = pairs["preference"] == 0.5
    drawn = np.random.default_rng(4).permutation(np.flatnonzero(tied))[: tied.sum() // 2]
    rows["label"][drawn] = 1 - rows["label"][drawn]  # among the few who voted one may be ahead
    best = labels.explain(rows, pairs, split_of, with_votes)[0]
    assert best.rules == () and tied.sum() > 8
    assert best.judged == len(pairs) - with_votes * tied.sum()
    assert best.wrong.sum() == (0 if with_votes else len(drawn))


def test_every_misreading_of_the_columns_gives_the_labels_that_its_text_says(made_up):
    _, pairs, _ = dataset.read_labelled(made_up[0])
    found = {words[0].name if words else "": made for words, _, made in labels.rules(pairs)}
    expected = {"": [int(p["rank_1"] > p["rank_2"]) for p in pairs]}
    for value in (0, 1):
        for rank in ("rank_1", "rank_2"):
            expected[f"label = {value} if {rank} == 1"] = [
                value if p[rank] == 1 else 1 - value for p in pairs
            ]
            for photo in ("photo_1", "photo_2"):
                text = f"ranks are read as photo numbers: label = {value} if {rank} == {photo}"
                expected[text] = [value if p[rank] == p[photo] else 1 - value for p in pairs]
        expected[f"all labels are {value}"] = [value] * len(pairs)
        expected[f"ties of .5 have label {value}"] = [
            value if p["preference"] == 0.5 else int(p["rank_1"] > p["rank_2"]) for p in pairs
        ]
    orders = {name for name in found if "argsort" in name}
    assert found.keys() == expected.keys() | orders and len(orders) == 2
    for text, wanted in expected.items():
        assert found[text].tolist() == wanted, text


@MADE_UP
def test_random_labels_are_never_explained(lists):
    root, pairs, split_of = lists
    rows = np.zeros(len(pairs), tables.TABLE)
    for name in ("series", "photo_1", "photo_2"):
        rows[name] = pairs[name]
    for seed in range(5 if root != PHOTOTRIAGE else 3):
        rows["label"] = np.random.default_rng(seed).integers(0, 2, len(rows))
        assert labels.explain(rows, pairs, split_of)[0] is None


@official
def test_the_reviews_are_permuted_and_align_recovers_them(judge, tmp_path):
    flags = [PHOTOTRIAGE / "reviews_labels.csv", "--align", tmp_path / "aligned.tsv"]
    code, verdict, printed = judge(judging.main, *flags, "--data", PHOTOTRIAGE)
    assert code == 1
    assert verdict.startswith("photo numbers permuted within series: labels agree on 5,659 of 11,4")
    assert "strength correlates 0.9998, the sign agrees on 1,470 of 2,912 (50.5 %)" in printed
    assert "recovered the numbering of 4,612 series" in printed and "(99.1 %)" in printed
    flags = [tmp_path / "aligned.tsv"]
    code, verdict, _ = judge(judging.main, *flags, "--data", PHOTOTRIAGE)
    assert code == 1 and verdict.startswith(
        "618 of 10,599 (5.8 %) labels are wrong by none of the rules tried"
    )


def test_permuted_numbers_are_recovered_and_nothing_is_claimed_wrongly(judge, made_up, tmp_path):
    root, rows, votes = made_up
    rng = np.random.default_rng(5)
    shuffled = {}
    for series in {row[0] for row in rows}:
        photos = sorted({p for row in rows if row[0] == series for p in row[1:3]})
        shuffled[series] = dict(zip(photos, rng.permutation(photos).tolist(), strict=True))
    table = [(s, shuffled[s][a], shuffled[s][b], *votes[s, a, b]) for s, a, b, *_ in rows]
    header = "series\tphoto_1\tphoto_2\tvotes_1\tvotes_2"
    flags = ["--align", tmp_path / "out.tsv"]
    code, _, _ = audit_rows(judge, root, tmp_path / "t.tsv", table, *flags, header=header)
    assert code == 1
    aligned = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()[1:]]
    truth = {(s, a, b): votes[s, a, b] for s, a, b, *_ in rows}
    right = [truth[int(r[0]), int(r[1]), int(r[2])] == (float(r[4]), float(r[5])) for r in aligned]
    assert len(right) > 0.7 * len(rows) and np.mean(right) > 0.97


def test_a_numbering_is_told_where_it_is_as_likely_as_stated():
    # Two photos with 201 votes, about even: the two orders differ by little more than FIT_ERROR.
    rng, mine, official = np.random.default_rng(0), [], []
    turned = rng.random(1000) < 0.5
    for series, turn in enumerate(turned.tolist()):
        wins = rng.binomial(201, 0.5)
        preference = (wins + 0.1) / 201.2 + rng.normal(0, align.FIT_ERROR)
        official.append((series, 1, 2, preference))
        mine.append((series, 2 if turn else 1, 1 if turn else 2, wins, 201 - wins))
    kinds = [("series", "i8"), ("photo_1", "i8"), ("photo_2", "i8")]
    official = np.array(official, [*kinds, ("preference", "f8")])
    mine = np.array(mine, [*kinds, ("wins_1", "f8"), ("wins_2", "f8")])
    told, _ = align.align_series(mine, official)
    right = [(told[series][1] == 2) == turned[series] for series in told]
    assert 0.8 < len(told) / 1000 < 0.88  # .77 with a confidence of .999, all with one of .5
    assert np.mean(right) > 0.99


def test_other_forms_of_a_file(judge, made_up, tmp_path):
    root, rows, votes = made_up
    label = [int(row[4] > row[5]) for row in rows]

    def says(word, code, table, *flags, header=HEADER):
        found, verdict, printed = audit_rows(
            judge, root, tmp_path / "t", table, *flags, header=header
        )
        assert word in verdict and found == code, printed

    pairs = [row[:3] for row in rows]
    plain = [(*pair, y) for pair, y in zip(pairs, label, strict=True)]
    says("equal", 0, [(s, b, a, 1 - y) for s, a, b, y in plain])
    from_0 = [(s, a - 1, b - 1, y) for s, a, b, y in plain]
    says("equal, photo numbers count from 0", 0, from_0)
    says("equal", 0, from_0, "--base", 0)
    noisy = [(*row[:3], 1 - row[3] if i in (5, 9, 14) else row[3]) for i, row in enumerate(from_0)]
    says("count from 0; besides, 3 of", 1, noisy)
    says("count from 0; besides, 3 of", 1, noisy[:-9])
    says("1 change: photo numbers count from 0", 1, from_0, "--base", 1)
    says("photo numbers are one too high", 1, [(s, a + 1, b + 1, y) for s, a, b, y in plain])
    says("other pairs", 2, [(s + 500, a, b, y) for s, a, b, y in plain])
    says("which agree as unrelated ones would", 1,
         [(*p, i * 7 // 3 % 2) for i, p in enumerate(pairs)])  # fmt: skip
    says("cannot judge", 2, plain[:5])
    names = [(f"{s:06d}-{a:02d}.JPG", f"{s:06d}-{b:02d}.JPG", [a, b][y]) for s, a, b, y in plain]
    says("equal", 0, names, "--columns", "photo_1=left", "photo_2=right", "winner=best",
         header="left\tright\tbest")  # fmt: skip
    winner = [(*row[:3], row[4]) for row in rows]
    says("label = 0 if rank_1 == photo_1", 1, winner,
         header="series\tphoto_1\tphoto_2\twinner")  # fmt: skip
    voted = [(*p, *votes[p]) for p in pairs]
    _, verdict, printed = audit_rows(
        judge, root, tmp_path / "t", voted, header="series\tphoto_1\tphoto_2\tvotes_1\tvotes_2"
    )
    ties = sum(row[3] == 0.5 or votes[row[:3]] == (3, 3) for row in rows)
    assert f"of {len(rows) - ties} (" in verdict, printed  # what nobody decided is not judged


def test_as_many_votes_for_one_as_for_the_other_decide_nothing(tmp_path):
    rows = ["1,1,2,3,3", "1,1,3,4,2", "1,2,3,2,4", "2,1,2,2,1", "2,2,1,2,1"]
    (tmp_path / "t.csv").write_text("\n".join(["series,photo_1,photo_2,votes_1,votes_2", *rows]))
    table, kind = tables.read_table(tmp_path / "t.csv", {})
    assert (kind, table["label"].tolist()) == ("votes_1", [-1, 0, 1, 0, 0])
    merged, several = tables.merge_votes(table)
    assert (several, merged["label"].tolist()) == (1, [-1, 0, 1, -1])  # 2 + 1 votes to 1 + 2


def test_bad_label_files_end_with_one_line(made_up, tmp_path, refused):
    root, *_ = made_up
    for text, word in [
        ("", "empty"), ("series\tphoto_1\n1\t2\n", "name them with --columns"),
        ("series,photo_1,photo_2,label\n1,1,2,5\n", "t.tsv:2: label '5'"),
        ("series,photo_1,photo_2,label\n1,1,2\n", "t.tsv:2: 3 columns instead of 4"),
        ("series,photo_1,photo_2,label\n1,a,2,1\n", "t.tsv:2: 'a' is neither"),
        ("photo_1,photo_2,label\n1,2,1\n", "t.tsv:2: no series"),
        ("series,photo_1,photo_2,preference\n1,1,2,nan\n", "t.tsv:2: nan"),
        ("series,photo_1,photo_2,preference\n1,1,2,73.0\n", "t.tsv:2: preference 73.0"),
        ("series,photo_1,photo_2,label\n1,1000,2,1\n", "t.tsv:2: '1000': photos go to 99"),
        ("series,photo_1,photo_2,label\n1,1.5,2,1\n", "t.tsv:2: '1.5' is neither"),
        ("series,photo_1,photo_2,label\n", "a header and no rows"),
    ]:  # fmt: skip
        (tmp_path / "t.tsv").write_text(text)
        refused(judging.main, [tmp_path / "t.tsv", "--data", root], word)
    refused(judging.main, [tmp_path / "no", "--data", root], "no such file")


def test_a_dataset_is_checked_before_anyone_trains(judge, demo, tmp_path):
    code, verdict, printed = judge(dataset.main, "--data", demo)
    assert (code, verdict) == (0, "healthy")
    assert "train: 29 pairs, 8 series, label 1 9 = 0.3103" in printed and "longer side" in printed

    noise = lambda series, photo: (series * 20 + photo) % 256  # noqa: E731
    train = [f"{s} 1 2 0.9 1 2" for s in range(1, 5)]
    root = conftest.write_dataset(tmp_path / "data", train, ["4 1 2 0.9 1 2"], noise)
    code, verdict, printed = judge(dataset.main, "--data", root, "--json")
    found = json.loads(printed)
    assert code == found["exit_code"] == 1 and list(found) == ["verdict", "exit_code", "findings"]
    (shared,) = (row for row in found["findings"] if row["id"] == "dataset.shared_series")
    assert (shared["kind"], shared["values"]) == ("CAUSE", {"count": 1, "first": 4})
    assert "1 series are in train and val, first 4" in found["verdict"]

    (root / "train_val" / "val_pairlist.txt").write_text("9 1 2 0.9 1 2\n")
    photos = root / "train_val" / "train_val_imgs"
    (photos / "000009-01.JPG").write_bytes((photos / "000001-01.JPG").read_bytes())
    (photos / "000009-02.JPG").write_bytes((photos / "000001-01.JPG").read_bytes()[:-1])
    (photos / "000011-01.JPG").write_text("no photo")
    code, verdict, printed = judge(dataset.main, "--data", root)
    assert code == 1 and "1 photos have equal bytes across splits" in verdict
    assert "1 files are no whole photos, first 000011-01.JPG" in printed
    assert "11 photos, 1 are in no pair" in printed
    whole = (photos / "000001-02.JPG").read_bytes()
    (photos / "000001-02.JPG").write_bytes(whole[: len(whole) // 2])
    assert (
        "2 files are no whole photos, first 000001-02.JPG" in judge(dataset.main, "--data", root)[1]
    )
    (photos / "000002-01.JPG").unlink()
    assert (
        "train: 1 photos have no file, first 000002-01.JPG"
        in judge(dataset.main, "--data", root)[2]
    )
    (root / "train_val" / "train_pairlist.txt").write_text("1 1 2 0.9 2 1\n")
    code, verdict, printed = judge(dataset.main, "--data", root)
    both = "1 wrong lines in the pairlists; 2 files are no whole photos, first 000001-02.JPG"
    assert (code, verdict) == (1, both)
    assert "train_pairlist.txt:1: preference 0.9" in printed
    (root / "train_val" / "train_pairlist.txt").write_text("1 1 2 0.9 1 2\n")
    photos.rename(root / "elsewhere")
    code, verdict, _ = judge(dataset.main, "--data", root)
    assert code == 1 and verdict.startswith("no photo of train is there (train_val_imgs/)")
