"""Thousands of damaged files through every reader: one line, or read as it is in the file."""

import contextlib
import copy
import json
import re
import shutil
import sys
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from test_damage import ends

import data
import eval as scoring
import train_resnet
from diagnose import compare, record, tables
from diagnose.predictions import judge as judging
from disk import store
from disk.tensors import load_weights
from run import curves
from run.folder import HISTORY
from run.scores import quality
from variants import features

WORDS = [b"", b"nan", b"inf", b"-1", b"1e999", b"0x10", b"9" * 5000, b'"', b"\xff", b"1.5", b"1_0"]
WORDS += ["\u0661".encode(), "\u00b2".encode(), b"+1", b"1 2", b"1\t2", b"\0", b"\r", b"a\nb"]
NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?"


def harm(content, rng):
    """Bytes with one to three damages: bits, bytes cut out, put in, doubled, cut off, fields."""
    for _ in range(rng.integers(1, 4)):
        place, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 60))
        first, cut, rest = content[:place], content[place : place + length], content[place:]
        field = re.compile(rb"[^\s,\"]*").search(content, place)
        word = WORDS[rng.integers(len(WORDS))]
        content = [
            first + bytes([(rest or b"x")[0] ^ 1 << int(rng.integers(8))]) + rest[1:],
            first + rest[length:],
            first + rng.bytes(length % 6) + rest,
            first + cut + rest,
            first,
            content[: field.start()] + word + content[field.end() :],
            content[: field.start()] + word + content[field.end() :],
        ][rng.integers(7)]
    return content


def same_numbers(texts, values):
    """Whether texts are plain numbers, and these."""
    return all(re.fullmatch(NUMBER, t, re.I) and float(t) == v
               for t, v in zip(texts, values, strict=True))  # fmt: skip


def rows_of(content, columns, delimiter=None):
    """The lines of a table as lists of fields, these columns alone where it has a header."""
    lines = re.split(r"\r\n|\n|\r", content.decode("utf-8-sig").removesuffix("\n"))
    rows = [[field.strip() for field in line.split(delimiter)] for line in lines]
    places = [rows[0].index(name) for name in columns]
    return [[row[place] for place in places] for row in rows[1:]]


# {reader: (a sound file, what reads it, whether what was read is what the file holds)}


def pairlist(path):
    pairs, problems = data.read_pairlist(path)
    if problems:
        data.stop(path, problems[0])
    return pairs


def is_pairlist(content, pairs):
    rows = [line.split() for line in content.decode("utf-8-sig").rstrip().split("\n")]
    return all(same_numbers(row, pair[:6]) for row, pair in zip(rows, pairs.tolist(), strict=True))


def is_labels(content, read):
    rows = rows_of(content, ("series", "photo_1", "photo_2", "label"), "\t")
    return all(
        same_numbers(row[:3], pair[:3]) and row[3] == ("" if pair[3] < 0 else str(pair[3]))
        for row, pair in zip(rows, read[0].tolist(), strict=True)
    )


def is_reviews(content, read):
    rows = rows_of(content, ("series_id", "compareID1", "compareID2", "LEFT", "RIGHT"), ",")
    return all(same_numbers(row, [*pair[:3], *pair[4:6]])
               for row, pair in zip(rows, read[0].tolist(), strict=True))  # fmt: skip


def is_predictions(content, read):
    rows = rows_of(content, ("series", "photo_1", "photo_2", "score_1"), "\t")
    found = [[*pair[:3], score] for pair, (score, _) in zip(read[0].tolist(), read[1], strict=True)]
    return all(map(same_numbers, rows, found)) and len(rows) == len(found)


def is_quality(content, read):
    rows = rows_of(content, ("label", "logit_1", "logit_2"), "\t")
    numbers = [
        [float(t) for t in row] for row in rows if all(re.fullmatch(NUMBER, t, re.I) for t in row)
    ]
    right = np.mean([(b > a) == label for label, a, b in numbers])
    return len(numbers) == len(rows) and f"right on {right:.4f} of {len(rows)} " in read[0]


def is_history(content, read):
    columns, *_ = read
    rows = rows_of(content, columns, "\t")
    return [*columns] == HISTORY.split() and all(
        same_numbers(row, values)
        for row, values in zip(rows, zip(*columns.values(), strict=True), strict=True)
    )


def is_log(content, read):
    text = content.decode()
    return f"constant {read[1]:.4f}, prior loss {read[2]:.4f}" in text


@pytest.fixture(scope="module")
def house(tmp_path_factory, demo):
    """A folder with a run, its log and history, and a table of each kind."""
    house, rows = tmp_path_factory.mktemp("readers"), conftest.made_up(12)[0]
    with pytest.MonkeyPatch.context() as patch:
        conftest.tiny.install(patch.setattr)
        flags = ["--data", demo, "--store", house / "stores", "--out", house / "run"]
        assert ends(train_resnet.main, [*conftest.SMALL, *flags]) == (0, "")
        flags[-1] = house / "other"
        with contextlib.suppress(SystemExit), record.Recording(house / "a.trace", 1):
            train_resnet.main([*conftest.SMALL, *map(str, flags)])
        torch.save(conftest.tiny.backbone(2048, True).state_dict(), house / "weights.pt")
    head = "series\tphoto_1\tphoto_2\t"
    lines = [(f"{s}\t{a}\t{b}\t", int(r1 > r2), p) for s, a, b, p, r1, r2 in rows]
    texts = {
        "pairlist.txt": "".join(" ".join(map(str, row)) + "\n" for row in rows),
        "labels.tsv": f"{head}label\n" + "".join(f"{pair}{y}\n" for pair, y, _ in lines),
        "reviews.csv": "series_id,compareID1,compareID2,LEFT,RIGHT\n"
        + "".join(f"{s},{a},{b},{round(9 * p)},{9 - round(9 * p)}\n" for s, a, b, p, *_ in rows),
        "predictions.tsv": f"{head}score_1\n"
        + "".join(f"{pair}{p - 0.5}\n" for pair, _, p in lines),
    }
    for name, text in texts.items():
        (house / name).write_text(text)
    names, rows = ["000001-01", "000001-02"], torch.arange(6.0).reshape(2, 3)
    np.savez(house / "features.npz", names=names, features=rows)
    torch.save({"names": names, "features": rows}, house / "features.pt")
    shutil.copytree(demo, house / "data")
    stored(house / "own" / "store")
    return house


def read_run(path):
    return curves.read_run(path.parent)


TEXTS = {
    "pairlist.txt": (pairlist, is_pairlist),
    "labels.tsv": (lambda path: tables.read_table(path, {}), is_labels),
    "reviews.csv": (lambda path: tables.read_table(path, {}), is_reviews),
    "predictions.tsv": (lambda path: judging.read_predictions(path, {}), is_predictions),
    "run/predictions.tsv": (quality, is_quality),
    "run/history.tsv": (read_run, is_history),
    "run/train.log": (read_run, is_log),
}


def outcome(read, path):
    """What a reader gives, or None where it ends with exit code 2 and one line on the file."""
    kept = []
    code, said = ends(lambda argv: kept.append(read(Path(*argv))), [path])
    if code == 0:
        return kept[0]
    assert code == 2 and len(said.strip().splitlines()) == 1, (code, said)
    assert path.name in said and len(said) < 600, said
    return None


@pytest.mark.parametrize("name", TEXTS)
def test_a_damaged_text_is_one_line_or_read_as_it_stands(name, house, tmp_path):
    read, is_it = TEXTS[name]
    shutil.copytree(house / "run", tmp_path / "run")
    path, whole, rng = tmp_path / name, (house / name).read_bytes(), np.random.default_rng(5)
    refused = 0
    for number in range(400):
        content = harm(whole, rng)
        path.write_bytes(content)
        found = outcome(read, path)
        refused += found is None
        assert found is None or is_it(content, found), (number, content[:3000], found)
    assert refused > 40


# Files of torch: bytes, then what they hold.

VALUES = [None, True, -1, 10**12, 1.5, float("nan"), "x", b"x", [], {}, [[]], (), torch.ones(2)]
VALUES += [torch.tensor(float("nan")), torch.ones(2).to_sparse(), torch.ones(2, device="meta")]


def places(value, place=()):
    """Every place in nested dicts, lists and tuples."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*place, key)
        if isinstance(inner, dict | list | tuple):
            yield from places(inner, (*place, key))


def spoil(value, place, rng):
    """A copy with another value, or none, at a place; a tensor may be short or not finite."""
    value = copy.copy(value) if not isinstance(value, tuple) else list(value)
    key, *rest = place
    if rest:
        value[key] = spoil(value[key], rest, rng)
        return value
    kind, inner = rng.integers(len(VALUES) + 3), value[key]
    if kind < len(VALUES):
        value[key] = VALUES[kind]
    elif kind == len(VALUES) or not isinstance(inner, torch.Tensor):
        del value[key]
    elif kind == len(VALUES) + 1:
        value[key] = inner.reshape(-1)[1:]
    else:
        value[key] = torch.full_like(inner, float("nan") if inner.is_floating_point() else 7)
    return value


def spread(value, rng, count):
    """So many places in a nested value, drawn evenly over the kinds of places."""
    kinds = {}
    for place in places(value):
        kinds.setdefault(tuple("" if isinstance(k, int) else k for k in place), []).append(place)
    kinds = [*kinds.values()]
    for _ in range(count):
        chosen = kinds[rng.integers(len(kinds))]
        yield chosen[rng.integers(len(chosen))]


def resume(path):
    """What a run has in its tables when it has gone on from last.pt."""
    house = path.parent.parent
    flags = ["--data", house / "data", "--store", house / "stores", "--out", path.parent]
    train_resnet.main([*conftest.SMALL, *map(str, flags), "--resume"])
    return [(path.parent / name).read_bytes() for name in ("history.tsv", "predictions.tsv")]


def best(path):
    """What scoring takes of a run, in plain words."""
    recipe = scoring.load_run(path.parent)
    ranker = scoring.load_ranker(path.parent, recipe, torch.device("cpu"))
    settings = {k: v for k, v in vars(recipe).items() if k not in ("epochs", "changed", "versions")}
    return settings, {k: v.tolist() for k, v in ranker.state_dict().items()}


def weights(path):
    model = conftest.tiny.backbone(2048, True)
    load_weights(model, path, None, "fc")
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def explained(path):
    """The findings on a trace."""
    code, said = ends(compare.main, [path, "--data", path.parent / "data"])
    if code == 2:
        print(said, end="", file=sys.stderr)
        sys.exit(code)
    return code


@pytest.mark.parametrize("times", [1001, 10**6])
def test_a_trace_whose_steps_are_repeated_without_end_is_refused(times, house, tmp_path, refused):
    entries = torch.load(house / "a.trace", weights_only=True)
    entries["updates"][0]["optimizers"][0]["times"] = times
    torch.save(entries, tmp_path / "a.trace")
    words = [tmp_path / "a.trace", "--data", house / "data"]
    refused(compare.main, words, f"an optimizer steps {times} times in one update, at most 1000")
    entries["updates"][0]["optimizers"][0]["times"] = 1000
    torch.save(entries, tmp_path / "a.trace")
    assert compare.read_trace(tmp_path / "a.trace").updates[0].optimizers[0].times == 1000


def stored(path):
    photos = sorted((path.parent.parent / "data/test/test_imgs").iterdir())
    found = store.open_store(photos, 64, "pad", path.parent, data.decode_photo)
    taken = store.take_photos(*found, np.arange(len(photos)), torch.device("cpu"))
    return [part.tolist() for part in taken]


def numbers(path):
    names, found = features.read_file(str(path))
    return names, found.tolist()


# {reader: (what it reads, of how many with damaged bytes and fields)}
ARCHIVES = {
    "run/last.pt": (resume, 60, 120), "run/best.pt": (best, 60, 60),
    "run/args.json": (best, 100, 100), "weights.pt": (weights, 100, 100),
    "a.trace": (explained, 10, 50), "features.npz": (numbers, 100, 0),
    "features.pt": (numbers, 30, 60), "own": (stored, 60, 0),
}  # fmt: skip


def is_unused(place, content):
    """Whether a value may be another: a count that no one uses, another name of a photo."""
    name = "" if place is None else place[-1]
    return str(name).endswith("num_batches_tracked") or "x" in content["names"]


def load(path):
    return json.loads(path.read_text()) if path.suffix == ".json" else torch.load(path)


def save(value, path):
    if path.suffix != ".json":
        torch.save(value, path)
    else:
        path.write_text(json.dumps(value, default=str))


@pytest.mark.filterwarnings("ignore")  # of what the damages themselves are made with
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_damaged_archive_is_one_line_or_what_it_was(name, house, tmp_path, monkeypatch, capsys):
    read, bytes_, fields = ARCHIVES[name]
    shutil.copytree(house, tmp_path, dirs_exist_ok=True, copy_function=shutil.copy2)
    path, rng = tmp_path / name, np.random.default_rng(8)
    if name == "own":
        (path,) = path.iterdir()
    whole, before = path.read_bytes(), outcome(read, path)
    damaged = [(None, harm(whole, rng)) for _ in range(bytes_)]
    if fields:
        value = load(path)
        damaged += [(place, spoil(value, place, rng)) for place in spread(value, rng, fields)]
    for place, content in damaged:
        path.write_bytes(content) if place is None else save(content, path)
        found = outcome(read, path)
        assert found in (None, before) or is_unused(place, content), place
