"""What a run leaves behind when it dies: last step and phase, stacks, peak memory.

last_step.txt names the step and phase that were begun last; crash.log, there only after a crash,
holds the stack of every thread, or the traceback; resources.tsv the memory at every save;
step.log (--step-log) one flushed line per phase, for a crash that leaves nothing else.
"""

import atexit
import ctypes
import faulthandler
import os
import sys
import time
import traceback
from pathlib import Path

import torch

from data import stop_on

RESOURCES = "epoch step seconds peak_memory_bytes peak_gpu_memory_bytes"
ENDED = "ended"  # the phase of a run that nobody need worry about


class Evidence:
    """The open files of a run's evidence; `mark` names what begins."""

    def __init__(self, out, step_log=False):
        self.out, self.started = out, time.monotonic()
        (out / "last_step.txt").touch()  # its text stays until the first mark
        self.last_step = open(out / "last_step.txt", "r+b", buffering=0)  # noqa: SIM115
        self.crash = open(out / "crash.log", "a", encoding="utf-8")  # noqa: SIM115
        self.step_log = open(out / "step.log", "ab") if step_log else None  # noqa: SIM115
        faulthandler.enable(self.crash)
        sys.excepthook = self.write_traceback
        atexit.register(self.close)

    def mark(self, epoch, step, phase):
        """Puts on file that this phase of a step (both from 1 on) begins: two system calls."""
        text = f"epoch {epoch}, step {step}, {phase}"
        self.last_step.seek(0)
        self.last_step.write(f"{text:<79}\n".encode())
        if self.step_log:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # else the phase has only been queued
            with stop_on(__file__, self.out / "step.log", OSError):
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
        with stop_on(__file__, path, OSError), open(path, "a", encoding="ascii") as file:
            file.write("".join("\t".join(line) + "\n" for line in lines))

    def write_traceback(self, kind, error, trace):
        """The hook for an exception that nobody expected: stderr may be lost, crash.log not."""
        traceback.print_exception(kind, error, trace, file=self.crash)
        self.crash.flush()
        sys.__excepthook__(kind, error, trace)

    def close(self):
        """Closes the files; an empty crash.log goes."""
        if self.crash.closed:
            return
        faulthandler.disable()
        sys.excepthook = sys.__excepthook__
        for file in (self.last_step, self.crash, *([self.step_log] if self.step_log else [])):
            file.close()
        path = self.out / "crash.log"
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()


def last_words(out):
    """What is known of a run that died, in lines; none where it came to its end or was asked."""
    path = out / "last_step.txt"
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    if not text or text.endswith(ENDED):
        return []
    lines = [f"the run in {out} died in {text}"]
    if (out / "resources.tsv").is_file():
        row = (out / "resources.tsv").read_text(encoding="ascii").splitlines()[-1].split("\t")
        lines.append(f"peak memory by epoch {row[0]}, step {row[1]}: {int(row[3]) / 2**20:.0f} MiB")
    crash = out / "crash.log"
    if crash.is_file() and crash.stat().st_size:
        count = len(crash.read_text(encoding="utf-8", errors="replace").splitlines())
        return [*lines, f"crash.log holds {count} lines: what every thread was doing"]
    return [*lines, "no crash.log: killed from outside (memory, power), or stopped with one line"]


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
