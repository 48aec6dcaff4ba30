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

from diagnose import record, watch
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
@pytest.mark.parametrize("how", conftest.one_of_each(SAID, lambda how: SAID[how][1] > 128))
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
@pytest.mark.parametrize("name", conftest.one_of_each(["SIGKILL", "SIGTERM"]))
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


def test_steps_of_a_dead_recording_are_joined(tmp_path, capfd):
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
        with pytest.raises(SystemExit) as refused:
            record.main(["--join", path, "--out", str(tmp_path / "other.trace")])
        said = capfd.readouterr().err
        assert refused.value.code == 2 and said.count("\n") == 1 and path in said
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


CHANGED = {  # {what a trainer does: (lines of dying.py, what they become)}
    "steps by hand": (
        "    optimizer.step()\n",
        "    with torch.no_grad():\n"
        "        for p in [*net.parameters(), *head.parameters()]:\n"
        "            p -= 1e-3 * p.grad\n",
    ),
    "closes stderr": ("step = 1\n", "step = 1\nsys.stderr.close()\n"),
    "closes the descriptor of stderr": ("step = 1\n", "step = 1\nos.close(2)\n"),
    "reads a list": ("in DataLoader(Pairs()", "in DataLoader([Pairs()[n] for n in range(40)]"),
    "saves a scripted network": (
        "for first, second",
        'torch.jit.script(net).save("net.pt")\ntorch.jit.load("net.pt")\nfor first, second',
    ),
    "forks": ("step = 1\n", "step = 1\nif os.fork() == 0:\n    sys.exit(0)\nos.wait()\n"),
    "catches an error of backward": (
        "    loss.backward()\n",
        "    if step == 1:\n"
        "        try:\n"
        "            (loss + net[0].weight.new_full((2,), 1.0)).backward()\n"
        "        except RuntimeError:\n"
        "            step = 2\n"
        "            continue\n"
        "    loss.backward()\n",
    ),
}


def run_changed(how, folder):
    """The ended process of `record` on dying.py with a change."""
    old, new = CHANGED[how]
    text = TRAINER.read_text()
    assert text.count(old) == 1
    (folder / "own.py").write_text(text.replace(old, new))
    words = ["record", "--steps", "2", "--out", "mine.trace", "own.py", "none", "3", "second"]
    line = [sys.executable, str(conftest.ROOT / "diagnose"), *words]
    return subprocess.run(line, cwd=folder, text=True, capture_output=True)


@POSIX
@pytest.mark.parametrize("how", conftest.one_of_each(CHANGED, lambda how: "steps" in how))
def test_what_a_trainer_does_besides_leaves_its_trace(how, tmp_path):
    process = run_changed(how, tmp_path)
    assert process.returncode == 0, process.stderr
    assert "updates: 2, batches: 2" in process.stderr
    assert len(read_trace(tmp_path / "mine.trace").updates) == 2
    assert not list(tmp_path.glob("*.parts"))


def test_photos_that_are_subtracted_from_themselves_are_told(tmp_path):
    text = TRAINER.read_text().replace("    b = net(second)\n", "    b = a\n")
    (tmp_path / "own.py").write_text(text)
    words = ["record", "--steps", "3", "--out", "mine.trace", "own.py", "none", "9", "second"]
    line = [sys.executable, str(conftest.ROOT / "diagnose"), *words]
    process = subprocess.run(line, cwd=tmp_path, text=True, capture_output=True)
    told = "the features of each photo are subtracted from themselves: own.py:"
    assert process.returncode == 2 and told in process.stderr
    assert "cross_entropy(head(Ends.apply(a - b)), label)" in process.stderr


def test_recording_ends_where_the_next_step_begins(tmp_path):
    hooked = TRAINER.read_text().replace(
        "    loss = ", '    print(f"loss of step {step}", flush=True)\n    loss = '
    )
    (tmp_path / "own.py").write_text(hooked)
    words = ["record", "--steps", "3", "--out", "mine.trace", "own.py", "none", "9", "second"]
    line = [sys.executable, str(conftest.ROOT / "diagnose"), *words]
    process = subprocess.run(line, cwd=tmp_path, text=True, capture_output=True)
    assert re.findall(r"loss of step (\d)", process.stdout) == ["1", "2", "3"]
    update = read_trace(tmp_path / "mine.trace").updates[-1]
    assert update.next is not None  # parameters at the next step, which begins with its photos


@POSIX
@pytest.mark.parametrize("name", conftest.one_of_each(["SIGHUP", "SIGTERM"]))
def test_steps_before_a_signal_that_was_sent_are_kept(name, tmp_path):
    words = command(["record", "--out", "mine.trace"], "hang", "second", 3)
    process = subprocess.Popen(words, cwd=tmp_path, text=True, stderr=subprocess.PIPE,
                               stdout=subprocess.PIPE)  # fmt: skip
    while "step 2" not in process.stdout.readline():
        pass
    time.sleep(0.5)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert f"your trainer was ended by {name}, which it was sent, in step 3" in said
    assert re.search(r"trace   whole steps: 2 -> \S*mine\.trace\n", said)
    assert len(read_trace(tmp_path / "mine.trace").updates) == 2


@POSIX
@pytest.mark.parametrize(
    "words", conftest.one_of_each([("record", "--out", "m.trace"), ("watch",)])
)
def test_a_trainer_that_becomes_another_program_is_no_recording(words, tmp_path):
    code = 2 if words[0] == "record" else 0
    (tmp_path / "own.py").write_text("import os, sys\nos.execv(sys.executable, ['x', '-c', ''])\n")
    line = [sys.executable, str(conftest.ROOT / "diagnose"), *words, "own.py"]
    process = subprocess.run(line, cwd=tmp_path, text=True, capture_output=True)
    assert process.returncode == code and "or exec, code 0" in process.stderr


@pytest.mark.parametrize("own", conftest.one_of_each([7, 0]))
def test_the_trainer_s_own_code_comes_before_that_of_no_recording(own, tmp_path):
    (tmp_path / "own.py").write_text(f"import sys\nsys.exit({own})\n")
    line = [sys.executable, str(conftest.ROOT / "diagnose"), "record", "--out", "m.trace", "own.py"]
    process = subprocess.run(line, cwd=tmp_path, text=True, capture_output=True)
    assert process.returncode == (own or 2) and "no update was seen" in process.stderr


@pytest.mark.parametrize("is_second", [True, False])
def test_kills_of_a_control_group_of_either_version_are_the_cause(is_second, monkeypatch, tmp_path):
    kind, folder = ("", tmp_path) if is_second else ("cpu,memory", tmp_path / "memory")
    events, most = ("memory.events", "memory.max") if is_second else (
        "memory.oom_control", "memory.limit_in_bytes")  # fmt: skip
    (folder / "job").mkdir(parents=True)
    (folder / "job" / most).write_text("3000000000\n")
    plain = watch.read_text
    monkeypatch.setattr(watch, "CONTROL", tmp_path)
    monkeypatch.setattr(watch, "read_text", lambda path: f"4:{kind}:/job\n"
                        if str(path) == "/proc/self/cgroup" else plain(path))  # fmt: skip
    (folder / "job" / events).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    group = watch.control_group()
    assert group == {"limit": 3_000_000_000, "kills": 2}
    memory = watch.Memory(time.monotonic(), 2_900_000_000, 2_950_000_000, 10**9)
    assert len(watch.memory_lines(memory, group)) == 1
    (folder / "job" / events).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    first, cause = watch.memory_lines(memory, group)
    assert "limit 3.0 GB, oom_kill 2 before and 3 after" in first
    assert cause == "  cause   the control group killed a process for memory meanwhile"


def test_the_memory_of_a_device_and_its_late_errors_are_told(monkeypatch, tmp_path):
    notes = watch.Notes(tmp_path, is_new=True)
    recorder = record.Noting(str(tmp_path))
    recorder.notes = notes
    cuda = {"is_initialized": True, "mem_get_info": (3_100_000_000, 8_000_000_000),
            "memory_allocated": 4_200_000_000, "memory_reserved": 4_700_000_000}  # fmt: skip
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    recorder.note_step(None)
    notes.write("error", "RuntimeError: CUDA error: device-side assert triggered")
    notes.write("state", "ended")
    lines = watch.ending(1, notes, watch.Memory(0.0, None, None, None), {}, [])
    assert "  device  4.2 GB allocated, 4.7 GB reserved, 3.1 GB free (after step 1)" in lines
    assert lines[-1] == f"  note    {watch.DEVICE_ERROR}"
    notes.write("error", "RuntimeError: photo 7 is broken")
    lines = watch.ending(1, notes, watch.Memory(0.0, None, None, None), {}, [])
    assert not any(line.startswith("  note") for line in lines)


@pytest.mark.parametrize("code, told", [(-9, 137), (3, 3), (0xC0000005, 0xC0000005 - 2**32)])
def test_the_exit_code_is_one_that_the_system_takes(code, told):
    assert watch.exit_code(code) == told


if __name__ == "__main__":
    import tempfile

    for name in ALL:
        with tempfile.TemporaryDirectory() as place:
            print(name, "|", "; ".join(problems_of(name, place)) or "ok", flush=True)
