"""What a process needs of its machine.

files.py       whole files or none: written aside, synced, renamed; rights in folders that a group shares
lock.py        locks of files that several users share
terminal.py    progress bars and tables
process.py     logging, exit codes
launcher.py    what torchrun, srun or a scheduler tells this process
machine.py     what a machine may lack: semaphores, open files, processes, a name, a compiler
workers.py     processes that compute beside this one
allocator.py   glibc keeps freed memory, before torch is imported
usage.py       what this process uses: CPU, memory, GPU
stop.py        when to stop: signals, the STOP file, a deadline
world.py       the ranks of a job and what they say to each other (torch)
"""
