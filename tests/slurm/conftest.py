"""One cluster for all tests of this folder; skipped, with the reason, where the machine cannot run it."""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, Setup, proctrack, why_not
from lab import Lab
from trainings import run_to_end, state_of
from workers import WORKER

from segtrain.config import CheckpointConfig, Config, EvaluateConfig, TrainConfig


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes of four CPUs, partitions low and high, with accounting; one for each worker that needs it."""
    if reason := why_not():
        pytest.skip(f"no SLURM cluster here: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    made = Cluster(folder)
    try:
        # Device files are not to be had in every container. Nodes of two clusters may not share a name: their cgroups.
        made.start(Setup(gpus=0, prefix="nmopqrst"[WORKER % 8]))
        print(f"SLURM follows processes by {': '.join(proctrack())}", file=sys.stderr)
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def lab(cluster: Cluster, tmp_path: Path) -> Iterator[Lab]:
    """A folder to submit from; afterwards the cluster is empty and whole again."""
    yield Lab(cluster, tmp_path)
    cluster.tool("scancel", "--full", "-u", "root")
    cluster.tool("scancel", "-s", "KILL", "-u", "root")
    for node in cluster.nodes:
        cluster.boot(node)
    end = time.monotonic() + 90
    while (cluster.tool("squeue", "-h").strip() or set(cluster.node_states()) != {"idle"}) and time.monotonic() < end:
        if "down" in " ".join(cluster.node_states()):
            cluster.tool("scontrol", "update", f"nodename={','.join(cluster.nodes)}", "state=resume")
        time.sleep(0.3)
    assert set(cluster.node_states()) == {"idle"}, cluster.tool("sinfo", "-N", "-l")


@pytest.fixture(scope="session")
def brief(fragile: Config) -> Config:
    """A run of an array: one epoch."""
    return replace(fragile, name="base", train=TrainConfig(epochs=1, global_batch=8))


@pytest.fixture(scope="session")
def lasting(fragile: Config) -> Config:
    """Long enough to be caught in the middle several times: 390 steps."""
    return replace(
        fragile,
        name="lasting",
        train=TrainConfig(epochs=26, global_batch=8),
        evaluate=EvaluateConfig(every_epochs=10, pictures=0),
        checkpoint=CheckpointConfig(every_min=0.02),
    )


@pytest.fixture(scope="session")
def left_alone(lasting: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run leaves behind when nobody touches it, on two ranks."""
    return state_of(run_to_end(tmp_path_factory.mktemp("left-alone"), lasting, 2))
