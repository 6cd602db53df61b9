"""What `jobs.status` tells of runs that failed, and of files that are broken. No cluster."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import REGIONS, SCANS, train
from slurm_programs import entry

from jobs import cancel, overview, rank, requeue, status, submission
from jobs.history import MAX_FRUITLESS, History
from jobs.lookup import Job
from jobs.queue.diagnosis import score
from jobs.resources import Resources
from jobs.run_state import summary
from jobs.status_table import status_table
from segtrain.config import Config
from segtrain.errors import Diverged, LaunchError, RunError, SegtrainError, Stopped, StopReason
from segtrain.run import Outcome, Run
from segtrain.runtime.terminal import standard_output

JOB, FAILED = Job("7"), entry("7", "FAILED")
NAN = "the loss is nan at step 40 (patients TCGA_1 and TCGA_2); a lower optim.lr may help"
TF32 = "precision=tf32 is a mode of CUDA devices, and device is cpu; use precision=fp32"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs" / "a")


def settled(run: Run, monkeypatch: pytest.MonkeyPatch, raised: Sequence[SegtrainError]) -> None:
    """A start of job 7 whose ranks ended so, through what a node runs and decides."""
    History(run).begin("7")
    folder = History(run).start_folder("7", 0)
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv(rank.START_FOLDER, str(folder))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for number, error in enumerate(raised):

        def command(argv: Sequence[str], error: SegtrainError = error) -> int:
            raise error

        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setattr(rank, "command", command)
        rank.main([])
    requeue.conclude(History(run), "7", requeue.start_end(folder, 1))


def test_a_run_that_was_refused_before_it_began_has_failed_and_says_why(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(run, monkeypatch, [LaunchError(TF32), LaunchError(TF32), Stopped("stopped by SIGTERM")])
    row = summary(run, JOB, None, time.time())
    assert (row["state"], row["why"]) == ("failed", f"failed: {TF32}")
    History(run).begin("7")
    assert summary(run, JOB, None, time.time())["state"] == "none", "it is being started again"


def test_the_reason_that_the_run_wrote_down_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.checkpoint(40).mkdir(parents=True)
    run.end(Outcome("diverged", 40, 1, 0.2, message=f"Diverged: {NAN}"))
    settled(run, monkeypatch, [Diverged(NAN), Stopped("stopped by SIGTERM")])
    assert History(run).entries("7")[-1]["why"] == NAN
    row = summary(run, JOB, FAILED, time.time())
    assert (row["state"], row["why"]) == ("diverged", f"Diverged: {NAN}")
    History(run).end(
        "7", "failed", "failed (launcher's code 1), see the log"
    )  # as a bug is booked, which leaves no words
    assert summary(run, JOB, FAILED, time.time())["why"] == f"Diverged: {NAN}"
    run.end(Outcome("stopped", 40, 1, 0.2, StopReason.SIGUSR2, "Stopped: stopped by SIGUSR2"))
    settled(run, monkeypatch, [LaunchError(TF32)])
    assert summary(run, JOB, FAILED, time.time())["why"] == f"failed: {TF32}", "not what an earlier start said"


def test_damaged_files_cost_their_run_its_row_and_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs_dir = tmp_path / "runs"
    damaged = {
        "starts": ("starts/environment.json", "[1]"),
        "no-starts": ("no-starts/environment.json", "5"),
        "old-start": ("old-start/environment.json", '[3, {"job": "local-12", "time": "2026-11-23T20:00:00+0000"}]'),
        "events": ("events/metrics.jsonl", "5\n"),
        "book": (".jobs/book/starts.jsonl", '{"event": "start", "step": 0}\n[]\n{"event": [], "job": "8"}\n'),
        "whole": ("whole/outcome.json", json.dumps({"state": "stopped", "reason": "Stopped: stopped by SIGTERM"})),
        ".jobs/list/001": (".jobs/list/001/job.json", "[1]"),
        ".jobs/empty/001": (".jobs/empty/001/job.json", "{}"),
    }
    for name, (file, text) in damaged.items():
        if not name.startswith("."):
            (runs_dir / name).mkdir(parents=True)
            (runs_dir / name / "config.yaml").write_text("train: {epochs: 10}\n")
            Run(runs_dir / name).log_file.write_text("2026-11-23 20:00:00 warning: the disk is nearly full\n")
        (runs_dir / file).parent.mkdir(parents=True, exist_ok=True)
        (runs_dir / file).write_text(text)
    states = {row["run"]: row["state"] for row in overview.rows(runs_dir, time.time())}
    assert states.pop("whole") == "stopped"
    assert (states.pop("book"), states.pop("old-start")) == ("running", "broken off"), "what is whole in them is told"
    assert states == dict.fromkeys(damaged.keys() - {"whole", "book", "old-start"}, "unreadable")
    assert status.command([str(runs_dir)]) == 0
    assert "│ broken off │ local-12 │" in capsys.readouterr().out


@pytest.mark.law("L12")
@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf"])
def test_an_interval_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        status.command([str(tmp_path), "--watch", seconds])
    assert f"--watch {seconds}: give seconds, more than 0" in capsys.readouterr().err


def test_a_start_after_a_torn_line_is_counted(run: Run) -> None:
    run.checkpoint(40).mkdir(parents=True)
    starts = History(run)
    starts.begin("7")
    [file] = starts.folder.glob("*.jsonl")
    file.write_text(file.read_text() + '{"time": "2026-11-23T20:00:00+0000", "ev')
    for _ in range(MAX_FRUITLESS - 1):
        starts.begin("7")
    assert [entry["event"] for entry in starts.entries("7")] == ["start"] * MAX_FRUITLESS
    with pytest.raises(RunError, match="the last 3 starts of job 7 gained no step"):
        starts.begin("7")


@pytest.mark.law("L10")
def test_a_mean_over_regions_is_shown_with_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Below it in the table, beside it in the lines of a queue; nothing is added where there is one region."""
    train(tmp_path / "runs" / "three", dict.fromkeys(REGIONS, 0.0), people=SCANS)
    train(tmp_path / "runs" / "one")
    assert status.command([str(tmp_path / "runs")]) == 0
    lines = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    cells = [line[7:9] for line in lines if len(line) > 8]
    at = cells.index(["0.8250", "0.6250"])
    assert cells[at + 1 : at + 4] == [
        ["whole 0.9250", "whole 0.7250"], ["core 0.8250", "core 0.6250"], ["enhancing 0.7250", "enhancing 0.5250"],
    ]  # fmt: skip
    assert ["0.9250", "0.7250"] in cells
    rows = {row["run"]: row for row in overview.rows(tmp_path / "runs", time.time())}
    assert rows["three"]["best_parts"] == "whole 0.9250, core 0.8250, enhancing 0.7250"
    assert (rows["three"]["n"], rows["three"]["people"], rows["one"]["best_parts"]) == (6, 3, None)
    told = score(Run(tmp_path / "runs" / "three").result())
    assert told == "0.8250 (whole 0.9250, core 0.8250, enhancing 0.7250; n = 3 people, 6 patients, no CI)"
    assert score(Run(tmp_path / "runs" / "one").result()) == "0.9250 (n = 6, no CI)"


def test_what_cannot_be_read_is_shown_with_its_trouble_and_hides_nothing(tmp_path: Path, tiny: Config) -> None:
    runs_dir = tmp_path / "runs"
    for name in ("old", "good", "torn", "half"):
        made = submission.create(str(runs_dir), name, [replace(tiny, name=name, runs_dir=str(runs_dir))], Resources())
        made.keep(runs={name: f"local-{name}"})
        Run(runs_dir / name).checkpoint(0).mkdir(parents=True)
        (runs_dir / name / "config.yaml").write_text("train: {epochs: 10}\n")
        Run(runs_dir / name).end(
            Outcome("stopped", 40, 1, reason=StopReason.SIGTERM, message="Stopped: stopped by SIGTERM")
        )
        damaged = {"old": made.config(name), "torn": made.root / "job.json", "half": runs_dir / name / "outcome.json"}
        if name in damaged:
            damaged[name].write_text("a_key_of_another_version: {")
    found = {row["run"]: row for row in overview.rows(runs_dir, 0.0)}
    assert {name: row["state"] for name, row in found.items()} == {
        "old": "stopped", "good": "stopped", "torn": "stopped", "half": "unreadable", ".jobs/torn/001": "unreadable",
    }  # fmt: skip
    assert "job.json: cannot be read" in found[".jobs/torn/001"]["why"]
    standard_output().print(status_table(list(found.values())))
    assert cancel.command(["old", "--runs-dir", str(runs_dir)]) == 0
    with pytest.raises(RunError, match="end its job with scancel, then move"):
        cancel.command(["torn", "--runs-dir", str(runs_dir)])
