"""What explains somebody else's trainer, labels or predictions. Nothing below imports it.

A trainer, in the order of reading: record (what it did: one file, to be copied), compare (the way
through all stages, and the answer), changes (the table of what people do), then the stages: pairs
and inputs, start, replay (features, head), losses, gradients, updates and rates, printed; beside
them trace (the form of a record) and finding (what can be said). Labels: audit, labels, tables,
align. Predictions: judge.
"""
