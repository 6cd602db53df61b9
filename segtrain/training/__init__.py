"""From a config to a trained run.

rank.py            the training of this process: checks that need no torch, then the session
session.py         one training from its first word to its last
start.py           the one start sequence: refuse, prepare, split, order, build
split_version.py   the definition of the split: the run's, or that of the runs beside it
auto_precision.py  precision=auto: a trial of the number types
auto_compile.py    model.compile=auto: a trial of the run's own step
in_step.py         ranks that work for different times before the first step
build.py           network, loss and engine, put together
parts.py           the parts of the user's own: a line about each, all trials of one
preflight.py       the start sequence, dry, for the runs of an ablation
resume.py          where a run stands; what was written after its newest checkpoint is forgotten
loop.py            the training loop
log.py             losses, events, curves, pictures, the progress bar
clock.py           when a save is due, how long the next step may take
micro_batch.py     steps that fit into memory
watch.py           what each rank uses and where it stands
"""
