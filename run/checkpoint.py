"""last.pt, from which a run goes on to the bit, and best.pt: plain types and tensors."""

import sys

import torch

from disk.errors import fail_on, say, stop
from disk.files import replace_file, write_text
from disk.tensors import BEST, check_state, load_checkpoint, load_state
from run.folder import run_checksum, write_history, write_predictions

KEYS = ("run", "model", "optimizer", "schedule", "position", "random", "cuda_random")
POSITION = {
    "epoch": int,
    "step": int,
    "loss_sum": float,
    "correct": int,
    "history": list,
    "log": str,
}
ROW = [int] + 6 * [float]  # of a position's history, see run.folder.HISTORY


def save_last(run):
    """last.pt: all that a run needs to go on."""
    run.mark("saving last.pt")
    on_gpu = run.device.type == "cuda"
    state = {
        "run": run_checksum(run.out),
        "model": run.ranker.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "position": run.position,
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state(run.device) if on_gpu else None,
    }
    replace_file(run.out / "last.pt", lambda file: torch.save(state, file))
    run.evidence.note_resources(run.epoch, run.step)


def check_shapes(optimizer):
    """ValueError where an optimizer keeps a tensor of another shape than its parameter, a momentum
    that fits none; torch loads it.
    """
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)}, its parameter {tuple(parameter.shape)}"
                raise ValueError(f"{name} has shape {shapes}")


def load_last(run):
    """Puts the run where last.pt left it, train.log and history.tsv included."""
    path = run.out / "last.pt"
    state = load_own(path, KEYS)
    check_position(path, state["position"], run)
    load_state(run.ranker, state["model"], path)
    with fail_on(__file__, f"{path}: optimizer, schedule or random state do not fit", Exception):
        run.optimizer.load_state_dict(state["optimizer"])
        run.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        check_shapes(run.optimizer)
    run.position = state["position"]
    where = f"going on in epoch {run.position['epoch']} with {run.position['step']} steps done"
    ended = run.position["epoch"] > run.args.epochs or run.out_of_patience()
    say("nothing is left to do: the run has ended" if ended else where, sys.stdout)
    if run.device.type == "cuda" and state["cuda_random"] is not None:
        torch.cuda.set_rng_state(state["cuda_random"], run.device)
    write_history(run.out, run.position["history"])
    write_text(run.out / "train.log", run.position["log"])
    if run.position["history"]:
        if not (run.out / "best.pt").is_file():
            stop(__file__, f"--resume: {run.out} has no best.pt, though epoch 1 is done")
        best = load_best(run.out)
        check_state(run.ranker.state_dict(), best["model"], run.out / "best.pt")
        logits = best["logits"]
        if logits.shape != (len(run.val.pairs), 2):
            stop(__file__, f"{run.out / 'best.pt'}: holds logits of other pairs")
        write_predictions(run.out / "predictions.tsv", run.val, logits)


def load_own(path, keys):
    """A checkpoint with these keys, of the run that the args.json in its folder is of."""
    state = load_checkpoint(path, keys)
    if state["run"] != run_checksum(path.parent):
        stop(__file__, f"{path}: of another run than args.json in its folder")
    return state


def check_position(path, position, run):
    """Ends the program where a position is none, or none that this run can be at."""
    kinds = isinstance(position, dict) and {k: type(v) for k, v in position.items()}
    if kinds != POSITION:
        stop(__file__, f"{path}: its position is not that of a run")
    epochs, steps = len(position["history"]), -(-len(run.train.pairs) // run.args.batch_size)
    rows = [isinstance(row, tuple) and [*map(type, row)] == ROW for row in position["history"]]
    if not (position["epoch"] - 1 <= epochs <= position["epoch"] and all(rows)):
        stop(__file__, f"{path}: epoch {position['epoch']} with {epochs} epochs in its history")
    if not 0 <= position["step"] <= steps:
        stop(__file__, f"{path}: step {position['step']} of {steps}")


def save_best(run, epoch, accuracy, logits):
    """best.pt: the model after this epoch, its validation accuracy and logits [P, 2]."""
    run.mark("saving best.pt")
    state = {"run": run_checksum(run.out), "model": run.ranker.state_dict()}
    state |= {"epoch": epoch, "accuracy": accuracy, "logits": logits}
    replace_file(run.out / "best.pt", lambda file: torch.save(state, file))


def load_best(out):
    """best.pt of a run folder, checked against its args.json; its model is not yet."""
    path = out / "best.pt"
    state = load_own(path, BEST)
    if not isinstance(state["logits"], torch.Tensor):
        stop(__file__, f"{path}: holds no logits")
    return state
