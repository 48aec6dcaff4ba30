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
    """The progress line of a comparison of so many batches."""

    def __init__(self, batches):
        self.begin, self.batches, self.done = time.monotonic(), batches, Counter()

    def advance(self, part):
        """Tells that one of SHARES is done for one more batch."""
        self.done[part] += 1
        done = sum(SHARES[name] * count for name, count in self.done.items())
        whole = self.batches * sum(SHARES.values())
        left = round((time.monotonic() - self.begin) * (whole / done - 1))
        text = f"{part}: batch {self.done[part]}/{self.batches}"
        show_progress(f"{text}  {left // 60}:{left % 60:02d} left")
