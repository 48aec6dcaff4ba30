"""A trainer's first weights held against pretrained ones, tensor by tensor; nothing is downloaded.

Its findings are those of the stage `start`.
"""

from pathlib import Path

import torch
from torchvision.models import ResNet50_Weights, VGG16_Weights

from disk.errors import stop
from disk.tensors import load_tensors
from run.findings import CAUSE, SKIPPED, WRONG, Row

PUBLISHED = {
    "train_resnet": ResNet50_Weights,
    "train_vgg": VGG16_Weights,
}  # of the pages' backbones
USUAL = "IMAGENET1K_V1"  # what `imagenet` means, see model.resnet50
OTHER = Row(
    "start.other_weights",
    CAUSE,
    "the backbone starts from {title} (reference: {reference})",
    help="start from the weights {reference}",
    at=("backbone", "forward"),
)
LAYERS = Row(
    "start.other_layers",
    CAUSE,
    "these layers of the backbone do not start from {title}, as the others do: {layers}",
    help="look at what load_state_dict(..., strict=False) returns: missing and unexpected keys",
    matters=WRONG,
    at=("backbone", "forward"),
)
NONE = Row(
    "start.unknown_weights",
    CAUSE,
    "no tensor of the backbone is that of {title} (reference: {reference})",
    help="start from the weights {reference}",
    at=("backbone", "forward"),
)
NOT_HELD = Row(
    "start.weights_not_held",
    SKIPPED,
    "the first weights were not compared with the pretrained ones: torch's cache has no {file}; "
    "name it with --weights",
    is_partial=True,
)


def at_hand(page, file):
    """{title: tensors by name} of the pretrained weights of a page's backbone that are here: a
    file, or None, and what torch's cache holds. Ends the program where the file is none of either.
    """
    found = {}
    if file is not None:
        state = load_tensors(Path(file))
        state = state.get("model", state) if isinstance(state, dict) else None
        if not isinstance(state, dict) or not all(
            isinstance(t, torch.Tensor) for t in state.values()
        ):
            stop(__file__, f"--weights {file}: not a state dict")
        own = {str(name).removeprefix("backbone."): tensor for name, tensor in state.items()}
        found[Path(file).name] = own
    for published in PUBLISHED[page]:
        path = cached(published)
        if path.is_file():
            found[published.name] = load_tensors(path)
    return found


def cached(published):
    """Where torch's cache has the file of published weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / published.url.rsplit("/", 1)[1]


def judge_pretrained(page, file, own):
    """The finding on the first weights of a trainer's backbone, in a list.

    page: of the reference; file: with --weights, or None; own: {name in the reference's backbone:
    tensor as the trainer had it first}.
    """
    known, usual = at_hand(page, file), PUBLISHED[page][USUAL]
    if not known:
        return [NOT_HELD.found(file=cached(usual).name)]
    same = {title: {n for n, t in own.items() if is_same(t, state.get(n))}
            for title, state in known.items()}  # fmt: skip
    title = max(same, key=lambda name: (len(same[name]), name == USUAL))
    reference = next(iter(known)) if file is not None else USUAL
    if not same[title]:
        return [NONE.found(title=" or ".join(known), reference=reference)]
    left = dict.fromkeys(name.split(".")[0] for name in own if name not in same[title])
    findings = [] if title == reference else [OTHER.found(title=title, reference=reference)]
    return findings + [LAYERS.found(title=title, layers=tuple(left))] * bool(left)


def is_same(tensor, published):
    """Whether a trainer's tensor is the published one, in its own precision."""
    if published is None or published.shape != tensor.shape:
        return False
    exact = torch.equal(published.double(), tensor.double())
    return exact or torch.equal(published.to(tensor.dtype), tensor)


def first_weights(batch, values, names):
    """{name in the reference's backbone: tensor} of a trainer before its first step.

    batch: its first; values: of all weights, by number, as they are in its update: running
    statistics have moved by then, so they are those before the first forward pass.
    """
    own = {name: values[n] for n, name in names.items() if "running_" not in name}
    for norm in batch.passes[0].norms if batch.passes else ():
        module = names.get(norm.weight, "").rpartition(".")[0]
        for kind, tensor in zip(("running_mean", "running_var"), norm.before, strict=True):
            if module and tensor is not None:
                own.setdefault(f"{module}.{kind}", tensor)
    return own
