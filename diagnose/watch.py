"""Runs a trainer to its end in a process of its own, and says how it died or hung.

    python -m diagnose watch [--out FILE] [--hang 300] my_trainer.py ITS ARGUMENTS

or, where record.py and this file are copied, `python record.py --watch ...`. The trainer is not
changed and keeps its precision; there is no trace. What is told at its death goes to the terminal
and to FILE. `diagnose record` is watched in the same way.

This process imports nothing but the standard library, so that it outlives the trainer. The trainer
notes every op of torch in a small mapped file before it is run.
"""

import argparse
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
GIVEN = "DIAGNOSE_WATCHED"  # environment: the folder of the notes, and how the command is called
HEAD = struct.Struct("<Q")  # ops so far
# texts that a trainer notes
SLOTS = ("where", "op", "line", "device", "error", "state", "parts", "trace")
SLOT = 500  # bytes of each
LOOK = 0.05  # seconds between two looks at the trainer
HANG = 300  # seconds without an op, after which the stacks are told
WAIT = 0.5  # seconds for the stacks of a process to be written
GB = 1e9
CONTROL, ENDLESS = Path("/sys/fs/cgroup"), 2**60  # bytes of a limit that is none
# of control groups of both versions: the kind in /proc, files of the kills and of the limit
GROUPS = (("", "memory.events", "memory.max"),
          ("memory", "memory.oom_control", "memory.limit_in_bytes"))  # fmt: skip
SIGNALS = {"SIGSEGV": "segmentation fault", "SIGABRT": "abort", "SIGBUS": "bus error",
           "SIGFPE": "arithmetic error", "SIGILL": "illegal instruction", "SIGKILL":
           "killed by the system or by somebody"}  # fmt: skip
# statuses of Windows
STATUSES = {0xC0000005: "access violation", 0xC00000FD: "stack overflow", 0xC0000374:
            "heap corruption", 0xC0000135: "a DLL was not found", 0xC0000139:
            "an entry point of a DLL was not found", 0xC0000409: "abort, or a damaged stack",
            0xC000001D: "illegal instruction", 0xC0000094: "division by zero", 0xC000013A:
            "Ctrl-C"}  # fmt: skip
ASKED = ("SIGINT", "SIGTERM", "SIGHUP")  # that the trainer is sent as well
DEVICE_ERROR = ("an error of a CUDA device is noticed later than it happens: set "
                "CUDA_LAUNCH_BLOCKING=1 for the exact op")  # fmt: skip


class Notes:
    """The mapped file in which a trainer notes what it does; both processes open it."""

    def __init__(self, folder, is_new=False):
        self.path = Path(folder) / "notes"
        if is_new:
            self.path.write_bytes(bytes(HEAD.size + SLOT * len(SLOTS)))
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.count = 0

    def write(self, name, text):
        """Notes a text, cut to its slot."""
        data = text.encode("utf-8", "replace")[: SLOT - 2]
        first = HEAD.size + SLOT * SLOTS.index(name)
        self.memory[first : first + 2 + len(data)] = struct.pack("<H", len(data)) + data

    def read(self, name):
        """The text of a slot."""
        first = HEAD.size + SLOT * SLOTS.index(name)
        (count,) = struct.unpack("<H", self.memory[first : first + 2])
        return self.memory[first + 2 : first + 2 + count].decode("utf-8", "replace")

    def tick(self):
        """Notes that one more op begins."""
        self.count += 1
        HEAD.pack_into(self.memory, 0, self.count)

    def ticks(self):
        """How many ops have begun."""
        return HEAD.unpack_from(self.memory, 0)[0]


class Memory(NamedTuple):
    """What is known of memory at a moment, bytes; None where the system does not say it."""

    at: float  # time.monotonic
    resident: int | None
    peak: int | None
    available: int | None


def read_text(path):
    """The text of a file of the system; "" where it is not there."""
    return Path(path).read_text() if os.access(path, os.R_OK) else ""


def field(text, name):
    """The number behind a name in lines of `name number`; None where there is none."""
    lines = (line.split() for line in text.splitlines())
    return next((int(words[1]) for words in lines if words[:1] == [name]), None)


def look(pid):
    """The Memory of a process; all None where there is no /proc, or it has ended."""
    status, system = read_text(f"/proc/{pid}/status"), read_text("/proc/meminfo")
    sizes = field(status, "VmRSS:"), field(status, "VmHWM:"), field(system, "MemAvailable:")
    return Memory(time.monotonic(), *(size and size * 1024 for size in sizes))


def control_group():
    """{limit: bytes or None, kills: how often it killed for memory} of its control group, or {}."""
    lines = [line.split(":", 2) for line in read_text("/proc/self/cgroup").splitlines()]
    for version, events, most in GROUPS:
        root = CONTROL / ("memory" * (version == "memory"))
        paths = [path.lstrip("/") for _, kind, path in lines if version in kind.split(",")]
        for folder in [root / path for path in paths] + [root]:
            kills = field(read_text(folder / events), "oom_kill")
            if kills is not None:
                limit = read_text(folder / most).strip()
                limit = int(limit) if limit.isdigit() and int(limit) < ENDLESS else None
                return {"limit": limit, "kills": kills}
    return {}


def interpreter():
    """How to start this Python with its own options."""
    return [sys.executable, *subprocess._args_from_interpreter_flags()]


def run(words, name, hang=HANG, out=None):
    """Runs record.py with these words as a child; gives the exit code. out: a file for the report.

    name: how the command is called, for its errors.
    """
    folder = tempfile.mkdtemp(prefix="diagnose-")
    notes, group = Notes(folder, is_new=True), control_group()
    environment = os.environ | {GIVEN: os.pathsep.join([folder, name])}
    command = [*interpreter(), str(HERE / "record.py"), *words]
    child = subprocess.Popen(command, env=environment)
    asked = []
    numbers = [getattr(signal, name) for name in ASKED if hasattr(signal, name)]
    heard = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]  # as nohup has it
    passed_on = {n: signal.signal(n, lambda n, frame: pass_on(child, n, asked)) for n in heard}
    memory = follow(child, notes, folder, hang, name, out)
    for number, before in passed_on.items():
        signal.signal(number, before)
    lines = ending(child.returncode, notes, memory, group, asked)
    told, parts = bool(lines), notes.read("parts")
    lines += stack_of(folder) if told else []
    lines += join(parts, told) if parts and os.path.isdir(parts) else []
    tell(lines, name, out)
    is_lost = (
        words[:1] != ["--watch"] and notes.read("state") == "begun" and not notes.read("trace")
    )
    notes.memory.close()
    shutil.rmtree(folder, ignore_errors=True)
    return exit_code(child.returncode) or 2 * is_lost


def pass_on(child, number, asked):
    """Has a signal reach the trainer; a terminal sends its Ctrl-C to both."""
    asked.append(number)
    if number != signal.SIGINT and child.poll() is None:
        child.send_signal(number)


def follow(child, notes, folder, hang, name, out):
    """Waits for the end of a child; gives the last Memory that was seen. Tells of a hang once."""
    memory, ticks, since, told = look(child.pid), 0, time.monotonic(), False
    while child.poll() is None:
        now = look(child.pid)
        memory = now if now.resident else memory
        if notes.ticks() != ticks:
            ticks, since, told = notes.ticks(), time.monotonic(), False
        elif time.monotonic() - since > hang and not told and notes.read("state") == "begun":
            told = True
            tell([*hanging(notes, hang), *stack_of(folder, child)], name, out)
        time.sleep(LOOK)
    return memory


def stack_of(folder, child=None):
    """The stacks that a trainer wrote, as lines; child: a trainer that is to write them now."""
    path = Path(folder) / "stack"
    if child is not None and path.is_file() and hasattr(signal, "SIGRTMIN"):
        os.truncate(path, 0)  # the trainer appends
        for pid in (child.pid, *workers_of(child.pid)):  # one after the other, into one file
            os.kill(pid, signal.SIGRTMIN + 7)
            time.sleep(WAIT)
    threads = [part for part in read_text(path).split("\n\n") if "in end_with" not in part]
    lines = [line for part in threads for line in part.splitlines()]
    lines = [line for line in lines if line and "Extension modules:" not in line]
    return ["  stack", *(f"    {line}" for line in lines)] if lines else []


def workers_of(pid):
    """The processes that one has forked and that write their stacks as it does."""
    bit, found = signal.SIGRTMIN + 6, []
    for one in map(int, read_text(f"/proc/{pid}/task/{pid}/children").split()):
        caught = read_text(f"/proc/{one}/status").partition("SigCgt:")[2].split()
        found += [one] * bool(caught and int(caught[0], 16) >> bit & 1)  # others would die of it
    return found


def join(parts, told):
    """Has the whole steps of a dead recording joined into its trace; gives what is said of it."""
    steps = sorted(Path(parts).glob("*.part"))
    out = str(parts).rpartition(".parts")[0].rpartition(".")[0]
    if told and steps and not os.path.lexists(out):
        command = [*interpreter(), str(HERE / "record.py"), "--join", str(parts), "--out", out]
        if subprocess.run(command, capture_output=True).returncode == 0:
            shutil.rmtree(parts, ignore_errors=True)
            return [f"  trace   whole steps: {len(steps)} -> {out}"]
    shutil.rmtree(parts, ignore_errors=True)
    return ["  trace   no whole step was recorded"] if told else []


def exit_code(code):
    """The exit code for a child's: 128 + n where a signal ended it; a status of Windows, signed."""
    return 128 - code if code < 0 else code - 2**32 * (code >= 2**31)


def place_of(notes):
    """Lines on where a trainer was last."""
    op, line, device = (notes.read(name) for name in ("op", "line", "device"))
    lines = [f"  op      {op or 'no op of torch was seen'}", *[f"  line    {line}"] * bool(line)]
    return lines + [f"  device  {device}"] * bool(device)


def how(code, state):
    """How a process ended, in words; "" where it ended as Python does."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        words = f" ({SIGNALS[name]})" if name in SIGNALS else ""
        return f"was killed by {name}{words}"
    if code in STATUSES:
        return f"was ended by Windows with status 0x{code:08X} ({STATUSES[code]})"
    if state == "begun":
        return (f"was ended by os._exit, a library's exit or exec, code {code}: no Python "
                "exception, and exit handlers did not run")  # fmt: skip
    return ""


def ending(code, notes, memory, group, asked):
    """Lines on how a trainer died; [] where it ended by itself or was asked to."""
    state, error, where = (notes.read(name) for name in ("state", "error", "where"))
    words = how(code, state)
    if code < 0 and -code in asked:
        words = f"was ended by {signal.Signals(-code).name}, which it was sent,"
    if not words and error and error.partition(":")[0] not in ("SystemExit", "KeyboardInterrupt"):
        words = f"ended with {error}"
    if not words:
        return []
    lines = [f"your trainer {words} {where or 'before its first step'}", *place_of(notes)]
    lines += memory_lines(memory, group)
    lines += [f"  note    {DEVICE_ERROR}"] * ("CUDA error" in error)
    return lines


def memory_lines(memory, group):
    """Lines on the memory before a death, no more than is known."""
    if not memory.resident:
        return []
    peak, free = (memory.peak or 0) / GB, (memory.available or 0) / GB
    ago = time.monotonic() - memory.at
    text = f"  memory  {memory.resident / GB:.1f} GB resident (peak {peak:.1f}); {free:.1f} GB "
    text += f"were available {ago:.2f} s before"
    if not group:
        return [f"{text} (no control group says whether it killed)"]
    limit = f"limit {group['limit'] / GB:.1f} GB" if group["limit"] else "no limit"
    after = control_group().get("kills", group["kills"])
    text += f" (control group: {limit}, oom_kill {group['kills']} before and {after} after)"
    cause = "  cause   the control group killed a process for memory meanwhile"
    return [text, *[cause] * (after > group["kills"])]


def hanging(notes, hang):
    """Lines on a trainer that does nothing."""
    where = notes.read("where") or "before its first step"
    return [f"no op of torch for {hang:g} s {where}; waiting on", *place_of(notes)]


def tell(lines, name, out):
    """Prints lines to stderr, and adds them to a file, if there is one."""
    if not lines:
        return
    text = "\n".join([f"{name}: {lines[0]}", *lines[1:], ""])
    text = text.encode("ascii", "backslashreplace").decode()
    if sys.stderr is not None:
        print(text, end="", file=sys.stderr, flush=True)
    if out is not None:
        with open(out, "a", encoding="utf-8") as file:
            file.write(text)


def record(words, name="record.py"):
    """`record` as a watched child; ends the program with its exit code."""
    if words[:1] == ["--watch"]:
        main(words[1:], name)
    sys.exit(run(words, name))


def main(argv=None, name="diagnose watch"):
    """Watches after the command line."""
    usage = f"{name} [--out FILE] [--hang SECONDS] script ITS ARGUMENTS"
    parser = argparse.ArgumentParser(name, usage, __doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, help="a new file for what is told of the end")
    text = "seconds without an op after which stacks are told (%(default)s)"
    parser.add_argument("--hang", type=float, default=HANG, help=text)
    parser.add_argument("script", help="the trainer: a file, or a module as `python -m` takes it")
    parser.error = lambda message: refuse(name, message)
    own, theirs = split(sys.argv[1:] if argv is None else argv, ("--out", "--hang"))
    args = parser.parse_args(own)
    if args.out is not None and os.path.lexists(args.out):
        refuse(name, f"--out {args.out}: exists already; give another name, or remove it")
    if args.out is not None and not os.access(args.out.absolute().parent, os.W_OK):
        refuse(name, f"--out {args.out}: its folder cannot be written to")
    words = ["--watch", args.script, *theirs]
    sys.exit(run(words, name, args.hang, args.out and args.out.absolute()))


def split(words, flags):
    """(words of the command itself up to the script, the trainer's own as they are).

    flags: those of the command that take a value. argparse would take a `--` of the trainer away.
    """
    place = 0
    while place < len(words) and words[place][:1] == "-" and words[place] != "--":
        place += 1 + (words[place] in flags)
    place += words[place : place + 1] == ["--"]
    return words[: place + 1], words[place + 1 :]


def refuse(name, message):
    """Ends the program with one line, exit code 2."""
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(2)
