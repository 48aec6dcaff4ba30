"""Reads the labels and predictions that people bring: TSV, CSV or a pairlist, named columns."""

import csv
import re

import numpy as np

from disk.errors import fail_on, stop
from disk.pairlist import LARGEST_PHOTO, LARGEST_SERIES, LONGEST

COLUMNS = {
    "series": ("series", "series_id"),
    "photo_1": ("photo_1", "compareID1"),
    "photo_2": ("photo_2", "compareID2"),
    "label": ("label",),
    "winner": ("winner",),
    "preference": ("preference",),
    "rank_1": ("rank_1",),
    "rank_2": ("rank_2",),
    "votes_1": ("votes_1", "LEFT"),
    "votes_2": ("votes_2", "RIGHT"),
    "split": ("split",),
}
PAIRLIST = ("series", "photo_1", "photo_2", "preference", "rank_1", "rank_2")
KINDS = [("label",), ("winner",), ("rank_1", "rank_2"), ("preference",), ("votes_1", "votes_2")]
FIELDS = (("series", "i8"), ("photo_1", "i8"), ("photo_2", "i8"), ("label", "i8"))
FIELDS += (("wins_1", "f8"), ("wins_2", "f8"), ("strange_winner", "?"), ("split", "U16"))
TABLE = np.dtype([*FIELDS, ("line", "i8")])
SIDES = ("photo_1", "photo_2")
PHOTO = r"(?:.*?([0-9]{1,9})-)?([0-9]{1,9})(?:\.[A-Za-z]\w*)?"  # a number or a file's name
RANK, AMOUNT = r"[1-9][0-9]{0,8}", r"[0-9]{0,9}\.?[0-9]{1,20}(e-?[0-9]{1,2})?"
UNDECIDED = -1  # label of a pair with as many votes for one as for the other


def read_rows(path):
    """(header, rows, line of the first row) of a TSV, CSV or pairlist; rows are lists of texts.

    Ends the program where it is not such a file, naming the line.
    """
    if not path.is_file():
        stop(__file__, f"{path}: no such file")
    with fail_on(__file__, path, OSError, MemoryError, UnicodeDecodeError):
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        lines = re.split(r"\r\n|\n|\r", raw.decode("utf-8"))  # no other ends a line
    lines = lines[:-1] if not lines[-1] else lines
    if not lines:
        stop(__file__, f"{path}: the file is empty")
    delimiter = next((d for d in "\t,;" if d in lines[0]), " ")
    with fail_on(__file__, path, csv.Error):
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        rows = []
        for row in reader:
            rows.append(row)
            if reader.line_num != len(rows):
                stop(__file__, f"{path}:{len(rows)}: a line break within quotes")
    header, first = rows[0], 2
    if delimiter == " " and re.fullmatch(r"[0-9. ]+", lines[0]):
        header, first = list(PAIRLIST[: len(rows[0])]), 1
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        stop(__file__, f"{path}: two columns are called {twice[:LONGEST]}")
    if len(rows) < first:
        stop(__file__, f"{path}: a header and no rows")
    for number, row in enumerate(rows[first - 1 :], first):
        if len(row) != len(header):
            stop(__file__, f"{path}:{number}: {len(row)} columns instead of {len(header)}")
    return header, rows[first - 1 :], first


def find_column(path, header, ours, names):
    """The position of one of our columns in the header, or None; names: {ours: the file's}."""
    if ours in names and names[ours] not in header:
        stop(__file__, f"--columns {ours}={names[ours]}: {path} has {', '.join(header)[:200]}")
    known = (names[ours],) if ours in names else COLUMNS.get(ours, (ours,))
    there = [name for name in known if name in header]
    if len(there) > 1:
        several = f"both {' and '.join(there)} may be {ours}"
        stop(__file__, f"{path}: {several}; name one with --columns {ours}={there[0]}")
    return header.index(there[0]) if there else None


def add_column_flags(parser, polar):
    """Adds the flags that say how a file's columns are called; polar: those that hold 0 and 1."""
    parser.add_argument("--columns", nargs="+", default=[], metavar="NAME=YOUR_COLUMN")
    text = f"the photo that a 1 in the {polar} columns means (%(default)s)"
    parser.add_argument("--label-1-means", choices=SIDES, default="photo_2", help=text)


def named_columns(words, known):
    """{name: the file's column} of --columns NAME=YOUR_COLUMN; ends the program where a name is
    unknown.
    """
    names = dict(word.partition("=")[::2] for word in words)
    given = [word.partition("=")[0] for word in words]
    wrong = [name for name in given if given.count(name) > 1]
    if wrong:
        stop(__file__, f"--columns {wrong[0]}: given twice")
    wrong = [name for name in names if name not in known]
    if wrong:
        stop(__file__, f"--columns {wrong[0]}: not among {', '.join(known)}")
    return names


def read_photo(text, where):
    """(series or None, number) of a photo given by number or by file name."""
    found = re.fullmatch(PHOTO, text)
    if not found:
        stop(__file__, f"{where}: {text[:LONGEST]!r} is neither a photo number nor a file name")
    if int(found[2]) > LARGEST_PHOTO or int(found[1] or 0) > LARGEST_SERIES:
        limits = f"photos go to {LARGEST_PHOTO}, series to {LARGEST_SERIES}"
        stop(__file__, f"{where}: {text[:LONGEST]!r}: {limits}")
    return found[1] and int(found[1]), int(found[2])


def read_pair(values, where):
    """(series, photo_1, photo_2) from the texts of a line."""
    series, photo_1 = read_photo(values["photo_1"], where)
    other, photo_2 = read_photo(values["photo_2"], where)
    named = {found for found in (series, other) if found is not None}
    if "series" in values:
        if not re.fullmatch(r"[0-9]{1,6}", values["series"]):
            stop(__file__, f"{where}: series {values['series'][:LONGEST]!r} is not an integer")
        series = int(values["series"])
        named.add(series)
    if len(named) > 1:
        stop(__file__, f"{where}: one pair of several series: {', '.join(map(str, sorted(named)))}")
    if series is None:
        stop(__file__, f"{where}: no series, neither as a column nor in the file names")
    if photo_1 == photo_2:
        stop(__file__, f"{where}: photo {photo_1} is paired with itself")
    return series, photo_1, photo_2


def read_columns(path, names, columns, kinds):
    """(the first of kinds whose columns are all there, [(line, where, {ours: text})] of the rows).

    names maps our column names to the file's, where they differ. Ends the program where none of
    the kinds is there, or no photos.
    """
    header, rows, first = read_rows(path)
    place = {ours: find_column(path, header, ours, names) for ours in columns}
    place = {ours: column for ours, column in place.items() if column is not None}
    kind = next((kind for kind in kinds if set(kind) <= set(place)), None)
    if kind is None or not {"photo_1", "photo_2"} <= set(place):
        words = ", ".join(header)[:200]
        text = "it needs photo_1, photo_2 and one of " + ", ".join(map(" ".join, kinds))
        advice = f"its columns are {words}; name them with --columns NAME=YOUR_COLUMN"
        stop(__file__, f"{path}: {text}; {advice}")
    texts = [{ours: row[column].strip() for ours, column in place.items()} for row in rows]
    return kind, [(n, f"{path}:{n}", values) for n, values in enumerate(texts, first)]


def check_label(text, where):
    """Ends the program where the text of a label is neither 0, 1 nor empty."""
    if text not in ("0", "1", ""):
        stop(__file__, f"{where}: label {text[:LONGEST]!r} is neither 0, 1 nor empty")


def is_sound(values, kind):
    """Whether read_wins takes the texts of a kind, so that they can be held against others."""
    texts = [values[name] for name in kind]
    if kind == ("label",):
        return texts[0] in ("0", "1", "")
    if kind == ("winner",):
        named = [re.fullmatch(PHOTO, values[name]) for name in ("winner", *SIDES)]
        return all(named) and len({found[1] for found in named if found[1]}) < 2
    sound = all(re.fullmatch(RANK if kind[0] == "rank_1" else AMOUNT, text) for text in texts)
    return sound and (kind != ("preference",) or float(texts[0]) <= 1)


def check_kinds(values, kinds, where, is_turned):
    """Ends the program where two columns of a line say that other photos are preferred.

    is_turned: whether a label 1 means photo_1.
    """
    said = {}
    for kind in kinds:
        if set(kind) <= set(values) and is_sound(values, kind):
            first, second, strange = read_wins(values, kind, where)
            first, second = (second, first) if kind == ("label",) and is_turned else (first, second)
            if first != second and not strange:
                said[" ".join(kind)] = SIDES[int(first < second)]
    if len(set(said.values())) > 1:
        words = ", ".join(f"{kind} says {side}" for kind, side in said.items())
        stop(__file__, f"{where}: columns contradict each other: {words}; remove all but one")


def read_table(path, names, kinds=KINDS, is_turned=False):
    """The rows of a labels file, [R] of TABLE, and the kind of column that they rest on.

    names maps our column names to the file's, where the file's are not among COLUMNS. A pairlist
    needs no header. is_turned: whether a label 1 means photo_1, which is not applied here. Ends the
    program with file and line, or the column, that is wrong.
    """
    kind, rows = read_columns(path, names, COLUMNS, kinds)
    table = []
    for line, where, values in rows:
        *wins, strange = read_wins(values, kind, where)
        check_kinds(values, kinds, where, is_turned)
        label = UNDECIDED if wins[0] == wins[1] else int(wins[0] < wins[1])
        pair = read_pair(values, where)
        table.append((*pair, label, *wins, strange, values.get("split", ""), line))
    return np.array(table, dtype=TABLE), kind[0]


def read_wins(values, kind, where):
    """(for photo_1, for photo_2, whether the winner is neither photo) of a line."""
    if kind == ("winner",):
        (whose, winner), (own, first), (_, second) = (
            read_photo(values[k], where) for k in ("winner", "photo_1", "photo_2")
        )
        if None not in (whose, own) and whose != own:
            stop(__file__, f"{where}: the winner is of series {whose}, the photos are of {own}")
        photos = first, second
        return float(winner == photos[0]), float(winner != photos[0]), winner not in photos
    texts = [values[name] for name in kind]
    if kind == ("label",):
        check_label(texts[0], where)
        return float(texts[0] == "0"), float(texts[0] == "1"), False
    form = RANK if kind[0] == "rank_1" else AMOUNT
    if not all(re.fullmatch(form, text) for text in texts):
        stop(__file__, f"{where}: {' '.join(texts)[:LONGEST]} are no {' and '.join(kind)}")
    numbers = [float(text) for text in texts]
    if kind == ("preference",):
        if numbers[0] > 1:
            stop(__file__, f"{where}: preference {texts[0]} is not a number from 0 to 1")
        return numbers[0], 1 - numbers[0], False
    first, second = numbers[::-1] if kind[0] == "rank_1" else numbers  # rank 1 is best
    return first, second, False


def inverted(table):
    """A copy of the table in which label 1 means photo_1 where it meant photo_2."""
    table = table.copy()
    decided = table["label"] != UNDECIDED
    table["label"][decided] = 1 - table["label"][decided]
    table["wins_1"], table["wins_2"] = table["wins_2"], table["wins_1"].copy()
    return table


def merge_votes(table):
    """The table with one row a pair, photo_1 < photo_2, the votes of its rows added.

    Also how many pairs had several rows.
    """
    table = table.copy()
    turned = table["photo_1"] > table["photo_2"]
    for a, b in (("photo_1", "photo_2"), ("wins_1", "wins_2")):
        table[a][turned], table[b][turned] = table[b][turned], table[a][turned].copy()
    _, first, index, counts = np.unique(
        pair_keys(table), return_index=True, return_inverse=True, return_counts=True
    )
    merged = table[first]
    for side in ("wins_1", "wins_2"):
        merged[side] = np.bincount(index, weights=table[side], minlength=len(first))
    merged["label"] = np.where(merged["wins_1"] > merged["wins_2"], 0, 1)
    merged["label"][merged["wins_1"] == merged["wins_2"]] = UNDECIDED
    return merged, int((counts > 1).sum())


def pair_keys(pairs):
    """One whole number per pair (series, photo_1, photo_2)."""
    return (pairs["series"] * 1000 + pairs["photo_1"]) * 1000 + pairs["photo_2"]
