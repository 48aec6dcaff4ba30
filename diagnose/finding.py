"""What an instrument says of a stage: a cause, or one of four weaker things."""

from typing import NamedTuple


class Finding(NamedTuple):
    """What a stage came to: kind is cause, harmless, stated, unknown or skipped."""

    stage: str
    kind: str
    sentence: str
    evidence: str = ""
    gap: float = 0.0  # largest relative difference with the change in place
    ways: tuple = ()  # sentences that fit a step equally, of which one must fit all steps


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


def settle(findings):
    """Findings (step, Finding) with those that leave several ways as the ones all steps leave.

    A value that fits one step and not the next describes that step and explains nothing.
    """
    settled = []
    for step, f in findings:
        told = [g.ways for _, g in findings if g.ways and g.stage == f.stage] if f.ways else []
        common = [way for way in f.ways if all(way in ways for ways in told)]
        if f.ways and not common:
            text = "; ".join(list(dict.fromkeys(ways[0] for ways in told))[:3])
            f = unknown(f.stage, f"what fits one step does not fit the next: {text}")
        elif common:
            words = " (or ".join(common) + ")" * (len(common) - 1)
            words += f.sentence.removeprefix(f.ways[0])  # of which photos
            f = f._replace(sentence=words, ways=())
        settled.append((step, f))
    return settled
