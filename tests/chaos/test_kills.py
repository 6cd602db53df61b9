"""L6: a run that is killed at random moments, over and over until it ends, is bitwise the run that was left alone.

`CHAOS_KILLS=N` sets how many kills the whole file makes at least (`make chaos`: 240); by default one or more a mode.
"""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import HeldJob, Job, assert_same, delays, gone, run_to_end, state_of

from segtrain.config import Config, OptimConfig

KILLS = int(os.environ.get("CHAOS_KILLS", "4"))
SPREAD_S = 0.1 if "CHAOS_KILLS" in os.environ else 1.5  # in the short form runs end after a few kills
MODES = [("job", 1), ("job", 2), ("job", 4), ("rank 0", 2), ("rank 1", 2)]


def run_through_kills(directory: Path, cfg: Config, mode: str, ranks: list[int], seed: int) -> int:
    """Start, kill, start again until the run ends; returns the number of kills that hit a living job."""
    for kills, delay_s in enumerate(delays(seed, SPREAD_S)):
        size = ranks[kills % len(ranks)]
        job = Job(directory, cfg, size)
        moment = time.monotonic() + delay_s
        while time.monotonic() < moment and any(p.is_alive() for p in job.processes):
            time.sleep(0.005)
        victims = range(size) if mode == "job" else [min(int(mode[-1]), size - 1)]
        hit = [rank for rank in victims if job.processes[rank].is_alive()]
        job.kill(*hit)
        if hit:  # as a launcher does with the ranks that a dead one leaves waiting
            job.give_up(after_s=4)
        codes = job.wait()
        if codes == [0] * size:
            return kills
        assert hit, f"died by itself with {codes}:\n{job.output()}"
    raise AssertionError("unreachable")


@pytest.mark.law("L6")
@pytest.mark.parametrize(("mode", "ranks"), MODES, ids=[f"{m}-of-{r}" for m, r in MODES])
def test_killed_runs_are_bitwise_the_unbroken_run(
    fragile: Config, unbroken: dict[int, dict[str, Any]], tmp_path: Path, mode: str, ranks: int
) -> None:
    kills = runs = 0
    while kills < KILLS / len(MODES):
        directory = tmp_path / str(runs)
        kills += run_through_kills(directory, fragile, mode, [ranks], seed=1000 * ranks + 17 * runs + len(mode))
        assert_same(state_of(directory / "runs" / "fragile"), unbroken[ranks])
        runs += 1
    print(f"{kills} kills ({mode} of {ranks}) in {runs} runs, bitwise equal")  # noqa: T201


@pytest.mark.law("L8")
@pytest.mark.parametrize("victim", [0, 1])
def test_the_survivor_of_a_dead_rank_leaves_by_itself(fragile: Config, tmp_path: Path, victim: int) -> None:
    job = HeldJob(tmp_path, fragile, 2)
    job.wait_until_held()
    job.kill(victim)
    codes = job.wait()
    assert codes[victim] == -9
    assert codes[1 - victim] == 1, "a bug's code, with its traceback: nothing was saved on purpose"


def test_a_killed_job_leaves_no_process_and_no_port(fragile: Config, tmp_path: Path) -> None:
    """Every process is gone with the ranks, and the next start takes the same port at once."""
    job = HeldJob(tmp_path, fragile, 2)
    job.wait_until_held()
    children = [
        child for p in job.processes for child in Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()
    ]
    job.kill(0, 1)
    assert children, "an onlooker, which sees by its pipe that its rank is gone"
    end_s = time.monotonic() + 60
    job.wait()
    while not all(map(gone, children)) and time.monotonic() < end_s:
        time.sleep(0.01)  # they have to run once more
    assert all(map(gone, children))
    again = Job(tmp_path, fragile, 2, port=job.port)
    assert again.wait() == [0, 0], again.output()


@pytest.mark.law("L6")
@pytest.mark.law("L5")
def test_a_run_that_changes_its_world_size_on_the_way_stays_within_l5(fragile: Config, tmp_path: Path) -> None:
    """With SGD: where a gradient is all but 0, Adam takes a step by its sign, which rounding decides.

    And with a small rate: which of two all but equal voxels a pooling layer takes is decided by rounding too.
    """
    cfg = replace(fragile, optim=OptimConfig(name="sgd", lr=0.01))
    run_through_kills(tmp_path / "broken", cfg, "job", [2, 1], seed=5)
    ours = state_of(tmp_path / "broken" / "runs" / "fragile")
    theirs = state_of(run_to_end(tmp_path / "alone", cfg, 1))
    assert [e["step"] for e in ours["events"]] == [e["step"] for e in theirs["events"]]
    for mine, other in zip(ours["events"], theirs["events"], strict=True):
        for name in ("loss", "val_loss"):
            if name in other:
                assert mine[name] == pytest.approx(other[name], abs=1e-4)
    for name, tensor in theirs["model"].items():
        assert torch.allclose(ours["model"][name].float(), tensor.float(), atol=1e-3), name


@pytest.mark.law("L7")
def test_without_room_for_a_checkpoint_a_run_trains_on_and_fails_loudly_at_its_end(
    fragile: Config, unbroken: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk; with room again, the same command ends as it should."""
    job = Job(tmp_path, fragile, 2, largest_file=50_000)
    assert job.wait()[0] == 2, job.output()
    assert "the last checkpoint cannot be written now (File too large)" in job.output()
    assert "the last checkpoint could not be written" in job.output()
    directory = tmp_path / "runs" / "fragile"
    told = list(map(json.loads, (directory / "metrics.jsonl").read_text().splitlines()))
    assert [e["step"] for e in told] == [e["step"] for e in unbroken[2]["events"]], "it trained to the end"
    assert not list((directory / "checkpoints").glob("*step*"))
    run_to_end(tmp_path, fragile, 2)
    assert_same(state_of(directory), unbroken[2])


def test_the_control_differs(fragile: Config, unbroken: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    """The comparison can fail: another seed's run is not the same."""
    other = state_of(run_to_end(tmp_path, replace(fragile, seed=7), 1))
    with pytest.raises(AssertionError):
        assert_same(other, unbroken[1])
