"""A node that crashes, a slurmd that dies: the run ends right or is reported failed, and nothing hangs."""

import signal
from dataclasses import replace
from typing import Any

import pytest
from lab import Lab

from segtrain.config import Config


@pytest.mark.law("L6")
def test_a_crashed_node_takes_its_jobs_down_within_a_minute_and_they_come_back(
    lab: Lab, lasting: Config, left_alone: dict[str, Any]
) -> None:
    """Two runs at a time, one through submitit and one through sbatch, so that the waiting is done once."""
    lab.env["NPROC"] = "1"
    runs = {how: replace(lasting, name=how) for how in ("submitit", "sbatch")}
    jobs = {
        "submitit": lab.submit(runs["submitit"], "--nodes", "2"),
        "sbatch": lab.sbatch(
            "preemptible.sbatch", "--config", lab.give(runs["sbatch"]), options=("--nodes=2", "--cpus-per-task=1")
        ),
    }
    for how in runs:
        lab.until_step(how, 60)
    lab.cluster.kill_node(lab.cluster.nodes[1])
    lab.until("no rank is left", lambda: not lab.ranks(), 60)
    for job in jobs.values():
        lab.until("the job waits for a whole cluster", lambda: lab.state(job) == "PENDING")  # noqa: B023
    # SLURM 22.05 may start a job on a node that is just joining and give it no step: "allocated node count (2 != 1)".
    lab.cluster.tool("scontrol", "update", "PartitionName=low", "State=DOWN")
    lab.cluster.boot(lab.cluster.nodes[1])
    lab.until("both nodes are free", lambda: lab.cluster.node_states() == ["idle", "idle"])
    lab.cluster.tool("scontrol", "update", "PartitionName=low", "State=UP")
    for how, cfg in runs.items():
        lab.ends_the_same(cfg, jobs[how], left_alone)


@pytest.mark.law("L6")
def test_a_killed_slurmd_leaves_a_run_that_ends_right_or_is_reported_failed(
    lab: Lab, lasting: Config, left_alone: dict[str, Any]
) -> None:
    """The ranks of that node live on without it: until they miss the others, or the next start tells them to leave.

    SLURM 22.05 may fail to start the task on the node that returns, since it still clears what it had left there: then
    the first node gives it up. Two runs at a time, over both nodes and on that one alone, so that the waiting is done
    once.
    """
    first, second = lab.cluster.nodes
    spread, orphan = (replace(lasting, name=name) for name in ("spread", "orphan"))
    jobs = {
        "spread": lab.submit(spread, "--nodes", "2", "--meet-s", "40"),
        "orphan": lab.submit(orphan, "--processes-per-node", "2", "--slurm", f"nodelist={second}"),
    }
    for name in jobs:
        lab.until_step(name, 60)
        lab.kill_ranks(signal.SIGSTOP, name)  # they would be done before SLURM notices
    lab.cluster.kill_slurmd(second)
    for job in jobs.values():
        lab.until("SLURM gives the node up", lambda: lab.state(job) == "PENDING")  # noqa: B023
    lab.call("scontrol", "update", f"jobid={jobs['orphan']}", f"reqnodelist={first}")
    lab.until("the next start waits", lambda: (lab.runs / "orphan" / "STOP").exists())
    for name in jobs:
        lab.kill_ranks(signal.SIGCONT, name)
    lab.until("it is taken over", lambda: lab.starts("orphan") == 2)
    lab.cluster.boot(second)
    for cfg in (spread, orphan):
        lab.ends_the_same(cfg, jobs[cfg.name], left_alone)
    assert [entry["how"] for entry in lab.history("orphan") if entry["event"] == "end"] == ["cut off", "finished"]
