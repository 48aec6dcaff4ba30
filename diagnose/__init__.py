"""What explains somebody else's trainer, labels or predictions. Nothing below imports it.

A trainer, in the order of reading: record (what it did: one file, to be copied), compare (the way
through all stages), stages/ (a file per stage, with the rows of what can be found in it), answer
(what the findings come to). Below them: trace (the form of a record), reference (the page's
network with the trainer's weights), official and preprocessing (which photos these are, and how
they were prepared), numerics (when two tensors are equal), finding (findings of several steps).

Labels: labels/ (judge, search, align). Predictions: predictions. The dataset itself: dataset.
tables reads the files that people bring.
"""
