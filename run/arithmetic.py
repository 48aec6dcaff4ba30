"""How numbers are rounded: determinism, number format, memory order, autocast, torch.compile."""

import os

import torch
from torch import nn

from disk.errors import fail_on, stop

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts


def set_arithmetic(args):
    """Deterministic algorithms, and float32 as it is written but where args says --tf32."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads such memory
    # Not through fp32_precision, the newer names: torch.compile reads these two, and PyTorch 2.11
    # ends a program that reads the one after it has set the other.
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    torch.backends.cudnn.allow_tf32 = args.tf32


def shape_model(args, ranker):
    """Puts the ranker, in place, into the number format and memory order that args asks for."""
    if args.float64:
        ranker.double()
    if args.channels_last:
        ranker.to(memory_format=torch.channels_last)


def change_passes(args, ranker):
    """Puts autocast and torch.compile, in training alone, around the backbone's forward pass.

    Only the plain function is compiled, so that the module's hooks stay outside of the graph.
    """
    if not (args.amp or args.compile):
        return
    backbone, plain = ranker.backbone, ranker.backbone.forward
    dtype = next(ranker.parameters()).dtype
    # fallback_random: dropout draws the same numbers as without
    options = {"dynamic": False, "options": {"fallback_random": True}}
    fast = torch.compile(plain, **options) if args.compile else plain

    def forward(photo):
        if not backbone.training:
            return plain(photo)
        with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.amp):
            features = fast(photo)
        return features.to(dtype)

    backbone.forward = forward


def whole_step(args):
    """Context of a whole step, without which each pass of a step would cast the weights again.

    PyTorch drops the casts where the outermost autocast ends; this one casts nothing itself.
    """
    return torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=False)


def check_model(args, ranker, pairs):
    """Ends the program where this ranker cannot be trained so, on this number of pairs."""
    modules = list(ranker.modules())
    has_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in modules)
    if has_norm and args.size < 64 and 1 in (args.batch_size, pairs % args.batch_size):
        stop(__file__, f"--size {args.size}: a batch of one pair leaves BatchNorm a single value")
    pools = [m.output_size for m in modules if isinstance(m, nn.AdaptiveAvgPool2d)]
    if args.device != "cpu" and any(size not in (1, (1, 1)) for size in pools):
        advice = "VGG-16 takes --size 224 there, or --device cpu"
        stop(__file__, f"--size {args.size}: no deterministic pooling on a GPU; {advice}")
    if args.compile:  # tried on a trifle
        with fail_on(__file__, "--compile", Exception):
            torch.compile(torch.sin)(torch.ones(2, device=args.device))
