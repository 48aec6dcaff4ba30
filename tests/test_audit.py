"""diagnose.audit names what is wrong with labels, on the official lists and made-up ones."""

import json
import time

import conftest
import numpy as np
import pytest

import data
from diagnose import audit

PHOTOTRIAGE = conftest.SHARED / "phototriage"
official = pytest.mark.skipif(
    not PHOTOTRIAGE.is_dir(), reason=f"the official lists are not in {PHOTOTRIAGE}"
)


@pytest.fixture(scope="module")
def lists():
    """The official training pairs."""
    return data.read_pairlist(PHOTOTRIAGE / "train_val" / "train_pairlist.txt")[0]


def write(path, header, *columns):
    rows = zip(*columns, strict=True)
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_labels(path, pairs, labels):
    columns = pairs["series"], pairs["photo_1"], pairs["photo_2"], labels
    return write(path, "series\tphoto_1\tphoto_2\tlabel", *columns)


@official
def test_the_five_sources_of_labels_in_ten_seconds(judge, lists, tmp_path):
    start = time.monotonic()
    code, verdict, printed = judge(
        audit.main, "--data", PHOTOTRIAGE, "--labels", PHOTOTRIAGE / "reviews_labels.csv"
    )
    assert code == 1
    assert verdict.startswith("photo numbers permuted within series: labels agree on 5,659 of 11,4")
    assert "strength correlates 0.9998, the sign agrees on 1,470 of 2,912 (50.5 %)" in printed

    plain = PHOTOTRIAGE / "train_val" / "train_pairlist.txt"
    code, verdict, printed = judge(audit.main, "--data", PHOTOTRIAGE, "--labels", plain)
    assert (code, verdict) == (0, "equal") and "agree on 12,075 of 12,075" in printed
    labels = lists["label"]
    misread = np.where(lists["rank_1"] == lists["photo_1"], 0, 1)
    flipped = np.where(np.random.default_rng(0).random(len(labels)) < 0.05, 1 - labels, labels)
    wrong = int((flipped != labels).sum())
    for values, expected, word in [
        (misread, 1, "ranks read as winner ids: 3,270 of 12,075 (27.1 %)"),
        (1 - labels, 1, "inverted: 12,075 of 12,075 (100.0 %)"),
        (flipped, 1, f"partly wrong: {wrong:,} of 12,075 ({wrong / 120.75:.1f} %)"),
        (labels, 0, "equal"),
    ]:
        path = write_labels(tmp_path / "labels.tsv", lists, values)
        code, verdict, _ = judge(audit.main, "--data", PHOTOTRIAGE, "--labels", path)
        assert code == expected and verdict.startswith(word), verdict
    assert 4.5 < wrong / 120.75 < 5.5
    assert time.monotonic() - start < 10


@official
def test_align_recovers_the_reviews(judge, tmp_path):
    flags = ["--labels", PHOTOTRIAGE / "reviews_labels.csv", "--align", tmp_path / "aligned.tsv"]
    _, _, printed = judge(audit.main, "--data", PHOTOTRIAGE, *flags)
    words = next(line for line in printed.splitlines() if "of 2 to 5 photos" in line).split()
    assert int(words[words.index("of", 5) - 1].replace(",", "")) >= 4500
    table, _ = audit.read_table(tmp_path / "aligned.tsv", {})
    merged, repeated = audit.merge_orders(table, 0)
    pairs = [
        data.read_pairlist(PHOTOTRIAGE / f"train_val/{split}_pairlist.txt")[0]
        for split in ("train", "val")
    ]
    mine, pairs = audit.join(merged, np.concatenate(pairs))
    strong = np.maximum(pairs["preference"], 1 - pairs["preference"]) >= 0.7
    strong &= mine["label"] != audit.UNDECIDED
    assert repeated == 0 and strong.sum() > 6000
    assert (mine["label"] == pairs["label"])[strong].mean() >= 0.95


@pytest.fixture
def lists_only(tmp_path):
    """A folder with made-up lists and no photos: every tenth series is in val."""
    rows, votes = conftest.made_up()
    folder = tmp_path / "data" / "train_val"
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        lines = [row for row in rows if (row[0] % 10 == 0) == (split == "val")]
        text = "".join(" ".join(map(str, row)) + "\n" for row in lines)
        (folder / f"{split}_pairlist.txt").write_text(text)
    return tmp_path / "data", rows, votes


def test_permuted_numbers_are_recovered_and_nothing_is_claimed_wrongly(judge, lists_only, tmp_path):
    root, rows, votes = lists_only
    rng = np.random.default_rng(5)
    shuffled = {}
    for series in {row[0] for row in rows}:
        photos = sorted({p for row in rows if row[0] == series for p in row[1:3]})
        shuffled[series] = dict(zip(photos, rng.permutation(photos).tolist(), strict=True))
    table = [(s, shuffled[s][a], shuffled[s][b], *votes[s, a, b]) for s, a, b, *_ in rows]
    columns = zip(*table, strict=True)
    path = write(tmp_path / "t.tsv", "series\tphoto_1\tphoto_2\tvotes_1\tvotes_2", *columns)
    code, _, _ = judge(
        audit.main, "--data", root, "--labels", path, "--align", tmp_path / "out.tsv"
    )
    assert code == 1
    aligned = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()[1:]]
    truth = {(s, a, b): votes[s, a, b] for s, a, b, *_ in rows}
    right = [truth[int(r[0]), int(r[1]), int(r[2])] == (float(r[4]), float(r[5])) for r in aligned]
    assert len(right) > 0.7 * len(rows) and np.mean(right) > 0.97


def test_relations_that_are_no_matter_of_labels(judge, lists_only, tmp_path):
    root, rows, _ = lists_only
    label = [int(row[4] > row[5]) for row in rows]

    def says(word, code, header, table, *flags):
        path = write(tmp_path / "t.tsv", header, *zip(*table, strict=True))
        found, verdict, printed = judge(audit.main, "--data", root, "--labels", path, *flags)
        assert word in verdict and found == code, printed

    pairs = [row[:3] for row in rows]
    plain = [(*pair, y) for pair, y in zip(pairs, label, strict=True)]
    header = "series\tphoto_1\tphoto_2\tlabel"
    says("equal", 0, header, plain)
    turned = [(s, b, a, 1 - y) for s, a, b, y in plain]
    says("equal", 0, header, turned)
    says("both orders counted", 1, header, plain + turned)
    from_0 = [(s, a - 1, b - 1, y) for s, a, b, y in plain]
    says("equal", 0, header, from_0)
    says("off by one: +1", 1, header, from_0, "--base", 1)
    says("off by one: -1", 1, header, [(s, a + 1, b + 1, y) for s, a, b, y in plain])
    says("other pairs", 2, header, [(s + 500, a, b, y) for s, a, b, y in plain])
    split = [(*row, ["train", "val"][i % 2]) for i, row in enumerate(plain)]
    says("a split drawn over pairs", 1, f"{header}\tsplit", split)
    says("do not match", 1, header, [(*p, i % 2) for i, p in enumerate(pairs)])
    says("cannot judge", 2, header, plain[:5])
    names = [(f"{s:06d}-{a:02d}.JPG", f"{s:06d}-{b:02d}.JPG", [a, b][y]) for s, a, b, y in plain]
    says("equal", 0, "left\tright\tbest", names,
         "--columns", "photo_1=left", "photo_2=right", "winner=best")  # fmt: skip
    winner = [(*row[:3], row[4]) for row in rows]
    says("ranks read as winner ids", 1, "series\tphoto_1\tphoto_2\twinner", winner)


def test_bad_label_files_end_with_one_line(lists_only, tmp_path, refused):
    root, *_ = lists_only
    for text, word in [
        ("", "empty"), ("series\tphoto_1\n1\t2\n", "name ours with --columns"),
        ("series,photo_1,photo_2,label\n1,1,2,5\n", "t.tsv:2: label '5'"),
        ("series,photo_1,photo_2,label\n1,1,2\n", "t.tsv:2: 3 columns instead of 4"),
        ("series,photo_1,photo_2,label\n1,a,2,1\n", "t.tsv:2: 'a' is neither"),
        ("photo_1,photo_2,label\n1,2,1\n", "t.tsv:2: no series"),
        ("series,photo_1,photo_2,preference\n1,1,2,nan\n", "t.tsv:2: nan"),
    ]:  # fmt: skip
        (tmp_path / "t.tsv").write_text(text)
        refused(audit.main, ["--data", root, "--labels", tmp_path / "t.tsv"], word)
    refused(audit.main, ["--data", root, "--labels", tmp_path / "no"], "no such file")


def test_a_dataset_is_checked_before_anyone_trains(judge, demo, tmp_path):
    code, verdict, printed = judge(audit.main, "--data", demo)
    assert (code, verdict) == (0, "healthy")
    assert "train: 29 pairs, 8 series, label 1 9 = 0.3103" in printed and "longer side" in printed

    noise = lambda series, photo: (series * 20 + photo) % 256  # noqa: E731
    train = [f"{s} 1 2 0.9 1 2" for s in range(1, 5)]
    root = conftest.write_dataset(tmp_path / "data", train, ["4 1 2 0.9 1 2"], noise)
    code, verdict, printed = judge(audit.main, "--data", root, "--json")
    found = json.loads(printed)
    assert code == found["exit_code"] == 1
    assert "1 series stand in train and val, first 4" in found["verdict"]

    (root / "train_val" / "val_pairlist.txt").write_text("9 1 2 0.9 1 2\n")
    photos = root / "train_val" / "train_val_imgs"
    (photos / "000009-01.JPG").write_bytes((photos / "000001-01.JPG").read_bytes())
    (photos / "000009-02.JPG").write_bytes((photos / "000001-01.JPG").read_bytes()[:-1])
    (photos / "000011-01.JPG").write_text("no photo")
    code, verdict, printed = judge(audit.main, "--data", root)
    assert code == 1 and "1 photos have equal bytes across splits" in verdict
    assert "1 files are no photos, first 000011-01.JPG" in printed
    assert "11 photos, 3 stand in no pair" in printed or "stand in no pair" in printed
    (photos / "000002-01.JPG").unlink()
    assert (
        "train: 1 photos have no file, first 000002-01.JPG" in judge(audit.main, "--data", root)[2]
    )
    (root / "train_val" / "train_pairlist.txt").write_text("1 1 2 0.9 2 1\n")
    code, verdict, printed = judge(audit.main, "--data", root)
    assert code == 1 and verdict == "1 wrong lines in the pairlists"
    assert "train_pairlist.txt:1: preference 0.9" in printed
