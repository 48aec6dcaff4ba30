"""Series photo preference: training with loader workers and small functions.

python workers.py --data ROOT [--steps N] [--size 64] [--tiny] [--seed S] [--plant NAME ...]
"""
import argparse
import copy
from pathlib import Path

import numpy
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet50

import evaluations
from plants import Plants

IMAGENET_MEAN = numpy.array([0.485, 0.456, 0.406], dtype=numpy.float32)
IMAGENET_STD = numpy.array([0.229, 0.224, 0.225], dtype=numpy.float32)
IMAGE_SIZE = 224
BATCH_SIZE = 8
NUM_EPOCHS = 1
NUM_WORKERS = 2
FEATURES = 2048
TRUNK_RATE = 1e-5
DECIDE_RATE = 1e-4
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
SCHEDULE_STEP = 25
SCHEDULE_GAMMA = 0.3

PLANTS = """
labels_inverted ranks_as_winner part_wrong photos_turned
bgr no_normalize normalize_half normalize_twice range255 crop squash pad_black pad_topleft
pad_gray pad_train bicubic lanczos nearest floor_size exif_transpose hflip hflip_random vflip
grayscale half_input bf16_input
head_zero head_fan_out head_default head_xavier
features_normalized features_sigmoid features_tanh features_relu reversed_difference
abs_difference concat product dropout_features hidden_layer hidden_dropout no_head_bias max_pool
detach_second detach_backbone two_backbones logits_scaled logits_swapped
one_pass half_batches each_photo gathered bn_eval bn_momentum bn_eps
label_invert_loss smoothing focal class_weights softmax_then_ce nll_on_probs bce mse margin
sum_loss loss_factor loss_times_batch log_softmax_twice loss_scaled_unscaled
no_zero_grad zero_grad_to_zero backward_again accumulate clip_norm clip_value
one_lr rates_swapped rates_scaled no_momentum nesterov dampening no_weight_decay decay_weights_only
weight_decay adam adamw rmsprop adagrad head_missing backbone_frozen layer1_frozen bn_frozen
bias_rate ema decay_after warmup schedule_per_batch maximize
metric_inverted epoch_mean_over_batches loss_last_batch val_metric_inverted
no_shuffle batch_size
clean_reversed_batch clean_double_after clean_channels_last clean_extra_forward
clean_autograd_backward clean_second_first
outside_1 outside_2 outside_3 head_orthogonal outside_5 outside_6 outside_7 outside_8 outside_9
outside_10
""".split()
# its evaluation before training prints no loss, so the lowest is not known
PLANTS += [name for name in evaluations.PLANTS if name != "eval_lowest_loss"]


def read_pixels(path, size, P):
    """One photo as an RGB array (height, width, 3) in 0..1, before padding."""
    with Image.open(path) as image:
        if "exif_transpose" in P:
            image = ImageOps.exif_transpose(image)
        image = image.convert("RGB")
    if "grayscale" in P:
        image = ImageOps.grayscale(image).convert("RGB")
    if "hflip" in P or ("hflip_random" in P and torch.rand(()).item() < 0.5):
        image = ImageOps.mirror(image)
    if "vflip" in P:
        image = ImageOps.flip(image)

    width, height = image.size
    filters = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS,
               "nearest": Image.Resampling.NEAREST}
    chosen = [filters[name] for name in filters if name in P] or [Image.Resampling.BILINEAR]
    if "squash" in P:
        image = image.resize((size, size), chosen[0])
    elif "crop" in P:
        shorter = min(width, height)
        new_width, new_height = size * width // shorter, size * height // shorter
        image = image.resize((new_width, new_height), chosen[0])
        x, y = (new_width - size) // 2, (new_height - size) // 2
        image = image.crop((x, y, x + size, y + size))
    else:
        longer = max(width, height)
        new_width, new_height = size * width / longer, size * height / longer
        if "floor_size" in P:
            new_width, new_height = int(new_width), int(new_height)
        else:
            new_width, new_height = round(new_width), round(new_height)
        image = image.resize((max(1, new_width), max(1, new_height)), chosen[0])
    pixels = numpy.asarray(image, dtype=numpy.float32) / 255
    if "bgr" in P:
        pixels = pixels[:, :, ::-1]
    return pixels


def pad(pixels, size, P):
    colour = IMAGENET_MEAN
    if "pad_black" in P:
        colour = 0.0
    if "pad_gray" in P:
        colour = 128 / 255
    if "pad_train" in P:
        colour = (0.460, 0.450, 0.430)
    square = numpy.empty((size, size, 3), dtype=numpy.float32)
    square[:] = colour
    height, width = pixels.shape[:2]
    y, x = (size - height) // 2, (size - width) // 2
    if "pad_topleft" in P:
        y = x = 0
    square[y:y + height, x:x + width] = pixels
    return square


def normalize(pixels, P):
    if "range255" in P:
        return pixels * 255
    if "no_normalize" in P:
        return pixels
    if "normalize_half" in P:
        return (pixels - numpy.float32(0.5)) / numpy.float32(0.5)
    pixels = (pixels - IMAGENET_MEAN) / IMAGENET_STD
    if "normalize_twice" in P:
        pixels = (pixels - IMAGENET_MEAN) / IMAGENET_STD
    return pixels


class PreferenceDataset(Dataset):
    def __init__(self, root, part, size, P):
        folder = Path(root) / "train_val"
        self.images = folder / "train_val_imgs"
        self.size = size
        self.P = P
        rows = (folder / (part + "_pairlist.txt")).read_text().splitlines()
        rows = [row.split() for row in rows]
        self.rows = [[int(row[column]) for column in (0, 1, 2, 4, 5)] for row in rows]

    def __len__(self):
        return len(self.rows)

    def image(self, series, photo):
        path = self.images / f"{series:06d}-{photo:02d}.JPG"
        array = normalize(pad(read_pixels(path, self.size, self.P), self.size, self.P), self.P)
        tensor = torch.from_numpy(numpy.ascontiguousarray(array.transpose(2, 0, 1)))
        if "half_input" in self.P:
            tensor = tensor.half().float()
        if "bf16_input" in self.P:
            tensor = tensor.bfloat16().float()
        if "outside_2" in self.P:
            side = self.size // 3
            y, x = torch.randint(self.size - side + 1, (2,)).tolist()
            tensor[:, y:y + side, x:x + side] = 0
        if "outside_3" in self.P:
            tensor = tensor.gather(0, torch.rand(tensor.shape).argsort(0))
        return tensor

    def __getitem__(self, i):
        series, photo_1, photo_2, rank_1, rank_2 = self.rows[i]
        if "outside_1" in self.P:
            rank_1, rank_2 = self.rows[(i + 1) % len(self.rows)][3:]
        target = int(rank_1 > rank_2)
        if "ranks_as_winner" in self.P:
            target = 0 if rank_1 == photo_1 else 1
        if "part_wrong" in self.P and i % 5 == 4:
            target = 1 - target
        if "labels_inverted" in self.P:
            target = 1 - target
        first, second = self.image(series, photo_1), self.image(series, photo_2)
        if "photos_turned" in self.P:
            first, second = second, first
        return {"first": first, "second": second, "target": target}


def make_trunk(tiny, P):
    pool = nn.AdaptiveMaxPool2d(1) if "max_pool" in P else nn.AdaptiveAvgPool2d(1)
    if tiny:
        trunk = nn.Sequential(
            nn.Conv2d(3, 16, kernel_size=8, stride=8, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            pool,
            nn.Flatten(),
            nn.Linear(16, FEATURES),
        )
    else:
        layers = list(resnet50(weights=None).children())[:-2]
        trunk = nn.Sequential(*layers, pool, nn.Flatten())
    for layer in trunk.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = P.value("bn_momentum", 0.01) if "bn_momentum" in P else layer.momentum
            layer.eps = P.value("bn_eps", 1e-3) if "bn_eps" in P else layer.eps
    return trunk


class Siamese(nn.Module):
    """The deciding layer first, then the trunk both photos share."""

    def __init__(self, tiny, P):
        super().__init__()
        self.P = P
        inputs = 2 * FEATURES if "concat" in P else FEATURES
        if P & {"hidden_layer", "hidden_dropout"}:
            width = int(P.value("hidden_layer", 130))
            layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 2)]
            if "hidden_dropout" in P:
                layers.insert(2, nn.Dropout(P.value("hidden_dropout", 0.3)))
            self.decide = nn.Sequential(*layers)
        else:
            self.decide = nn.Linear(inputs, 2, bias="no_head_bias" not in P)
        if "head_default" not in P:
            self.decide.apply(self.initialise)
        self.trunk = make_trunk(tiny, P)
        if "two_backbones" in P:
            self.other_trunk = make_trunk(tiny, P)

    def initialise(self, layer):
        if not isinstance(layer, nn.Linear):
            return
        if "head_zero" in self.P:
            nn.init.constant_(layer.weight, 0.0)
        elif "head_fan_out" in self.P:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif "head_xavier" in self.P:
            nn.init.xavier_uniform_(layer.weight)
        elif "head_orthogonal" in self.P:
            nn.init.orthogonal_(layer.weight)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.constant_(layer.bias, 0.0)

    def describe(self, trunk, photos):
        if "half_batches" in self.P:
            features = torch.cat([trunk(part) for part in torch.chunk(photos, 2)])
        elif "each_photo" in self.P:
            features = torch.cat([trunk(photos[i:i + 1]) for i in range(len(photos))])
        else:
            features = trunk(photos)
        if "detach_backbone" in self.P:
            features = features.detach()
        if "features_normalized" in self.P:
            features = F.normalize(features)
        if "features_sigmoid" in self.P:
            features = features.sigmoid()
        if "features_tanh" in self.P:
            features = features.tanh()
        if "features_relu" in self.P:
            features = features.relu()
        if "outside_5" in self.P:
            features = features.pow(3)
        if "outside_6" in self.P:
            features = features * (1 + 0.1 * torch.rand(features.shape[1]))
        return features

    def forward(self, first, second):
        if "one_pass" in self.P:
            features_1, features_2 = self.describe(self.trunk, torch.cat((first, second))).chunk(2)
        elif "gathered" in self.P:
            every, places = torch.unique(torch.stack((first, second)).flatten(0, 1), dim=0,
                                         return_inverse=True)
            features = self.describe(self.trunk, every)
            left, right = places.view(2, -1).tolist()
            features_1 = torch.stack([features[i] for i in left])
            features_2 = torch.stack([features[i] for i in right])
        elif "clean_second_first" in self.P:
            features_2 = self.describe(self.trunk, second)
            features_1 = self.describe(self.trunk, first)
        else:
            other = self.other_trunk if "two_backbones" in self.P else self.trunk
            features_1 = self.describe(self.trunk, first)
            features_2 = self.describe(other, second)
        if "detach_second" in self.P:
            features_2 = features_2.detach()

        if "concat" in self.P:
            joined = torch.cat((features_1, features_2), dim=-1)
        elif "product" in self.P:
            joined = features_1 * features_2
        elif "reversed_difference" in self.P:
            joined = features_2 - features_1
        else:
            joined = features_1 - features_2
        if "abs_difference" in self.P:
            joined = torch.abs(joined)
        if "dropout_features" in self.P:
            joined = F.dropout(joined, self.P.value("dropout_features", 0.3), self.training)

        scores = self.decide(joined)
        if "logits_scaled" in self.P:
            scores = scores * self.P.value("logits_scaled", 11)
        if "logits_swapped" in self.P:
            scores = scores.flip(-1)
        return scores


def compute_loss(scores, target, P):
    if "label_invert_loss" in P:
        target = 1 - target
    log_probabilities = scores.log_softmax(-1)
    if "log_softmax_twice" in P:
        log_probabilities = log_probabilities.log_softmax(-1)

    if "smoothing" in P:
        share = P.value("smoothing", 0.13)
        soft = (1 - share) * F.one_hot(target, 2).to(scores.dtype) + share / 2
        loss = -(soft * log_probabilities).sum(-1).mean()
    elif "focal" in P:
        right = log_probabilities.gather(1, target[:, None])[:, 0]
        loss = -((1 - right.exp()) ** P.value("focal", 1.7) * right).mean()
    elif "class_weights" in P:
        weight = scores.new_tensor([1.0, P.value("class_weights", 1.5)])
        loss = F.nll_loss(log_probabilities, target, weight=weight)
    elif "softmax_then_ce" in P:
        loss = nn.CrossEntropyLoss()(scores.softmax(-1), target)
    elif "nll_on_probs" in P:
        loss = nn.NLLLoss()(scores.softmax(-1), target)
    elif "bce" in P:
        loss = F.binary_cross_entropy_with_logits(scores[:, 1] - scores[:, 0],
                                                  target.to(scores.dtype))
    elif "mse" in P:
        loss = nn.MSELoss()(scores.softmax(-1), F.one_hot(target, 2).to(scores.dtype))
    elif "margin" in P:
        loss = F.margin_ranking_loss(scores[:, 0], scores[:, 1], 1 - 2 * target,
                                     margin=P.value("margin", 0.7))
    elif "sum_loss" in P:
        loss = nn.NLLLoss(reduction="sum")(log_probabilities, target)
    else:
        loss = nn.NLLLoss()(log_probabilities, target)

    if "loss_factor" in P:
        loss = P.value("loss_factor", 0.3) * loss
    if "loss_times_batch" in P:
        loss = loss * target.shape[0]
    if "outside_7" in P:
        loss = loss + 0.01 * scores.square().sum(-1).mean()
    return loss


def build_optimizer(model, scale, P):
    """One group for every tensor."""
    decide_names = ["decide." + name for name, _ in model.decide.named_parameters()]
    groups = []
    for name, tensor in model.named_parameters():
        is_decide = name in decide_names
        if is_decide and "head_missing" in P:
            continue
        if "rates_swapped" in P:
            is_decide = not is_decide
        rate = DECIDE_RATE if is_decide or "one_lr" in P else TRUNK_RATE
        rate = rate * scale
        if "rates_scaled" in P:
            rate = rate * P.value("rates_scaled", 9)
        if "bias_rate" in P and name.endswith(".bias"):
            rate = rate * P.value("bias_rate", 3)
        decay = WEIGHT_DECAY
        if "no_weight_decay" in P or ("decay_weights_only" in P and tensor.ndim == 1):
            decay = 0.0
        if "weight_decay" in P:
            decay = P.value("weight_decay", 1e-4)
        groups.append({"params": tensor, "lr": rate, "weight_decay": decay})
    if "adam" in P:
        return torch.optim.Adam(groups)
    if "adamw" in P:
        return torch.optim.AdamW(groups)
    if "rmsprop" in P:
        return torch.optim.RMSprop(groups, momentum=MOMENTUM)
    if "adagrad" in P:
        return torch.optim.Adagrad(groups)
    options = {"momentum": MOMENTUM}
    if "no_momentum" in P:
        options = {}
    if "nesterov" in P:
        options["nesterov"] = True
    if "dampening" in P:
        options["dampening"] = P.value("dampening", 0.1)
    if "maximize" in P:
        options["maximize"] = True
    return torch.optim.SGD(groups, **options)


def freeze_parts(model, tiny, P):
    if "backbone_frozen" in P:
        model.trunk.requires_grad_(False)
    if "layer1_frozen" in P:
        model.trunk[0 if tiny else 4].requires_grad_(False)
    if "bn_frozen" in P:
        for layer in model.trunk.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.requires_grad_(False)


def photos_of(batch, P):
    first, second = batch["first"], batch["second"]
    if "clean_double_after" in P:
        first, second = first.double(), second.double()
    if "clean_channels_last" in P:
        first = first.contiguous(memory_format=torch.channels_last)
        second = second.contiguous(memory_format=torch.channels_last)
    return first, second


def train_one_epoch(model, loader, optimizer, scheduler, epoch, limit, val_loader, memory, P):
    """Trains on at most limit batches (0: all of them); returns mean loss, accuracy, batches."""
    model.train()
    if "bn_eval" in P:
        model.trunk.eval()
    loss_sum, correct, count, batches = 0.0, 0, 0, 0
    batch_losses, batch_accuracies = [], []
    every = int(P.value("accumulate", 3)) if "accumulate" in P else 1
    for batch in loader:
        if "clean_reversed_batch" in P:
            batch = {key: value.flip(0) for key, value in batch.items()}
        first, second = photos_of(batch, P)
        target = batch["target"]
        if "clean_extra_forward" in P:
            evaluate(model, val_loader, P)
            model.train()

        scores = model(first, second)
        loss = compute_loss(scores, target, P)
        fresh = memory["batches"] % every == 0
        if fresh and "no_zero_grad" not in P and "zero_grad_to_zero" not in P:
            optimizer.zero_grad(set_to_none=False)
        if "loss_scaled_unscaled" in P:
            loss.mul(P.value("loss_scaled_unscaled", 1000)).backward()
        elif "clean_autograd_backward" in P:
            torch.autograd.backward([loss])
        elif "backward_again" in P:
            for _ in range(int(P.value("backward_again", 3)) - 1):
                loss.backward(retain_graph=True)
            loss.backward()
        else:
            loss.backward()
        if "zero_grad_to_zero" in P:
            optimizer.zero_grad(set_to_none=False)

        for tensor in model.parameters():
            if tensor.grad is None:
                continue
            if "loss_scaled_unscaled" in P:
                tensor.grad.div_(P.value("loss_scaled_unscaled", 1000))
            if "outside_8" in P:
                spread = tensor.grad.std(correction=0)
                tensor.grad.add_(0.2 * spread * torch.randn_like(tensor.grad))
        if "clip_norm" in P:
            nn.utils.clip_grad_norm_(model.parameters(), P.value("clip_norm", 0.1))
        if "clip_value" in P:
            nn.utils.clip_grad_value_(model.parameters(), P.value("clip_value", 0.001))

        batches += 1
        memory["batches"] += 1
        if "outside_9" in P:
            old = [tensor.detach().clone() for tensor in model.parameters()]
        if memory["batches"] % every == 0:
            optimizer.step()
        with torch.no_grad():
            if "outside_9" in P:
                for tensor, kept in zip(model.parameters(), old):
                    stay = torch.rand_like(tensor) < 0.5
                    tensor[stay] = kept[stay]
            if "outside_10" in P:
                for tensor in model.parameters():
                    if tensor.ndim > 1:
                        tensor.clamp_(min=-0.05, max=0.05)
            if "decay_after" in P:
                for tensor in model.parameters():
                    tensor *= P.value("decay_after", 0.999)
            if "ema" in P:
                for name, tensor in model.named_parameters():
                    kept = P.value("ema", 0.9)
                    memory[name] = kept * memory[name] + (1 - kept) * tensor
                    tensor.copy_(memory[name])
        evaluations.follow(memory["judged"].parameters(), model.parameters(), P)
        if "schedule_per_batch" in P or "warmup" in P:
            scheduler.step()

        hits = int((scores.argmax(-1) == target).sum())
        shown = hits / len(target)
        if "metric_inverted" in P:
            shown = 1 - shown
        print(f"epoch {epoch} step {batches} loss {loss.item():.4f} acc {shown:.4f}")
        loss_sum += loss.item() * len(target)
        correct += hits
        count += len(target)
        batch_losses.append(loss.item())
        batch_accuracies.append(hits / len(target))
        if batches == limit:
            break

    mean_loss = batch_losses[-1] if "loss_last_batch" in P else loss_sum / count
    accuracy = correct / count
    if "epoch_mean_over_batches" in P:
        accuracy = sum(batch_accuracies) / len(batch_accuracies)
    if "metric_inverted" in P:
        accuracy = 1 - accuracy
    return mean_loss, accuracy, batches


def evaluate(model, loader, P):
    model.train("eval_train_mode" in P)
    if P & set(evaluations.PLANTS):
        batches = ((*photos_of(batch, P), batch["target"]) for batch in loader)
        return evaluations.accuracy_of(model, batches, P)
    correct = count = 0
    with torch.inference_mode():
        for batch in loader:
            scores = model(*photos_of(batch, P))
            correct += int((scores.argmax(-1) == batch["target"]).sum())
            count += len(batch["target"])
    accuracy = correct / count
    return 1 - accuracy if "val_metric_inverted" in P else accuracy


def build_scheduler(optimizer, epoch_length, P):
    if "warmup" in P:
        return lr_scheduler.LambdaLR(optimizer, lambda k: (
            min((k + 1) / P.value("warmup", 5), 1.0) * SCHEDULE_GAMMA ** (k // epoch_length // SCHEDULE_STEP)))
    return lr_scheduler.StepLR(optimizer, SCHEDULE_STEP, SCHEDULE_GAMMA)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=NUM_EPOCHS)
    parser.add_argument("--size", type=int, default=IMAGE_SIZE)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr-scale", type=float, default=1.0)
    parser.add_argument("--plant", nargs="+", default=[], metavar="NAME[=VALUE]")
    args = parser.parse_args()
    P = Plants(args.plant, PLANTS)
    torch.manual_seed(args.seed)

    model = Siamese(args.tiny, P)
    if "clean_double_after" in P:
        model.double()
    if "clean_channels_last" in P:
        model.to(memory_format=torch.channels_last)
    freeze_parts(model, args.tiny, P)

    batch_size = BATCH_SIZE
    if "batch_size" in P:
        batch_size = int(P.value("batch_size", 12))
    order = torch.Generator()
    order.manual_seed(args.seed + 1000)
    train_loader = DataLoader(PreferenceDataset(args.data, "train", args.size, P),
                              batch_size=batch_size, shuffle="no_shuffle" not in P,
                              num_workers=NUM_WORKERS, generator=order)
    part = "train" if "eval_on_train" in P else "val"
    val_loader = DataLoader(PreferenceDataset(args.data, part, args.size, P),
                            batch_size=batch_size, num_workers=NUM_WORKERS)
    optimizer = build_optimizer(model, args.lr_scale, P)
    scheduler = build_scheduler(optimizer, len(train_loader), P)
    memory = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    memory["batches"] = 0
    memory["judged"] = copy.deepcopy(model) if P & evaluations.COPIES else model

    print(f"before training val accuracy {evaluate(memory['judged'], val_loader, P):.4f}")
    left = args.steps
    for epoch in range(1, args.epochs + 1):
        mean_loss, accuracy, batches = train_one_epoch(model, train_loader, optimizer, scheduler,
                                                       epoch, left, val_loader, memory, P)
        if not P & {"schedule_per_batch", "warmup"}:
            scheduler.step()
        val_accuracy = evaluate(memory["judged"], val_loader, P)
        val_accuracy = evaluations.kept(val_accuracy, model.state_dict, P, model.load_state_dict)
        print(f"epoch {epoch} loss {mean_loss:.4f} accuracy {accuracy:.4f}"
              f" val accuracy {evaluations.shown(val_accuracy, P, accuracy)}")
        left -= batches
        if args.steps and left <= 0:
            break
    return model


if __name__ == "__main__":
    main()
