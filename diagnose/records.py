"""Plain data read as typed, frozen records; what does not fit its type is refused."""

import dataclasses
import types
import typing
from functools import cache

import torch
from torch import Tensor

from disk.errors import stop

LARGEST = 10**6  # of any count in a trace
WIDER = {float: (float, int), Tensor: (Tensor, torch.nn.Parameter)}  # a momentum of 0 is an int


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
