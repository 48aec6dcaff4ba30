"""A trainer that dies or hangs: what the process that watches it says."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import conftest
import pytest
import torch

from diagnose import watch
from diagnose.trace import read_trace

TRAINER = conftest.ROOT / "tests" / "zoo" / "dying.py"
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
SAID = {  # how it ends: (where, exit code, what is said, whole steps that are left)
    "segv": (
        "second",
        128 + 11,
        "was killed by SIGSEGV (segmentation fault) in step 3, forward",
        2,
    ),
    "abort": ("backward", 128 + 6, "was killed by SIGABRT (abort) in step 3, backward", 2),
    "kill": ("second", 128 + 9, "was killed by SIGKILL", 2),
    "os_exit": ("second", 3, "was ended by os._exit, a library's exit or exec, code 3", 2),
    "error": ("backward", 1, "ended with ValueError: photo 7 is broken in step 3, backward", 2),
    "sys_exit": ("second", 5, "", 2),
}
ALL = SAID | {  # those that `python tests/test_exits.py` shows as well
    "c_exit": ("second", 4, "was ended by os._exit, a library's exit or exec, code 4", 2),
    "stack": ("second", 128 + 11, "was killed by SIGSEGV (segmentation fault) in step 3", 2),
    "memory": ("second", 1, "ended with RuntimeError", 2),
}


def command(words, how, where, step=3):
    """The command line that records or watches the dying trainer."""
    own = [str(TRAINER), how, str(step), where]
    return [sys.executable, str(conftest.ROOT / "diagnose"), *words, *own]


def ended(words, how, where, folder):
    """The ended process of a command."""
    return subprocess.run(command(words, how, where), cwd=folder, text=True, capture_output=True)


def problems_of(how, folder):
    """What is wrong with what is said of an ending."""
    where, code, said, steps = ALL[how]
    process = ended(["record", "--out", "mine.trace"], how, where, folder)
    own = process.stderr
    found = [f"exit code {process.returncode}"] * (process.returncode != code)
    found += [f"not said: {said}: {own[-2000:]}"] * (said not in own)
    found += ["more is said"] * (not said and "your trainer was" in own)
    trace = read_trace(Path(folder) / "mine.trace")
    found += [f"{len(trace.updates)} steps"] * (len(trace.updates) != steps)
    return found + [f"left: {p.name}" for p in Path(folder).iterdir() if p.name != "mine.trace"]


@POSIX
@pytest.mark.parametrize("how", SAID)
def test_how_a_trainer_died_is_said_and_its_whole_steps_are_kept(how, tmp_path):
    assert problems_of(how, tmp_path) == []


@POSIX
def test_a_crash_is_told_with_its_op_line_and_stack(tmp_path):
    process = ended(["watch", "--out", "end.txt"], "segv", "second", tmp_path)
    assert process.returncode == 128 + signal.SIGSEGV
    told = (tmp_path / "end.txt").read_text()
    assert told == process.stderr[-len(told) :]
    line = TRAINER.read_text().splitlines().index("    a = net(first)") + 1
    assert re.search(r"op +linear on \[4, 32\] float32\n", told)
    assert f"dying.py:{line}  a = net(first)" in told
    assert "dying.py" in told.partition("stack")[2] and "string_at" in told
    assert re.search(r"memory +\d\.\d GB resident", told)
    again = ended(["watch", "--out", "end.txt"], "none", "second", tmp_path)
    assert again.returncode == 2 and again.stderr.count("\n") == 1  # no file is written over
    assert (tmp_path / "end.txt").read_text() == told


@POSIX
def test_a_hang_is_told_once_and_the_trainer_goes_on(tmp_path):
    process = ended(["watch", "--hang", "1.5"], "hang", "second", tmp_path)
    told = process.stderr
    assert process.returncode == 0 and "step 10 loss" in process.stdout
    assert told.count("no op of torch for 1.5 s in step 3, forward pass of photo_1") == 1
    assert "dying.py" in told.partition("stack")[2]


@POSIX
def test_a_loader_that_hangs_shows_the_stack_of_its_worker(tmp_path):
    process = ended(["watch", "--hang", "1"], "hang", "worker", tmp_path)
    line = TRAINER.read_text().splitlines().index('            end("worker")') + 1
    assert process.returncode == 0 and "step 10 loss" in process.stdout
    assert re.search(rf'dying.py", line {line} in __getitem__\n', process.stderr)
    assert re.search(r"no op of torch for 1 s in step \d, loader", process.stderr)


@POSIX
def test_a_worker_that_died_is_named_with_its_exit_code(tmp_path):
    process = ended(["record", "--out", "mine.trace"], "os_exit", "worker", tmp_path)
    assert process.returncode == 1
    told = process.stderr.rpartition("diagnose record: ")[2]
    assert re.match(r"your trainer ended with RuntimeError: DataLoader worker \(pid \d+\)", told)
    assert "exited unexpectedly with exit code 3" in told
    assert len(read_trace(tmp_path / "mine.trace").updates) >= 1


def test_watching_changes_no_number(tmp_path):
    plain = [sys.executable, str(TRAINER), "none", "3", "second"]
    alone = subprocess.run(plain, capture_output=True, text=True).stdout
    assert ended(["watch"], "none", "second", tmp_path).stdout == alone
    assert alone.count("loss") == 10


@POSIX
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_nothing_is_left_when_the_watching_process_is_ended(name, tmp_path):
    words = command(["record", "--out", "mine.trace"], "hang", "second", 2)
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL, text=True,
                               stdout=subprocess.PIPE)  # fmt: skip
    assert "step 1" in process.stdout.readline()
    assert len(list(tmp_path.glob("mine.trace.*.parts"))) == 1
    process.send_signal(getattr(signal, name))
    process.wait(30)
    until = time.monotonic() + 20
    while list(tmp_path.glob("*.parts")) and time.monotonic() < until:
        time.sleep(0.1)
    assert not list(tmp_path.glob("*.parts"))
    assert process.stdout.read() == ""  # the trainer is gone, and has not gone on


def test_steps_of_a_dead_recording_are_joined(tmp_path):
    words = command(["record", "--steps", "4", "--out", "mine.trace"], "none", "second")
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    whole = torch.load(tmp_path / "mine.trace", weights_only=True)
    parts = tmp_path / f"mine.trace.{'ab' * 16}.parts"
    parts.mkdir()
    facts = {k: v for k, v in whole.items() if k not in ("updates", "batches")}
    for number, (update, batch) in enumerate(zip(whole["updates"], whole["batches"], strict=True)):
        part = {"update": update | {"next": None}, "batches": [batch], "facts": facts}
        torch.save(part, parts / f"{number:06d}.part")
        torch.save(update["next"], parts / f"{number:06d}.next")
    recorder = [sys.executable, str(conftest.ROOT / "diagnose" / "record.py")]
    join = [*recorder, "--join", str(parts), "--out", "joined.trace"]
    assert subprocess.run(join, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / "mine.trace").unlink()
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0  # and the next recording says how they are joined
    assert f"to join: record --join {parts.name} --out mine.trace" in again.stderr
    joined = torch.load(tmp_path / "joined.trace", weights_only=True)
    assert str(joined) == str(whole)
    for path in ("missing", str(tmp_path), str(TRAINER)):  # where there are no parts
        words = [*recorder, "--join", path, "--out", "other.trace"]
        refused = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert (
            refused.returncode == 2 and refused.stderr.count("\n") == 1 and path in refused.stderr
        )
    assert not (tmp_path / "other.trace").exists()
    shutil.rmtree(parts)


@pytest.mark.parametrize("status, name", watch.STATUSES.items())
def test_a_status_of_windows_is_named(status, name):
    assert f"status 0x{status:08X} ({name})" in watch.how(status, "begun")


def test_a_trainer_that_catches_everything_is_ended_all_the_same(tmp_path):
    text = TRAINER.read_text().replace("    a = net(first)\n", """
    try:
        a = net(first)
    except BaseException:
        print("caught", flush=True)
        continue
""")  # fmt: skip
    (tmp_path / "catching.py").write_text(text)
    words = ["record", "--steps", "2", "--out", "mine.trace", "catching.py", "none", "1", "x"]
    recorder = [sys.executable, str(conftest.ROOT / "diagnose"), *words]
    process = subprocess.run(recorder, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0 and process.stdout.count("caught") == 1
    assert len(read_trace(tmp_path / "mine.trace").updates) == 2


if __name__ == "__main__":
    import tempfile

    for name in ALL:
        with tempfile.TemporaryDirectory() as place:
            print(name, "|", "; ".join(problems_of(name, place)) or "ok", flush=True)
