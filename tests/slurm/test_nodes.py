"""Several nodes, each with its own store: the losses of one process, whichever way the job was submitted."""

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
from lab import Lab
from trainings import run_to_end

from segtrain.config import Config


@pytest.fixture(scope="session")
def alone(fragile: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process."""
    return run_to_end(tmp_path_factory.mktemp("alone"), fragile, 1)


def losses(run: Path, key: str) -> list[float]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event[key] for event in events if key in event]


def submitted(lab: Lab, cfg: Config, how: str) -> str:
    if how == "submitit":
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        job = lab.submit(cfg, "--nodes", "2", "--processes-per-node", "2", "--slurm", "hold")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        assert busy_s < 2.5, "of processor time, whatever else the machine does"
        snapshot = lab.runs / ".jobs" / cfg.name / "001" / "code" / "jobs" / "rank.py"
        snapshot.write_text(f"print('this is the snapshot')\n{snapshot.read_text()}")
        lab.call("scontrol", "release", job)
        return job
    return lab.sbatch("train.sbatch", "--config", lab.give(cfg), options=("--nodes=2",))


@pytest.mark.law("L5")
@pytest.mark.parametrize("how", ["sbatch", "submitit"])
def test_two_nodes_of_two_ranks_train_the_losses_of_one_process(
    lab: Lab, fragile: Config, alone: Path, how: str
) -> None:
    own_disks = replace(fragile.data, store=f"{lab.folder}/disks/$SLURMD_NODENAME")
    cfg = replace(fragile, name=f"spread-{how}", data=own_disks)
    job = submitted(lab, cfg, how)
    assert lab.until_over(job) == "COMPLETED", lab.told()
    run = lab.runs / cfg.name
    starts = json.loads((run / "environment.json").read_text())
    assert [(start["world_size"], start["job"]) for start in starts] == [(4, job)]
    assert ("this is the snapshot" in lab.told()) == (how == "submitit"), "not the checkout, which is on the path too"
    assert {file.parents[1].name for file in lab.folder.glob("disks/*/*/index.json")} == set(lab.cluster.nodes)
    for key in ("loss", "val_loss"):
        assert losses(run, key) == pytest.approx(losses(alone, key), abs=1e-4)
