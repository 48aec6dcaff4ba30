"""The flags of a page: those of its RECIPE and the two tables below, checked in one place.

A row reads name: (default, what is allowed, explanation with source). Allowed are two numbers (a
range, both ends included), words (a choice), or None (anything; a switch, where the default is
False).
"""

import torch

import data
from disk.errors import command_line, stop
from run.evidence import end_on_signals
from run.folder import check_out, recipe_name, source_checksums

METAVARS = {int: "N", float: "X", str: "TEXT"}  # the placeholder of a value in --help
# Flags that say where to run and what to keep; none of them changes a number.
RUN_FLAGS = {
    "data": ("data/phototriage", None, "folder of the dataset in the official layout"),
    "out": ("", None, "run folder; runs/ and the recipe's name where empty"),
    "resume": (False, None, "go on from last.pt in --out"),
    "save_every": (500, (1, 10**9), "steps between two writes of last.pt"),
    "step_log": (False, None, "flush a line per phase of a step to step.log, to hunt a crash"),
    "store": ("data/stores", None, "folder of the decoded photos; may be deleted when not in use"),
    "device": ("auto", None, "auto, cpu, cuda, cuda:1, ..."),
}
# Flags that change the rounding of every number, and the speed; see docs/speed.md.
ROUNDING_FLAGS = {
    "float64": (False, None, "train in double"),
    "channels_last": (False, None, "weights and activations with the channels innermost in memory"),
    "amp": (False, None, "the backbone's passes of training in bfloat16 (autocast)"),
    "compile": (False, None, "the backbone's passes of training through torch.compile"),
    "tf32": (False, None, "TensorFloat-32 on a GPU (PyTorch's own default in convolutions)"),
}


def arguments(script, doc, recipe, argv=None):
    """The flags of a page (its __file__): those of its recipe and of the two tables above.

    Adds `recipe` (the page's name), `changed` (what departs from the recipe) and resolves
    `device` and `out`. A wrong value ends the program with one line, before any work is done.
    """
    parser, rows = command_line(script, doc), recipe | RUN_FLAGS | ROUNDING_FLAGS
    groups = ("the recipe, with its sources", recipe), ("this run", RUN_FLAGS)
    for title, flags in (*groups, ("rounding and speed", ROUNDING_FLAGS)):
        group = parser.add_argument_group(title)
        for key, row in flags.items():
            add_flag(group, key, *row)
    args = parser.parse_args(argv)
    end_on_signals()
    for key, row in rows.items():
        check_value(script, key, getattr(args, key), *row)
    check_together(script, args)
    args.device = resolve_device(script, args.device)
    args.recipe = recipe_name(script)
    args.out = args.out or f"runs/{args.recipe}"
    args.changed = [key for key, (default, *_) in recipe.items() if getattr(args, key) != default]
    args.changed += [key for key in ROUNDING_FLAGS if getattr(args, key)]
    check_out(args, own_settings(args))
    return args


def add_flag(group, key, default, allowed, explanation):
    """Adds one flag; a list takes several values (numbers where it is empty), a switch none."""
    written = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    shown = f" (default: {written})" if written and default is not False else ""
    options = {"default": default, "help": f"{explanation}{shown}".replace("%", "%%")}
    if default is False:
        options["action"] = "store_true"
    elif isinstance(default, list):
        options |= {"nargs": "*", "type": type(default[0]) if default else int, "metavar": "N"}
    else:
        words = allowed if allowed and isinstance(allowed[0], str) else None
        options |= {"type": type(default), "choices": words}
        options["metavar"] = None if words else METAVARS[type(default)]
    group.add_argument(f"--{key.replace('_', '-')}", **options)


def check_value(script, key, value, default, allowed, explanation):
    """Ends the program where a number is out of its range."""
    if allowed is None or isinstance(allowed[0], str):
        return
    low, high = allowed
    if not all(low <= v <= high for v in (value if isinstance(value, list) else [value])):
        stop(script, f"--{key.replace('_', '-')} {value}: not in {low}..{high}")


def check_together(script, args):
    """Ends the program where a value, or two of them together, make no sense."""
    if args.size % 32:
        stop(script, f"--size {args.size}: not a multiple of 32")
    if data.parse_color(args.pad_color) is None:
        stop(script, f"--pad-color {args.pad_color}: not imagenet, train or R,G,B in 0..255")
    if args.dropout and not args.hidden:
        text = "the direct head has no layer to drop; see --hidden"
        stop(script, f"--dropout {args.dropout}: {text}")
    if args.float64 and (args.amp or args.tf32):
        stop(script, "--float64: excludes --amp and --tf32")
    if args.tf32 and resolve_device(script, args.device) == "cpu":
        stop(script, "--tf32: a CPU has no TensorFloat-32")


def resolve_device(script, name):
    """`auto` as cuda or cpu; ends the program where the device does not exist."""
    count = torch.cuda.device_count()
    known = ["cpu"] + (["cuda"] if count else []) + [f"cuda:{i}" for i in range(count)]
    if name != "auto" and name not in known:
        stop(script, f"--device {name}: not among auto, {', '.join(known)}")
    if ":" in name:
        torch.cuda.set_device(name)  # what is asked without a device is meant of this one
    return ("cuda" if count else "cpu") if name == "auto" else name


def own_settings(args):
    """{key: value} of all that may change a number: the recipe, rounding, checksums of the code."""
    own = {key: value for key, value in vars(args).items() if key not in RUN_FLAGS}
    return {"recipe": args.recipe} | own | {"sources": source_checksums(args.recipe)}
