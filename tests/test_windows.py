"""The suite, a run, Ctrl-C, resuming and scoring without what Windows lacks, and in cp1252."""

import os
import signal
import subprocess
import sys

import conftest
import pytest
from test_run import COMPARED, same

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="is Windows")
# Runs before all else in a process, as its sitecustomize. The lock is msvcrt's, on os.lockf.
WITHOUT = """
import os, select, signal, subprocess, sys, types

for name in ("fcntl", "resource"):
    sys.modules[name] = None  # to import it raises ImportError
for owner, names in (
    (signal, "SIGHUP SIGKILL SIGALRM alarm"),
    (select, "poll"),
    (os, "fork getuid geteuid setresuid mkfifo"),
):
    for name in names.split():
        if hasattr(owner, name):
            delattr(owner, name)
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=os.F_TLOCK, locking=os.lockf)
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(encoding="cp1252")
"""


@pytest.fixture
def windows(tmp_path):
    """windows(*command, die): exit code, stdout and stderr of a process without POSIX."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT)

    def run(*command, die=""):
        paths = os.pathsep.join([str(tmp_path / "without"), str(conftest.ROOT)])
        environment = os.environ | {"PYTHONPATH": paths} | ({"DIE": die} if die else {})
        command = [sys.executable, *map(str, command)]
        options = {"cwd": conftest.ROOT, "env": environment, "capture_output": True}
        ended = subprocess.run(command, timeout=100, **options)
        return ended.returncode, ended.stdout.decode("cp1252"), ended.stderr.decode("cp1252")

    return run


@pytest.mark.full
def test_the_suite_is_collected_without_posix(windows):
    code, said, errors = windows("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
    assert code == 0 and "tests collected" in said, (said[-2000:], errors)


def test_a_run_is_trained_interrupted_resumed_and_scored_without_posix(windows, train, demo):
    whole = train("whole")
    run, places = whole.with_name("run \u03b1"), ["--data", demo, "--store", whole.parent / "other"]
    program = [conftest.ROOT / "tests" / "tiny.py"]
    flags = [*program, "train_resnet", *conftest.SMALL, *places, "--out", run]
    code, _, errors = windows(*flags, die="run.loop.take_batch:3:before:SIGINT")
    assert code == 128 + signal.SIGINT and "saved in epoch 1 with 3 steps done" in errors, errors
    code, said, errors = windows(*flags, "--resume")
    assert code == 0 and "going on in epoch 1 with 3 steps done" in said, errors
    assert same(run, whole, COMPARED) == []
    code, said, errors = windows(*program, "eval", "--run", run, *places)
    assert (code, errors) == (2, "") and f"wrote {run.parent}" in said  # 4 pairs are too few
    predictions = (run / "predictions_val.tsv").read_bytes()
    assert predictions == (whole / "predictions.tsv").read_bytes()
