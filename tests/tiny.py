"""Tiny backbones in the place of ResNet-50 and VGG-16.

    PYTHONPATH=. python tests/tiny.py SCRIPT [flags]

With DIE=FUNCTION[@WORD]:N:before|after:SIGNAL in the environment the process sends itself that
signal at the N-th call of the function (with WORD in an argument); with the signal `segv` it reads
from address 0. FUNCTION: module.function, of the module that calls it, or module:Class.method.
"""

import faulthandler
import importlib
import os
import pkgutil
import signal
import sys

from torch import nn

import train_resnet
import train_vgg
from variants import features, train_finetune


def backbone(features, norm):
    """[B, 3, S, S] to [B, features]: one strided convolution and one linear layer."""
    layers = [nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8)] if norm else [nn.Conv2d(3, 8, 8, 8)]
    layers += [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, features)]
    return nn.Sequential(*layers)


def install(setattr=setattr):
    """Puts the tiny backbones into all recipes."""
    setattr(train_resnet, "resnet50", lambda weights: backbone(2048, norm=True))
    setattr(train_vgg, "vgg16", lambda weights, size, dropout: backbone(4096, norm=False))
    for module in (features, train_finetune):
        setattr(module, "resnet50", lambda weights: backbone(2048, norm=True))


def die(target, count, when, how):
    """Replaces a function, or a method, by one that kills the process at its count-th call."""
    target, _, word = target.partition("@")
    owner, name = target.rsplit(".", 1)
    owner = pkgutil.resolve_name(owner)
    function, calls = getattr(owner, name), []

    def kill():
        faulthandler._sigsegv() if how == "segv" else os.kill(os.getpid(), signal.Signals[how])

    def replacement(*args, **options):
        calls.extend([name] if word in str(args) else [])
        now = word in str(args) and len(calls) == int(count)
        if now and when == "before":
            kill()
        result = function(*args, **options)
        if now and when == "after":
            kill()
        return result

    setattr(owner, name, replacement)


if __name__ == "__main__":
    install()
    if "DIE" in os.environ:
        die(*os.environ["DIE"].rsplit(":", 3))
    importlib.import_module(sys.argv[1]).main(sys.argv[2:])
