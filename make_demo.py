"""A small seeded dataset in the official layout, for a first run without downloads.

    python make_demo.py --out data/demo --series 120 --seed 0

A person before houses or the sea, drawn; 2 to 4 shots a series, each more or less blurred,
tilted, too light or too dark, or with the person cut off; preferences follow the amounts, with
some human noise. Equal seeds give equal bytes. --like takes series and ranks of official lists;
--series N with it draws N series of the training list and keeps the other lists whole.
"""

import io
import os
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter

from data import read_pairlist
from disk.errors import command_line, exit_on_error, fail_on, say, show_progress, stop

SIDES = (480, 640, 800)  # longer side, pixels; the official photos fit in 800 x 800
STRENGTH = 6.0  # of a full amount of defect, in units of the logit of a preference
HUMAN_NOISE = 0.5  # deviation of a shot's strength between people, same units
BLUR, TILT, CUT = 1 / 36, 9, 0.44  # in full: part of a side, degrees, part of the width
STOPS = 1.2, -2.2, -2.2, -2.2  # exposure in full: too light, more often too dark
DEFAULT_SERIES = 120
SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}  # of the series
# A sky: its colors above and at the horizon, and the light on all that is below it.
SKIES = ("#3e76be #c4d8e8 #fffffa", "#546096 #f6be8c #ffe0c2", "#96a0ac #d0d4d8 #e0e6ea")
COLORS = {
    "skin": "bisque burlywood peru sienna", "hair": "#32241a #7a562e #1e1c1c #c09a5c",
    "shirt": "firebrick steelblue goldenrod linen indigo salmon teal", "hull": "navy maroon white",
    "trousers": "#2a3350 #4a4a50 #54402e", "wall": "antiquewhite wheat gainsboro #e0b8a0",
    "roof": "#8c4a3a #6e4638 #5a5c66", "leaf": "#41702a #5a7c32 #33602c #6c8438",
}  # fmt: skip
# Parts: color, brightness, x and y (up) of the corners in hundredths; two corners: an ellipse.
PERSON = """#141a1466 1 -28 3 28 -3|trousers 1 -13 50 -12 2 -2 2 0 42 2 2 12 2 13 50
#2a2422 1 -15 4 -1 0|#2a2422 1 1 4 15 0|skin 1 -21 46 -14 38|skin 1 14 46 21 38
shirt .85 -16 80 -23 60 -20 42 -15 42 -16 60 -10 72|shirt .8 16 80 23 60 20 42 15 42 16 60 10 72
shirt 1 -16 80 -6 84 6 84 16 80 13 46 -13 46|skin .9 -4 88 -4 82 0 80 4 82 4 88
hair 1 -9 102 9 86|skin 1 -7.5 99 7.5 82|#2a1a14 1 -4 93 -2 91|#2a1a14 1 2 93 4 91
#a05048 1 -3 87.4 3 86"""
HOUSE = """#141a1455 1 -30 6 240 -10|#70503c 1 170 55 170 120 185 120 185 55
wall .78 100 0 100 60 210 60 210 0|wall 1 0 0 0 60 50 105 100 60 100 0
roof 1 50 110 106 56 220 56 166 110|roof .7 50 102 -6 52 -6 60 50 110 106 60 106 52
#402c20 1 40 0 40 42 60 42 60 0"""
for left, bright in ((10, 1), (68, 1), (120, 0.9), (168, 0.9)):
    HOUSE += f"|white {bright} {left} 20 {left} 46 {left + 22} 46 {left + 22} 20"
    HOUSE += f"|#465a6e 1 {left + 3} 23 {left + 3} 43 {left + 19} 43 {left + 19} 23"  # glass
BOAT = """#10283855 1 -50 3 50 -6|#5a4632 1 -2 10 -2 100 2 100 2 10|white 1 4 98 4 20 50 20
white .88 -4 90 -4 20 -34 20|hull .9 -42 14 52 14 36 0 -34 0"""
TREE = "#141e145a 1 -33 3 33 -3|#5c4432 1 -5 0 -3 50 3 50 5 0"
for i in range(150):  # leaves on a spiral, in disorder
    far, size, turn = 30 * (i * 61 % 150 / 150) ** 0.5, 3 + i % 5, 2.4 * (i * 61 % 150)
    x, y = far * np.cos(turn), 64 + 1.1 * far * np.sin(turn)
    TREE += f"|leaf {0.3 + (y - x + i % 7 * 6) / 110} {x - size} {y + size} {x + size} {y - size}"


def rgb(color):
    """Red, green and blue [3] in 0..255, or with alpha [4], of a color as Pillow names it."""
    return np.array(ImageColor.getrgb(color), np.float32)


def clouds(rng, width, height, across, down):
    """Random shades [height, width, 1] around 0; the largest clouds are across x down pixels."""
    shades = 0
    for scale in (1, 2, 4, 8):
        grid = rng.normal(size=(int(2 + height * scale / down), int(2 + width * scale / across)))
        grid = Image.fromarray(grid.astype(np.float32) / scale)
        shades += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return shades[:, :, None]


def draw_land(rng, width, height, above, low, sea):
    """Sky, three ridges, and a meadow, or the sea and its beach: colors [height, width, 3]."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    horizon = rng.uniform(0.42, 0.5)
    cover = clouds(rng, width, height, width / 3, height / 7) - rng.uniform(0, 1)
    grain = clouds(rng, width, height, width / 50, height / (140 if sea else 80))
    land = above + (low - above) * np.minimum(rows / horizon, 1)
    land = land + (245 - land) * cover.clip(0, 0.8)
    for near, color in enumerate(("#768ca5", "#547674", "#3e643e")):
        rise = 0.06 * (3 - near) + 0.035 * clouds(rng, width, 1, width / (3 + near), 1)[0]
        land = np.where(rows > horizon - rise, rgb(color) + (5 + 4 * near) * grain, land)
    depth = ((rows - horizon) / (1 - horizon)).clip(0, 1)
    far, near = map(rgb, ("#709eb2", "#184e6c") if sea else ("#8aa054", "#427028"))
    land = np.where(depth > 0, far + (near - far) * depth + (7 + 14 * depth) * grain, land)
    shore = 0.74 + 0.015 * clouds(rng, width, 1, width / 2, 1)[0] if sea else 2
    beach = np.where(rows > shore, rgb("#d6be92") + 5 * grain, 235)  # sand; foam above it
    return np.where(rows > shore - 0.012, beach, land)


def put(draw, rng, parts, light, x, y, size):
    """Draws parts of a table at x, y, size pixels high or wide."""
    colors = {kind: rng.choice(names.split()) for kind, names in COLORS.items()}
    for part in parts.replace("\n", "|").split("|"):
        name, bright, *corners = part.split()
        corners = np.array(corners, float).reshape(-1, 2) * (size / 100, -size / 100) + (x, y)
        fill = rgb(colors.get(name, name))
        fill[:3] = (fill[:3] * light * float(bright)).clip(0, 255)
        shape = draw.ellipse if len(corners) == 2 else draw.polygon
        shape(corners.ravel().tolist(), tuple(fill.astype(int).tolist()))


def draw_scene(rng, width, height, unit):
    """A person at 0.36 of the width in front of a landscape; sizes are parts of unit, pixels."""
    above, low, light = map(rgb, rng.choice(SKIES).split())
    light, sea = light / 255, rng.random() < 0.4
    land = draw_land(rng, width, height, above, low, sea) * light
    scene = Image.fromarray(land.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(scene, "RGBA")
    for y in np.sort(rng.uniform(0.54, 0.7, rng.integers(3, 6) if sea else rng.integers(6, 11))):
        parts, size = (BOAT, 1) if sea else [(HOUSE, 1), (TREE, 1.9), (TREE, 1.9)][rng.integers(3)]
        size *= (y - 0.36) * unit * rng.uniform(0.8, 1.2)
        put(draw, rng, parts, light, rng.uniform(0, width), y * height, size)
    put(draw, rng, PERSON, light, 0.36 * width, 0.84 * height, rng.uniform(0.55, 0.75) * unit)
    return scene


def take_shots(folder, series, amounts, seed):
    """Writes one JPEG per photo number of amounts ({photo: amount of defect, 0 to 1})."""
    rng = np.random.default_rng([seed, series])
    sides = rng.choice(SIDES), rng.choice(SIDES[:2])
    width, height = (max(sides), min(sides) * 3 // 4)[:: rng.choice([1, 1, -1])]
    scene = draw_scene(rng, int(1.9 * width), int(1.4 * height), min(width, height))
    shares = rng.uniform((0.5, 0.1, 0.1, 0.3), 0.7)  # of the defects: who hurries shakes, too
    shares[rng.integers(4)] = 1  # the main defect of the series
    sign, stops = rng.choice([-1, 1]), rng.choice(STOPS)
    for photo, amount in amounts.items():
        blur, tilt, cut, exposure = (amount**0.7 * shares).tolist()
        turn = np.radians(sign * TILT * tilt)
        a, b = np.cos(turn), np.sin(turn)
        x, y = rng.uniform(-0.015, 0.015, 2) * height  # of a hand that moves
        x += (0.74 + CUT * cut) * width - (a * width + b * height) / 2
        y += 0.7 * height - (a * height - b * width) / 2
        shot = scene.transform((width, height), Image.Transform.AFFINE, (a, b, x, -b, a, y), 3)
        shot = shot.filter(ImageFilter.GaussianBlur(0.6 + blur * BLUR * max(sides).item()))
        shot = shot.point(lambda v, gain=2 ** (stops * exposure / 2.2): min(255, v * gain))
        encoded = io.BytesIO()  # Pillow itself is silent about a disk that takes only a part
        shot.save(encoded, "JPEG", quality=90)
        (folder / f"{series:06d}-{photo:02d}.JPG").write_bytes(encoded.getvalue())


def invent_series(rng):
    """Amounts of defect and strengths for the 2 to 4 shots of a series."""
    count = int(rng.integers(2, 5))
    amounts = rng.permutation((np.arange(count) + rng.uniform(0, 0.3, count)) / (count - 0.7))
    return amounts, -STRENGTH * amounts + rng.normal(0, HUMAN_NOISE, count)


def pairlist_lines(series, strengths, split):
    """The lines of a series: all pairs, preference after Bradley and Terry, ranks from 1 on."""
    ranks = np.argsort(np.argsort(-strengths)) + 1
    for a, b in combinations(range(len(strengths)), 2):
        preference = np.clip(1 / (1 + np.exp(strengths[b] - strengths[a])), 0.01, 0.99)
        rest = "" if split == "test" else f" {preference:.3f} {ranks[a]} {ranks[b]}"
        yield f"{series} {a + 1} {b + 1}{rest}\n"


def invent_dataset(count, seed):
    """({split: pairlist in bytes}, {split: {series: {photo: amount}}}) of count drawn series."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum([round(share * count) for share in SHARES.values()])
    order = rng.permutation(np.arange(1, count + 1))
    lists, shots = {}, {}
    for split, members in zip(SHARES, np.split(order, ends[:-1]), strict=True):
        lines, shots[split] = [], {}
        for series in sorted(members.tolist()):
            amounts, strengths = invent_series(rng)
            lines += pairlist_lines(series, strengths, split)
            shots[split][series] = dict(enumerate(amounts.tolist(), 1))
        lists[split] = "".join(lines).encode()
    return lists, shots


def draw_pairs(path, pairs, count, seed):
    """The pairs [P] of count series of a pairlist, drawn with the seed, in its order."""
    series = np.unique(pairs["series"])
    if count > len(series):
        stop(__file__, f"--series {count}: {path} has {len(series)}")
    drawn = np.random.default_rng(seed).permutation(series)[:count]
    return pairs[np.isin(pairs["series"], drawn)]


def imitate_dataset(paths, count, seed):
    """As invent_dataset, with the series, photos and ranks of official pairlists.

    count: how many series of the training list are drawn; all where it is None.
    """
    rng = np.random.default_rng(seed)
    lists, shots = {}, {}
    for path in map(Path, paths):
        split = path.name.removesuffix("_pairlist.txt")
        if split not in SHARES or split in lists:
            stop(__file__, f"--like {path}: not one train_, val_ or test_pairlist.txt each")
        pairs, problems = read_pairlist(path, labelled=split != "test")
        if problems:
            stop(__file__, problems[0])
        lists[split], shots[split] = path.read_bytes(), {}
        if count and split == "train":
            pairs = draw_pairs(path, pairs, count, seed)
            lines = lists[split].split(b"\n")
            lists[split] = b"".join(lines[line - 1] + b"\n" for line in pairs["line"])
        for pair in pairs.tolist():
            series, photo_1, photo_2, _, rank_1, rank_2 = pair[:6]
            known = shots[split].setdefault(series, {})
            known[photo_1] = rank_1 or int(rng.integers(1, 6))
            known[photo_2] = rank_2 or int(rng.integers(1, 6))
        for ranks in shots[split].values():
            worst = max(ranks.values())
            ranks.update({photo: (rank - 1) / max(1, worst - 1) for photo, rank in ranks.items()})
    if count and "train" not in lists:
        stop(__file__, f"--series {count}: no train_pairlist.txt is among --like")
    return lists, shots


def write_dataset(out, lists, shots, seed):
    """Writes lists and photos in the official layout, on every core; the number of photos."""
    jobs = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # where one fails
        for split, text in lists.items():
            folder = out / ("test" if split == "test" else "train_val")
            photos = folder / f"{folder.name}_imgs"
            photos.mkdir(parents=True, exist_ok=True)
            (folder / f"{split}_pairlist.txt").write_bytes(text)
            for series, amounts in shots[split].items():
                jobs.append(pool.submit(take_shots, photos, series, amounts, seed))
        for done, job in enumerate(jobs, 1):
            job.result()
            show_progress(f"drawing series {done}/{len(jobs)}", done == len(jobs))
    return sum(len(amounts) for split in shots.values() for amounts in split.values())


@exit_on_error
def main(argv=None):
    """Writes the dataset to a folder of its own and renames it: it is whole, or absent."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--out", default="data/demo", help="folder to make (%(default)s)")
    counted = f"how many ({DEFAULT_SERIES}); with --like: of the training list (all)"
    parser.add_argument("--series", type=int, metavar="N", help=counted)
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    parser.add_argument("--like", nargs="+", metavar="PAIRLIST", help="official lists to imitate")
    args = parser.parse_args(argv)
    out = Path(args.out)
    if os.path.lexists(out):
        stop(__file__, f"--out {out}: exists already")
    if args.series is not None and not 10 <= args.series <= 99_999:
        stop(__file__, f"--series {args.series}: not in 10..99999")
    if args.seed < 0:
        stop(__file__, f"--seed {args.seed}: below 0")
    if args.like:
        lists, shots = imitate_dataset(args.like, args.series, args.seed)
    else:
        lists, shots = invent_dataset(args.series or DEFAULT_SERIES, args.seed)
    with fail_on(__file__, f"--out {out}", OSError), ExitStack() as stack:
        # SIGTERM removes what is not whole, as Ctrl-C does
        before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        stack.callback(signal.signal, signal.SIGTERM, before)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{out.name}.", dir=out.parent) as folder:
            count = write_dataset(Path(folder) / "data", lists, shots, args.seed)
            (Path(folder) / "data").rename(out)
    pairs = ", ".join(f"{len(text.splitlines())} {split} pairs" for split, text in lists.items())
    say(f"{out}: {count} photos, {pairs}", sys.stdout)


if __name__ == "__main__":
    main()
