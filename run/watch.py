"""What looks into a step from outside, through PyTorch's own hooks: phases and finite numbers."""

import torch

from disk.errors import show_progress, stop


def watch_steps(run, criterion):
    """Has every training step of the run's model marked by phase and checked before its update.

    Gives the hooks, to be removed at the end. They look at the training mode, so evaluation
    passes unseen.
    """

    def begin_pass(module, inputs):
        if module.training:
            run.passes += 1
            run.mark(f"forward pass of photo_{run.passes}")

    def see_loss(module, inputs, loss):
        if module.training:
            run.loss = loss.detach()
            run.mark("backward pass")

    def see_gradients(optimizer, args, options):
        note_finite(run)
        run.mark("update")

    yield run.ranker.backbone.register_forward_pre_hook(begin_pass)
    yield criterion.register_forward_hook(see_loss)
    yield run.optimizer.register_step_pre_hook(see_gradients)


def show_evaluation(backbone, count):
    """Shows how many of `count` photos went through a backbone in evaluation; gives the hook."""
    done = 0

    def see(module, inputs, features):
        nonlocal done
        if not module.training:
            done = done % count + len(features)
            show_progress(f"evaluation: photo {done}/{count}", done >= count)

    return backbone.register_forward_hook(see)


def note_finite(run):
    """Notes whether the loss and each group's gradient are finite, and on a CPU looks at once.

    On a GPU to look is to wait for it, so there the loop looks before anything is saved. A
    gradient longer than 1.8e19, whose square float32 cannot hold, counts as not finite.
    """
    sizes = [run.loss]
    for group in run.optimizer.param_groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        sizes.append(torch.nn.utils.get_total_norm(gradients))
    run.unchecked.append((run.step, run.batch, torch.stack(sizes).isfinite()))
    if run.device.type == "cpu":
        check_finite(run)


def check_finite(run):
    """Ends the program, nothing of it saved, where a loss or gradient noted was not finite."""
    if not run.unchecked:
        return
    flags = torch.stack([flags for _, _, flags in run.unchecked]).tolist()  # one wait for all
    for (step, batch, _), finite in zip(run.unchecked, flags, strict=True):
        if not all(finite):
            groups = [f"gradient of group {group['name']}" for group in run.optimizer.param_groups]
            culprit = ["loss", *groups][finite.index(False)]
            pairs, rows, files = run.train.pairs[batch], run.train.rows[batch], run.train.files
            names = [
                f"{files[a]} {files[b]} (train_pairlist.txt:{pair['line']})"
                for pair, (a, b) in zip(pairs, rows, strict=True)
            ]
            where = f"epoch {run.position['epoch']}, step {step}"
            stop(__file__, f"{where}: the {culprit} is not finite; pairs: {', '.join(names)}")
    run.unchecked.clear()
