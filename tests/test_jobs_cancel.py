"""`jobs.cancel` where SLURM refuses it, and where there is no SLURM."""

import fcntl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from slurm_programs import entry

from jobs import cancel, resources, scheduler, submission
from jobs.submission import Submission
from segtrain.config import Config
from segtrain.errors import RunError, StopReason
from segtrain.run import Outcome, Run


@pytest.fixture
def made(tmp_path: Path, tiny: Config) -> Submission:
    """An ablation of two runs, which have begun."""
    configs = [replace(tiny, name=name, runs_dir=str(tmp_path / "runs" / "spec")) for name in ("one", "two")]
    found = submission.create(str(tmp_path / "runs"), "spec", configs, resources.Resources(), members=[])
    for cfg in configs:
        Run.of(cfg).checkpoint(40).mkdir(parents=True)
    return found


class Clock:
    """The time of jobs.cancel: a second each time that it waits, and what happens meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.meanwhile: Callable[[], object] = lambda: None
        monkeypatch.setattr(cancel, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


def call(made: Submission, wait: str = "5") -> int:
    return cancel.command(["spec", "--runs-dir", str(made.root.parents[2]), "--wait", wait])


@pytest.mark.law("L12")
@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_what_scancel_refuses_is_not_called_cancelled(
    made: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    made.keep(runs={"one": "12_0", "two": "12_1"})
    queue = {"12_0": entry("12_0", state, "spec"), "12_1": entry("12_1", "RUNNING", "spec")}

    def scancel(job: str) -> str | None:
        if job == "12_1":
            del queue[job]
        return {"12_0": "scancel: error: Kill job error on job id 12_0: Access/permission denied"}.get(job)

    Clock(monkeypatch)
    monkeypatch.setattr(scheduler, "listed", lambda users: list(queue.values()))
    monkeypatch.setattr(scheduler, "cancel", scancel)
    assert call(made) == 2
    told = capsys.readouterr()
    assert told.out == "two: job 12_1 cancelled, the run is before its first step at step 40\n"
    assert "scancel refused job 12_0" in told.err
    assert "Access/permission denied; try scancel yourself" in told.err
    assert made.run("one").stop_file.exists() == (state == "RUNNING"), "it may still save and leave"
    assert not made.run("two").stop_file.exists()


def test_a_job_that_has_ended_in_between_is_no_refusal(
    made: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made.keep(runs={"one": "12"})
    queue = {"12": entry("12", "PENDING", "spec")}

    def scancel(job: str) -> str:
        del queue[job]
        return "scancel: error: Kill job error on job id 12: Invalid job id specified"

    Clock(monkeypatch)
    monkeypatch.setattr(scheduler, "listed", lambda users: list(queue.values()))
    monkeypatch.setattr(scheduler, "cancel", scancel)
    assert call(made) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("leaves", [True, False])
def test_what_is_trained_here_without_slurm_is_stopped(
    made: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], leaves: bool
) -> None:
    """Run `one` is being trained, by a lock that is held; `two` has ended."""
    made.keep(runs={"one": "local-20261123-200000-1", "two": "local-20261123-200000-1"})
    run = made.run("one")
    clock = Clock(monkeypatch)
    with run.lock_file.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def training() -> None:
            if clock.now >= 3 and run.stop_file.exists() and leaves:
                run.end(Outcome("stopped", 40, 1, reason=StopReason.STOP_FILE, message="Stopped: as asked"))
                fcntl.flock(file, fcntl.LOCK_UN)

        clock.meanwhile = training
        assert call(made) == (0 if leaves else 2)
    assert not made.run("two").stop_file.exists(), "the next start would read it"
    assert run.stop_file.exists() == (not leaves)
    told = capsys.readouterr()
    if leaves:
        assert (told.out, told.err, clock.now) == ("one: the run is stopped at step 40\n", "", 3)
    else:
        assert (told.out, clock.now) == ("", 5)
        assert f"{run.root} is still being trained after 5 s; its STOP file stays" in told.err
    run.stop_file.unlink(missing_ok=True)
    assert call(made) == 0
    assert "none of its runs is being trained on this machine" in capsys.readouterr().out


def test_a_queue_whose_run_is_trained_is_stopped_as_a_whole(made: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go on with the next run. It takes its STOP file away when it has read it."""
    made.keep(runs={"one": "offline-0", "two": "offline-0"})
    run, clock = made.run("one"), Clock(monkeypatch)
    queue_file = run.root.parent / "STOP"
    with run.lock_file.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def queue() -> None:
            queue_file.unlink()
            fcntl.flock(file, fcntl.LOCK_UN)

        clock.meanwhile = queue
        assert call(made) == 0
    assert not run.stop_file.exists()
    assert clock.now == 1


@pytest.mark.law("L12")
def test_a_run_that_nobody_submitted_is_stopped_by_its_file(made: Submission) -> None:
    run = Run(made.root.parents[2] / "by_hand")
    run.root.mkdir(parents=True)
    with pytest.raises(RunError, match=r"by_hand: nothing in .* was submitted by this name"):
        cancel.command(["by_hand", "--runs-dir", str(run.root.parent)])
    run.config_file.touch()
    with pytest.raises(RunError, match=r"by_hand: was started by hand or by a template, .*touch .*by_hand/STOP has it"):
        cancel.command(["by_hand", "--runs-dir", str(run.root.parent)])
    assert not run.stop_file.exists()
