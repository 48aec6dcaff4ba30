"""Run: the context of a page's loop. Epochs and batches come from its generators.

What follows a `yield` happens when the page asks for the next batch or epoch: the step, or
the epoch, is done. So the page holds the paper, and the run counts, saves, resumes and stops.
"""

import math
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from data import decode, take_batch
from disk.errors import say, show_progress, stop, warn_on
from disk.files import write_text
from run import curves
from run.arithmetic import change_passes, check_model, set_arithmetic, shape_model, whole_step
from run.checkpoint import load_last, save_best, save_last
from run.evidence import ENDED, catch_signals, open_folder
from run.flags import own_settings
from run.folder import (
    CURVES,
    check_room,
    data_checksums,
    describe_run,
    epoch_lines,
    header,
    log,
    write_history,
    write_predictions,
)
from run.scores import accuracy, cross_entropy
from run.watch import check_finite, show_evaluation, watch_steps


class Run:
    """A training run and its folder.

    position is all that a resumed run must know: epoch (from 1 on), steps done in it, the sums of
    the loss and of right predictions over its pairs so far, a row of run.folder.HISTORY for every
    epoch done, and the text of the log. load(split, args) gives a split with its photos,
    take(split, positions, device, dtype) a batch of it. train and val are loaded on entering.
    """

    def __init__(
        self, args, train, val, ranker, criterion, optimizer, schedule, load=None, take=None
    ):
        self.load, self.take = load or decode, take or take_batch
        self.args, self.out, self.device = args, Path(args.out), torch.device(args.device)
        self.ranker, self.optimizer, self.schedule = ranker, optimizer, schedule
        self.criterion, self.train, self.val = criterion, train, val
        self.position = {"epoch": 1, "step": 0, "loss_sum": 0.0, "correct": 0}
        self.position |= {"history": [], "log": ""}
        self.epoch = self.step = 0  # those under way, from 1 on
        self.passes = 0  # of the backbone in this step
        self.batch = self.loss = None  # of this step
        self.unchecked = []  # (step, batch, flags), see run.watch
        self.received = []  # signals

    def __enter__(self):
        args = self.args
        set_arithmetic(args)
        shape_model(args, self.ranker)
        check_model(args, self.ranker, len(self.train.pairs))
        check_room(self.out, self.ranker)
        # nothing was decoded before these lines
        self.train, self.val = splits = self.load(self.train, args), self.load(self.val, args)
        with ExitStack() as stack:
            self.evidence = stack.enter_context(open_folder(self.out, args.step_log))
            describe_run(args, own_settings(args) | data_checksums(splits))
            change_passes(args, self.ranker)
            shown = show_evaluation(self.ranker.backbone, len(self.val.files))
            for hook in (shown, *watch_steps(self, self.criterion)):
                stack.callback(hook.remove)
            self.begin(splits)
            self.closing = stack.pop_all()
        return self

    def __exit__(self, *error):
        self.closing.__exit__(*error)

    def begin(self, splits):
        """Goes on from last.pt where that is there; else opens the log."""
        if (self.out / "last.pt").is_file():
            load_last(self)
            return
        write_text(self.out / "train.log", "")
        if not curves.available():
            say("no training_curves.png: matplotlib is not installed", sys.stdout)
        self.log(header(self.args, splits, self.optimizer.param_groups))

    def epochs(self):
        """The epochs still to train, from 1 on; saves after each, and ends the log."""
        position, self.received = self.position, catch_signals()
        while position["epoch"] <= self.args.epochs and not self.out_of_patience():
            self.epoch = position["epoch"]
            yield self.epoch
            position |= {"epoch": position["epoch"] + 1, "step": 0, "loss_sum": 0.0, "correct": 0}
            save_last(self)
            self.leave_if_asked()
        if self.out_of_patience():
            self.log([f"Early stop: no better validation accuracy for {self.args.patience} epochs"])
        best_epoch, best = self.best()
        self.log([f"Best: epoch {best_epoch}, val acc={best:.4f}"])
        self.mark(ENDED)

    def batches(self, batches):
        """photo_1, photo_2 and label of each batch (positions of training pairs) not yet done."""
        position, clock = self.position, (time.monotonic(), self.position["step"])
        dtype = next(self.ranker.parameters()).dtype
        self.loss_sum = torch.tensor(position["loss_sum"], dtype=torch.float64, device=self.device)
        self.correct = torch.tensor(position["correct"], device=self.device)
        for step in range(position["step"] + 1, len(batches) + 1):
            self.step, self.passes, self.batch = step, 0, batches[step - 1]
            self.mark("loading the photos")
            with whole_step(self.args):
                yield self.take(self.train, self.batch, self.device, dtype)
            self.show_pace(clock, step, len(batches))
            last = step == len(batches)
            if last or step % self.args.save_every == 0 or self.received:
                check_finite(self)
                position |= {"step": step, "loss_sum": self.loss_sum.item()}
                position |= {"correct": self.correct.item()}
                if not last:
                    save_last(self)
                    self.leave_if_asked()
        self.mark("evaluation")

    def count(self, loss, logits, label):
        """Adds a batch, its mean loss and its right predictions, to the epoch's sums."""
        self.loss_sum += loss.detach().double() * len(label)
        self.correct += (logits.argmax(1) == label).sum()

    def end_epoch(self, logits):
        """Logs the epoch and keeps it where it is the best; logits [P, 2] of the val pairs."""
        position, labels = self.position, torch.from_numpy(self.val.pairs["label"])
        pairs, (_, best) = len(self.train.pairs), self.best()
        val_loss, val_accuracy = cross_entropy(logits, labels), accuracy(logits, labels)
        if not math.isfinite(val_loss):
            where = f"epoch {position['epoch']}, step {self.step}"
            stop(__file__, f"{where}: the validation loss is not finite; nothing of it was saved")
        rates = [group["lr"] for group in self.optimizer.param_groups]
        means = position["loss_sum"] / pairs, position["correct"] / pairs
        row = (position["epoch"], *rates, *means, val_loss, val_accuracy)
        position["history"].append(row)
        if val_accuracy > best:
            save_best(self, position["epoch"], val_accuracy, logits)
            write_predictions(self.out / "predictions.tsv", self.val, logits)
        self.log(epoch_lines(row, self.args.epochs, self.val.pairs["label"]))
        write_history(self.out, position["history"])
        if curves.available():
            with warn_on("no training_curves.png"):
                curves.draw([self.out], self.out / CURVES)

    def best(self):
        """(epoch, validation accuracy) of the first best epoch so far; (0, -1.0) before any."""
        rows = self.position["history"]
        best = max(rows, key=lambda row: row[-1], default=(0, -1.0))
        return best[0], best[-1]

    def out_of_patience(self):
        """Whether the last `patience` epochs brought no better validation accuracy."""
        return self.position["epoch"] - 1 - self.best()[0] >= self.args.patience

    def log(self, lines):
        """Appends lines to train.log and to the text of it that is saved."""
        for line in lines:
            log(self.out, line)
            self.position["log"] += f"{line}\n"

    def mark(self, phase):
        """Puts on file, in case the process dies in it, which phase of a step begins."""
        self.evidence.mark(self.epoch, self.step, phase)

    def leave_if_asked(self):
        """After a signal, with all saved: says how to go on, ends with 128 + the number."""
        if self.received:
            where = f"epoch {self.position['epoch']} with {self.position['step']} steps done"
            say(f"saved in {where}; the same command with --resume goes on", sys.stderr)
            self.mark(ENDED)
            sys.exit(128 + self.received[0])

    def show_pace(self, clock, step, steps):
        """The progress line: pairs per second and the time left in the epoch."""
        seconds = max(time.monotonic() - clock[0], 1e-3)  # Windows' clock may not have moved
        pairs, left = (step - clock[1]) * self.args.batch_size, steps - step
        left = int(seconds / (step - clock[1]) * left)
        text = f"epoch {self.position['epoch']}  step {step}/{steps}  {pairs / seconds:.1f} pairs/s"
        show_progress(f"{text}  {left // 60}:{left % 60:02d} left", step == steps)
