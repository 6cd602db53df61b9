"""A store that does not answer yet, or never does, ends no night and holds up neither queue nor process."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from queues import StandIns, command, entries, write

from jobs.offline import location, store_retry, sync
from jobs.offline import mirror as mirrors
from jobs.offline.location import Location, locate
from segtrain.errors import DataError, LaunchError, RunError, Stopped
from segtrain.run import Run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every push hangs; whether one does."""
    begun, over = threading.Event(), threading.Event()

    def push(*_: object, **__: object) -> int:
        begun.set()
        over.wait()
        return 0

    monkeypatch.setattr(sync, "push", push)
    yield begun
    over.set()


@pytest.mark.law("L8")
@pytest.mark.parametrize("budget", [[], ["--max-hours", str(2 / 3600)]])
def test_a_queue_whose_store_hangs_ends_and_runs_the_command_when_done(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, hung: threading.Event,
    capsys: pytest.CaptureFixture[str], budget: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(mirrors, "LEAST_S" if budget else "LAST_S", 1.0)
    code = command(
        write(tmp_path), "--sync", str(tmp_path / "bucket"), "--when-done", f"touch {tmp_path}/hook", *budget
    )
    assert code in ((1, 75) if budget else (1,))  # the runs need not fit into two seconds
    assert hung.is_set()
    assert (tmp_path / "hook").exists()
    said = capsys.readouterr().err
    assert "sync of night: no answer in " in said
    assert "sync of the archive: no answer in " in said
    assert len(entries(tmp_path, "left")) == 1


def test_a_push_that_hangs_does_not_keep_the_others_from_the_mirror(
    tmp_path: Path, trained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, call, over = sync.push, store_retry.call, threading.Event()
    returned: list[object] = []

    def slow(to: Location, folder: Path, *of: Any, **options: Any) -> object:
        return over.wait() if folder.name == "bad" else push(to, folder, *of, **options)

    def called(*of: Any) -> None:
        returned.append(call(*of))

    monkeypatch.setattr(sync, "push", slow)
    (tmp_path / "bad").mkdir()
    place = locate(str(tmp_path / "bucket"))
    monkeypatch.setattr(store_retry, "call", called)
    both = 2  # the queue's own files, and the run
    limits = iter([lambda: "half of the time is over", lambda: "no answer" if len(returned) == both else ""])
    monkeypatch.setattr(store_retry, "limit", lambda *_: next(limits))
    mirror = mirrors.Mirror(place, tmp_path)
    mirror.push(tmp_path / "bad")
    mirror.look()
    mirror.push(trained_run.root)
    assert mirror.flush() == ["sync of bad: no answer"]
    assert sync.fetch(place / trained_run.root.name, tmp_path / "home")
    over.set()


def test_a_queue_that_is_told_to_stop_waits_for_no_mirror_any_longer(
    tmp_path: Path, hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it waits is what a stop leaves, and is the same whether that came before or meanwhile."""
    monkeypatch.setattr(mirrors, "STOPPED_S", 0.2)
    mirror = mirrors.Mirror(locate(str(tmp_path / "bucket")), tmp_path)
    for told in (lambda: 1, lambda: int(hung.is_set())):
        hung.clear()
        assert mirror.flush(stopped=told) == [f"sync of {tmp_path.name}: no answer in 0 s after it was told to stop"]


def test_what_is_left_behind_does_not_hold_up_the_process() -> None:
    code = (
        "import time; from jobs.offline import store_retry; store_retry.begin(lambda: time.sleep(600)); print('left')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, b"left\n")


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("error", "kind", "place"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), LaunchError, "the disk of the runs: cannot be used"),
        (
            OSError(errno.ENOSPC, "No space left on device", "{mirror}/run/objects/1", None, "{here}/1"),
            LaunchError,
            "{here}/1: cannot be used",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "run/1"), DataError, "{mirror}/run: may not be read"),
        (PermissionError(errno.EACCES, "Permission denied", "{mirror}"), DataError, "{mirror}/run: may not be read"),
        (PermissionError(errno.EACCES, "Permission denied", "{here}/run"), DataError, "{here}/run: cannot be used"),
        (OSError(errno.EIO, "Input/output error", "{here}/run"), RunError, "{here}/run: cannot be used"),
        (
            PermissionError(errno.EACCES, "Permission denied", "{mirror}/run"),
            DataError,
            "{mirror}/run: may not be read",
        ),
        (PermissionError("Forbidden"), DataError, "{mirror}/run: may not be read"),
        (OSError(errno.EIO, "Input/output error"), RunError, "{mirror}/run: cannot be fetched"),
    ],
)
def test_an_error_of_this_machine_s_disk_is_not_the_mirror_s(
    tmp_path: Path, error: OSError, kind: type[Exception], place: str
) -> None:
    mirror = locate(str(tmp_path / "mirror"))
    places = {"here": str(tmp_path), "mirror": str(tmp_path / "mirror")}
    for name in ("filename", "filename2"):
        if value := getattr(error, name):
            setattr(error, name, value.format(**places))
    with pytest.raises(kind, match=re.escape(place.format(**places))), sync.explained(mirror / "run"):
        raise error


NO_ROUTE = OSError(113, "No route to host")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], object]]]:
    """What the store does instead of its next answers: raise, hang, ..."""
    monkeypatch.setattr(store_retry, "PAUSE_S", 0.01)
    instead: list[Callable[[], object]] = []
    for name in ("makedirs", "cat_file"):
        answer = getattr(MemoryFileSystem, name)

        def answered(*of: Any, answer: Callable[..., Any] = answer, **options: Any) -> Any:
            if instead:
                instead.pop(0)()
            return answer(*of, **options)

        monkeypatch.setattr(MemoryFileSystem, name, answered)
    exists = MemoryFileSystem.exists
    monkeypatch.setattr(MemoryFileSystem, "exists", lambda *of: not instead and exists(*of))  # as fsspec's own does
    yield instead
    MemoryFileSystem.store.clear()


def fail() -> None:
    raise NO_ROUTE


def test_a_network_that_comes_up_late_is_waited_for(
    tmp_path: Path, stand_ins: StandIns, store: list[Callable[[], object]], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    stand_ins.words["b"] = ["parent"]
    assert command(write(first), "--sync", "memory://late") == 75
    stand_ins.began.clear()
    stand_ins.words["b"] = ["finish"]
    store[:] = [fail] * 5
    assert command(write(second), "--sync", "memory://late") == 0
    assert stand_ins.names == ["b"], "all was fetched"
    said = capsys.readouterr().err
    assert "sync: memory://late: does not answer (OSError: [Errno 113] No route to host); trying again" in said
    assert said.count("cannot be fetched (OSError: [Errno 113] No route to host)") == 4


@pytest.mark.law("L7")
@pytest.mark.parametrize("hangs", [True, False])
def test_a_store_that_never_comes_up_ends_the_queue_and_is_not_written_over(
    tmp_path: Path, stand_ins: StandIns, store: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    first, second, over = tmp_path / "first", tmp_path / "second", threading.Event()
    first.mkdir()
    second.mkdir()
    assert command(write(first), "--sync", "memory://never") == 0
    before = dict(MemoryFileSystem.store)
    monkeypatch.setattr(store_retry, "REACH_S", 0.05)
    monkeypatch.setattr(mirrors, "LAST_S", 1.0)  # it does not come to that
    monkeypatch.setattr(location, "ANSWER_S", 0.1)
    monkeypatch.setattr("jobs.offline.__main__.FETCH_S", 0.1)
    monkeypatch.setattr("jobs.offline.__main__.LEAST_S", 0.1)
    stand_ins.began.clear()

    def hang() -> None:
        over.wait()
        fail()  # who was left behind changes nothing any more

    store[:] = [hang if hangs else fail] * 1000
    for _ in range(2):
        with pytest.raises(RunError, match="no answer in 0 s" if hangs else "No route to host"):
            command(write(second), "--sync", "memory://never", "--when-done", f"echo off >> {tmp_path}/hook")
    over.set()
    assert stand_ins.names == []
    assert MemoryFileSystem.store == before
    once = "off\n"  # nobody pays for a machine that waits, and whoever boots it again is not locked out
    assert (tmp_path / "hook").read_text() == once


def test_who_waits_for_a_store_can_be_told_to_stop(
    tmp_path: Path, stand_ins: StandIns, store: list[Callable[[], object]]
) -> None:

    def tell_and_fail() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        fail()

    store[:] = [fail, fail, tell_and_fail, *[fail] * 1000]
    with pytest.raises(Stopped):
        command(write(tmp_path), "--sync", "memory://told", "--when-done", f"touch {tmp_path}/hook")
    assert not (tmp_path / "hook").exists()
    assert stand_ins.names == []
