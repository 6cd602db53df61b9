"""L7: a checkpoint is whole or is not there, whatever happens to it, and loading it runs no code."""

import logging
import os
import re
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from snapshots import FILES, newest_of, same, save, snapshot

from segtrain.errors import Diverged, RunError, Stopped
from segtrain.run import Run, checkpoint
from segtrain.run.checkpoint import Saver, Snapshot, read
from segtrain.runtime import files
from segtrain.runtime.world import World
from segtrain.training import session
from segtrain.training.loop import Loop


@pytest.mark.law("L7")
def test_what_was_saved_is_read_back(run: Run) -> None:
    save(run, 1, 2)
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(2))
    assert run.latest_pointer.read_text() == "step-00000002\n"
    assert sorted(f.name for f in run.checkpoint(2).iterdir()) == sorted(FILES)


def die_at(call: int, work: Callable[[], None]) -> bool:
    """Do `work` in a child that dies, without cleaning up, at its `call`-th file operation; False when it has fewer."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in (
                "open",
                "os.rename",
                "os.mkdir",
                "os.remove",
                "os.rmdir",
                "shutil.rmtree",
                "os.scandir",
                "fsync",
            ):
                seen += 1
                if seen > call:
                    os._exit(9)

        real = os.fsync

        def fsync(fd: int) -> None:
            sys.audit("fsync", fd)
            real(fd)

        os.fsync = fsync  # type: ignore[assignment]
        sys.addaudithook(count)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.law("L7")
def test_killed_at_any_file_operation_of_a_save_a_whole_checkpoint_is_found(run: Run) -> None:
    """The old one until the new one is whole; and the next save goes on as if nothing had happened."""
    save(run, 1, 2, keep=2)

    def work() -> None:
        Saver(run, keep=2)._publish(run.checkpoint(3), snapshot(3))

    found, call = [], 0
    while True:
        died = die_at(call, work)
        whole = newest_of(run)
        assert whole is not None
        step = whole.state["step"]
        assert same(whole, snapshot(step))
        named = run.checkpoint(int(run.latest_pointer.read_text().strip().removeprefix("step-")))
        assert same(read(named), snapshot(int(named.name.removeprefix("step-"))))
        found.append(step)
        if not died:
            break
        checkpoint.remove_leftovers(run)  # the run that comes back cleans up and saves again
        save(run, 3, keep=2)
        assert not list(run.checkpoints.glob(".*"))
        files.remove_folder(run.checkpoint(3))
        shutil.rmtree(run.checkpoints)
        save(run, 1, 2, keep=2)
        call += 1
    assert call > 15, "a save has many file operations"
    assert set(found) == {2, 3}
    assert found == sorted(found)


@pytest.mark.law("L7")
def test_all_is_synced_before_it_gets_its_name_and_the_name_before_the_pointer(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a machine that loses power would keep, in the order in which it is promised."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_sync(fd: int) -> None:
        file = Path(f"/proc/self/fd/{fd}").readlink().name
        done.append(f"sync {re.sub(r'[0-9a-f]{8}-[0-9]+[.]tmp$', 'tmp', file)}")
        fsync(fd)

    def note_rename(old: str, new: str) -> None:
        done.append(f"name {Path(new).name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    run.metrics.write_text("told so far\n")
    save(run, 1)
    named = done.index("name step-00000001")
    for file in (
        "metrics.jsonl",
        "model.safetensors",
        "optimizer.safetensors",
        ".state.json.tmp",
        ".manifest.json.tmp",
    ):
        assert f"sync {file}" in done[:named], file
    pointed = done.index("name LATEST")
    assert "sync checkpoints" in done[named:pointed], "the new name is durable before something points at it"
    assert "sync .LATEST.tmp" in done[named:pointed]
    assert done[-1] == "sync checkpoints"


@pytest.mark.law("L7")
@pytest.mark.parametrize("limit", [10, 300, 1000, 1500])
def test_a_full_disk_is_said_outlived_and_tried_again(
    run: Run, small_files: Callable[[int], None], limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    saver = Saver(run, keep=5)
    saver.save(1, snapshot(1))
    assert not saver.failed()
    small_files(limit)
    saver.save(2, snapshot(2))
    with caplog.at_level(logging.WARNING):
        assert saver.failed()
    small_files(resource.RLIM_INFINITY)
    assert "cannot be written now (File too large)" in caplog.text
    assert [f.name for f in run.checkpoints.iterdir() if f.is_dir()] == ["step-00000001"]
    assert run.latest_pointer.read_text() == "step-00000001\n"
    saver.save(3, snapshot(3))
    saver.close()
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(3))


@pytest.mark.law("L7")
def test_a_full_disk_at_the_last_save_is_an_error(run: Run, small_files: Callable[[int], None]) -> None:
    saver = Saver(run, keep=5)
    saver.save(1, snapshot(1))
    assert not saver.failed()
    small_files(500)
    saver.save(2, snapshot(2))
    with pytest.raises(RunError, match="could not be written"):
        saver.close()
    small_files(resource.RLIM_INFINITY)
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(1))


@pytest.mark.law("L7")
def test_a_folder_that_may_not_be_written_is_outlived_too(run: Run, as_nobody: None) -> None:
    saver = Saver(Run(run.root.parent / "elsewhere"), keep=5)
    saver.save(1, snapshot(1))
    assert saver.failed()


def test_another_error_of_the_writer_surfaces_in_the_loop(run: Run) -> None:
    saver = Saver(run, keep=5)
    saver.save(1, Snapshot({}, {}, {"not": object()}))
    with pytest.raises(TypeError):
        saver.save(2, snapshot(2))


def test_saving_does_not_hold_up_the_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop waits for the writer at the next save, not at this one."""
    events: list[str] = []
    real, on = checkpoint.publish, threading.Event()

    def slow(folder: Path, content: Snapshot) -> None:
        assert on.wait(60)
        real(folder, content)
        events.append(f"written {folder.name[-1]}")

    monkeypatch.setattr(checkpoint, "publish", slow)
    saver = Saver(run, keep=5)
    saver.save(1, snapshot(1))
    events.append("on")
    on.set()
    saver.save(2, snapshot(2))
    saver.close()
    assert events == ["on", "written 1", "written 2"]


class Ending:
    """A training loop that hands a checkpoint to a slow writer and ends a step later."""

    def __init__(self, run: Run, error: Exception) -> None:
        self.saver = Saver(run, keep=1)
        self.error = error
        self.start = SimpleNamespace(run=run, world=World())
        self.memory = self
        self.step = 2
        self.epochs_done = 0
        self.best_dsc = 0.5

    def run(self) -> None:
        self.saver.save(1, snapshot(1))
        raise self.error

    def close(self) -> None:
        pass

    def explain(self, error: Exception) -> Exception:
        return error


@pytest.mark.law("L7")
@pytest.mark.parametrize("error", [Diverged("nan"), RunError("no memory"), RuntimeError("a bug"), Stopped("told to")])
def test_however_a_run_ends_what_it_handed_to_the_writer_is_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As the process leaves right after, without joining any thread."""
    publish = checkpoint.publish

    def slow(folder: Path, content: Snapshot) -> None:
        time.sleep(0.5)
        publish(folder, content)

    monkeypatch.setattr(checkpoint, "publish", slow)
    with pytest.raises(type(error)):
        session.run_to_its_outcome(cast("Loop", Ending(run, error)))
    assert same(read(run.checkpoint(1)), snapshot(1))
    assert run.latest_pointer.read_text() == "step-00000001\n"
    outcome = run.outcome()
    assert outcome is not None
    assert outcome.message == f"{type(error).__name__}: {error}"


def test_a_writer_that_fails_at_the_end_hides_no_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path, content: Snapshot) -> None:
        raise ValueError("a bug of the writer")

    monkeypatch.setattr(checkpoint, "publish", broken)
    with pytest.raises(Diverged):
        session.run_to_its_outcome(cast("Loop", Ending(run, Diverged("nan"))))
    outcome = run.outcome()
    assert outcome is not None
    assert outcome.state == "diverged"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_and_the_best_are_kept(run: Run, keep: int) -> None:
    saver = Saver(run, keep)
    for step in range(1, 8):
        saver.save(step, snapshot(step))
        if step == 3:
            saver.mark_best(step)
    saver.close()
    kept = {int(f.name.removeprefix("step-")) for f in run.checkpoints.glob("step-*")}
    assert kept == {3, *range(8 - keep, 8)}
    assert run.best_pointer.read_text() == "step-00000003\n"
