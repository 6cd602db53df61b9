"""Checks of the machine and the config: what would fail after hours is found in seconds.

checks.py     all checks in order
software.py   Python, packages, devices, a compiler, DeepSpeed
limits.py     CPUs, semaphores, open files, processes
talk.py       ports, an all-reduce between ranks, signals through torchrun (rank.py is one of those ranks)
listening.py  what listens to the network
cluster.py    SLURM's commands, queue and accounting
forecast.py   memory, hours and cost, from steps that trial.py measures in a process of its own
disk.py       room, rename, fsync and locks of store and runs
finding.py    the result of a check
"""
