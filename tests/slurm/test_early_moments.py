"""Preempted within seconds of its start, at whatever moment, a run comes back and ends as if left alone.

CHAOS_PREEMPTIONS=30 tries so many random moments, from 0 to 20 s after the start, on a node for each job.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, Setup, why_not
from lab import Lab
from trainings import assert_same, run_to_end, state_of

from segtrain.config import CheckpointConfig, Config, EvaluateConfig, TrainConfig

NODES = 4
LONGEST_S = 20.0
DRAW = random.Random(int(os.environ.get("CHAOS_SEED", "23")))
MORE_S = [round(DRAW.uniform(0.0, LONGEST_S), 2) for _ in range(int(os.environ.get("CHAOS_PREEMPTIONS", "4")) - 4)]
MOMENTS_S = [0.0, 0.3, 1.0, 2.5, *MORE_S]


@pytest.fixture(scope="module")
def short(fragile: Config) -> Config:
    """A run that is not done within the grace time, on a quick machine either."""
    return replace(
        fragile,
        name="short",
        train=TrainConfig(epochs=24, global_batch=8),
        evaluate=EvaluateConfig(every_epochs=12, pictures=0),
        checkpoint=CheckpointConfig(every_min=0.02),
    )


@pytest.fixture(scope="module")
def alone(short: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What it leaves behind when nobody touches it, on one rank."""
    return state_of(run_to_end(tmp_path_factory.mktemp("alone"), short, 1))


def submit(lab: Lab, runs: dict[str, Config]) -> dict[str, str]:
    """A job for each run, on a node of its own, in the way that its name begins with; they start together."""
    jobs = {}
    for (name, cfg), node in zip(runs.items(), lab.cluster.nodes, strict=False):
        if name.startswith("submitit"):
            jobs[name] = lab.submit(cfg, "--slurm", "hold", "--slurm", f"nodelist={node}", "--cpus-per-node", "1")
        else:
            options = ("--hold", f"--nodelist={node}", "--cpus-per-task=1")
            jobs[name] = lab.sbatch("preemptible.sbatch", "--config", lab.give(cfg), options=options)
    lab.call("scontrol", "release", *jobs.values())
    return jobs


def preempt(lab: Lab, run: str, job: str, node: str, moment_s: float) -> Iterator[None]:
    """Preempt the job when it has run for so long; goes a step further each time that it is asked.

    In the middle of the run its ranks stand still until then.
    """
    while lab.state(job) != "RUNNING":
        yield
    due_s = time.monotonic() + moment_s
    while time.monotonic() < due_s:
        if lab.step(run) > 30:
            lab.kill_ranks(signal.SIGSTOP, run)
        yield
    assert lab.state(job) == "RUNNING", "too short a run"
    lab.sbatch_wrap("sleep 0.1", "--partition=high", f"--nodelist={node}", "--exclusive")
    while lab.shown(job, "PreemptTime") == "None" and lab.shown(job, "Restarts") == "0":
        yield
    lab.kill_ranks(signal.SIGCONT, run)
    while lab.shown(job, "Restarts") == "0":
        assert lab.state(job) != "COMPLETED", f"{run}: done within the grace time, too short a run"
        yield


def all_at_once(tasks: Sequence[Iterator[None]], patience_s: float = 240.0) -> None:
    """Do what they do, a step of each in turn."""
    end = time.monotonic() + patience_s
    left = list(tasks)
    while left:
        assert time.monotonic() < end
        left = [task for task in left if next(task, task) is not task]
        time.sleep(0.05)


@pytest.fixture
def many_nodes(tmp_path: Path) -> Iterator[Lab]:
    """A cluster of its own, since each job needs a node to be preempted at its own moment."""
    if reason := why_not():
        pytest.skip(f"no SLURM cluster here: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    made = Cluster(folder)
    try:
        made.start(Setup(nodes=NODES, gpus=0, cpus=2, prefix="v", accounting=False, grace_s=12))
        yield Lab(made, tmp_path)
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.law("L6")
@pytest.mark.law("L14")
def test_a_run_that_is_preempted_soon_after_its_start_comes_back_and_ends_the_same(
    many_nodes: Lab, short: Config, alone: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    lab = many_nodes
    lab.env["NPROC"] = "1"
    slow = lab.folder / "slow"  # Python takes seconds to start on the file systems of clusters
    slow.mkdir()
    (slow / "sitecustomize.py").write_text("import os, time\nif 'SLURM_PROCID' in os.environ:\n    time.sleep(1.5)\n")
    lab.env["PYTHONPATH"] += f":{slow}"
    for first in range(0, len(MOMENTS_S), NODES):
        moments_s = MOMENTS_S[first : first + NODES]
        ways = ("submitit", "sbatch") if (first // NODES) % 2 == 0 else ("sbatch", "submitit")
        names = [f"{ways[number % 2]}-{first + number:02d}" for number in range(len(moments_s))]
        runs = {name: replace(short, name=name) for name in names}
        jobs = submit(lab, runs)
        at_s = dict(zip(names, moments_s, strict=True))
        all_at_once(
            [
                preempt(lab, name, jobs[name], node, at_s[name])
                for name, node in zip(names, lab.cluster.nodes, strict=False)
            ]
        )
        for name, cfg in runs.items():
            assert lab.until_over(jobs[name], 300) == "COMPLETED", f"{name}: {lab.told()}"
            assert_same(state_of(lab.runs / cfg.name), alone)
            ends = [entry["how"] for entry in lab.history(name) if entry["event"] == "end"]
            with capsys.disabled():
                print(f"{name}: preempted {at_s[name]:5.2f} s after its start, came back; {ends}", flush=True)
    assert "Traceback" not in lab.told(), "of torchrun, at a stop that is an ordinary one"
