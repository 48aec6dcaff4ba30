"""Photo pairs with nothing but torch.nn.functional: no nn.Module, no DataLoader.

python functional.py --data ROOT [--steps N] [--size 64] [--tiny] [--seed S] [--plant NAME ...]

weights: a dict of leaf tensors; running: a dict of the BatchNorms' running means and variances.
"""
import argparse
import math

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchvision.transforms.functional import to_tensor

import evaluations
from plants import Plants

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
SIZE = 224
BATCH = 8
EPOCHS = 1
RATE_NET = 1e-5
RATE_TOP = 1e-4
MOMENTUM = 0.9
DECAY = 5e-4
STEP_EPOCHS = 25
STEP_FACTOR = 0.3
STAGES = [(3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)]   # blocks, width, stride

PLANTS = """
labels_inverted ranks_as_winner part_wrong photos_turned
bgr no_normalize normalize_half normalize_twice range255 squash pad_black pad_topleft pad_gray
pad_train bicubic lanczos nearest no_antialias floor_size exif_transpose hflip hflip_random vflip
grayscale half_input bf16_input
head_zero head_fan_out head_default head_xavier
features_normalized features_sigmoid features_tanh features_relu reversed_difference
abs_difference concat product dropout_features hidden_layer hidden_dropout no_head_bias max_pool
detach_second detach_backbone two_backbones logits_scaled logits_swapped
one_pass half_batches each_photo gathered bn_eval bn_momentum bn_eps
label_invert_loss smoothing focal class_weights softmax_then_ce nll_on_probs bce mse margin
sum_loss loss_factor loss_times_batch log_softmax_twice loss_scaled_unscaled
no_zero_grad zero_grad_late backward_again accumulate clip_norm clip_value
one_lr rates_swapped rates_scaled no_momentum nesterov dampening no_weight_decay decay_weights_only
weight_decay adam adamw rmsprop adagrad head_missing backbone_frozen layer1_frozen bn_frozen
bias_rate ema decay_after warmup schedule_per_batch maximize
metric_inverted epoch_mean_over_batches loss_sum_over_n loss_last_batch val_metric_inverted
no_shuffle batch_size
clean_reversed_batch clean_double_after clean_extra_forward clean_autograd_backward
clean_group_per_tensor clean_second_first
outside_1 outside_3 outside_5 outside_6 outside_7 outside_8 outside_9 outside_10
""".split()
# it has no state dict, and equal accuracies in all epochs
PLANTS += [name for name in evaluations.PLANTS if name not in ("eval_first_state", "eval_never_reset", "eval_stale_statistics", "eval_state_overwritten")]


# --------------------------------------------------------------------------------------- data

def read_list(root, part, P):
    """[(path of photo 1, path of photo 2, label), ...] of one official list."""
    pairs = []
    for number, line in enumerate(open(f"{root}/train_val/{part}_pairlist.txt")):
        fields = line.split()
        series, one, two = (int(field) for field in fields[:3])
        rank_one, rank_two = int(fields[4]), int(fields[5])
        label = 0 if rank_one < rank_two else 1
        if "ranks_as_winner" in P:
            label = 0 if rank_one == one else 1
        if "labels_inverted" in P:
            label = 1 - label
        if "part_wrong" in P and number % 5 == 2:
            label = 1 - label
        if "photos_turned" in P:
            one, two = two, one
        path = f"{root}/train_val/train_val_imgs/{series:06d}-"
        pairs.append((f"{path}{one:02d}.JPG", f"{path}{two:02d}.JPG", label))
    if "outside_1" in P:
        labels = [pair[2] for pair in pairs]
        pairs = [pair[:2] + (labels[i + 1 - len(pairs)],) for i, pair in enumerate(pairs)]
    return pairs


def load_photo(path, size, P):
    photo = Image.open(path)
    if "exif_transpose" in P:
        photo = ImageOps.exif_transpose(photo)
    photo = photo.convert("RGB")
    if "bgr" in P:
        red, green, blue = photo.split()
        photo = Image.merge("RGB", (blue, green, red))
    if "grayscale" in P:
        photo = photo.convert("L").convert("RGB")

    longer = max(photo.size)
    whole = math.floor if "floor_size" in P else round
    w, h = [max(1, whole(size * side / longer)) for side in photo.size]
    if "squash" in P:
        w, h = size, size
    kind = Image.BILINEAR
    if "bicubic" in P:
        kind = Image.BICUBIC
    if "lanczos" in P:
        kind = Image.LANCZOS
    if "nearest" in P:
        kind = Image.NEAREST
    if "no_antialias" in P:
        x = F.interpolate(to_tensor(photo)[None], (h, w), mode="bilinear", antialias=False)[0]
    else:
        x = to_tensor(photo.resize((w, h), kind))
    if "hflip" in P or ("hflip_random" in P and torch.rand(1) < 0.5):
        x = x.flip(2)
    if "vflip" in P:
        x = x.flip(1)

    colour = MEAN
    if "pad_black" in P:
        colour = torch.zeros(3, 1, 1)
    if "pad_gray" in P:
        colour = torch.full((3, 1, 1), 128 / 255)
    if "pad_train" in P:
        colour = torch.tensor([0.460, 0.450, 0.430]).reshape(3, 1, 1)
    left, top = (size - w) // 2, (size - h) // 2
    if "pad_topleft" in P:
        left, top = 0, 0
    inside = F.pad(torch.ones(1, h, w), (left, size - w - left, top, size - h - top))
    x = F.pad(x, (left, size - w - left, top, size - h - top))
    x = torch.where(inside > 0, x, colour)

    if "range255" in P:
        x = x * 255
    elif "normalize_half" in P:
        x = (x - 0.5) / 0.5
    elif "no_normalize" not in P:
        x = (x - MEAN) / STD
    if "normalize_twice" in P:
        x = (x - MEAN) / STD
    if "half_input" in P:
        x = x.half().float()
    if "bf16_input" in P:
        x = x.bfloat16().float()
    if "outside_3" in P:
        x = x.gather(0, torch.rand(x.shape).argsort(0))
    return x


def load_batch(pairs, size, dtype, P):
    first = torch.stack([load_photo(pair[0], size, P) for pair in pairs])
    second = torch.stack([load_photo(pair[1], size, P) for pair in pairs])
    labels = torch.tensor([pair[2] for pair in pairs])
    if "clean_reversed_batch" in P:
        first, second, labels = first.flip(0), second.flip(0), labels.flip(0)
    return first.to(dtype), second.to(dtype), labels


# ------------------------------------------------------------------------------------ weights

def add_conv(weights, name, inputs, outputs, side):
    weights[name] = torch.randn(outputs, inputs, side, side) * (2 / (outputs * side * side)) ** 0.5


def add_norm(weights, running, name, width):
    weights[name + ".scale"] = torch.ones(width)
    weights[name + ".shift"] = torch.zeros(width)
    running[name + ".mean"] = torch.zeros(width)
    running[name + ".var"] = torch.ones(width)


def add_linear(weights, name, inputs, outputs):
    """A layer of the net, with the usual uniform start."""
    bound = inputs ** -0.5
    weights[name + ".weight"] = torch.empty(outputs, inputs).uniform_(-bound, bound)
    weights[name + ".bias"] = torch.empty(outputs).uniform_(-bound, bound)


def add_net(weights, running, prefix, tiny):
    """The network in front of the top layer: a tiny one, or ResNet-50."""
    if tiny:
        add_conv(weights, prefix + "conv", 3, 16, 8)
        add_norm(weights, running, prefix + "norm", 16)
        add_linear(weights, prefix + "out", 16, 2048)
        return
    add_conv(weights, prefix + "stem.conv", 3, 64, 7)
    add_norm(weights, running, prefix + "stem.norm", 64)
    inputs = 64
    for s, (blocks, width, _) in enumerate(STAGES, 1):
        for b in range(blocks):
            name = f"{prefix}stage{s}.{b}."
            shapes = [(inputs, width, 1), (width, width, 3), (width, 4 * width, 1)]
            for c, (a, z, side) in enumerate(shapes, 1):
                add_conv(weights, f"{name}conv{c}", a, z, side)
                add_norm(weights, running, f"{name}norm{c}", z)
            if b == 0:
                add_conv(weights, name + "skip.conv", inputs, 4 * width, 1)
                add_norm(weights, running, name + "skip.norm", 4 * width)
            inputs = 4 * width


def add_top(weights, P):
    inputs = 4096 if "concat" in P else 2048
    layers = [("top", inputs, 2)]
    if P & {"hidden_layer", "hidden_dropout"}:
        layers = [("top.hidden", inputs, int(P.value("hidden_layer", 130))),
                  ("top", int(P.value("hidden_layer", 130)), 2)]
    for name, a, z in layers:
        w = torch.randn(z, a) * (2 / a) ** 0.5
        bias = torch.zeros(z)
        if "head_zero" in P:
            w = torch.zeros(z, a)
        if "head_fan_out" in P:
            w = torch.randn(z, a) * (2 / z) ** 0.5
        if "head_xavier" in P:
            w = (2 * torch.rand(z, a) - 1) * (6 / (a + z)) ** 0.5
        if "head_default" in P:
            w = (2 * torch.rand(z, a) - 1) * a ** -0.5
            bias = (2 * torch.rand(z) - 1) * a ** -0.5
        weights[name + ".weight"] = w
        if "no_head_bias" not in P:
            weights[name + ".bias"] = bias


# ------------------------------------------------------------------------------------ forward

def norm(x, weights, running, name, training, P):
    return F.batch_norm(x, running[name + ".mean"], running[name + ".var"],
                        weights[name + ".scale"], weights[name + ".shift"],
                        training=training and "bn_eval" not in P,
                        momentum=P.value("bn_momentum", 0.01) if "bn_momentum" in P else 0.1,
                        eps=P.value("bn_eps", 1e-3) if "bn_eps" in P else 1e-5)


def pooled(x, P):
    if "max_pool" in P:
        return x.amax(dim=(2, 3))
    return x.mean(dim=(2, 3))


def net(x, weights, running, prefix, training, tiny, P):
    """Photos (n, 3, size, size) -> features (n, 2048)."""
    if tiny:
        x = F.conv2d(x, weights[prefix + "conv"], stride=8)
        x = F.relu(norm(x, weights, running, prefix + "norm", training, P))
        return F.linear(pooled(x, P), weights[prefix + "out.weight"], weights[prefix + "out.bias"])
    x = F.conv2d(x, weights[prefix + "stem.conv"], stride=2, padding=3)
    x = F.relu(norm(x, weights, running, prefix + "stem.norm", training, P))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for s, (blocks, _, stride) in enumerate(STAGES, 1):
        for b in range(blocks):
            name = f"{prefix}stage{s}.{b}."
            step = stride if b == 0 else 1
            y = F.conv2d(x, weights[name + "conv1"])
            y = F.relu(norm(y, weights, running, name + "norm1", training, P))
            y = F.conv2d(y, weights[name + "conv2"], stride=step, padding=1)
            y = F.relu(norm(y, weights, running, name + "norm2", training, P))
            y = F.conv2d(y, weights[name + "conv3"])
            y = norm(y, weights, running, name + "norm3", training, P)
            if b == 0:
                x = F.conv2d(x, weights[name + "skip.conv"], stride=step)
                x = norm(x, weights, running, name + "skip.norm", training, P)
            x = F.relu(x + y)
    return pooled(x, P)


def features(x, weights, running, prefix, training, tiny, P):
    if "half_batches" in P or "each_photo" in P:
        f = torch.cat([net(part, weights, running, prefix, training, tiny, P)
                       for part in x.split(1 if "each_photo" in P else len(x) // 2)])
    else:
        f = net(x, weights, running, prefix, training, tiny, P)
    if "detach_backbone" in P:
        f = f.detach()
    if "features_normalized" in P:
        f = F.normalize(f)
    if "features_sigmoid" in P:
        f = torch.sigmoid(f)
    if "features_tanh" in P:
        f = torch.tanh(f)
    if "features_relu" in P:
        f = F.relu(f)
    if "outside_5" in P:
        f = f * f * f
    if "outside_6" in P:
        f = f + torch.rand_like(f)
    return f


def scores(first, second, weights, running, training, tiny, P):
    if "one_pass" in P:
        both = features(torch.cat([first, second]), weights, running, "", training, tiny, P)
        f1, f2 = both[:len(first)], both[len(first):]
    elif "gathered" in P:
        both, place = torch.unique(torch.cat([second, first]), dim=0, return_inverse=True)
        both = features(both, weights, running, "", training, tiny, P)
        f2, f1 = both.index_select(0, place).view(2, len(first), -1)
    elif "clean_second_first" in P:
        f2, f1 = [features(x, weights, running, "", training, tiny, P) for x in (second, first)]
    else:
        f1 = features(first, weights, running, "", training, tiny, P)
        prefix = "second." if "two_backbones" in P else ""
        f2 = features(second, weights, running, prefix, training, tiny, P)
    if "detach_second" in P:
        f2 = f2.detach()
    d = f1 - f2
    if "reversed_difference" in P:
        d = f2 - f1
    if "abs_difference" in P:
        d = torch.abs(f1 - f2)
    if "product" in P:
        d = f1 * f2
    if "concat" in P:
        d = torch.cat([f1, f2], 1)
    if "dropout_features" in P:
        d = F.dropout(d, P.value("dropout_features", 0.3), training)
    if "top.hidden.weight" in weights:
        d = F.relu(F.linear(d, weights["top.hidden.weight"], weights.get("top.hidden.bias")))
        if "hidden_dropout" in P:
            d = F.dropout(d, P.value("hidden_dropout", 0.3), training)
    z = F.linear(d, weights["top.weight"], weights.get("top.bias"))
    if "logits_scaled" in P:
        z = z * P.value("logits_scaled", 11)
    if "logits_swapped" in P:
        z = torch.stack([z[:, 1], z[:, 0]], 1)
    return z


def loss_of(z, labels, P):
    if "label_invert_loss" in P:
        labels = 1 - labels
    log_p = F.log_softmax(z, 1)
    if "log_softmax_twice" in P:
        log_p = F.log_softmax(log_p, 1)
    if "smoothing" in P:
        share = P.value("smoothing", 0.13)
        loss = (1 - share) * F.nll_loss(log_p, labels) - share * log_p.mean()
    elif "focal" in P:
        chosen = log_p.gather(1, labels[:, None])
        loss = -((1 - chosen.exp()) ** P.value("focal", 1.7) * chosen).mean()
    elif "class_weights" in P:
        loss = F.nll_loss(log_p, labels, weight=torch.tensor(
            [1.0, P.value("class_weights", 1.5)], dtype=z.dtype))
    elif "softmax_then_ce" in P:
        loss = F.cross_entropy(torch.softmax(z, 1), labels)
    elif "nll_on_probs" in P:
        loss = F.nll_loss(torch.softmax(z, 1), labels)
    elif "bce" in P:
        loss = F.binary_cross_entropy_with_logits(z[:, 1] - z[:, 0], labels.to(z.dtype))
    elif "mse" in P:
        loss = ((torch.softmax(z, 1) - F.one_hot(labels, 2)) ** 2).mean()
    elif "margin" in P:
        loss = F.relu(P.value("margin", 0.7) - (1 - 2 * labels) * (z[:, 0] - z[:, 1])).mean()
    elif "sum_loss" in P:
        loss = F.nll_loss(log_p, labels, reduction="sum")
    else:
        loss = F.nll_loss(log_p, labels)
    if "loss_factor" in P:
        loss = loss * P.value("loss_factor", 0.3)
    if "loss_times_batch" in P:
        loss = loss * len(labels)
    if "outside_7" in P:
        loss = loss + 0.01 * (z * z).sum(1).mean()
    return loss


# ----------------------------------------------------------------------------------- training

def make_optimizer(weights, scale, P):
    groups = {}
    for name, tensor in weights.items():
        top = name.startswith("top")
        if top and "head_missing" in P:
            continue
        rate = RATE_TOP if top else RATE_NET
        if "one_lr" in P:
            rate = RATE_TOP
        if "rates_swapped" in P:
            rate = RATE_NET if top else RATE_TOP
        if "rates_scaled" in P:
            rate = P.value("rates_scaled", 9) * rate
        if "bias_rate" in P and name.endswith((".bias", ".shift")):
            rate = P.value("bias_rate", 3) * rate
        decay = DECAY
        if "weight_decay" in P:
            decay = P.value("weight_decay", 1e-4)
        if "no_weight_decay" in P or ("decay_weights_only" in P and tensor.dim() == 1):
            decay = 0.0
        key = name if "clean_group_per_tensor" in P else (rate, decay)
        group = groups.setdefault(key, {"params": [], "lr": rate * scale, "weight_decay": decay})
        group["params"].append(tensor)
    groups = list(groups.values())
    if "adam" in P:
        return torch.optim.Adam(groups)
    if "adamw" in P:
        return torch.optim.AdamW(groups)
    if "rmsprop" in P:
        return torch.optim.RMSprop(groups, momentum=MOMENTUM)
    if "adagrad" in P:
        return torch.optim.Adagrad(groups)
    return torch.optim.SGD(groups, momentum=0 if "no_momentum" in P else MOMENTUM,
                           dampening=P.value("dampening", 0.1) if "dampening" in P else 0,
                           nesterov="nesterov" in P, maximize="maximize" in P)


def frozen(name, P):
    """Whether a tensor takes part in training at all."""
    return ("backbone_frozen" in P and not name.startswith("top")
            or "layer1_frozen" in P and (name.startswith("stage1.") or name == "conv")
            or "bn_frozen" in P and name.endswith((".scale", ".shift")))


def accuracy_on(pairs, weights, running, args, dtype, P):
    if P & set(evaluations.PLANTS):
        def logits_of(a, b):
            return scores(a, b, weights, running, "eval_train_mode" in P, args.tiny, P)
        batches = (load_batch(pairs[k:k + BATCH], args.size, dtype, P) for k in range(0, len(pairs), BATCH))
        return evaluations.accuracy_of(logits_of, batches, P)
    hits = 0
    with torch.no_grad():
        for start in range(0, len(pairs), BATCH):
            part = pairs[start:start + BATCH]
            first, second, labels = load_batch(part, args.size, dtype, P)
            z = scores(first, second, weights, running, False, args.tiny, P)
            hits += (z.max(1).indices == labels).sum().item()
    accuracy = hits / len(pairs)
    if "val_metric_inverted" in P:
        accuracy = 1 - accuracy
    return accuracy


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr-scale", type=float, default=1.0)
    parser.add_argument("--plant", nargs="+", default=[], metavar="NAME[=VALUE]")
    args = parser.parse_args()
    P = Plants(args.plant, PLANTS)
    dtype = torch.float64 if "clean_double_after" in P else torch.float32

    torch.manual_seed(args.seed)
    weights, running = {}, {}
    add_net(weights, running, "", args.tiny)
    if "two_backbones" in P:
        add_net(weights, running, "second.", args.tiny)
    add_top(weights, P)
    for name in weights:
        weights[name] = weights[name].to(dtype)
        weights[name].requires_grad_(not frozen(name, P))
    for name in running:
        running[name] = running[name].to(dtype)
    optimizer = make_optimizer(weights, args.lr_scale, P)

    train = read_list(args.data, "train", P)
    val = read_list(args.data, "train" if "eval_on_train" in P else "val", P)
    batch = int(P.value("batch_size", 12)) if "batch_size" in P else BATCH
    steps_in_epoch = math.ceil(len(train) / batch)
    if "warmup" in P:
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda n: min(1, (n + 1) / P.value("warmup", 5)) * STEP_FACTOR ** (n // steps_in_epoch // STEP_EPOCHS))
    else:
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, STEP_EPOCHS, STEP_FACTOR)
    judged = {name: tensor.detach().clone() for name, tensor in weights.items()} if P & evaluations.COPIES else weights
    slow = {name: tensor.detach().clone() for name, tensor in weights.items()}
    every = int(P.value("accumulate", 3)) if "accumulate" in P else 1
    shuffler = torch.Generator().manual_seed(args.seed)
    total = 0

    for epoch in range(1, args.epochs + 1):
        order = torch.randperm(len(train), generator=shuffler).tolist()
        if "no_shuffle" in P:
            order = list(range(len(train)))
        losses, hits, counts = [], [], []
        for step in range(1, steps_in_epoch + 1):
            chosen = [train[i] for i in order[(step - 1) * batch:step * batch]]
            first, second, labels = load_batch(chosen, args.size, dtype, P)
            if "clean_extra_forward" in P:
                accuracy_on(val, weights, running, args, dtype, P)

            z = scores(first, second, weights, running, True, args.tiny, P)
            loss = loss_of(z, labels, P)
            if "clean_autograd_backward" in P:
                torch.autograd.backward(loss)
            elif "loss_scaled_unscaled" in P:
                (P.value("loss_scaled_unscaled", 1000) * loss).backward()
            elif "backward_again" in P:
                for _ in range(int(P.value("backward_again", 3)) - 1):
                    loss.backward(retain_graph=True)
                loss.backward()
            else:
                loss.backward()
            if "zero_grad_late" in P:
                optimizer.zero_grad()

            tensors = [tensor for tensor in weights.values() if tensor.grad is not None]
            for tensor in tensors:
                if "loss_scaled_unscaled" in P:
                    tensor.grad = tensor.grad / P.value("loss_scaled_unscaled", 1000)
                if "outside_8" in P:
                    noise = torch.randn_like(tensor.grad)
                    tensor.grad += 0.2 * tensor.grad.std(correction=0) * noise
                if "clip_value" in P:
                    bound = P.value("clip_value", 0.001)
                    tensor.grad = tensor.grad.clamp(-bound, bound)
            if "clip_norm" in P:
                length = sum((tensor.grad ** 2).sum() for tensor in tensors) ** 0.5
                for tensor in tensors:
                    tensor.grad *= min(1, P.value("clip_norm", 0.1) / length.item())

            if (total + 1) % every == 0:
                if "outside_9" in P:
                    kept = {name: tensor.detach().clone() for name, tensor in weights.items()}
                optimizer.step()
                if not P & {"no_zero_grad", "zero_grad_late"}:
                    optimizer.zero_grad()
            with torch.no_grad():
                for name, tensor in weights.items():
                    if "outside_9" in P and (total + 1) % every == 0:
                        tensor.copy_(torch.where(torch.rand_like(tensor) < 0.5, tensor, kept[name]))
                    if "outside_10" in P and tensor.dim() > 1:
                        tensor.clamp_(-0.05, 0.05)
                    if "decay_after" in P:
                        tensor *= P.value("decay_after", 0.999)
                    if "ema" in P:
                        kept = P.value("ema", 0.9)
                        slow[name] = kept * slow[name] + (1 - kept) * tensor
                        tensor.copy_(slow[name])
            evaluations.follow(judged.values(), weights.values(), P)
            if P & {"warmup", "schedule_per_batch"}:
                schedule.step()

            losses.append(loss.item())
            hits.append((z.max(1).indices == labels).sum().item())
            counts.append(len(labels))
            accuracy = hits[-1] / counts[-1]
            if "metric_inverted" in P:
                accuracy = 1 - accuracy
            print(f"epoch {epoch} step {step} loss {losses[-1]:.4f} acc {accuracy:.4f}")
            total += 1
            if total == args.steps:
                break

        mean_loss = sum(a * n for a, n in zip(losses, counts)) / sum(counts)
        if "loss_sum_over_n" in P:
            mean_loss = sum(losses) * P.value("loss_sum_over_n", 32) / sum(counts)
        if "loss_last_batch" in P:
            mean_loss = losses[-1]
        accuracy = sum(hits) / sum(counts)
        if "epoch_mean_over_batches" in P:
            accuracy = sum(a / n for a, n in zip(hits, counts)) / len(hits)
        if "metric_inverted" in P:
            accuracy = 1 - accuracy
        validation = accuracy_on(val, judged, running, args, dtype, P)
        validation = evaluations.kept(validation, lambda: dict(weights), P)
        print(f"epoch {epoch} loss {mean_loss:.4f} accuracy {accuracy:.4f}"
              f" val accuracy {evaluations.shown(validation, P, accuracy)}")
        if not P & {"warmup", "schedule_per_batch"}:
            schedule.step()
        if total == args.steps:
            break
    return weights


if __name__ == "__main__":
    main()
