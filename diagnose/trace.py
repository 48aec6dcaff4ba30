"""The trace of record.py as typed, frozen records, every entry of it held against its type."""

import dataclasses
import itertools
from dataclasses import dataclass

from torch import Tensor

from diagnose.record import VERSION
from diagnose.records import read
from disk.errors import stop
from disk.tensors import load_tensors

MOST_TIMES = 1000  # steps of one optimizer in one update


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

    input: [N, 3, S, S], None where features were given; options: what each op was told besides its
    tensors; epoch: in which its photos were read, -1 where that is not known.
    """

    input: Tensor | None
    norms: tuple[Norm, ...]
    weights: tuple[int, ...]
    ops: tuple[str, ...]
    options: tuple[tuple, ...]
    autocast: bool
    line: int
    epoch: int
    training: bool
    random: bool


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
    """What an optimizer says of itself before it steps, and how many times it does.

    class_: the class of torch.optim that it is of, where it is of one; own: its own class.
    """

    class_: str
    own: str
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
class KeptBatch:
    """What is kept of a batch after the full steps.

    rows: places of both sides among the trace's thumbnails, -1 where there is none; logits
    [B, 1 or 2], None where they are not known; update: its place in the trace's rates, and of an
    evaluation how many updates were done.
    """

    rows: tuple[Tensor, ...]
    labels: tuple[Label, ...]
    logits: Tensor | None
    update: int
    epoch: int


@dataclass(frozen=True)
class LaterBatch(KeptBatch):
    """A batch that a backward followed."""

    loss: float


@dataclass(frozen=True)
class Marks:
    """A few values [N] of all parameters and [M] of all running statistics, None for none."""

    parameters: Tensor | None
    statistics: Tensor | None


@dataclass(frozen=True)
class Evaluated(KeptBatch):
    """A batch that no backward followed.

    training, random: whether a BatchNorm was in training mode, and a dropout active; graph: whether
    gradients were on; weights: numbers of those it met; marks: of these, where it is the first
    batch after an update; mean_with: the place of the batch with whose logits its own are averaged,
    that of itself where there is none.
    """

    training: bool
    random: bool
    graph: bool
    weights: tuple[int, ...]
    marks: Marks | None
    mean_with: int
    line: int


@dataclass(frozen=True)
class KeptState:
    """A state dict that was saved or loaded.

    kind: `saved` or `loaded`; file: the name of the file, "" for none; taken: after how many
    updates it was taken, where it holds the trained weights themselves and no copy, else -1;
    update, evaluated: how many updates were done, and batches evaluated.
    """

    kind: str
    file: str
    taken: int
    update: int
    evaluated: int
    line: int


@dataclass(frozen=True)
class Line:
    """A line of the trainer's own code; every `line` above is its number in the trace, or -1."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Trace:
    """All that record.py writes.

    printed: (batches done, updates done, text, number of its line, batches evaluated).
    asked: steps that were to be recorded; epochs: of all loaders, in the order in which they began;
    later: batches after the full steps; rates: of every parameter group in each update after
    them; asked_epochs: how many whole epochs were to be recorded; until: `evaluation`, or
    None; evaluated: batches that no backward followed; thumbnails: gray, [N, T, T], of the photos
    of both; whole: [K, 3, S, S] photos of the first evaluated batches; marks: {updates done:
    those of the trained weights}; alone: photos that were evaluated and met no other.

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
    until: str | None
    evaluated: tuple[Evaluated, ...]
    thumbnails: Tensor
    whole: Tensor | None
    marks: dict[int, Marks]
    states: tuple[KeptState, ...]
    alone: int
    files: tuple[str, ...]
    schedules: tuple[Schedule, ...]
    photo_lines: dict[str, int]
    lines: tuple[Line, ...]


def read_trace(path):
    """The Trace in a file of record.py; ends the program where it is none, or holds no update."""
    return typed(load_tensors(path, mapped=True), path)


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
    times = max((o.times for u in trace.updates for o in u.optimizers), default=0)
    if times > MOST_TIMES:
        text = f"an optimizer steps {times} times in one update, at most {MOST_TIMES} are repeated"
        stop(__file__, f"{path}: {text}")
    return trace


def epoch_of(trace, number):
    """The Epoch with a number; None where that is not known."""
    return trace.epochs[number] if 0 <= number < len(trace.epochs) else None


def batches_of(trace):
    """(number of the update, batch) of every recorded batch that an update took."""
    batches = iter(trace.batches)
    for step, update in enumerate(trace.updates):
        for batch in itertools.islice(batches, update.batches):
            yield step, batch
