"""Whose job an id is, and what is done while SLURM does not answer. SLURM's programs are stand-ins."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slurm_programs import Slurm, entry, program, squeue_lines

from jobs import cancel, history, lookup, overview, resources, sbatch, scheduler, status, submission
from jobs.lookup import Job
from jobs.submission import Submission
from jobs.submit import waiting
from segtrain.config import Config
from segtrain.errors import StopReason
from segtrain.run import Outcome, Run

ME = str(os.getuid())
SUBMITTED = {"cluster": "here", "user": ME, "name": "tiny", "folder": "/home/me"}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    return Slurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def made(tmp_path: Path, tiny: Config) -> Submission:
    """A run that was submitted as job 12, and has begun."""
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    one = submission.create(cfg.runs_dir, "tiny", [cfg], resources.Resources())
    one.keep(runs={"tiny": "12"}, slurm=SUBMITTED)
    Run.of(cfg).checkpoint(40).mkdir(parents=True)
    (Run.of(cfg).root / "config.yaml").write_text("train: {epochs: 10}\n")
    return one


def runs_dir(made: Submission) -> Path:
    return made.root.parents[2]


def row_of(made: Submission, now_s: float = 0.0) -> Mapping[str, Any]:
    [row] = overview.rows(runs_dir(made), now_s or time.time())
    return row


def cancelled(made: Submission) -> int:
    return cancel.command(["tiny", "--runs-dir", str(runs_dir(made)), "--wait", "0"])


STRANGERS = {
    "another name": entry("12", "RUNNING", "theirs", "/home/me"),
    "another folder": entry("12", "RUNNING", "tiny", "/home/me/other"),
    "another user": entry("12", "RUNNING", "tiny", "/home/me", user="4242"),
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=list(STRANGERS))
def test_a_stranger_s_job_with_the_same_id_is_not_taken_for_ours(
    slurm: Slurm, made: Submission, stranger: scheduler.Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.queue(stranger)
    slurm.accounting(replace(stranger, state="TIMEOUT"))
    row = row_of(made, time.time() + 3600)
    assert (row["state"], row["slurm"], row["why"]) == ("broken off", None, "")
    assert waiting(str(runs_dir(made)), "tiny", ["tiny"]) == {}
    assert cancelled(made) == 0
    assert "no job of it is in the queue" in capsys.readouterr().out
    assert not slurm.calls("scancel")


def test_our_own_job_is_believed(slurm: Slurm, made: Submission) -> None:
    slurm.queue(entry("12", "RUNNING", "tiny", "/home/me"))
    assert row_of(made)["state"] == "running"
    assert waiting(str(runs_dir(made)), "tiny", ["tiny"]) == {"tiny": "12 (RUNNING)"}
    slurm.queue(entry("12", "PENDING", "tiny", "/home/me"))
    assert cancelled(made) == 0
    assert slurm.calls("scancel") == ["12"]


@pytest.mark.parametrize(("name", "believed"), [("tiny", True), ("theirs", False)])
def test_of_an_older_submission_the_name_alone_is_compared(
    slurm: Slurm, made: Submission, name: str, believed: bool
) -> None:
    record = {key: value for key, value in made.record.items() if key != "slurm"}
    made.record_file.write_text(json.dumps(record))
    slurm.queue(entry("12", "PENDING", name, "/anywhere"))
    assert (row_of(made)["slurm"] == "PENDING") == believed


@pytest.mark.law("L12")
def test_a_job_of_another_cluster_is_neither_shown_as_over_nor_ended(
    slurm: Slurm, made: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.is_cluster("there")
    slurm.queue(entry("12", "RUNNING", "tiny", "/home/me"))
    row = row_of(made, time.time() + 3600)
    elsewhere = "job 12 is of cluster here, this is there: ask there"
    assert (row["state"], row["slurm"], row["why"]) == ("unknown", None, elsewhere)
    assert cancelled(made) == 2
    assert elsewhere in capsys.readouterr().err
    assert Run(runs_dir(made) / "tiny").stop_file.exists(), "the folder is shared"
    assert not slurm.calls("scancel")


def test_a_submission_records_what_tells_its_job(slurm: Slurm, tmp_path: Path, tiny: Config) -> None:
    """As SLURM shows it, whatever a site's plugin makes of the options. An array is one job."""
    program(slurm.folder, "sbatch", "echo Submitted batch job 12")
    program(slurm.folder, "srun", "")
    slurm.queue(entry("11", "RUNNING", "old", "/a"), entry("12_0", "PENDING", "tiny", "/home/me"))
    one = submission.create(str(tmp_path / "runs"), "tiny", [tiny], resources.Resources())
    sbatch.submit(one, ["tiny"])
    assert one.record["slurm"] == SUBMITTED
    slurm.is_away()
    again = submission.create(str(tmp_path / "runs"), "tiny", [tiny], resources.Resources())
    assert sbatch.submit(again, ["tiny"]) == {"tiny": "12"}, "SLURM does not answer, and has the job"
    assert again.record["slurm"] == {}


def test_a_template_s_start_records_it_too_and_torchrun_s_number_is_no_job(
    slurm: Slurm, made: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.record_file.unlink()
    run = Run(runs_dir(made) / "tiny")
    slurm.queue(entry("12", "PENDING", "segtrain", "/home/me"), entry("13", "PENDING", "any", "/home/me"))
    for launcher, slurm_state in (("torchrun", None), ("slurm", "PENDING"), (None, "PENDING")):
        run.environment_file.write_text(json.dumps([{"job": "13", "launcher": launcher}]))
        assert row_of(made)["slurm"] == slurm_state
    variables = {"SLURM_CLUSTER_NAME": "here", "SLURM_JOB_NAME": "segtrain", "SLURM_JOB_UID": ME}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    history.History(run).begin("12", slurm=scheduler.in_batch_script())
    assert row_of(made)["slurm"] == "PENDING"
    slurm.queue(entry("12", "PENDING", "theirs", "/home/me"))
    assert row_of(made)["slurm"] is None


def test_status_goes_on_from_files_while_slurm_does_not_answer(
    slurm: Slurm, made: Submission, tiny: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = replace(tiny, name="waits", runs_dir=str(runs_dir(made)))
    submission.create(waits.runs_dir, "waits", [waits], resources.Resources()).keep(runs={"waits": "13"})
    slurm.is_away()
    listed = {row["run"]: row for row in overview.rows(runs_dir(made), time.time())}
    assert {name: row["state"] for name, row in listed.items()} == {"tiny": "running", "waits": "unknown"}
    later = {row["run"]: row for row in overview.rows(runs_dir(made), time.time() + 3600)}
    assert later["tiny"]["state"] == "unknown", "it may be back in the queue"
    assert status.command([str(runs_dir(made))]) == 0
    shown = capsys.readouterr().out
    assert "host" not in shown, "a run of SLURM's is expected elsewhere"
    assert shown.count("Unable to contact slurm controller); states are from files") == 1
    slurm.accounting(entry("13", "CANCELLED by 0", "waits"))
    [row] = [row for row in overview.rows(runs_dir(made), time.time()) if row["run"] == "waits"]
    assert (row["state"], row["slurm"]) == ("none", "CANCELLED"), "the accounting is another daemon"


def test_watching_outlives_slurm_s_silence(
    slurm: Slurm, made: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.queue(entry("12", "PENDING", "tiny", "/home/me"))
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            slurm.is_away()
        elif looks == 2:
            answer = squeue_lines(entry("12", "RUNNING", "tiny", "/home/me"))
            (slurm.folder / "answer").write_text(answer)
            program(slurm.folder, "squeue", f"cat {slurm.folder}/answer")
        elif looks == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(status, "time", SimpleNamespace(time=time.time, sleep=sleep))
    assert status.command([str(runs_dir(made)), "--watch", "1", "--json"]) == 0
    seen = [json.loads(line)[0] for line in capsys.readouterr().out.splitlines()]
    assert [row["slurm"] for row in seen] == ["PENDING", None, "RUNNING"]
    assert "Unable to contact" in seen[1]["scheduler"]


@pytest.mark.parametrize("how", ["reads", "requeued", "never"])
def test_cancel_works_from_files_while_slurm_does_not_answer(
    slurm: Slurm, made: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """A run that trains reads its STOP file, and its job does not come back; of others the user is told."""
    slurm.is_away()
    run = Run(runs_dir(made) / "tiny")
    starts = history.History(run)
    starts.begin("12")
    if how == "requeued":
        starts.end("12", "requeued", "stopped by SIGUSR2", StopReason.SIGUSR2)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if how == "reads":
            run.stop_file.unlink()
            run.end(Outcome("stopped", 40, 1, reason=StopReason.STOP_FILE, message="Stopped: as asked"))
            starts.end("12", "stopped", "stopped by the STOP file", StopReason.STOP_FILE)

    monkeypatch.setattr(cancel, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    code = cancel.command(["tiny", "--runs-dir", str(runs_dir(made)), "--wait", "5"])
    told = capsys.readouterr()
    if how == "reads":
        assert (code, told.err) == (0, "")
        assert told.out == "tiny: the run is stopped at step 40, and its job 12 ends by itself\n"
    else:
        assert (code, told.out) == (2, "")
        assert "tiny: SLURM does not answer (squeue: slurm_load_jobs error: Unable to contact" in told.err
        assert f"{run.stop_file} is left for its next start; job 12 may still wait: cancel again" in told.err
        assert run.stop_file.exists()


def test_other_people_s_jobs_are_seen_and_their_owner_is_named(
    slurm: Slurm, made: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made.keep(slurm={**SUBMITTED, "user": "4242"})
    slurm.queue(entry("12", "PENDING", "tiny", "/home/me", user="4242", reason="Priority"))
    row = row_of(made)
    assert (row["state"], row["user"]) == ("pending", "4242")
    assert any(f"-u {','.join(sorted([ME, '4242'], key=int))}" in call for call in slurm.calls("squeue"))
    assert status.command([str(runs_dir(made))]) == 0
    shown = capsys.readouterr().out
    assert "┃ user ┃" in shown
    assert "│ 4242 │" in shown
    program(slurm.folder, "scancel", "echo 'scancel: error: Access/permission denied' >&2; exit 1")
    assert cancelled(made) == 2
    assert "denied; have 4242, whose job it is, cancel it" in capsys.readouterr().err


def test_a_run_of_another_machine_is_told_from_one_of_this(
    tmp_path: Path, made: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    made.keep(runs={"tiny": "local-20261129-100000-1"})
    run, now = Run(runs_dir(made) / "tiny"), time.time()
    run.ranks.mkdir()
    report = {"rank": 0, "host": "elsewhere", "pid": 1, "time": now + 60, "progressed": now, "every_s": 60.0}
    report |= {"stall_s": 600.0, "doing": "training", "step": 41, "thread": "0x1", "process_started": now}
    run.rank_state(0).write_text(json.dumps(report))
    assert (row_of(made)["state"], row_of(made)["host"]) == ("running", "elsewhere")
    assert status.command([str(runs_dir(made))]) == 0
    assert "│ elsewhere │" in capsys.readouterr().out
    assert cancelled(made) == 2
    there = f"tiny: is being trained on elsewhere without SLURM; cancel it there, or touch {run.stop_file}"
    assert there in capsys.readouterr().err


def test_slurm_is_asked_once_for_all_runs(slurm: Slurm, tmp_path: Path, tiny: Config) -> None:
    names = [f"run{number}" for number in range(30)]
    configs = [replace(tiny, name=name, runs_dir=str(tmp_path / "runs" / "spec")) for name in names]
    one = submission.create(str(tmp_path / "runs"), "spec", configs, resources.Resources(), members=[])
    one.keep(runs={name: f"12_{number}" for number, name in enumerate(names)}, slurm={**SUBMITTED, "name": "spec"})
    slurm.queue(*(entry(f"12_{number}", "PENDING", "spec", "/home/me") for number in range(20)))
    listed = list(overview.rows(tmp_path / "runs", time.time()))
    assert [row["state"] for row in listed].count("pending") == 20
    assert [len(slurm.calls(name)) for name in ("squeue", "sacct", "scontrol")] == [1, 1, 1]


def test_two_jobs_of_two_clusters_with_one_id_are_two_jobs(slurm: Slurm) -> None:
    slurm.queue(entry("12", "RUNNING", "a", "/w"))
    ours, theirs = (Job.of("12", {"cluster": cluster, "name": "a"}) for cluster in ("here", "there"))
    answer = lookup.ask([ours, theirs])
    assert list(answer.entries) == [ours]
    assert list(answer.unknown) == [theirs]
