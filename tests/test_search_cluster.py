"""Searches on a cluster: arrays, and the job after each that goes on, with stand-ins for SLURM and for trainings."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from search_runs import Train, in_place_of_training, trains, write

from jobs import checks, grid, lookup, sbatch, search
from jobs.queue.items import Item
from jobs.submission import Submission
from jobs.trials import Searching
from segtrain.errors import ConfigError, RunError


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[Train]]:
    return in_place_of_training(monkeypatch)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> tuple[list[list[str]], list[tuple[str, ...]], dict[str, str]]:
    """In place of SLURM: the arrays that were submitted, arguments of the jobs after them, the queue."""
    arrays: list[list[str]] = []
    after: list[tuple[str, ...]] = []
    queue: dict[str, str] = {}

    def submit(made: Submission, names: Sequence[str], limit: int) -> dict[str, str]:
        arrays.append(list(names))
        jobs = {name: f"{len(arrays)}_{place}" for place, name in enumerate(names)}
        made.keep(runs=jobs)
        return jobs

    def submit_after(made: Submission, jobs: object, call: object, *arguments: str) -> str:
        after.append(arguments)
        made.keep(report="99", report_slurm={})
        return "99"

    monkeypatch.setattr(sbatch, "check", lambda *_: None)
    monkeypatch.setattr(sbatch, "submit", submit)
    monkeypatch.setattr(sbatch, "submit_after", submit_after)
    monkeypatch.setattr(grid, "check_before", lambda *_: None)
    monkeypatch.setattr(lookup, "alive", lambda jobs: {})
    for module in (grid, search):
        monkeypatch.setattr(module, "waiting", lambda folder, name, runs: {r: queue[r] for r in runs if r in queue})
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    return arrays, after, queue


def end(spec: Path, folder: str, names: Sequence[str]) -> None:
    """Train the runs of an array."""
    for trial in Searching(spec, []).trials:
        for place in (0, 1):
            for member in Searching(spec, [])._members(place, trial):
                if member.run.root.parent.name == folder and member.cfg.name in names:
                    trains(Item(member.cfg.name, member.cfg))


@pytest.mark.law("L8")
def test_on_a_cluster_the_job_after_a_stage_goes_on_and_stops_where_a_run_was_stopped(
    tmp_path: Path,
    trained: tuple[list[str], list[Train]],
    cluster: tuple[list[list[str]], list[tuple[str, ...]], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrays, after, queue = cluster
    spec = write(tmp_path, trials=3, at_once=3, folds=[3])
    assert search.command([str(spec), "--partition", "gpu"]) == 0
    assert len(arrays[0]) == 3
    end(spec, "s-1-epochs", arrays[0][1:])
    with pytest.raises(RunError, match=f"{arrays[0][0]} did not end .*the same command goes on"):
        search.go_on(*after[-1])
    assert len(arrays) == 1
    queue[arrays[0][0]] = "7 (RUNNING)"  # it was submitted again, as another job
    search.go_on(*after[-1])
    assert (len(arrays), len(after)) == (1, 2), "another job waits for it"
    queue.clear()
    end(spec, "s-1-epochs", arrays[0])
    monkeypatch.delenv("SEGTRAIN_COMMIT", raising=False)
    search.go_on(*after[-1])
    assert (len(arrays), len(arrays[1])) == (2, 2), "a trial and the reference"
    (Path(after[-1][1]).parent / "002").mkdir()
    search.go_on(*after[-1])
    assert len(arrays) == 2, "the later submission's own job goes on"


def test_what_cannot_be_submitted_with_these_resources_is_lost_unless_the_reference_cannot_either(
    tmp_path: Path,
    trained: tuple[list[str], list[Train]],
    cluster: tuple[list[list[str]], list[tuple[str, ...]], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks cannot share a batch of 15."""
    arrays, _, _ = cluster
    monkeypatch.setattr(grid, "check_before", lambda cfgs, requested, _: [checks.check_run(c, requested) for c in cfgs])
    spec = write(
        tmp_path, space={"train.global_batch": [15, 16], "optim.lr": [1e-3, 1e-2]}, trials=4, at_once=4, folds=[3]
    )
    options = ("--partition", "gpu", "--processes-per-node", "2")
    assert search.command([str(spec), *options]) == 0
    searching = Searching(spec, [])
    batches = {trial.name: trial.settings["train.global_batch"] for trial in searching.trials}
    assert sorted(batches[name.partition("-")[0]] for name in arrays[0]) == [16, 16]
    assert [batches[name] for name in searching.scores()[0]] == [15, 15]
    (other := tmp_path / "other").mkdir()
    spec = write(other, space={"optim.lr": [1e-3, 1e-2]}, trials=2, at_once=2, folds=[3])
    with pytest.raises(ConfigError, match="cannot be shared by"):
        search.command([str(spec), "--partition", "gpu", "--processes-per-node", "3"])
    assert Searching(spec, []).scores()[0] == {}
