"""The optimizer step: which parameters it moves, by which rule, and what happens behind it."""

import torch

from diagnose.explain import Change, one_of
from diagnose.numerics import factor_between
from run.findings import (
    CAUSE,
    DECLARED,
    DIFFERENT,
    HARMLESS,
    SKIPPED,
    UNEXPLAINED,
    WRONG,
    Row,
    number,
)


def afterwards(name, text, act, values, **options):
    """What is done to the weights behind a step: act(judge_update.Behind, values)."""
    return Change(f"update.{name}", CAUSE, text, act=act, values=values, **options)


def flag_of_all(flag, key):
    """The flag of one value, where all parameters have it."""
    return lambda values: (
        f"{flag} {number(values[key][0])}"
        if values["parameters"] is None and len(values[key]) == 1
        else ""
    )


def rate_flags(values):
    """The flags of learning rates, where they are those of the backbone or the head."""
    flags = {"the backbone": "--lr-backbone", "the head": "--lr-head"}
    if not values["lr"].keys() <= flags.keys():
        return ""
    return " ".join(f"{flags[part]} {number(rate)}" for part, rate in values["lr"].items())


def decays(steps):
    """Estimates the decay of a moving average; in float32 to the digits that people write."""
    step = next((s for s in steps if not torch.equal(s.after, s.later)), steps[0])
    kept = 1 - factor_between([step.after - step.before], [step.later - step.before])
    digits = (1, 2, 3, 4) if step.is_single else ()
    return [{"decay": value} for value in [*(round(kept, k) for k in digits), kept]]


TIMES = Row(
    "update.steps_again",
    CAUSE,
    "the optimizer steps {times} times for one backward",
    help="call optimizer.step() once after backward",
    at=("step",),
)
COMPUTED = Row(
    "update.computed_skipped",
    SKIPPED,
    "parameters that are computed at every step (a parametrization) were not judged",
    is_partial=True,
)
OTHER_CLASS = Row(
    "update.other_optimizer",
    UNEXPLAINED,
    "the optimizer is {optimizer}, which is not in torch.optim",
)
NOT_REPRODUCED = Row(
    "update.not_reproduced",
    UNEXPLAINED,
    "{optimizers} with its own values does not reproduce the step[ of {parameters} (that of the "
    "others it does)][; the optimizer is {own}, a class derived from it][; the step is that of "
    "{optimizers}, {relation}]",
    varies=("count", "total", "relation"),
)
BY_HAND = Row(
    "update.by_hand",
    HARMLESS,
    "the parameters are updated by something that is no optimizer of torch, as the reference's "
    "optimizer does",
    matters=DIFFERENT,
    at=("moved",),
)
BY_HAND_OTHER = Row(
    "update.by_hand_otherwise",
    UNEXPLAINED,
    "the parameters are updated by something that is no optimizer of torch, and otherwise than by "
    "the reference's",
    at=("moved",),
)
LINEAR = Row(
    "update.linear",
    UNEXPLAINED,
    "each step of {parameters} is {terms:*}",
)
SHARED = Row(
    "update.shared_memory",
    CAUSE,
    "parameters have one memory, so that it is stepped for each of them: {groups}",
    help="copy values with copy_(): no assignment of .data, unless weights are to be tied",
    matters=WRONG,
)
MOMENTUM_RESET = Row(
    "update.momentum_reset",
    CAUSE,
    "momentum buffers are reset at every step",
    help="make the optimizer once, before the loop",
)
FROZEN = Row(
    "update.frozen",
    CAUSE,
    "{parameters}: frozen (requires_grad=False)[, but BatchNorm of {moving} is in training mode: "
    "its running statistics still move]",
    help="leave requires_grad at True",
    at=("freeze", "optimizer"),
)
FROZEN_STEPPED = Row(
    "update.frozen_but_stepped",
    CAUSE,
    "{parameters}: frozen, but still moved by the gradient that is left",
    help="leave requires_grad at True",
    at=("freeze", "optimizer"),
)
IN_OTHER_STEPS = Row(
    "update.in_other_steps",
    CAUSE,
    "{parameters}: no optimizer steps them in these steps, one does in others",
    help="give all parameters to one optimizer, which steps after each batch",
    at=("step",),
)
IN_NO_OPTIMIZER = Row(
    "update.in_no_optimizer",
    CAUSE,
    "{parameters}: in no optimizer[; one holds {others} tensors that no recorded "
    "forward pass uses]",
    help="give these parameters to the optimizer",
    matters=WRONG,
)
OPTIMIZER = Row(
    "update.optimizer",
    CAUSE,
    "the optimizer is {optimizers} with learning rate {rates}[ and weight decay "
    "{weight_decay}] (reference: SGD with momentum)",
    help="use torch.optim.SGD with momentum 0.9 and weight decay 5e-4",
)
RULE = {  # values of SGD other than the learning rate
    "momentum": Row(
        "update.momentum",
        CAUSE,
        "momentum[ of {parameters}] is {momentum} (reference: {reference})",
        help="use momentum={reference} in every parameter group",
        flag=flag_of_all("--momentum", "momentum"),
    ),
    "weight_decay": Row(
        "update.weight_decay",
        CAUSE,
        "weight decay[ of {parameters}] is {weight_decay} (reference: {reference})",
        help="use weight_decay={reference} in every parameter group",
        flag=flag_of_all("--weight-decay", "weight_decay"),
    ),
    "dampening": Row(
        "update.dampening",
        CAUSE,
        "dampening[ of {parameters}] is {dampening} (reference: {reference})",
        help="leave dampening at 0",
    ),
    "nesterov": Row(
        "update.nesterov",
        CAUSE,
        "Nesterov momentum is used[ on {parameters}] (reference: not)",
        help="leave nesterov at False",
    ),
    "maximize": Row(
        "update.maximize",
        CAUSE,
        "the loss is maximized (maximize=True)[ on {parameters}]",
        help="leave maximize at False",
        matters=WRONG,
    ),
}
ONE_RATE = Row(
    "update.one_learning_rate",
    CAUSE,
    "one learning rate for all parameters: {lr} (reference: backbone {backbone}, head {head})",
    help="give two parameter groups: backbone {backbone}, head {head}",
    flag="--lr-backbone {lr} --lr-head {lr}",
)
SWAPPED_RATES = Row(
    "update.learning_rates_swapped",
    CAUSE,
    "the learning rates of backbone and head are swapped",
    help="give the backbone the smaller learning rate, the head the larger",
    flag="--lr-backbone {head} --lr-head {backbone}",
)
RATES = Row(
    "update.learning_rates",
    CAUSE,
    "learning rates are {lr} (reference: backbone {backbone}, head {head})",
    help="give two parameter groups: backbone {backbone}, head {head}",
    flag=rate_flags,
)
STATE_LOADED = Row(
    "update.state_loaded",
    DECLARED,
    "the optimizer starts with a state, as one that was loaded does",
)
STATE_CHANGED = Row(
    "update.state_changed",
    UNEXPLAINED,
    "the optimizer's {entry}[ of {parameters}] is not what the step before left",
)
CHANGED_BEFORE = Row(
    "update.changed_before",
    UNEXPLAINED,
    "parameters change between the forward passes and the optimizer step",
)
MULTIPLIED = afterwards(
    "multiplied",
    "parameters are multiplied by {factor} after the optimizer step",
    lambda step, values: values["factor"] * step.after,
    lambda steps, changes: [{"factor": factor_between([steps[0].after], [steps[0].later])}],
    help="do not change parameters after the step",
    at=("moved", "step"),
)
AVERAGED = afterwards(
    "moving_average",
    "parameters are replaced by their exponential moving average, decay {decay}",
    lambda step, values: values["decay"] * step.before + (1 - values["decay"]) * step.after,
    lambda steps, changes: decays(steps),
    help="keep the average apart from the parameters that are trained",
    at=("moved", "step"),
)
AFTERWARDS = (MULTIPLIED, AVERAGED)
ONE_OF = one_of("update")
CHANGED_AFTER = Row(
    "update.changed_after",
    UNEXPLAINED,
    "parameters change between the optimizer step and the next batch[: {parameters}][; they become "
    "{like}][; they are then what the step made, {relation}]",
    varies=("like", "relation"),
)
