"""L14: what is written into a folder that is bad for a while is written in order, each once, and holds up nobody."""

import errno
import logging
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bad_folders import Folder
from snapshots import newest_of, same, snapshot

from segtrain.config import Config, to_yaml
from segtrain.data.store import Store
from segtrain.errors import DataError, StopReason
from segtrain.run import Run
from segtrain.run.checkpoint import Saver, read
from segtrain.runtime import files
from segtrain.runtime import outbox as module
from segtrain.runtime.outbox import Addition, Appended, Outbox
from segtrain.runtime.process import flush_log, logging_as_before, start_logging
from segtrain.runtime.stop import Stop

log = logging.getLogger("segtrain.test")


@pytest.mark.law("L14")
@pytest.mark.quick
def test_a_line_that_was_half_written_is_mended(tmp_path: Path, small_files: Callable[[int], None]) -> None:
    lines = [b'{"n": %d}\n' % number for number in range(20)]
    for limit in range(1, 200, 7):
        appended, others = tmp_path / f"appended-{limit}", tmp_path / f"others-{limit}"
        file = Appended(appended)
        for line in lines:
            addition = Addition(others, line)
            for write in (partial(file.append, line), addition):
                small_files(limit)
                try:
                    write()
                except OSError:
                    small_files(resource.RLIM_INFINITY)
                    write()
        small_files(resource.RLIM_INFINITY)
        assert appended.read_bytes() == others.read_bytes() == b"".join(lines)


@pytest.mark.law("L14")
@pytest.mark.quick
def test_writes_are_made_in_order_each_once_whatever_fails(tmp_path: Path, folder: Folder) -> None:
    made: list[str] = []
    left = {"b": 3, "c": 1, "big": 2}

    def write(name: str) -> Callable[[], None]:
        def make() -> None:
            if left.get(name, 0):
                left[name] -= 1
                raise OSError(errno.EIO, "bad")
            made.append(name)

        return make

    outbox = Outbox(tmp_path)
    for name in "abcd":
        outbox.put(name, write(name))
    outbox.put("big", write("big"), large=True)
    assert outbox.drain() is None
    assert made == ["a", "b", "c", "d", "big"]


@pytest.mark.law("L14")
@pytest.mark.quick
def test_a_write_that_hangs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.05)
    go_on, made = threading.Event(), list[int]()
    outbox = Outbox(tmp_path)

    def hang() -> None:
        go_on.wait(10)
        made.append(0)

    outbox.put("the table", hang)
    while not outbox._current:
        time.sleep(0.01)
    time.sleep(0.1)
    began_s = time.monotonic()
    for number in range(1, 100):
        outbox.put("an event", partial(made.append, number))
    assert time.monotonic() - began_s < 1
    assert re.fullmatch(r"the table could not be written \(it has taken \d+ s\)", outbox.drain(longest_s=0.1) or "")
    go_on.set()
    assert outbox.drain() is None
    assert made == list(range(100))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "writing the table has taken" in lines[0]
    assert "can be written again" in lines[1]


@pytest.mark.law("L14")
def test_the_best_and_the_newest_checkpoint_outlive_a_bad_minute(run: Run, folder: Folder) -> None:
    folder.bad(run.root, "ESTALE", 0, 10**9)
    saver = Saver(run, keep=1)
    for step in range(1, 8):
        saver.save(step, snapshot(step))
        if step in (2, 4):
            saver.mark_best(step)
    assert saver.failed()
    folder.count = 0
    saver.close()
    assert run.saved_steps() == [4, 7]
    assert (run.best_pointer.read_text(), run.latest_pointer.read_text()) == ("step-00000004\n", "step-00000007\n")
    assert same(read(run.checkpoint(4)), snapshot(4))
    newest = newest_of(run)
    assert newest
    assert same(newest, snapshot(7))


@pytest.mark.law("L14")
@pytest.mark.law("L8")
@pytest.mark.parametrize("kind", ["EACCES", "ESTALE", "EIO", "ENOTCONN"])
def test_the_stop_file_is_looked_for_again_where_the_folder_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("segtrain.runtime.stop.LOOK_EVERY_S", 0.0)
    monkeypatch.setattr("segtrain.runtime.stop.LOOK_WAIT_S", 60.0)  # each look is waited for, to its end
    lstat, bad = Path.lstat, True

    def look(path: Path) -> os.stat_result:
        if bad:
            raise OSError(getattr(errno, kind), kind)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", look)
    stop = Stop()
    (tmp_path / "STOP").touch()
    stop.watch(tmp_path / "STOP", None)
    assert stop.reason() is None
    bad = False
    assert stop.reason() is StopReason.STOP_FILE
    assert not (tmp_path / "STOP").exists()


@pytest.mark.law("L14")
@pytest.mark.quick
def test_looking_for_the_stop_file_in_a_folder_that_hangs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segtrain.runtime.stop.LOOK_EVERY_S", 0.0)
    go_on, looks = threading.Event(), list[Path]()

    def look(path: Path) -> None:
        looks.append(path)
        go_on.wait(10)

    monkeypatch.setattr(Path, "lstat", look)
    stop = Stop()
    stop.watch(tmp_path / "STOP", None)
    began_s = time.monotonic()
    assert [stop.reason() for _ in range(1000)] == [None] * 1000
    assert time.monotonic() - began_s < 1
    assert len(looks) == 1
    go_on.set()
    while (reason := stop.reason()) is None:
        time.sleep(0.01)
    assert reason is StopReason.STOP_FILE


@pytest.mark.law("L14")
def test_a_store_that_is_away_is_waited_for(tiny_store: Store, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = next(iter(tiny_store.patients))
    image, mask = tiny_store.volume(patient)
    folder.bad(tiny_store.path, "ESTALE", 1, 5)
    again_image, again_mask = tiny_store.volume(patient)
    assert np.array_equal(image, again_image)
    assert np.array_equal(mask, again_mask)
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    folder.bad(tiny_store.path, "ESTALE", 1, 10**9)
    with pytest.raises(DataError, match=r"cannot be read \(Stale file handle\); bring the folder back"):
        tiny_store.volume(patient)


@pytest.mark.law("L14")
def test_a_journal_line_is_whole_or_not_there(tmp_path: Path, small_files: Callable[[int], None]) -> None:
    lines = [f"line {number}" for number in range(20)]
    for limit in range(1, 150, 7):
        journal = tmp_path / f"journal-{limit}"
        for line in lines:
            small_files(limit)
            try:
                files.append_line(journal, line)
            except OSError:
                small_files(resource.RLIM_INFINITY)
                files.append_line(journal, line)
        small_files(resource.RLIM_INFINITY)
        assert journal.read_text().splitlines() == lines


@pytest.mark.law("L14")
def test_log_lines_wait_for_their_folder(tmp_path: Path, folder: Folder) -> None:
    start_logging(tmp_path / "log.txt")
    folder.bad(tmp_path, "ENOSPC", 0, 10**9)
    for number in range(5):
        log.info("line %d", number)
    folder.count = 0
    log.info("line 5")
    start_logging()
    text = (tmp_path / "log.txt").read_text()
    assert [line.rpartition(" ")[2] for line in text.splitlines()] == list("012345")


@pytest.mark.law("L14")
@pytest.mark.parametrize("streams", [">/dev/full 2>/dev/full", "<&- >&- 2>&-"])
def test_a_log_that_cannot_be_written_ends_nothing(
    tiny: Config, tiny_store: Store, tmp_path: Path, streams: str
) -> None:
    """Where it goes into a file on a full disk, or is closed."""
    (tmp_path / "given.yaml").write_text(to_yaml(tiny))
    command = f"{sys.executable} -m segtrain.train --config given.yaml {streams}"
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0
    outcome = Run(tmp_path / "runs" / "tiny").outcome()
    assert outcome
    assert outcome.state == "finished"


@pytest.mark.law("L14")
@pytest.mark.parametrize("closed", [True, False])
def test_a_log_is_flushed_whose_standard_error_is_closed_or_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed: bool
) -> None:
    """A queue's log goes into its archive; a standard error that is closed or full kept the queue from ending."""
    stream = Path("/dev/full").open("w")  # noqa: SIM115  closing it fails
    with logging_as_before():
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            start_logging(tmp_path / "log.txt")
        if closed:
            stream.close()
        log.warning("a line")
        flush_log()
    with suppress(OSError):
        stream.close()
    assert "a line" in (tmp_path / "log.txt").read_text()
    assert capsys.readouterr().err == ""


@pytest.mark.law("L12")
def test_output_on_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    command = f"{sys.executable} -m segtrain status {tmp_path} >/dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "cannot be written (No space left on device); free some space" in done.stderr
