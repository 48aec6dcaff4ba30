"""A small seeded dataset in the official layout, for a first run without downloads.

    python make_demo.py --out data/demo --series 120 --seed 0

Drawn scenes, 2 to 4 shots a series, each with another amount of blur, shake, wrong exposure or
lost contrast; preferences follow the amounts, with some human noise. The same seed gives the
same bytes. With --like, series, photos and ranks come from official pairlists instead.
"""

import io
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data import read_pairlist
from disk.errors import command_line, one_door, say, show_progress, stop, stop_on

SIDES = (480, 640, 800)  # longer side, pixels; the official photos fit in 800 x 800
STRENGTH = 6.0  # of a full amount of defect, in units of the logit of a preference
HUMAN_NOISE = 0.5  # deviation of a shot's strength between people, same units
DEFECTS = ("blur", "shake", "over-exposed", "under-exposed", "flat")
SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}  # of the series


def draw_scene(rng, width, height):
    """A landscape of sky, hills, houses and trees, RGB."""
    sky, ground = rng.integers(90, 230, (2, 3))
    rows = np.linspace(0, 1, height)[:, None, None]
    array = (sky * (1 - rows) + ground * rows) * np.ones((1, width, 1))
    scene = Image.fromarray(array.astype(np.uint8))
    draw, unit = ImageDraw.Draw(scene), min(width, height) / 100
    for depth in (0.45, 0.6, 0.75):  # hills, from far to near
        points = [(x, height * (depth + rng.uniform(-0.1, 0.1))) for x in _steps(width, 8)]
        draw.polygon([(0, height), *points, (width, height)], fill=_color(rng))
    for _ in range(rng.integers(4, 9)):
        x, y, side = rng.uniform(0, width), rng.uniform(0.4, 0.9) * height, rng.uniform(8, 22)
        draw_house(draw, rng, x, y, side * unit)
    for _ in range(rng.integers(8, 20)):
        x, y, side = rng.uniform(0, width), rng.uniform(0.5, 1) * height, rng.uniform(3, 9) * unit
        draw.line([(x, y), (x, y - 3 * side)], fill=_color(rng, 0.4), width=max(1, int(side / 3)))
        draw.ellipse([x - side, y - 5 * side, x + side, y - 2 * side], fill=_color(rng))
    return scene


def draw_house(draw, rng, x, y, side):
    """A house with a roof and windows, its lower left corner at x, y; side in pixels."""
    draw.rectangle([x, y - side, x + side, y], fill=_color(rng), outline=(20, 20, 20))
    draw.polygon([(x, y - side), (x + side / 2, y - 1.6 * side), (x + side, y - side)], _color(rng))
    for row in (0.2, 0.6):
        for column in (0.15, 0.45, 0.75):
            left, top = x + column * side, y - (1 - row) * side
            draw.rectangle([left, top, left + side / 6, top + side / 5], fill=_color(rng, 2))


def _steps(width, count):
    return [width * i / (count - 1) for i in range(count)]


def _color(rng, brightness=1.0):
    return tuple(int(c) for c in np.minimum(rng.integers(30, 220, 3) * brightness, 255))


def spoil(photo, defect, amount):
    """The photo with an amount (0 to 1) of one of DEFECTS."""
    if defect == "blur":
        return photo.filter(ImageFilter.GaussianBlur(amount * max(photo.size) / 30))
    array = np.asarray(photo, np.float32)
    if defect == "shake":
        length, columns = 1 + int(amount * max(photo.size) / 8), np.arange(photo.width)
        shifted = (array[:, np.maximum(columns - i, 0)] for i in range(length))
        array = sum(shifted) / length
    elif defect == "over-exposed":
        array = array * 2 ** (2.5 * amount)
    elif defect == "under-exposed":
        array = array / 2 ** (3.5 * amount)
    else:
        array = array.mean() + (array - array.mean()) * (1 - 0.9 * amount)
    return Image.fromarray(array.clip(0, 255).astype(np.uint8))


def take_shots(folder, series, amounts, seed):
    """Writes one JPEG per photo number of amounts ({photo: amount of defect, 0 to 1})."""
    rng = np.random.default_rng([seed, series])
    sides = rng.choice(SIDES), rng.choice(SIDES[:2])
    width, height = (max(sides), min(sides) * 3 // 4)[:: rng.choice([1, 1, -1])]
    margin = width // 20
    scene = draw_scene(rng, width + margin, height + margin)
    defect = rng.choice(DEFECTS)
    for photo, amount in amounts.items():
        left, top = rng.integers(0, margin, 2)
        shot = scene.crop((left, top, left + width, top + height))
        shot = spoil(shot, defect, amount)
        encoded = io.BytesIO()  # Pillow itself is silent about a disk that takes only a part
        shot.save(encoded, "JPEG", quality=90)
        (folder / f"{series:06d}-{photo:02d}.JPG").write_bytes(encoded.getvalue())


def invent_series(rng):
    """Amounts of defect and strengths for the 2 to 4 shots of a series."""
    count = int(rng.integers(2, 5))
    amounts = (np.arange(count) + rng.uniform(0, 0.3, count)) / (count - 0.7)
    amounts = rng.permutation(amounts)
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


def imitate_dataset(paths, seed):
    """As invent_dataset, with the series, photos and ranks of official pairlists."""
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
        for pair in pairs.tolist():
            series, photo_1, photo_2, _, rank_1, rank_2 = pair[:6]
            known = shots[split].setdefault(series, {})
            known[photo_1] = rank_1 or int(rng.integers(1, 6))
            known[photo_2] = rank_2 or int(rng.integers(1, 6))
        for ranks in shots[split].values():
            worst = max(ranks.values())
            ranks.update({photo: (rank - 1) / max(1, worst - 1) for photo, rank in ranks.items()})
    return lists, shots


def write_dataset(out, lists, shots, seed):
    """Writes lists and photos in the official layout, on every core; the number of photos."""
    jobs = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
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


@one_door
def main(argv=None):
    """Writes the dataset to a folder of its own and renames it: it is whole, or absent."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--out", default="data/demo", help="folder to make (%(default)s)")
    parser.add_argument("--series", type=int, default=120, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    parser.add_argument("--like", nargs="+", metavar="PAIRLIST", help="official lists to imitate")
    args = parser.parse_args(argv)
    out = Path(args.out)
    if os.path.lexists(out):
        stop(__file__, f"--out {out}: exists already")
    if not 10 <= args.series <= 99_999:
        stop(__file__, f"--series {args.series}: not in 10..99999")
    if args.seed < 0:
        stop(__file__, f"--seed {args.seed}: below 0")
    made = imitate_dataset(args.like, args.seed) if args.like else None
    lists, shots = made or invent_dataset(args.series, args.seed)
    with stop_on(__file__, f"--out {out}", OSError):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{out.name}.", dir=out.parent) as folder:
            count = write_dataset(Path(folder) / "data", lists, shots, args.seed)
            (Path(folder) / "data").rename(out)
    pairs = ", ".join(f"{len(text.splitlines())} {split} pairs" for split, text in lists.items())
    say(f"{out}: {count} photos, {pairs}", sys.stdout)


if __name__ == "__main__":
    main()
