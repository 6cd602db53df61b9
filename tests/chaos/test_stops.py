"""L8: all ranks stop together, at every phase, whoever was told and however; then the run goes on unchanged."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from long_form import all_of
from slow_ranks import CAUTION_S, CautiousJob, SlowToLeave
from trainings import Job, assert_same, gone, state_of

from segtrain.config import CheckpointConfig, Config, EvaluateConfig, PhantomConfig, StopConfig, to_yaml

SIGNAL_TO_EXIT_S = 30.0  # the patience of torchrun, and of SLURM by default
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "segtrain.train"]
SEGTRAIN = ["segtrain", "train", "--nproc", "2"]


def metrics(directory: Path) -> str:
    file = directory / "runs" / "fragile" / "metrics.jsonl"
    return file.read_text() if file.exists() else ""


def step_of(directory: Path) -> int:
    lines = metrics(directory).splitlines()
    return max((int(json.loads(line)["step"]) for line in lines if line.endswith("}")), default=0)


def checkpoints(directory: Path) -> Path:
    return directory / "runs" / "fragile" / "checkpoints"


def between_epochs(directory: Path) -> bool:
    """The last thing that was written down is the loss at an epoch's end."""
    lines = [json.loads(line) for line in metrics(directory).splitlines() if line.endswith("}")]
    return bool(lines) and lines[-1]["event"] == "train" and lines[-1]["step"] % 7 > 0


PHASES: dict[str, Callable[[Path], bool]] = {
    "starting": lambda d: True,
    "first step": lambda d: (d / "runs" / "fragile" / "config.yaml").exists(),
    "mid epoch": lambda d: step_of(d) >= 7,
    "saving": lambda d: any(checkpoints(d).glob(".step-*.tmp")),
    "evaluating": between_epochs,
    "last steps": lambda d: metrics(d).count("evaluation") >= 2,
}


def catches(pid: int | None, number: signal.Signals) -> bool:
    """Whether a process is there and has a handler for the signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & (1 << (number - 1)))


def await_phase(job: Job, phase: str) -> None:
    while not PHASES[phase](job.directory) and all(p.is_alive() for p in job.processes):
        time.sleep(0.001)


def stopped_in(job: Job) -> float:
    """Seconds until all ranks have left, with the code that says so; less than the launcher's patience."""
    started = time.monotonic()
    codes = job.wait(2 * SIGNAL_TO_EXIT_S)
    took_s = time.monotonic() - started
    assert codes in ([75] * len(codes), [0] * len(codes)), f"{codes}\n{job.output()}"
    assert took_s < SIGNAL_TO_EXIT_S
    print(f"signal to exit: {took_s:.2f} s, codes {codes}")  # noqa: T201
    return took_s


def finish(directory: Path, cfg: Config, ranks: int) -> dict[str, Any]:
    job = Job(directory, cfg, ranks)
    assert job.wait() == [0] * ranks, job.output()
    return state_of(directory / "runs" / cfg.name)


WAYS = {"all": (signal.SIGTERM, (0, 1)), "one": (signal.SIGUSR1, (1,))}
# Where one rank is told, the ranks have to agree, in whatever phase. Where all are told, each phase has the agreement
# that it has with one; what differs is that both handlers are there at the start, and that both ranks know of it.
ALL_TOLD = ("starting", "mid epoch")


@pytest.mark.law("L8")
@pytest.mark.law("L6")
@pytest.mark.parametrize(
    ("way", "phase"),
    all_of(
        [(way, phase) for way in WAYS for phase in PHASES],
        short=[*(("one", phase) for phase in PHASES), *(("all", phase) for phase in ALL_TOLD)],
    ),
)
def test_stopped_at_any_phase_the_run_goes_on_unchanged(
    fragile: Config, unbroken: dict[int, dict[str, Any]], tmp_path: Path, way: str, phase: str
) -> None:
    number, told = WAYS[way]
    job = Job(tmp_path, fragile, 2)
    if phase == "starting":
        for process in job.processes:  # before the handlers are there a signal just ends the process
            while not catches(process.pid, signal.SIGUSR1) and process.is_alive():
                time.sleep(0.001)
    await_phase(job, phase)
    job.kill(*told, number=number)
    stopped_in(job)
    assert_same(finish(tmp_path, fragile, 2), unbroken[2])


def understood_and_said(fragile: Config, tmp_path: Path, number: signal.Signals) -> None:
    job = Job(tmp_path, replace(fragile, train=replace(fragile.train, epochs=50)), 1)
    await_phase(job, "mid epoch")
    job.kill(0, number=number)
    assert job.wait() == [75], job.output()
    outcome = json.loads((tmp_path / "runs" / "fragile" / "outcome.json").read_text())
    assert outcome["state"] == "stopped"
    assert outcome["reason"] == number.name
    assert f"segtrain: stopped by {number.name} at step {outcome['step']}" in job.output()
    assert (checkpoints(tmp_path) / f"step-{outcome['step']:08d}").is_dir()


@pytest.mark.quick
@pytest.mark.law("L8")
def test_a_signal_is_understood_and_said(fragile: Config, tmp_path: Path) -> None:
    understood_and_said(fragile, tmp_path, signal.SIGTERM)


@pytest.mark.law("L8")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_every_other_signal_is_too(fragile: Config, tmp_path: Path, number: signal.Signals) -> None:
    understood_and_said(fragile, tmp_path, number)


@pytest.mark.law("L8")
def test_the_stop_file_stops_and_is_gone_afterwards(fragile: Config, tmp_path: Path) -> None:
    long = replace(
        fragile,
        train=replace(fragile.train, epochs=500),  # the file is looked for once a second
        optim=replace(fragile.optim, schedule="constant"),
        evaluate=EvaluateConfig(every_epochs=100, pictures=0),
        checkpoint=CheckpointConfig(every_min=1),
    )
    job = Job(tmp_path / "stopped", long, 2)
    await_phase(job, "mid epoch")
    stop_file = tmp_path / "stopped" / "runs" / "fragile" / "STOP"
    stop_file.touch()
    assert job.wait() == [75, 75], job.output()
    assert not stop_file.exists()
    outcome = json.loads((stop_file.parent / "outcome.json").read_text())
    assert outcome["reason"] == "STOP_FILE"
    short = replace(long, train=replace(long.train, epochs=outcome["epochs"] + 1))
    assert_same(finish(tmp_path / "stopped", short, 2), finish(tmp_path / "alone", short, 2))


@pytest.mark.law("L8")
def test_a_deadline_is_kept(fragile: Config, tmp_path: Path) -> None:
    end = datetime.now() + timedelta(seconds=90)
    long = replace(fragile, train=replace(fragile.train, epochs=500), stop=StopConfig(deadline=end.isoformat()))
    job = CautiousJob(tmp_path, long, 2)
    job.wait_until_held()
    time.sleep(max(0.0, (end - datetime.now()).total_seconds() - CAUTION_S - 1))
    job.kill(number=signal.SIGCONT)
    assert job.wait() == [75, 75], job.output()
    assert datetime.now() < end
    outcome = json.loads((tmp_path / "runs" / "fragile" / "outcome.json").read_text())
    assert outcome["reason"] == "DEADLINE"


@pytest.mark.law("L8")
@pytest.mark.parametrize("told", [(0, 1), (0,), (1,)])
def test_a_stop_while_preparing_leaves_no_half_store(fragile: Config, tmp_path: Path, told: tuple[int, ...]) -> None:
    data = replace(fragile.data, store=str(tmp_path / "prepared"), workers=2, phantom=PhantomConfig(patients=60))
    job = Job(tmp_path, replace(fragile, data=data), 2)
    while not list((tmp_path / "prepared").glob(".*.building/images/*")) and job.processes[0].is_alive():
        time.sleep(0.005)
    job.kill(*told, number=signal.SIGTERM)
    assert job.wait() == [75, 75], job.output()  # what its workers have in hand is prepared to its end
    assert "before the first step" in job.output()
    assert not [p for p in (tmp_path / "prepared").iterdir() if not p.name.endswith(".lock")]


@pytest.mark.law("L8")
def test_a_second_interrupt_leaves_at_once(fragile: Config, tmp_path: Path) -> None:
    job = SlowToLeave(tmp_path, replace(fragile, train=replace(fragile.train, epochs=50)), 1)
    await_phase(job, "mid epoch")
    pid = job.processes[0].pid
    job.kill(0, number=signal.SIGINT)
    while catches(pid, signal.SIGINT):  # until the first was taken note of
        time.sleep(0.001)
    job.kill(0, number=signal.SIGINT)
    assert job.wait() == [-signal.SIGINT], job.output()


@pytest.mark.law("L8")
@pytest.mark.parametrize(
    ("launcher_words", "number", "code"),
    [(TORCHRUN, signal.SIGTERM, 1), (TORCHRUN, signal.SIGKILL, -signal.SIGKILL), (SEGTRAIN, signal.SIGTERM, 75)],
    ids=["torchrun told", "torchrun killed", "segtrain told"],
)
def test_under_a_launcher_no_rank_is_left_behind(
    fragile: Config, tmp_path: Path, launcher_words: list[str], number: signal.Signals, code: int
) -> None:
    """Our own ends with the code of its ranks, torchrun with 1."""
    (tmp_path / "given.yaml").write_text(to_yaml(replace(fragile, train=replace(fragile.train, epochs=500))))
    launcher = subprocess.Popen(
        [sys.executable, "-m", *launcher_words, "--config", "given.yaml"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while "train" not in metrics(tmp_path) and launcher.poll() is None:
        time.sleep(0.01)
    ranks = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    assert len(ranks) == 2
    launcher.send_signal(number)
    started = time.monotonic()
    assert launcher.wait(timeout=30) == code
    while not all(map(gone, ranks)) and time.monotonic() - started < SIGNAL_TO_EXIT_S:
        time.sleep(0.01)
    assert all(map(gone, ranks))
    outcome = json.loads((tmp_path / "runs" / "fragile" / "outcome.json").read_text())
    assert outcome["state"] == "stopped"
    assert (checkpoints(tmp_path) / "LATEST").read_text() == f"step-{outcome['step']:08d}\n"


@pytest.mark.law("L8")
@pytest.mark.parametrize("ignored", [False, True], ids=["a terminal", "nohup"])
def test_a_terminal_that_is_closed_has_the_run_saved_and_nohup_has_it_go_on(
    fragile: Config, tmp_path: Path, ignored: bool
) -> None:
    epochs = 6 if ignored else 500
    (tmp_path / "given.yaml").write_text(to_yaml(replace(fragile, train=replace(fragile.train, epochs=epochs))))
    ours, terminal = os.openpty()
    os.set_blocking(ours, False)
    nohup = ["nohup"] if ignored else []
    launcher = subprocess.Popen(
        ["setsid", "--ctty", *nohup, sys.executable, "-m", *SEGTRAIN, "--config", "given.yaml"],
        cwd=tmp_path,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    os.close(terminal)
    shown = b""
    while "train" not in metrics(tmp_path) and launcher.poll() is None:
        with contextlib.suppress(OSError):  # nothing to read, or nobody writes: nohup writes into nohup.out
            shown += os.read(ours, 4096)
        time.sleep(0.01)
    os.close(ours)
    assert launcher.wait(timeout=60) == (0 if ignored else 75), shown.decode()
    outcome = json.loads((tmp_path / "runs" / "fragile" / "outcome.json").read_text())
    assert (outcome["state"], outcome["reason"]) == (("finished", None) if ignored else ("stopped", "SIGHUP"))
    assert (checkpoints(tmp_path) / "LATEST").read_text() == f"step-{outcome['step']:08d}\n"


@pytest.mark.law("L12")
def test_two_jobs_never_share_a_run(fragile: Config, tmp_path: Path) -> None:
    first = Job(tmp_path, replace(fragile, train=replace(fragile.train, epochs=50)), 1)
    await_phase(first, "first step")
    second = Job(tmp_path, replace(fragile, train=replace(fragile.train, epochs=50)), 1)
    assert second.wait(30) == [2]
    assert "another process trains in it" in second.output()
    first.kill(0, number=signal.SIGTERM)
    assert first.wait(20) == [75]
