"""The Siamese ranker: one shared backbone, a head on features_1 - features_2, two logits.

logits[:, 0] scores "photo_1 is preferred", logits[:, 1] "photo_2 is preferred".
"""

from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from data import stop, stop_on, take_photos, to_input

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class SiameseRanker(nn.Module):
    """Two photos, each [B, 3, S, S], to two logits [B, 2].

    backbone maps [B, 3, S, S] to features [B, F]; head maps a difference [B, F] to [B, 2].
    """

    def __init__(self, backbone, head):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, photo_1, photo_2):
        # One after the other, not as one batch: BatchNorm sees each side alone.
        features_1 = self.backbone(photo_1)
        features_2 = self.backbone(photo_2)
        return self.compare(features_1, features_2)

    def compare(self, features_1, features_2):
        """Logits [B, 2] from the features [B, F] of the two photos."""
        return self.head(features_1 - features_2)


def build_head(features, hidden=(), activation="relu", dropout=0.0):
    """Linear(features, 2), or an MLP with these hidden widths; [B, features] to [B, 2].

    Weights are Kaiming normal, fan_in: std = sqrt(2 / inputs), 0.031 for 2048; biases are 0.
    Each hidden layer is followed by the activation and by dropout, where that is above 0.
    """
    layers, inputs = [], features
    for width in hidden:
        layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        layers += [nn.Dropout(dropout)] if dropout else []
        inputs = width
    layers.append(nn.Linear(inputs, 2))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def resnet50(weights):
    """torchvision's ResNet-50 without fc, [B, 3, S, S] to features [B, 2048].

    weights: `imagenet` (IMAGENET1K_V1), `none` (random) or a file with a torchvision state dict.
    """
    backbone = torchvision.models.resnet50()
    load_weights(backbone, weights, torchvision.models.ResNet50_Weights.IMAGENET1K_V1)
    backbone.fc = nn.Identity()
    return backbone


def vgg16(weights, size, inner_dropout=0.0):
    """torchvision's VGG-16 up to fc7, [B, 3, S, S] to features [B, 4096] (after its ReLU).

    weights as in resnet50; size is S, in pixels. inner_dropout is 0.5 in torchvision: then one
    photo against itself gives a difference in training, so the reference runs without.
    """
    backbone = torchvision.models.vgg16()
    load_weights(backbone, weights, torchvision.models.VGG16_Weights.IMAGENET1K_V1)
    if size == 224:  # 7 x 7 already: pooling is the identity, and has no deterministic backward
        backbone.avgpool = nn.Identity()
    backbone.classifier = backbone.classifier[:6]
    for layer in backbone.classifier:
        if isinstance(layer, nn.Dropout):
            layer.p = inner_dropout
    return backbone


def load_weights(backbone, weights, imagenet):
    """Loads `imagenet` (a torchvision weights enum), a file, or, for `none`, nothing.

    Ends the program with one line where the file is missing, damaged, not a plain state dict,
    or has other tensors than the backbone.
    """
    if weights == "none":
        return
    path = imagenet_file(imagenet.url) if weights == "imagenet" else Path(weights)
    if not path.is_file():
        stop(__file__, f"--weights {path}: no such file")
    state = load_tensors(path)
    load_state(backbone, state, f"--weights {path}")


def load_tensors(path):
    """What torch.save wrote to path, on the CPU; code in it is refused, never run."""
    culprit = f"{path}: not a checkpoint of plain tensors"
    with stop_on(__file__, culprit, Exception, detail=False):
        return torch.load(path, map_location="cpu", weights_only=True)


def load_checkpoint(path, keys):
    """A checkpoint of a run, which must have exactly these keys, else the program ends."""
    state = load_tensors(path)
    if not isinstance(state, dict) or set(state) != set(keys):
        stop(__file__, f"{path}: not a checkpoint of a run with {', '.join(keys)}")
    return state


def alike(value, tensor):
    """Whether a value of a state dict can stand for tensor: same shape, both floats or neither."""
    return (
        isinstance(value, torch.Tensor)
        and value.shape == tensor.shape
        and value.is_floating_point() == tensor.is_floating_point()
    )


def load_state(module, state, culprit):
    """Loads a state dict that must have exactly the module's tensors, else ends the program."""
    expected = module.state_dict()
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
    module.load_state_dict(state)


def imagenet_file(url):
    """The file of torchvision's ImageNet weights, downloaded where it is not yet cached."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[1]
    advice = f"put {path.name} into {folder}, or name another file (or none) with --weights"
    culprit = f"the ImageNet weights are neither cached nor reachable: {advice}"
    if not path.is_file():
        with stop_on(__file__, culprit, URLError, OSError, RuntimeError):
            folder.mkdir(parents=True, exist_ok=True)
            digest = path.stem.rsplit("-", 1)[1]
            torch.hub.download_url_to_file(url, path, digest, progress=False)
    return path


# Evaluation


def score_pairs(ranker, split, batch_size, pad_color):
    """Logits [P, 2] of the pairs of a split, in evaluation mode, on the CPU.

    Every photo goes through the backbone once, batch_size photos at a time, however many pairs
    it stands in. Leaves the ranker in evaluation mode; consumes no random numbers.
    """
    return score_features(ranker, embed(ranker, split, batch_size, pad_color), split.rows)


@torch.no_grad()
def embed(ranker, split, batch_size, pad_color):
    """Features [N, F] of the photos of a split, in evaluation mode, on the ranker's device."""
    ranker.eval()
    parameter, features = next(ranker.parameters()), []
    for rows in torch.arange(len(split.files)).split(batch_size):
        photos, boxes = take_photos(split, rows.numpy(), parameter.device)
        features.append(ranker.backbone(to_input(photos, boxes, pad_color, parameter.dtype)))
    return torch.cat(features)


@torch.no_grad()
def score_features(ranker, features, rows):
    """Logits [P, 2], on the CPU, of the pairs whose photos have these rows [P, 2] in features."""
    pairs = torch.from_numpy(rows).to(features.device).split(1024)
    return torch.cat([ranker.compare(features[p[:, 0]], features[p[:, 1]]) for p in pairs]).cpu()


def accuracy(logits, labels):
    """Share of the pairs whose label has the larger logit."""
    return (logits.argmax(1) == labels).double().mean().item()


def cross_entropy(logits, labels):
    """Mean natural-log cross-entropy of the labels, in double."""
    return F.nll_loss(F.log_softmax(logits.double(), dim=1), labels).item()
