"""Jobs in trouble: SLURM that does not answer, file systems that stall, orders that nobody reads. No cluster."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import executors, resources, submission
from segtrain.config import Config


def program(folder: Path, name: str, script: str) -> None:
    """A program of that name, to be found first on the path."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of SLURM's commands; a test writes those that it needs."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def test_the_snapshot_goes_before_what_the_setup_puts_on_the_path() -> None:
    asked = resources.Resources(setup=("module load python", "export PYTHONPATH=/site"))
    lines = executors.script(submission.Submission(Path("/runs/.jobs/a/001")), "a", asked).splitlines()
    setup = lines.index("export PYTHONPATH=/site")
    assert lines.index("export PYTHONPATH=/runs/.jobs/a/001/code${PYTHONPATH:+:$PYTHONPATH}") > setup
    assert lines[setup - 1] == "module load python"


@pytest.mark.parametrize(("inside", "seen"), [(True, {"SLURM_CONF"}), (False, {"SLURM_CONF", "SBATCH_ACCOUNT"})])
def test_a_job_that_submits_does_not_hand_down_its_own_options(
    slurm: Path, tmp_path: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch, inside: bool, seen: set[str]
) -> None:
    """A user's defaults on a login node stay."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
        monkeypatch.delenv(name)
    given = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "mri"}
    given |= {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3"} if inside else {}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    program(slurm, "sbatch", f"env > {tmp_path}/seen; echo Submitted batch job 12")
    program(slurm, "srun", "")
    made = submission.create(str(tmp_path / "runs"), "tiny", [replace(tiny, name="tiny")], resources.Resources())
    assert executors.submit(made, ["tiny"]) == {"tiny": "12"}
    names = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert {name for name in names if name.startswith(("SLURM_", "SBATCH_"))} == seen
    assert given.items() <= os.environ.items()
