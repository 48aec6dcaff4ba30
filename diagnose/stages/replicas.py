"""Copies of the network that each take a part of a batch: rows of `features` and `update`."""

import torch

from run.findings import CAUSE, SKIPPED, WRONG, Row

COPIES = Row(
    "features.copies",
    CAUSE,
    "{copies} copies of the network each take a part of the batch ({pairs} pairs), so BatchNorm "
    "sees that part alone (reference: one network)",
    at=("forward",),
)
APART = Row(
    "update.copies_apart",
    CAUSE,
    "the {copies} copies of the network become different: neither their gradients nor their "
    "parameters are averaged",
    help="average the gradients of all copies before the optimizer step, as DDP does",
    matters=WRONG,
    at=("step",),
)
NOT_JUDGED = tuple(
    Row(f"{stage}.of_copies", SKIPPED, "several copies of the network are updated, not judged")
    for stage in ("gradients", "update")
)


def copies_of(views):
    """The numbers of the weights that each network of a step meets, where there are several: the
    batches of every step must meet the same networks; () where there is one.
    """
    steps = {}
    for view in views:
        network = tuple(sorted(view.matches[0].names))
        steps.setdefault(view.step, {})[network] = None
    networks = list(map(tuple, steps.values()))
    alike = bool(networks) and all(own == networks[0] for own in networks)
    return networks[0] if alike and len(networks[0]) > 1 else ()


def judge_copies(trace, views, copies):
    """[(step, finding)] on the copies of a network and whether they stay equal."""
    findings = []
    places = [{name: n for n, name in view.matches[0].names.items() if "running_" not in name}
              for view in views[: len(copies)]]  # fmt: skip
    for step, update in enumerate(trace.updates):
        sizes = tuple(len(view.sides.features[0]) for view in views if view.step == step)
        findings.append((step, COPIES.found(copies=len(copies), pairs=sizes)))
        first, *others = (
            {name: update.after[n].values for name, n in own.items()} for own in places
        )
        if not all(torch.equal(first[name], own[name]) for own in others for name in first):
            findings.append((step, APART.found(copies=len(copies))))
        findings += [(step, row.found()) for row in NOT_JUDGED]
    return findings
