"""Without flock, as on some mounts of Lustre, runs and stores are locked by files with a heartbeat."""

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainings import Job, assert_same, state_of, train_rank

from segtrain.config import Config
from segtrain.doctor import disk
from segtrain.runtime import lock, lock_file, machine

ROOT = Path(__file__).resolve().parent.parent
FORK = multiprocessing.get_context("fork")
# As sitecustomize.py: /tmp is of another kind than the file system of runs.
WITHOUT_FLOCK = """
import errno, fcntl, os
really = fcntl.flock
def flock(file, operation):
    path = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
    if not path.startswith("/tmp/segtrain-"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    really(file, operation)
fcntl.flock = flock
"""


@pytest.fixture
def without_flock(tmp_path: Path) -> dict[str, str]:
    """The environment of commands where there is none."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_FLOCK)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "OMP_NUM_THREADS": "1"}


def compete(path: Path, folder: Path, turns: int) -> None:
    """Take the lock again and again; a file that is there once shows who was not alone."""
    while turns:
        if held := lock_file.take(path):
            (folder / "inside").touch(exist_ok=False)
            (folder / f"{os.getpid()}-{turns}").touch()
            (folder / "inside").unlink()
            held.release()
            turns -= 1


def test_of_many_processes_one_has_the_lock(tmp_path: Path) -> None:
    (tmp_path / "turns").mkdir()
    arguments = (tmp_path / ".[a].lock", tmp_path / "turns", 25)
    processes = [FORK.Process(target=compete, args=arguments) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert len(list((tmp_path / "turns").iterdir())) == 6 * 25
    assert len(list(tmp_path.glob(".?a?.lock.*"))) == 1, "nothing is left of those before"


def hold(path: Path, ready: Any, prepare: Callable[[], None]) -> None:
    prepare()
    ready.put(lock_file.take(path) is not None)
    time.sleep(60)


def holder(path: Path, prepare: Callable[[], None] = lambda: None) -> Any:
    """Another process that has the lock."""
    ready = FORK.Queue()
    process = FORK.Process(target=hold, args=(path, ready, prepare))
    process.start()
    assert ready.get(timeout=20)
    return process


def test_a_killed_holder_of_this_machine_is_gone_at_once_and_a_suspended_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(path)
    os.kill(process.pid, signal.SIGSTOP)
    os.utime(tmp_path / "lock.1", (0, 0))
    assert lock_file.is_taken(path)
    assert lock_file.take(path) is None
    process.kill()
    process.join()
    assert not lock_file.is_taken(path)
    assert lock_file.take(path) is not None


def elsewhere() -> None:
    """This process is on another machine."""
    machine.identity = lambda: "another"
    lock_file.BEAT_S = 0.1


def test_a_holder_of_another_machine_is_gone_when_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_file, "WATCH_S", 2.0)
    path = tmp_path / "lock"
    process = holder(path, elsewhere)
    assert lock_file.take(path) is None
    real, fast = time.time, time.time() + 1000
    monkeypatch.setattr(time, "time", lambda: fast)
    assert lock_file.take(path) is None, "a clock that is fast does not take what somebody holds"
    process.kill()
    process.join()
    monkeypatch.setattr(time, "time", real)
    assert lock_file.take(path) is None, "it was there a moment ago"
    monkeypatch.setattr(time, "time", lambda: fast)
    assert not lock_file.is_taken(path)
    assert lock_file.take(path) is not None


def test_whoever_stood_still_while_another_took_over_ends(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock", elsewhere)
    (tmp_path / "lock.2").write_text('{"host": "other", "pid": 7}')
    process.join(20)
    assert process.exitcode == 2


def test_a_released_lock_is_free_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    held = lock_file.take(path)
    assert held is not None
    monkeypatch.setattr(machine, "identity", lambda: "another")
    assert lock_file.take(path) is None
    lock_file.release_all()
    assert lock_file.take(path) is not None


@pytest.mark.parametrize("error", sorted(lock.NO_FLOCK))
def test_each_error_of_a_missing_flock_leads_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "lock"
    held = lock.take(path)
    assert held is not None
    assert lock.is_taken(path)
    assert lock.take(path) is None
    held.release()
    assert not lock.is_taken(path)


class WithoutFlock(Job):
    def rank_of(self) -> Callable[..., None]:
        return rank_without_flock


def rank_without_flock(*arguments: Any) -> None:
    exec(WITHOUT_FLOCK, {})
    train_rank(*arguments)


@pytest.mark.law("L6")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_is_locked_while_it_trains_and_goes_on_when_it_was_killed(
    fragile: Config, unbroken: dict[int, dict[str, Any]], tmp_path: Path, ranks: int
) -> None:
    first = WithoutFlock(tmp_path, fragile, ranks)
    run = tmp_path / "runs" / fragile.name
    while not (run / "checkpoints" / "LATEST").exists() and all(p.is_alive() for p in first.processes):
        time.sleep(0.01)
    first.kill(*range(ranks), number=signal.SIGSTOP)
    second = WithoutFlock(tmp_path, fragile, ranks)
    assert second.wait() == [2] * ranks, second.output()
    assert "another process trains in it" in second.output()
    assert "no flock, so locks are files with a heartbeat" in second.output()
    first.kill(*range(ranks))
    first.wait()
    assert WithoutFlock(tmp_path, fragile, ranks).wait() == [0] * ranks, first.output()
    assert_same(state_of(run), unbroken[ranks])


@pytest.mark.law("L11")
def test_of_two_that_prepare_at_once_one_builds(tmp_path: Path, without_flock: dict[str, str]) -> None:
    command = [
        sys.executable, "-m", "segtrain", "prepare", f"data.store={tmp_path / 'store'}", "data.image_size=32",
        "data.phantom={patients: 6, size_px: 64}",
    ]  # fmt: skip
    both = [subprocess.Popen(command, env=without_flock, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("preparing" in output for output in outputs) == 1, outputs


def test_the_doctor_says_what_takes_the_place_of_flock(
    tmp_path: Path, without_flock: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", without_flock["PYTHONPATH"])
    (tmp_path / "scratch").mkdir()
    finding = disk.locks("runs_dir", tmp_path / "scratch")
    assert finding.state == "warning"
    assert finding.message == f"{tmp_path}: no flock, so files with a heartbeat take its place"
    assert "can go on elsewhere after 85 s" in finding.remedy


def test_a_queue_waits_for_the_runs_of_an_earlier_one(tmp_path: Path, without_flock: dict[str, str]) -> None:
    code = f"""
import sys
from pathlib import Path
from jobs.queue import machine
folder = Path({str(tmp_path)!r})
if sys.argv[1:]:
    machine.mark(folder)
    print("marked", flush=True)
    sys.stdin.read()
else:
    machine.wait_for_orphans(folder, lambda: None, 0.0)
"""
    command = [sys.executable, "-c", code]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": without_flock}
    with subprocess.Popen([*command, "mark"], **pipes) as orphan:
        assert orphan.stdout
        assert orphan.stdout.readline() == "marked\n"
        refused = subprocess.run(command, capture_output=True, text=True, env=without_flock, check=False)
        assert "runs of an earlier queue are still there" in refused.stderr
        orphan.kill()
    subprocess.run(command, env=without_flock, check=True)
