"""How far a comparison is, with the time that is left."""

import time
from collections import Counter

from disk.errors import show_progress

# The parts of a comparison and their shares of its time, measured with ResNet-50 at 64 pixels.
SHARES = {
    "identifying photos": 1,
    "repeating forward passes": 3,
    "repeating backward passes": 8,
}


class Progress:
    """The progress line of a comparison of so many batches.

    The first batch is not counted: with it all photos are looked at, and preparations are tried.
    """

    def __init__(self, batches):
        self.begin, self.batches, self.done = None, batches, Counter()

    def advance(self, part):
        """Tells that one of SHARES is done for one more batch."""
        self.done[part] += 1
        text = f"{part}: batch {self.done[part]}/{self.batches}"
        done = sum(SHARES[name] * count for name, count in self.done.items())
        if self.begin is None:
            self.begin, self.first = time.monotonic(), done
        else:
            rate = (time.monotonic() - self.begin) / (done - self.first)
            left = round(rate * (self.batches * sum(SHARES.values()) - done))
            text += f"  {left // 60}:{left % 60:02d} left"
        show_progress(text)
