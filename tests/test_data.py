"""Pairs, labels, preprocessing and the photo store, from files on disk."""

import os
import shutil
from argparse import Namespace

import conftest
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import data
import make_demo
from disk import layout, store
from run.scores import constant_accuracy, prior_loss

LISTS = conftest.SHARED / "phototriage" / "train_val"
official = pytest.mark.skipif(not LISTS.is_dir(), reason=f"the official lists are not in {LISTS}")


def load(root, stores, name, fit="pad"):
    """The split of this name, decoded."""
    args = Namespace(size=64, fit=fit, pad_color="imagenet", seed=0)
    args.min_agreement, args.quick_experiment = 0.0, 1.0
    return conftest.decoded(args, root, stores, name)


def test_label_direction_from_files_to_accuracy(tmp_path, train):
    # The brighter photo is preferred: it is photo_2 in odd series, photo_1 in even ones.
    def lines(numbers):
        ranks = {0: "0.9 1 2", 1: "0.1 2 1"}
        return [f"{series} 1 2 {ranks[series % 2]}" for series in numbers]

    def shade(series, photo):
        return 220 if (photo == 2) == (series % 2 == 1) else 30

    root = conftest.write_dataset(tmp_path / "data", lines(range(1, 41)), lines([41, 42]), shade)
    run = train("run", "--epochs", 4, data=root)
    rows = [row.split("\t") for row in (run / "predictions.tsv").read_text().splitlines()[1:]]
    assert [row[3] for row in rows] == ["1", "0"]  # photo_2 is preferred; photo_1 is
    assert float(rows[0][5]) > float(rows[0][4]) and float(rows[1][4]) > float(rows[1][5])
    assert (run / "train.log").read_text().splitlines()[-1].endswith("val acc=1.0000")


@official
def test_official_lists_have_the_published_figures():
    train, problems = data.read_pairlist(LISTS / "train_pairlist.txt")
    val, more = data.read_pairlist(LISTS / "val_pairlist.txt")
    assert problems == more == []
    for pairs, count, series, photos, ones, constant, prior, strong in (
        (train, 12_075, 4_560, 12_019, 6_014, 0.5019, 0.6931, 6_776),
        (val, 483, 195, 503, 249, 0.5155, 0.6927, 292),
    ):
        names, _ = layout.photo_names(pairs, LISTS / "none")
        assert (len(pairs), len(np.unique(pairs["series"]))) == (count, series)
        assert (len(np.unique(names.astype(str))), pairs["label"].sum()) == (photos, ones)
        assert round(constant_accuracy(pairs["label"]), 4) == constant
        assert round(prior_loss(pairs["label"]), 4) == prior
        assert len(data.choose_pairs(pairs, 0.7, 1.0, 0)) == strong
    assert (train["preference"] == 0.5).sum() == 91


def test_each_fit_has_a_store_of_its_own(demo, tmp_path):
    shared = [load(demo, tmp_path / "stores", "val", fit).photos for fit in ("pad", "crop")]
    alone = load(demo, tmp_path / "other", "val", "crop").photos
    assert np.array_equal(shared[1], alone) and not np.array_equal(shared[0], shared[1])


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("shape", [(90, 151), (151, 90), (64, 64), (33, 40)])
def test_store_is_bit_equal_to_pillow_and_torchvision(tmp_path, fit, shape):
    root = tmp_path / "data"
    conftest.write_dataset(root, ["1 1 2 0.9 1 2"], ["2 1 2 0.9 1 2"], lambda *_: 9)
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    path = root / "train_val" / "train_val_imgs" / "000001-02.JPG"
    Image.fromarray(noise).save(path)
    split = load(root, tmp_path / "stores", "train", fit)
    taken = data.take_inputs(split, split.rows[:, 1], torch.device("cpu"))

    photo = Image.open(path).convert("RGB")
    if fit == "crop":
        photo = transforms.CenterCrop(64)(transforms.Resize(64)(photo))
        expected = transforms.ToTensor()(photo)
    else:
        height, width = (round(64 * side / max(shape)) for side in shape)
        top, left = (64 - height) // 2, (64 - width) // 2
        expected = torch.tensor(data.IMAGENET_MEAN)[:, None, None].repeat(1, 64, 64)
        small = transforms.ToTensor()(photo.resize((width, height), Image.Resampling.BILINEAR))
        expected[:, top : top + height, left : left + width] = small
    expected = transforms.Normalize(data.IMAGENET_MEAN, data.IMAGENET_STD)(expected)
    assert torch.equal(taken[0], expected)


def test_padding_has_the_named_colour_exactly():
    photos, boxes = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.tensor([[1, 0, 3, 4]])
    colors = {
        "imagenet": data.IMAGENET_MEAN,
        "train": (0.460, 0.450, 0.430),
        "0,51,255": (0, 0.2, 1),
    }
    for name, color in colors.items():
        x = data.to_input(photos, boxes, data.parse_color(name), torch.float64)[0]
        for channel in range(3):
            mean, std = data.IMAGENET_MEAN[channel], data.IMAGENET_STD[channel]
            assert x[channel, 0, 0].item() == pytest.approx(
                (color[channel] - mean) / std, abs=1e-12
            )
            assert x[channel, 0, 1].item() == pytest.approx(-mean / std)
    assert data.parse_color("1,2") is data.parse_color("1,2,256") is data.parse_color("red") is None


def test_store_is_built_once_and_again_when_a_photo_changes(demo, tmp_path, monkeypatch):
    root = tmp_path / "data"
    shutil.copytree(demo, root)
    decoded = []
    decode = data.decode_photo
    monkeypatch.setattr(data, "decode_photo", lambda *a: decoded.append(a[0].name) or decode(*a))
    places = root, tmp_path / "stores", "val"
    split = load(*places)
    assert sorted(decoded) == split.files  # as many decodes as photos
    load(*places)
    assert len(decoded) == len(split.files)
    path = next((tmp_path / "stores").glob("*.store"))
    path.write_bytes(path.read_bytes()[:-1])
    again = load(*places)
    assert len(decoded) == 2 * len(split.files) and np.array_equal(again.photos, split.photos)
    photo = root / "train_val/train_val_imgs" / split.files[0]
    os.utime(photo, (1, 1))
    load(*places)
    assert len(decoded) == 3 * len(split.files)
    Image.new("RGB", (50, 50), "red").save(photo)
    changed = load(*places)
    assert not np.array_equal(changed.photos[0], split.photos[0])


def test_a_disk_that_fails_while_photos_are_decoded_is_told(demo, tmp_path, monkeypatch, capsys):
    calls, fsync = [], os.fsync

    def failing(file):
        calls.append(file)
        if len(calls) == 1:  # the system tells a failure once, and not again at the end
            raise OSError(28, "No space left on device")
        fsync(file)

    monkeypatch.setattr(store, "FLUSH_EVERY", 2)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(SystemExit) as stopped:
        load(demo, tmp_path / "stores", "train")
    assert stopped.value.code == 2 and "No space left" in capsys.readouterr().err
    assert list((tmp_path / "stores").iterdir()) == []


def test_layouts(demo, tmp_path):
    nested = tmp_path / "nested" / "train_val"
    nested.mkdir(parents=True)
    shutil.copytree(demo / "train_val", nested / "train_val")
    for photo in list((nested / "train_val" / "train_val_imgs").iterdir())[::2]:
        photo.rename(photo.with_suffix(".jpg"))
    places = [demo, demo / "train_val", tmp_path / "nested"]
    found = [data.read_dataset(place, ("train", "val")) for place in places]
    for dataset in found:
        for split in ("train", "val"):
            assert np.array_equal(dataset[split][0], found[0][split][0])
    test = data.read_dataset(demo / "train_val", ("test",))["test"][0]
    assert len(test) and set(test["label"]) == {-1}


def test_problems_are_counted_and_the_first_ten_printed(tmp_path, capsys, train):
    lines = [f"{series} 1 2 0.9 2 1" for series in range(1, 13)]
    root = conftest.write_dataset(tmp_path / "data", lines, ["1 1 2 0.9 1 2"], lambda *_: 9)
    (root / "train_val/train_val_imgs/000001-02.JPG").unlink()
    with pytest.raises(SystemExit):
        train("run", data=root)
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "layout.py: 13 problems, the first 10:" and len(printed) == 11
    assert printed[1].startswith("layout.py: train_pairlist.txt:1: preference 0.9 and ranks 2, 1")
    assert not (tmp_path / "run").exists() and not (tmp_path / "stores").exists()


def test_a_pair_at_the_threshold_is_kept():
    pairs = np.zeros(5, data.PAIR)
    pairs["series"], pairs["preference"] = range(5), (0.7, 0.3, 0.699, 0.301, 0.5)
    assert data.choose_pairs(pairs, 0.7, 1.0, 0).tolist() == [0, 1]


def test_pairs_are_chosen_by_agreement_and_by_series(demo):
    pairs = data.read_dataset(demo, ("train",))["train"][0]
    kept = pairs[data.choose_pairs(pairs, 0.9, 1.0, 0)]
    assert 0 < len(kept) < len(pairs)
    assert all(max(p, 1 - p) >= 0.9 for p in kept["preference"])
    half = pairs[data.choose_pairs(pairs, 0.0, 0.5, 0)]
    series = set(half["series"].tolist())
    assert len(series) == round(len(np.unique(pairs["series"])) / 2)
    assert sum(pair["series"] in series for pair in pairs) == len(half)
    assert series != set(pairs[data.choose_pairs(pairs, 0.0, 0.5, 1)]["series"].tolist())


def test_epoch_order_is_a_pure_function_of_seed_and_epoch():
    orders = [tuple(data.epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (1, 2)]
    assert len(set(orders)) == 4 and all(sorted(order) == list(range(50)) for order in orders)
    torch.manual_seed(3)
    np.random.seed(3)
    assert tuple(data.epoch_order(50, 0, 1)) == orders[0]


def test_demo_has_the_same_bytes_for_the_same_seed(demo, tmp_path):
    make_demo.main(["--out", str(tmp_path / "same"), "--series", "12", "--seed", "1"])
    other = make_demo.invent_dataset(12, 2)[0]
    files = [path.relative_to(demo) for path in sorted(demo.rglob("*.*"))]
    assert len(files) > 20
    assert all((demo / f).read_bytes() == (tmp_path / "same" / f).read_bytes() for f in files)
    assert (demo / "train_val/train_pairlist.txt").read_bytes() != other["train"]


def test_demo_photos_are_exposed_as_cameras_expose(demo):
    for path in demo.rglob("*.JPG"):
        gray = np.asarray(Image.open(path).convert("L"))
        assert 40 < gray.mean() < 215 and gray.std() > 8, path
        assert (gray < 8).mean() < 0.05 and (gray > 250).mean() < 0.3, path
        corners = np.asarray(Image.open(path))[:: gray.shape[0] - 1, :: gray.shape[1] - 1]
        assert corners.max(2).min() > 12, path  # however tilted, no shot leaves the scene


def test_demo_like_given_lists(demo, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(make_demo, "SIDES", (120, 160, 200))
    lists = sorted((demo / "train_val").glob("*_pairlist.txt"))
    make_demo.main(["--out", str(tmp_path / "like"), "--like", *map(str, lists)])
    for split in ("train", "val"):
        ours = data.read_dataset(tmp_path / "like", (split,))[split][0]
        assert np.array_equal(ours, data.read_dataset(demo, (split,))[split][0])
    refused(make_demo.main, ["--out", tmp_path / "like"], "exists already")
    refused(make_demo.main, ["--out", tmp_path / "x", "--like", tmp_path / "list"], "--like")


def test_demo_like_some_series_of_the_training_list(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(make_demo, "SIDES", (120, 160, 200))

    def ours(name, split):
        return data.read_dataset(tmp_path / name, (split,))[split][0]

    root = tmp_path / "whole" / "train_val"
    root.mkdir(parents=True)
    labelled = [f"{s} 1 2 0.{s} {1 + (s < 50)} {2 - (s < 50)}" for s in range(30, 70) if s != 50]
    lines = ["1 1 2 0.900 1 2", "1 1 3 0.950 1 3", "1 2 3 0.700 2 3", *labelled]
    (root / "train_pairlist.txt").write_bytes("\r\n".join(lines).encode())
    (root / "val_pairlist.txt").write_text("2 1 2 0.400 2 1\n3 1 2 0.400 2 1\n")
    lists = ["--like", *map(str, sorted(root.glob("*_pairlist.txt")))]
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        words = ["--series", "20", "--seed", str(seed), "--out", str(tmp_path / name)]
        make_demo.main([*words, *lists])
    whole, problems = data.read_pairlist(root / "train_pairlist.txt")
    assert not problems and len(np.unique(ours("a", "train")["series"])) == 20
    kept = whole[np.isin(whole["series"], ours("a", "train")["series"])]
    fields = [name for name in data.PAIR.names if name != "line"]
    assert np.array_equal(kept[fields], ours("a", "train")[fields])
    assert np.array_equal(ours("a", "train"), ours("b", "train"))
    assert not np.array_equal(ours("a", "train"), ours("c", "train"))
    assert ours("a", "val")["series"].tolist() == [2, 3]
    refused(make_demo.main, ["--out", tmp_path / "x", "--series", "41", *lists], "has 40")
    refused(
        make_demo.main,
        ["--out", tmp_path / "x", "--series", "20", *lists[:1], lists[2]],
        "--series 20",
        "train_pairlist.txt",
    )


def test_two_builds_of_one_store_do_not_meet(demo, tmp_path, monkeypatch):
    parts, write = [], store.write_photos
    monkeypatch.setattr(store, "write_photos", lambda f, *a: parts.append(f.name) or write(f, *a))
    for _ in range(2):
        split = load(demo, tmp_path / "stores", "val")
        next((tmp_path / "stores").glob("*.store")).unlink()
    assert parts[0] != parts[1] and split.photos.any()  # though the process is the same
