"""Snapshots that go with jobs: what is in them, what a failure leaves, and which `jobs.clean` removes."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_programs import Slurm, entry

from jobs import clean, history, resources, sbatch, submission
from jobs.submission import Submission
from segtrain.config import Config
from segtrain.errors import LaunchError, RunError
from segtrain.run import Outcome, Run
from segtrain.runtime import files

ASKED = resources.Resources()


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout whose configs hold links: to a config, into data, and to nowhere."""
    home = tmp_path / "home"
    for folder in ("segtrain", "jobs", "configs/clusters", "elsewhere/data"):
        (home / folder).mkdir(parents=True)
    for file in ("segtrain/a.py", "jobs/b.py", "configs/phantom.yaml", "elsewhere/mine.yaml", "elsewhere/big.pt"):
        (home / file).write_text(file)
    (home / "elsewhere/data/image.tif").touch()
    for name, target in {"mine.yaml": "mine.yaml", "data": "data", "big.pt": "big.pt", "gone.yaml": "gone"}.items():
        (home / "configs" / name).symlink_to(home / "elsewhere" / target)
    (home / "configs/loop").symlink_to(home / "configs")
    monkeypatch.setattr(submission, "HOME", home)
    monkeypatch.setattr(submission, "builtin_config", lambda name: home / "configs" / name)
    return home


def test_links_are_followed_to_code_and_configs_alone(tmp_path: Path, home: Path, tiny: Config) -> None:
    made = submission.create(str(tmp_path / "runs"), "tiny", [tiny], ASKED)
    taken = sorted(str(path.relative_to(made.code)) for path in made.code.rglob("*") if path.is_file())
    assert taken == ["configs/mine.yaml", "configs/phantom.yaml", "jobs/b.py", "segtrain/a.py"]
    assert (made.code / "configs/mine.yaml").read_text() == "elsewhere/mine.yaml"


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("a bug")])
@pytest.mark.parametrize("at", ["copy_code", "keep"])
def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, home: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch, at: str, raised: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    place: object = submission if at == "copy_code" else Submission
    monkeypatch.setattr(place, at, fail)
    expected = RunError if isinstance(raised, OSError) else type(raised)
    with pytest.raises(expected, match="No space left" if expected is RunError else None):
        submission.create(str(tmp_path / "runs"), "tiny", [tiny], ASKED)
    assert list((tmp_path / "runs").rglob("*")) == [tmp_path / "runs" / ".jobs"]


def test_a_job_whose_record_cannot_be_written_is_taken_back(
    tmp_path: Path, home: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in {
        "sbatch": "echo Submitted batch job 12",
        "srun": "",
        "scancel": f"echo $1 >> {tmp_path}/ended",
    }.items():
        program(tmp_path / "slurm", name, script)
    monkeypatch.setenv("PATH", str(tmp_path / "slurm"), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    made = submission.create(str(tmp_path / "runs"), "tiny", [tiny], ASKED)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(LaunchError, match=r"cannot be written .*No space left on device.*nothing is submitted"):
        sbatch.submit(made, ["tiny"])
    assert (tmp_path / "ended").read_text() == "12\n"
    assert not made.root.exists()


@pytest.fixture
def submitted(tmp_path: Path, home: Path, tiny: Config) -> Callable[..., Submission]:
    """Makes a submission of one run, as that job; `ends`: how the job ended, in the run's history."""

    def make(name: str, job: str, *, ends: str = "", **about: str) -> Submission:
        cfg = replace(tiny, name=name, runs_dir=str(tmp_path / "runs"))
        made = submission.create(cfg.runs_dir, name, [cfg], ASKED)
        made.keep(runs={name: job}, **about)
        starts = history.History(Run.of(cfg))
        if ends:
            starts.begin(job)
            starts.end(job, ends, "")
        if ends == "finished":
            Run.of(cfg).root.mkdir(parents=True, exist_ok=True)
            Run.of(cfg).end(Outcome("finished", 4, 1, 0.5))
        return made

    return make


def test_clean_removes_what_no_job_and_no_run_needs(
    tmp_path: Path,
    submitted: Callable[..., Submission],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slurm = Slurm(tmp_path / "programs", monkeypatch)
    slurm.queue(entry("21", "PENDING"), entry("23", "RUNNING"), entry("12", "RUNNING", name="a-stranger-s"))
    slurm.accounting(entry("28", "CANCELLED by 7"))
    gone = [
        submitted("again", "11", ends="stopped"),
        submitted("done", "12", ends="finished"),
        submitted("never", "28"),
        submitted("lost", "14", ends="left to SLURM"),
    ]
    stays = {
        submitted("again", "13", ends="failed"): "again is not finished, and this is its newest",
        submitted("waits", "21", ends="finished"): "job 21 of waits is PENDING",
        submitted("report", "22", ends="finished", report="23"): "the report's job 23 is RUNNING",
        submitted("back", "24", ends="requeued"): "back is not finished, and this is its newest",
        submitted("elsewhere", "25"): "job 25 of elsewhere may come back, as far as is known here",
        submitted("torn", "26", ends="finished"): "job.json cannot be read",
    }
    submitted("elsewhere", "local-1")
    for name in ("never", "lost"):
        submitted(name, "local-2", ends="finished")
    (next(one.root for one in stays if one.root.parent.name == "torn") / "job.json").write_text("{")
    half_made = tmp_path / "runs" / ".jobs" / "done" / "009"
    fresh = half_made.with_name("010")
    for folder in (half_made, fresh):
        (folder / "code").mkdir(parents=True)
    os.utime(half_made, (0, 0))
    log = gone[0].logs / "11_0_log.out"
    log.write_text("what it said")

    before = sorted((tmp_path / "runs").rglob("*"))
    assert clean.command([str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert sorted((tmp_path / "runs").rglob("*")) == before
    for one, why in stays.items():
        assert f"kept      {one.root}: {why}\n" in shown
    for root in [*(one.root for one in gone), half_made]:
        assert f"would go  {root}: 0.0 MB, " in shown
    assert "MB; --yes removes it" in shown

    assert clean.command([str(tmp_path / "runs"), "--yes"]) == 0
    assert [one.root.name for one in (*gone, *stays) if not one.code.exists()] == [one.root.name for one in gone]
    assert log.read_text() == "what it said"
    assert json.loads((gone[0].root / "job.json").read_text())["runs"] == {"again": "11"}
    assert gone[0].config("again").exists()
    assert (half_made.exists(), fresh.exists()) == (False, True)
    capsys.readouterr()
    clean.command([str(tmp_path / "runs")])
    assert "would go" not in capsys.readouterr().out


def test_clean_removes_nothing_while_slurm_does_not_answer(
    tmp_path: Path, submitted: Callable[..., Submission], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "slurm", "squeue", "echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "slurm"), prepend=os.pathsep)
    made = submitted("done", "12", ends="finished")
    with pytest.raises(LaunchError, match="Socket timed out"):
        clean.command([str(tmp_path / "runs"), "--yes"])
    assert made.code.exists()
