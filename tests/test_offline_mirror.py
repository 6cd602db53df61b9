"""A queue's mirror: runs sent and fetched whole or not at all, and another machine that goes on from it."""

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from queues import StandIns, command, ends, entries, write
from ranks import FORKSERVER
from trainings import assert_same, run_to_end, state_of

from jobs.offline import archive, manifest, objects, own_files, sync
from jobs.offline import mirror as mirrors
from jobs.offline.location import Location, locate
from segtrain.config import Config, to_yaml
from segtrain.errors import ConfigError, DataError
from segtrain.run import Run, checkpoint
from segtrain.run.events import Event
from segtrain.train import main
from segtrain.training.log import TrainingLog


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    address = f"memory://{tmp_path.name}/results" if request.param == "memory" else str(tmp_path / "bucket" / "results")
    yield locate(address)
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_run_comes_back_as_it_was_sent_moments_included(place: Location, night: Path, tmp_path: Path) -> None:
    run = night / "trained"
    sent = sync.push(place / "trained", run)
    assert sent > 0
    assert sync.push(place / "trained", run) == 0, "nothing is sent twice"
    home = tmp_path / "other" / "trained"
    home.parent.mkdir()
    assert sync.fetch(place / "trained", home)
    assert tree(home) == tree(run)
    (run / "checkpoints" / "bad-step-00000002-1").mkdir()
    (run / "checkpoints" / "bad-step-00000002-1" / "state.json").write_text("damaged")
    (run / ".metrics.jsonl.tmp").touch()
    assert sync.push(place / "trained", run) == 0, "what is damaged, or being written, stays here"
    assert checkpoint.newest(Run(home))
    assert not sync.fetch(place / "trained", home), "it is here already"
    assert not sync.fetch(place / "unknown", home.with_name("unknown"))


class Broken(Exception):
    """The connection is cut."""


def cut_after(place: Location, count: int) -> Location:
    """The place, whose file system fails after so many writes, the last one half done."""
    left = iter(range(count))

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(place.fs, name)

        def pipe_file(self, path: str, content: bytes) -> None:
            if next(left, None) is None:
                place.fs.pipe_file(path, content[: len(content) // 2])
                raise Broken
            place.fs.pipe_file(path, content)

    return Location(Failing(), place.path)


@pytest.mark.law("L7")
def test_a_large_file_that_grows_is_sent_as_it_was_when_it_was_hashed(
    place: Location, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(night / "trained")
    before = tree(run.root)
    of = objects.Entry.of

    def hashed_while_it_grows(stream: Any) -> objects.Entry:
        entry = of(stream)
        with run.log_file.open("a") as log:
            log.write("one more line\n" * 5000)
        return entry

    monkeypatch.setattr(objects, "LARGE_BYTES", 100)
    monkeypatch.setattr(objects.Entry, "of", hashed_while_it_grows)
    sync.push(place / "trained", run.root)
    monkeypatch.undo()
    home = tmp_path / "home" / "trained"
    home.parent.mkdir()
    assert sync.fetch(place / "trained", home), "the log is whole, as it was"
    now = tree(home)
    log = now.pop("log.txt")
    assert run.log_file.read_bytes().startswith(log)
    assert {**now, "log.txt": before["log.txt"]} == before


@pytest.mark.law("L7")
def test_an_upload_that_is_cut_off_never_replaces_a_whole_one(place: Location, night: Path, tmp_path: Path) -> None:
    run = Run(night / "trained")
    sync.push(place / "trained", run.root)
    before = tree(run.root)
    shutil.copytree(run.checkpoint(1), run.checkpoint(9999))
    for count in itertools.count():
        for file in (run.log_file, run.metrics, run.root / "notes.txt"):
            file.write_text(f"{file.name} {count}" * 50)
        try:
            sync.push(cut_after(place / "trained", count), run.root)
            break
        except Broken:
            home = tmp_path / f"home-{count}" / "trained"
            home.parent.mkdir()
            assert sync.fetch(place / "trained", home)
            assert tree(home) == before or count == 7, "the manifest was whole, its copy was cut off"
    assert count == 8, "three files, the manifest and their copies were cut off once each"
    home = tmp_path / "home-0" / "trained"
    assert sync.fetch(place / "trained", home), "now it is ahead"
    assert tree(home) == tree(run.root)


@pytest.mark.law("L12")
@pytest.mark.parametrize("further", ["here", "there"])
def test_a_run_of_another_config_takes_no_run_s_place(
    place: Location, night: Path, tmp_path: Path, further: str
) -> None:
    run, home = Run(night / "trained"), Run(tmp_path / "other" / "trained")
    shutil.copytree(run.root, home.root)
    behind = run if further == "here" else home
    shutil.rmtree(behind.checkpoints)
    (behind.root / "outcome.json").unlink()
    sync.push(place / "trained", run.root)
    text = home.config_file.read_text()
    home.config_file.write_text(
        text.replace("\noptim:\n", "\noptim:\n  clip_norm: 7.5\n").replace("  clip_norm: null\n", "")
    )
    before = tree(home.root), place.fs.cat_file((place / "trained" / manifest.MANIFEST).path)
    for task in (sync.fetch, sync.push):
        with pytest.raises(DataError, match=r"mirrors a run that has optim\.clip_norm=None, not 7\.5 as "):
            task(place / "trained", home.root)
    assert (tree(home.root), place.fs.cat_file((place / "trained" / manifest.MANIFEST).path)) == before
    home.config_file.write_text(f"# from another machine\n{text}")
    assert sync.fetch(place / "trained", home.root) == (further == "there")
    sync.push(place / "trained", home.root)


def test_what_is_further_here_is_kept(place: Location, night: Path) -> None:
    run = Run(night / "trained")
    sync.push(place / "trained", run.root)
    run.checkpoint(10_000).mkdir()
    (run.root / "outcome.json").unlink()  # more epochs were asked for
    before = tree(run.root)
    assert not sync.fetch(place / "trained", run.root)
    assert tree(run.root) == before


@pytest.mark.law("L12")
@pytest.mark.parametrize("address", ["nowhere://x", "/dev/null/x"])
def test_an_address_that_cannot_be_used_is_said_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=f"sync: {address}"):
        command(write(tmp_path), "--sync", address)
    assert not (tmp_path / "runs").exists()


def test_another_machine_goes_on_where_the_first_was_reclaimed(
    tmp_path: Path, stand_ins: StandIns, place: Location
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    address = str(place)
    stand_ins.words |= {"bad": ["1"], "b": ["parent"]}
    assert command(write(first, ["a", "bad", "b", "c"]), "--sync", address) == 75
    assert stand_ins.names == ["a", "bad", "bad", "b"]
    stand_ins.began.clear()
    stand_ins.words["b"] = ["finish"]
    assert command(write(second, ["a", "bad", "b", "c"]), "--sync", address) == 1
    assert stand_ins.names == ["b", "c"], "a is finished; bad was tried as often as told"
    assert [entry["step"] for entry in entries(second, "start")][-2:] == [1, 0]
    assert ends(second)[: len(ends(first))] == ends(first), "the journal came too"
    night = second / "runs" / "night"
    assert (night / "a" / "metrics.jsonl").read_bytes() == (
        first / "runs" / "night" / "a" / "metrics.jsonl"
    ).read_bytes()
    for name in ("results.zip", "results.zip.sha256"):
        assert place.fs.cat_file((place / "night" / name).path) == (night / name).read_bytes()


def test_a_journal_that_was_being_fetched_when_the_queue_was_killed_is_brought(place: Location, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "logs").mkdir(parents=True)
    own = [first / "journal.jsonl", first / "log.txt", first / "logs" / "a.log"]
    for file in own:
        file.write_text(file.name)
    own_files.push(place, first)
    sync.fetch(place / own_files.OWN, second / own_files.OWN)
    (second / own_files.OWN / "log.txt").rename(second / "log.txt")
    own_files.fetch(place, second)
    assert tree(second) == tree(first)


def test_a_run_that_trains_is_mirrored_now_and_then(tmp_path: Path, trained_run: Run) -> None:
    mirror = mirrors.Mirror(locate(str(tmp_path / "bucket")), tmp_path, every_s=0.0)
    mirror.look([trained_run.root])
    assert mirror._job, "it is noted, and begun"
    mirror._job[1].result(60)
    assert sync.fetch(locate(str(tmp_path / "bucket")) / trained_run.root.name, tmp_path / "home")


def test_a_mirror_that_does_not_answer_holds_up_no_run_and_is_said(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def push(*_: Any, **__: Any) -> int:
        raise Broken("no route")

    monkeypatch.setattr(sync, "push", push)
    monkeypatch.setattr(mirrors, "PAUSE_S", 0.0)
    assert command(write(tmp_path), "--sync", str(tmp_path / "bucket")) == 1
    assert ends(tmp_path) == [("a", "finished"), ("b", "finished")]
    assert "sync of a: Broken: no route" in capsys.readouterr().err


def told_to_stop(directory: Path) -> None:
    """Train, and get SIGTERM at the first event: in the middle, however slow this machine is."""
    write = TrainingLog._write

    def in_the_middle(self: TrainingLog, event: Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(self, event)

    TrainingLog._write = in_the_middle  # type: ignore[method-assign]
    os.chdir(directory)
    sys.exit(main(["--config", "given.yaml"]))


@pytest.mark.law("L6")
def test_a_run_that_moved_to_another_machine_ends_bitwise_like_one_that_stayed(
    tmp_path: Path, fragile: Config, unbroken: dict[int, dict[str, Any]]
) -> None:
    place, first = locate(str(tmp_path / "bucket")), tmp_path / "first"
    first.mkdir()
    (first / "given.yaml").write_text(to_yaml(fragile))
    process = FORKSERVER.Process(target=told_to_stop, args=(first,))
    process.start()
    process.join(300)
    assert process.exitcode == 75
    run = Run(first / "runs" / fragile.name)
    sync.push(place / "moved", run.root)
    home = tmp_path / "second" / "runs" / fragile.name
    home.parent.mkdir(parents=True)
    assert sync.fetch(place / "moved", home)
    assert_same(state_of(run_to_end(tmp_path / "second", fragile, 1)), unbroken[1])


def test_the_mirror_is_flushed_before_the_command_when_done_even_if_the_archive_breaks(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may switch the machine off."""

    def breaks(*_: object) -> None:
        raise RuntimeError("the archive broke")

    monkeypatch.setattr(archive, "write", breaks)
    monkeypatch.setattr(mirrors.Mirror, "look", lambda *_, **__: None)  # nothing is pushed before the end
    bucket = tmp_path / "bucket"
    hook = f"find {bucket} -name manifest.json > {tmp_path}/hook"
    with pytest.raises(RuntimeError, match="the archive broke"):
        command(write(tmp_path), "--sync", str(bucket), "--when-done", hook)
    mirrored = {Path(line).parent.name for line in (tmp_path / "hook").read_text().splitlines()}
    assert mirrored == {"a", "b", ".queue"}
