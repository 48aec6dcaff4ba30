"""The stages of a training step, in the order of execution: a file each, named as the stage.

A file holds the rows of what can be found in its stage (diagnose.finding.Row, and tables of
changes that are tried), and the function that finds them.
"""

STAGES = ("pairs", "labels", "inputs", "start", "features", "head", "loss", "gradients")
STAGES += ("update", "printed")
