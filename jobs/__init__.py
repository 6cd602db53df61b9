"""Trainings as jobs: submitted through submitit, requeued while they make progress. Nothing here imports torch.

submit, ablate, status, logs, cancel, clean   the commands, each also `segtrain NAME`
checks, partitions                 what is found before a job is submitted; what the cluster's partitions give
network                            where the first node is reached
offline/                           the command for a queue of runs on one machine, left alone
queue/                             runs on one machine without SLURM: one runner for all commands
sbatch, resubmit, local            starting a job: on a cluster, through submitit; again; as a process of this machine
job.sh                             what batch scripts have in common: signals, the way back into the queue
submission, resources              the snapshot that goes with a job; what a job asks of the cluster
node, rendezvous                   a node of a job: torchrun, signals; addresses and heartbeats of the nodes
launch, rank                       torchrun, and what it starts: segtrain.train, whose end is written down
requeue, history, takeover         what becomes of a job after a start; a run's starts; processes that outlive theirs
cut_off                            the same, by the batch script, of a start whose first node was killed
batch                              questions of the templates in slurm/
ablation_report                    results.csv and report, when all runs of an ablation have ended
overview, run_state, progress      all runs with their jobs; the state of one; what its ranks do
status_table, outputs              the table of all runs; the files that hold a run's output
lookup, scheduler                  what SLURM says of a job, believed only if it is that job's; squeue, sacct, scontrol
"""
