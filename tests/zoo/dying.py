"""A trainer that dies or hangs in a step, as real ones do.

    python dying.py HOW STEP WHERE

HOW: a name of ENDS, or `none`. WHERE: `second` (before the second forward pass), `backward`, or
`worker` (of the loader).
"""

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset


def exhaust():
    """Asks for more memory than the process may have."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
    torch.zeros(1 << 34)


def raise_error():
    raise ValueError("photo 7 is broken")


ENDS = {
    "segv": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": os.abort,
    "os_exit": lambda: os._exit(3),
    "c_exit": lambda: ctypes.CDLL(None).exit(4),
    "sys_exit": lambda: sys.exit(5),
    "error": raise_error,
    "stack": faulthandler._stack_overflow,
    "memory": exhaust,
    "hang": lambda: time.sleep(3),
}


def end(where):
    """Ends here, where that is asked for."""
    if where == WHERE and (step == STEP or where == "worker"):
        ENDS.get(HOW, int)()


class Ends(torch.autograd.Function):
    """What it is given; ends in backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        end("backward")
        return gradient


class Pairs(Dataset):
    """Pairs of noise."""

    def __len__(self):
        return 40

    def __getitem__(self, place):
        if place == 20:
            end("worker")
        rng = torch.Generator().manual_seed(place)
        return *(torch.rand(3, 16, 16, generator=rng) for _ in range(2)), place % 2


HOW, STEP, WHERE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
step = 1
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Flatten(), torch.nn.Linear(32, 16))
head = torch.nn.Linear(16, 2)
optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], 1e-3, momentum=0.9)
for first, second, label in DataLoader(Pairs(), 4, num_workers=int(WHERE == "worker")):
    a = net(first)
    end("second")
    b = net(second)
    loss = torch.nn.functional.cross_entropy(head(Ends.apply(a - b)), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step} loss {loss.item():.6f}", flush=True)
    step += 1
