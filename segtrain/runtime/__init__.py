"""What a process needs of its machine.

files.py       whole files or none: written aside, synced, renamed; rights in folders that a group shares
outbox.py      writes in order, by a thread, which wait in memory while their folder is full, closed, stale or slow
lock.py        locks of files that several users share; lock_file.py: those where there is no flock
terminal.py    progress bars and tables
visible.py     control characters of names and messages, shown; cells.py: CSV tables; zip_names.py: names in archives
process.py     logging, exit codes
launcher.py    what torchrun, srun or a scheduler tells this process
addresses.py   where processes of this machine listen
torchrun.py    torchrun that listens at one address; torchrun_rendezvous.py (torch): how its launchers meet
cpus.py        how many CPUs this process may use
machine.py     what a machine may lack: semaphores, open files, processes, space, a name, a compiler
workers.py     processes that compute beside this one
allocator.py   glibc keeps freed memory, before torch is imported
out_of_memory.py  errors that mean there was not enough memory (torch)
usage.py       what this process uses: CPU, memory, GPU
stop.py        when to stop: signals, the STOP file, a deadline
store.py       the store of the ranks, served at one address (torch)
world.py       the ranks of a job and what they say to each other (torch)
"""
