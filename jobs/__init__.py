"""Trainings as jobs: submitted through submitit, requeued while they make progress. Nothing here imports torch.

submit, ablate, status, cancel     the commands, each also `segtrain NAME`
offline/                           the command for a queue of runs on one machine, left alone
queue/                             runs on one machine without SLURM: one runner for all commands
sbatch, local                      starting a job: on a cluster, through submitit; as a process of this machine
submission, resources              the snapshot that goes with a job; what a job asks of the cluster
node, rendezvous                   a node of a job: torchrun, signals; addresses and heartbeats of the nodes
rank                               what torchrun starts: segtrain.train, whose end is written down
requeue, history                   what becomes of a job after a start; the history of a run's starts
batch                              questions of the templates in slurm/
ablation_report                    results.csv and report, when all runs of an ablation have ended
progress, status_table             what the ranks of a run do; the table of all runs
scheduler                          squeue, scontrol, scancel
"""
