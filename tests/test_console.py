"""The console command `segtrain`: one command under two names, here or on a cluster."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from jobs import ablate
from segtrain.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parent.parent


def call(module: str, *arguments: str | Path, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """A command of the checkout."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_one_of_its_module(name: str) -> None:
    assert callable(import_module(COMMANDS[name][0]).command)


@pytest.mark.parametrize("name", ["submit", "status", "logs", "clean", "cancel", "offline", "ablate"])
def test_a_command_of_jobs_is_the_same_by_both_names(name: str) -> None:
    assert call("segtrain", name, "--help").stdout == call(f"jobs.{name}", "--help").stdout


@pytest.mark.law("L12")
def test_a_mistake_in_a_command_of_jobs_is_one_line(tmp_path: Path) -> None:
    done = call("segtrain", "status", tmp_path / "nowhere", code=2)
    assert (
        done.stderr == f"segtrain: error: {tmp_path}/nowhere: no such folder; name the runs_dir that holds the runs\n"
    )


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(f"device: cpu\nruns_dir: {tmp_path / 'runs'}\n")
    (tmp_path / "spec.yaml").write_text("name: s\nbase: base.yaml\nvariants: {a: {}, b: {loss: bce}}\n")
    return tmp_path / "spec.yaml"


@pytest.mark.parametrize(
    ("options", "on_cluster"),
    [
        ([], False),
        (["--nproc", "2"], False),
        (["--executor", "local", "--gpus-per-node", "1"], False),
        (["--executor", "slurm"], True),
        (["--cluster", "cpu"], True),
        (["--partition", "long"], True),
        (["--slurm", "exclusive"], True),
        (["--max-parallel", "2"], True),
    ],
)
def test_an_ablation_goes_to_slurm_by_any_option_for_it_and_stays_here_without(
    spec: Path, capsys: pytest.CaptureFixture[str], options: list[str], on_cluster: bool
) -> None:
    assert ablate.command([str(spec), "--dry-run", *options]) == 0
    shown = capsys.readouterr().out
    assert ("#SBATCH --array" in shown, "b-seed42" in shown) == (on_cluster, not on_cluster)
    assert not (spec.parent / "runs").exists()


def test_as_a_module_an_ablation_goes_to_slurm_unless_it_is_told_otherwise(spec: Path) -> None:
    assert "#SBATCH --array" in call("jobs.ablate", spec, "--dry-run").stdout
    assert "b-seed42" in call("jobs.ablate", spec, "--dry-run", "--executor", "local").stdout


@pytest.mark.law("L12")
def test_runs_here_refuse_a_number_at_a_time(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ablate.command([str(spec), "--executor", "local", "--max-parallel", "2"])
    assert "--max-parallel: is for a cluster; --executor local trains one run at a time" in capsys.readouterr().err


@pytest.mark.law("L12")
def test_a_number_of_processes_here_is_no_option_for_slurm(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        ablate.command([str(spec), "--nproc", "2", "--cluster", "cpu"])
    assert (
        "--nproc: is for runs that are trained here; on a cluster use --processes-per-node" in capsys.readouterr().err
    )


def test_a_training_on_real_data_says_that_its_settings_are_those_for_made_up_ones(tmp_path: Path) -> None:
    places = f"data.root={tmp_path / 'none'}", f"runs_dir={tmp_path}"
    printed = call("segtrain.train", "data.source=slices", *places, "train.epochs=7", code=2).stderr
    assert "no --config" in printed
    assert "(64 px, 8 features, 7 epochs)" in printed
    printed = call("segtrain.train", "--config", "lgg", *places, code=2).stderr
    assert "no --config" not in printed
