"""How a program speaks: one line and exit code 2 for what is wrong, progress on stderr."""

import argparse
import functools
import io
import os
import re
import select
import signal
import sys
import time
import warnings
from pathlib import Path

COMMAND = []  # the name of the instrument that runs, as `diagnose compare`


def speaker(source):
    """How a line on stderr begins: with the command of an instrument, else with a file's name."""
    return f"{COMMAND[-1]}: error" if COMMAND else Path(source).name


def stop(source, message):
    """Ends the program with exit code 2 and `speaker: message` as the last line on stderr."""
    say(f"{speaker(source)}: {message}", sys.stderr)
    sys.exit(2)


def say(text, stream, end="\n"):
    """Prints where somebody listens: a closed pipe or terminal does not end a run."""
    if stream is None:
        return
    text = printable(text)
    if stream in (sys.__stdout__, sys.__stderr__) and hasattr(select, "poll"):  # not on Windows
        poll = select.poll()
        poll.register(stream, 0)  # errors and hang-ups are always reported
        if poll.poll(0):
            return
    with listening(stream):
        print(text, file=stream, end=end, flush=True)


def printable(text):
    """A text whose control characters, as those of a file's name, do nothing to a terminal."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


CONTROL = re.compile(r"(?!\A)\r|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # a first \r redraws
PROGRESS, EVERY = {}, 30  # when a line was printed last; seconds between two of them


class listening:  # noqa: N801
    """Context in which a reader that went away meanwhile (a pipe into `head`) ends nothing.

    Where the output itself cannot take what is written, a full disk, one line ends the program.
    """

    def __init__(self, stream):
        self.stream = stream

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if not isinstance(error, OSError) or self.stream is not sys.__stdout__:
            return False
        # what Python flushes at its end goes nowhere either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
        if not isinstance(error, BrokenPipeError):
            stop(__file__, f"the output cannot be written: {error.strerror}")
        return True


def show_progress(text, last=False):
    """Redraws one line on stderr; where stderr is not a terminal, prints one every half minute."""
    if sys.stderr is None:
        return
    if sys.stderr.isatty():
        say(f"\r{text:<78}", sys.stderr, end="\r" + " " * 78 + "\r" if last else "")
        return
    now = time.monotonic()
    if text and now - PROGRESS.setdefault("said", now) >= EVERY:
        PROGRESS["said"] = now
        say(text, sys.stderr)


def command_line(source, doc):
    """An argument parser whose errors are one line; flags cannot be abbreviated."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {COMMAND[-1]}" if COMMAND else None,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if COMMAND:
        parser.add_argument("--debug", action="store_true", help="a traceback of what goes wrong")
    parser.error = lambda message: stop(source, message)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a cp1252 console cannot print every path
        sys.stdout.reconfigure(errors="backslashreplace")
    return parser


class fail_on:  # noqa: N801, reads as a verb where it is used
    """Context in which an error of the given kinds ends the program with one line.

    For the errors that cannot be checked beforehand: a full disk, a damaged file. Whatever the
    error, the file named leftover is removed. Without detail the library's words are left out.
    """

    def __init__(self, source, culprit, *kinds, leftover=None, detail=True):
        self.source, self.culprit, self.kinds = source, culprit, kinds
        self.leftover, self.detail = leftover, detail

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is not None and self.leftover is not None:
            self.leftover.unlink(missing_ok=True)
        if isinstance(error, self.kinds):
            detail = f": {one_line(error)}" if self.detail else ""
            stop(self.source, f"{self.culprit}{detail}")


class warn_on:  # noqa: N801
    """Context in which an error of a library is told in one line and goes no further, nor does an
    error of ours, which has been told.

    For what no run needs: pictures of its curves. An exit that a signal asks for ends the run.
    """

    def __init__(self, culprit):
        self.culprit = culprit

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        is_exit = isinstance(error, SystemExit)
        if isinstance(error, Exception) or (is_exit and error.code not in (2, *BY_SIGNAL)):
            say(f"{self.culprit}: {one_line(error)}", sys.stderr)
        return isinstance(error, Exception) or (is_exit and error.code not in BY_SIGNAL)


BY_SIGNAL = {128 + number for number in signal.Signals}  # codes of an exit that one asks for


class interrupted:  # noqa: N801
    """Context in which Ctrl-C ends the program with one line, exit code 130."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, KeyboardInterrupt):
            say("interrupted", sys.stderr)
            sys.exit(130)


class name_path:  # noqa: N801
    """Context in which a path that the system refuses ends the program with one line on it."""

    def __init__(self, source):
        self.source = source

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, OSError) and error.filename is not None:
            stop(self.source, f"{error.filename}: {error.strerror}")


class speak_as:  # noqa: N801
    """Context in which errors begin with the name of a command; None: with that of a file."""

    def __init__(self, command):
        self.command = command

    def __enter__(self):
        COMMAND.extend([self.command] if self.command else [])

    def __exit__(self, kind, error, traceback):
        COMMAND.clear()


def exit_on_error(main, command=None):
    """A main function in which what nobody foresaw ends the program with one line, exit code 2.

    command: the name of an instrument, with which its errors begin. --debug among its flags
    leaves the traceback of what nobody foresaw.
    """

    @functools.wraps(main)
    def guarded(argv=None):
        source = sys.modules[main.__module__].__file__
        words = sys.argv[1:] if argv is None else argv
        unforeseen = () if command and "--debug" in words else (Exception,)
        unsaid = fail_on(source, "not foreseen", *unforeseen)
        with warnings.catch_warnings(), speak_as(command), interrupted(), unsaid, name_path(source):
            warnings.showwarning = functools.partial(tell_warning, source)
            return main(argv)

    return guarded


def tell_warning(source, message, *place):
    """Tells a warning of a library in one line, without its place in that library."""
    begins = COMMAND[-1] if COMMAND else Path(source).name
    say(f"{begins}: warning: {one_line(message)}", sys.stderr)


def instrument(command):
    """exit_on_error for the main function of `python -m diagnose COMMAND`."""
    return functools.partial(exit_on_error, command=f"diagnose {command}")


def one_line(error):
    """The first line of an exception, with its kind, in at most 300 characters."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:300]
