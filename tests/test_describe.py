"""What no row explains: rules that say which rows depart, exchanges of photos and of labels."""

import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch
from torchvision.models import ResNet50_Weights

sys.path.insert(0, str(Path(__file__).parent / "zoo"))

import zoo

import data
import train_resnet
from diagnose import answer, compare, pretrained, reference
from diagnose.describe import Fact, facts_of, rules_of
from diagnose.official import OfficialPair, RecordedPair
from diagnose.predictions import judge as predictions
from diagnose.stages import judge_pairs, judge_printed, mixups
from diagnose.trace import Epoch

pytestmark = pytest.mark.real  # the zoo brings its own backbones
zoo.SIDES = 160, 200, 240  # pixels: a large dataset is drawn in less time


def rows_of(count, seed):
    """What may be known of some pairs, drawn."""
    rng = np.random.default_rng(seed)
    return [
        {"label": int(rng.integers(2)), "sign_2": rng.choice(["negative", "positive"]),
         "agreement": float(rng.uniform(0.5, 1)), "place": n % 8 + 1, "back": 8 - n % 8}
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_a_rule_says_exactly_which_rows_depart(seed):
    rows = rows_of(40, seed)
    facts, low = facts_of(rows), sorted(row["agreement"] for row in rows)[27]
    told = {
        "the label is 0": [row["label"] == 0 for row in rows],
        "the second logit is negative": [row["sign_2"] == "negative" for row in rows],
        f"the raters' agreement is {low} or more": [row["agreement"] >= low for row in rows],
        "the row in its batch is 3 or less": [row["place"] <= 3 for row in rows],
    }
    for text, departs in told.items():
        assert rules_of(departs, facts) == text
        one_more = departs.copy()
        one_more[departs.index(False)] = True
        assert rules_of(one_more, facts) is None
    assert rules_of([True] * 40, facts) is None and rules_of([False] * 40, facts) is None


def test_a_rule_on_few_rows_is_chance():
    facts = [Fact(f"fact {n} is {{value}}", values)
             for n, values in enumerate(itertools.product((0, 1), repeat=4))]  # fmt: skip
    assert rules_of([True, False, False, True], facts) is None
    many = [Fact("the label is {value}", (0, 1) * 20)]
    assert rules_of([True, False] * 20, many) == "the label is 0"
    assert rules_of([True] * 20 + [False] * 20, many) is None  # as many, and others


def lists_of(sizes, seed):
    """An Official of made-up series of these numbers of photos: all pairs of each."""
    rng, rows = np.random.default_rng(seed), []
    for series, size in enumerate(sizes, 1):
        ranks = rng.permutation(size) + 1
        for a, b in itertools.combinations(range(size), 2):
            label = int(ranks[a] > ranks[b])
            rows.append(
                (series, a + 1, b + 1, 0.3 + 0.4 * (1 - label), ranks[a], ranks[b], label, 0)
            )
    rows = np.array(rows, dtype=data.PAIR)
    keyed = {(int(r["series"]), int(r["photo_1"]), int(r["photo_2"])): ("train", n, r)
             for n, r in enumerate(rows)}  # fmt: skip
    labels = [int(row["label"]) for row in rows]
    return SimpleNamespace(pairs=keyed, labels=lambda split: labels), rows


def recorded(rows, chosen, labels, swapped=None):
    """RecordedPairs of these lines of a list, in batches of 8."""
    swapped = [False] * len(chosen) if swapped is None else swapped
    own = []
    for n, (place, label, turned) in enumerate(zip(chosen, labels, swapped, strict=True)):
        row = rows[place]
        official = OfficialPair("train", int(place), int(row["label"]) ^ turned, turned, row)
        own.append(RecordedPair(int(label), official, n // 8, n % 8, 8))
    return own


@pytest.mark.parametrize("seed", range(4))
def test_labels_of_other_pairs_are_named_by_the_exchange(seed):
    rng = np.random.default_rng(seed)
    official, rows = lists_of(rng.integers(3, 6, 12), seed)
    chosen, labels = rng.permutation(len(rows))[:40], rows["label"]
    shift = int(rng.choice([-7, -2, 1, 4]))
    (found,) = mixups.judge_mixups(
        recorded(rows, chosen, labels[(chosen + shift) % len(rows)]), official
    )
    assert (found.id, found.values["shift"]) == ("labels.of_another_line", shift)
    roll = int(rng.integers(1, 8))
    own = np.roll(labels[chosen].reshape(5, 8), -roll, axis=1).ravel()
    (found,) = mixups.judge_mixups(recorded(rows, chosen, own), official)
    assert found.id == "labels.of_another_row"
    assert found.values["whose"] == f"the pair {roll} rows later in the batch"
    own = rng.integers(0, 2, 40)
    assert mixups.judge_mixups(recorded(rows, chosen, own), official) == []


@pytest.mark.parametrize("seed", range(4))
def test_photos_that_are_permuted_within_their_series_are_told(seed):
    rng = np.random.default_rng(seed)
    official, rows = lists_of([2, 3, 2, 4, 2, 3, 2, 2, 3, 2, 2, 2], seed)
    orders = {int(s): rng.permutation(int(rows["photo_2"][rows["series"] == s].max())) + 1
              for s in np.unique(rows["series"])}  # fmt: skip
    pairs_of_rows, chosen = [], rng.permutation(len(rows))[:24]
    for n, place in enumerate(chosen):
        row, order = rows[place], orders[int(rows[place]["series"])]
        a, b = (int(order[row[side] - 1]) for side in ("photo_1", "photo_2"))
        _, where, shown = official.pairs[int(row["series"]), min(a, b), max(a, b)]
        of = OfficialPair("train", where, int(shown["label"]) ^ (a > b), a > b, shown)
        pairs_of_rows.append(RecordedPair(int(row["label"]), of, n // 8, n % 8, 8))
    (found,) = mixups.judge_mixups(pairs_of_rows, official)
    assert found.id == "labels.photos_permuted"
    spoiled = [
        p._replace(label=1 - p.label) if n % 5 == 0 else p for n, p in enumerate(pairs_of_rows)
    ]
    assert mixups.judge_mixups(spoiled, official) == []


@pytest.mark.parametrize("shift", [-3, -1, 1, 2])
def test_labels_of_the_pair_before_or_behind_in_the_order_of_training_are_told(shift):
    official, rows = lists_of([4] * 20, 8)
    chosen = np.random.default_rng(5).permutation(len(rows))[:40]
    own = recorded(rows, chosen, np.roll(rows["label"][chosen], -shift))
    (found,) = mixups.judge_mixups(own, official)
    way = "later" if shift > 0 else "earlier"
    assert found.values["whose"] == f"the pair {abs(shift)} places {way}, across batches"
    spoiled = own[20]._replace(label=1 - own[20].label)
    assert mixups.judge_mixups([*own[:20], spoiled, *own[21:]], official) == []


def test_labels_that_a_permutation_gives_by_chance_are_not_told_as_one():
    official, rows = lists_of([4] * 6, 8)
    chosen = np.arange(0, len(rows), 6)  # one pair of each series: any label can be had
    own = recorded(rows, chosen, 1 - rows["label"][chosen])
    assert mixups.judge_mixups([own[0]._replace(label=1 - own[0].label), *own[1:]], official) == []


ROW = {"preference": 0.8, "photo_1": 1, "photo_2": 2}


@pytest.mark.parametrize("seed", range(3))
def test_an_order_that_follows_something_is_told_and_a_shuffle_is_not(seed):
    rng = np.random.default_rng(seed)
    every = [
        OfficialPair("train", place, int(rng.integers(2)), False,
                     ROW | {"series": place // 4, "preference": round(rng.uniform(0.5, 1), 2)})
        for place in range(400)
    ]  # fmt: skip
    rng.shuffle(every)

    def judged(official):
        known = [RecordedPair(pair.label, pair) for pair in official]
        sizes, epochs = [8] * (len(known) // 8), [(0, None)] * (len(known) // 8)
        steps = [1] * len(sizes)
        found = judge_pairs.judge_pairs(known, sizes, {"batch_size": 8}, steps, 400, epochs)
        return [(f.id, f.values.get("what")) for f in found]

    assert judged(every[:120]) == []
    easy = sorted(every[:120], key=lambda pair: -pair.row["preference"])
    assert judged(easy) == [("pairs.follows_the_list", "the raters' agreement")]
    by_label = sorted(every, key=lambda pair: pair.label)
    batches = [by_label[n : n + 8] for n in range(0, 400, 8)]
    batches = [batch for batch in batches if len({pair.label for pair in batch}) == 1]
    rng.shuffle(batches)
    chosen = [pair for batch in batches[:6] for pair in batch]
    assert judged(chosen) == [("pairs.alike_in_batch", "the official label")]
    assert judged(chosen[:16]) == []  # two batches may be so by chance, or are all alike


def test_whole_epochs_are_judged_by_their_loader():
    sizes, rng = [8, 8, 5] * 2, np.random.default_rng(2)

    def judged(orders, items=21, drops=False, listed=21):
        places = [int(place) for order in orders for place in order]
        rows = [ROW | {"series": place} for place in places]
        official = [
            OfficialPair("train", n, 0, False, row) for n, row in zip(places, rows, strict=True)
        ]
        known = [RecordedPair(0, one) for one in official]
        epochs = [(n // 3, Epoch(items, drops, 8, "RandomSampler", n < 3)) for n in range(6)]
        found = judge_pairs.judge_pairs(known, sizes, {"batch_size": 8}, [1] * 6, listed, epochs)
        return {f.id: f.values for f in found}

    drawn = [rng.permutation(21) for _ in range(2)]
    assert judged(drawn) == {}
    assert [*judged([np.arange(21)] * 2)] == ["pairs.unshuffled"]
    assert [*judged([drawn[0]] * 2)] == ["pairs.same_order"]
    assert [*judged(drawn, drops=True)] == ["pairs.last_batch_dropped"]
    told = {"items": 21, "listed": 23, "missing": (22, 23), "epochs": 1}
    assert judged(drawn, listed=23) == {"pairs.part_in_epoch": told}
    told = {"pairs": (21,), "items": 25}
    assert judged(drawn, items=25, listed=25) == {"pairs.epoch_left_early": told}


@pytest.mark.full
def test_a_part_of_the_weights_that_was_not_loaded_is_named_on_the_real_resnet():
    found = [f for f in zoo.examine(["layer4_fresh"], "reports", real=True, steps=1)
             if f.stage == "start" and f.kind != "SKIPPED"]  # fmt: skip
    assert [(f.id, f.values) for f in found] == [
        ("start.partly_untrained", {"layers": ("layer4",)})
    ]


@pytest.mark.parametrize("figure", ["acc", "loss", None])
def test_where_nothing_was_printed_there_is_nothing_to_judge(figure):
    lines = [(n, n, f"step {n} {figure} 0.5", -1, 0) for n in (1, 2)] if figure else []
    facts = [{"accuracy": 0.5, "loss": 0.5, "pairs": 8}] * 2
    found = judge_printed.judge_printed(lines, facts)
    basis = compare.Basis(2, 2, 16, 16, None, 0, 0, 0, None, None, 64, 224, "train_resnet")
    (line,) = (line for line in answer.lines_of(found, basis) if line.startswith("printed "))
    assert line.split(maxsplit=1)[1] == ("equal, judged in part" if figure else "nothing to judge")


def test_first_weights_are_held_against_pretrained_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
    trace = zoo.recorded(["layer1_fresh"], tmp_path / "mine.trace", "reports", as_is=True)
    batch, updates = trace.batches[0], trace.updates
    ranker = reference.choose_reference("train_resnet", trace, 64)
    match = reference.match_weights(batch.passes[0].weights, trace.weights, ranker.weights)
    own = pretrained.first_weights(batch, updates[0].weights, match.names)
    assert {name.split(".")[0] for name in own} == {"0", "1", "5"}
    assert float(own["1.running_mean"].abs().max()) > 0

    def said(file=None):
        found = compare.explain(trace, zoo.dataset()[1], "train_resnet", file)[0]
        return {f.id: f.values for f in found if "weights" in f.id or "other" in f.id}

    usual, other = ResNet50_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V2
    assert said() == {"start.weights_not_held": {"file": pretrained.cached(usual).name}}
    file = tmp_path / "own.pth"
    torch.save(own, file)
    assert said(file) == {}
    torch.save(own | {"5.bias": own["5.bias"] + 1}, file)
    assert said(file) == {"start.other_layers": {"title": "own.pth", "layers": ("5",)}}
    torch.save({name: tensor + 1 for name, tensor in own.items()}, file)
    assert said(file) == {"start.unknown_weights": {"title": "own.pth", "reference": "own.pth"}}
    pretrained.cached(usual).parent.mkdir()
    torch.save({name: tensor + 1 for name, tensor in own.items()}, pretrained.cached(usual))
    torch.save(own, pretrained.cached(other))
    told = {"title": "IMAGENET1K_V2", "reference": "IMAGENET1K_V1"}
    assert said() == {"start.other_weights": told}
    torch.save([1], file)
    with pytest.raises(SystemExit):
        said(file)
    assert capsys.readouterr().err.endswith(f"--weights {file}: not a state dict\n")


def test_the_predictions_of_a_recorded_evaluation_get_the_same_verdict(
    tmp_path, monkeypatch, judge
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
    root, trace = zoo.data_of(["eval_inverted"]), tmp_path / "mine.trace"
    zoo.recorded(["eval_inverted"], trace, "reports", epochs=1)
    words = [trace, "--data", root, "--page", "train_resnet", "--predictions"]
    _, _, printed = judge(compare.main, *words, tmp_path / "mine.tsv")
    code, verdict, _ = judge(predictions.main, tmp_path / "mine.tsv", "--data", root)
    assert code == 1 and verdict == "the file's labels: labels are inverted"
    assert f"CAUSE evaluation: of the 81 evaluated pairs: {verdict}" in printed
    rows = [line.split("\t") for line in (tmp_path / "mine.tsv").read_text().splitlines()]
    columns = ["series", "photo_1", "photo_2", "label", "logprob_1", "logprob_2"]
    assert len(rows) == 82 and rows[0] == columns
    with pytest.raises(SystemExit):
        compare.main([*map(str, words), str(tmp_path / "mine.tsv")])


def test_without_an_evaluation_there_are_no_predictions(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
    zoo.recorded([], tmp_path / "mine.trace", "reports")
    with pytest.raises(SystemExit) as ended:
        compare.main([str(tmp_path / "mine.trace"), "--data", str(zoo.dataset()[1]), "--page",
                      "train_resnet", "--predictions", str(tmp_path / "mine.tsv")])  # fmt: skip
    assert ended.value.code == 2 and not (tmp_path / "mine.tsv").exists()
    assert "no evaluation was recorded" in capsys.readouterr().err


EVALUATES = """
import pathlib, sys
import numpy as np, torch
from PIL import Image
from torch.nn import functional as F

root = pathlib.Path(sys.argv[1]) / "train_val"
mean, std = (torch.tensor(v)[:, None, None] for v in ((.485, .456, .406), (.229, .224, .225)))


def photo(series, number):
    image = Image.open(root / "train_val_imgs" / f"{int(series):06d}-{int(number):02d}.JPG")
    scale = 64 / max(image.size)
    width, height = (round(side * scale) for side in image.size)
    pixels = np.array(image.convert("RGB").resize((width, height), Image.BILINEAR)) / 255
    left, top = (64 - width) // 2, (64 - height) // 2
    x = torch.zeros(3, 64, 64)
    pixels = torch.tensor(pixels, dtype=x.dtype).permute(2, 0, 1)
    x[:, top : top + height, left : left + width] = (pixels - mean) / std
    return x


def batches(name):
    rows = [line.split() for line in (root / f"{name}_pairlist.txt").read_text().splitlines()]
    for n in range(0, len(rows), 8):
        part = rows[n : n + 8]
        sides = (torch.stack([photo(r[0], r[k]) for r in part]) for k in (1, 2))
        yield part, *sides, torch.tensor([int(int(r[4]) > int(r[5])) for r in part])


torch.manual_seed(3)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 8, 8, bias=False), torch.nn.BatchNorm2d(16),
                          torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                          torch.nn.Linear(16, 2048))
head = torch.nn.Linear(2048, 2)
optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=1e-3)
for epoch in range(3):
    net.train()
    for rows, first, second, label in batches("train"):
        loss = F.cross_entropy(head(net(first) - net(second)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    right, lines = [], ["photo_1\\tphoto_2\\tlabel\\tlogit_1\\tlogit_2"]
    with torch.no_grad():
        for rows, first, second, label in batches("val") if len(sys.argv) < 3 else ():
            z = head(net(first) - net(second))
            right += (z.argmax(1) == label).tolist()
            for r, y, own in zip(rows, label.tolist(), z.tolist()):
                names = [f"{int(r[0]):06d}-{int(r[k]):02d}.JPG" for k in (1, 2)]
                lines.append("\\t".join([*names, str(y), *map(repr, own)]))
    pathlib.Path("by_hand.tsv").write_text("\\n".join(lines) + "\\n")
    print("val acc", sum(right) / max(len(right), 1), flush=True)
"""


@pytest.mark.parametrize("evaluates", [True, False])
def test_a_file_written_by_hand_and_the_recorded_one_have_one_verdict(
    evaluates, demo, tmp_path, monkeypatch, judge
):
    (tmp_path / "mine.py").write_text(EVALUATES)
    tool = [sys.executable, str(conftest.ROOT / "diagnose")]
    words = ["record", "--steps", "2", "--until", "evaluation", "--out", "mine.trace", "mine.py"]
    line = [*tool, *words, str(demo), *["none"] * (not evaluates)]
    process = subprocess.run(line, cwd=tmp_path, text=True, capture_output=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("val acc") == (1 if evaluates else 3)
    monkeypatch.setattr(train_resnet, "resnet50", zoo.tiny)
    words = [tmp_path / "mine.trace", "--data", demo, "--page", "train_resnet"]
    if not evaluates:
        assert "no evaluation was seen after the recorded steps" in judge(compare.main, *words)[2]
        return
    judge(compare.main, *words, "--predictions", tmp_path / "recorded.tsv")
    own, by_hand = (
        judge(predictions.main, tmp_path / f"{name}.tsv", "--data", demo)
        for name in ("recorded", "by_hand")
    )
    assert own[:2] == by_hand[:2]
    told = [
        [line for line in text.splitlines() if ".tsv" not in line] for *_, text in (own, by_hand)
    ]
    assert told[0] == told[1]


EVALUATES_MANY = """
import pathlib, torch
from torch.nn import functional as F

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 8, 8), torch.nn.ReLU(),
                          torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
head = torch.nn.Linear(16, 2)
optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=1e-3)
for _ in range(3):
    loss = F.cross_entropy(head(net(torch.rand(8, 3, 64, 64)) - net(torch.rand(8, 3, 64, 64))),
                           torch.randint(2, (8,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if _ != 1:
        continue
    for batch in range(257):
        with torch.no_grad():
            z = head(net(torch.rand(8, 3, 64, 64)) - net(torch.rand(8, 3, 64, 64)))
            right = (z.argmax(1) == torch.randint(2, (8,))).float().mean()
        if batch in (64, 256):
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
            print("resident", pages * 4096, flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_an_evaluation_of_two_thousand_pairs_takes_next_to_no_memory(tmp_path):
    (tmp_path / "mine.py").write_text(EVALUATES_MANY)
    tool = [sys.executable, str(conftest.ROOT / "diagnose")]
    words = ["record", "--steps", "2", "--until", "evaluation", "--out", "mine.trace", "mine.py"]
    process = subprocess.run([*tool, *words], cwd=tmp_path, text=True, capture_output=True)
    assert process.returncode == 0, process.stderr
    first, last = (int(line.split()[1]) for line in process.stdout.splitlines()
                   if line.startswith("resident"))  # fmt: skip
    photo, pairs = 3 * 64 * 64 * 8, 8 * (256 - 64)  # bytes in float64; between both figures
    assert last - first < 2 * pairs * photo / 20  # thumbnails, labels and logits stay
    whole = (2 * 16 + 16) * photo  # of the full steps, and a few of the evaluation
    assert (tmp_path / "mine.trace").stat().st_size < whole + 1500 * 8 * 257
