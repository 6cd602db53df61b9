"""What `jobs.status` shows of SLURM's reasons and verdicts, of report jobs, and of a choice of runs."""

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import train_event
from slurm_programs import Slurm, entry

from jobs import history, overview, resources, status, submission
from jobs.lookup import Job
from jobs.run_state import STATES, VERDICTS, summary
from jobs.scheduler import Entry
from jobs.submission import Submission
from segtrain.config import Config
from segtrain.errors import RunError, StopReason
from segtrain.run import Outcome, Run

JOB = Job("12")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has a checkpoint at step 40 and went on to step 57."""
    begun = Run(tmp_path / "runs" / "a")
    begun.checkpoint(40).mkdir(parents=True)
    begun.config_file.write_text("train: {epochs: 10}\n")
    for step in (20, 40, 57):
        begun.record(train_event(step))
    return begun


def row_of(run: Run, slurm: Entry | None, later_s: float = 0.0) -> dict[str, Any]:
    return summary(run, JOB, slurm, time.time() + later_s)


def test_a_job_that_waits_is_shown_with_slurm_s_reason_and_estimate(run: Run) -> None:
    run.end(Outcome("stopped", 40, 2, 0.2, StopReason.SIGUSR2, "Stopped: stopped by SIGUSR2"))
    row = row_of(run, entry("12", "PENDING", reason="Priority", starts="2026-11-29T16:07:13"))
    assert (row["state"], row["reason"], row["expected_start"]) == ("pending", "Priority", "2026-11-29T16:07:13")
    assert row["why"] == "waits: Priority; expected to start at 2026-11-29T16:07:13"
    assert row_of(run, entry("12", "PENDING", reason="JobHeldUser"))["why"] == "waits: JobHeldUser"
    running = row_of(run, entry("12", "RUNNING", starts="2026-11-29T16:07:13"))
    assert (running["reason"], running["expected_start"]) == (None, None)


def test_a_job_that_comes_back_is_not_to_be_submitted_again_and_then_does_not_say_why_it_had_left(run: Run) -> None:
    run.end(Outcome("stopped", 40, 2, 0.2, StopReason.SIGTERM, "Stopped: stopped by SIGTERM; the same command goes on"))
    history.History(run).end("12", "requeued", "stopped by SIGTERM", StopReason.SIGTERM)
    leaving = row_of(run, entry("12", "COMPLETING"))
    assert (leaving["state"], leaving["why"]) == ("stopped", "Stopped: stopped by SIGTERM; SLURM brings it back")
    back = row_of(run, entry("12", "RUNNING"))
    assert (back["state"], back["why"]) == ("running", "")


@pytest.mark.parametrize("verdict", ["TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"])
def test_a_job_that_ended_is_shown_with_slurm_s_verdict(run: Run, verdict: str) -> None:
    row = row_of(run, entry("12", verdict))
    assert (row["state"], row["why"]) == ("broken off", f"SLURM: {verdict} ({VERDICTS[verdict]})")
    history.History(run).end("12", "failed", "failed (launcher's code -9), see the log")
    assert row_of(run, entry("12", verdict))["why"].endswith("; failed: failed (launcher's code -9), see the log")
    history.History(run).end("12", "finished", "finished")
    run.end(Outcome("finished", 57, 10, 0.2))
    assert row_of(run, entry("12", verdict))["why"] == "", "it ended before SLURM ended the job"
    waits = summary(Run(run.root.with_name("b")), JOB, entry("12", verdict), time.time())
    assert (waits["state"], waits["why"][:7]) == ("failed", "SLURM: ")


@pytest.mark.parametrize("state", ["SUSPENDED", "STOPPED"])
def test_a_suspended_job_is_neither_waiting_nor_stalled(run: Run, state: str) -> None:
    row = row_of(run, entry("12", state), later_s=7200)
    assert (row["state"], row["stalled"], row["step"]) == ("suspended", None, 57)


def test_restarts_are_counted_that_ended_before_they_opened_the_run(run: Run) -> None:
    run.environment_file.write_text(json.dumps([{"job": "12", "time": "2026-11-29T10:00:00+0000"}]))
    for _ in range(3):
        history.History(run).begin("12")
    assert row_of(run, entry("12", "PENDING"))["restarts"] == 2
    assert summary(run, Job("13"), entry("13", "PENDING"), time.time())["restarts"] == 0


def test_the_step_of_what_does_not_run_is_where_it_goes_on(run: Run) -> None:
    assert row_of(run, entry("12", "RUNNING"))["step"] == 57
    assert row_of(run, entry("12", "NODE_FAIL"))["step"] == 40, "17 steps were lost"
    run.end(Outcome("stopped", 63, 2, 0.2, StopReason.SIGUSR2, "Stopped: stopped by SIGUSR2"))
    assert row_of(run, entry("12", "PENDING"))["step"] == 63, "saved after the last line of the log"
    run.checkpoint(63).mkdir()
    assert row_of(run, entry("12", "RUNNING"))["step"] == 63, "where it is before its ranks say so"


@pytest.fixture
def spec(tmp_path: Path, tiny: Config) -> Submission:
    """An ablation of two runs as array 12, with job 99 for its report."""
    names = ("bce", "dice")
    configs = [replace(tiny, name=name, runs_dir=str(tmp_path / "runs" / "loss")) for name in names]
    made = submission.create(str(tmp_path / "runs"), "loss", configs, resources.Resources(), members=[])
    made.keep(runs={"bce": "12_0", "dice": "12_1"}, report="99")
    return made


def listed(tmp_path: Path) -> Mapping[str, Mapping[str, Any]]:
    return {row["run"]: row for row in overview.rows(tmp_path / "runs", time.time())}


def test_report_jobs_are_in_status(
    tmp_path: Path, spec: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm = Slurm(tmp_path / "slurm", monkeypatch)
    jobs = [entry(job, "RUNNING", "loss") for job in ("12_0", "12_1")]
    slurm.queue(*jobs, entry("99", "PENDING", "loss-report", reason="Dependency"))
    rows = listed(tmp_path)
    assert list(rows) == ["loss/bce", "loss/dice", "loss/report"], "after the runs"
    report = rows["loss/report"]
    assert (report["kind"], report["job"], report["state"]) == ("report", "99", "pending")
    assert report["why"] == "waits: Dependency"
    assert status.command([str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "│ loss/report │ pending │ 99 " in shown
    assert "2 runs and 1 report: 1 pending, 2 running" in shown
    slurm.queue(entry("99", "OUT_OF_MEMORY", "loss-report"))
    assert listed(tmp_path)["loss/report"]["state"] == "failed"
    assert "OUT_OF_MEMORY" in listed(tmp_path)["loss/report"]["why"]
    slurm.queue(entry("99", "COMPLETED", "a stranger's"))
    assert listed(tmp_path)["loss/report"]["state"] == "none"
    spec.report_page.parent.mkdir(parents=True)
    spec.report_page.touch()
    assert listed(tmp_path)["loss/report"]["state"] == "finished"


def test_a_choice_of_runs_is_shown_with_a_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs_dir = tmp_path / "runs"
    states = {"a": "finished", "b": "failed", "loss/c": "failed", "loss/d": "stopped"}
    for name, state in states.items():
        (runs_dir / name).mkdir(parents=True)
        Run(runs_dir / name).config_file.write_text("train: {epochs: 10}\n")
        Run(runs_dir / name).outcome_file.write_text(json.dumps({"state": state}))

    def shown(*options: str) -> tuple[list[str], str]:
        assert status.command([str(runs_dir), *options, "--json"]) == 0
        names = [row["run"] for row in json.loads(capsys.readouterr().out)]
        assert status.command([str(runs_dir), *options]) == 0
        return names, capsys.readouterr().out.splitlines()[-1].strip()

    assert shown() == (["a", "b", "loss/c", "loss/d"], "4 runs: 1 finished, 1 stopped, 2 failed")
    assert shown("--state", "failed") == (["b", "loss/c"], "2 of 4 shown: 2 failed")
    assert shown("--state", "failed,stopped", "--name", "loss/*")[0] == ["loss/c", "loss/d"]
    assert shown("--name", "loss/*") == (["loss/c", "loss/d"], "2 runs: 1 stopped, 1 failed")
    assert shown("--state", "broken-off") == ([], "0 of 4 shown")
    assert shown("--name", "z*") == ([], f"{runs_dir}: no runs named z*")


@pytest.mark.law("L12")
def test_a_state_that_there_is_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        status.command([str(tmp_path), "--state", "broken"])
    assert f"--state broken: no such state; choose from {STATES[0]}, " in capsys.readouterr().err


@pytest.mark.law("L12")
def test_a_run_in_place_of_a_folder_of_runs_is_named_as_that(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"is a run itself; segtrain status .* shows it$") as raised:
        status.command([str(run.root)])
    words = shlex.split(str(raised.value).partition("segtrain status ")[2].removesuffix(" shows it"))
    assert status.command([*words, "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == [run.root.name]
