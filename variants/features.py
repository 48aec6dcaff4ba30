"""Features of photos that no gradient reaches: extracted once, kept, or read from a file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from data import Split, decode, take_inputs
from diagnose.tables import merge_votes, pair_keys, read_table
from disk.errors import fail_on, show_progress, stop
from disk.files import replace_file
from disk.store import store_key, take_photos
from disk.tensors import load_tensors
from model import resnet50, vgg16

WIDTHS = {"resnet50": 2048, "resnet50:layer3": 1024, "vgg16": 4096, "iqa": 4}
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue; ITU-R BT.601, as Pillow's "L"


@dataclass(frozen=True)
class FeatureSplit(Split):
    """The chosen pairs of one split, with the features of its photos."""

    features: torch.Tensor  # [N, F]


class Standardize(nn.Module):
    """[B, F] minus the mean of the training photos, divided by their deviation."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def learn(self, features):
        """Takes mean and deviation of features [N, F]; what does not vary is left as it is."""
        deviation = features.std(0, correction=0)
        self.mean.copy_(features.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, features):
        return (features - self.mean) / self.deviation


def build_extractor(name, weights, size):
    """A frozen module, photos [B, 3, S, S] to [B, WIDTHS[name]]; None for iqa and files."""
    if name == "resnet50:layer3":
        whole = resnet50(weights)
        stages = [child for part, child in whole.named_children() if part not in SKIPPED]
        return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()).requires_grad_(False)
    made = {"resnet50": lambda: resnet50(weights), "vgg16": lambda: vgg16(weights, size)}
    return made[name]().requires_grad_(False) if name in made else None


KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SKIPPED = ("layer4", "avgpool", "fc")  # of ResNet-50, behind layer3


def iqa(photos, boxes):
    """Four figures [B, 4] of photos [B, 3, S, S] uint8 within their boxes [B, 4], in 0..1:

    sharpness: the variance of the luminance's Laplacian (4 neighbours, padding left out);
    brightness: the mean luminance; contrast: its standard deviation;
    variance of color: the mean over the pixels of the variance of red, green and blue.
    """
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)
    rows = []
    for photo, (left, top, right, bottom) in zip(photos.cpu(), boxes.tolist(), strict=True):
        pixels = photo[:, top:bottom, left:right].double() / 255
        gray = (pixels * torch.tensor(LUMINANCE, dtype=torch.float64)[:, None, None]).sum(0)
        edges = F.conv2d(gray[None, None], kernel[None, None])
        sharpness = edges.var(unbiased=False) if edges.numel() else gray.new_zeros(())
        color = pixels.var(0, unbiased=False).mean()
        rows.append(torch.stack([sharpness, gray.mean(), gray.std(unbiased=False), color]))
    return torch.stack(rows)


def width_of(name):
    """How many numbers a photo has in these features; ends the program at an unknown name."""
    if name in WIDTHS:
        return WIDTHS[name]
    if not name.endswith((".npz", ".pt")):
        stop(__file__, f"--features {name}: not among {', '.join(WIDTHS)}, nor a .npz or .pt file")
    return read_file(name)[1].shape[1]


def read_file(path):
    """(names of photos, features [N, F] in double) of a file that another extractor wrote.

    An .npz (no pickles) with the arrays `names` and `features`, or a .pt of a dict of the two,
    a list of texts and a tensor. Ends the program where it is not so.
    """
    culprit = f"--features {path}"
    if not Path(path).is_file():
        stop(__file__, f"{culprit}: no such file")
    if path.endswith(".pt"):
        held = load_tensors(Path(path))
    else:
        words = f"{culprit}: not an .npz of plain arrays"
        wrong = fail_on(__file__, words, Exception, detail=False)
        with wrong, np.load(path, allow_pickle=False) as file:
            held = {key: file[key] for key in file.files}
    if not isinstance(held, dict) or not {"names", "features"} <= set(held):
        stop(__file__, f"{culprit}: holds no `names` and `features`")
    with fail_on(
        __file__, f"{culprit}: `names` is not a list, or `features` not an array", Exception
    ):
        names, features = list(held["names"]), torch.as_tensor(held["features"])
    if features.is_nested or features.layout != torch.strided or features.device.type != "cpu":
        stop(__file__, f"{culprit}: `features` is a sparse or nested tensor, or one without values")
    if features.dtype not in KINDS:
        stop(__file__, f"{culprit}: `features` is of {features.dtype}, not of 16 to 64 bits")
    if not all(isinstance(name, str) for name in names):
        stop(__file__, f"{culprit}: `names` holds something that is not text")
    if features.dim() != 2 or len(features) != len(names) or not features.is_floating_point():
        shape = list(features.shape)
        stop(__file__, f"{culprit}: {len(names)} names, but features of shape {shape}, not [N, F]")
    wrong = (~features.isfinite().all(1)).nonzero()[:, 0].tolist()
    if wrong:
        stop(__file__, f"{culprit}: the features of {names[wrong[0]]} are not finite")
    return names, features.double()


def look_up(path, split):
    """Features [N, F] of the photos of a split from a file; ends the program at a missing one."""
    names, features = read_file(path)
    place = {Path(name).stem: row for row, name in enumerate(names)}
    if len(place) < len(names):
        stop(__file__, f"--features {path}: a photo is in it twice")
    wanted = [Path(file).stem for file in split.files]
    missing = [file for file in wanted if file not in place]
    if missing:
        count = f"{len(missing)} photos of {split.name}"
        stop(__file__, f"--features {path}: {count} are missing, first {missing[0]}")
    return features[[place[file] for file in wanted]]


@torch.no_grad()
def extract(name, module, split, batch_size, device, dtype):
    """Features [N, F] of the decoded photos of a split by one extractor, in evaluation mode."""
    if name not in WIDTHS:
        return look_up(name, split).to(device, dtype)
    made, count = [], len(split.files)
    for rows in torch.arange(count).split(batch_size):
        if module is None:
            made.append(iqa(*take_photos(split.photos, split.boxes, rows.numpy(), device)))
        else:
            made.append(module.eval()(take_inputs(split, rows.numpy(), device, dtype)))
        show_progress(f"{name}: photo {rows[-1] + 1}/{count}", rows[-1] + 1 == count)
    return torch.cat(made).to(device, dtype)


def weights_checksum(module):
    """SHA-256 of a module's tensors and of the version of PyTorch."""
    digest = hashlib.sha256(torch.__version__.encode())
    for key, tensor in sorted(module.state_dict().items()) if module is not None else ():
        digest.update(f"{key} {tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()))
    return digest.hexdigest()


def keep_features(name, module, split, args, dtype):
    """extract, from the store in args.store where the same was extracted before.

    Kept under all that it depends on: photos, size, fit, padding, weights, batches, precision.
    """
    device = torch.device(args.device)
    if name not in WIDTHS:
        return look_up(name, split).to(device, dtype)
    paths = [split.folder / file for file in split.files]
    known = store_key(paths, args.size, args.fit), weights_checksum(module), args.pad_color
    known += name, args.batch_size, device.type, dtype  # the last bits depend on the batches
    key = hashlib.sha256(repr(known).encode()).hexdigest()[:24]
    path = Path(args.store) / f"{key}.features"
    if path.is_file():
        kept = load_tensors(path)
        if isinstance(kept, torch.Tensor) and kept.shape == (len(paths), WIDTHS[name]):
            return kept.to(device, dtype)
    made = extract(name, module, decode(split, args), args.batch_size, device, dtype)
    replace_file(path, lambda file: torch.save(made.cpu(), file))
    return made


def keep_reviewed(split, votes, least):
    """The split with the pairs alone that at least so many people judged, by a table of votes.

    votes: what `diagnose labels --align` writes. Ends the program where no pair is left.
    """
    table, _ = read_table(Path(votes), {}, [("votes_1", "votes_2")])  # whatever else is in it
    merged, _ = merge_votes(table)
    enough = merged[merged["wins_1"] + merged["wins_2"] >= least]
    kept = np.isin(pair_keys(split.pairs), pair_keys(enough))
    if not kept.any():
        stop(__file__, f"--votes {votes}: no pair of {split.name} has {least} votes")
    used, rows = np.unique(split.rows[kept], return_inverse=True)
    files = [split.files[row] for row in used]
    return Split(split.name, split.folder, split.pairs[kept], files, rows.reshape(-1, 2))
