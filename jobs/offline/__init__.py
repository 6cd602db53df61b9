"""A queue of trainings left alone on one machine: `python -m jobs.offline QUEUE.yaml`. Nothing here imports torch.

__main__   the command
plan       QUEUE.yaml, or an ablation's spec, as runs with what each may cost
journal    what happened, on disk; what becomes of a run follows from it and from the run's directory
machine    GPUs, free space, the time that is left, locks
runner     starts what is due, tells what runs to stop, writes down how it ended
words      why a start failed, from what it left behind
patience   tries again what fails, leaves behind what hangs
mirror     the mirror while the runs train
sync       run directories to another place and back (fsspec)
archive    results.zip and its checksum
finish     report, archive, last sync, the command when done
"""
