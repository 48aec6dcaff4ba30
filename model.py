"""The Siamese ranker: one shared backbone, a head on features_1 - features_2, two logits.

logits[:, 0] scores "photo_1 is preferred", logits[:, 1] "photo_2 is preferred".
"""

import torch
import torchvision
from torch import nn

from data import take_inputs
from disk.tensors import load_weights

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
        """Logits [B, 2] of two photos by their features, each [B, F]: the one formula."""
        return self.head(features_1 - features_2)


def build_head(features, hidden=(), activation="relu", dropout=0.0):
    """Linear(features, 2), or an MLP with these hidden widths; [B, features] to [B, 2].

    Weights are Kaiming normal, fan_in: std = sqrt(2 / inputs), 0.031 for 2048; biases are 0.
    Each hidden layer is followed by the activation and by dropout, where that is above 0.
    """
    layers = []
    inputs = features
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

    weights: `imagenet` (IMAGENET1K_V1), `none` (random), a file with a torchvision state dict, or
    the best.pt of a run, whose backbone it is.
    """
    backbone = torchvision.models.resnet50()
    load_weights(backbone, weights, torchvision.models.ResNet50_Weights.IMAGENET1K_V1, "fc")
    backbone.fc = nn.Identity()
    return backbone


def vgg16(weights, size, inner_dropout=0.0):
    """torchvision's VGG-16 up to fc7, [B, 3, S, S] to features [B, 4096] (after its ReLU).

    weights as in resnet50; size is S, in pixels. inner_dropout is 0.5 in torchvision: then one
    photo against itself gives a difference in training, so the reference runs without.
    """
    backbone = torchvision.models.vgg16()
    load_weights(backbone, weights, torchvision.models.VGG16_Weights.IMAGENET1K_V1, "classifier.6")
    if size == 224:  # 7 x 7 already: pooling is the identity, and has no deterministic backward
        backbone.avgpool = nn.Identity()
    backbone.classifier = backbone.classifier[:6]
    for layer in backbone.classifier:
        if isinstance(layer, nn.Dropout):
            layer.p = inner_dropout
    return backbone


# Evaluation: every photo goes through the backbone once, however many pairs it is in


def score_pairs(ranker, split, batch_size):
    """Logits [P, 2] of the pairs of a split, in evaluation mode, on the CPU.

    batch_size: photos a pass. Leaves the ranker in evaluation mode; consumes no random numbers.
    """
    return score_features(ranker, embed(ranker, split, batch_size), split.rows)


@torch.no_grad()
def embed(ranker, split, batch_size):
    """Features [N, F] of the photos of a split, in evaluation mode, on the ranker's device."""
    ranker.eval()
    weight = next(ranker.parameters())
    features = []
    for rows in torch.arange(len(split.files)).split(batch_size):
        photos = take_inputs(split, rows.numpy(), weight.device, weight.dtype)
        features.append(ranker.backbone(photos))
    return torch.cat(features)


@torch.no_grad()
def score_features(ranker, features, rows):
    """Logits [P, 2], on the CPU, of the pairs whose photos have these rows [P, 2] in features.

    In evaluation mode, in which it leaves the ranker.
    """
    ranker.eval()
    pairs = torch.from_numpy(rows).to(features.device).split(1024)
    return torch.cat([ranker.compare(*features[p.T]) for p in pairs]).cpu()
