"""A queue of trainings left alone on one machine: `segtrain offline QUEUE.yaml`. Nothing here imports torch.

__main__     the command
queue_file   QUEUE.yaml, or an ablation's spec, as a queue (jobs.queue)
mirror       the mirror of the runs while they train
sync         run directories to another place and back (fsspec)
store_retry  tries again what fails, leaves behind what hangs
archive      results.zip and its checksum
wrap_up      report, archive, last sync, the command when done
"""
