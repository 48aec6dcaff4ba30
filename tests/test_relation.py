"""Numbers that no row explains: how they come from those that they should be, and what is left of a
photo.
"""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diagnose import residue
from diagnose.nearest import centered
from diagnose.part import part_of, usual_box
from diagnose.preprocessing import Photo, apply, fit_by_page, reference
from diagnose.recoded import STAGES, made, recoded_of
from diagnose.related import TOLD, sampled, whole
from diagnose.relation import relation_of
from diagnose.stages.judge_features import differing_options
from diagnose.stages.start import judge_equal
from diagnose.twofold import twofold_of

VALUE = torch.Generator().manual_seed(3)


def drawn(low, high):
    """A number that no constant in the code is."""
    return round(float(torch.rand((), generator=VALUE)) * (high - low) + low, 3)


A, B = drawn(0.2, 0.8), drawn(1.2, 3.0)
ORDER = torch.tensor([2, 0, 1, 3, 5, 4, 7, 6])
RELATIONS = {  # words of what is told: what is done to [8, 40]
    f"multiplied by {B:g}": lambda x: B * x,
    f"with {A:g} added": lambda x: x + A,
    f"limited to at least -{A:g} and at most {A:g}": lambda x: x.clamp(-A, A),
    f"limited to at most {A:g}": lambda x: x.clamp(max=A),
    "the absolute value of each": torch.abs,
    f"{B:g} x the sign of each": lambda x: B * x.sign(),
    "rounded to bfloat16": lambda x: x.bfloat16().double(),
    "0 where they are negative": torch.relu,
    "0 in rows 3, 5": lambda x: x * (1 - F.one_hot(torch.tensor([2, 4]), 8).sum(0))[:, None],
    "0 in columns 8 to 19": lambda x: torch.cat([x[:, :7], 0 * x[:, 7:19], x[:, 19:]], 1),
    f"multiplied by {A:g} where they are negative": lambda x: torch.where(x < 0, A * x, x),
    "with the rows moved on by 3": lambda x: x.roll(3, 0),
    "with the columns in reverse order": lambda x: x.flip(1),
    "with the rows in another order: 1 is that of 3, 2 is that of 1, 3 is that of 2 ...":
        lambda x: x[ORDER],
    f"each row brought to length {B:g}": lambda x: B * F.normalize(x),
    "with the values of each row sorted, ascending": lambda x: x.sort(1).values,
    "with the values of each row at other places in it":
        lambda x: torch.stack([row.roll(n) for n, row in enumerate(x)]),
    "with the mean of each column taken off": lambda x: x - x.mean(0),
    "one number all over each column": lambda x: numbers(77, 1, 40).expand(8, 40),
    "each column multiplied by a number of its own": lambda x: x * (1 + torch.arange(40.0)),
    "each row scaled and shifted by numbers of its own, to means": lambda x: F.layer_norm(x, [40]),
    f"each row a mix of the rows of its batch: row 1 is {A:g} x row 1 + 1.0 x row 8":
        lambda x: A * x + x.roll(1, 0),
}  # fmt: skip


def numbers(seed, *shape):
    """Numbers [8, 40] without a rule."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (8, 40)), generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("words", RELATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_relation_is_told_and_no_other(words, seed):
    made = numbers(seed)
    seen = RELATIONS[words](made)
    assert relation_of([whole(made, seen)], TOLD).startswith(words)
    torn = seen.clone()
    torn[5, 17] += 1.37  # one number that no simple relation gives
    told = relation_of([whole(made, torn)], TOLD)
    assert told is None or not told.startswith(words)


def test_what_is_rounding_or_chance_has_no_relation():
    made = numbers(1)
    assert relation_of([whole(made, made * (1 + 1e-15))], TOLD) is None
    assert relation_of([whole(made, numbers(2))], TOLD) is None
    assert relation_of([whole(made[:, :2], numbers(2)[:, :2])], TOLD) is None  # a line fits 2
    assert relation_of([whole(made, made[:4])], TOLD) is None
    assert relation_of([], TOLD) is None


def test_a_relation_holds_in_all_tensors_and_of_sampled_ones_rows_are_known():
    weights = [numbers(n, 6, 5, 3, 3) for n in range(2)]
    flat = [w.reshape(-1) for w in weights]
    centered = [(w - w.mean((1, 2, 3), keepdim=True)).reshape(-1) for w in weights]
    related = [sampled(a, b, w.shape) for a, b, w in zip(flat, centered, weights, strict=True)]
    assert relation_of(related, TOLD).startswith("with a number of its own added to each row")
    other = sampled(flat[0], numbers(9, 6, 5, 3, 3).reshape(-1), weights[0].shape)
    assert relation_of([related[0], other], TOLD) is None


def test_tensors_that_have_a_factor_each_are_told_by_their_norm():
    made = [numbers(n, 6, 5, 3, 3) * (n + 1) for n in range(3)]
    flat = [own.reshape(-1) for own in made]
    clipped = [B * own / own.norm() for own in flat]

    def related(seen, times=1.0):
        each = zip(flat, seen, made, strict=True)
        return [sampled(a, b, own.shape, times * float(b.norm())) for a, b, own in each]

    assert relation_of(related(clipped), TOLD) == f"each tensor brought to norm {B:g}"
    times = [(n + 2) * own for n, own in enumerate(flat)]
    words = "each tensor multiplied by a number of its own, 2.0, 3.0, 4.0"
    assert relation_of(related(times), TOLD) == words
    assert relation_of(related(clipped, np.nan), TOLD).startswith("each tensor multiplied by")


def picture(seed, size=64, rows=slice(9, 55)):
    """(levels [3, S, S] of a picture with large and small shapes, where it lies)."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=rng, dtype=torch.float64)
    fine = torch.rand(1, 3, 33, 33, generator=rng, dtype=torch.float64)
    made = sum(w * F.interpolate(x, (size, size), mode="bicubic") for w, x in
               ((0.7, coarse), (0.3, fine)))[0]  # fmt: skip
    inside = torch.zeros(size, size).bool()
    inside[rows] = True
    return (made.clamp(0, 1) * 255).round() * inside, inside


def mixed(photo):
    """Channels mixed as a lower saturation does."""
    gray = photo.mean(0, keepdim=True)
    return A * photo + (1 - A) * gray


def moved(photo, scale, right):
    """A photo made larger, and moved by so many pixels."""
    motion = torch.tensor([[[1 / scale, 0, -2 * right / 64 / scale], [0, 1 / scale, 0]]]).double()
    grid = F.affine_grid(motion, (1, 3, 64, 64), align_corners=False)
    return F.grid_sample(photo[None], grid, align_corners=False)[0]


def erased(photo):
    """A photo with a gray rectangle."""
    photo = photo.clone()
    photo[:, 14:31, 20:44] = 77
    return photo


RESIDUES = {  # {(kind, values): what is done to a photo}
    ("only a rectangle", "24 x 17 pixels at (20, 14), all of (77.0, 77.0, 77.0)"): erased,
    ("each value of a photo", f"(a power: gamma {B:.3g})"): lambda x: (x / 255) ** B * 255,
    ("each value of a photo", f"(x {B:.3g}, limited to 0 and 255)"):
        lambda x: (x * B).clamp(0, 255),
    ("the channels of each pixel are mixed", "red is"): mixed,
    ("each pixel is made of products of its own channels", "red is 1 x red x blue"):
        lambda x: x * x[2] / 255,
    ("each pixel is a weighted sum of those around it (blurred)", "x itself"):
        lambda x: F.avg_pool2d(x[None], 3, 1, 1)[0],
    ("the photo is moved", "by (2, -1) pixels (right, down)"): lambda x: x.roll((-1, 2), (1, 2)),
    ("the photo lies otherwise", "1.3 times as large"): lambda x: moved(x, 1.3, 0),
    ("the photo lies otherwise", "moved left by 6.0 pixels"): lambda x: moved(x, 1.0, -6),
    ("what is left is like noise", "of deviation 7"):
        lambda x: x + 7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "values"), RESIDUES, ids=" ".join)
@pytest.mark.parametrize("seed", range(2))
def test_what_is_left_of_a_photo_is_told(kind, values, seed):
    photo, inside = picture(seed)
    found = residue.residue_of(RESIDUES[kind, values](photo) + 0.0, photo, inside)
    assert found.kind.startswith(kind) and values in found.values


def test_another_photo_has_no_residue():
    photo, inside = picture(0)
    assert residue.residue_of(picture(5)[0], photo, inside) is None
    assert residue.residue_of(photo, photo, inside) is None


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of several sides, as files have them."""
    made, folder = [], tmp_path_factory.mktemp("photos")
    for seed in range(6):
        levels, _ = picture(seed + 20, 160, slice(None))
        levels = levels[:, :113, : 150 - 3 * seed].byte().permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(levels).save(folder / f"{seed}.png")
        made.append(Photo(folder / f"{seed}.png"))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_an_input_of_two_photos_is_told_by_both(photos, seed):
    rng, names = np.random.default_rng(seed), [str(n) for n in range(6)]
    made = torch.stack([centered(apply(photo, reference(), 64)) for photo in photos])
    insides = [photo.base(reference(), 64)[1] for photo in photos]
    (a, b), share = rng.permutation(6)[:2].tolist(), round(rng.uniform(0.55, 0.9), 3)
    mixed = share * made[a] + (1 - share) * made[b]
    place, found = twofold_of(mixed.float().double(), made, names, insides)
    assert (place, found.kind) == (a, "each input is a sum of two photos")
    assert found.values == f"{share:.3g} x {a} + {1 - share:.3g} x {b}"
    patched, left = made[a].clone(), int(rng.integers(5, 25))
    patched[:, 20:41, left : left + 19] = made[b][:, 20:41, left : left + 19]
    place, found = twofold_of(patched, made, names, insides)
    assert (place, found.kind) == (a, "part of each input is another photo")
    assert found.values == f"{b} in {a} within 19 x 21 pixels at ({left}, 20)"
    around = torch.where(insides[a], made[a], made[b] + 5)
    around_b = torch.cat([made, (made[b] + 5)[None]])
    whole = [*insides, insides[b]]
    place, found = twofold_of(around, around_b, [*names, "other"], whole)
    assert place == a and found.values == f"other around {a}"
    dotted = made[a].clone()
    dotted[:, 20:23, left] += 40  # a few values that no photo has
    assert twofold_of(dotted, made, names, insides) is None
    wrapped = torch.where(made[a] > 60, made[a] - 256, made[a])
    assert twofold_of(wrapped, made, names, insides) is None
    assert twofold_of(made[a], made, names, insides) is None
    assert twofold_of(1.3 * made[a], made, names, insides) is None
    noise = torch.randn(made[a].shape, generator=torch.Generator().manual_seed(seed)).double()
    assert twofold_of(made[a] + 30 * noise, made, names, insides) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_part_of_a_photo_is_told(photos, seed):
    rng = np.random.default_rng(seed)
    own, (wide, high) = int(rng.integers(6)), rng.uniform(0.15, 0.7, 2)
    left, top = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - high)
    width, height = photos[own].stored.size
    box = left * width, top * height, (left + wide) * width, (top + high) * height
    shown = photos[own].stored.resize((64, 64), Image.Resampling.BILINEAR, box)
    shown = torch.from_numpy(np.array(shown)).permute(2, 0, 1).double()
    place, found = part_of(shown, photos)
    ends = list(map(int, re.findall(r"\d+", found.values)[:4]))
    assert place == own and found.kind == "the photo is shown otherwise"
    assert np.allclose(ends, [100 * left, 100 * (left + wide), 100 * top, 100 * (top + high)],
                       atol=2.5)  # fmt: skip
    assert part_of(picture(seed)[0], photos) is None


def test_a_photo_whose_array_is_only_brought_to_a_shape_is_told(photos):
    pixels = apply(photos[2], reference(), 64)
    left, top, width, height = usual_box(photos[2], 64)
    flat = np.resize(np.array(photos[2].stored), (height, width, 3))
    shown = torch.full(pixels.shape, 120.0).double()
    shown[:, top : top + height, left : left + width] = torch.from_numpy(flat).permute(2, 0, 1)
    place, found = part_of(shown, photos)
    assert (place, found.values) == (2, f"{width} x {height} x 3, in their order, row by row")
    shown[1, top + 3, left + 5] += 2
    assert part_of(shown, photos) is None or "first" not in part_of(shown, photos)[1].kind


def test_all_of_a_photo_in_another_box_is_told_and_in_the_usual_one_is_not(photos):
    sides = (42, 64)
    shown = torch.zeros(3, 64, 64).double()
    squeezed = np.array(photos[1].stored.resize(sides, Image.Resampling.BILINEAR))
    shown[:, :, 11:53] = torch.from_numpy(squeezed).permute(2, 0, 1)
    place, found = part_of(shown, photos)
    assert place == 1 and found.values.startswith("all of the photo in 42 x 64 pixels at (11, 0) (")
    pixels, _ = fit_by_page(photos[1].stored, 64)
    assert part_of(255 * pixels, photos) is None


@pytest.mark.parametrize(
    ("stage", "quality"), [(STAGES[0], 75), (STAGES[0], 40), (STAGES[1], 23), (STAGES[1], 87)]
)
def test_a_photo_that_was_stored_again_is_told(photos, stage, quality):
    shown = 255 * made(photos[1], 64, stage, quality)
    found = recoded_of(shown, photos[1], 64)
    assert found.values == f"{stage}, of quality {quality}"
    pixels, _ = fit_by_page(photos[1].stored, 64)
    assert recoded_of(255 * pixels, photos[1], 64) is None
    assert recoded_of((255 * pixels + 9).clamp(0, 255), photos[1], 64) is None


def test_the_most_frequent_kind_is_told_with_two_of_its_values():
    some = [residue.Residue("a", str(n), 0.0) for n in range(3)] + [residue.Residue("b", "x", 0.0)]
    assert residue.told_of(some) == "a (in 3): 0 | 1; in others otherwise"
    assert residue.told_of(some[3:]) == "b: x" and residue.told_of([]) is None


@pytest.mark.parametrize("kind", ["conv2d", "max_pool2d"])
def test_an_op_that_is_told_another_stride_is_named(kind):
    stride = int(np.random.default_rng(1).integers(3, 9))
    names = [((n, "conv2d", 0, (4, 4, 3, 3)), f"layer{n}.conv.weight") for n in (1, 2)]
    usual = [
        ("conv2d", ((2, 2), (1, 1), (1, 1), 1)),
        ("max_pool2d", (3, 2)),
        ("conv2d", (1, 1, 1, 1)),
    ]
    reference = type("R", (), {"weights": names, "ops": usual})
    own = [options if op != kind else (stride, *options[1:]) for op, options in usual]
    record = type("P", (), {"ops": tuple(op for op, _ in usual), "options": tuple(own)})
    told = differing_options(reference, record)
    assert any(f"told {'stride ' * (kind == 'conv2d')}{stride}" in words for words in told)
    assert ("layer1.conv" in told[0]) == (kind == "conv2d")
    record.options = tuple(options for _, options in usual)
    assert differing_options(reference, record) is None


def test_layers_that_begin_alike_are_told():
    names = {n: f"layer1.{n}.conv1.weight" for n in range(4)} | {4: "bn1.weight"}
    values = {n: numbers(n, 8, 4, 3, 3) for n in range(4)} | {4: torch.ones(8)}
    assert judge_equal(values, names) == []
    values[3], values[2] = values[1].clone(), values[2] / 10
    (found,) = judge_equal(values, names)
    assert found.values == {"count": 1, "first": "layer1.1.conv1", "second": "layer1.3.conv1"}
