"""`segtrain.train(nproc=...)`: ranks that Python starts, interrupts and hears of."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainings import TIMEOUT_S, assert_same, state, state_of

import segtrain
from segtrain.api import ranks
from segtrain.config import Config
from segtrain.errors import DamagedFile
from segtrain.run import Run

# Read by every Python that is started: one that adds to a run's losses stands still, once, until it is told to go on.
STAND_STILL = """
import os, signal, sys

def look(event, arguments):
    if event != "open" or not str(arguments[0]).endswith("metrics.jsonl") or not arguments[2] & os.O_WRONLY:
        return
    if os.path.exists(arguments[0]) and os.path.getsize(arguments[0]) and not os.path.exists({held!r}):
        with open({held!r} + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.rename({held!r} + ".part", {held!r})
        os.kill(os.getpid(), signal.SIGSTOP)

sys.addaudithook(look)
"""


def interrupt_while_it_stands(held: Path) -> None:
    """Interrupt this process once a rank stands still, which goes on when the interrupt has reached it."""
    until(held.exists)
    pid = int(held.read_text())
    until(lambda: state(pid) == "T")
    os.kill(os.getpid(), signal.SIGINT)
    try:
        until(lambda: has_waiting(pid, signal.SIGINT))
    finally:
        os.kill(pid, signal.SIGCONT)


def until(test: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not test():
        assert time.monotonic() < end
        time.sleep(0.01)


def has_waiting(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that stands still."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    waiting = next(line for line in lines if line.startswith("ShdPnd"))
    return bool(int(waiting.split()[1], 16) & (1 << (number - 1)))


@pytest.mark.law("L6")
def test_ranks_that_python_starts_have_the_bits_of_a_command(
    fragile: Config,
    unbroken: dict[int, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Interrupted once in the middle, at two ranks, and gone on with."""
    cfg = replace(fragile, runs_dir=str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    held = tmp_path / "held"
    (tmp_path / "sitecustomize.py").write_text(STAND_STILL.format(held=str(held)))
    monkeypatch.syspath_prepend(tmp_path)  # which the ranks are given
    interrupting = threading.Thread(target=interrupt_while_it_stands, args=(held,), daemon=True)
    interrupting.start()
    stopped = segtrain.train(cfg, nproc=2)
    interrupting.join(2 * TIMEOUT_S)
    assert stopped.state == "stopped"
    saved = Run(stopped.path).saved_step()
    assert saved > 0
    capfd.readouterr()
    run = segtrain.train(cfg, nproc=2)
    assert f"resuming {run.path} at step {saved} of" in capfd.readouterr().err
    assert_same(state_of(run.path), unbroken[2])


def test_an_error_of_another_module_s_class_comes_from_a_rank_as_the_nearest_of_segtrain_errors(tmp_path: Path) -> None:
    class Odd(DamagedFile):
        pass

    ranks.leave_error(tmp_path, Odd("patients.json: damaged"))
    error = ranks._error_of(tmp_path, 2)
    assert type(error) is DamagedFile
    assert str(error) == "patients.json: damaged"
