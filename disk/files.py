"""Files that are written whole or not at all."""

import os
import shutil
from pathlib import Path
from uuid import uuid4

from disk.errors import fail_on, stop

LONGEST_NAME = 255 - len(
    f".{uuid4().hex}.part"
)  # bytes, of a file that is written under another name first


def check_new(flag, path):
    """Ends the program where the file of a flag is there already, or could not be written.

    path None: the flag was not given.
    """
    if path is None:
        return
    parent = path.absolute().parent
    if os.path.lexists(path):
        stop(__file__, f"{flag} {path}: exists already")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        stop(__file__, f"{flag} {path}: a name has at most {LONGEST_NAME} bytes")
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        stop(__file__, f"{flag} {path}: {parent} is not a folder that can be written to")


def replace_file(path, write, there=lambda: False):
    """Calls write(file) on a new file, flushes it to disk and renames it over path.

    The new file is in the same folder and has a name that did not exist, so no link is followed and
    nothing else is overwritten. A kill at any moment leaves the old file or the new one, whole; a
    full disk leaves the old one and ends the program with one line. Where there() by then another
    process has written the same file, which it may hold open (Windows replaces no such file), that
    one stays.
    """
    part = Path(f"{path}.{uuid4().hex}.part")
    culprit = f"{path}: cannot be written in full, what was there stays"
    with fail_on(__file__, culprit, OSError, RuntimeError, leftover=part):
        with open(part, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if there():
            part.unlink()
        else:
            os.replace(part, path)


def write_text(path, text):
    """Replaces a UTF-8 text file, whole or not at all."""
    replace_file(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_table(path, rows):
    """Replaces a tab-separated file: rows of texts, the first of them the names of the columns."""
    write_text(path, "".join("\t".join(row) + "\n" for row in rows))


def check_space(folder, needed, purpose):
    """Ends the program where the disk of folder has less than needed bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        stop(__file__, f"{folder}: {purpose} needs {needed} bytes, the disk has {free} free")
