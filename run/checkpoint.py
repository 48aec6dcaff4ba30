"""last.pt, from which a run goes on to the bit, and best.pt: plain types and tensors."""

import torch

from disk.errors import stop
from disk.files import replace_file, write_text
from disk.tensors import load_checkpoint, load_state
from run.folder import write_history

KEYS = ("model", "optimizer", "schedule", "position", "random", "cuda_random")


def save_last(run):
    """last.pt: all that a run needs to go on."""
    run.mark("saving last.pt")
    on_gpu = run.device.type == "cuda"
    state = {
        "model": run.ranker.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "position": run.position,
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state(run.device) if on_gpu else None,
    }
    replace_file(run.out / "last.pt", lambda file: torch.save(state, file))
    run.evidence.note_resources(run.position["epoch"], run.step)


def load_last(run):
    """Puts the run where last.pt left it, train.log and history.tsv included."""
    state = load_checkpoint(run.out / "last.pt", KEYS)
    load_state(run.ranker, state["model"], run.out / "last.pt")
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    run.position = state["position"]
    torch.set_rng_state(state["random"])
    if run.device.type == "cuda" and state["cuda_random"] is not None:
        torch.cuda.set_rng_state(state["cuda_random"], run.device)
    write_history(run.out, run.position["history"])
    write_text(run.out / "train.log", run.position["log"])
    if run.position["history"] and not (run.out / "best.pt").is_file():
        stop(__file__, f"--resume: {run.out} has no best.pt, though epoch 1 is done")


def save_best(run, epoch, accuracy):
    """best.pt: the model after this epoch, and its validation accuracy."""
    run.mark("saving best.pt")
    state = {"model": run.ranker.state_dict(), "epoch": epoch, "accuracy": accuracy}
    replace_file(run.out / "best.pt", lambda file: torch.save(state, file))
