"""Tiny backbones instead of ResNet-50 and VGG-16.

    PYTHONPATH=. python tests/tiny.py SCRIPT [flags]

Without a script it waits for lines on stdin, JSON of [words, DIE, limit in bytes of a file it
writes or 0, file for stderr], runs each in a fork of its own, which has imported everything
already, and prints the exit code.

With DIE=FUNCTION[@WORD]:N:before|after:SIGNAL in the environment the process sends itself that
signal at the N-th call of the function (with WORD in an argument); with the signal `segv` it reads
from address 0. FUNCTION: module.function, of the module that calls it, or module:Class.method.
"""

import faulthandler
import importlib
import json
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


def run(words, where=""):
    """A script with tiny backbones, in this process."""
    install()
    if where:
        die(*where.rsplit(":", 3))
    importlib.import_module(words[0]).main(words[1:])


def serve():
    """Runs every line of stdin in a fork."""
    for line in sys.stdin:
        words, where, limit, errors = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.alarm(100)  # seconds: a run that hangs ends
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return run(words, where)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


if __name__ == "__main__":
    if sys.argv[1:]:
        run(sys.argv[1:], os.environ.get("DIE", ""))
    else:
        import resource

        for page in ("variants.train_frozen", "eval"):
            importlib.import_module(page)
        serve()
