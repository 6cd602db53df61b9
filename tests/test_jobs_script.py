"""How a batch script has its job start again, with stand-ins for SLURM's commands: arrays, containers, no requeue."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from batch_scripts import ROOT, Start, program, starting

from jobs import requeue, resources, sbatch, scheduler, submission
from jobs.history import History
from jobs.rank import RankEnd
from segtrain.config import Config
from segtrain.errors import StopReason


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    yield from starting(tmp_path)


@pytest.mark.law("L14")
@pytest.mark.parametrize("kind", ["submission", "container", "template"])
def test_the_element_of_an_array_that_has_the_arrays_id_comes_back_alone(
    tmp_path: Path, tiny: Config, start: Start, kind: str
) -> None:
    """SLURM gives one element of each array the array's id, for which squeue lists all; a user's filters hide none."""
    listing = 'case "$*" in *" 7_3 "*) echo RUNNING ;; *) printf "RUNNING\\nRUNNING\\n" ;; esac'
    program(tmp_path, "squeue", f'[ -n "${{SQUEUE_PARTITION:-}}" ] || {listing}')
    array = "export SQUEUE_PARTITION=other SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=3\n"
    if kind == "template":
        program(tmp_path, "srun", 'touch "$SEGTRAIN_REQUEUE"; exit 75')
        text = (ROOT / "slurm" / "preemptible.sbatch").read_text()
    else:
        job_resources = (
            resources.Resources(python="podman run image python") if kind == "container" else resources.Resources()
        )
        program(tmp_path, "srun", 'touch "$SEGTRAIN_REQUEUE"; exit 75' if kind == "container" else "exit 138")
        cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
        text = sbatch.script(submission.create(cfg.runs_dir, "tiny", [cfg], job_resources), "tiny", job_resources)
    script = start(array + text)
    assert script.end == 75, script.wrote("output")
    assert script.wrote("orders") == ["requeue 7_3"]


@pytest.mark.law("L14")
def test_where_requeue_is_forbidden_a_script_submits_its_run_again(tmp_path: Path, tiny: Config, start: Start) -> None:
    program(tmp_path, "scontrol", "exit 1")
    program(tmp_path, "sbatch", "echo Submitted batch job 8")
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    submitted = submission.create(cfg.runs_dir, "tiny", [cfg], resources.Resources(setup=("sleep 0.2",)), fresh=True)
    submitted.keep(runs={"tiny": "7"})
    script = start(sbatch.script(submitted, "tiny", submitted.resources))
    script.signal(signal.SIGUSR2, 0.0)
    assert script.end == 75, script.wrote("output")
    assert submitted.record["runs"] == {"tiny": "8"}
    assert History(submitted.run("tiny")).line("8") == ["8", "7"]


@pytest.mark.law("L14")
@pytest.mark.parametrize("at_once", [True, False])
def test_where_requeue_is_forbidden_the_script_of_a_container_submits_its_run_again_and_bounded(
    tmp_path: Path, tiny: Config, start: Start, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """The step, in a container without SLURM's commands, can only ask for it: by a file, which says how."""
    program(tmp_path, "scontrol", 'echo "$@" >>tried; exit 1')
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    job_resources = resources.Resources(python="podman run image python", resubmit=at_once)
    submitted = submission.create(cfg.runs_dir, "tiny", [cfg], job_resources)
    submitted.keep(runs={"tiny": "7"})
    history = History(submitted.run("tiny"))
    monkeypatch.setattr(History, "lasted_s", lambda *_: 400.0)
    monkeypatch.setattr(scheduler, "time_limit_s", lambda job: 3600.0)
    for job in ("7", "8", "9"):
        file = submitted.logs / f"requeue-{job}"
        with monkeypatch.context() as container:
            container.setenv("SLURM_JOB_ID", job)
            container.setenv(scheduler.REQUEUE, str(file))
            container.setenv("PATH", str(tmp_path / "no programs"))
            history.begin(job)
            end = requeue.StartEnd(1, [RankEnd(75, StopReason.SIGUSR2)], "SIGUSR2")
            again = requeue.Resubmission(["sbatch"], at_once)
            assert requeue.conclude(history, job, end, again)[0] == 75
        program(tmp_path, "srun", "exit 75")  # which has left the file behind
        program(tmp_path, "sbatch", f"echo Submitted batch job {int(job) + 1}")
        script = start(f"export SLURM_JOB_ID={job}\n{sbatch.script(submitted, 'tiny', job_resources)}")
        assert script.end == 75, script.wrote("output")
        assert script.wrote("tried") == ([] if at_once or job == "9" else [f"requeue {job}"])
        assert not file.exists()
    assert submitted.record["runs"] == {"tiny": "9"}
    hows = [entry["how"] for entry in history.entries() if entry["event"] == "end"]
    assert hows == ["requeued", "resubmitted"] * 2 + ["given up"]
