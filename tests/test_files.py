"""Files that several processes write at once: a reader finds one whole version, and nothing else is left."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from segtrain.config import Config
from segtrain.run import Member, write_results
from segtrain.runtime import files, machine

FORK = multiprocessing.get_context("fork")
WRITERS = 6
LINES = 2000  # of a version, all alike


def version(writer: int) -> str:
    return f"{writer}\n" * LINES


def write_often(write: Callable[[Path, str], None], path: Path, writer: int, seen: Event) -> None:
    """Fifteen times, and until it was read meanwhile."""
    for count in itertools.count(1):
        write(path, version(writer))
        if count >= 15 and seen.is_set():
            return


def write_in_two_threads(write: Callable[[Path, str], None], path: Path, writer: int, seen: Event) -> None:
    other = threading.Thread(target=write_often, args=(write, path, writer + WRITERS, seen))
    other.start()
    write_often(write, path, writer, seen)
    other.join()


@pytest.mark.parametrize("write", [files.write_text, files.replace_text])
@pytest.mark.parametrize("name", ["results.csv", "x" * 255])
def test_many_write_one_file_at_once(tmp_path: Path, write: Callable[[Path, str], None], name: str) -> None:
    path = tmp_path / name
    write(path, version(0))
    were_seen, seen = FORK.Event(), set()
    processes = [
        FORK.Process(target=write_in_two_threads, args=(write, path, writer, were_seen)) for writer in range(WRITERS)
    ]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            lines = path.read_text().splitlines()
            assert len(lines) == LINES
            assert len(set(lines)) == 1
            seen.add(lines[0])
            if len(seen) > 2:
                were_seen.set()
    finally:
        were_seen.set()
    assert [process.exitcode for process in processes] == [0] * WRITERS
    assert os.listdir(tmp_path) == [name]


def test_two_jobs_write_the_table_of_an_ablation_at_once(tmp_path: Path, tiny: Config) -> None:
    members = [
        Member(name, None, 1, replace(tiny, name=name, runs_dir=str(tmp_path / "loss"))) for name in ("dice", "bce")
    ]
    (tmp_path / "loss").mkdir()
    jobs = [FORK.Process(target=lambda: [write_results(members) for _ in range(40)]) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * len(jobs)
    assert os.listdir(tmp_path / "loss") == ["results.csv"]
    assert len((tmp_path / "loss" / "results.csv").read_text().splitlines()) == 3


def hang_while_writing(path: Path) -> None:
    with files.aside(path) as temporary:
        temporary.write_text("half")
        time.sleep(60)


def killed_while_writing(path: Path) -> Path:
    """What a writer that was killed leaves."""
    process = FORK.Process(target=hang_while_writing, args=(path,))
    process.start()
    while not (left := [file for file in path.parent.iterdir() if file.name.endswith(".tmp")]):
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGSTOP)
    files.write_text(path, "whole")
    assert left[0].exists(), "its writer may go on"
    process.kill()
    process.join()
    return left[0]


def test_the_next_process_removes_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a[1].json"
    left = killed_while_writing(path)
    monkeypatch.setattr(files, "_TIDIED", set())  # as of another process
    monkeypatch.setattr(machine, "identity", lambda: "another")
    files.write_text(path, "whole")
    assert left.exists(), "nothing is known of processes of another machine"
    os.utime(left, (0, 0))
    monkeypatch.setattr(files, "_TIDIED", set())
    files.write_text(path, "whole")
    assert os.listdir(tmp_path) == [path.name]
    monkeypatch.undo()
    killed_while_writing(path)
    monkeypatch.setattr(files, "_TIDIED", set())
    files.write_text(path, "whole")
    assert os.listdir(tmp_path) == [path.name]


def test_an_error_leaves_the_file_as_it_was_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    files.write_json(path, 1)
    with pytest.raises(TypeError), files.aside(path) as temporary:
        temporary.write_text("half") and temporary.write_text(None)  # type: ignore[arg-type]
    assert path.read_text() == "1\n"
    assert os.listdir(tmp_path) == [path.name]
