"""Launchers: torchrun, which may start again what has left; ranks in the environment that nobody started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TORCHRUN

from segtrain.commands import train
from segtrain.config import Config, to_yaml
from segtrain.errors import LaunchError, Stopped, StopReason
from segtrain.runtime import launcher, torchrun
from segtrain.runtime.process import run_command
from segtrain.runtime.stop import Stop

LONGER = """
import os, sys
from torch.distributed import run
from torch.distributed.run import config_from_args
run.run = lambda options: print(config_from_args(options)[0].shutdown_timeout)
from segtrain.runtime import torchrun
torchrun.launch(["--nproc-per-node=1", "script.py"])
"""


@pytest.mark.law("L8")
@pytest.mark.parametrize(("variables", "patience_s"), [({}, 100), ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7"}, 7)])
def test_ranks_get_longer_than_torchrun_s_half_minute_to_save(variables: dict[str, str], patience_s: int) -> None:
    environment = {name: value for name, value in os.environ.items() if "SHUTDOWN_TIMEOUT" not in name}
    done = subprocess.run(
        [sys.executable, "-c", LONGER], env=environment | variables, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == patience_s


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


@pytest.mark.parametrize(
    ("options", "ignored", "expected"),
    [
        ([], False, "SIGTERM,SIGINT,SIGHUP,SIGQUIT"),
        ([], True, "SIGTERM,SIGINT,SIGQUIT"),
        (["--signals-to-handle=SIGTERM,SIGUSR1,SIGHUP"], True, "SIGTERM,SIGUSR1"),
    ],
)
def test_nohup_takes_one_signal_from_those_that_torchrun_handles(
    options: list[str], ignored: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for function in ("keep_to_loopback", "without_small_caches"):
        monkeypatch.setattr(torchrun, function, lambda *_: None)
    monkeypatch.setattr("segtrain.runtime.torchrun_rendezvous.register", lambda: None)
    monkeypatch.setattr("torch.distributed.run.run", lambda options: handled.append(options.signals_to_handle))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        torchrun.launch([*options, "-m", "segtrain.train"])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert handled == [expected]


TORCHRUN_RANK = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN_RANK:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("left", "words"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE=2"),  # as a pod has it
        ({**TORCHRUN_RANK, "MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({"RANK": "1"}, "RANK=1"),
        ({**TORCHRUN_RANK, "RANK": "2"}, "RANK=2"),
        ({"LOCAL_RANK": "3"}, "LOCAL_RANK=3"),
        ({**TORCHRUN_RANK, "LOCAL_WORLD_SIZE": "4"}, "LOCAL_WORLD_SIZE=4"),
    ],
)
def test_ranks_left_in_the_environment_are_refused(
    left: dict[str, str], words: str, no_ranks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    for check in (launcher.check_ranks, launcher.refuse_ranks):
        with pytest.raises(LaunchError) as refused:
            check()
        assert "unset RANK, WORLD_SIZE" in str(refused.value)
        assert words in str(refused.value) or check is launcher.refuse_ranks


def test_ranks_that_torchrun_started_are_not(no_ranks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher.check_ranks()
    launcher.refuse_ranks()
    for name, value in TORCHRUN_RANK.items():
        monkeypatch.setenv(name, value)
    launcher.check_ranks()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(LaunchError, match=r"WORLD_SIZE=2 .* runs in one process; start it without torchrun"):
        launcher.refuse_ranks()


@pytest.mark.law("L12")
def test_nproc_starts_ranks_and_passes_their_code_on(tiny: Config, tmp_path: Path) -> None:
    """The other arguments reach the ranks, which report a mistake once."""
    (tmp_path / "given.yaml").write_text(to_yaml(tiny))
    command = [sys.executable, "-m", "segtrain", "train", "--nproc=2", "--config", "given.yaml", "stop.deadline=soon"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 2, done.stderr
    (message,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert message.startswith("segtrain: error: stop.deadline='soon'"), message
    assert "Traceback" not in done.stderr


@pytest.mark.law("L12")
def test_nproc_is_refused_where_it_makes_no_sense(no_ranks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stop, "listen", lambda _: None)
    with pytest.raises(LaunchError, match="--nproc 0: give the number of processes"):
        train.command(["--nproc", "0"])
    for name, value in TORCHRUN_RANK.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=r"WORLD_SIZE=2 .* runs in one process"):
        train.command(["--nproc", "2"])


def test_nproc_leaves_the_other_arguments_as_they_are(no_ranks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    program: list[str] = []
    monkeypatch.setattr(Stop, "listen", lambda _: None)

    def execv(path: str, words: list[str]) -> None:
        program[:] = words
        raise SystemExit

    monkeypatch.setattr(os, "execv", execv)
    for nproc in (["--nproc", "2"], ["--nproc=2"], ["--npro", "2"]):
        with pytest.raises(SystemExit):
            train.command(["optim.lr=1", *nproc, "--fresh", "--config", "phantom"])
        assert program[-5:] == ["segtrain.train", "optim.lr=1", "--fresh", "--config", "phantom"]
        assert "--nproc-per-node=2" in program
