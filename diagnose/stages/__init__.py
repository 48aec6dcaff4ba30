"""The stages of a training step, in the order of execution: a file each, named as the stage.

A file holds the rows of what can be found in its stage (run.findings.Row, and the changes that are
tried, diagnose.explain.Change). What finds them is below the rows or, where that is long, in
judge_STAGE.py. tricks.py has rows of `gradients`, schedule.py rows of `update`.
"""

STAGES = ("pairs", "labels", "inputs", "start", "features", "head", "loss", "gradients")
STAGES += ("update", "printed")
