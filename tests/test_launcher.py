"""Launchers: torchrun, which may start again what has left."""

import os
import subprocess
from pathlib import Path

import pytest
from commands import TORCHRUN

from segtrain.errors import LaunchError, Stopped, StopReason
from segtrain.runtime import launcher
from segtrain.runtime.process import run_command


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchrun's folder of a launch, of which this process is a rank."""
    attempt(tmp_path, 0, monkeypatch)
    return tmp_path


def attempt(launch: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = launch / f"attempt_{number}" / "0"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(number))


@pytest.mark.law("L8")
@pytest.mark.parametrize("reason", StopReason)
def test_what_was_stopped_on_purpose_stays_stopped(
    reason: StopReason, launch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher.stay_stopped()
    launcher.remember_stop(Stopped("saved", reason))
    launcher.stay_stopped()  # the ranks of this attempt may come later than others leave
    attempt(launch, 1, monkeypatch)
    if reason in (StopReason.SIGTERM, StopReason.OUT_OF_MEMORY):
        launcher.stay_stopped()
        return
    with pytest.raises(Stopped, match="saved") as again:
        launcher.stay_stopped()
    assert again.value.reason is reason


def test_another_launch_goes_on(launch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher.remember_stop(Stopped("saved", StopReason.STOP_FILE))
    attempt(tmp_path / "another", 1, monkeypatch)
    launcher.stay_stopped()
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    launcher.stay_stopped()


def test_an_error_is_told_once_in_a_launch(
    launch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(argv: object) -> int:
        raise LaunchError("wrong")

    assert run_command(command, []) == 2
    attempt(launch, 1, monkeypatch)
    assert run_command(command, []) == 2
    assert capsys.readouterr().err == "segtrain: error: wrong\n"


@pytest.mark.law("L8")
def test_a_duration_counts_from_the_launch(tmp_path: Path) -> None:
    """Under torchrun both attempts are past the deadline before their first step; one line says so."""
    options = ["stop.deadline=1s", "device=cpu", "data.phantom.patients=3", "data.phantom.size_px=64"]
    done = subprocess.run(
        [*TORCHRUN, "--nproc_per_node=1", "--max-restarts=1", "-m", "segtrain.train", *options],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("segtrain:")]
    assert len(lines) == 1, done.stderr
    assert "stopped by the deadline before the first step" in lines[0]
    assert not (tmp_path / "runs").exists()
