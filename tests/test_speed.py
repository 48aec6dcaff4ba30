"""What makes it fast, counted and not timed; and the flags that change rounding."""

import mmap
import os
import shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import data
import eval as scoring
import train_resnet
import train_vgg
from disk.store import ROW, move_store, open_store, row_checksum, store_key, take_photos
from run import arithmetic, checkpoint, evidence, loop, watch
from run.flags import arguments, resolve_device
from run.loop import Run

compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="--compile needs a C++ compiler"
)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FLAGS = ["--channels-last", "--amp", "--float64"]
FLAGS += [pytest.param("--compile", marks=[compiler, pytest.mark.full])]


def second_step(monkeypatch, context):
    """Has the second step of every epoch done within context()."""

    class Watched(Run):
        def batches(self, batches):
            steps = super().batches(batches)
            yield next(steps)
            with context():
                yield next(steps)
            yield from steps

    monkeypatch.setattr(train_resnet, "Run", Watched)


def test_passes_of_an_epoch(train):
    passes, first = {True: [], False: []}, torch.nn.Conv2d

    def count(module, inputs, output):
        if isinstance(module, first):
            passes[module.training].append(len(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    run = train("run", "--epochs", 1, "--batch-size", 2)
    hook.remove()
    rows = [row.split("\t") for row in (run / "predictions.tsv").read_text().splitlines()[1:]]
    photos = len({name for row in rows for name in row[1:3]})
    assert len(rows) > 1 and photos < 2 * len(rows)
    assert sum(passes[False]) == photos  # in evaluation a photo is embedded once, in batches
    assert len(passes[False]) == -(-photos // 2) > 1
    pairs = int((run / "train.log").read_text().split("train: ")[1].split()[0])
    assert sum(passes[True]) == 2 * pairs and len(passes[True]) == 2 * -(-pairs // 2)


def test_a_photo_is_decoded_once_for_every_epoch_run_and_score(train, demo, tmp_path, monkeypatch):
    decoded, decode = [], data.decode_photo
    monkeypatch.setattr(data, "decode_photo", lambda *a: decoded.append(a[0].name) or decode(*a))
    train("run", "--epochs", 3)
    train("again")
    places = ["--data", str(demo), "--store", str(tmp_path / "stores")]
    with pytest.raises(SystemExit):
        scoring.main(["--run", str(tmp_path / "run"), *places])
    listed = {
        name
        for split in ("train", "val")
        for row in data.read_list(demo, split)[1]
        for name in row.tolist()
    }
    assert sorted(decoded) == sorted(listed)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts in /proc")
def test_open_files_and_threads_do_not_grow(train, monkeypatch):
    counts, end = [], Run.end_epoch

    def counting(run, logits):
        end(run, logits)
        counts.append([len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task")])

    monkeypatch.setattr(Run, "end_epoch", counting)
    train("first", "--epochs", 4, "--step-log", "--save-every", 1)
    assert len(counts) == 4 and counts[1:] == counts[:-1]
    train("second", "--epochs", 1)
    train("third", "--epochs", 1)
    assert counts[-1] == counts[-2]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="asks Linux")
@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system has no madvise")
def test_reading_a_store_leaves_no_photo_in_memory(tmp_path):
    paths = [tmp_path / f"{number:06d}-01.JPG" for number in range(1, 501)]
    for path in paths:
        path.touch()
    whole = len(paths) * 3 * 224 * 224  # bytes: 75 MB
    known = row_checksum(np.zeros(3 * 224 * 224, np.uint8), (0, 0, 0, 0))
    with open(tmp_path / f"{store_key(paths, 224, 'pad')}.store", "wb") as file:
        file.truncate(whole)
        file.seek(whole)
        file.write(np.array([((0, 0, 0, 0), known)] * len(paths), ROW).tobytes())
    photos, boxes = open_store(paths, 224, "pad", tmp_path, None)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): forgets the peak
    before = evidence.peak_memory()
    for rows in np.arange(len(paths)).reshape(-1, 10):
        taken = take_photos(photos, boxes, rows, torch.device("cpu"))
        assert taken[0].shape == (10, 3, 224, 224)
    assert evidence.peak_memory() - before < whole / 5


@pytest.mark.parametrize("less, is_moved", [(0, True), (2, False)])
def test_a_store_goes_to_a_gpu_where_it_takes_at_most_half_of_it(less, is_moved, monkeypatch):
    photos, boxes = np.zeros((4, 3, 8, 8), np.uint8), np.zeros((4, 5), int)

    def make(shape, dtype, device):
        raise MemoryError(shape, dtype, device)

    gpu = SimpleNamespace(type="cuda")
    assert move_store(photos, boxes, torch.device("cpu"))[0] is photos
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * photos.nbytes - less, 1e12))
    monkeypatch.setattr(torch, "empty", make)
    if is_moved:
        with pytest.raises(MemoryError) as asked:
            move_store(photos, boxes, gpu)
        assert asked.value.args == (photos.shape, torch.uint8, gpu)
    else:
        assert move_store(photos, boxes, gpu)[0] is photos


@pytest.mark.parametrize("count", [1, 256, 257, 600])
def test_a_store_on_a_gpu_holds_every_photo_in_its_place(count, monkeypatch):
    rng, empty = np.random.default_rng(count), torch.empty
    photos, places = (
        rng.integers(0, 256, (count, 3, 2, 2), np.uint8),
        rng.integers(0, 2, (count, 4)),
    )
    checks = [[*place, row_checksum(p, place)] for p, place in zip(photos, places, strict=True)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1e12, 1e12))
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, device: empty(shape, dtype=dtype))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *place, **options: self)
    moved, boxes = move_store(photos, np.array(checks), torch.device("cuda"))
    assert np.array_equal(moved, photos) and np.array_equal(boxes, checks)


@pytest.mark.parametrize("name, count, resolved", [
    ("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda"),
    ("cuda:1", 2, "cuda:1"), ("cuda:2", 2, None), ("cuda", 0, None), ("cuda:0", 1, "cuda:0"),
])  # fmt: skip
def test_a_device_is_one_that_is_there(name, count, resolved, monkeypatch, capsys):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    if resolved:
        assert resolve_device("page.py", name) == resolved
        assert chosen == [name] * (":" in name)
        return
    with pytest.raises(SystemExit):
        resolve_device("page.py", name)
    there = ", ".join(["cpu", *["cuda"] * (count > 0), *(f"cuda:{n}" for n in range(count))])
    assert capsys.readouterr().err == f"page.py: --device {name}: not among auto, {there}\n"


@pytest.mark.parametrize("is_there", [False, True])
def test_the_evidence_of_a_gpu_waits_for_it_and_tells_its_memory(is_there, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append("once"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 123_456)
    with evidence.Evidence(tmp_path, step_log=True) as kept:
        kept.mark(1, 1, "update")
        kept.note_resources(1, 1)
    assert waited == ["once"] * is_there
    row = (tmp_path / "resources.tsv").read_text().splitlines()[1].split("\t")
    assert row[4] == ("123456" if is_there else "0")


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_random_state_of_a_gpu_is_kept_and_put_back(kind, train, monkeypatch):
    put, state = [], torch.arange(7, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *told: put.append(told))

    def played(function, run):
        run.device, before = SimpleNamespace(type=kind), run.device
        function(run)
        run.device = before

    for name in ("save_last", "load_last"):
        monkeypatch.setattr(loop, name, partial(played, getattr(checkpoint, name)))
    run = train("run", "--epochs", 1)
    kept = torch.load(run / "last.pt", weights_only=True)["cuda_random"]
    assert put == [] and (kept is None if kind == "cpu" else torch.equal(kept, state))
    train("run", "--epochs", 2, "--resume")
    assert [device.type for _, device in put] == ["cuda"] * (kind == "cuda")
    assert all(torch.equal(back, state) for back, _ in put)


def test_a_step_reads_nothing_back_but_its_check(train, monkeypatch):
    read, seen = [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), options=None):
            if "local_scalar_dense" in str(function) or "is_nonzero" in str(function):
                read.append(function)
            return function(*args, **(options or {}))

    @contextmanager
    def watched():
        with monkeypatch.context() as patch, Watch():
            patch.setattr(watch, "check_finite", lambda run: seen.append(run.step))
            yield

    second_step(monkeypatch, watched)
    train("run", "--epochs", 1)
    assert (seen, read) == ([2], [])


@cuda
def test_a_step_on_a_gpu_waits_for_nothing(train, monkeypatch):
    @contextmanager
    def watched():
        torch.cuda.set_sync_debug_mode("error")
        yield
        torch.cuda.set_sync_debug_mode("default")

    second_step(monkeypatch, watched)
    train("run", "--device", "cuda")


# Flags that change rounding


@pytest.mark.parametrize("flag", FLAGS)
def test_a_rounding_flag_is_told_kept_and_scored_alike(flag, train, demo, tmp_path, judge, refused):
    run, key = train("run", flag), flag.strip("-").replace("-", "_")
    assert f"{key}=True" in (run / "train.log").read_text().splitlines()[1]
    places = ["--data", demo, "--store", tmp_path / "stores"]
    judge(scoring.main, "--run", run, *places)
    assert (run / "predictions_val.tsv").read_bytes() == (run / "predictions.tsv").read_bytes()
    flags = [*conftest.SMALL, *places, "--out", run, "--resume"]
    refused(train_resnet.main, flags, f"{key} was True", "now it is False")


@pytest.mark.parametrize("flag", conftest.one_of_each(["--amp", "--channels-last"]))
def test_a_run_with_a_rounding_flag_goes_on_to_the_bit(flag, train):
    whole = train("whole", flag, "--epochs", 3)
    train("run", flag)
    run = train("run", flag, "--epochs", 3, "--resume")
    for name in ("history.tsv", "predictions.tsv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_what_each_flag_does(train, monkeypatch):
    seen = {}

    def see(name, layer, photos, output):
        if layer.training:
            last = layer.weight.is_contiguous(memory_format=torch.channels_last)
            seen[name] = output.dtype, layer.weight.dtype, last

    class Seen(Run):
        def epochs(self):
            self.ranker.backbone[0].register_forward_hook(partial(see, self.out.name))
            return super().epochs()

    monkeypatch.setattr(train_resnet, "Run", Seen)
    for name, *words in (["plain"], ["amp", "--amp"], ["last", "--channels-last"],
                         ["double", "--float64"]):  # fmt: skip
        train(name, *words)
    single, double = torch.float32, torch.float64
    assert seen == {
        "plain": (single, single, False),
        "amp": (torch.bfloat16, single, False),
        "last": (single, single, True),
        "double": (double, double, False),
    }


def test_bfloat16_is_for_training_alone(train):
    still = ["--lr-backbone", 0, "--lr-head", 0, "--epochs", 1]  # and no BatchNorm in VGG
    runs = [train(*words, *still, script=train_vgg) for words in (["plain"], ["half", "--amp"])]
    predictions, history = (
        [(run / name).read_text() for run in runs] for name in ("predictions.tsv", "history.tsv")
    )
    assert predictions[0] == predictions[1] and history[0] != history[1]


@compiler
def test_compiled_steps_are_the_same_but_for_rounding(train, monkeypatch):
    compiled, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **o: compiled.append(m) or compile_(m, **o))
    runs = [train(*words, "--hidden", 16, "--dropout", 0.5, "--epochs", 1)
            for words in (["plain"], ["compiled", "--compile"])]  # fmt: skip
    assert len(compiled) == 2  # a trifle, to try the compiler; the backbone's pass
    rows = [(run / "history.tsv").read_text().splitlines()[1].split("\t") for run in runs]
    np.testing.assert_allclose(*(np.array(row, float) for row in rows), rtol=1e-4)


def test_float32_is_not_rounded_to_tf32_unless_told(train):
    torch.backends.cudnn.allow_tf32 = True  # what PyTorch does by itself
    train("run", "--epochs", 1)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.conv.fp32_precision != "tf32"
    assert torch.are_deterministic_algorithms_enabled()


def test_flags_that_cannot_be_are_refused(demo, tmp_path, refused):
    flags = ["--data", demo, "--out", tmp_path / "run", "--device", "cpu"]
    refused(train_resnet.main, [*flags, "--tf32"], "--tf32", "CPU")
    refused(train_resnet.main, [*flags, "--amp", "--float64"], "--amp", "--float64")


@pytest.mark.parametrize("name", conftest.one_of_each(["CXX", "PATH"]))
def test_a_compiler_that_does_not_work_is_told_before_anything_is_done(
    name, demo, tmp_path, monkeypatch
):
    monkeypatch.setenv(name, {"CXX": "false", "PATH": str(tmp_path)}[name])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # of its own
    places = ["--data", demo, "--out", tmp_path / "run", "--store", tmp_path / "stores"]
    process = conftest.script("train_resnet", *conftest.SMALL, *places, "--compile")
    errors = process.communicate()[1].strip().splitlines()
    assert process.returncode == 2 and errors[-1].startswith("arithmetic.py: --compile: ")
    assert "Traceback" not in "".join(errors) and not (tmp_path / "run").exists()


def test_pooling_without_a_deterministic_backward_is_refused_on_a_gpu(refused):
    def pretend(size):
        backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(size))
        words = ["--device", "cpu", "--size", "64"]
        args = arguments(train_vgg.__file__, "", train_vgg.RECIPE, words)
        args.device = "cuda"
        arithmetic.check_model(args, backbone, 8)

    pretend(1)
    refused(lambda argv: pretend(7), [], "--size 64", "no deterministic pooling")


def test_bench_prints_every_row(monkeypatch, capsys):
    import bench

    # Small lists, no flags, no process of its own: the table is looked at, not the figures.
    shape, invent = bench.official_shape, bench.invent_dataset
    monkeypatch.setattr(bench, "TRAIN_SHAPE", {2: 2240, 3: 160})
    monkeypatch.setattr(bench, "VAL_SHAPE", {2: 160, 3: 32})
    monkeypatch.setattr(bench, "official_shape", lambda root, _, photos: shape(root, 16, photos))
    monkeypatch.setattr(bench, "invent_dataset", lambda count, seed: invent(12, seed))
    monkeypatch.setattr(bench, "measure_start", lambda *_: [])
    monkeypatch.setattr(bench, "measure_flags", lambda *_: [])
    monkeypatch.setattr(bench, "child", lambda words, out=None: (len(words), 2.0, 3))
    bench.main(["--size", "64", "--rounds", "1", "--device", "cpu"])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [line[2] for line in table] == list("aabcddeefggghjjj")
    assert {line.count("|") for line in table} == {5}
    assert "per-pair evaluation / ours, 16 pairs, 26 photos" in table[2]
