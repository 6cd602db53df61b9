"""Trainings as jobs: submitted through submitit, requeued while they make progress. Nothing here imports torch.

submit, ablate, status, cancel     the commands
executors                          submitit's sbatch script; the same in the foreground without a cluster
submission, resources              the snapshot that goes with a job; what a job asks the cluster for
node, meeting                      what runs on every node of a job: torchrun, signals, addresses, heartbeats
rank                               what torchrun starts: segtrain.train, whose exit code is written down
batch                              what the templates in slurm/ ask
ending, book                       what becomes of a job after a start; what its starts gained
offline/                           the command for a queue of runs on one machine, left alone
table                              results.csv and report, when all runs of an ablation have ended
scheduler, entry                   squeue, scontrol, scancel; how commands are called
"""
