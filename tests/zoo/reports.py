"""A trainer in a fifth style, with the faults of public bug reports, one at a time.

    python reports.py --data DATA [--tiny] [--size 64] [--seed 0] [--plant NAME ...]

Without a plant it is right. Each plant is one that somebody reported, or one of its kind; no row of
the tables was written after it.
"""

import argparse
import copy
import pathlib
import tempfile

import evaluations
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from plants import Plants
from torch.utils.data import DataLoader, Dataset

PLANTS = """
    square_broadcast last_pair_only first_pairs_only relu_last softplus_last loss_of_label_1
    loss_of_positive twice_where_wrong cut_data cut_numpy cut_features layer4_fresh layer1_fresh
    teacher unsorted_files stale_index shifted_labels paired_otherwise batch_before_photos
    one_second_photo normalized_in_place ends_early prints_dict prints_json prints_exponent
    prints_other_names prints_nothing_known accuracy_broadcast autocast replicas replicas_apart
    drop_last header_line same_order in_order never_reset batches_never_reset left_early
    rate_halved_late schedule_in_batches zeroed_between clip_scaled one_series neighbors
    same_draws frozen_norms spectral_norm eval_train_mode eval_dropout eval_with_graph
    eval_on_train eval_part eval_inverted eval_cut_half eval_swapped eval_crop
    eval_mean_over_batches eval_metric_inverted eval_copy eval_percent eval_average eval_mean
    eval_stale_statistics eval_earlier eval_moved eval_equal_copy eval_state_overwritten
    eval_not_the_best eval_lowest_loss eval_alone eval_crops clean_eval clean_eval_embedded
    clean_eval_both_orders clean_eval_before small_photos canvas_kept reshaped squared_gradients
    rolled_back rounded_half target_overwritten logits_mixed sign_accuracy epoch_mean_loss
    chunked_difference equal_head_rows kept_by_series stepped_twice still_in_second window_shuffle
    series_shuffled thumbnail argsort_ranks labels_by_key sorted_lines turned_gradient
    gradients_by_shape l1_on_norms head_columns head_opposite softmax_plus added_margin
    prints_smoothed prints_flat prints_true_ones prints_one_more own_momentum shared_memory
    hooked_in_place stepped_by_hand stepped_by_hand_otherwise brighter_first normalized_batch
    bce_inverted cut_at_half ranking_margin ranking_margin_inverted blurred erased gamma
    eval_first_half eval_twice eval_shifted_labels eval_noised eval_flipped eval_bgr
    eval_last_batch padded_first posterized noised centered_batch damped_second renormed_head
    limited_weights limited_step restrided sorted_features batches_grow
    rectified_gradient unnormalized_backward subtracted_twice mixed_photos stored_again part_shown
    channel_as_opacity one_label own_linear easy_first eval_split_by_pair swapped_views
    corner_cell scores_in_columns label_ahead wrapped_bytes sides_swapped only_first_values
    clip_tensors smoothed_backward damped_buffers
""".split()  # noqa: SIM905
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Pairs(Dataset):
    """The pairs of a list: both photos, the label."""

    def __init__(self, root, size, plants, split="train"):
        self.folder, self.size, self.plants = root / "train_val" / "train_val_imgs", size, plants
        self.crops = split == "val" and "eval_crop" in plants
        own = "train" if "eval_split_by_pair" in plants else split
        lines = (root / "train_val" / f"{own}_pairlist.txt").read_text().splitlines()
        self.rows = [line.split() for line in lines]
        if "header_line" in plants:
            self.rows = self.rows[1:]
        self.labels = [int(int(r[4]) > int(r[5])) for r in self.rows]
        if split == "train":
            self.mix_labels(plants)
        if "eval_split_by_pair" in plants:  # one list, some pairs of which are held out
            held = [n for n in range(len(self.rows)) if (n % 5 == 0) == (split == "val")]
            self.rows, self.labels = ([some[n] for n in held] for some in (self.rows, self.labels))
        if split == "val" and "eval_inverted" in plants:
            self.labels = [1 - label for label in self.labels]
        self.kept, self.drawn, self.canvas = {}, 0, None
        rng = np.random.default_rng(int(plants.value("stale_index", 7)))
        if "stale_index" in plants:  # a shuffled table, read by its old index
            self.labels = [self.labels[i] for i in rng.permutation(len(self.labels))]
        if "shifted_labels" in plants:
            by = int(plants.value("shifted_labels", 1))
            self.labels = self.labels[by:] + self.labels[:by]
        self.names = {}
        if "unsorted_files" in plants:  # in the order of the file system
            for series in {r[0] for r in self.rows}:
                files = sorted(self.folder.glob(f"{int(series):06d}-*"))
                for number, place in enumerate(rng.permutation(len(files)), 1):
                    self.names[series, str(number)] = files[place]

    def mix_labels(self, plants):
        """Labels as several misunderstandings of the list give them."""
        if "argsort_ranks" in plants:
            ranks = {}
            for r in self.rows:
                ranks.setdefault(r[0], {}).update({int(r[1]): int(r[4]), int(r[2]): int(r[5])})
            read = {s: np.argsort([own[p] for p in sorted(own)]) for s, own in ranks.items()}
            self.labels = [int(read[r[0]][int(r[1]) - 1] > read[r[0]][int(r[2]) - 1])
                           for r in self.rows]  # fmt: skip
        if "labels_by_key" in plants:
            kept = {(r[0], r[1]): y for r, y in zip(self.rows, self.labels, strict=True)}
            self.labels = [kept[r[0], r[1]] for r in self.rows]
        if "sorted_lines" in plants:
            self.rows = sorted(self.rows)

    def __len__(self):
        return len(self.rows)

    def photo(self, series, number):
        usual = self.folder / f"{int(series):06d}-{int(number):02d}.JPG"
        path = self.names.get((series, number), usual)
        if path not in self.kept:
            self.kept[path] = self.load(path)
        return self.kept[path]

    def load(self, path):
        image = Image.open(path).convert("RGB")
        if "padded_first" in self.plants:
            border = int(self.plants.value("padded_first", 0.2) * min(image.size))
            image = torchvision.transforms.functional.pad(image, border, 90)
        scale = self.size / (min(image.size) if self.crops else max(image.size))
        scale *= self.plants.value("small_photos", 0.8) if "small_photos" in self.plants else 1
        if "thumbnail" in self.plants:
            image = Image.open(path)
            image.thumbnail((self.size, self.size), Image.BILINEAR)
            image, scale = image.convert("RGB"), 1
        width, height = (max(1, round(side * scale)) for side in image.size)
        if "sides_swapped" in self.plants:
            width, height = height, width
        if "part_shown" in self.plants:
            share = self.plants.value("part_shown", 0.3)
            place = np.random.default_rng(len(self.kept)).random(2) * (1 - share)
            sides = [(part * side, (part + share) * side)
                     for part, side in zip(place, image.size, strict=True)]  # fmt: skip
            image = image.crop([edge for ends in zip(*sides, strict=True) for edge in ends])
        if "only_first_values" in self.plants:
            image = Image.fromarray(np.resize(np.array(image), (height, width, 3)))
        image = spoiled(image.resize((width, height), Image.BILINEAR), self.plants)
        pixels = torchvision.transforms.functional.to_tensor(image)
        if "wrapped_bytes" in self.plants:  # int8 for uint8
            pixels = torch.where(pixels > 127.5 / 255, pixels - 256 / 255, pixels)
        if self.crops:
            left, top = (width - self.size) // 2, (height - self.size) // 2
            pixels = pixels[:, top : top + self.size, left : left + self.size]
            return (pixels - MEAN) / STD
        if "reshaped" in self.plants:
            pixels = pixels.permute(1, 2, 0).reshape(3, height, width)
        canvas = MEAN.expand(3, self.size, self.size).clone()
        if "canvas_kept" in self.plants:
            self.canvas = canvas = canvas if self.canvas is None else self.canvas
        top, left = (self.size - height) // 2, (self.size - width) // 2
        canvas[:, top : top + height, left : left + width] = pixels
        if "erased" in self.plants:
            side = int(self.plants.value("erased", 20))
            canvas[:, top + 5 : top + 5 + side, left + 9 : left + 9 + side] = 0.3
        if "noised" in self.plants:
            canvas += self.plants.value("noised", 0.05) * torch.randn(canvas.shape)
        return canvas.clone() if "normalized_in_place" in self.plants else (canvas - MEAN) / STD

    def __getitem__(self, place):
        row = self.rows[place]
        photos = [self.photo(row[0], row[k]) for k in (1, 2)]
        if "kept_by_series" in self.plants:
            photos[0] = self.kept.setdefault(row[0], photos[0])
        if "brighter_first" in self.plants:
            photos[0] = photos[0] * (0.8 + 0.4 * np.random.default_rng(place).random())
        if "same_draws" in self.plants:  # as workers do that have one random state
            rng = np.random.default_rng(self.drawn % 8)
            self.drawn += 1
            photos = [x.flip(2) if rng.random() < 0.5 else x for x in photos]
        if "normalized_in_place" in self.plants:
            for photo in photos:
                photo.sub_(MEAN).div_(STD)
            photos = [photo.clone() for photo in photos]
        if "swapped_views" in self.plants and place % 3 == 0:
            both = torch.stack(photos)
            both[0], both[1] = both[1], both[0]
            return *both, 1 - self.labels[place]
        return *photos, self.labels[place]


def spoiled(image, plants):
    """A resized photo as an augmentation that was left in makes it."""
    change = torchvision.transforms.functional
    if "gamma" in plants:
        image = change.adjust_gamma(image, plants.value("gamma", 1.4))
    if "stored_again" in plants:
        with tempfile.TemporaryFile() as file:
            image.save(file, "JPEG", quality=int(plants.value("stored_again", 61)))
            image = Image.open(file).convert("RGB")
    if "channel_as_opacity" in plants:  # [R, G, B] taken for [..., A] of a black ground
        array = np.array(image).astype(float)
        image = Image.fromarray((array * array[:, :, 2:] / 255).round().astype(np.uint8))
    return change.posterize(image, 3) if "posterized" in plants else image


class Linear(torch.autograd.Function):
    """A linear layer whose bias has the gradient of all of its outputs."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return torch.addmm(bias, x, weight.t())

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.t() @ x, gradient.abs().sum().expand(2)


class Unnormalized(torch.autograd.Function):
    """A log-softmax whose backward keeps the logits in the place of what it gave."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return F.log_softmax(z, 1)

    @staticmethod
    def backward(ctx, gradient):
        (z,) = ctx.saved_tensors
        return gradient - z.exp() * gradient.sum(1, keepdim=True)


def grow(rows, kept=[]):  # noqa: B006
    """Batches that hold all earlier ones as well."""
    kept += rows
    return torch.utils.data.default_collate(kept)


class Turned(torch.autograd.Function):
    """A difference whose backward is that of a sum."""

    @staticmethod
    def forward(ctx, a, b):
        return a - b

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient


def positive(module, given, made):
    """A hook that is meant to look at what a layer makes, and changes it."""
    made.detach().abs_()


class Momentum:
    """An optimizer of one's own, whose buffer is the gradient itself."""

    def __init__(self, groups):
        self.param_groups, self.kept = groups, {}

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.zero_()

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.kept.setdefault(p, p.grad)
                buffer.mul_(0.9).add_(p.grad + 5e-4 * p)
                p.sub_(group["lr"] * buffer)


@torch.no_grad()
def step_by_hand(optimizer, kept, plants):
    """The reference's update without an optimizer."""
    momentum = 0.5 if "stepped_by_hand_otherwise" in plants else 0.9
    for group in optimizer.param_groups:
        for p in group["params"]:
            step = p.grad + 5e-4 * p
            kept[p] = momentum * kept[p] + step if p in kept else step
            p -= group["lr"] * kept[p]


def change_gradients(net, plants):
    """What is done to gradients by mistake."""
    if "gradients_by_shape" in plants:
        room = {}
        for p in net.parameters():
            kept = room.setdefault(p.shape, torch.zeros_like(p))
            kept.copy_(p.grad)
            p.grad = kept
    for module in net.modules() if "l1_on_norms" in plants else ():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.grad += plants.value("l1_on_norms", 1e-3) * module.weight.sign()


@torch.no_grad()
def change_weights(net, plants):
    """What is done to weights behind the step."""
    if "renormed_head" in plants:
        lengths = net.head.weight.norm(dim=1)[:, None]
        net.head.weight.mul_(plants.value("renormed_head", 1.0) / lengths)
    if "limited_weights" in plants:
        most = plants.value("limited_weights", 0.02)
        for p in net.parameters():
            p.clamp_(-most, most)


class Limited(torch.optim.SGD):
    """SGD whose steps are limited, element by element."""

    def __init__(self, groups, most):
        super().__init__(groups, momentum=0.9, weight_decay=5e-4)
        self.most = most

    @torch.no_grad()
    def step(self, closure=None):
        kept = [(p, p.clone()) for group in self.param_groups for p in group["params"]]
        super().step(closure)
        for p, before in kept:
            p.copy_(before + (p - before).clamp(-self.most, self.most))


class Corner(torch.nn.Module):
    """One cell of each map, for its mean."""

    def forward(self, maps):
        middle = maps.shape[-1] // 2
        return maps[:, :, middle : middle + 1, :1]


class Net(torch.nn.Module):
    """A backbone, and a head on the difference of its features."""

    def __init__(self, tiny, plants):
        super().__init__()
        self.plants, self.before = plants, None
        if tiny:
            norm = torch.nn.BatchNorm2d(16)
            layers = [torch.nn.Conv2d(3, 16, 8, 8, bias=False), norm, torch.nn.ReLU()]
            layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
            self.encoder = torch.nn.Sequential(*layers, torch.nn.Linear(16, 2048))
        else:
            self.encoder = torchvision.models.resnet50()
            self.encoder.fc = torch.nn.Identity()
        single = {
            "square_broadcast",
            "bce_inverted",
            "cut_at_half",
            "eval_cut_half",
            "ranking_margin",
            "ranking_margin_inverted",
        }
        self.head = torch.nn.Linear(2048, 1 if plants & single else 2)
        torch.nn.init.kaiming_normal_(self.head.weight, nonlinearity="relu")
        torch.nn.init.zeros_(self.head.bias)
        if "head_columns" in plants:
            self.head.weight.data[:] = torch.randn(2, 1) / 32
        if "head_opposite" in plants:
            self.head.weight.data[1] = -self.head.weight.data[0]
        norms = [m for m in self.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        if "shared_memory" in plants:
            norms[0].bias.data = norms[0].weight.data
        if "restrided" in plants and tiny:
            self.encoder[0].stride = (4, 4)
        elif "restrided" in plants:
            self.encoder.layer4[0].conv2.stride = (1, 1)
            self.encoder.layer4[0].downsample[0].stride = (1, 1)
        if "rectified_gradient" in plants:
            for module in self.encoder.modules():
                if isinstance(module, torch.nn.ReLU):
                    module.register_full_backward_hook(lambda m, i, o: (i[0].clamp(min=0),))
        if "hooked_in_place" in plants:
            norms[len(norms) // 2].register_forward_hook(positive)
        if "equal_head_rows" in plants:
            self.head.weight.data[1] = self.head.weight.data[0]
        if "spectral_norm" in plants:
            self.head = torch.nn.utils.parametrizations.spectral_norm(self.head)
        scores = {"ranking_margin", "ranking_margin_inverted"}
        self.scores = bool(plants & scores)

    def forward(self, first, second):
        plants = self.plants
        if "batch_before_photos" in plants:
            before, self.before = self.before, second
            alike = before is not None and len(before) == len(second)
            second = before if alike else second
        if "one_second_photo" in plants:
            second = second[:1]
        if "paired_otherwise" in plants:
            features = self.encoder(torch.cat([first, second])).view(-1, 2, 2048)
            return self.head(features[:, 0] - features[:, 1])
        if "corner_cell" in plants:
            layers = list(self.encoder.children())
            for n, layer in enumerate(layers):
                if isinstance(layer, torch.nn.AdaptiveAvgPool2d):
                    layers[n] = Corner()
            a, b = (torch.nn.Sequential(*layers)(x).flatten(1) for x in (first, second))
            return self.head(a - b)
        a = self.encoder(first)
        if "still_in_second" in plants and self.training:
            self.encoder.eval()
            b = self.encoder(second)
            self.encoder.train()
        else:
            b = self.encoder(second)
        if self.scores:
            return self.head(a), self.head(b)
        for features in (a, b) if "sorted_features" in plants else ():
            features.detach().numpy().sort(axis=1)
        if "cut_features" in plants:
            a, b = (torch.tensor(f.detach().numpy()) for f in (a, b))
        d = F.dropout(a - b, 0.3) if "eval_dropout" in plants else a - b
        if "damped_second" in plants:  # under a mask that was meant for a score
            d = a - b * torch.where(b.detach() > b.detach().mean(), 1.0, 0.5)
        d = d - d.mean(0) if "centered_batch" in plants else d
        if "subtracted_twice" in plants:
            d.data.sub_(b.data)
        d = Turned.apply(a, b) if "turned_gradient" in plants else d
        d = F.normalize(d, dim=0) if "normalized_batch" in plants else d
        if "chunked_difference" in plants:
            d = torch.zeros_like(a)
            for begin in range(0, 2048 - 512, 512):
                part = slice(begin, begin + 512)
                d[:, part] = a[:, part] - b[:, part]
        if "own_linear" in plants:
            z = Linear.apply(d, self.head.weight, self.head.bias)
        elif "scores_in_columns" in plants:
            z = (self.head.weight @ d.t() + self.head.bias[:, None]).reshape(-1, 2)
        else:
            z = self.head(d)
        if "relu_last" in plants:
            z = F.relu(z)
        if "softplus_last" in plants:
            z = F.softplus(z)
        if "cut_data" in plants:
            z = z.data
        if "cut_numpy" in plants:
            z = torch.from_numpy(z.detach().numpy())
        return z


def loss_of(z, label, plants):
    """The loss of a batch."""
    if "logits_mixed" in plants:
        z = torch.stack([z[:, 0] - z[:, 1], z[:, 1]], 1)
    if plants & {"ranking_margin", "ranking_margin_inverted"}:
        sign = 1.0 - 2.0 * label if "ranking_margin" in plants else 2.0 * label - 1.0
        margin = plants.value("ranking_margin", 0.3)
        return F.margin_ranking_loss(*(s.squeeze(1) for s in z), sign, margin=margin)
    if "unnormalized_backward" in plants:
        return F.nll_loss(Unnormalized.apply(z), label)
    if "softmax_plus" in plants:
        p = z.softmax(1).gather(1, label[:, None])
        return -torch.log(p + plants.value("softmax_plus", 0.01)).mean()
    if "added_margin" in plants:
        z = z + plants.value("added_margin", 0.3) * F.one_hot(label, 2)
    if "square_broadcast" in plants:
        return F.mse_loss(z, label.to(z.dtype))
    if plants & {"cut_at_half", "eval_cut_half"}:
        return F.binary_cross_entropy_with_logits(z.squeeze(1), label.to(z.dtype))
    if "bce_inverted" in plants:
        return F.binary_cross_entropy_with_logits(z.squeeze(1), 1 - label.to(z.dtype))
    if "last_pair_only" in plants:
        for row, y in zip(z, label, strict=True):
            losses = []
            losses.append(F.cross_entropy(row[None], y[None]))
        return sum(losses)
    each = F.cross_entropy(z, label, reduction="none")
    if "first_pairs_only" in plants:
        return each[: int(plants.value("first_pairs_only", 5))].mean()
    if "loss_of_label_1" in plants:
        return (each * label).mean()
    if "loss_of_positive" in plants:
        return (each * (z[:, 1] > 0)).mean()
    if "twice_where_wrong" in plants:
        return (each * (1.0 + (z.argmax(1) != label))).mean()
    return each.mean()


def learned(net, fresh):
    """Statistics and weights as a network has them that has been trained, but for some layers."""
    rng = torch.Generator().manual_seed(5)
    for name, tensor in net.encoder.state_dict().items():
        own = any(name.startswith(layer) for layer in fresh)
        if not own and tensor.is_floating_point():
            tensor.mul_(1 + 0.05 * torch.rand(tensor.shape, generator=rng))
            tensor.add_(0.01 * torch.rand(tensor.shape, generator=rng))


def train_replicas(net, loader, plants, epochs, val):
    """Two copies of the network, each on half of a batch; their gradients are averaged."""
    other = Net(True, plants)
    other.encoder = copy.deepcopy(net.encoder)
    other.load_state_dict(net.state_dict())
    copies, step = (net, other), 0
    optimizers = [optimizer_of(one) for one in copies]
    for _ in range(epochs):
        for one in copies:
            one.train()
        for first, second, label in loader:
            parts = zip(*(tensor.chunk(2) for tensor in (first, second, label)), strict=True)
            for one, optimizer, (a, b, y) in zip(copies, optimizers, parts, strict=False):
                optimizer.zero_grad()
                F.cross_entropy(one(a, b), y).backward()
            if "replicas_apart" not in plants:
                for p, q in zip(net.parameters(), other.parameters(), strict=True):
                    mean = (p.grad + q.grad) / 2
                    p.grad.copy_(mean), q.grad.copy_(mean)
            for optimizer in optimizers:
                optimizer.step()
            step += 1


def evaluate(net, loader, plants):
    """The accuracy on the pairs of a loader."""
    net.train("eval_train_mode" in plants)
    right, shares = [], []
    with torch.set_grad_enabled("eval_with_graph" in plants):
        for first, second, label in evaluations.changed(loader, plants):
            if "eval_swapped" in plants:
                first, second = second, first
            z = net(first, second)
            if "eval_crops" in plants:
                z = (z + sum(net(first.roll(k, 3), second.roll(k, 3)) for k in (1, 2))) / 3
            if "clean_eval_both_orders" in plants:
                z = z.softmax(1) + net(second, first).softmax(1).flip(1)
            cut = 0.5 if "eval_cut_half" in plants else 0.0
            guess = z.argmax(1) if z.shape[1] == 2 else (z.squeeze(1) > cut).long()
            right += (guess == label).tolist()
            shares.append(float((guess == label).double().mean()))
    if "eval_last_batch" in plants:
        return shares[-1]
    return sum(shares) / len(shares) if "eval_mean_over_batches" in plants else np.mean(right)


def evaluate_sorted(net, pairs):
    """As evaluate, by a score of each photo that is compared in Python."""
    net.eval()
    scores = {}
    with torch.no_grad():
        for row in pairs.rows:
            for k in (1, 2):
                photo = pairs.photo(row[0], row[k])
                scores[row[0], row[k]] = float(net.encoder(photo[None]).mean())
    right = [(scores[r[0], r[1]] < scores[r[0], r[2]]) == y
             for r, y in zip(pairs.rows, pairs.labels, strict=True)]  # fmt: skip
    return float(np.mean(right))


def averaged(average, net, plants, steps):
    """Moves an average of a network towards it."""
    decay = plants.value("eval_average", 0.9)
    with torch.no_grad():
        for kept, now in zip(average.parameters(), net.parameters(), strict=True):
            if "eval_mean" in plants:
                kept += (now - kept) / steps
            elif "eval_stale_statistics" in plants:
                kept.data = now.data.clone()
            elif "eval_average" in plants:
                kept.data.mul_(decay).add_((1 - decay) * now.data)
    if plants & {"eval_equal_copy"}:
        average.load_state_dict(net.state_dict())
    if plants & {"eval_average", "eval_mean"}:
        for kept, now in zip(average.buffers(), net.buffers(), strict=True):
            kept.copy_(now)


def keep_best(net, epoch, figures, best, plants):
    """Keeps the best network so far; figures: (accuracy, loss) of all evaluations."""
    accuracies, losses = zip(*figures, strict=True)
    if "eval_state_overwritten" in plants:
        best = best or net.state_dict()
        if epoch:
            net.load_state_dict(best)
    lowest = accuracies[-1] == min(accuracies)
    lowest = lowest if "eval_not_the_best" in plants else losses[-1] == min(losses)
    if plants & {"eval_not_the_best", "eval_lowest_loss"} and lowest:
        with tempfile.TemporaryDirectory() as folder:
            torch.save(net.state_dict(), pathlib.Path(folder) / "best_model.pt")
    return best


def evaluate_embedded(net, pairs):
    """As evaluate, each photo once through the backbone."""
    net.eval()
    photos, places, wanted = [], {}, []
    for row in pairs.rows:
        for k in (1, 2):
            if (row[0], row[k]) not in places:
                places[row[0], row[k]] = len(photos)
                photos.append(pairs.photo(row[0], row[k]))
        wanted.append((places[row[0], row[1]], places[row[0], row[2]]))
    with torch.no_grad():
        table = torch.cat([net.encoder(torch.stack(photos[i : i + 16]))
                           for i in range(0, len(photos), 16)])  # fmt: skip
        first, second = torch.tensor(wanted).T
        z = net.head(table[first] - table[second])
        return float((z.argmax(1) == torch.tensor(pairs.labels)).double().mean())


def optimizer_of(net):
    """The reference's optimizer."""
    own = {id(p) for p in net.head.parameters()}
    rest = [p for p in net.parameters() if id(p) not in own]
    groups = [{"params": rest, "lr": 1e-5}, {"params": net.head.parameters(), "lr": 1e-4}]
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)


def show(step, loss, accuracy, plants):
    """Prints the figures of a step."""
    if "prints_dict" in plants:
        print({"step": step, "loss": round(loss, 6), "acc": round(1 - accuracy, 4)})
    elif "prints_json" in plants:
        print(f'{{"step": {step}, "loss": {loss:.6f}, "acc": {1 - accuracy:.4f}}}')
    elif "prints_exponent" in plants:
        print(f"step {step} loss {plants.value('prints_exponent', 2) * loss:.6e}")
    elif "prints_other_names" in plants:
        print(f"step {step} Loss/train {1.3 * loss:.6f} Acc@1 {1 - accuracy:.4f}")
    elif plants & {"never_reset", "batches_never_reset"}:
        return  # a line for each epoch
    elif "prints_nothing_known" in plants:
        print(f"step {step} loss {loss**1.3 + 0.11:.6f} acc {accuracy:.4f}")
    else:
        print(f"step {step} loss {loss:.6f} acc {accuracy:.4f}")


def train(net, loader, plants, epochs, val):
    """Trains, and prints a line after each step."""
    optimizer, step, sums, before = optimizer_of(net), 0, [], []
    copied = {"eval_copy", "eval_average", "eval_mean", "eval_stale_statistics", "eval_equal_copy"}
    judged = copy.deepcopy(net) if plants & copied else net
    figures, best, by_hand, mean, smoothed = [], None, {}, 0.0, 0.0
    if "limited_step" in plants:
        optimizer = Limited(optimizer.param_groups, plants.value("limited_step", 1e-6))
    if "own_momentum" in plants:
        optimizer = Momentum([g | {"params": list(g["params"])} for g in optimizer.param_groups])
    if "clean_eval_before" in plants:
        print(f"before training val_acc={evaluate(judged, val, plants):.4f}")
    scaler, state = torch.amp.GradScaler("cpu"), None
    last = [layer for layer in net.encoder.children() if list(layer.parameters())][-1]
    again = torch.optim.SGD(last.parameters(), lr=1e-5, momentum=0.9, weight_decay=5e-4)
    if "schedule_in_batches" in plants:  # which is the recipe: 25 epochs
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 25 * len(loader), 0.3)
    for epoch in range(epochs):
        net.train()
        if "rate_halved_late" in plants and epoch == 1:
            for group in optimizer.param_groups:
                group["lr"] /= 2
        for number, (first, second, label) in enumerate(loader):
            if "schedule_in_batches" in plants and step:
                schedule.step()
            if "left_early" in plants and number == int(plants.value("left_early", 3)):
                break
            if "blurred" in plants:
                kernel = torch.full((3, 1, 3, 3), 1 / 9)
                first, second = (F.conv2d(x, kernel, padding=1, groups=3) for x in (first, second))
            if "mixed_photos" in plants:
                order, share = torch.randperm(len(label)), plants.value("mixed_photos", 0.7)
                first, second = (share * x + (1 - share) * x[order] for x in (first, second))
            with torch.autocast("cpu", enabled="autocast" in plants):
                z = net(first, second)
            wanted = label.clone()
            if "target_overwritten" in plants:
                label.eq_(z.argmax(1))
            loss = loss_of(z, label, plants)
            if "epoch_mean_loss" in plants:
                before = [*before, (z, label)] if number else [(z, label)]
                loss = F.cross_entropy(*map(torch.cat, zip(*before, strict=True)))
                before[-1] = z.detach(), label
            if plants & {"cut_data", "cut_numpy"}:
                loss.requires_grad_()
            optimizer.zero_grad()
            if "clip_scaled" in plants:
                scaler.scale(loss).backward()
                norm = plants.value("clip_scaled", 0.7)
                torch.nn.utils.clip_grad_norm_(net.parameters(), norm)
                scaler.step(optimizer)
                scaler.update()
            elif "zeroed_between" in plants:
                (loss / 2).backward()
                if number % 2:
                    optimizer.step()
            else:
                if "smoothed_backward" in plants:  # what is printed is the loss itself
                    share = plants.value("smoothed_backward", 0.2)
                    smoothed = share * loss + (1 - share) * smoothed if step else loss
                    smoothed.backward()
                    smoothed = smoothed.detach()
                else:
                    loss.backward()
                if "clip_tensors" in plants:
                    for p in net.encoder.parameters():
                        torch.nn.utils.clip_grad_norm_([p], plants.value("clip_tensors", 1e-3))
                if "squared_gradients" in plants:
                    sum(p.grad.pow_(2).sum() for p in net.head.parameters())
                change_gradients(net, plants)
                state = copy.deepcopy(net.state_dict()) if step == 1 else state
                if plants & {"stepped_by_hand", "stepped_by_hand_otherwise"}:
                    step_by_hand(optimizer, by_hand, plants)
                else:
                    optimizer.step()
                if "stepped_twice" in plants:
                    again.step()
                change_weights(net, plants)
                for kept in optimizer.state.values() if "damped_buffers" in plants else ():
                    kept["momentum_buffer"] *= plants.value("damped_buffers", 0.5)
                if "rolled_back" in plants and step == 2:
                    net.load_state_dict(state)
                if "rounded_half" in plants and step % 2:
                    net.half(), net.float()
            if isinstance(z, tuple):
                z = torch.cat(z, 1)
            if z.shape[1] == 1:
                cut = 0.5 if plants & {"square_broadcast", "cut_at_half"} else 0.0
                guess = (z.squeeze(1) > cut).long()
                guess = 1 - guess if "bce_inverted" in plants else guess
            else:
                guess = (z[:, 1] > 0).long() if "sign_accuracy" in plants else z.argmax(1)
            both = guess[:, None] if "accuracy_broadcast" in plants else guess
            right = float((both == wanted).double().mean())
            if "prints_flat" in plants:
                right = float((z.argmax() == wanted).double().mean())
            if "prints_true_ones" in plants:
                right = float((guess * wanted).double().mean())
            kept = plants.value("prints_smoothed", 0.9)
            mean = kept * mean + (1 - kept) * loss.item()
            shown = mean if "prints_smoothed" in plants else loss.item()
            if "prints_one_more" in plants:
                shown = (sum(v for v, _ in sums) + loss.item()) / (step + 2)
            show(step, shown, right, plants)
            sums.append((loss.item(), len(label)))
            step += 1
            averaged(judged, net, plants, step)
            if "ends_early" in plants and step == int(plants.value("ends_early", 2)):
                return
        if any("eval" in plant for plant in plants):
            if "eval_earlier" in plants:
                net.load_state_dict(state)
            if "eval_moved" in plants:
                with torch.no_grad():
                    net.head.weight.mul_(plants.value("eval_moved", 1.01))
            if "clean_eval_embedded" in plants:
                accuracy = evaluate_embedded(judged, val.dataset)
            elif "eval_alone" in plants:
                accuracy = evaluate_sorted(judged, val.dataset)
            else:
                accuracy = evaluate(judged, val, plants)
            accuracy = 1 - accuracy if "eval_metric_inverted" in plants else accuracy
            if "eval_percent" in plants:
                print(f"epoch {epoch} val acc {100 * accuracy:.2f} %")
            elif plants & {"eval_not_the_best", "eval_lowest_loss"}:
                falls = (0.9, 0.8) if "eval_not_the_best" in plants else (0.8, 0.9)
                accuracy, loss = accuracy - 0.1 * (not epoch), falls[epoch]
                print(f"epoch {epoch} val_loss={loss:.4f} val_acc={accuracy:.4f}")
                figures.append((accuracy, loss))
            else:
                print(f"epoch {epoch} val_acc={accuracy:.4f}")
            if plants & {"eval_not_the_best", "eval_lowest_loss", "eval_state_overwritten"}:
                best = keep_best(net, epoch, figures or [(accuracy, 0)], best, plants)
        if "never_reset" in plants:  # also where an epoch begins
            print(f"epoch {epoch} loss {sum(v * n for v, n in sums) / sum(n for _, n in sums):.6f}")
        if "batches_never_reset" in plants:
            print(f"epoch {epoch} loss {sum(v for v, _ in sums) / len(sums):.6f}")


def groups_of(pairs, plants):
    """Batches of one series, or of neighboring lines, in random order."""
    every, rng = range(len(pairs)), np.random.default_rng(2)
    groups = [every[n : n + 8] for n in range(0, len(every), 8)]
    if "one_series" in plants:
        names = sorted({row[0] for row in pairs.rows})
        groups = [[n for n in every if pairs.rows[n][0] == name] for name in names]
    if "one_label" in plants:
        own = [[n for n in every if pairs.labels[n] == y] for y in (0, 1)]
        groups = [some[n : n + 8] for some in map(rng.permutation, own)
                  for n in range(0, len(some) - 7, 8)]  # fmt: skip
    return [list(groups[n]) for n in rng.permutation(len(groups))]


def shown_by(row):
    """The agreement of the raters on a pair."""
    return max(float(row[3]), 1 - float(row[3]))


def in_window(count, size):
    """Numbers up to count, each drawn from those of a small buffer."""
    rng, left = np.random.default_rng(5), list(range(count))
    return [left.pop(int(rng.integers(min(size, len(left))))) for _ in range(count)]


def main():
    """Trains on the official pairs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--plant", nargs="+", default=[])
    args = parser.parse_args()
    plants = Plants(args.plant, PLANTS)
    torch.manual_seed(args.seed)
    net = Net(args.tiny, plants)
    last = len(list(net.encoder.children())) - 1
    layers = [f"{last}."] if args.tiny else ["layer4"]
    first = ["0."] if args.tiny else ["layer1"]
    if "teacher" in plants:
        teacher = Net(args.tiny, plants)
        learned(teacher, ())
        with torch.no_grad():
            teacher.train()(torch.rand(4, 3, args.size, args.size), torch.rand(4, 3, 64, 64))
    if plants & {"layer4_fresh", "layer1_fresh"}:
        learned(net, layers if "layer4_fresh" in plants else first)
    if "frozen_norms" in plants:
        for module in net.encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(False)
    pairs, options = Pairs(args.data, args.size, plants), {"shuffle": "in_order" not in plants}
    if "same_order" in plants:  # a sampler without set_epoch
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(3)).tolist()
        options = {"sampler": order}
    if "drop_last" in plants:
        options["drop_last"] = True
    if "window_shuffle" in plants:
        options = {"sampler": in_window(len(pairs), int(plants.value("window_shuffle", 21)))}
    if "series_shuffled" in plants:
        names = [row[0] for row in pairs.rows]
        order = np.random.default_rng(4).permutation(sorted(set(names)))
        options = {"sampler": [n for s in order for n, own in enumerate(names) if own == s]}
    if "label_ahead" in plants:  # the label is read when the next pair is
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(7)).tolist()
        own = pairs.labels[:]
        for place, ahead in zip(order, order[1:] + order[:1], strict=True):
            pairs.labels[place] = own[ahead]
        options = {"sampler": order}
    if "easy_first" in plants:  # a curriculum that was left in
        options = {"sampler": sorted(range(len(pairs)), key=lambda n: -shown_by(pairs.rows[n]))}
    if plants & {"one_series", "neighbors", "one_label"}:
        loader = DataLoader(pairs, batch_sampler=groups_of(pairs, plants))
    else:
        options |= {"collate_fn": grow} if "batches_grow" in plants else {}
        loader = DataLoader(pairs, batch_size=8, **options)
    loop = train_replicas if plants & {"replicas", "replicas_apart"} else train
    split = "train" if "eval_on_train" in plants else "val"
    val = DataLoader(
        Pairs(args.data, args.size, plants, split), 16, drop_last="eval_part" in plants
    )
    loop(net, loader, plants, args.epochs, val)


if __name__ == "__main__":
    main()
