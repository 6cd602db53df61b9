"""Preempted, out of time, requeued, told by a signal: a run comes back to its exact step and ends as if left alone."""

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from lab import Lab

from segtrain.config import Config, StopConfig


def start(lab: Lab, cfg: Config, how: str, *options: str) -> str:
    """A training of two ranks on one node."""
    if how == "submitit":
        return lab.submit(cfg, "--processes-per-node", "2", *options)
    return lab.sbatch("preemptible.sbatch", "--config", lab.give(cfg), options=options)


@pytest.mark.law("L6")
@pytest.mark.law("L8")
def test_preempted_twice_a_run_ends_bitwise_the_same(lab: Lab, lasting: Config, left_alone: dict[str, Any]) -> None:
    """Two runs at a time, one through submitit and one through sbatch, so that the waiting is done once."""
    runs = {how: replace(lasting, name=how) for how in ("submitit", "sbatch")}
    jobs = {how: start(lab, cfg, how) for how, cfg in runs.items()}
    for times, step in enumerate((60, 130), start=1):
        for how in runs:  # the first waits for the second, or it might end meanwhile
            lab.until_step(how, step)
            lab.kill_ranks(signal.SIGSTOP, how)
        for how in runs:
            lab.kill_ranks(signal.SIGCONT, how)
        rival = lab.sbatch_wrap("sleep 1", "--partition=high", "--nodes=2", "--exclusive")
        for job in jobs.values():
            lab.until("the run was preempted", lambda: lab.state(job) == "PENDING")  # noqa: B023
        assert lab.until_over(rival) == "COMPLETED"
        for how in runs:
            lab.until("it starts again", lambda: lab.starts(how) == times + 1)  # noqa: B023
    for how, cfg in runs.items():
        lab.ends_the_same(cfg, jobs[how], left_alone)
        assert lab.shown(jobs[how], "Restarts") == "2"


@pytest.mark.law("L6")
@pytest.mark.law("L8")
def test_a_time_limit_and_its_signal_sent_by_hand_change_nothing(
    lab: Lab, lasting: Config, left_alone: dict[str, Any]
) -> None:
    """The limit's warning comes 60 to 90 s before two minutes are over; until then the ranks stand still. By hand the
    signal goes to the batch script alone, then to all of the job; then the step is killed before it can say a word."""
    job = start(lab, lasting, "submitit", "--time", "2", "--warn-s", "60")
    lab.until_step(lasting.name, 1)
    lab.kill_ranks(signal.SIGSTOP)
    lab.until("SLURM warns of the limit", lambda: "USR2: telling" in lab.told_since_start(job))
    assert lab.starts(lasting.name) == 1
    assert 25 < lab.seconds(job) < 120
    lab.cluster.tool("scontrol", "update", f"jobid={job}", "timelimit=30")  # a slow machine would meet it once more
    lab.kill_ranks(signal.SIGCONT)
    for starts, step, to in ((2, 120, "--batch"), (3, 240, "--full")):
        lab.until("it starts again", lambda: lab.starts(lasting.name) == starts)  # noqa: B023
        lab.until_step(lasting.name, step)
        lab.call("scancel", "--signal=USR2", to, job)
    lab.until("it starts again", lambda: lab.starts(lasting.name) == 4)
    lab.until_step(lasting.name, 290)
    lab.call("scancel", "--signal=KILL", f"{job}.0")
    lab.ends_the_same(lasting, job, left_alone)
    assert "Traceback" not in lab.log_of(job), "of torchrun, at a stop that is an ordinary one"
    assert [entry["how"] for entry in lab.history(lasting.name) if entry["event"] == "end"] == [
        "requeued", "requeued", "requeued", "requeued", "finished",
    ]  # fmt: skip


@pytest.mark.law("L6")
def test_requeued_and_told_by_an_operator_a_run_comes_back(
    lab: Lab, lasting: Config, left_alone: dict[str, Any]
) -> None:
    job = start(lab, lasting, "sbatch")
    lab.until_step(lasting.name, 60)
    lab.call("scontrol", "requeue", job)
    lab.until("it starts again", lambda: lab.starts(lasting.name) == 2)
    lab.until_step(lasting.name, 120)
    lab.call("scancel", "--signal=USR2", "--batch", job)
    lab.until("it starts again", lambda: lab.starts(lasting.name) == 3)
    lab.until_step(lasting.name, 180)
    lab.call("scancel", "--signal=TERM", job)
    lab.until("it starts again", lambda: lab.starts(lasting.name) == 4)
    lab.ends_the_same(lasting, job, left_alone)
    assert not (lab.runs / lasting.name / "STOP").exists()


@pytest.mark.law("L8")
def test_a_cancelled_run_has_saved_and_stays_away_until_it_is_submitted_again(lab: Lab, lasting: Config) -> None:
    job = start(lab, lasting, "submitit")
    lab.until_step(lasting.name, 60)
    lab.kill_ranks(signal.SIGSTOP)  # or the run might end while the commands start
    assert f"is job {job} (RUNNING) already; nothing to submit" in lab.jobs("submit", "--config", lab.give(lasting))
    with ThreadPoolExecutor() as pool:
        cancelling = pool.submit(lab.jobs, "cancel", lasting.name, "--runs-dir", lab.runs)
        lab.until("the run is asked to stop", (lab.runs / lasting.name / "STOP").exists)
        lab.kill_ranks(signal.SIGCONT)
        assert "the run is stopped at step" in cancelling.result()
    lab.until_over(job)
    assert lab.outcome(lasting.name)["reason"] == "STOP_FILE"
    saved = lab.step(lasting.name)
    again = start(lab, lasting, "submitit")
    lab.until_step(lasting.name, saved + 30)
    lab.call("scancel", again)
    assert lab.until_over(again) == "CANCELLED"
    assert lab.outcome(lasting.name)["state"] == "stopped"
    assert lab.history(lasting.name)[-1]["how"] == "left to SLURM"


def test_a_run_that_gains_nothing_in_three_starts_is_given_up(lab: Lab, lasting: Config) -> None:
    """Stopped by its own deadline before its first step, it does not come back a third time, and says why."""
    job = start(lab, replace(lasting, stop=StopConfig("1s")), "submitit")
    assert lab.until_over(job) == "FAILED"
    assert lab.shown(job, "ExitCode") == "75:0"
    assert lab.step(lasting.name) == 0
    last = lab.history(lasting.name)[-1]
    assert (last["how"], last["why"]) == (
        "given up",
        f"the last 3 starts of job {job} gained no step after step 0; not requeued: read the log, then submit it anew",
    )
    assert "gained no step" in lab.jobs("status", lab.runs)
