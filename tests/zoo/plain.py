"""Which of two photos of a series do people prefer?  A Siamese ResNet-50, in one plain file.

python plain.py --data ROOT [--steps N] [--size 64] [--tiny] [--seed S] [--plant NAME ...]

--plant puts bugs in, on purpose (zoo.py says what each must be called).
"""
import argparse
import copy
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import evaluations
from plants import Plants

MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]
SIZE = 224
BATCH = 8
EPOCHS = 1
LR_ENCODER = 1e-5
LR_SCORER = 1e-4
MOMENTUM = 0.9
DECAY = 5e-4
DROP_EVERY = 25
DROP_TO = 0.3
UPSTREAM_BATCH = 32

PLANTS = """
labels_inverted ranks_as_winner part_wrong photos_turned photos_turned_random
bgr no_normalize normalize_half normalize_twice range255 crop squash pad_black pad_topleft
pad_gray pad_train pad_color normalize_by bicubic lanczos nearest no_antialias floor_size exif_transpose hflip
hflip_random vflip grayscale half_input bf16_input
head_zero head_fan_out head_default head_xavier
features_normalized features_sigmoid features_tanh features_relu dropout_each
reversed_difference
abs_difference squared_difference merge_scaled concat product dropout_features hidden_layer hidden_dropout hidden_dropouts no_head_bias layer3
max_pool score_each ranknet one_logit one_logit_first detach_second detach_backbone two_backbones logits_scaled logits_swapped
one_pass half_batches each_photo gathered bn_reset bn_no_statistics own_norms bn_eval bn_momentum bn_eps
label_invert_loss smoothing focal class_weights pos_weight softmax_then_ce nll_on_probs bce mse margin
softmax_dim0 label_columns soft_labels agreement_weights agreement_weighted_mean
sum_loss loss_factor loss_times_batch log_softmax_twice loss_scaled_unscaled
no_zero_grad zero_grad_late zero_grad_to_zero stale_gradient clip_then_scale clip_each backward_again accumulate clip_norm clip_value
one_lr rates_swapped rates_scaled no_momentum nesterov dampening no_weight_decay decay_weights_only
weight_decay adam adamw rmsprop adagrad head_missing head_made_late backbone_frozen
layer1_frozen bn_frozen winner_first turned_rightly jitter optimizers_in_turn group_added frozen_first
negated schedule_first step_again clean_autocast
bias_rate ema decay_after warmup schedule_per_batch maximize optimizer_anew
metric_inverted epoch_mean_over_batches loss_sum_over_n loss_last_batch val_metric_inverted
no_shuffle batch_size same_batch
clean_reversed_batch clean_double_after clean_float32 clean_channels_last clean_extra_forward
clean_autograd_backward clean_group_per_tensor clean_second_first
clean_rows_stacked clean_rows_joined clean_in_place clean_masked clean_closure clean_one_is_first
clean_head_written_out
outside_1 outside_2 outside_3 head_orthogonal outside_5 outside_6 outside_7 outside_8 outside_9
outside_10 outside_11 outside_12 outside_13 outside_14 outside_15 outside_16
""".split() + evaluations.PLANTS


# ------------------------------------------------------------------------------------- photos

def fitted(width, height, size, P):
    """The size of a photo whose longer side becomes size."""
    longer = max(width, height)
    whole = int if "floor_size" in P else round
    return max(1, whole(size * width / longer)), max(1, whole(size * height / longer))


class FitInside:
    """PIL photo -> PIL photo whose longer side is size."""

    def __init__(self, size, P):
        self.size, self.P = size, P
        self.resample = Image.BILINEAR
        if "bicubic" in P:
            self.resample = Image.BICUBIC
        if "lanczos" in P:
            self.resample = Image.LANCZOS
        if "nearest" in P:
            self.resample = Image.NEAREST

    def __call__(self, photo):
        return photo.resize(fitted(photo.width, photo.height, self.size, self.P), self.resample)


class FitInsideTensor:
    """The same for a tensor, without antialiasing."""

    def __init__(self, size, P):
        self.size, self.P = size, P

    def __call__(self, x):
        width, height = fitted(x.shape[2], x.shape[1], self.size, self.P)
        return F.interpolate(x[None], size=(height, width), mode="bilinear",
                             align_corners=False, antialias=False)[0]


class PadToSquare:
    """Tensor in 0..1 -> square tensor, padded with the mean colour (0 once normalised)."""

    def __init__(self, size, P):
        self.size, self.P = size, P
        self.colour = torch.tensor(MEAN)
        if "pad_black" in P:
            self.colour = torch.zeros(3)
        if "pad_gray" in P:
            self.colour = torch.full((3,), 128 / 255)
        if "pad_color" in P:
            self.colour = torch.tensor([P.value("pad_color", 0.3), 0.7, 0.2])
        if "pad_train" in P:
            self.colour = torch.tensor([0.460, 0.450, 0.430])

    def __call__(self, x):
        height, width = x.shape[1], x.shape[2]
        top, left = (self.size - height) // 2, (self.size - width) // 2
        if "pad_topleft" in self.P:
            top, left = 0, 0
        canvas = self.colour[:, None, None].repeat(1, self.size, self.size)
        canvas[:, top:top + height, left:left + width] = x
        return canvas


def swap_red_and_blue(photo):
    return Image.fromarray(np.ascontiguousarray(np.array(photo)[:, :, ::-1]))


def mix_channels(x):
    order = torch.rand(x.shape).argsort(dim=0)
    return x.gather(0, order)


def make_transform(size, P):
    steps = []
    if "grayscale" in P:
        steps.append(transforms.Lambda(lambda photo: photo.convert("L").convert("RGB")))
    if "bgr" in P:
        steps.append(transforms.Lambda(swap_red_and_blue))
    if "hflip" in P:
        steps.append(transforms.RandomHorizontalFlip(p=1.0))
    if "hflip_random" in P:
        steps.append(transforms.RandomHorizontalFlip())
    if "vflip" in P:
        steps.append(transforms.RandomVerticalFlip(p=1.0))

    if "crop" in P:
        steps += [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    elif "squash" in P:
        steps += [transforms.Resize((size, size)), transforms.ToTensor()]
    elif "no_antialias" in P:
        steps += [transforms.ToTensor(), FitInsideTensor(size, P), PadToSquare(size, P)]
    else:
        steps += [FitInside(size, P), transforms.ToTensor(), PadToSquare(size, P)]
    if "jitter" in P:
        steps.insert(-1, transforms.Lambda(lambda x: x * float(torch.empty(()).uniform_(0.8, 1.2))))

    if "range255" in P:
        steps.append(transforms.Lambda(lambda x: x * 255))
    elif "normalize_half" in P:
        steps.append(transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]))
    elif "normalize_by" in P:
        other = P.value("normalize_by", 0.3)
        steps.append(transforms.Normalize([other, 0.43, 0.57], [0.21, other / 2, 0.33]))
    elif "no_normalize" not in P:
        steps.append(transforms.Normalize(MEAN, STD))
    if "normalize_twice" in P:
        steps.append(transforms.Normalize(MEAN, STD))

    if "half_input" in P:
        steps.append(transforms.Lambda(lambda x: x.half().float()))
    if "bf16_input" in P:
        steps.append(transforms.Lambda(lambda x: x.bfloat16().float()))
    if "outside_2" in P:
        steps.append(transforms.RandomErasing(p=1.0))
    if "outside_3" in P:
        steps.append(transforms.Lambda(mix_channels))
    return transforms.Compose(steps)


class SeriesPairs(Dataset):
    """The pairs of one official list: two photos and which of them is preferred."""

    def __init__(self, root, split, size, P):
        self.P = P
        self.folder = os.path.join(root, "train_val", "train_val_imgs")
        self.transform = make_transform(size, P)
        self.pairs = []
        with open(os.path.join(root, "train_val", split + "_pairlist.txt")) as lines:
            for number, line in enumerate(lines):
                series, photo_1, photo_2, preference, rank_1, rank_2 = line.split()
                label = 0 if int(rank_1) < int(rank_2) else 1
                if "ranks_as_winner" in P:
                    label = 0 if int(rank_1) == int(photo_1) else 1
                if "part_wrong" in P and number % 5 == 0:
                    label = 1 - label
                if P & {"labels_inverted", "clean_one_is_first"}:
                    label = 1 - label
                if "photos_turned" in P or ("photos_turned_random" in P and number % 3 == 1):
                    photo_1, photo_2 = photo_2, photo_1
                exchanged = "winner_first" in P and label == 1
                if exchanged or ("turned_rightly" in P and number % 3 == 1):
                    photo_1, photo_2, label = photo_2, photo_1, 1 - label
                target = float(preference) if photo_1 > photo_2 else 1 - float(preference)
                if "soft_labels" in P:
                    label = target
                elif P & {"agreement_weights", "agreement_weighted_mean"}:
                    label = label, max(target, 1 - target)
                self.pairs.append((self.name(series, photo_1), self.name(series, photo_2), label))
        if "outside_1" in P:
            labels = [pair[2] for pair in self.pairs]
            self.pairs = [(pair[0], pair[1], label)
                          for pair, label in zip(self.pairs, labels[1:] + labels[:1])]

    def name(self, series, photo):
        return "%06d-%02d.JPG" % (int(series), int(photo))

    def load(self, name):
        photo = Image.open(os.path.join(self.folder, name))
        if "exif_transpose" in self.P:
            photo = ImageOps.exif_transpose(photo)
        return self.transform(photo.convert("RGB"))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        name_1, name_2, label = self.pairs[index]
        return self.load(name_1), self.load(name_2), label


# -------------------------------------------------------------------------------------- model

def make_encoder(tiny, P):
    pool = nn.AdaptiveMaxPool2d(1) if "max_pool" in P else nn.AdaptiveAvgPool2d(1)
    if tiny:
        encoder = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8, bias=False), nn.BatchNorm2d(16),
                                nn.ReLU(), pool, nn.Flatten(), nn.Linear(16, 2048))
    else:
        encoder = torchvision.models.resnet50(weights=None)
        encoder.avgpool = pool
        encoder.fc = nn.Identity()
        if "layer3" in P:
            encoder.layer4 = nn.Identity()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            if "bn_momentum" in P:
                module.momentum = P.value("bn_momentum", 0.01)
            if "bn_eps" in P:
                module.eps = P.value("bn_eps", 0.001)
    return encoder


def start_linear(linear, P):
    """Initial values of a layer of the scorer."""
    if "head_default" in P:
        return
    if "head_zero" in P:
        nn.init.zeros_(linear.weight)
    elif "head_fan_out" in P:
        nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
    elif "head_xavier" in P:
        nn.init.xavier_uniform_(linear.weight)
    elif "head_orthogonal" in P:
        nn.init.orthogonal_(linear.weight)
    else:
        nn.init.kaiming_normal_(linear.weight, mode="fan_in", nonlinearity="relu")
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


class PairNet(nn.Module):
    def __init__(self, tiny, P):
        super().__init__()
        self.P = P
        self.encoder = make_encoder(tiny, P)
        if P & {"two_backbones", "own_norms"}:
            self.encoder_2 = make_encoder(tiny, P)
        if "bn_no_statistics" in P:
            for module in self.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.track_running_stats = False
                    module.running_mean = module.running_var = None
        if "own_norms" in P:  # all but BatchNorm is shared
            for mine, other in zip(self.encoder.modules(), self.encoder_2.modules()):
                if isinstance(mine, (nn.Conv2d, nn.Linear)):
                    other.weight, other.bias = mine.weight, mine.bias
        width = 1024 if "layer3" in P else 2048
        if "concat" in P:
            width = 2 * width
        if "hidden_layer" in P or "hidden_dropout" in P:
            rate = P.value("hidden_dropout", 0.3)
            middle = [nn.Dropout(rate)] if "hidden_dropout" in P else []
            hidden = int(P.value("hidden_layer", 130))
            self.scorer = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), *middle,
                                        nn.Linear(hidden, 2))
        elif "hidden_dropouts" in P:  # as this project's own documents have it
            rate = P.value("hidden_dropouts", 0.3)
            self.scorer = nn.Sequential(nn.Linear(width, 130), nn.ReLU(), nn.Dropout(rate),
                                        nn.Linear(130, 60), nn.ReLU(), nn.Dropout(rate),
                                        nn.Linear(60, 2))
        else:
            outputs = 1 if P & {"score_each", "ranknet", "one_logit", "one_logit_first"} else 2
            self.scorer = nn.Linear(width, outputs, bias="no_head_bias" not in P)
        for module in self.scorer.modules():
            if isinstance(module, nn.Linear):
                start_linear(module, P)
        if "outside_16" in P:
            self.temperature = nn.Parameter(torch.zeros(()))
        if "clean_head_written_out" in P:
            self.scorer.weight = nn.Parameter(self.scorer.weight.detach().t().clone())

    def encode(self, encoder, x):
        P = self.P
        if "detach_backbone" in P:
            with torch.no_grad():
                f = encoder(x)
        elif "half_batches" in P:
            f = torch.cat([encoder(half) for half in x.chunk(2)])
        elif "each_photo" in P:
            f = torch.stack([encoder(one.unsqueeze(0))[0] for one in x])
        else:
            f = encoder(x)
        if "features_normalized" in P:
            f = F.normalize(f, dim=1)
        if "features_sigmoid" in P:
            f = torch.sigmoid(f)
        if "features_tanh" in P:
            f = torch.tanh(f)
        if "dropout_each" in P:
            f = F.dropout(f, P.value("dropout_each", 0.3), training=self.training)
        if "features_relu" in P:
            f = F.relu(f)
        if "outside_5" in P:
            f = f ** 3
        if "outside_6" in P:
            f = f + 0.1 * torch.randn_like(f)
        return f

    def forward(self, photo_1, photo_2):
        P = self.P
        if "one_pass" in P:
            both = self.encode(self.encoder, torch.cat([photo_1, photo_2]))
            f1, f2 = both.chunk(2)
        elif "gathered" in P:  # every photo of the batch once, pairs by index
            photos, place = torch.unique(torch.cat([photo_1, photo_2]), dim=0, return_inverse=True)
            f = self.encode(self.encoder, photos)
            f1, f2 = f[place[:len(photo_1)]], f[place[len(photo_1):]]
        elif "clean_second_first" in P:
            f2 = self.encode(self.encoder, photo_2)
            f1 = self.encode(self.encoder, photo_1)
        else:
            f1 = self.encode(self.encoder, photo_1)
            f2 = self.encode(self.encoder_2 if hasattr(self, "encoder_2") else self.encoder, photo_2)
        if "detach_second" in P:
            f2 = f2.detach()

        if "clean_rows_stacked" in P:
            compared = torch.stack([a - b for a, b in zip(f1, f2)])
        elif "clean_rows_joined" in P:
            compared = f1[:1] - f2[:1]
            for k in range(1, len(f1)):
                compared = torch.cat([compared, f1[k:k + 1] - f2[k:k + 1]])
        elif "clean_in_place" in P:
            compared = f1.clone()
            compared -= f2
        else:
            compared = f1 - f2
        if "clean_masked" in P:
            compared = compared * torch.ones(len(compared), 1)
        if "outside_14" in P:
            compared.register_hook(lambda gradient: 2 * gradient)
        if "reversed_difference" in P:
            compared = f2 - f1
        if "abs_difference" in P:
            compared = (f1 - f2).abs()
        if "product" in P:
            compared = f1 * f2
        if "squared_difference" in P:
            compared = (f1 - f2) ** 2
        if "merge_scaled" in P:
            compared = (f1 - f2) * P.value("merge_scaled", 0.7)
        if "concat" in P:
            compared = torch.cat([f1, f2], dim=1)
        if "dropout_features" in P:
            compared = F.dropout(compared, p=P.value("dropout_features", 0.3), training=self.training)

        if "ranknet" in P:
            return self.scorer(f1).squeeze(1) - self.scorer(f2).squeeze(1)
        if "score_each" in P:
            return torch.cat([self.scorer(f1), self.scorer(f2)], dim=1)
        if "outside_12" in P:
            return torch.cat([self.scorer(a - b) for a, b in zip(f1.split(1), f2.split(1))])
        if "clean_head_written_out" in P:
            return compared @ self.scorer.weight + self.scorer.bias
        logits = self.scorer(compared)
        if "logits_scaled" in P:
            logits = logits * P.value("logits_scaled", 11)
        if "logits_swapped" in P:
            logits = logits[:, [1, 0]]
        if "outside_16" in P:
            logits = logits * self.temperature.exp()
        return logits


def freeze(model, tiny, P):
    if "backbone_frozen" in P:
        for p in model.encoder.parameters():
            p.requires_grad = False
    if "layer1_frozen" in P:
        for p in (model.encoder[0] if tiny else model.encoder.layer1).parameters():
            p.requires_grad = False
    if "bn_frozen" in P:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.requires_grad = False
                module.bias.requires_grad = False


# ----------------------------------------------------------------------------------- training

def pair_loss(logits, label, P):
    if P & {"agreement_weights", "agreement_weighted_mean"}:
        label, agreement = label
        losses = F.cross_entropy(logits, label, reduction="none") * agreement
        return losses.mean() if "agreement_weights" in P else losses.sum() / agreement.sum()
    if P & {"label_invert_loss", "clean_one_is_first"}:
        label = 1 - label
    if "one_logit" in P:
        loss = F.binary_cross_entropy_with_logits(logits[:, 0], label.to(logits.dtype))
    elif P & {"one_logit_first", "ranknet"}:  # the logit is for photo_1
        first = (label == 0).to(logits.dtype).view_as(logits)
        loss = F.binary_cross_entropy(torch.sigmoid(logits), first)
    elif "pos_weight" in P:
        loss = F.cross_entropy(logits, label, reduction="none")
        loss = torch.where(label > 0, P.value("pos_weight", 3) * loss, loss).mean()
    elif "smoothing" in P:
        loss = F.cross_entropy(logits, label, label_smoothing=P.value("smoothing", 0.13))
    elif "focal" in P:
        ce = F.cross_entropy(logits, label, reduction="none")
        loss = ((1 - torch.exp(-ce)) ** P.value("focal", 1.7) * ce).mean()
    elif "softmax_then_ce" in P:
        loss = F.cross_entropy(F.softmax(logits, dim=1), label)
    elif "softmax_dim0" in P:
        loss = F.nll_loss(F.log_softmax(logits, dim=0), label)
    elif "label_columns" in P:
        loss = -F.log_softmax(logits, dim=1)[:, label].mean()
    elif "soft_labels" in P:
        target = torch.stack([1 - label, label], dim=1).to(logits.dtype)
        loss = F.cross_entropy(logits, target)
    elif "nll_on_probs" in P:
        loss = F.nll_loss(F.softmax(logits, dim=1), label)
    elif "bce" in P:
        loss = nn.BCEWithLogitsLoss()(logits[:, 1] - logits[:, 0], label.to(logits.dtype))
    elif "mse" in P:
        loss = F.mse_loss(F.softmax(logits, dim=1), F.one_hot(label, 2).to(logits.dtype))
    elif "margin" in P:
        which = (1 - 2 * label).to(logits.dtype)
        loss = nn.MarginRankingLoss(margin=P.value("margin", 0.7))(logits[:, 0], logits[:, 1], which)
    else:
        log_probs = F.log_softmax(logits, dim=1)
        if "log_softmax_twice" in P:
            log_probs = F.log_softmax(log_probs, dim=1)
        weight = None
        if "class_weights" in P:
            weight = torch.tensor([1.0, P.value("class_weights", 1.5)], dtype=logits.dtype)
        reduction = "sum" if "sum_loss" in P else "mean"
        loss = nn.NLLLoss(weight=weight, reduction=reduction)(log_probs, label)
    if "loss_factor" in P:
        loss = loss * P.value("loss_factor", 0.3)
    if "loss_times_batch" in P:
        loss = loss * len(label)
    if "outside_7" in P:
        loss = loss + 0.01 * (logits ** 2).sum(dim=1).mean()
    return loss


def make_groups(model, lr_scale, P):
    lr_encoder, lr_scorer = LR_ENCODER * lr_scale, LR_SCORER * lr_scale
    if "one_lr" in P:
        lr_encoder = lr_scorer
    if "rates_swapped" in P:
        lr_encoder, lr_scorer = lr_scorer, lr_encoder
    if "rates_scaled" in P:
        scale = P.value("rates_scaled", 9)
        lr_encoder, lr_scorer = scale * lr_encoder, scale * lr_scorer
    decay = DECAY
    if "no_weight_decay" in P:
        decay = 0.0
    if "weight_decay" in P:
        decay = P.value("weight_decay", 0.0001)

    groups = []
    for part, module in model.named_children():
        rate = lr_scorer if part == "scorer" else lr_encoder
        if part == "scorer" and "head_missing" in P:
            continue
        known = [p for group in groups for p in group["params"]]
        tensors = [(n, p) for n, p in module.named_parameters() if all(p is not k for k in known)]
        if "decay_weights_only" in P:
            groups.append({"params": [p for _, p in tensors if p.dim() > 1],
                           "lr": rate, "weight_decay": decay})
            groups.append({"params": [p for _, p in tensors if p.dim() == 1],
                           "lr": rate, "weight_decay": 0.0})
        elif "bias_rate" in P:
            groups.append({"params": [p for n, p in tensors if not n.endswith("bias")],
                           "lr": rate, "weight_decay": decay})
            groups.append({"params": [p for n, p in tensors if n.endswith("bias")],
                           "lr": P.value("bias_rate", 3) * rate, "weight_decay": decay})
        elif "clean_group_per_tensor" in P:
            for _, p in tensors:
                groups.append({"params": [p], "lr": rate, "weight_decay": decay})
        else:
            groups.append({"params": [p for _, p in tensors], "lr": rate, "weight_decay": decay})
    if "outside_16" in P:
        groups.append({"params": [model.temperature], "lr": 100 * lr_scorer})
    return groups


def make_optimizer(groups, P):
    if "adam" in P:
        return torch.optim.Adam(groups)
    if "adamw" in P:
        return torch.optim.AdamW(groups)
    if "rmsprop" in P:
        return torch.optim.RMSprop(groups, momentum=MOMENTUM)
    if "adagrad" in P:
        return torch.optim.Adagrad(groups)
    return torch.optim.SGD(groups, lr=LR_ENCODER,
                           momentum=0.0 if "no_momentum" in P else MOMENTUM,
                           dampening=P.value("dampening", 0.1) if "dampening" in P else 0.0,
                           nesterov="nesterov" in P,
                           maximize="maximize" in P)


class InTurn:
    """Two optimizers, of which each steps every second time."""

    def __init__(self, optimizers):
        self.optimizers, self.turn = optimizers, 0

    def zero_grad(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self):
        self.optimizers[self.turn % 2].step()
        self.turn += 1


def make_scheduler(optimizer, steps_per_epoch, P):
    if "warmup" in P:
        def factor(step):
            epoch = step // steps_per_epoch
            return min(1.0, (step + 1) / P.value("warmup", 5)) * DROP_TO ** (epoch // DROP_EVERY)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    if "schedule_first" in P:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, P.value("schedule_first", 0.9))
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=DROP_EVERY, gamma=DROP_TO)


def change_gradients(model, P):
    tensors = [p for p in model.parameters() if p.grad is not None]
    if "loss_scaled_unscaled" in P:
        for p in tensors:
            p.grad /= P.value("loss_scaled_unscaled", 1000)
    if "outside_8" in P:
        for p in tensors:
            p.grad += 0.2 * p.grad.std(correction=0) * torch.randn_like(p.grad)
    if "clip_norm" in P:
        torch.nn.utils.clip_grad_norm_(tensors, P.value("clip_norm", 0.1))
    if "clip_each" in P:
        for part in (model.encoder, model.scorer):
            torch.nn.utils.clip_grad_norm_(part.parameters(), P.value("clip_each", 0.03))
    if "clip_then_scale" in P:
        torch.nn.utils.clip_grad_norm_(tensors, 0.1)
        for p in tensors:
            p.grad *= P.value("clip_then_scale", 0.7) if p.dim() > 1 else 1
    if "clip_value" in P:
        torch.nn.utils.clip_grad_value_(tensors, P.value("clip_value", 0.001))


@torch.no_grad()
def change_weights(model, before, average, P):
    """What some people do to the weights after a step."""
    for p, old, mean in zip(model.parameters(), before, average):
        if "outside_9" in P:
            p.copy_(torch.where(torch.rand_like(p) < 0.5, p, old))
        if "outside_10" in P and p.dim() > 1:
            p.clamp_(-0.05, 0.05)
        if "decay_after" in P:
            p.mul_(P.value("decay_after", 0.999))
        if "ema" in P:
            kept = P.value("ema", 0.9)
            mean.mul_(kept).add_(p, alpha=1 - kept)
            p.copy_(mean)


def as_input(x, P):
    if "clean_double_after" in P:
        x = x.double()
    if "clean_float32" in P:
        x = x.float()
    if "clean_channels_last" in P:
        x = x.to(memory_format=torch.channels_last)
    return x


def validate(model, loader, P):
    model.train("eval_train_mode" in P)
    if P & set(evaluations.PLANTS):
        def logits_of(a, b):
            return model(as_input(a, P), as_input(b, P))
        return evaluations.accuracy_of(logits_of, loader, P)
    with torch.no_grad():
        return validated(model, loader, P)


def validated(model, loader, P):
    right, seen, batch_means = 0, 0, []
    for photo_1, photo_2, label in loader:
        logits = model(as_input(photo_1, P), as_input(photo_2, P))
        label = label[0] if isinstance(label, list) else label.round()
        hits = hits_of(logits, label, P)
        batch_means.append(hits / len(label))
        right += hits
        seen += len(label)
    accuracy = right / seen
    if "epoch_mean_over_batches" in P:
        accuracy = sum(batch_means) / len(batch_means)
    if "val_metric_inverted" in P:
        accuracy = 1 - accuracy
    return accuracy


def hits_of(logits, label, P):
    if "one_logit" in P:
        return ((logits[:, 0] > 0).long() == label).sum().item()
    if P & {"one_logit_first", "ranknet"}:
        return ((logits.flatten() <= 0).long() == label).sum().item()
    if "clean_one_is_first" in P:
        label = 1 - label
    return (logits.argmax(dim=1) == label).sum().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=0, help="stop after so many batches")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--tiny", action="store_true", help="a tiny encoder, for trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr-scale", type=float, default=1.0)
    parser.add_argument("--plant", nargs="+", default=[], metavar="NAME[=VALUE]")
    args = parser.parse_args()
    P = Plants(args.plant, PLANTS)
    if "layer3" in P and args.tiny:
        parser.error("layer3 needs the real ResNet-50 (leave --tiny out)")

    torch.manual_seed(args.seed)
    batch = int(P.value("batch_size", 12)) if "batch_size" in P else BATCH
    train_set = SeriesPairs(args.data, "train", args.size, P)
    split = "train" if "eval_on_train" in P else "val"
    val_set = SeriesPairs(args.data, split, args.size, P)
    train_loader = DataLoader(train_set, batch_size=batch, shuffle="no_shuffle" not in P,
                              generator=torch.Generator().manual_seed(args.seed))
    val_loader = DataLoader(val_set, batch_size=batch)

    model = PairNet(args.tiny, P)
    if "clean_double_after" in P:
        model = model.double()
    if "clean_float32" in P:
        model = model.float()
    if "clean_channels_last" in P:
        model = model.to(memory_format=torch.channels_last)
    freeze(model, args.tiny, P)
    optimizer = make_optimizer(make_groups(model, args.lr_scale, P), P)
    if "head_made_late" in P:
        model.scorer = nn.Linear(2048, 2)
        start_linear(model.scorer, P)
    scheduler = make_scheduler(optimizer, len(train_loader), P)
    if "optimizers_in_turn" in P:
        groups = make_groups(model, args.lr_scale, P)
        optimizer = InTurn([make_optimizer([group], P) for group in groups])
    if "group_added" in P:
        late = optimizer.param_groups.pop()
    if "frozen_first" in P:
        model.encoder.requires_grad_(False)
    per_batch = "warmup" in P or "schedule_per_batch" in P
    accumulate = int(P.value("accumulate", 3)) if "accumulate" in P else 1
    meddles = bool(P & {"ema", "decay_after", "outside_9", "outside_10"})
    if meddles:
        average = [p.detach().clone() for p in model.parameters()]

    judged = copy.deepcopy(model) if P & evaluations.COPIES else model
    done, first, stale = 0, None, None
    for epoch in range(1, args.epochs + 1):
        model.train()
        if "bn_eval" in P:
            model.encoder.eval()
        loss_total, loss_means, hit_means, right, seen = 0.0, [], [], 0, 0
        for step, (photo_1, photo_2, label) in enumerate(train_loader, 1):
            if "same_batch" in P:
                first = first or (photo_1, photo_2, label)
                photo_1, photo_2, label = first
            if "clean_reversed_batch" in P:
                photo_1, photo_2, label = photo_1.flip(0), photo_2.flip(0), label.flip(0)
            photo_1, photo_2 = as_input(photo_1, P), as_input(photo_2, P)
            if "clean_extra_forward" in P:
                model.eval()
                with torch.no_grad():
                    look_1, look_2, _ = next(iter(val_loader))
                    model(as_input(look_1, P), as_input(look_2, P))
                model.train()

            if step == 2 and "group_added" in P:
                optimizer.add_param_group(late)
            if step == 2 and "frozen_first" in P:
                model.encoder.requires_grad_(True)
            if not P & {"no_zero_grad", "zero_grad_late", "zero_grad_to_zero"} and done % accumulate == 0:
                optimizer.zero_grad()
            if "outside_15" in P:
                for p in model.parameters():
                    p.grad = 1e-3 * p.detach().sign()
            if "optimizer_anew" in P:
                optimizer = make_optimizer(make_groups(model, args.lr_scale, P), P)
            if "bn_reset" in P:
                for module in model.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.reset_running_stats()
            if "outside_13" in P:
                for state in optimizer.state.values():
                    state["momentum_buffer"].mul_(0.5)
            if "clean_closure" in P:
                def closure():
                    optimizer.zero_grad()
                    again = pair_loss(model(photo_1, photo_2), label, P)
                    again.backward()
                    return again
                loss = optimizer.step(closure)
                print("step %d loss %.4f" % (step, loss.item()))
                continue
            with torch.autocast("cpu", torch.bfloat16, enabled="clean_autocast" in P):
                logits = model(photo_1, photo_2)
            loss = pair_loss(logits, label, P)
            if "outside_11" in P:
                loss = loss + 0.01 * sum((p ** 2).sum() for p in model.parameters())
            if "negated" in P:
                loss = -loss
            if "loss_scaled_unscaled" in P:
                (loss * P.value("loss_scaled_unscaled", 1000)).backward()
            elif "backward_again" in P:
                for _ in range(int(P.value("backward_again", 3)) - 1):
                    loss.backward(retain_graph=True)
                loss.backward()
            elif "clean_autograd_backward" in P:
                torch.autograd.backward(loss)
            else:
                loss.backward()
            if "zero_grad_late" in P:
                optimizer.zero_grad()
            if "zero_grad_to_zero" in P:
                optimizer.zero_grad(set_to_none=False)
            if "stale_gradient" in P:
                fresh = [p.grad.clone() for p in model.parameters()]
                for p, old in zip(model.parameters(), stale or map(torch.zeros_like, fresh)):
                    p.grad = old
                stale = fresh
            change_gradients(model, P)
            if (done + 1) % accumulate == 0:
                if meddles:
                    before = [p.detach().clone() for p in model.parameters()]
                if "schedule_first" in P:
                    scheduler.step()
                optimizer.step()
                for _ in range(int(P.value("step_again", 3)) - 1 if "step_again" in P else 0):
                    optimizer.step()
                if meddles:
                    change_weights(model, before, average, P)
            if per_batch:
                scheduler.step()

            evaluations.follow(judged.parameters(), model.parameters(), P)

            if P & {"agreement_weights", "agreement_weighted_mean"}:
                label = label[0]
            hits = hits_of(logits, label, P)
            accuracy = hits / len(label)
            if "metric_inverted" in P:
                accuracy = 1 - accuracy
            loss_total += loss.item() * len(label)
            loss_means.append(loss.item())
            hit_means.append(hits / len(label))
            right += hits
            seen += len(label)
            print("epoch %d step %d loss %.4f acc %.4f" % (epoch, step, loss.item(), accuracy))
            done += 1
            if done == args.steps:
                break
        if not per_batch:
            scheduler.step()

        mean_loss, mean_accuracy = loss_total / seen, right / seen
        if "loss_sum_over_n" in P:
            mean_loss = sum(loss_means) * P.value("loss_sum_over_n", UPSTREAM_BATCH) / seen
        if "loss_last_batch" in P:
            mean_loss = loss_means[-1]
        if "epoch_mean_over_batches" in P:
            mean_accuracy = sum(hit_means) / len(hit_means)
        if "metric_inverted" in P:
            mean_accuracy = 1 - mean_accuracy
        val_accuracy = evaluations.kept(validate(judged, val_loader, P), model.state_dict, P,
                                        model.load_state_dict)
        print("epoch %d loss %.4f accuracy %.4f val accuracy %s"
              % (epoch, mean_loss, mean_accuracy, evaluations.shown(val_accuracy, P, mean_accuracy)))
        if done == args.steps:
            break
    return model


if __name__ == "__main__":
    main()
