"""A queue of trainings left alone on one machine: `segtrain offline QUEUE.yaml`. Nothing here imports torch.

__main__     the command
queue_file   QUEUE.yaml, or an ablation's spec, as a queue (jobs.queue)
mirror       the mirror of the runs while they train
sync         run directories to another place and back
own_files    the queue's journal and logs to another place and back
results      results.zip to another place
upload       one upload of a folder's files
manifest     the list of a mirror's files
objects      the content of a mirror's files
damage       what a run can do without
location     a folder at any address of fsspec
spot         the notice that a cloud takes this machine back
store_retry  tries again what fails, leaves behind what hangs
archive      results.zip and its checksum
wrap_up      report, archive, last sync, the command when done
"""
