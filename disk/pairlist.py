"""The lines of a pairlist as texts, every one checked; data.py says what they mean."""

import re

from disk.errors import fail_on

LARGEST_SERIES, LARGEST_PHOTO = 999_999, 99  # what the names %06d-%02d.JPG can hold
DATASET = "https://www.kaggle.com/datasets/ericwolter/triage"  # a mirror, see docs/dataset.md
LONGEST = 60  # characters of a field that are quoted


def read_lines(path, columns):
    """The sound lines of a pairlist, (number from 1 on, fields as texts), and the problems.

    columns: 6, or 3 for a list without labels. Each problem names file and line: fields that
    cannot be, a pair that is listed twice, a photo with two ranks (whose line is kept).
    """
    lines, problem = read_text(path)
    problems, pairs, ranks, sound = [problem] if problem else [], {}, {}, []
    for number, line in enumerate(lines, 1):
        fields = re.findall(r"[^ \t\r]+", line)  # nothing else parts them
        problem = line_problem(fields, columns) or repeated(fields, pairs, number)
        if problem:
            problems.append(f"{path.name}:{number}: {problem}")
            continue
        sound.append((number, fields))
        series, *photos = map(int, fields[:3])
        for photo, rank in zip(photos, map(int, fields[4:]), strict=False):
            before = ranks.setdefault((series, photo), rank)
            if before != rank:
                problem = f"photo {photo} of series {series} has rank {rank}, before {before}"
                problems.append(f"{path.name}:{number}: {problem}")
    return sound, problems


def repeated(fields, pairs, number):
    """The problem of a pair that is in an earlier line, in either order, or None."""
    series, photo_1, photo_2 = map(int, fields[:3])
    first = pairs.setdefault((series, *sorted((photo_1, photo_2))), number)
    if first != number:
        return f"photos {photo_1}, {photo_2} of series {series} are in line {first} already"
    return None


def read_text(path):
    """The lines of an ASCII text file and, where it cannot be one, the problem (else None)."""
    if not path.is_file():
        return [], f"{path}: no such file"
    with fail_on(__file__, path, OSError, MemoryError):
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        return [], f"{path}: the file is empty"
    if b"\0" in raw or raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return [], f"{path}: not a text file in UTF-8 (binary or UTF-16)"
    if not raw.isascii():
        line = next(n for n, text in enumerate(raw.split(b"\n"), 1) if not text.isascii())
        return [], f"{path}:{line}: a pairlist holds numbers only"
    return raw.decode("ascii").rstrip().split("\n"), None


def line_problem(fields, columns):
    """What is wrong with the fields of one pairlist line, or None."""
    if len(fields) != columns:
        return f"{len(fields)} columns instead of {columns}"
    numbers = fields[:3] + fields[4:]
    for text in numbers:
        if not re.fullmatch(r"[0-9]{1,9}", text):
            return f"{text[:LONGEST]!r} is not a whole number from 1 on"
    series, photo_1, photo_2, *ranks = map(int, numbers)
    if not 1 <= series <= LARGEST_SERIES:
        return f"series {series} is not in 1..{LARGEST_SERIES}"
    for kind, number in [("photo", photo_1), ("photo", photo_2), *(("rank", r) for r in ranks)]:
        if not 1 <= number <= LARGEST_PHOTO:
            return f"{kind} {number} is not in 1..{LARGEST_PHOTO}"
    if photo_1 == photo_2:
        return f"photo {photo_1} is paired with itself"
    return preference_problem(fields[3], *ranks) if ranks else None


def preference_problem(text, rank_1, rank_2):
    """What is wrong with a preference and the two ranks of its line, or None."""
    is_number = re.fullmatch(r"[0-9]*\.?[0-9]+(e-?[0-9]+)?|[0-9]+\.", text)
    if not is_number or not 0 <= float(text) <= 1:
        return f"preference {text[:LONGEST]!r} is not a number from 0 to 1"
    if rank_1 == rank_2:
        return f"both photos have rank {rank_1}"
    preference = float(text)
    if preference != 0.5 and (rank_1 < rank_2) != (preference > 0.5):
        text = f"preference {text[:LONGEST]} and ranks {rank_1}, {rank_2} (1 = best)"
        return f"{text} contradict each other"
    return None
