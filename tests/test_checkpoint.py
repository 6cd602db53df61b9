"""L7: a checkpoint is whole or is not there, whatever happens to it, and loading it runs no code."""

import json
import logging
import os
import pickle
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from segtrain import checkpoint, files
from segtrain.checkpoint import Saver, Snapshot, newest, read
from segtrain.errors import RunError
from segtrain.run import Run

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    model = {"conv.weight": torch.randn(8, 3, 3, 3, generator=generator), "norm.count": torch.tensor(step)}
    moments = {
        f"conv.weight/{name}": torch.randn(8, 3, 3, 3, generator=generator) for name in ("exp_avg", "exp_avg_sq")
    }
    return Snapshot(model, moments, {"step": step, "losses": [0.1 + step, 1 / 3], "engine": {}})


def same(one: Snapshot, other: Snapshot) -> bool:
    tensors = [(one.model, other.model), (one.optimizer, other.optimizer)]
    return one.state == other.state and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in tensors
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    return run


def save(run: Run, *steps: int, keep: int = 10) -> None:
    saver = Saver(run, keep)
    for step in steps:
        saver.save(step, snapshot(step))
    saver.close()


def newest_of(run: Run) -> Snapshot | None:
    name = newest(run)
    return None if name is None else read(run.checkpoints / name)


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
        save(run, 3, keep=2)  # the run that comes back: cleans up and saves again
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
        done.append(f"sync {Path(f'/proc/self/fd/{fd}').readlink().name}")
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
def test_an_error_of_the_disk_condemns_no_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, 1, 2)

    def broken(file: Path) -> dict[str, object]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "_fingerprint", broken)
    with pytest.raises(RunError, match="cannot be read"):
        newest(run)
    monkeypatch.undo()
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(2))


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << (position % 8)
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped at the start": lambda f: flip(f, 3),
    "flipped in the middle": lambda f: flip(f, f.stat().st_size // 2),
    "flipped at the end": lambda f: flip(f, f.stat().st_size - 1),
    "deleted": lambda f: f.unlink(),
    "emptied": lambda f: os.truncate(f, 0),
    "cut": lambda f: os.truncate(f, f.stat().st_size - 2),
    "longer": lambda f: f.write_bytes(f.read_bytes() + b"\0"),
    "a folder": lambda f: (f.unlink(), f.mkdir()),
}


@pytest.mark.law("L7")
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_set_aside_loudly_and_the_one_before_is_taken(
    run: Run, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(run, 1, 2)
    DAMAGE[damage](run.checkpoint(2) / name)
    with caplog.at_level(logging.WARNING):
        found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(1))
    assert "step-00000002" in caplog.text
    (kept,) = run.checkpoints.glob("bad-step-00000002-*")
    assert kept.is_dir()
    save(run, 2)  # trained again
    again = newest_of(run)
    assert again is not None
    assert same(again, snapshot(2))


@pytest.mark.law("L7")
def test_cut_at_any_length_it_is_never_taken_for_whole(run: Run) -> None:
    save(run, 1)
    folder = run.checkpoint(1)
    rng = random.Random(0)
    for name in FILES:
        content = (folder / name).read_bytes()
        for length in {0, 1, 7, 8, 9, len(content) - 1, *(rng.randrange(len(content)) for _ in range(40))}:
            (folder / name).write_bytes(content[:length])
            if name == "manifest.json" and content[:length].strip() == content.strip():
                continue  # only the last newline is gone: what it says is whole
            with pytest.raises(checkpoint.CorruptCheckpoint):
                read(folder)
        (folder / name).write_bytes(content)
    assert same(read(folder), snapshot(1))


class Trap:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {os.environ['TRAP']}",)


@pytest.mark.law("L7")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("listed", [False, True], ids=["as it is", "in the manifest"])
def test_a_malicious_pickle_under_any_name_runs_nothing(
    run: Run, name: str, listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    save(run, 1, 2)
    file = run.checkpoint(2) / name
    file.write_bytes(pickle.dumps(Trap()))
    if listed and name != "manifest.json":
        manifest = run.checkpoint(2) / "manifest.json"
        content = json.loads(manifest.read_text())
        content[name] = checkpoint._fingerprint(file)
        manifest.write_text(json.dumps(content))
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(1))
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap()))  # the trap works
    assert (tmp_path / "sprung").exists()


@pytest.mark.law("L7")
@pytest.mark.parametrize("pointer", ["", "step-00000009\n", "../../etc\n", None])
def test_a_pointer_that_names_nothing_loses_nothing(run: Run, pointer: str | None) -> None:
    save(run, 1, 2)
    if pointer is None:
        run.latest_pointer.unlink()
    else:
        run.latest_pointer.write_text(pointer)
        run.best_pointer.write_text(pointer)
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(2))
    save(run, 3)
    assert run.latest_pointer.read_text() == "step-00000003\n"


@pytest.mark.law("L7")
@pytest.mark.law("L12")
def test_when_none_is_whole_nothing_is_started_over_silently(run: Run) -> None:
    assert newest(run) is None
    save(run, 1, 2)
    for step in (1, 2):
        flip(run.checkpoint(step) / "model.safetensors", 100)
    for _ in range(2):  # also when it is tried again
        with pytest.raises(RunError, match="--fresh"):
            newest(run)
    assert len(list(run.checkpoints.glob("bad-*"))) == 2


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """A limit on the size of files, as a disk that is full in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.law("L7")
@pytest.mark.parametrize("limit", [10, 300, 1000, 1500])
def test_a_full_disk_is_said_outlived_and_tried_again(
    run: Run, small_files: Callable[[int], None], limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    saver = Saver(run, keep=5)
    saver.save(1, snapshot(1))
    saver.wait()
    small_files(limit)
    saver.save(2, snapshot(2))
    with caplog.at_level(logging.WARNING):
        assert saver.failed()
    small_files(resource.RLIM_INFINITY)
    assert "no room" in caplog.text
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
    saver.wait()
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
    real = checkpoint.publish

    def slow(folder: Path, content: Snapshot) -> None:
        time.sleep(0.3)
        real(folder, content)
        events.append(f"written {folder.name[-1]}")

    monkeypatch.setattr(checkpoint, "publish", slow)
    saver = Saver(run, keep=5)
    saver.save(1, snapshot(1))
    events.append("on")
    saver.save(2, snapshot(2))
    events.append("on")
    saver.close()
    assert events == ["on", "written 1", "on", "written 2"]


@pytest.mark.law("L7")
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
