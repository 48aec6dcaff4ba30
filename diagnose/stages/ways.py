"""A way to do one part of the preprocessing: the kind of row that inputs.py and values.py have."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from run.findings import CAUSE, Row

COUNT = ("count", "total")  # of the photos of a batch
# {part: what is done to a photo in the lines that do it, see record.PHOTO_KINDS}
LINES = {"geometry": ("resize", "placement"), "filter": ("resize",), "turn": ("turn",)}
LINES |= {"channels": ("channels",), "normalization": ("arithmetic",)}
LINES |= {"padding": ("placement",), "cast": ("cast",)}
# Left out where it holds for all photos of a batch.
COUNTED = "[ ({count} of {total} photos)][: photo_{side} of each pair]"


@dataclass(frozen=True)
class Way(Row):
    """A way to do one part of the preprocessing.

    part: which; choice: the name among the ways of that part; act: what it does, see the tables of
    rows; value: the name under which the choice is a value of the finding, or None.
    """

    part: str = ""
    choice: str = ""
    act: Callable = None
    value: str = None


def way(part, choice, name, text, act=None, value=None, **options):
    """A Way of this stage."""
    options = {"at": (*LINES[part], "dataset")} | options | {"varies": COUNT}
    own = {"part": part, "choice": choice, "act": act, "value": value}
    return Way(f"inputs.{name}", CAUSE, text + COUNTED, **options, **own)


geometry, filter_, channels, cast = (
    partial(way, part) for part in ("geometry", "filter", "channels", "cast")
)
turn = partial(way, "turn", help="use photos as they are stored")
normalization = partial(way, "normalization", help="normalize with the ImageNet mean and std")
padding = partial(way, "padding", help="pad after normalization with 0, which is the ImageNet mean")
