"""What a run leaves behind when it dies: last step and phase, stacks, peak memory. Signals.

last_step.txt names the step and phase that were begun last; crash.log, there only after a crash,
holds the stack of every thread, or the traceback; resources.tsv the memory at every save;
step.log (--step-log) one flushed line per phase, for a crash that leaves nothing else.
"""

import ctypes
import faulthandler
import importlib.util
import os
import re
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from disk.errors import fail_on, say

RESOURCES = "epoch step seconds peak_memory_bytes peak_gpu_memory_bytes"
ENDED = "ended"  # the phase of a run that nobody need worry about
# Windows has no SIGHUP.
SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


class Evidence:
    """The open files of a run's evidence, and its lock; a context that closes them.

    Ends the program where another process runs in the folder, and tells on stderr how a run
    that died here was last seen.
    """

    def __init__(self, out, step_log=False):
        self.out, self.started = out, time.monotonic()
        self.lock = lock_folder(out)
        for line in last_words(out):
            say(line, sys.stderr)
        keep_old_crash(out / "crash.log")
        with fail_on(__file__, out, OSError):
            (out / "last_step.txt").touch()  # its text stays until the first mark
            self.last_step = open(out / "last_step.txt", "r+b", buffering=0)
            self.crash = open(out / "crash.log", "w", encoding="utf-8")
            self.step_log = open(out / "step.log", "ab") if step_log else None

    def __enter__(self):
        faulthandler.enable(self.crash)
        return self

    def __exit__(self, kind, error, trace):
        faulthandler.disable()
        if kind is not None and kind is not SystemExit:  # stderr may be lost, crash.log is not
            traceback.print_exception(kind, error, trace, file=self.crash)
        for file in (self.last_step, self.crash, self.step_log, self.lock):
            if file is not None:
                file.close()
        path = self.out / "crash.log"
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()

    def mark(self, epoch, step, phase):
        """Puts on file that this phase of a step (both from 1 on) begins: two system calls."""
        text = f"epoch {epoch}, step {step}, {phase}"
        self.last_step.seek(0)
        self.last_step.write(f"{text:<79}\n".encode())
        if self.step_log:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # else the phase has only been queued
            with fail_on(__file__, self.out / "step.log", OSError):
                self.step_log.write(f"{time.monotonic() - self.started:.4f} {text}\n".encode())
                self.step_log.flush()
                os.fsync(self.step_log.fileno())

    def note_resources(self, epoch, step):
        """Appends a line to resources.tsv: seconds since the start, peak memory in bytes."""
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        seconds = f"{time.monotonic() - self.started:.1f}"
        path = self.out / "resources.tsv"
        lines = [] if path.exists() else [RESOURCES.split()]
        lines.append([str(epoch), str(step), seconds, str(peak_memory()), str(gpu)])
        with fail_on(__file__, path, OSError), open(path, "a", encoding="ascii") as file:
            file.write("".join("\t".join(line) + "\n" for line in lines))


def open_folder(out, step_log):
    """Makes and locks the run folder; its Evidence."""
    with fail_on(__file__, f"--out {out}", OSError):
        out.mkdir(parents=True, exist_ok=True)
    return Evidence(out, step_log)


def lock_folder(out):
    """The open lock of a run folder; the system frees it with the process, however that ends."""
    with fail_on(
        __file__, f"--out {out}: another process runs in it, or it cannot be locked", OSError
    ):
        file = open(out / "run.lock", "a+b")
        if importlib.util.find_spec("fcntl"):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt  # Windows

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    return file


def keep_old_crash(path):
    """Renames the crash.log of an earlier death to crash-1.log, crash-2.log, ..."""
    if path.is_file() and path.stat().st_size:
        number = 1
        while path.with_name(f"crash-{number}.log").exists():
            number += 1
        path.rename(path.with_name(f"crash-{number}.log"))


def last_words(out):
    """What is known of a run that died, in lines; none where it came to its end or was asked."""
    path = out / "last_step.txt"
    text = read_lightly(path).strip()
    if not text or text.endswith(ENDED):
        return []
    lines = [f"the run in {out} died in {text}"]
    rows = read_lightly(out / "resources.tsv").splitlines()[1:]
    form = r"([0-9]+)\t([0-9]+)\t[0-9.]+\t([0-9]+)\t[0-9]+"
    found = re.fullmatch(form, rows[-1]) if rows else None  # a kill may cut the last line
    if found:
        peak = int(found[3]) / 2**20
        lines.append(f"peak memory by epoch {found[1]}, step {found[2]}: {peak:.0f} MiB")
    crash = out / "crash.log"
    if crash.is_file() and crash.stat().st_size:
        count = len(crash.read_text(encoding="utf-8", errors="replace").splitlines())
        return [*lines, f"crash.log holds {count} lines: what every thread was doing"]
    return [*lines, "no crash.log: killed from outside (memory, power), or stopped with one line"]


def read_lightly(path):
    """The text of a file of evidence, which no run needs to go on; empty where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def peak_memory():
    """Peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; getrusage would carry over the parent's peak
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        counters = (ctypes.c_size_t * 9)()  # PROCESS_MEMORY_COUNTERS, 64 bit: [1] is the peak
        size = ctypes.sizeof(counters)
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), counters, size)
        return counters[1]
    import resource  # macOS: bytes; absent on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# Signals


def end_on_signals():
    """Has a signal end the program at once: nothing has begun that it should finish."""
    for number in SIGNALS:
        signal.signal(number, end_at_once)


def end_at_once(number, frame):
    """Handler of a signal where there is nothing to finish, and of a second one."""
    say("ended at once; the same command with --resume goes on", sys.stderr)
    sys.exit(128 + number)


def catch_signals():
    """A list that SIGINT, SIGTERM and SIGHUP append to; a second one ends the program at once."""
    received = []

    def handler(number, frame):
        received.append(number)
        signal.signal(number, end_at_once)
        say("finishing the step, then saving ...", sys.stderr)

    for number in SIGNALS:
        signal.signal(number, handler)
    return received
