"""The judge of predictions: what reads a file of them, and what is said of it."""
