"""Checks a dataset before anyone trains, and any other source of labels against its lists.

    python -m diagnose.audit --data data/phototriage
    python -m diagnose.audit --data data/phototriage --labels mine.csv [--columns winner=best ...]
    python -m diagnose.audit --data data/phototriage --labels reviews_labels.csv --align aligned.tsv

The first line is the verdict, the evidence stands below. Exit code 0: healthy or equal, 1: a
defect is established, 2: cannot judge. Labels need no photos: a folder with the lists is enough.

FILE is TSV or CSV with named columns: series, photo_1, photo_2 (numbers, or file names such as
000001-02.JPG, which also tell the series) and label (0: photo_1 is preferred), winner (a photo),
preference (that of photo_1) or votes_1 and votes_2; a `split` column is checked as well. The
columns of reviews_labels.csv and of a pairlist are known; others are named with --columns.
"""

import csv
import hashlib
import re
from collections import Counter, defaultdict
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

from data import find_split, photo_names, read_pairlist
from disk.errors import command_line, stop, stop_on
from disk.files import write_text
from run.scores import ENOUGH, chance_levels, give_verdict, percent

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
TABLE = np.dtype(
    [
        *(("series", "i8"), ("photo_1", "i8"), ("photo_2", "i8"), ("label", "i8")),
        *(("wins_1", "f8"), ("wins_2", "f8"), ("strange_winner", "?"), ("split", "U16")),
    ]
)
UNDECIDED = -1  # label of a pair with as many votes for one as for the other

# --align. The official preferences are close to a Bradley-Terry fit of the votes, with a tenth
# of a vote added on each side: the median difference on the official lists is 0.0045.
ADDED_VOTES, FIT_ERROR, CONFIDENCE = 0.1, 0.005, 0.95


def correlation(label, other):
    """The correlation of two arrays of 0 and 1; 2 x agreement - 1 where one is constant."""
    if len(label) == 0 or label.min() == label.max() or other.min() == other.max():
        return 2 * float(np.mean(label == other)) - 1 if len(label) else 0.0
    return float(np.corrcoef(label, other)[0, 1])


# The dataset itself


def read_official(root):
    """The pairs of train, val and, where it is there, test: {split: (pairs, path, folder)}.

    Also the problems found in the lists, each with file and line.
    """
    official, problems = {}, []
    for split in ("train", "val", "test"):
        found = find_split(root, split, must=split != "test")
        if found is not None:
            pairs, wrong = read_pairlist(found[0], labelled=split != "test")
            official[split] = pairs, *found
            problems += wrong
    return official, problems


def describe_split(split, pairs):
    """One line on a split: counts, balance, chance levels, and how far people agree."""
    text = f"{split}: {len(pairs):,} pairs, {len(np.unique(pairs['series'])):,} series"
    if split == "test" or not len(pairs):
        return f"{text}, no labels"
    labels, preference = pairs["label"], pairs["preference"]
    agreement = np.maximum(preference, 1 - preference)
    strong = agreement >= 0.7 - 1e-9
    text += f", label 1 {labels.sum():,} = {labels.mean():.4f}"
    text += f", {chance_levels(labels)}, agreement with the majority {agreement.mean():.3f}"
    if strong.any():
        text += f" ({agreement[strong].mean():.3f} on {strong.sum():,} pairs with at least 0.7)"
    return f"{text}, {int((preference == 0.5).sum())} ties"


def shared_series(official):
    """Lines on series that stand in more than one of train and val."""
    train, val = (set(official[split][0]["series"].tolist()) for split in ("train", "val"))
    both = sorted(train & val)
    return [f"{len(both)} series stand in train and val, first {both[0]}"] if both else []


def check_photos(official):
    """(defects, remarks) on the photos of the folders that are there."""
    defects, remarks, owner = [], [], defaultdict(set)
    wanted = defaultdict(set)
    for split, (pairs, _, folder) in official.items():
        names, present = photo_names(pairs, folder)
        names = set(names.ravel())
        if not present:
            remarks.append(f"not checked: the photos of {split} ({folder.name}/ is not there)")
            continue
        wanted[folder] |= names
        missing = sorted(names - present)
        if missing:
            defects.append(f"{split}: {len(missing)} photos have no file, first {missing[0]}")
        for name in names & present:
            owner[hashlib.sha256((folder / name).read_bytes()).hexdigest()].add((split, name))
    for folder, names in wanted.items():
        photos = {p.name for p in folder.iterdir() if p.suffix.lower() == ".jpg"}
        unused = sorted(photos - names)
        remarks.append(f"{folder.name}/: {len(photos)} photos, {len(unused)} stand in no pair")
        remarks += photo_sizes([folder / name for name in sorted(photos)])
    twice = [found for found in owner.values() if len({split for split, _ in found}) > 1]
    if twice:
        names = " and ".join(f"{name} ({split})" for split, name in sorted(twice[0]))
        defects.append(f"{len(twice)} photos have equal bytes across splits, first {names}")
    return defects, remarks


def photo_sizes(paths):
    """A line on the sizes of photos, and one on those that are no photos."""
    sizes, broken = [], []
    for path in paths:
        with open(path, "rb") as file:
            head = file.read(12)
        if head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"RIFF")):
            with stop_on(__file__, path, Exception), Image.open(path) as photo:
                sizes.append(photo.size)
        else:
            broken.append(path.name)
    lines = [f"{len(broken)} files are no photos, first {broken[0]}"] if broken else []
    if sizes:
        longest, shortest = [max(s) for s in sizes], [min(s) for s in sizes]
        lines.append(
            f"longer side {min(longest)} to {max(longest)} pixels, shorter side "
            f"{min(shortest)} to {max(shortest)}"
        )
    return lines


def audit_dataset(root):
    """(verdict, exit code, evidence) on the dataset in the official layout under root."""
    official, problems = read_official(root)
    defects, remarks = check_photos(official)
    defects = [*shared_series(official), *defects]
    evidence = [describe_split(split, found[0]) for split, found in official.items()]
    evidence += [*problems[:10], *defects, *remarks]
    if "test" not in official:
        evidence.append("not checked: test (no test_pairlist.txt)")
    if problems:
        return f"{len(problems)} wrong lines in the pairlists", 1, evidence
    if defects:
        return defects[0], 1, evidence
    return "healthy", 0, evidence


# Another source of labels


def read_rows(path):
    """(header, rows, line of the first row) of a TSV, CSV or pairlist; rows are lists of texts.

    Ends the program where it is no such file, naming the line.
    """
    if not path.is_file():
        stop(__file__, f"{path}: no such file")
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    with stop_on(__file__, path, UnicodeDecodeError):
        lines = raw.decode("utf-8").splitlines()
    if not lines:
        stop(__file__, f"{path}: the file is empty")
    delimiter = next((d for d in "\t,;" if d in lines[0]), " ")
    rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    header, first = rows[0], 2
    if delimiter == " " and re.fullmatch(r"[0-9. ]+", lines[0]):
        header, first = list(PAIRLIST[: len(rows[0])]), 1
    for number, row in enumerate(rows[first - 1 :], first):
        if len(row) != len(header):
            stop(__file__, f"{path}:{number}: {len(row)} columns instead of {len(header)}")
    return header, rows[first - 1 :], first


def read_table(path, names):
    """The rows of a labels file, [R] of TABLE, and whether they hold votes or preferences.

    names maps our column names to the file's, where the file's are not among COLUMNS. A pairlist
    needs no header. Ends the program with file and line, or the column, that is wrong.
    """
    header, rows, first = read_rows(path)
    place = {ours: find_column(path, header, ours, names) for ours in COLUMNS}
    place = {ours: column for ours, column in place.items() if column is not None}
    kinds = [("label",), ("winner",), ("rank_1", "rank_2"), ("preference",), ("votes_1", "votes_2")]
    kind = next((kind for kind in kinds if set(kind) <= set(place)), None)
    if kind is None or not {"photo_1", "photo_2"} <= set(place):
        stop(__file__, f"{path}: columns {', '.join(header)}: name ours with --columns; see --help")
    table = []
    for number, row in enumerate(rows, first):
        values = {ours: row[column].strip() for ours, column in place.items()}
        table.append(read_row(values, kind[0], f"{path}:{number}"))
    return np.array(table, dtype=TABLE), kind[0] in ("votes_1", "preference")


def find_column(path, header, ours, names):
    """The position of one of our columns in the header, or None."""
    if ours in names and names[ours] not in header:
        stop(__file__, f"--columns {ours}={names[ours]}: {path} has {', '.join(header)}")
    known = (names[ours],) if ours in names else COLUMNS[ours]
    return next((header.index(name) for name in known if name in header), None)


def read_photo(text, where):
    """(series or None, number) of a photo given by number or by file name."""
    found = re.fullmatch(r"(?:.*?([0-9]{1,9})-)?([0-9]{1,9})(?:\.\w+)?", text)
    if not found:
        stop(__file__, f"{where}: {text!r} is neither a photo number nor a file name")
    return found[1] and int(found[1]), int(found[2])


def read_row(values, kind, where):
    """One row of TABLE from the texts of a line; where names file and line."""
    series, photo_1 = read_photo(values["photo_1"], where)
    _, photo_2 = read_photo(values["photo_2"], where)
    if "series" in values:
        series = read_photo(values["series"], where)[1]
    if series is None:
        stop(__file__, f"{where}: no series, neither as a column nor in the file names")
    strange, wins = False, (0.0, 0.0)
    if kind == "winner":
        _, winner = read_photo(values["winner"], where)
        strange = winner not in (photo_1, photo_2)
        wins = (1.0, 0.0) if winner == photo_1 else (0.0, 1.0)
    elif kind == "label":
        if values["label"] not in ("0", "1", ""):
            stop(__file__, f"{where}: label {values['label']!r} is neither 0, 1 nor empty")
        wins = {"0": (1.0, 0.0), "1": (0.0, 1.0), "": (0.0, 0.0)}[values["label"]]
    else:
        names = ("rank_1", "rank_2") if kind == "rank_1" else ("preference", "votes_1", "votes_2")
        texts = [values[name] for name in names if name in values]
        if not all(re.fullmatch(r"[0-9]*\.?[0-9]+(e-?[0-9]+)?", text) for text in texts):
            stop(__file__, f"{where}: {' '.join(texts)} are no ranks, preference or votes")
        numbers = [float(text) for text in texts]
        wins = (numbers[0], 1 - numbers[0]) if kind == "preference" else tuple(numbers[-2:])
        wins = (numbers[1], numbers[0]) if kind == "rank_1" else wins  # rank 1 is best
    return series, photo_1, photo_2, UNDECIDED, *wins, strange, values.get("split", "")


def merge_orders(table, shift):
    """The table with photo_1 < photo_2, numbers shifted, one row a pair: (table, repeated).

    Votes of rows for one pair are added. repeated counts the pairs that had several rows.
    """
    table = table.copy()
    for side in ("photo_1", "photo_2"):
        table[side] += shift
    turn_pairs(table)
    keys, first, index, counts = np.unique(
        pair_keys(table), return_index=True, return_inverse=True, return_counts=True
    )
    merged = table[first]
    for side in ("wins_1", "wins_2"):
        merged[side] = np.bincount(index, weights=table[side], minlength=len(keys))
    merged["label"] = np.where(merged["wins_1"] > merged["wins_2"], 0, 1)
    merged["label"][merged["wins_1"] == merged["wins_2"]] = UNDECIDED
    return merged, int((counts > 1).sum())


def turn_pairs(table):
    """Puts rows of TABLE, with their wins, into photo_1 < photo_2; [R] which rows were turned."""
    turned = table["photo_1"] > table["photo_2"]
    for a, b in (("photo_1", "photo_2"), ("wins_1", "wins_2")):
        table[a][turned], table[b][turned] = table[b][turned], table[a][turned].copy()
    return turned


def pair_keys(pairs):
    """One whole number per pair (series, photo_1, photo_2)."""
    return (pairs["series"] * 1000 + pairs["photo_1"]) * 1000 + pairs["photo_2"]


def join(table, official):
    """Rows of the table and of the official pairs that are the same pair, as two arrays."""
    rows, places = find_common(table, official)
    return table[rows], official[places]


def find_common(table, official):
    """Where in the table and where in the official pairs the same pairs stand, as two arrays."""
    if (official["photo_1"] > official["photo_2"]).any():
        stop(__file__, "the official lists have photo_1 < photo_2 throughout; these do not")
    _, rows, places = np.intersect1d(pair_keys(table), pair_keys(official), return_indices=True)
    return rows, places


def misread(pairs):
    """The labels that come out where rank_1 is taken for the winner's photo number."""
    return np.where(pairs["rank_1"] == pairs["photo_1"], 0, 1)


def name_relation(mine, pairs, with_votes, alone):
    """(verdict, exit code, evidence) on labels against the official ones of the same pairs.

    mine: rows of TABLE; pairs: the official pairs [P] of PAIR, in the same order; alone: the
    series of one pair, that is of two photos.
    """
    decided = (mine["label"] != UNDECIDED) & ~(with_votes & (pairs["preference"] == 0.5))
    label, truth = mine["label"][decided], pairs["label"][decided]
    count, agree = len(label), int((label == truth).sum())
    phi = correlation(label, truth)
    evidence = [f"labels agree on {percent(agree, count)} decided pairs, correlation {phi:.3f}"]
    if count < ENOUGH:
        return f"cannot judge: only {count} decided pairs in common", 2, evidence
    if mine["strange_winner"].any():
        strange = int(mine["strange_winner"].sum())
        evidence.append(f"the winner is neither photo in {percent(strange, len(mine))} pairs")
    if agree == count:
        return "equal", 0, evidence
    wrong = count - agree
    if (label == misread(pairs[decided])).mean() > 0.995:
        evidence.append(f"label 1 in {label.mean():.4f} of the pairs, truly {truth.mean():.4f}")
        evidence.append("columns 5 and 6 are ranks, 1 = best; the label is 0 where rank_1 < rank_2")
        return f"ranks read as winner ids: {percent(wrong, count)} labels are wrong", 1, evidence
    if phi <= -0.99:
        return f"inverted: {percent(wrong, count)} labels are wrong", 1, evidence
    if abs(phi) < 0.2:
        two = decided & np.isin(pairs["series"], alone)
        return judge_unrelated(mine[two], pairs[two], evidence, percent(agree, count))
    worst = Counter(pairs["series"][decided][label != truth].tolist()).most_common(10)
    worst = ", ".join(f"{series} ({errors})" for series, errors in worst)
    evidence.append(f"series with most wrong labels: {worst}")
    return f"partly wrong: {percent(wrong, count)} labels", 1, evidence


def judge_unrelated(mine, pairs, evidence, agreement):
    """The verdict on labels that do not correlate, from the series of two photos among them.

    There a swap of the numbers keeps the strength |preference - 0.5| and turns its sign: strength
    that correlates while the sign does not proves that the numbers are permuted.
    """
    votes = np.maximum(mine["wins_1"] + mine["wins_2"], 1e-9)
    strength = np.abs(mine["wins_1"] / votes - 0.5)
    if len(mine) >= ENOUGH and strength.std() > 1e-6:
        both = float(np.corrcoef(strength, np.abs(pairs["preference"] - 0.5))[0, 1])
        same = int((mine["label"] == pairs["label"]).sum())
        evidence.append(
            f"series of two photos: strength correlates {both:.4f}, "
            f"the sign agrees on {percent(same, len(mine))}"
        )
        if both > 0.9:
            evidence.append("--align OUT recovers the numbering from the preferences")
            verdict = f"photo numbers permuted within series: labels agree on {agreement}"
            return verdict, 1, evidence
    return f"photo numbers do not match the files: labels agree on {agreement}", 1, evidence


def choose_shift(table, official, base):
    """(shift to official numbers, verdict or None): numbers from 0 on are found out.

    Where base (0 or 1) is told, or the numbers start at 1, and another shift fits far better,
    the verdict is that they are off by one.
    """
    lowest = min(table["photo_1"].min(), table["photo_2"].min())
    shift = 1 - base if base is not None else int(lowest == 0)
    fits = {}
    for candidate in (shift, *({-1, 0, 1} - {shift})):
        mine, pairs = join(merge_orders(table, candidate)[0], official)
        decided = mine["label"] != UNDECIDED
        phi = correlation(mine["label"][decided], pairs["label"][decided])
        fits[candidate] = abs(phi) * len(mine) / len(table)
    best = max(fits, key=fits.get)
    if best != shift and fits[best] > 0.5 > 1.5 * fits[shift]:
        return best, f"photo numbers off by one: {best - shift:+d} makes them match"
    return shift, None


def audit_labels(root, path, names, base):
    """(verdict, exit code, evidence, merged table, official pairs) on a labels file."""
    found, problems = read_official(root)
    if problems:
        stop(__file__, problems[0])
    official = np.concatenate([found[split][0] for split in ("train", "val")])
    table, with_votes = read_table(path, names)
    shift, off_by_one = choose_shift(table, official, base)
    merged, repeated = merge_orders(table, shift)
    mine, pairs = join(merged, official)
    matched = f"{percent(len(mine), len(merged))} pairs of the file are official pairs"
    series, counts = np.unique(official["series"], return_counts=True)
    verdict, code, evidence = name_relation(mine, pairs, with_votes, series[counts == 1])
    evidence.insert(0, f"{matched}; {len(official) - len(mine):,} official pairs are not in it")
    if shift:
        evidence.append(f"photo numbers were shifted by {shift:+d} to the official ones")
    verdicts = [off_by_one] if off_by_one else []
    if len(mine) < len(merged) / 2:
        verdicts.append(f"other pairs: {matched}")
    elif not off_by_one or code:
        verdicts.append(verdict)
    if repeated and with_votes:
        evidence.append(f"{repeated:,} pairs stand in several rows; their votes were added")
    elif repeated:
        verdicts.append(f"both orders counted: {repeated:,} pairs stand more than once")
    split = split_over_pairs(table)
    if split:
        verdicts.append(split)
    if len(verdicts) > 1:
        verdicts = [text for text in verdicts if text != "equal"]
        code = 1
    return "; ".join(verdicts), 1 if off_by_one else code, evidence, merged, official


def split_over_pairs(table):
    """The verdict on a split column that cuts through series, or None."""
    splits = defaultdict(set)
    for row in table[table["split"] != ""]:
        splits[int(row["series"])].add(str(row["split"]))
    cut = sum(len(names) > 1 for names in splits.values())
    return f"a split drawn over pairs: {percent(cut, len(splits))} series are cut" if cut else None


# Alignment of permuted photo numbers


def fit_strengths(wins):
    """Bradley-Terry strengths (logits) [S, n] from wins [S, n, n], row over column."""
    count = wins.shape[1]
    wins = wins + ADDED_VOTES * (1 - np.eye(count))
    games, won, strength = wins + wins.transpose(0, 2, 1), wins.sum(2), np.ones(wins.shape[:2])
    for _ in range(500):  # the classic fixed point; converges slowly where one photo always wins
        strength = won / (games / (strength[:, :, None] + strength[:, None, :])).sum(2)
        strength /= np.exp(np.log(strength).mean(1, keepdims=True))
    return np.log(strength)


def align_series(mine, official):
    """{series: {photo number of the file: official number}}, and the series that cannot be told.

    For each series the permutation whose preferences fit the official ones best, where it is
    CONFIDENCE likely against all others, with errors of FIT_ERROR.
    """
    wins, preferences = defaultdict(dict), defaultdict(dict)
    for row in mine:
        pair = int(row["photo_1"]), int(row["photo_2"])
        wins[int(row["series"])][pair] = float(row["wins_1"]), float(row["wins_2"])
    for row in official:
        pair = int(row["photo_1"]), int(row["photo_2"])
        preferences[int(row["series"])][pair] = float(row["preference"])
    groups = defaultdict(list)
    for series in sorted(set(wins) & set(preferences)):
        photos = [sorted({p for pair in d[series] for p in pair}) for d in (wins, preferences)]
        if len(photos[0]) == len(photos[1]) <= 8:  # 40,320 permutations
            groups[len(photos[0])].append((series, *photos))
    told = {}
    for count, members in groups.items():
        strengths = fit_strengths(
            np.array([square(wins[series], mine_photos) for series, mine_photos, _ in members])
        )
        orders = np.array(list(permutations(range(count))))
        for (series, photos, names), strength in zip(members, strengths, strict=True):
            fitted = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
            order = best_order(fitted, preferences[series], names, orders)
            if order is not None:
                told[series] = {photos[i]: name for i, name in zip(order, names, strict=True)}
    return told, sorted(set(preferences) - set(told))


def square(wins, photos):
    """[n, n] wins of the photo of the row over that of the column."""
    place = {photo: i for i, photo in enumerate(photos)}
    array = np.zeros((len(photos), len(photos)))
    for (photo_1, photo_2), (wins_1, wins_2) in wins.items():
        array[place[photo_1], place[photo_2]] += wins_1
        array[place[photo_2], place[photo_1]] += wins_2
    return array


def best_order(fitted, preferences, names, orders):
    """The order [n] of the file's photos that fits best, or None where it cannot be told."""
    place = {name: i for i, name in enumerate(names)}
    rows = np.array([place[a] for a, _ in preferences])
    columns = np.array([place[b] for _, b in preferences])
    if len(rows) < len(names) * (len(names) - 1) / 2:
        return None
    errors = fitted[orders[:, rows], orders[:, columns]] - np.array(list(preferences.values()))
    cost = (errors**2).sum(1) / (2 * FIT_ERROR**2)
    best = int(cost.argmin())
    return orders[best] if np.exp(cost[best] - cost).sum() < 1 / CONFIDENCE else None


def write_alignment(path, mine, official):
    """Writes the table in official photo numbers to path; the lines that say how it went."""
    told, untold = align_series(mine, official)
    rows = [row.copy() for row in mine if int(row["series"]) in told]
    for row in rows:
        for side in ("photo_1", "photo_2"):
            row[side] = told[int(row["series"])][int(row[side])]
    aligned = merge_orders(np.array(rows, dtype=TABLE), 0)[0]
    lines = ["series\tphoto_1\tphoto_2\tlabel\tvotes_1\tvotes_2\n"]
    for row in aligned:
        label = "" if row["label"] == UNDECIDED else row["label"]
        lines.append("\t".join(map(str, (*row.tolist()[:3], label, *row.tolist()[4:6]))) + "\n")
    write_text(path, "".join(lines))
    ours, pairs = join(aligned, official)
    strong = np.maximum(pairs["preference"], 1 - pairs["preference"]) >= 0.7 - 1e-9
    strong &= ours["label"] != UNDECIDED
    agree = int((ours["label"] == pairs["label"])[strong].sum())
    sizes = Counter(len(photos) for photos in told.values())
    small = sum(count for size, count in sizes.items() if size <= 5)
    by_size = ", ".join(f"{size}: {sizes[size]:,}" for size in sorted(sizes))
    return [
        f"wrote {path}: {len(aligned):,} pairs in official numbers",
        f"recovered the numbering of {len(told):,} series, {small:,} of 2 to 5 photos ({by_size})",
        f"could not tell it for {len(untold):,} series, left out: two permutations fit alike",
        f"the aligned labels agree on {percent(agree, int(strong.sum()))} pairs with at least 0.7",
    ]


def main(argv=None):
    """Gives the verdict after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--data", required=True, help="folder of the dataset; photos may be absent")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="another source of labels")
    parser.add_argument("--columns", nargs="+", default=[], metavar="OURS=THEIRS")
    parser.add_argument("--base", type=int, choices=(0, 1), help="lowest photo number in FILE")
    parser.add_argument("--align", type=Path, metavar="OUT", help="recover permuted photo numbers")
    parser.add_argument("--json", action="store_true", help="the verdict as JSON")
    args = parser.parse_args(argv)
    names = dict(word.partition("=")[::2] for word in args.columns)
    wrong = [name for name in names if name not in COLUMNS]
    if wrong:
        stop(__file__, f"--columns {wrong[0]}: not among {', '.join(COLUMNS)}")
    if args.labels is None:
        give_verdict(*audit_dataset(args.data), args.json)
    if args.align and args.align.exists():
        stop(__file__, f"--align {args.align}: exists already")
    found = audit_labels(args.data, args.labels, names, args.base)
    verdict, code, evidence, mine, official = found
    if args.align:
        evidence += write_alignment(args.align, mine, official)
    give_verdict(verdict, code, evidence, args.json)


if __name__ == "__main__":
    main()
