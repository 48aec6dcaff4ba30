"""The trace of record.py as typed, frozen records, every entry of it held against its type."""

import dataclasses
import itertools
import types
import typing
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from diagnose.record import VERSION
from disk.errors import stop
from disk.tensors import load_tensors

LARGEST = 10**6  # of any count in a trace
WIDER = {float: (float, int), Tensor: (Tensor, torch.nn.Parameter)}  # a momentum of 0 is an int


@dataclass(frozen=True)
class Sample:
    """Elements [N] of a tensor at fixed places, and the l2 and largest norm of all of it."""

    values: Tensor
    l2: float
    max: float


Samples = tuple[Sample | None, ...]  # by the numbers of the weights; None: no gradient


@dataclass(frozen=True)
class Norm:
    """A call of batch_norm; before, after: running mean and variance, None where it keeps none."""

    training: bool | None
    momentum: float | None
    eps: float | None
    weight: int | None
    before: tuple[Tensor | None, ...]
    after: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Pass:
    """A forward pass of the backbone.

    input: [N, 3, S, S], None where features were given; epoch: in which its photos were read, -1
    where that is not known.
    """

    input: Tensor | None
    norms: tuple[Norm, ...]
    weights: tuple[int, ...]
    ops: tuple[str, ...]
    autocast: bool
    line: int
    epoch: int


@dataclass(frozen=True)
class Layer:
    """An op of the head."""

    op: str
    weights: tuple[int, ...]
    input: Tensor
    output: Tensor
    options: tuple
    line: int


@dataclass(frozen=True)
class Label:
    """A label [B] that met the logits; root: as it entered the step; ops: that may invert it."""

    values: Tensor
    root: Tensor
    ops: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Backward:
    """A backward pass: its loss, and all gradients before and after."""

    loss: Tensor
    before: Samples
    after: Samples
    line: int


@dataclass(frozen=True)
class Batch:
    """Pairs whose features were merged; gradients: {name of a tensor: one of each backward}."""

    merge: str
    merged: Tensor
    passes: tuple[Pass, ...]
    features: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    gradients: dict[str, tuple[Tensor, ...]]
    head: tuple[Layer, ...]
    ops: tuple[str, ...]
    labels: tuple[Label, ...]
    backwards: tuple[Backward, ...]
    joined: str
    lines: dict[str, int]


@dataclass(frozen=True)
class Group:
    """A parameter group: numbers of its weights, -1 for others, and its values."""

    weights: tuple[int, ...]
    values: dict


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer says of itself before it steps, and how many times it does."""

    class_: str
    groups: tuple[Group, ...]
    state: dict[int, dict[str, Sample | object]]
    times: int
    line: int


@dataclass(frozen=True)
class Update:
    """What the optimizers do between two batches, all tensors by the numbers of the weights.

    clipped: the norm that clip_grad_norm_ was given, None where it was not called.
    """

    batches: int
    clipped: float | None
    gradients: Samples
    before: tuple[Sample, ...]
    after: tuple[Sample, ...]
    next: tuple[Sample, ...] | None
    weights: tuple[Tensor, ...]
    requires_grad: tuple[bool, ...]
    optimizers: tuple[Optimizer, ...]
    lines: dict[str, int]


@dataclass(frozen=True)
class Weight:
    """A weight: its op, its depth in weighted ops and its place among the operands.

    line: where it was last changed before the first step; built: where its module was made.
    """

    depth: int
    op: str
    place: int
    shape: tuple[int, ...]
    computed: bool
    line: int
    built: int


@dataclass(frozen=True)
class Schedule:
    """A schedule, and after how many updates it was stepped."""

    class_: str
    values: dict
    steps: tuple[int, ...]
    line: int
    stepped: int


@dataclass(frozen=True)
class Epoch:
    """An epoch of a loader that began, by its place in the trace.

    items: of the loader's sampler, None where it has no length; drops: whether it has drop_last;
    ended: whether its last batch was read and another one asked for.
    """

    items: int | None
    drops: bool
    batch_size: int | None
    sampler: str
    ended: bool


@dataclass(frozen=True)
class LaterBatch:
    """A batch behind the full steps, of which little is kept.

    photos: gray thumbnails [N, T, T], None where features were given; rows: see Batch; logits
    [B, 1 or 2], None where they are not known; update: its place in the trace's rates.
    """

    photos: Tensor | None
    rows: tuple[Tensor, ...]
    labels: tuple[Label, ...]
    logits: Tensor | None
    loss: float
    update: int
    epoch: int


@dataclass(frozen=True)
class Line:
    """A line of the trainer's own code; every `line` above is its number in the trace, or -1."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Trace:
    """All that record.py writes; printed: (batches done, updates done, text, number of its line).

    asked: steps that were to be recorded; epochs: of all loaders, in the order in which they began;
    later: batches behind the full steps; rates: of every parameter group in each update behind
    them; asked_epochs: to the end of which epoch they were to be recorded.

    photo_lines: {what is done to a photo: number of the last line that does}.
    """

    version: int
    torch: str
    double: bool
    weights: tuple[Weight, ...]
    batches: tuple[Batch, ...]
    updates: tuple[Update, ...]
    printed: tuple[tuple, ...]
    asked: int
    epochs: tuple[Epoch, ...]
    later: tuple[LaterBatch, ...]
    rates: tuple[tuple[float, ...], ...]
    asked_epochs: int
    files: tuple[str, ...]
    schedules: tuple[Schedule, ...]
    photo_lines: dict[str, int]
    lines: tuple[Line, ...]


def read_trace(path):
    """The Trace in a file of record.py; ends the program where it is none, or holds no update."""
    return typed(load_tensors(path), path)


def typed(entries, path):
    """The Trace of what record.py wrote into a file; ends the program where it is none."""
    names = {field.name for field in dataclasses.fields(Trace)}
    if not isinstance(entries, dict) or entries.keys() != names:
        stop(__file__, f"{path}: not a trace of record.py")
    if entries["version"] != VERSION:
        text = f"recorded by version {entries['version']}, this is {VERSION}; record once more"
        stop(__file__, f"{path}: {text}")
    trace = read(entries, Trace, f"{path}: ")
    if not trace.updates or not trace.batches:
        stop(__file__, f"{path}: no update was recorded: no pair of photos met a loss")
    return trace


def batches_of(trace):
    """(number of the update, batch) of every recorded batch that an update took."""
    batches = iter(trace.batches)
    for step, update in enumerate(trace.updates):
        for batch in itertools.islice(batches, update.batches):
            yield step, batch


# What record.py wrote, as the types above


@cache
def kinds_of(record):
    """{key in the trace: (name, type)} of the fields of a record; `class_` is `class` there."""
    return {name.removesuffix("_"): (name, kind)
            for name, kind in typing.get_type_hints(record).items()}  # fmt: skip


def read(value, kind, place):
    """A value as its type has it; ends the program where it is of another.

    place: where it is, as `FILE: .batches[0].merged`.
    """
    if isinstance(kind, types.UnionType):
        *kinds, other = typing.get_args(kind)
        kind = other if isinstance(other, type) and isinstance(value, other) else kinds[0]
        kind = kinds[0] if isinstance(value, dict) else kind
    inner = typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        kinds = kinds_of(kind)
        check(isinstance(value, dict) and value.keys() == kinds.keys(), place)
        return kind(**{name: read(value[key], inner, f"{place}.{key}")
                       for key, (name, inner) in kinds.items()})  # fmt: skip
    if kind is tuple or typing.get_origin(kind) is tuple:
        check(isinstance(value, (list, tuple)), place)
        kind = inner[0] if inner else object
        return tuple(read(item, kind, f"{place}[{n}]") for n, item in enumerate(value))
    if kind is dict or typing.get_origin(kind) is dict:
        check(isinstance(value, dict), place)
        key_kind, kind = inner or (object, object)
        check(all(isinstance(key, key_kind) for key in value), place)
        entries = {key: read(item, kind, f"{place}.{key}") for key, item in value.items()}
        return types.MappingProxyType(entries)
    check(is_sound(value, kind), place)
    return value


def check(holds, place):
    """Ends the program where a value is not of its type."""
    if not holds:
        stop(__file__, f"{place} is not what record.py writes")


def is_sound(value, kind):
    """Whether a plain value is of its type, a count no larger than any of a trace."""
    if kind in (object, types.NoneType):
        return kind is object or value is None
    sound = type(value) in WIDER.get(kind, (kind,))
    if kind is int:
        sound = sound and -1 <= value <= LARGEST
    if kind is Tensor:
        sound = sound and value.layout == torch.strided and value.device.type == "cpu"
    return sound
