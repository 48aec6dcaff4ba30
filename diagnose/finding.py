"""What an instrument says of a stage: a cause, or one of four weaker things."""

from typing import NamedTuple


class Finding(NamedTuple):
    """What a stage came to: kind is cause, harmless, stated, unknown or skipped."""

    stage: str
    kind: str
    sentence: str
    evidence: str = ""
    gap: float = 0.0  # largest relative difference with the change in place


def cause(stage, sentence, gap=0.0):
    """A change that reproduces what was recorded, to `gap`."""
    return Finding(stage, "cause", sentence, "", gap)


def harmless(stage, sentence, gap=0.0):
    """A change that reproduces it and moves no weight otherwise."""
    return Finding(stage, "harmless", sentence, "", gap)


def stated(stage, sentence):
    """What objects declare, without effect in the recorded steps."""
    return Finding(stage, "stated", sentence)


def unknown(stage, sentence, evidence=""):
    """A departure that nothing reproduces."""
    return Finding(stage, "unknown", sentence, evidence)


def skipped(stage, sentence):
    """What was not judged."""
    return Finding(stage, "skipped", sentence)
