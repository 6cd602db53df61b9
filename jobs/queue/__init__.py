"""Runs on one machine, without SLURM: the queue of `segtrain ablate`, `segtrain offline` and `--executor local`.

items        the runs of a queue
journal      what happened, on disk; what becomes of a run follows from it and from the run's directory
child        one start of a run: its process, its log, how it ended
runner       starts what is due, has runs stop, records how each start ended
preflight    which runs training would refuse, before the first is started
foreground   a queue that somebody watches at a terminal
machine      GPUs, free space, the time that is left, locks
diagnosis    why a start ended as it did
"""
