"""Records the first training steps of any trainer, without changing a line of it.

    python PATH/TO/diagnose record [--steps 5] [--epochs N] [--as-is] --out mine.trace train.py ...

or, in a notebook, record.start("mine.trace") before the model is built. It needs torch, the
standard library and watch.py in its own folder, so both can be copied, and called as `python
record.py ...`. The trainer runs in a process of its own, see watch.py, and ends after these steps.
`python -m diagnose compare mine.trace --data DATASET` reads the trace.

With --epochs it goes on to the end of that epoch, and keeps of each later batch little: coarse
thumbnails of its photos, labels, logits, loss and learning rates.

The trainer runs in float64: the default dtype is set before its first line, and what still comes in
float32 is cast where it meets a float64 weight. --as-is leaves its precision alone and changes no
number. torch.compile and TorchScript are left out. What cannot be seen from here is not recorded,
never guessed.

How it sees: every call of a torch function passes a TorchFunctionMode. Tensors are tagged as they
are made with the photos that their rows come from. A photo is a float tensor [B, 3, H, W] that
nothing made and that meets a weight; the first op that computes one row of two photos is the merge
of their features; the weighted ops behind it are the head; where backward begins is the loss.
"""

# ruff: noqa: E402
import importlib.util
import os
import sys
from pathlib import Path


def load_beside(name):
    """The module in a file of this folder, in no sys.modules: the trainer finds nothing of ours."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


watching = load_beside("watch")
if __name__ == "__main__":
    if watching.GIVEN not in os.environ:
        watching.record(sys.argv[1:])  # before torch is there: this process only watches
    # neither torch nor the trainer finds this folder's files in the place of its own
    sys.path[:] = [
        path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent
    ]

import argparse
import atexit
import builtins
import ctypes
import faulthandler
import glob
import io
import linecache
import mmap
import re
import runpy
import shutil
import signal
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack
from uuid import uuid4

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

VERSION = 6
PATIENCE = 20  # updates without a pair of photos, more than asked for, before it gives up
PASS = 2**32  # between the numbers of the first rows of two passes
NOWHERE = -1  # the number of a row that comes from no photo
HOOKS = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
         "register_full_backward_pre_hook", "register_backward_hook")  # fmt: skip
WITH_OPTIONS = ("conv2d", "pool2d", "leaky_relu", "elu")  # ops, by a part of their names
SAMPLE = 512  # elements of a tensor that are kept of every step, at fixed places
MARKS = 4  # of those: by which the parameters of an evaluation are known again
WEIGHTS = {"conv2d": (1, 2), "linear": (1, 2), "batch_norm": (1, 2, 3, 4)}  # places of weights
BATCH_NORM = ["input", "running_mean", "running_var", "weight", "bias"]  # its operands in order
BATCH_NORM += ["training", "momentum", "eps"]
BATCH_NORM_STATISTICS = (("batch_norm", 0), ("batch_norm", 1))  # places that nothing learns
MERGES = ("sub", "__sub__", "rsub", "subtract", "cat", "concat", "mul", "__mul__")
CHANGES = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__")  # in place, by sign
COMPARISONS = ("eq", "__eq__", "ne", "__ne__")
IN_PLACE = ("sub_", "isub__", "subtract_", "mul_", "imul__", "add_", "iadd__")
JOINS = ("cat", "concat", "concatenate")
MOVES = "stack chunk split tensor_split unbind __getitem__ narrow select index_select flip roll "
MOVES += "view reshape flatten unflatten squeeze unsqueeze permute transpose movedim "
MOVES = (*JOINS, *MOVES.split(), "repeat_interleave")  # ops that move rows and compute nothing
FLIPS = "rsub __rsub__ sub __sub__ eq __eq__ ne __ne__ logical_not bitwise_xor __xor__ bitwise_not"
FLIPS = (*FLIPS.split(), "__invert__")  # what may turn a label around
LONGEST_NAME = 200  # bytes of the trace's name; a longer one is written first
NOT_OPS = "__get__ __set__ size dim backward requires_grad_ register_hook detach_ numel item tolist"
NOT_OPS = (*NOT_OPS.split(), "__repr__", "__len__", "is_floating_point")
NOWHERE_LINE = -1  # the number of a line that is not known
LIBRARIES = {"site-packages", "dist-packages"}  # folders of code that is nobody's own
LONGEST_LINE = 200  # characters of a line's text that are kept
# What may be done to one photo before it meets a weight, by the ops of torch and of Pillow.
PHOTO_KINDS = {
    "resize": "resize thumbnail interpolate",
    "turn": "transpose flip rot90",
    "channels": "convert merge split index_select __getitem__",
    "placement": "crop paste pad __setitem__",
    "arithmetic": "sub sub_ __sub__ div div_ __truediv__ mul mul_ __mul__ add __add__ __rmul__",
    "cast": "half bfloat16 to type",
}
PHOTO_OPS = {op: kind for kind, ops in PHOTO_KINDS.items() for op in ops.split()}
PILLOW = ("resize", "thumbnail", "transpose", "convert", "split", "crop", "paste")
WHOLE, FEW = 2, 8  # passes of an evaluation whose photos are kept as they are; how many each
THUMBNAIL = 16  # cells of a side to which photos are reduced after the full steps
MOST_LATER = 20_000  # batches after the full steps, where no loader says where an epoch ends
GRACE = 10  # seconds that threads have to end in when the steps are done
MOST_WAITING = 64  # batches that wait for an update
RECENT = 12  # tensors [B, F] that are known again where their graph is cut
MOST = 10**6  # items of a sampler, more than which count as unknown
MOST_FILES = 20_000  # whose names are kept
EVERY = 3  # seconds between two lines of progress
TRIMMED = 16  # batches, after which free memory is given back
SLOT = 512  # bytes for a line's file and number, shared with the workers of a loader


def each_tensor(value, change):
    """Arguments with change(tensor) instead of every tensor in lists, tuples and dicts."""
    if isinstance(value, dict):
        return {key: each_tensor(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        changed = [each_tensor(item, change) for item in value]
        return changed if isinstance(value, list) else tuple(changed)
    return change(value) if isinstance(value, torch.Tensor) else value


def to_double(tensor):
    """A coarser float tensor in double, any other as it is."""
    coarse = (torch.float32, torch.float16, torch.bfloat16)
    return tensor.double() if tensor.dtype in coarse else tensor


class Tag:
    """What is known of a tensor: passes {number: record}, depth in weighted ops, pair, label.

    rows: which photo each row of the tensor comes from, [N]; or each element, in the tensor's own
    shape, where a row holds several photos; None where that is lost, as in a mean over the batch.
    """

    def __init__(self, rows=None, passes=(), depth=0, pair=None, label=None):
        self.rows, self.passes, self.depth = rows, dict(passes), depth
        self.pair, self.label = pair, label


def new_pass(photo, autocast):
    """The record of one pass of photos [B, 3, H, W] (None: features were given)."""
    record = {"input": photo, "norms": [], "weights": [], "autocast": autocast}
    record |= {"ops": [], "options": []}
    return record | {"line": NOWHERE_LINE, "epoch": NOWHERE, "training": False, "random": False}


def new_pair(merge, merged, passes, features, rows):
    """The record of what follows from two photos' features, merged by an op."""
    pair = {"merge": merge, "merged": keep(merged), "passes": passes, "features": features}
    pair |= {"rows": rows, "gradients": {}, "head": [], "ops": [], "labels": [], "backwards": []}
    pair |= {"lines": {}, "mean": {"with": None, "place": NOWHERE}}
    return pair | {"joined": ""}  # `others` or the `same` photos, where they meet it behind merges


def tensors_in(value):
    """The tensors of arguments, in lists, tuples and dicts."""
    found = []
    each_tensor(value, found.append)
    return found


def keep(tensor):
    """A copy on the CPU that nothing changes any more; None stays None."""
    return None if tensor is None else tensor.detach().to("cpu", copy=True)


def places(numel, most=SAMPLE):
    """The fixed places, up to so many, at which a flat tensor is sampled."""
    if numel <= most:
        return torch.arange(numel)
    return torch.linspace(0, numel - 1, most, dtype=torch.float64).round().long()


def round_module(to_dtype, module):
    """A module in double, whose values are rounded as to_dtype, as Module.half, would; what was
    double stays as exact as single is.
    """
    kind = {"half": torch.float16, "bfloat16": torch.bfloat16}.get(to_dtype.__name__)
    if kind is None:
        return module
    return module._apply(lambda t: t.to(kind).double() if t.is_floating_point() else t)


def thumbnail(photos):
    """Gray cells [B, T, T] of photos [B, 3, H, W], in half precision."""
    gray = photos.detach().float().mean(1, keepdim=True)
    return keep(torch.nn.functional.adaptive_avg_pool2d(gray, THUMBNAIL)[:, 0].half())


def sample(tensor):
    """{values at fixed places, l2, max} of a tensor; None where there is none."""
    if tensor is None:
        return None
    flat = tensor.detach().reshape(-1)
    return {
        "values": keep(flat[places(len(flat)).to(flat.device)]),
        "l2": float(torch.linalg.vector_norm(flat.double())),
        "max": float(torch.linalg.vector_norm(flat, torch.inf)) if len(flat) else 0.0,
    }


def mark(tensors):
    """A few values of each of some tensors, one after the other, [N] float64; None of none."""
    flat = [tensor.detach().reshape(-1) for tensor in tensors]
    few = [own[places(len(own), MARKS).to(own.device)].double() for own in flat]
    return keep(torch.cat(few)) if few else None


def plain(value):
    """A setting as plain data: numbers and words as they are, anything else as its text."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value)[:80].split(" at 0x")[0]


class Lines:
    """Lines of the trainer's own code, by number.

    root: the folder of the started file, or of the started module's package; nothing else is the
    trainer's own, but what a notebook's cells hold.
    """

    def __init__(self, root):
        self.root, self.start = os.path.realpath(root), os.getcwd()
        self.own, self.numbers, self.lines = {}, {}, []

    def nearest(self):
        """(file, line) of the nearest line of the trainer's own code, or None."""
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if self.owns(code):
                return code.co_filename, frame.f_lineno
            frame = frame.f_back
        return None

    def owns(self, code):
        """Whether code is the trainer's."""
        if code not in self.own:
            self.own[code] = self.is_own(code.co_filename)
        return self.own[code]

    def here(self):
        """The number of the nearest line of the trainer's own code; NOWHERE_LINE: there is none."""
        place = self.nearest()
        return NOWHERE_LINE if place is None else self.number(*place)

    def caller(self):
        """The number of the line that called the outermost module, or the nearest line."""
        frame, found, within = sys._getframe(1), NOWHERE_LINE, False
        while frame is not None:
            code = frame.f_code
            within |= code.co_name == "_call_impl"
            if self.owns(code) and (within or found == NOWHERE_LINE):
                found, within = self.number(code.co_filename, frame.f_lineno), False
            frame = frame.f_back
        return found

    def is_own(self, file):
        """Whether a file of code is the trainer's."""
        if cell_of(file):
            return True
        path = os.path.realpath(file)
        inside = path.startswith(self.root + os.sep) and os.path.isfile(path)
        parts = path[len(self.root) :].split(os.sep)
        return inside and not LIBRARIES & set(parts) and path != os.path.realpath(__file__)

    def number(self, file, line):
        """The number of a line, whose text is kept as it is now."""
        if (file, line) not in self.numbers:
            self.numbers[file, line] = len(self.lines)
            text = linecache.getline(file, line).strip()[:LONGEST_LINE]
            shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
            name = cell_of(file) or self.relative(os.path.realpath(file))
            self.lines.append({"file": name, "line": line, "text": shown})
        return self.numbers[file, line]

    def relative(self, path):
        """A path from the folder in which the trainer was started, with forward slashes."""
        if os.path.splitdrive(path)[0] == os.path.splitdrive(self.start)[0]:
            path = os.path.relpath(path, os.path.realpath(self.start))
        return path.replace(os.sep, "/")

    def of_function(self, function):
        """The number of the line on which a function of the trainer's own begins."""
        code = getattr(function, "__code__", None)
        if code is None or not self.is_own(code.co_filename):
            return NOWHERE_LINE
        return self.number(code.co_filename, code.co_firstlineno)


def cell_of(file):
    """The name of a notebook's cell by the name of its code, as `cell 4`; None of a file."""
    named = re.match(r"<ipython-input-(\d+)-", file)
    if named:
        return f"cell {named[1]}"
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    cells = getattr(getattr(interactive, "compile", None), "_filename_map", {})
    return f"cell {cells[file]}" if file in cells else None


class PhotoLines:
    """The last line at which each of PHOTO_KINDS was done to a photo, also in the workers of a
    loader, which share this memory where they are forked.
    """

    def __init__(self, lines):
        self.lines, self.kinds = lines, list(PHOTO_KINDS)
        self.memory = mmap.mmap(-1, SLOT * len(self.kinds))

    def note(self, op):
        """Notes where an op is done to a photo."""
        place = self.lines.nearest()
        if place is None:
            return
        text = "{1} {0}".format(*place).encode()
        if len(text) < SLOT:
            first = SLOT * self.kinds.index(PHOTO_OPS[op])
            self.memory[first : first + SLOT] = text.ljust(SLOT, b"\0")

    def found(self):
        """{kind: number of its line}."""
        numbers = {}
        for place, kind in enumerate(self.kinds):
            text = self.memory[SLOT * place : SLOT * (place + 1)].rstrip(b"\0").decode()
            line, _, file = text.partition(" ")
            numbers |= {kind: self.lines.number(file, int(line))} if file else {}
        return numbers


class Noting(TorchFunctionMode):
    """Notes every op before it is run, for the process that watches this one, if there is one.

    notes: see watch.Notes, or None; stage: what the trainer does; met: passes since the last batch.
    """

    def __init__(self, root="."):
        super().__init__()
        self.lines, self.notes, self.pid = Lines(root), None, os.getpid()
        self.step, self.met = 1, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.note_op(getattr(function, "__name__", ""), args)
        return function(*args, **(kwargs or {}))

    def note_op(self, name, args):
        """Notes an op, its first tensor, and the line of the trainer's own code."""
        if self.notes is None or name in NOT_OPS or os.getpid() != self.pid:
            return
        if name.startswith("_record"):  # torch's own profiler, around backward
            return
        self.notes.tick()
        first = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
        shape = () if first is None else tuple(first.shape)
        if name.startswith("conv") and len(shape) == 4 and shape[1] == 3:
            self.met += 1
            which = f"of photo_{self.met}" if self.met <= 2 else str(self.met)
            self.note_stage(f"forward pass {which}")
        elif "loss" in name or "entropy" in name:
            self.note_stage("loss")
        kind = "" if first is None else f" on {list(shape)} {str(first.dtype)[6:]}"
        self.notes.write("op", f"{name}{kind}")
        place = self.lines.nearest()
        if place is not None:
            line = self.lines.lines[self.lines.number(*place)]
            self.notes.write("line", "{file}:{line}  {text}".format(**line))

    def note_stage(self, stage):
        """Notes what the trainer does, and in which step."""
        if self.notes is not None and os.getpid() == self.pid:
            self.notes.tick()
            self.notes.write("where", f"in step {self.step}, {stage}")

    def note_step(self, optimizer, *_):
        """Notes that an optimizer has stepped, and the memory of the device."""
        if is_nested(optimizer):
            return
        self.step, self.met = self.step + 1, 0
        self.note_stage("after the optimizer step")
        if self.notes is not None and torch.cuda.is_initialized():
            free, _ = torch.cuda.mem_get_info()
            known = torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), free
            told = (f"{size / 1e9:.1f} GB {word}" for size, word in
                    zip(known, ("allocated", "reserved", "free"), strict=True))  # fmt: skip
            self.notes.write("device", f"{', '.join(told)} (after step {self.step - 1})")


class Known:
    """What is known of some objects, by which ones they are; lists and the like, which cannot be
    referred to weakly, are kept.
    """

    def __init__(self):
        self.weak, self.kept = WeakIdKeyDictionary(), {}

    def __setitem__(self, thing, value):
        if type(thing).__weakrefoffset__:
            self.weak[thing] = value
        else:
            self.kept[id(thing)] = thing, value

    def get(self, thing, usual):
        """What is known of an object, or the usual."""
        if type(thing).__weakrefoffset__:
            return self.weak.get(thing, usual)
        return self.kept.get(id(thing), (None, usual))[1]


class Origins(Noting):
    """Which photos the rows of tensors come from."""

    def __init__(self, root="."):
        super().__init__(root)
        self.tags, self.number_of_pass = WeakTensorKeyDictionary(), 0

    def new_tag(self, tensor, photo, autocast):
        """The tag of the first tensor [B, ...] of a new pass; its rows are numbered from there."""
        self.number_of_pass += 1
        rows = torch.arange(len(tensor), device=tensor.device) + self.number_of_pass * PASS
        return Tag(rows, {self.number_of_pass: new_pass(photo, autocast)})

    def meet(self, sides):
        """Whether tensors come from several photos in one row."""
        rows = [self.tags[t].rows for t in sides]
        return any(not torch.equal(rows[0], other) or other.dim() > 1 for other in rows)

    def moved_rows(self, name, function, args, kwargs):
        """The rows of what an op gives that only moves them; None where it computes or merges."""
        if name not in MOVES or "out" in kwargs:
            return None
        args, kwargs = each_tensor((args, kwargs), self.rows_of)
        made = function(*args, **kwargs)
        moved = [shorten(rows) for rows in tensors_in(made)]
        scores = name == "stack" and args[0][0].dim() == 1 and dim_of(args, kwargs) in (1, -1)
        # features, or scores, of two photos in one row, not in one batch
        merges = (name in JOINS and moved[0].dim() > 1) or scores
        whole = all(rows.dtype == torch.int64 for rows in moved)
        return moved if whole and not merges else None

    def rows_of(self, tensor):
        """The number of its row for every element of a tensor; an index or a mask as it is."""
        if not tensor.is_floating_point():
            return tensor
        tag = self.tags.get(tensor)
        if tag is None or tag.rows is None:
            return torch.full(tensor.shape, NOWHERE, device=tensor.device)
        rows = tag.rows.view(*tag.rows.shape, *[1] * (tensor.dim() - tag.rows.dim()))
        return rows.expand_as(tensor).contiguous()


class Places(Origins):
    """Where in the trainer's own code photos, weights and gradients are changed.

    last: {kind of call: number of its last line}; built: line of a weight's module; made: where a
    weight was last changed.
    """

    def __init__(self, root="."):
        super().__init__(root)
        self.last, self.numbers = {}, {}
        self.photos = PhotoLines(self.lines)
        self.built, self.made = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()
        # of what a loader gave: (the lines of that loader, the number of its epoch)
        self.origins, self.epoch_of = WeakTensorKeyDictionary(), WeakIdKeyDictionary()
        self.epochs, self.epoch = [], NOWHERE  # of all loaders; of the last batch that was read
        self.optimizers, self.loaders = WeakIdKeyDictionary(), Known()
        self.updating, self.done = False, False
        self.clipped = None  # to which norm the gradients of this step are to be clipped

    def note_line(self, function, name, args, kwargs):
        """Notes where one photo is prepared, a weight is initialized, or a gradient is changed."""
        first = args[0] if args else kwargs.get("tensor")  # as torch.nn.init has it
        if not isinstance(first, torch.Tensor) or self.done or self.updating:
            return
        shape, attribute = tuple(first.shape), what_is_set(function)
        in_place = name in CHANGES or (name[-1:] == "_" and name[-2:] != "__")
        is_weight = isinstance(first, torch.nn.Parameter) or id(first) in self.numbers
        if name in PHOTO_OPS and ((shape[:1] == (3,) and len(shape) == 3) or shape[:2] == (1, 3)):
            reverses = name == "flip" and {0, -3} & set(dims_of(args, kwargs))
            self.photos.note("merge" if reverses else name)
        elif name == "requires_grad_" or (is_weight and attribute == "requires_grad"):
            self.last["freeze"] = self.lines.here()
        elif name == "detach" and first in self.tags:
            self.last["detach"] = self.lines.here()
        elif in_place and is_weight:
            self.made[first] = self.last["moved"] = self.lines.here()
        elif self.has_gradients() and (in_place or attribute == "grad"):
            self.last["changed"] = self.lines.here()

    def has_gradients(self):
        """Whether gradients wait for an optimizer step."""
        return False

    def is_new_label(self, tensor):
        tag = self.tags.get(tensor)
        return is_label(tensor) and (tag is None or (tag.label is not None and not tag.passes))

    def tag_label(self, name, operand, result):
        """A tensor made of a label by an op that may turn it around."""
        if isinstance(result, torch.Tensor) and is_label(result):
            root, ops, _ = self.label_of(operand)
            self.tags[result] = Tag(label=(root, [*ops, name], self.lines.here()))

    def label_of(self, tensor):
        """(a label as it entered the step, the ops that may have inverted it, the last's line)."""
        tag = self.tags.get(tensor)
        return tag.label if tag and tag.label else (tensor, [], NOWHERE_LINE)

    def on_loader_made(self, made, loader, *args, **options):
        made(loader, *args, **options)
        reader = getattr(type(loader.dataset), "__getitem__", None)
        lines = {"loader": self.lines.here(), "dataset": self.lines.of_function(reader)}
        self.loaders[loader.dataset] = lines

    def on_loader_read(self, read, iterator):
        """Where the loader of the next batch was made, and its dataset begins to read a photo."""
        self.epoch = self.epoch_of.get(iterator, NOWHERE)
        with Ending(self.epochs[self.epoch] if self.epoch != NOWHERE else {}):
            batch = read(iterator)
        lines = self.loaders.get(iterator._dataset, {"loader": NOWHERE_LINE})
        for tensor in tensors_in(batch):
            self.origins[tensor] = lines, self.epoch
        self.last |= lines
        return batch

    def on_epoch(self, begin, loader):
        """An epoch of a loader begins: how many items it has, and how many make a batch."""
        iterator = begin(loader)
        if not self.done:
            items = len(loader.sampler) if hasattr(type(loader.sampler), "__len__") else MOST
            epoch = {"items": items if items < MOST else None, "drops": bool(loader.drop_last)}
            epoch |= {"batch_size": loader.batch_size, "sampler": type(loader.sampler).__name__}
            epoch |= {"ended": False}
            self.epoch_of[iterator] = len(self.epochs)
            self.epochs.append(epoch)
        return iterator

    def on_parameter(self, register, module, name, parameter):
        if parameter is not None and parameter not in self.built:
            self.built[parameter] = self.lines.here()
        return register(module, name, parameter)

    def on_optimizer_made(self, made, optimizer, *args, **options):
        made(optimizer, *args, **options)
        self.optimizers[optimizer] = self.lines.here()

    def on_call(self, kind):
        """A hook that notes the line of a call of this kind."""

        def hook(called, *args, **options):
            self.last[kind] = self.lines.here()
            return called(*args, **options)

        return hook

    def on_hook(self, register, *args, **options):
        """Notes where the trainer itself registers a hook; torch has some of its own."""
        if self.lines.owns(sys._getframe(2).f_code):
            self.last["hook"] = self.lines.here()
        return register(*args, **options)

    def on_function(self, apply, kind, *args, **options):
        """Notes where an autograd function of the trainer's own is applied."""
        if not kind.__module__.startswith("torch"):
            self.last["function"] = self.lines.here()
        return apply.__func__(kind, *args, **options)

    def on_clip(self, clip, parameters, max_norm, *args, **options):
        """Notes to which norm gradients are to be clipped, and where."""
        self.last["clip"], self.clipped = self.lines.here(), float(max_norm)
        return clip(parameters, max_norm, *args, **options)

    def on_mode(self, change, module, mode=True):
        """Notes where a module is put into evaluation mode."""
        if not mode:
            self.last["eval"] = self.lines.here()
        return change(module, mode)

    def to_double(self, tensor):
        """See to_double; what a loader gave stays known."""
        made = to_double(tensor)
        if made is not tensor and tensor in self.origins:
            self.origins[made] = self.origins[tensor]
        return made


class Merges(Places):
    """What follows from two photos' features: how they were merged, the head, the labels."""

    def __init__(self, root="."):
        super().__init__(root)
        self.weights = []  # in the order in which a photo meets them

    def note_joined(self, pair, others):
        """Notes that another merge meets this one: of other photos, or of the same in the head."""
        for other in others:
            if pair["backwards"] or other["backwards"]:
                continue  # sums over an epoch
            if are_others(pair, other):
                pair["joined"] = "others"
            elif not pair["labels"]:
                pair["joined"] = pair["joined"] or "same"

    def note_averaged(self, name, pair, others, operands):
        """Notes that the logits of an evaluation are computed of several merges, as a mean over
        crops of the same photos is.
        """
        tagged = [t for t in operands if t in self.tags]
        rows = len({tuple(t.shape) for t in tagged}) == 1 and tagged[0].dim() and tagged[0].shape[0]
        if name not in JOINS and rows == len(pair["features"][0]):
            first = root_of(pair["mean"])
            for other in others:
                last = root_of(other["mean"])
                last["with"] = None if last is first else first

    def number(self, name, weights, depth):
        """Numbers the weights that an op meets for the first time."""
        first = 2 if name == "batch_norm" and len(weights) == 2 else 0  # no running statistics
        for place, weight in enumerate(weights, first):
            if id(weight) not in self.numbers:
                self.numbers[id(weight)] = len(self.weights)
                facts = {"depth": depth, "op": name, "place": place, "shape": list(weight.shape)}
                facts["built"] = self.built.get(weight, NOWHERE_LINE)
                facts["line"] = self.made.get(weight, facts["built"])
                self.weights.append({"tensor": weight, **facts})

    def note_norm(self, args, kwargs, passes, before):
        """What a batch_norm was told, and its running statistics before and after."""
        values = batch_norm_values(args, kwargs)
        for record in passes.values():
            record["training"] |= bool(values.get("training"))
        if self.light:
            return
        norm = {key: plain(values.get(key)) for key in ("training", "momentum", "eps")}
        norm["weight"] = self.numbers.get(id(values.get("weight")))
        norm["before"], norm["after"] = before, running(args, kwargs)
        for record in passes.values():
            record["norms"].append(norm)

    def note_dropout(self, args, kwargs, passes):
        """Notes whether a dropout is random; passes: those that its input comes from."""
        rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        active = kwargs.get("training", args[2] if len(args) > 2 else True)
        for record in passes.values():
            record["random"] |= bool(active) and float(rate) > 0

    def merge(self, name, sides, changed, output, passes):
        """A new pair of photos: the features of both sides, and how they were merged.

        changed: what a side was where the op has changed it, else None.
        """
        pairs = zip(sides, changed, strict=True)
        features = [keep(t) if was is None else was for t, was in pairs]
        rows = [keep(self.tags[t].rows) for t in sides]
        pair = new_pair(name, output, passes, features, rows)
        pair["lines"] |= {"merge": self.lines.here(), **self.last}
        self.hook(output, pair, "merged")
        for place, side in enumerate(sides):
            self.hook(side, pair, f"features_{place}")
        return pair | {"sides": sides}  # kept, so that a row in several merges is known again

    def merge_scores(self, name, sides, operands, passes):
        """A new pair of photos whose scores meet in a loss: they are its two logits."""
        logits = torch.stack([side.detach().reshape(-1) for side in sides], 1)
        pair = self.merge("stack", sides, [None, None], logits, passes)
        self.tags[logits] = Tag(None, passes, 0, pair)
        self.follow(name, (), {}, [logits, *operands], [], pair, logits)
        return pair | {"scores": True}

    def join(self, pairs, output):
        """The pair of a batch whose rows were merged one by one and are put together here."""
        passes = {number: record for pair in pairs for number, record in pair["passes"].items()}
        features, rows = [], []
        for k in (0, 1):
            made = [as_rows(pair["features"][k]) for pair in pairs]
            numbers = [pair["rows"][k] for pair in pairs]
            features.append(torch.cat(made))
            rows.append(torch.cat([n[: len(m)] for n, m in zip(numbers, made, strict=True)]))
        joined = new_pair(pairs[0]["merge"], output, passes, features, rows)
        joined["lines"] = dict(pairs[0]["lines"])
        joined["parts"] = [part for pair in pairs for part in pair.get("parts", [pair])]
        self.hook(output, joined, "merged")
        return joined

    def hook(self, tensor, pair, name):
        """Has the gradient at a tensor added to those of the pair, one for each backward."""
        if tensor.requires_grad:
            slots = pair["gradients"].setdefault(name, [])
            tensor.register_hook(lambda gradient: slots.append(keep(gradient)))

    def hook_head(self, operands, pair):
        """Has the gradient at the output of the last layer of a head noted, where an
        autograd.Function made it, which gives it its graph afterwards.
        """
        name = f"output_{len(pair['head']) - 1}"
        if not pair["head"] or name in pair["gradients"]:
            return
        last = pair["head"][-1]["output"]
        for tensor in operands:
            if tensor.requires_grad and torch.equal(tensor.detach().to(last), last):
                self.hook(tensor, pair, name)

    def follow(self, name, args, kwargs, operands, weights, pair, output):
        """One op behind the merge: of the head, on the logits, or with the label."""
        pair["ops"].append(name)
        self.hook_head(operands, pair)
        if name in WEIGHTS:
            pair["labels"] = []  # what came before a layer was none
            pair["lines"].pop("loss", None)
            pair["lines"].pop("behind", None)
        else:
            pair["lines"].setdefault("behind", self.lines.here())
        if not weights and self.note_label(operands, pair):
            pair["lines"].setdefault("loss", self.lines.here())
        if name == "softmax":
            pair["lines"]["softmax"] = self.lines.here()
        if "loss" in name or "entropy" in name:
            pair["lines"].setdefault("loss", self.lines.here())
        if pair["labels"]:
            return  # the loss has begun
        if weights or "dropout" in name:
            given = [v for v in (*args[1:], *kwargs.values()) if not isinstance(v, torch.Tensor)]
            layer = {"op": name, "weights": [self.numbers.get(id(weight)) for weight in weights]}
            layer["input"] = keep(next(t for t in operands if t in self.tags))
            layer |= {"output": keep(output), "options": list(map(plain, given))}
            layer["line"] = self.lines.here()
            self.hook(output, pair, f"output_{len(pair['head'])}")
            pair["head"].append(layer)

    def note_label(self, operands, pair):
        """Notes a label that meets what comes from the logits; whether there is one."""
        lengths = {len(t) for t in operands if t in self.tags and is_small(t)}
        labels = [t for t in operands if self.is_new_label(t) and len(t) in lengths]
        for label in labels[:1]:
            root, ops, line = self.label_of(label)
            known = {"values": keep(label), "root": keep(root), "ops": ops, "line": line}
            pair["labels"].append(known)
        return bool(labels)


class OpTracer(Merges):
    """A context that sees what torch does: photos, features, the head, the logits, the labels."""

    def __init__(self, double=True, root="."):
        super().__init__(root)
        self.double, self.passes = double, 0
        self.light = False  # whether the full steps are done, and little is kept
        self.recent = deque(maxlen=RECENT)  # features and logits, with their tags

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        self.note_op(name, args)
        self.note_line(function, name, args, kwargs)
        if self.done or self.updating or os.getpid() != self.pid or name in NOT_OPS:
            return function(*args, **kwargs)
        operands = tensors_in((args, kwargs))
        weights = self.find_weights(name, args, kwargs, operands)
        if weights and is_filter(weights, operands):
            weights = []  # of a blur or resize: what it makes is a photo as before
        for tensor in operands:
            self.find_cut(tensor)
        if weights and weights[0].dtype == torch.float64:
            args, kwargs = self.cast(args, kwargs)
            operands = tensors_in((args, kwargs))
        tags = [self.tags[t] for t in operands if t in self.tags]
        if weights and not tags and (name in WEIGHTS or "conv" in name):
            others = [t for t in operands if all(t is not weight for weight in weights)]
            photo = next((t for t in others if is_photo(t)), None)
            tags = [self.on_photo(photo)] if photo is not None else []
        elif not tags and name in MERGES and not self.passes:
            tags = self.on_features(operands)
        elif any(t.dtype == torch.float64 for t in operands) and any(tag.pair for tag in tags):
            args, kwargs = self.cast(args, kwargs)
        before = []  # what the op itself changes
        if tags and name == "batch_norm" and not self.light:
            before = running(args, kwargs)
        elif name.endswith(IN_PLACE) and len({id(tag.rows) for tag in tags}) > 1:  # of two photos
            before = [keep(args[0])]
        result = function(*args, **kwargs)
        if tags:
            self.record_op(name, function, args, kwargs, operands, weights, tags, result, before)
        elif name in FLIPS and operands and is_label(operands[0]):
            self.tag_label(name, operands[0], result)
        return result

    def find_cut(self, tensor):
        """Tags features or logits that lost their graph, as by .data, numpy or torch.tensor(...).

        They are known again by their values.
        """
        if tensor in self.tags or tensor.dim() != 2 or not tensor.is_floating_point():
            return
        for kept, tag in reversed(self.recent):
            same = kept.shape == tensor.shape and kept.device == tensor.device
            if same and bool((kept.to(tensor.dtype) == tensor).all()):
                self.tags[tensor] = tag
                self.last["detach"] = self.lines.here()
                return

    def cast(self, args, kwargs):
        """Arguments of an op in double, where the trainer is to run in double."""
        return each_tensor((args, kwargs), self.to_double) if self.double else (args, kwargs)

    def find_weights(self, name, args, kwargs, operands):
        """The weights and running statistics among the operands of an op."""
        named = [args[i] for i in WEIGHTS.get(name, ()) if i < len(args)]
        named += [v for k, v in kwargs.items() if name in WEIGHTS and k != "input"]
        found = [t for t in named if isinstance(t, torch.Tensor)]
        whole = [t if any(t is own for own in found) else transposed_of(t) for t in operands]
        known = [t for t in whole if isinstance(t, torch.nn.Parameter) or id(t) in self.numbers]
        return found + [t for t in known if all(t is not other for other in found)]

    def on_photo(self, photo):
        """The tag of a photo's pass, which holds the input."""
        self.passes += torch.is_grad_enabled()
        lines, epoch = self.origins.get(photo, ({}, self.epoch))
        self.last |= lines  # others may have been read since then
        kept = self.keep_photo(photo)
        tag = self.new_tag(photo, kept, torch.is_autocast_enabled(photo.device.type))
        for record in tag.passes.values():
            record.update(line=self.lines.here(), epoch=epoch)
        return tag

    def keep_photo(self, photo):
        """What is kept of photos [B, 3, H, W] that enter the backbone."""
        return keep(photo)

    def on_pair(self, pair, graph):
        """A new pair of photos; graph: whether a backward may follow."""

    def on_features(self, operands):
        """Tags of two features [B, F] that were given, where no photo met a weight in training."""
        alike = [t for t in operands if is_feature(t)]
        if len(alike) != 2 or len(operands) != 2 or alike[0].shape != alike[1].shape:
            return []
        for tensor in alike:
            self.tags[tensor] = self.new_tag(tensor, None, False)
        return [self.tags[tensor] for tensor in alike]

    def record_op(self, name, function, args, kwargs, operands, weights, tags, result, before):
        """Tags the results of an op on what comes from photos; notes merges, head and labels."""
        passes = {number: record for tag in tags for number, record in tag.passes.items()}
        pairs = [tag.pair for tag in tags if tag.pair]
        # logits of earlier batches may be joined with those of this one, as in a mean over an epoch
        pair = next((own for own in pairs if not own["backwards"]), pairs[0] if pairs else None)
        if pair is None and len(passes) > 2 and not (torch.is_grad_enabled() or self.light):
            return  # features of many photos, put by for later: no pair of them
        depth, outputs = max(tag.depth for tag in tags) + bool(weights), tensors_in(result)
        if name == "__setitem__":
            outputs = [args[0]]  # what it writes into
        self.number(name, weights, depth)
        if name == "batch_norm":
            self.note_norm(args, kwargs, passes, before)
        if "dropout" in name:
            self.note_dropout(args, kwargs, passes)
        for record in passes.values() if pair is None else ():
            record["ops"].append(name)
            record["options"].append(options_of(name, args, kwargs))
            record["weights"] += [self.numbers[id(weight)] for weight in weights]
        sides = [t for t in operands if t in self.tags and self.tags[t].rows is not None]
        if "sub" in name and len(sides) == 2 and pair is None and not self.meet(sides):
            self.last["same"] = self.lines.here()  # where it is no merge of two photos
        moved = self.moved_rows(name, function, args, kwargs) if sides else None
        kept = next((tag.rows for tag in tags if tag.rows is not None), None)
        others = [other for other in pairs if other is not pair]
        if pairs and name in (*JOINS, "stack") and can_join(pairs):
            pair = self.join(list({id(other): other for other in pairs}.values()), outputs[0])
        elif pair is not None:
            self.note_joined(pair, others)
            if others and not torch.is_grad_enabled():
                self.note_averaged(name, pair, others, operands)
            if outputs and outputs[0].is_floating_point():
                self.follow(name, args, kwargs, operands, weights, pair, outputs[0])
            elif (self.light or not torch.is_grad_enabled()) and name in COMPARISONS:
                self.note_label(operands, pair)  # of an accuracy
        elif "loss" in name and len(sides) == 2 and all(map(is_small, sides)) and self.meet(sides):
            pair = self.merge_scores(name, sides, operands, passes)
        elif moved is None and outputs and not weights and self.meet(sides):
            first = {id(t): kept for t, kept in zip(operands, before, strict=False)}
            pair = self.merge(name, sides, [first.get(id(t)) for t in sides], outputs[0], passes)
        if pair is not None and all(pair is not known for known in pairs):
            self.on_pair(pair, outputs[0].requires_grad)
        for place, output in enumerate(outputs):
            rows = moved[place] if moved else kept
            lost = pair or rows is None or rows.shape != output.shape[: rows.dim()]
            self.tags[output] = Tag(None if lost else rows, passes, depth, pair)
            if output.dim() == 2 and output.is_floating_point():
                self.recent.append((output.detach(), self.tags[output]))


class LaterTracer(OpTracer):
    """What is kept of the batches after the full steps: little, to the end of so many epochs."""

    def __init__(self, steps, double, root, epochs, until):
        super().__init__(double, root)
        self.until, self.pending = until, None
        self.steps, self.begun_epochs = steps, set()
        self.asked_epochs = MOST_LATER if until else epochs
        self.waiting, self.updates, self.stepping = [], [], {}
        self.later, self.rates, self.files, self.schedules = [], [], [], []
        self.unsettled, self.evaluated, self.whole = [], [], []  # whole: a few photos as they are
        self.alone = {}  # {number of a pass without gradients that met no other: its photos}
        self.marks, self.marked = {}, []  # {updates done: see marks_of}; of which weights
        self.states, self.kept_states = Known(), []  # {state dict: updates done then}
        self.shown = {}  # {number of a pass after the full steps: its thumbnails}
        self.briefed = 0  # batches of which little was kept
        self.begun = self.said = 0.0  # seconds: when the step began; a line of progress was said

    def on_photo(self, photo):
        """As before; what was not followed by a backward was an evaluation."""
        self.settle()
        tag = super().on_photo(photo)
        evaluates = not torch.is_grad_enabled()
        for number, record in tag.passes.items():
            if self.light or evaluates:
                record["caller"] = self.lines.caller()
            if evaluates and self.asked_epochs:
                self.alone[number] = len(photo)
        return tag

    def keep_photo(self, photo):
        """What is kept of photos [B, 3, H, W]: after the full steps, thumbnails."""
        if not self.light:
            return keep(photo)
        if not torch.is_grad_enabled() and len(self.whole) < WHOLE:
            self.whole.append(keep(photo[:FEW]))
        return thumbnail(photo)

    def on_pair(self, pair, graph):
        """Notes a pair after the full steps, or of an evaluation before, until it is known what it
        is for.
        """
        for number in pair["passes"]:
            self.alone.pop(number, None)
        if self.light or (self.asked_epochs and not graph):
            parts = pair.get("parts", [])
            known = [old for old in self.unsettled if all(old[0] is not part for part in parts)]
            self.unsettled = [*known, (pair, graph)]

    def settle(self, every=False):
        """Notes the pairs that no backward follows: those of an evaluation.

        every: also those that one could follow.
        """
        left = [(pair, graph) for pair, graph in self.unsettled if not pair["backwards"]]
        self.unsettled = [known for known in left if known[1] and not every]
        for pair, graph in left:
            if every or not graph:
                pair["mean"]["place"] = len(self.evaluated)
                known = self.brief(pair) | self.evaluation_of(pair, graph)
                self.evaluated.append(known | {"mean_with": pair["mean"]})

    def evaluation_of(self, pair, graph):
        """What is kept of an evaluation besides what is kept of any later batch."""
        passes = pair["passes"].values()
        line = next((r["caller"] for r in passes if "caller" in r), NOWHERE_LINE)
        facts = {name: any(record[name] for record in passes) for name in ("training", "random")}
        weights = {number for record in passes for number in record["weights"]}
        done = self.updates_done()
        first = not any(known["update"] == done for known in self.evaluated)
        facts["marks"] = self.marks_of(self.weights_of(pair)) if first else None
        return facts | {"graph": graph, "weights": sorted(weights), "update": done, "line": line}

    def updates_done(self):
        """How many updates were done so far."""
        return len(self.updates) + (self.pending is not None) + len(self.rates)

    def weights_of(self, pair):
        """The numbers of the weights that a pair has met, in the order of the first time."""
        met = {number for record in pair["passes"].values() for number in record["weights"]}
        return sorted(met | {n for layer in pair["head"] for n in layer["weights"]} - {None})

    def marks_of(self, numbers):
        """A few values of each of these parameters, and running statistics, as they are now."""
        kept = {"parameters": [], "statistics": []}
        for known in (self.weights[number] for number in numbers):
            running = (known["op"], known["place"]) in BATCH_NORM_STATISTICS
            kept["statistics" if running else "parameters"].append(known["tensor"])
        return {name: mark(tensors) for name, tensors in kept.items()}

    def mark_first(self, pair):
        """Notes the weights before the first update, and statistics as the first pass met them."""
        if self.asked_epochs:
            self.marked = self.weights_of(pair)
            norms = next(iter(pair["passes"].values()))["norms"]
            running = [t for norm in norms for t in norm["before"] if t is not None]
            self.marks[0] = self.marks_of(self.marked) | {"statistics": mark(running)}

    def on_state_taken(self, take, module, *args, **options):
        """A state dict: after how many updates it was taken; of the whole, not of a part."""
        state = take(module, *args, **options)
        if self.asked_epochs and not (args or options.get("destination")):
            self.states[state] = self.updates_done()
        return state

    def on_saved(self, save, thing, file, *args, **options):
        self.note_state("saved", thing, file)
        return save(thing, file, *args, **options)

    def on_state_loaded(self, load, module, state, *args, **options):
        self.note_state("loaded", state, "")
        return load(module, state, *args, **options)

    def note_state(self, kind, thing, file):
        """Notes a state dict that is saved or loaded, and when it was taken where it holds the very
        weights that are trained, which each update overwrites.
        """
        if self.done or not self.asked_epochs:
            return
        self.settle()
        live = {w["tensor"].data_ptr() for w in self.weights}
        known = {"kind": kind, "file": os.path.basename(str(file)) if is_path(file) else ""}
        known |= {"taken": NOWHERE, "update": self.updates_done(), "line": self.lines.here()}
        for state in (thing, *(thing.values() if isinstance(thing, dict) else ())):
            taken = self.states.get(state, NOWHERE)
            if taken != NOWHERE and any(t.data_ptr() in live for t in tensors_in(state)):
                known["taken"] = taken
        self.kept_states.append(known | {"evaluated": len(self.evaluated)})

    def brief(self, pair):
        """What is kept of a batch after the full steps."""
        self.briefed += 1
        if self.briefed % TRIMMED == 0:
            trim_memory()
        for number, record in pair["passes"].items():
            photos = record["input"]
            if photos is not None:
                self.shown[number] = thumbnail(photos) if photos.dim() == 4 else photos
        made = [layer["output"] for layer in pair["head"] if "dropout" not in layer["op"]]
        logits = made[-1] if made else pair["merged"]
        known = {"rows": [side.flatten() for side in pair["rows"]], "labels": pair["labels"]}
        known["logits"] = logits if logits.dim() and is_small(logits) else None
        return known | {"epoch": next(iter(pair["passes"].values()))["epoch"]}

    def note_later(self, optimizer):
        """An update after the full steps: its batches, and the learning rates."""
        if self.waiting:
            for pair in self.waiting:
                loss = float(pair["backwards"][-1]["loss"])
                self.later.append(self.brief(pair) | {"loss": loss, "update": len(self.rates)})
            self.settle(every=True)
            self.rates.append([])
            self.waiting, self.stepping = [], {}
        if id(optimizer) not in self.stepping:
            self.stepping[id(optimizer)] = {}
            self.rates[-1] += [float(group.get("lr", 0)) for group in optimizer.param_groups]

    def on_schedule_made(self, made, schedule, *args, **options):
        made(schedule, *args, **options)
        known = {"object": schedule, "steps": [], "line": self.lines.here()}
        self.schedules.append(known | {"stepped": NOWHERE_LINE})

    def on_schedule_stepped(self, step, schedule, *args, **options):
        """A step of a schedule, and how many updates had been done."""
        known = next((s for s in self.schedules if s["object"] is schedule), None)
        if known is not None and not self.done:
            known["steps"].append(self.updates_done())
            if known["steps"][-1]:  # schedules step once as they are made
                known["stepped"] = self.lines.here()
        return step(schedule, *args, **options)

    def on_file_opened(self, opened, file, *args, **options):
        if len(self.files) < MOST_FILES:
            self.files.append(os.path.basename(str(file)))
        return opened(file, *args, **options)

    def is_past(self, pair):
        """Whether a batch is behind all that was asked for."""
        self.begun_epochs |= {record["epoch"] for record in pair["passes"].values()} - {NOWHERE}
        done = len(self.updates) >= self.steps
        past = len(self.begun_epochs) > self.asked_epochs or not self.asked_epochs
        last = self.evaluated[-1]["update"] if self.evaluated else 0
        past |= self.until == "evaluation" and last >= self.steps
        return done and (past or len(self.later) >= MOST_LATER)

    def show_progress(self):
        """Says how many steps are recorded and about how long the others take; at most one line
        every EVERY seconds.
        """
        done, now = len(self.updates), time.monotonic()
        left, self.begun = round((now - self.begun) * (self.steps - done)), now
        if now - self.said < EVERY:
            return
        text = f"{done} of {self.steps} steps recorded, about {left} s left"
        if done >= self.steps:
            text = f"{len(self.later)} batches recorded after the {done} steps"
        if done < self.steps or self.light:
            self.said = now
            tell(f"record.py: {text}")


class Writer(LaterTracer):
    """What was recorded so far, and the trace that is made of it."""

    def __init__(self, out, steps, double, root, epochs, until):
        super().__init__(steps, double, root, epochs, until)
        self.out = Path(out).absolute()  # trainers change folders
        self.batches, self.printed, self.saved = [], [], False
        self.parts = None  # the folder to which whole steps are written as they are done

    def state_of_weights(self):
        return [sample(w["tensor"]) for w in self.weights]

    def finish_pending(self):
        """The weights at the next training step end the one before."""
        if self.pending is not None:
            following = self.state_of_weights()
            if self.parts is None:
                self.updates.append(self.pending | {"next": following})
            else:
                write_whole(following, self.parts / f"{len(self.updates):06d}.next")
                self.updates.append(None)
                self.batches = [None] * len(self.batches)
            self.pending = None
            self.show_progress()

    def write_part(self):
        """Writes the step that is done to a part of its own, and all facts with it, so that the
        parts alone make a trace.
        """
        if self.parts is not None and self.pending is not None:
            batches = [clean(pair) for pair in self.batches if pair is not None]
            part = {"update": self.pending | {"next": None}, "batches": batches}
            path = self.parts / f"{len(self.updates):06d}.part"
            write_whole(part | {"facts": self.facts()}, path)

    def on_output_line(self, line):
        """A line that the trainer prints: those with numbers, and how many batches were done."""
        if any(c.isdigit() for c in line) and len(self.printed) < 10_000 and not self.done:
            done = len(self.batches) + len(self.later) + len(self.waiting), len(self.updates)
            self.settle()
            waiting = sum(not pair["backwards"] for pair, _ in self.unsettled)  # with a graph
            known = line[:500], self.lines.here(), len(self.evaluated) + waiting
            self.printed.append([*done, *known])

    def trace(self):
        """All that was recorded, as plain data and tensors."""
        self.settle(every=True)
        if self.parts is not None:
            updates, batches = whole_steps(self.parts)
            return self.facts() | {"updates": updates, "batches": batches}
        done = self.pending is not None and "after" in self.pending
        last = [self.pending | {"next": None}] if done else []
        batches = list(map(clean, self.batches))
        return self.facts() | {"updates": self.updates + last, "batches": batches}

    def facts(self):
        """All that was recorded so far but for the full steps."""
        names, weights = ("depth", "op", "place", "shape", "line", "built"), []
        for w in self.weights:
            computed = w["tensor"].grad_fn is not None
            weights.append({k: w[k] for k in names} | {"computed": computed})
        trace = {"version": VERSION, "torch": str(torch.__version__), "double": self.double}
        trace |= {"weights": weights, "printed": list(self.printed)}
        trace |= {"asked": self.steps, "epochs": self.epochs}
        photos, begins = stacked(self.shown)
        trace |= {"later": [placed(batch, begins) for batch in self.later], "rates": self.rates}
        roots = [root_of(batch["mean_with"])["place"] for batch in self.evaluated]
        rooted = zip(self.evaluated, roots, strict=True)
        trace["evaluated"] = [placed(batch, begins) | {"mean_with": root} for batch, root in rooted]
        epochs = 0 if self.until else self.asked_epochs
        trace |= {"asked_epochs": epochs, "until": self.until, "thumbnails": photos}
        trace["whole"] = torch.cat(self.whole) if self.evaluated and self.whole else None
        trace |= {"marks": self.marks, "states": self.kept_states}
        trace |= {"alone": sum(self.alone.values()), "files": self.files}
        kept = ("steps", "line", "stepped")
        trace["schedules"] = [describe(s["object"]) | {k: s[k] for k in kept}
                              for s in self.schedules]  # fmt: skip
        trace["photo_lines"] = self.photos.found()
        return trace | {"lines": self.lines.lines}

    def save(self):
        """Writes the trace once, whole or not at all; a process that was forked off writes none."""
        if self.saved or os.getpid() != self.pid:
            return
        self.done, self.saved, trace = True, True, self.trace()
        if not trace["updates"]:
            text = "no update was seen in which a pair of photos met a loss; nothing is written"
            text += " (processes and threads that a trainer starts are not recorded)"
            same = self.last.get("same", NOWHERE_LINE)
            if same != NOWHERE_LINE:
                line = "{file}:{line}  {text}".format(**self.lines.lines[same])
                text += f"; the features of each photo are subtracted from themselves: {line}"
            error = sys.exc_info()[1]  # the trainer's own code stays as it is, if it has one
            ended_well = error is None or (isinstance(error, SystemExit) and not error.code)
            if ended_well and not self.stays:
                refuse(text)
            tell(f"record.py: {text}")
            return
        write_trace(trace, self.out)
        if self.notes is not None:
            self.notes.write("trace", "written")
        trace = None  # Windows removes no file that is mapped
        if self.parts:
            shutil.rmtree(self.parts, ignore_errors=True)


class Recorder(Writer):
    """A context in which the first `steps` updates of a trainer are recorded into `out`.

    epochs: how many whole ones are recorded, with little of each later batch; 0 for none.
    """

    def __init__(self, out, steps=5, double=True, root=".", epochs=0, until=None):
        super().__init__(out, steps, double, root, epochs, until)
        self.within, self.unseen = [], 0
        self.code = None  # with which the trainer is ended, once it is to end
        self.stays = False  # whether the process goes on after the steps, as a notebook's does

    def has_gradients(self):
        """Whether gradients wait for an optimizer step."""
        return bool(self.waiting)

    def leave_if_caught(self):
        """Ends a trainer that was to end and has caught SystemExit."""
        if self.code is not None and os.getpid() == self.pid and not self.stays:
            leave(self.code, self.notes)

    def backward(self, plain_backward, tensors, *args, **options):
        """torch.autograd.backward, with the loss and every gradient before and after."""
        roots = tensors_in(tensors)
        tags = [self.tags[root] for root in roots if root in self.tags]
        known = [tag.pair for tag in tags if tag.pair]
        pair = next((own for own in known if not own["backwards"]), known[0] if known else None)
        self.leave_if_caught()
        if pair is None or self.done or self.within or os.getpid() != self.pid:
            return plain_backward(tensors, *args, **options)
        self.begun = self.begun or time.monotonic()
        before = self.gradients()
        with Within(self.within):  # torch calls it once more for the mode
            plain_backward(tensors, *args, **options)
        loss, factors = roots[0].detach(), tensors_in([*args[:1], options.get("grad_tensors")])
        loss = (loss * factors[0]).sum() if loss.dim() and factors else loss
        known = {"loss": keep(loss), "before": before, "after": self.gradients()}
        pair["backwards"].append(known | {"line": self.lines.here()})
        self.last.pop("changed", None)
        if not any(pair is other for other in self.waiting):
            self.note_by_hand()
            self.finish_pending()
            if self.is_past(pair):
                self.end()
            self.waiting.append(pair)
            self.light = len(self.updates) >= self.steps
            if self.light:
                return self.show_progress()
            if len(self.batches) + len(self.waiting) <= 1:
                self.first = [keep(w["tensor"]) for w in self.weights]
                self.mark_first(pair)
            if len(self.waiting) == 1:
                self.full, self.begin = self.full_weights(), self.state_of_weights()
            # weights that only a later batch of the step meets, as those of another copy
            self.full += [keep(w["tensor"]) for w in self.weights[len(self.full) :]]
        return None

    def on_photo(self, photo):
        """See LaterTracer; a training photo behind the last step asked for ends the recording."""
        ready = torch.is_grad_enabled() and not self.asked_epochs and self.pending is not None
        ready = ready and not (self.updating or self.waiting or self.done)
        self.leave_if_caught()
        if ready and len(self.updates) + 1 >= self.steps:
            # the trainer's own autocast would round what is written
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                self.finish_pending()
                self.end()
        return super().on_photo(photo)

    def note_by_hand(self):
        """Notes an update that no optimizer of torch has made: parameters that have moved since the
        batch before. Ends where so many batches wait for one that never comes.
        """
        if not self.waiting or self.pending is not None:
            return
        if len(self.waiting) >= MOST_WAITING:
            self.done, self.code = True, 2
            refuse(f"{len(self.waiting)} batches, and no update was seen after them")
        if self.light:
            return
        now = self.state_of_weights()
        moved = [not torch.equal(a["values"], b["values"])
                 for a, b, w in zip(self.begin, now, self.weights, strict=False)
                 if (w["op"], w["place"]) not in BATCH_NORM_STATISTICS]  # fmt: skip
        if not any(moved):
            return
        self.pending = {"batches": len(self.waiting), "optimizers": [], "clipped": self.clipped}
        self.pending |= {"gradients": self.waiting[-1]["backwards"][-1]["after"]}
        self.pending |= {"before": self.begin, "after": now, "weights": self.full}
        learning = [bool(w["tensor"].requires_grad) for w in self.weights]
        self.pending |= {"requires_grad": learning, "lines": dict(self.last)}
        self.batches += self.waiting
        self.waiting, self.clipped = [], None
        self.light = self.asked_epochs > 0 and len(self.updates) + 1 >= self.steps
        self.write_part()

    def gradients(self):
        """The samples of all gradients; () after the full steps."""
        tensors = (w["tensor"] for w in self.weights if not self.light)
        return [sample(t.grad if t.is_leaf else None) for t in tensors]

    def before_step(self, optimizer, args, kwargs):
        """Groups, values, state and gradients with which an update begins, behind its closure."""
        if is_nested(optimizer):
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is not None:

            def closed():
                loss = closure()
                self.before_step(optimizer, args[:1], {})
                return loss

            return (*args[:1], closed), {}
        if not self.done and not self.waiting and self.pending is None:
            self.unseen += 1
            if self.unseen >= PATIENCE + self.steps:
                self.done, self.code = True, 2
                text = f"{self.unseen} updates, and no pair of photos was seen to meet a loss"
                refuse(f"{text}; see docs/trainer.md")
        if self.done or (not self.waiting and self.pending is None):
            return None
        self.updating = True
        if self.light and self.pending is None:
            return self.note_later(optimizer)
        if self.pending is None or self.waiting:
            self.pending = {"batches": len(self.waiting), "optimizers": []}
            self.pending |= {"gradients": self.gradients(), "before": self.state_of_weights()}
            learning = [bool(w["tensor"].requires_grad) for w in self.weights]
            self.pending |= {"weights": self.full, "requires_grad": learning}
            self.pending["lines"] = self.last | {"step": self.lines.here()}
            self.pending["clipped"], self.clipped = self.clipped, None
            self.batches += self.waiting
            self.waiting, self.stepping = [], {}
        if id(optimizer) not in self.stepping:
            self.stepping[id(optimizer)] = self.describe_optimizer(optimizer)
            self.pending["optimizers"].append(self.stepping[id(optimizer)])
        self.stepping[id(optimizer)]["times"] += 1
        return None

    def describe_optimizer(self, optimizer):
        """What an optimizer says of itself: its class, every value of every group, its state."""
        groups, state = [], {}
        for group in optimizer.param_groups:
            members = [self.numbers.get(id(p), -1) for p in group["params"]]
            values = {key: plain(value) for key, value in group.items() if key != "params"}
            groups.append({"weights": members, "values": values})
            for n, p in zip(members, group["params"], strict=True):
                if p in optimizer.state and n >= 0:
                    kept = optimizer.state[p].items()
                    state[n] = {k: sample(v) if is_array(v) else plain(v) for k, v in kept}
        line = self.optimizers.get(optimizer, NOWHERE_LINE)
        own = type(optimizer).__name__
        kinds = type(optimizer).__mro__[: -len(torch.optim.Optimizer.__mro__)]
        known = next((kind.__name__ for kind in kinds
                      if getattr(torch.optim, kind.__name__, None) is kind), own)  # fmt: skip
        known = {"class": known, "own": own, "groups": groups, "state": state, "times": 0}
        return known | {"line": line}

    def after_step(self, optimizer, args, kwargs):
        """The weights right behind an update."""
        if is_nested(optimizer):
            return
        if self.pending is not None and not self.done:
            self.pending["after"] = self.state_of_weights()
            self.light = self.asked_epochs > 0 and len(self.updates) + 1 >= self.steps
        if self.asked_epochs and not self.done:
            self.marks[self.updates_done()] = self.marks_of(self.marked)
        self.write_part()
        self.updating = False

    def full_weights(self):
        """All weights: what they have become since the first step, in single where double."""
        if not self.updates:
            return self.first
        now = [w["tensor"].detach().cpu() for w in self.weights]
        pairs = zip(self.first, now, strict=False)
        kept = [(b - a).float() if is_large(a) else b.clone() for a, b in pairs]
        return kept + list(map(keep, now[len(kept) :]))  # those that were made since then, whole

    def end(self):
        """Writes the trace and ends the trainer, or the running cell of a notebook."""
        self.done, self.code = True, 0
        self.save()
        if self.notes is not None:  # a thread of the trainer may go on for ever
            late = threading.Timer(GRACE, leave, (0, self.notes))
            late.daemon = True
            late.start()
        sys.exit(0)


def write_whole(thing, path):
    """Writes tensors and plain data to a file, which is there when it is whole."""
    torch.save(thing, f"{path}.new")
    os.replace(f"{path}.new", path)


def whole_steps(folder):
    """(updates, batches) of the parts of a recording, see Recorder.write_part."""
    updates, batches = [], []
    for path in sorted(Path(folder).glob("*.part")):
        # mapped: a trace is as large as a trainer's memory may be
        part = torch.load(path, weights_only=True, mmap=True)
        following = path.with_suffix(".next")
        known = following.is_file()
        told = {"next": torch.load(following, weights_only=True)} if known else {}
        updates.append(part["update"] | told)
        batches += part["batches"]
    return updates, batches


def join_parts(folder, out):
    """Writes the trace of the whole steps of a recording that died; see Recorder.write_part."""
    parts = sorted(Path(folder).glob("*.part"))
    if not parts:
        refuse(f"--join {folder}: there is no part of a recording")
    updates, batches = whole_steps(folder)
    facts = torch.load(parts[-1], weights_only=True)["facts"]
    write_trace(facts | {"updates": updates, "batches": batches}, Path(out).absolute())


def write_trace(trace, out):
    """Writes a trace and says so; under another name where a file has appeared meanwhile."""
    part = Path(f"{out}.{uuid4().hex}.part")  # a new name: through no link, over no file
    with Unwritten(part), open(part, "xb") as file:
        torch.save(trace, file)
    name, count = out, 2
    while os.path.lexists(name):
        name, count = Path(f"{out}.{count}"), count + 1
    os.replace(part, name)
    if name != out:
        tell(f"record.py: {out} has appeared meanwhile and is left as it is")
    tell(written(trace, name))


def written(trace, out):
    """What is said of a trace that was written: what is in it, and what is missing."""
    done, asked = len(trace["updates"]), trace["asked"]
    said = f"record.py: updates: {done}, batches: {len(trace['batches'])}, "
    said += f"tensors: {len(trace['weights'])} -> {out}"
    ends, ended = "record.py: your trainer ended", whole_epochs(trace)
    if trace["asked_epochs"] or trace["until"]:
        said += f" (evaluated: {len(trace['evaluated'])}, later batches: {len(trace['later'])}, "
        said += f"whole epochs: {'not known without a loader' if ended is None else ended})"
    if done < asked:
        said += f"\n{ends} after {done} of the {asked} steps asked for"
    elif ended is not None and ended < trace["asked_epochs"]:
        said += f"\n{ends} after {ended} of the {trace['asked_epochs']} epochs asked for"
    return said


def whole_epochs(trace):
    """How many epochs of the recorded batches ended; None where no loader says so."""
    numbers = {record["epoch"] for batch in trace["batches"] for record in batch["passes"]}
    numbers |= {batch["epoch"] for batch in trace["later"]}
    ended = [trace["epochs"][n]["ended"] for n in numbers - {NOWHERE}]
    return sum(ended) if ended else None


def stacked(shown):
    """(all thumbnails [N, T, T] of {number of a pass: its own}, {number: where its own begin})."""
    begins, count = {}, 0
    for number, photos in shown.items():
        begins[number] = count
        count += len(photos)
    empty = torch.zeros(0, THUMBNAIL, THUMBNAIL, dtype=torch.float16)
    return torch.cat([empty, *shown.values()]), begins


def placed(batch, begins):
    """A batch whose rows are places among all thumbnails, NOWHERE where there is none."""
    rows = []
    for side in batch["rows"]:
        known = ((number // PASS, number % PASS) for number in side.tolist())
        places = [begins[n] + row if n in begins else NOWHERE for n, row in known]
        rows.append(torch.tensor(places))
    return batch | {"rows": rows}


def root_of(mean):
    """What is noted of the first of the merges whose logits are averaged, see note_averaged; its
    place is that among the evaluated batches.
    """
    while mean["with"]:
        mean = mean["with"]
    return mean


def dims_of(args, kwargs):
    """The dimensions that a flip is given."""
    dims = kwargs.get("dims", args[1:])
    return dims[0] if len(dims) == 1 and isinstance(dims[0], (list, tuple)) else dims


def what_is_set(function):
    """The name of the attribute that a function of torch sets, as `grad`; else an empty one."""
    is_setter = getattr(function, "__name__", "") == "__set__"
    return getattr(getattr(function, "__self__", None), "__name__", "") if is_setter else ""


def options_of(name, args, kwargs):
    """What an op is told besides its tensors, as stride and padding; [] of other ops."""
    if not any(kind in name for kind in WITH_OPTIONS):
        return []
    told = [value for value in (*args, *kwargs.values()) if not isinstance(value, torch.Tensor)]
    return [plain(value) for value in told if value is not None]


def dim_of(args, kwargs):
    """The dimension along which a stack is told to stack."""
    return kwargs.get("dim", args[1] if len(args) > 1 else 0)


def batch_norm_values(args, kwargs):
    """What a batch_norm is given, by name."""
    return dict(zip(BATCH_NORM, args, strict=False)) | kwargs


def trim_memory():
    """Has the C library give back what is free between small blocks that stay, as those of a batch
    do: it takes new memory for large tensors else, megabytes for each batch (glibc alone).
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def transposed_of(tensor):
    """The tensor whose transpose this one is, as in mm(x, weight.t()); else the tensor itself."""
    base = tensor._base
    is_transposed = base is not None and base.dim() == 2 and tensor.shape == base.shape[::-1]
    return base if is_transposed and tensor.stride() == base.stride()[::-1] else tensor


def running(args, kwargs):
    """The running mean and variance that a batch_norm is given, copied; None for none."""
    values = batch_norm_values(args, kwargs)
    return [keep(values.get(name)) for name in ("running_mean", "running_var")]


def shorten(rows):
    """The numbers of a tensor's elements, short where each row comes from one photo."""
    flat = rows.reshape(len(rows), -1) if rows.dim() > 1 and rows.numel() else rows
    alone = flat.dim() > 1 and bool((flat == flat[:, :1]).all())
    return flat[:, 0] if alone else rows


def as_rows(tensor):
    """Features [F] of one photo as [1, F]."""
    return tensor[None] if tensor.dim() == 1 else tensor


def can_join(pairs):
    """Whether merges are rows of one batch: two sides each, of other photos, and no layer yet."""
    alone = all(not (p["head"] or p["labels"]) and len(p["features"]) == 2 for p in pairs)
    rows = pairs[0]["rows"][0]
    single = len(set(rows.tolist())) == 1 < len(rows)  # features [F] of one photo
    return alone and (single or any(are_others(pairs[0], other) for other in pairs[1:]))


def are_others(pair, other):
    """Whether two merges are of other photos."""
    photos = [torch.cat([side.flatten() for side in either["rows"]]) for either in (pair, other)]
    return set(photos[0].tolist()) != set(photos[1].tolist())


def is_nested(optimizer):
    """Whether a step of an optimizer is made within one of its own, by super().step(); for hooks
    of a step, which its wrapper calls.
    """
    wrapper = sys._getframe(2)
    code, frame = wrapper.f_code, wrapper.f_back
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("args", (None,))[0] is optimizer:
            return True
        frame = frame.f_back
    return False


def is_large(weight):
    """Whether a weight's change is kept in single; others are kept whole."""
    return weight.dtype == torch.float64 and weight.numel() > 65_536


def is_path(value):
    return isinstance(value, (str, os.PathLike))


def is_array(value):
    return isinstance(value, torch.Tensor)


def is_photo(tensor):
    return tensor.dim() == 4 and tensor.shape[1] == 3 and tensor.is_floating_point()


def is_feature(tensor):
    """Whether a tensor can be features that were made elsewhere: [B, F], and nothing to learn."""
    return tensor.dim() == 2 and tensor.is_floating_point() and not tensor.requires_grad


def is_filter(weights, operands):
    """Whether an op with these weights only filters a photo, as a blur does."""
    made = [w for w in weights if not isinstance(w, torch.nn.Parameter) and not w.requires_grad]
    photos = [t for t in operands if is_photo(t) and all(t is not w for w in weights)]
    return bool(photos) and len(made) == len(weights) and weights[0].shape[0] == 3


def is_small(tensor):
    """Whether a tensor can be logits, probabilities or terms of a loss, of every pair."""
    return tensor.dim() > 0 and tensor.numel() <= 2 * len(tensor)


def is_label(tensor):
    """Whether a tensor can be labels: one value, or one of two, for every pair of a batch."""
    small = 0 < tensor.numel() <= 8192 and tensor.dim() <= 2 and not tensor.requires_grad
    if not small or (tensor.dim() == 2 and tensor.shape[1] > 2) or tensor.dim() == 0:
        return False
    return bool(((tensor == 0) | (tensor == 1) | (tensor == -1)).all())


def describe(schedule):
    """What a schedule says of itself: its class and its plain values."""
    values = {k: plain(v) for k, v in vars(schedule).items() if not k.startswith("_")}
    return {"class": type(schedule).__name__, "values": values | {"optimizer": None}}


def clean(pair):
    """A pair as plain data: its passes in their order, and its rows as places in all of them."""
    passes, begins, count = [], {}, 0
    for number in sorted(pair["passes"]):
        passes.append(pair["passes"][number])
        begins[number] = count
        count += 0 if passes[-1]["input"] is None else len(passes[-1]["input"])
    rows = []
    for side in pair["rows"]:
        numbers = side.flatten().tolist()
        known = [begins[n // PASS] + n % PASS if n != NOWHERE else NOWHERE for n in numbers]
        rows.append(torch.tensor(known))
    parts = pair.get("parts", [])
    shared = Counter(id(side) for part in parts for side in part["sides"])
    for k in (0, 1) if parts else ():
        slots = []
        for part in parts:
            count = shared[id(part["sides"][k])]  # merges that the gradient is the sum of
            slots.append([as_rows(g) / count for g in part["gradients"].get(f"features_{k}", [])])
        pair["gradients"][f"features_{k}"] = list(map(torch.cat, zip(*slots, strict=False)))
    if "scores" in pair:  # their gradients are those of the logits
        slots = (pair["gradients"].get(f"features_{k}", []) for k in (0, 1))
        both = zip(*slots, strict=False)
        pair["gradients"]["merged"] = [torch.stack([g.flatten() for g in gs], 1) for gs in both]
    rest = {k: v for k, v in pair.items() if k not in ("parts", "sides", "scores", "mean")}
    passes = [{k: v for k, v in record.items() if k != "caller"} for record in passes]
    return rest | {"passes": passes, "rows": rows}


class Tee(io.TextIOBase):
    """An output that the trainer writes to, overheard."""

    def __init__(self, stream, on_output_line):
        self.stream, self.on_output_line, self.line = stream, on_output_line, ""

    def write(self, text):
        *lines, self.line = re.split(r"[\r\n]", self.line + text)
        for line in lines:
            self.on_output_line(line)
        return self.stream.write(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __del__(self):
        """Nothing: what TextIOBase does would close the trainer's own output."""

    def __getattribute__(self, name):
        own = name in ("stream", "on_output_line", "line", "write", "writelines", "__class__")
        return (
            object.__getattribute__(self, name)
            if own
            else getattr(object.__getattribute__(self, "stream"), name)
        )


class Ending:
    """Context in which an iterator that is exhausted is noted in the record of its epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is StopIteration:
            self.epoch["ended"] = True


class Unwritten:
    """Context in which a file that cannot be written in full is gone, and one line says why."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, (OSError, RuntimeError)):  # torch's writer has no kind of its own
            self.path.unlink(missing_ok=True)
            refuse(f"{self.path}: {str(error).strip().splitlines()[0]}")


class Unimported:
    """Context in which a package that cannot be imported ends the program with one line."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception):
            said = f"{kind.__name__}: {str(error).strip()}".partition("\n")[0]
            refuse(f"{self.name}: its package cannot be imported: {said}")


class Within:
    """Context that is in a list as long as it is entered, whatever ends it."""

    def __init__(self, entered):
        self.entered = entered

    def __enter__(self):
        self.entered.append(self)

    def __exit__(self, kind, error, traceback):
        self.entered.remove(self)


class Patches(ExitStack):
    """What is changed in torch, and changed back at the end."""

    def wrap(self, owner, name, hook):
        """Has hook(the original, *arguments) called instead of owner.name."""
        plain_one = getattr(owner, name)
        self.replace(owner, name, lambda *args, **options: hook(plain_one, *args, **options))

    def replace(self, owner, name, value):
        self.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def note_stages(self, noting):
        """Has a Noting told when batches are read, backward runs and optimizers step."""

        def reads(read, iterator):
            noting.met = 0
            noting.note_stage("loader")
            return read(iterator)

        def backward(run, *args, **options):
            noting.note_stage("backward")
            return run(*args, **options)

        self.wrap(_BaseDataLoaderIter, "__next__", reads)
        self.wrap(torch.autograd, "backward", backward)
        told = register_optimizer_step_pre_hook(lambda *_: noting.note_stage("optimizer step"))
        self.callback(told.remove)
        self.callback(register_optimizer_step_post_hook(noting.note_step).remove)


class Watching(Patches):
    """A trainer that is watched and not recorded."""

    def __init__(self, root, notes):
        super().__init__()
        self.noting = Noting(root)
        self.noting.notes = notes

    def __enter__(self):
        self.note_stages(self.noting)
        super().__enter__()
        self.enter_context(self.noting)


class Recording(Patches):
    """Everything that recording changes in torch, and changes back; writes the trace at its end."""

    def __init__(self, out, steps=5, as_is=False, root=None, epochs=0, until=None):
        super().__init__()
        root = os.path.dirname(os.path.abspath(sys.argv[0])) if root is None else root
        self.recorder = Recorder(out, steps, not as_is, root, epochs, until)

    def __enter__(self):
        recorder = self.recorder
        if recorder.double:
            self.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
            for name in ("half", "bfloat16", "float"):
                self.wrap(torch.nn.Module, name, round_module)
        self.wrap(torch.autograd, "backward", recorder.backward)
        self.wrap(torch, "compile", lambda compiled, model=None, *a, **o: model or (lambda m: m))
        for name in ("script", "trace"):
            self.wrap(torch.jit, name, unscripted)
        self.wrap(LRScheduler, "__init__", recorder.on_schedule_made)
        self.wrap(LRScheduler, "step", recorder.on_schedule_stepped)
        self.wrap(torch, "save", recorder.on_saved)
        self.wrap(torch.nn.Module, "state_dict", recorder.on_state_taken)
        self.wrap(torch.nn.Module, "load_state_dict", recorder.on_state_loaded)
        self.trace_lines(recorder)
        self.note_stages(recorder)
        for name in ("stdout", "stderr"):  # what logging and progress bars write to
            if getattr(sys, name) is not None:
                self.replace(sys, name, Tee(getattr(sys, name), recorder.on_output_line))
        if "PIL.Image" in sys.modules:
            self.wrap(sys.modules["PIL.Image"], "open", recorder.on_file_opened)
            for name in PILLOW:
                self.trace_pillow(recorder, name)
        self.callback(register_optimizer_step_pre_hook(recorder.before_step).remove)
        self.callback(register_optimizer_step_post_hook(recorder.after_step).remove)
        self.callback(recorder.save)
        super().__enter__()
        self.enter_context(recorder)
        return recorder

    def trace_lines(self, recorder):
        """Has the lines noted at which loaders, parameters and optimizers are made and called."""
        optimizer, utils = torch.optim.Optimizer, torch.nn.utils
        self.wrap(DataLoader, "__init__", recorder.on_loader_made)
        self.wrap(DataLoader, "__iter__", recorder.on_epoch)
        self.wrap(_BaseDataLoaderIter, "__next__", recorder.on_loader_read)
        self.wrap(torch.nn.Module, "register_parameter", recorder.on_parameter)
        self.wrap(torch.nn.Module, "train", recorder.on_mode)
        self.wrap(optimizer, "__init__", recorder.on_optimizer_made)
        self.wrap(optimizer, "zero_grad", recorder.on_call("zero_grad"))
        self.wrap(torch.nn.Module, "zero_grad", recorder.on_call("zero_grad"))
        self.wrap(optimizer, "add_param_group", recorder.on_call("group"))
        for name in HOOKS:
            self.wrap(torch.nn.Module, name, recorder.on_hook)
        self.wrap(torch.Tensor, "register_hook", recorder.on_hook)
        own = vars(torch.autograd.Function)["apply"]  # a class method, of each class below
        self.callback(setattr, torch.autograd.Function, "apply", own)
        torch.autograd.Function.apply = classmethod(
            lambda kind, *args, **options: recorder.on_function(own, kind, *args, **options)
        )
        self.wrap(utils, "clip_grad_norm_", recorder.on_clip)
        self.wrap(utils, "clip_grad_value_", recorder.on_call("clip"))

    def trace_pillow(self, recorder, name):
        """Has the lines noted at which a method of Pillow's photos is called."""

        def hook(called, *args, **options):
            if name != "convert" or (args[1:2] or [options.get("mode")])[0] not in ("RGB", None):
                recorder.photos.note(name)
            return called(*args, **options)

        self.wrap(sys.modules["PIL.Image"].Image, name, hook)


class Scripted:
    """What saves a module as torch.jit makes it, when it is asked to."""

    def __init__(self, made, thing, args, options):
        self.made, self.thing, self.args, self.options = made, thing, args, options

    def __call__(self, file, *args, **options):
        with torch._C.DisableTorchFunction(), Patches() as patches:
            patches.replace(torch.jit, "script", torch.jit._script.script)  # of what it calls
            self.made(self.thing, *self.args, **self.options).save(file, *args, **options)


def unscripted(made, thing, *args, **options):
    """The module itself in the place of the one that torch.jit makes, whose ops nobody sees."""
    if isinstance(thing, torch.nn.Module):
        thing.save = Scripted(made, thing, args, options)
    return thing


def start(out, steps=5, as_is=False, epochs=0, until=None):
    """Begins to record here, for a notebook; the trace is written after the steps, or at exit."""
    check_counts(steps, epochs)
    check_out(Path(out))
    recording = Recording(out, steps, as_is, os.getcwd(), epochs, until)
    recording.recorder.stays = True
    recording.__enter__()
    atexit.register(recording.close)
    notebook = getattr(builtins, "get_ipython", None)
    if notebook is not None:  # later cells find torch as it was
        notebook().events.register("post_run_cell", lambda *_: close_behind(recording))


def close_behind(recording):
    """Changes back what a recording changed, once its steps are done."""
    if recording.recorder.done:
        recording.close()


def check_counts(steps, epochs):
    """Ends the program where nothing was asked for."""
    if steps < 1 or epochs < 0:
        refuse("--steps is at least 1, --epochs at least 0")


SPEAKER = ["record.py"]  # with which errors begin
VOICE = []  # stderr as it was when a process of our own began; a trainer may close it


def refuse(message):
    """Ends the program with one line, exit code 2."""
    tell(f"{SPEAKER[-1]}: error: {message}", sys.stderr)
    sys.exit(2)


def tell(text, usual=sys.__stderr__):
    """Prints to stderr as it was when this process began; usual: where it is not one of our own."""
    stream = VOICE[-1] if VOICE else usual
    if stream is not None:
        print(text, file=stream, flush=True)


def check_out(out):
    """Ends the program where the trace is there already, or could not be written."""
    folder = out.absolute().parent
    if os.path.lexists(out):
        refuse(f"--out {out}: exists already; give another name, or remove it")
    if len(os.fsencode(out.name)) > LONGEST_NAME:
        refuse(f"--out {out}: a name has at most {LONGEST_NAME} bytes")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        refuse(f"--out {out}: {folder} is not a folder that can be written to")
    for parts in sorted(folder.glob(f"{glob.escape(out.name)}.{'[0-9a-f]' * 32}.parts")):
        if any(parts.glob("*.part")):
            join = f"record --join {parts.name} --out {out.name}"
            text = f"steps of a recording that died with its watch, or still runs; to join: {join}"
            tell(f"{SPEAKER[-1]}: {parts}: {text}")


def is_program(name):
    """Whether a module of this name can be run: a file, or a package with a __main__."""
    parents = name.split(".")[:-1]
    for count in range(1, len(parents) + 1):
        if importlib.util.find_spec(".".join(parents[:count])) is None:
            return False
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        return spec is not None
    return importlib.util.find_spec(f"{name}.__main__") is not None


class Ended:
    """Context that notes how the trainer's own code ended, for the process that watches."""

    def __init__(self, notes):
        self.notes = notes

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.notes is not None:
            text = f"{kind.__name__}: {str(error).strip()}" if kind else ""
            self.notes.write("error", text.partition("\n")[0])
            self.notes.write("state", "ended")


def leave(code, notes):
    """Ends this process at once, as where SystemExit was caught."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if notes is not None:
        notes.write("state", "ended")
    os._exit(code)


def begin_notes(folder):
    """The Notes of a watched process; stacks go to a file there; None without a folder."""
    if not folder:
        return None
    notes = watching.Notes(folder)
    stack = open(os.path.join(folder, "stack"), "a")  # as long as this process
    faulthandler.enable(stack)
    if hasattr(signal, "SIGRTMIN"):
        faulthandler.register(signal.SIGRTMIN + 7, stack)
    notes.write("state", "begun")
    threading.Thread(target=end_with, args=(os.getppid(), folder, notes), daemon=True).start()
    return notes


def end_with(parent, folder, notes):
    """Ends this process where the one that watches it has ended, and leaves nothing of it."""
    wait_for(parent)
    for path in filter(None, (notes.read("parts"), folder)):
        shutil.rmtree(path, ignore_errors=True)
    os._exit(1)


def wait_for(parent):
    """Returns when the process that started this one has ended."""
    if sys.platform == "win32":  # which never gives a child another parent
        kernel = ctypes.windll.kernel32
        kernel.OpenProcess.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(kernel.OpenProcess(SYNCHRONIZE, False, parent))
        kernel.WaitForSingleObject(handle, FOREVER)
        return
    while os.getppid() == parent:
        time.sleep(0.5)


SYNCHRONIZE, FOREVER = 0x00100000, 0xFFFFFFFF  # of the Windows API
FLAGS = ("--steps", "--epochs", "--until", "--out", "--join")  # that take a value


def command_line():
    """The parser of the command's own words."""
    shape, usage = (
        argparse.RawDescriptionHelpFormatter,
        f"{SPEAKER[-1]} [FLAGS] script ITS ARGUMENTS",
    )
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=shape, usage=usage
    )
    parser.error = refuse
    parser.add_argument("--steps", type=int, default=5, help="updates to record (%(default)s)")
    text = "go on to the end of that epoch, with little of each later batch"
    parser.add_argument("--epochs", type=int, default=0, help=text)
    text = "go on so to the end of the first evaluation after the steps"
    parser.add_argument("--until", choices=["evaluation"], help=text)
    parser.add_argument("--as-is", action="store_true", help="leave the precision alone")
    parser.add_argument("--out", help="the trace to write")
    text = "make a trace of the parts that a recording left which died"
    parser.add_argument("--join", metavar="FOLDER", help=text)
    text = "only say how the trainer dies or hangs; as the first flag"
    parser.add_argument("--watch", action="store_true", help=text)
    text = "the trainer: a file, or a module as `python -m` takes it"
    parser.add_argument("script", nargs="?", help=text)
    return parser


def main(argv=None, command="record.py"):
    """Records after the command line; command: how it was called, for its errors."""
    folder, _, name = os.environ.pop(watching.GIVEN, "").rpartition(os.pathsep)
    SPEAKER.append(name or command)
    if folder and sys.__stderr__ is not None:
        own = os.dup(sys.__stderr__.fileno())
        VOICE.append(open(own, "w", encoding="ascii", errors="backslashreplace"))
    own, theirs = watching.split(sys.argv[1:] if argv is None else argv, FLAGS)
    args = command_line().parse_args(own)
    check_counts(args.steps, args.epochs)
    if not args.watch:
        if not args.out:
            refuse("--out is missing: the trace to write")
        check_out(Path(args.out))
    if args.join:
        return join_parts(args.join, args.out)
    if not args.script:
        refuse("the trainer is missing: a file, or a module")
    notes = begin_notes(folder)
    with Ended(notes):
        run_trainer(args, theirs, notes)
    return None


def run_trainer(args, words, notes):
    """Runs the trainer of a command line with its own words, recorded or watched."""
    is_module = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", args.script)
    is_module = is_module and not args.script.endswith(".py") and not os.path.isfile(args.script)
    if args.script.endswith(".ipynb"):
        refuse(f"{args.script}: a notebook; see docs/frameworks.md, or save its cells as a script")
    if not is_module and not (os.path.isfile(args.script) and os.access(args.script, os.R_OK)):
        refuse(f"{args.script}: no such file, or it cannot be read")
    if importlib.util.find_spec("PIL"):  # so that its open is overheard
        importlib.import_module("PIL.Image")
    sys.argv = [args.script, *words]
    first = os.getcwd() if is_module else str(Path(args.script).resolve().parent)
    # as Python itself would have it; this file's folder is in it no more
    sys.path.insert(0, first)
    if is_module:
        with Unimported(args.script):
            known = is_program(args.script)
        if not known:
            refuse(f"{args.script}: no such module")
    root = first
    if is_module:
        spec = importlib.util.find_spec(args.script.partition(".")[0])
        root = next(iter(spec.submodule_search_locations or [os.path.dirname(spec.origin)]))
    with Watching(root, notes) if args.watch else recording_of(args, root, notes):
        if is_module:
            runpy.run_module(args.script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(args.script, run_name="__main__")


def recording_of(args, root, notes):
    """The Recording of a command line; a watched one writes each step as it is done."""
    told = args.out, args.steps, args.as_is, root, args.epochs, args.until
    recording = Recording(*told)
    if notes is not None:
        recorder = recording.recorder
        recorder.notes, recorder.parts = notes, Path(f"{recorder.out}.{uuid4().hex}.parts")
        recorder.parts.mkdir()
        notes.write("parts", str(recorder.parts))
    return recording


if __name__ == "__main__":
    main()
