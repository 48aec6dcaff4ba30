"""The stages of a training step, in the order of execution: a file each, named as the stage.

A file holds the rows of what can be found in its stage (run.findings.Row, and the changes that are
tried, diagnose.explain.Change). What finds them is below the rows or, where that is long, in
judge_STAGE.py. tricks.py has rows of `gradients`, schedule.py rows of `update`,
values.py rows of `inputs`, mixups.py rows of `pairs` and `labels`, replicas.py
rows of `features` and `update`. ways.py has the kind of row that
`inputs` has; judge_rows.py says what an unknown loss does, pair by pair.
"""

STAGES = ("pairs", "labels", "inputs", "start", "features", "head", "loss", "gradients")
STAGES += ("update", "printed", "evaluation")
