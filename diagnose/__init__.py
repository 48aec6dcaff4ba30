"""What explains somebody else's trainer, labels or predictions. Nothing below imports it."""
