"""Traces the first steps of a page of the reference from outside, for diagnose.compare.

    python -m diagnose.reference --steps 5 train_resnet --data DATA --float64 --out runs/reference

Everything behind the page's name are the page's own flags. Writes trace.txt and init.pt, the
initial weights, into the run folder.
"""

import argparse
import importlib
from contextlib import ExitStack

import torch

from diagnose.tracer import Trace
from disk.errors import command_line, stop
from disk.files import replace_file
from run.loop import Run


class TracedRun(Run):
    """A run that leaves a trace of its first steps."""

    steps = 0

    def __enter__(self):
        if (self.out / "last.pt").is_file():
            stop(__file__, f"{self.out}: the first steps of this run are over")
        run, args = super().__enter__(), self.args
        state = self.ranker.state_dict()
        replace_file(self.out / "init.pt", lambda file: torch.save(state, file))
        dtype = "float64" if args.float64 else "float32"
        facts = (self.steps, args.recipe, args.seed, dtype, args.device)
        self.trace, self.features = Trace(self.out / "trace.txt", *facts), []
        self.ranker.backbone.register_forward_hook(self.see_features)
        self.ranker.head.register_forward_hook(self.see_logits)
        self.criterion.register_forward_hook(lambda module, inputs, loss: self.trace.loss(loss))
        self.optimizer.register_step_pre_hook(lambda *_: self.trace.gradients(self.ranker))
        self.optimizer.register_step_post_hook(
            lambda *_: self.trace.update(self.ranker, self.optimizer)
        )
        return run

    def see_features(self, module, inputs, features):
        if module.training:
            self.features.append(features)

    def see_logits(self, module, inputs, logits):
        if module.training:
            self.trace.forward(*self.features, *inputs, logits, self.label)
            self.features.clear()

    def batches(self, batches):
        for photo_1, photo_2, label in super().batches(batches):
            files, rows = self.train.files, self.train.rows[self.batch]
            names_1, names_2 = ([files[row] for row in side] for side in rows.T)
            self.label = label
            self.trace.begin()
            self.trace.pairs(names_1, names_2, label, self.train.folder)
            self.trace.inputs(photo_1, photo_2)
            self.trace.model(self.ranker)
            yield photo_1, photo_2, label

    def count(self, loss, logits, label):
        super().count(loss, logits, label)
        self.trace.metrics((logits.argmax(1) == label).sum(), len(label), loss)

    def end_epoch(self, logits):
        pairs = len(self.train.pairs)
        sums = self.position["loss_sum"] / pairs, self.position["correct"] / pairs
        self.trace.epoch(*sums, pairs)
        super().end_epoch(logits)


def trace_page(page, steps, argv):
    """Runs a page (its module) with these flags, traced for this many steps."""
    TracedRun.steps = steps
    with ExitStack() as stack:
        stack.callback(setattr, page, "Run", page.Run)
        page.Run = TracedRun
        page.main(argv)


def main(argv=None):
    """Traces after the command line."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--steps", type=int, default=5, help="how many (%(default)s)")
    parser.add_argument("page", help="train_resnet or train_vgg")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="the flags of the page")
    args = parser.parse_args(argv)
    trace_page(importlib.import_module(args.page), args.steps, args.flags)


if __name__ == "__main__":
    main()
