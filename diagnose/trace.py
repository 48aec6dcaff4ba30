"""The trace of record.py, every entry of it held against what record.py writes."""

import itertools

import torch

from diagnose.record import VERSION
from disk.errors import stop
from disk.tensors import load_tensors

# A kind of value: a class, one of several (a tuple), a list of one kind, a dict of these keys.
T, WORDS = torch.Tensor, [str]
SAMPLE = {"values": T, "l2": float, "max": float}
SAMPLES = [(SAMPLE, None)]
NORM = {"training": (bool, None), "momentum": (float, None), "eps": (float, None)}
NORM |= {"weight": (int, None), "before": [(T, None)], "after": [(T, None)]}
PASS = {"input": (T, None), "norms": [NORM], "weights": [int], "ops": WORDS}
LAYER = {"op": str, "weights": [int], "input": T, "output": T, "options": list}
GROUP = {"weights": [int], "values": dict}
BATCH = {"merge": str, "merged": T, "gradients": dict, "features": [T], "head": [LAYER]}
BATCH |= {"ops": WORDS, "labels": [{"values": T, "root": T, "ops": WORDS}]}
BATCH |= {"rows": [T], "joined": str}
BATCH |= {"backwards": [{"loss": T, "before": SAMPLES, "after": SAMPLES}]}
BATCH |= {"passes": [PASS | {"autocast": bool}]}
UPDATE = {"batches": int, "gradients": SAMPLES, "before": [SAMPLE], "after": [SAMPLE]}
UPDATE |= {"next": ([SAMPLE], None), "weights": [T], "requires_grad": [bool]}
UPDATE |= {"optimizers": [{"class": str, "groups": [GROUP], "state": dict, "times": int}]}
TRACE = {"version": int, "torch": str, "double": bool, "batches": [BATCH], "updates": [UPDATE]}
TRACE |= {"weights": [{"depth": int, "op": str, "place": int, "shape": [int], "computed": bool}]}
TRACE |= {"printed": [list], "files": WORDS}
TRACE |= {"schedules": [{"class": str, "values": dict, "steps": [int]}]}
LARGEST = 10**6  # of any count in a trace


def read_trace(path):
    """A trace of record.py; ends the program where it is none, or holds no update."""
    trace = load_tensors(path)
    if not isinstance(trace, dict) or trace.keys() != TRACE.keys():
        stop(__file__, f"{path}: not a trace of record.py")
    if trace["version"] != VERSION:
        text = f"recorded by version {trace['version']}, this is {VERSION}; record once more"
        stop(__file__, f"{path}: {text}")
    place = misfit(trace, TRACE, "")
    if place:
        stop(__file__, f"{path}: {place} is not what record.py writes")
    if not trace["updates"] or not trace["batches"]:
        stop(__file__, f"{path}: no update was recorded: no pair of photos met a loss")
    return trace


def batches_of(trace):
    """(number of the update, batch) of every recorded batch that an update took."""
    batches = iter(trace["batches"])
    for step, update in enumerate(trace["updates"]):
        for batch in itertools.islice(batches, update["batches"]):
            yield step, batch


def misfit(value, kind, place):
    """Where a value is first not of its kind, as `.batches[0].keys`; None where all of it is."""
    if isinstance(kind, tuple):
        chosen = kind[0] if value is not None else None
        return misfit(value, chosen, place)
    if isinstance(kind, dict):
        if not isinstance(value, dict) or value.keys() != kind.keys():
            return place
        found = (misfit(value[key], kind[key], f"{place}.{key}") for key in kind)
        return next(filter(None, found), None)
    if isinstance(kind, list):
        if not isinstance(value, list):
            return place
        found = (misfit(v, kind[0], f"{place}[{n}]") for n, v in enumerate(value))
        return next(filter(None, found), None)
    sound = value is None if kind is None else type(value) is kind
    sound = sound or (kind is float and type(value) is int)  # as people write a momentum of 0
    if kind is int:
        sound = sound and -1 <= value <= LARGEST
    if kind is T:
        sound = sound and value.layout == torch.strided and value.device.type == "cpu"
    return None if sound else place
