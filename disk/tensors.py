"""Tensors from files: nothing but plain tensors is read, and all of them must fit."""

import sys
import warnings
import zipfile
from pathlib import Path
from urllib.error import URLError

import torch

from disk.errors import fail_on, name_path, say, stop

BEST = ("run", "model", "epoch", "accuracy", "logits")  # what best.pt of a run holds


def load_weights(network, weights, imagenet, last):
    """Loads `imagenet` (a torchvision weights enum), a file, or, for `none`, nothing.

    The file holds a torchvision state dict of the whole network, or is the best.pt of a run: then
    its tensors under `backbone.` must be those of the network without its layer `last`, which no
    run has. Ends the program with one line where the file is missing, damaged, neither of the
    two, or has other tensors.
    """
    if weights == "none":
        return
    path = Path(weights)
    if weights == "imagenet":
        path = imagenet_file(imagenet.url, imagenet.meta["_file_size"])
    if not path.is_file():
        stop(__file__, f"--weights {path}: no such file")
    state, expected = load_tensors(path), network.state_dict()
    if isinstance(state, dict) and set(state) == set(BEST) and isinstance(state["model"], dict):
        state = {k: t for k, t in state["model"].items() if not str(k).startswith("head.")}
        own = (name for name in expected if not name.startswith(f"{last}."))
        expected = {f"backbone.{name}": expected[name] for name in own}
    check_state(expected, state, f"--weights {path}")
    plain = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    network.load_state_dict(plain, strict=False)  # without `last` where it is a run's


def imagenet_file(url, size):
    """The file of torchvision's ImageNet weights, size in MB, downloaded where not yet cached."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[1]
    advice = f"put {url} ({size:.0f} MB) into {folder}, or name a file, or none, with --weights"
    culprit = f"the ImageNet weights are neither cached nor reachable: {advice}"
    if not path.is_file():
        say(f"downloading {path.name}, {size:.0f} MB, into {folder}", sys.stdout)
        with fail_on(__file__, culprit, URLError, OSError, RuntimeError):
            folder.mkdir(parents=True, exist_ok=True)
            digest = path.stem.rsplit("-", 1)[1]
            torch.hub.download_url_to_file(url, path, digest, sys.stderr.isatty())
    return path


def load_tensors(path, mapped=False):
    """What torch.save wrote to path, on the CPU; code in it is refused, never run.

    mapped: tensors are read from the file as they are needed, as long as they live.
    """
    if not path.is_file():
        stop(__file__, f"{path}: no such file")
    wrong = fail_on(__file__, f"{path}: not a checkpoint of plain tensors", Exception, detail=False)
    with wrong, name_path(__file__), warnings.catch_warnings(action="ignore"):
        if zipfile.is_zipfile(path):  # torch itself does not look at the checksums
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                stop(__file__, f"{path}: damaged: {damaged} is not what was written")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        return torch.load(path, map_location="cpu", weights_only=True)


def load_checkpoint(path, keys):
    """A checkpoint of a run, which must have exactly these keys, else the program ends."""
    state = load_tensors(path)
    if not isinstance(state, dict) or set(state) != set(keys):
        stop(__file__, f"{path}: not a checkpoint of a run with {', '.join(keys)}")
    return state


def load_state(module, state, culprit):
    """Loads a state dict that must have exactly the module's tensors, else ends the program."""
    check_state(module.state_dict(), state, culprit)
    module.load_state_dict(state)


def check_state(expected, state, culprit):
    """Ends the program where a state dict has not exactly the expected tensors, or not finite."""
    if not isinstance(state, dict):
        stop(__file__, f"{culprit}: not a state dict")
    wrong = {
        "missing": [name for name in expected if name not in state],
        "extra": [name for name in state if name not in expected],
    }
    wrong["of another shape or type"] = [
        name for name in expected if name in state and not alike(state[name], expected[name])
    ]
    found = [
        f"{len(names)} tensors {kind}, first {names[0]}" for kind, names in wrong.items() if names
    ]
    if found:
        stop(__file__, f"{culprit}: {'; '.join(found)}")
    holed = [n for n, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if holed:
        stop(__file__, f"{culprit}: {holed[0]} holds numbers that are not finite")


def alike(value, tensor):
    """Whether a value of a state dict can replace a tensor: same shape, both floats or neither."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_nested
        and value.device.type == "cpu"
        and value.shape == tensor.shape
        and value.is_floating_point() == tensor.is_floating_point()
    )
