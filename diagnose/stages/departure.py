"""Where in the backbone a forward pass first departs from the reference's, by BatchNorm's batches.

Each BatchNorm in training mode leaves the mean of what enters it in its running statistics, so a
record of these shows every layer, and not only the features.
"""

import torch

from diagnose.forward import batchnorms
from diagnose.numerics import is_float32, relative_error
from diagnose.related import TOLD

# Largest difference of two means of a channel, in deviations of it, (float64, float32): BatchNorm
# keeps a tenth of a mean, and what enters a deep layer differs by rounding.
SAME = (1e-6, 2e-2)


def first_departure(batch, replay):
    """{agree, departs: names of the layers between which the first pass departs that does; photo: 1
    or 2, None where both do} of a recorded batch; {} where no layer says so.

    departs: None where all layers agree, and what follows the last of them does not.
    """
    if replay.sides.inputs is None or len(batch.passes) != len(replay.sides.passes):
        return {}
    tolerance, places = SAME[is_float32(replay.rounding)], []
    for record, photos in zip(batch.passes, replay.sides.passes, strict=True):
        layers = entering(replay.backbones(replay.dtype)[0], photos)
        if len(layers) != len(record.norms) or not layers:
            return {}
        names, same = [name for name, *_ in layers], [agrees(norm, *layer[1:], tolerance)
                for norm, layer in zip(record.norms, layers, strict=True)]  # fmt: skip
        if None in same[: same.index(False) if False in same else len(same)]:
            return {}  # in evaluation mode a layer keeps no trace
        places.append(same.index(False) if False in same else len(same))
    first = min(places)
    if first == 0:
        return {}
    own = [number for number, place in enumerate(places, 1) if place == first]
    one = own[0] if len(places) == 2 and len(own) == 1 and first < len(names) else None
    departs = names[first] if first < len(names) else None
    return {"agree": names[first - 1], "departs": departs, "pass": one}


POOLS = {  # {what becomes of a map [..., H, W]: how}
    "the maximum": lambda x: x.amax((2, 3)),
    "the minimum": lambda x: x.amin((2, 3)),
    "the sum": lambda x: x.sum((2, 3)),
    "the median": lambda x: x.flatten(2).median(2).values,
    "the l2 norm": lambda x: x.flatten(2).norm(dim=2),
    "the mean of mean and maximum": lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2,
}


def pooled_as(replay):
    """What the features are of the reference's last maps, where they are not their means, in words;
    None where nothing is known to be.
    """
    maps = last_maps(replay)
    if maps is None or maps.shape[:2] != replay.features.shape:
        return None
    rows, columns = maps.shape[2:]
    ways = [(words, act(maps)) for words, act in POOLS.items()]
    ways += [(f"the cell in row {i + 1}, column {j + 1}", maps[:, :, i, j])
             for i in range(rows) for j in range(columns)]  # fmt: skip
    ways += [(f"the mean of row {i + 1}", maps[:, :, i].mean(2)) for i in range(rows)]
    ways += [(f"the mean of column {j + 1}", maps[..., j].mean(2)) for j in range(columns)]
    for words, made in ways:
        if rows * columns > 1 and relative_error(made, replay.features) <= TOLD:
            return f"{words} of each {rows} x {columns} map (reference: its mean)"
    return None


def last_maps(replay):
    """What the reference pools, [2 * B, C, H, W] of both sides; None where that is not known."""
    backbone, maps = replay.backbones(replay.dtype)[0], []
    pools = [m for m in backbone.modules() if isinstance(m, torch.nn.AdaptiveAvgPool2d)]
    if replay.sides.inputs is None or len(pools) != 1:
        return None
    pools[0].register_forward_pre_hook(lambda module, given: maps.append(given[0].double()))
    with torch.no_grad():
        for photos in replay.sides.inputs:
            backbone(photos.to(replay.dtype))
    return torch.cat(maps)


def entering(backbone, photos):
    """[(name, mean [C], deviation [C]) of what enters it] of each BatchNorm that photos pass."""
    found, hooks = [], []
    for name, module in batchnorms(backbone):

        def look(module, given, name=name):
            x = given[0].double()
            found.append((name, x.mean((0, 2, 3)), x.std((0, 2, 3))))

        hooks.append(module.register_forward_pre_hook(look))
    dtype = next((p.dtype for p in backbone.parameters()), torch.float64)  # it may have none
    with torch.no_grad():
        backbone(photos.to(dtype))
    for hook in hooks:
        hook.remove()
    return found


def agrees(norm, mean, deviation, tolerance):
    """Whether the mean of what entered a recorded BatchNorm is one of a replay; None, where it
    left no trace.
    """
    if not norm.training or norm.before[0] is None or not norm.momentum:
        return None
    before, after = (moment[0].double() for moment in (norm.before, norm.after))
    seen = (after - (1 - norm.momentum) * before) / norm.momentum
    if seen.shape != mean.shape:
        return False
    return bool(((seen - mean).abs() <= tolerance * (deviation + 1e-12)).all())
