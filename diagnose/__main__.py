"""Explains somebody else's trainer, labels or predictions.

    python -m diagnose COMMAND ...             in the folder of this project
    python PATH/TO/diagnose COMMAND ...        in any other

COMMAND --help says more.
"""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# command: (module, what it does)
COMMANDS = {
    "record": ("diagnose.record", "records the first steps of any trainer, unchanged"),
    "watch": ("diagnose.watch", "says how a trainer dies or hangs"),
    "compare": ("diagnose.compare", "explains a recorded trainer as the reference with changes"),
    "dataset": ("diagnose.dataset", "checks a dataset: lists, photos, splits"),
    "labels": ("diagnose.labels.judge", "compares a file of labels with the official lists"),
    "predictions": ("diagnose.predictions.judge", "judges a file of predictions"),
}


def usage():
    """The commands, each with a sentence."""
    lines = [f"    {name:12} {words}" for name, (_, words) in COMMANDS.items()]
    return __doc__.replace("COMMAND --help", "\n".join([*lines, "", "COMMAND --help"]))


def main(argv):
    """Runs a command."""
    command, *words = argv or ["--help"]
    if command in ("-h", "--help"):
        print(usage(), end="")
        sys.exit(0)
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"diagnose: error: {command}: not a command; it is one of {known}", file=sys.stderr)
        sys.exit(2)
    sys.path[0] = str(HERE.parent)
    with importlib.import_module("disk.errors").interrupted():  # imports take seconds
        run(command, words)


def run(command, words):
    """Runs a command that there is."""
    if command == "record":  # as a process of its own, in which the trainer finds nothing of ours
        importlib.import_module("diagnose.watch").record(words, "diagnose record")
    importlib.import_module(COMMANDS[command][0]).main(words)


if __name__ == "__main__":
    main(sys.argv[1:])
