"""A mirror or a machine with files damaged or gone: whoever has them whole mends the other; less replaces nothing."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from mirrors import STEPS, Trainings, content, flip, lose, made, needed, results, tree
from queues import StandIns, command, write

from jobs.offline import archive, manifest, objects, own_files, sync
from jobs.offline.location import Location, locate
from jobs.offline.mirror import Mirror
from segtrain.errors import RunError
from segtrain.run import Run, layout

Damage = Callable[[Location], None]


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    address = f"memory://{tmp_path.name}/results" if request.param == "memory" else str(tmp_path / "bucket" / "results")
    yield locate(address)
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


@pytest.fixture
def trainings(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


MANIFESTS = (manifest.MANIFEST, manifest.COPY)
DAMAGES = pytest.mark.parametrize("damage", [flip, lose])


def objects_of(mirror: Location, file: Path) -> list[Location]:
    """The objects that hold a file's content."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return [mirror / sync.OBJECTS / name for name in (mirror / sync.OBJECTS).listing() if name.startswith(digest)]


@pytest.mark.law("L7")
@DAMAGES
def test_a_push_mends_whatever_is_damaged_in_the_mirror(place: Location, tmp_path: Path, damage: Damage) -> None:
    run, mirror = made(tmp_path / "a"), place / "a"
    sync.push(mirror, run)
    before = content(mirror / sync.OBJECTS)
    for name in sorted(before)[::5]:
        damage(mirror / sync.OBJECTS / name)
    for name in MANIFESTS:
        damage(mirror / name)
    sync.push(mirror, run)
    assert content(mirror / sync.OBJECTS) == before
    assert sync.fetch(mirror, tmp_path / "home")
    assert tree(tmp_path / "home") == tree(run)


@pytest.mark.law("L7")
@DAMAGES
def test_no_single_damage_of_a_mirror_loses_more_than_a_checkpoint(
    place: Location, tmp_path: Path, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file in turn, and no machine has the run any more: it comes back whole, or at the checkpoint before."""
    monkeypatch.setattr(objects, "TWICE_BYTES", 2000)  # so that the made-up tensors count as large
    run, mirror, home = made(tmp_path / "a"), place / "a", tmp_path / "home" / "a"
    sync.push(mirror, run)
    steps = []
    sizes = {name: len(data) for name, data in content(mirror / sync.OBJECTS).items()}
    large = [name for name, size in sizes.items() if size > 2000]
    some = [*large, *(sorted(sizes.keys() - {*large})[::9])]
    for name in [*(f"{sync.OBJECTS}/{name}" for name in some), *MANIFESTS]:
        before = (mirror / name).read()
        damage(mirror / name)
        shutil.rmtree(home.parent, ignore_errors=True)
        home.parent.mkdir()
        if sync.fetch(mirror, home):
            gone = {path for path in tree(run) if path not in tree(home)}
            assert len({path.split("/")[1] for path in gone if path.startswith("checkpoints/step-")}) <= 1
        else:
            place.fs.mv((place / "a.damaged-1").path, mirror.path, recursive=True)  # back, for the next file
        steps.append(Run(home).saved_step())
        made(home)
        assert needed(results(home)) == needed(results(run)), "trained on, it is the run that it was"
        (mirror / name).write(before)
    assert sorted(set(steps)) == [0, STEPS - 1, STEPS]
    assert steps.count(0) == steps.count(STEPS - 1) == 2, "of the best checkpoint, and of the last: model and moments"


def test_a_mirror_of_an_earlier_version_is_read_and_completed(place: Location, tmp_path: Path) -> None:
    run, mirror = made(tmp_path / "a"), place / "a"
    sync.push(mirror, run)
    before = content(mirror / sync.OBJECTS)
    old = {key: value for key, value in json.loads((mirror / manifest.MANIFEST).read()).items() if key != "check"}
    (mirror / manifest.MANIFEST).write(json.dumps(old, indent=1).encode())
    for file in [mirror / manifest.COPY, *(mirror / sync.OBJECTS / name for name in before if name.endswith(".copy"))]:
        file.remove()
    assert sync.fetch(mirror, tmp_path / "home")
    assert tree(tmp_path / "home") == tree(run)
    sync.push(mirror, run)
    assert content(mirror / sync.OBJECTS) == before
    assert "check" in json.loads((mirror / manifest.COPY).read())


@pytest.mark.law("L12")
@DAMAGES
def test_a_mirror_of_no_use_is_kept_aside_and_what_is_here_goes_on(
    place: Location, tmp_path: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    run, mirror = made(tmp_path / "a"), place / "a"
    behind = made(tmp_path / "behind" / "a", until=3)
    sync.push(mirror, run)
    before = content(mirror / sync.OBJECTS)
    for file in objects_of(mirror, Run(run).metrics):
        damage(file)
    assert not sync.fetch(mirror, behind)
    assert Run(behind).saved_step() == 3
    assert not sync.fetch(mirror, tmp_path / "home")
    assert not (tmp_path / "home").exists()
    assert "metrics.jsonl is lost; kept as" in caplog.text
    assert not (mirror / sync.OBJECTS).listing()
    kept = content(place / "a.damaged-1" / sync.OBJECTS)
    assert len(before.items() - kept.items()) == 2, "all but the curves and their copy"
    sync.push(mirror, behind)
    assert sync.fetch(mirror, tmp_path / "home")
    assert tree(tmp_path / "home") == tree(behind)


@DAMAGES
def test_a_checkpoint_that_is_damaged_here_is_mended_and_never_mirrored(
    place: Location, tmp_path: Path, damage: Damage
) -> None:
    run, mirror = made(tmp_path / "a"), place / "a"
    before = tree(run)
    sync.push(mirror, run)
    for file in Run(run).checkpoint(STEPS).iterdir():
        damage(Location(fsspec.filesystem("file"), str(file)))
        sync.push(mirror, run)
        assert not sync.fetch(mirror, run), "it is as far as the mirror"
        assert tree(run) == before, file.name


@pytest.mark.law("L7")
def test_a_run_that_has_fallen_behind_does_not_replace_its_mirror(place: Location, tmp_path: Path) -> None:
    run, behind, mirror = made(tmp_path / "a"), made(tmp_path / "behind" / "a", until=4), place / "a"
    sync.push(mirror, run)
    assert sync.push(mirror, behind) == 0
    assert sync.fetch(mirror, behind)
    assert tree(behind) == tree(run)


def test_a_fetch_that_was_cut_off_goes_on(place: Location, tmp_path: Path) -> None:
    run, mirror = made(tmp_path / "a"), place / "a"
    sync.push(mirror, run)
    asked: list[str] = []

    class Cut:
        def __getattr__(self, name: str) -> Any:
            return getattr(place.fs, name)

        def get_file(self, path: str, target: str) -> None:
            asked.append(path)
            if len(asked) % 5 == 0:
                raise OSError(5, "Input/output error")
            place.fs.get_file(path, target)

    for _ in range(20):
        with contextlib.suppress(RunError):
            assert sync.fetch(Location(Cut(), mirror.path), tmp_path / "home")
            break
    assert tree(tmp_path / "home") == tree(run)
    assert len(asked) < 2 * len(tree(run)), "what had come was not asked for again"


def test_a_machine_that_comes_back_adds_to_the_journal_of_the_others(place: Location, tmp_path: Path) -> None:
    """Its own is older than the mirror's, or both have gone on: no entry is lost, nor in another order."""
    first, second = tmp_path / "first", tmp_path / "second"
    line = '{{"time": "2026-01-01T0{}:00:00+00:00", "event": "{}"}}\n'.format
    for folder, entries in ((first, [(1, "begin"), (2, "start")]), (second, [])):
        folder.mkdir()
        (folder / "journal.jsonl").write_text("".join(line(*entry) for entry in entries))
        (folder / "log.txt").write_text("".join(f"{event}\n" for _, event in entries))
    own_files.push(place, first)
    own_files.fetch(place, second)
    with (first / "journal.jsonl").open("a") as file:
        file.write(line(3, "end"))  # was not mirrored
    for hour, event in ((4, "begin"), (5, "left")):
        with (second / "journal.jsonl").open("a") as journal, (second / "log.txt").open("a") as log:
            journal.write(line(hour, event))
            log.write(f"{event}\n")
    own_files.push(place, second)
    for _ in range(2):
        own_files.fetch(place, first)
        hours = [(1, "begin"), (2, "start"), (3, "end"), (4, "begin"), (5, "left")]
        assert (first / "journal.jsonl").read_text() == "".join(line(*entry) for entry in hours)
        assert (first / "log.txt").read_text() == "begin\nstart\nbegin\nleft\n"
    assert not (first / own_files.OWN).exists()


@DAMAGES
def test_a_damaged_journal_in_the_mirror_ends_no_queue(place: Location, tmp_path: Path, damage: Damage) -> None:
    (tmp_path / "journal.jsonl").write_text("{}\n")
    own_files.push(place, tmp_path)
    for name in MANIFESTS:
        damage(place / own_files.OWN / name)
    own_files.fetch(place, tmp_path)
    own_files.push(place, tmp_path)
    own_files.fetch(place, tmp_path / "new")
    assert (tmp_path / "new" / "journal.jsonl").read_text() == "{}\n"


def test_a_machine_without_a_run_leaves_the_complete_archive(
    place: Location, tmp_path: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert command(write(first), "--sync", str(place)) == 0
    before = (place / "night" / archive.NAME).read()
    assert command(write(second, ["b"]), "--sync", str(place)) == 1
    assert "a, not here, is at step 6 there" in capsys.readouterr().err
    assert (place / "night" / archive.NAME).read() == before
    assert command(write(second), "--sync", str(place)) == 0
    assert results(second / "runs" / "night" / "a") == results(first / "runs" / "night" / "a")


def test_runs_that_ended_long_ago_are_mended_at_the_next_start_and_at_the_end(
    place: Location, tmp_path: Path, trainings: Trainings
) -> None:
    queue, mirror = write(tmp_path), place / "night" / "a"
    assert command(queue, "--sync", str(place)) == 0
    before = content(mirror / sync.OBJECTS)
    for name in sorted(before)[::3]:
        lose(mirror / sync.OBJECTS / name)
    assert command(queue, "--sync", str(place)) == 0
    assert content(mirror / sync.OBJECTS) == before
    keeper = Mirror(place / "night", tmp_path / "runs" / "night")
    keeper.push(tmp_path / "runs" / "night" / "a")
    assert keeper.flush() == []
    flip(mirror / sync.OBJECTS / min(before))
    assert keeper.flush() == []
    assert content(mirror / sync.OBJECTS) == before


def test_a_damaged_checkpoint_does_not_end_a_queue_before_its_last_upload(
    place: Location, tmp_path: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    queue, run = write(tmp_path), Run(tmp_path / "runs" / "night" / "a")
    assert command(queue) == 0
    (run.checkpoint(STEPS) / layout.MANIFEST).write_text("{")
    assert command(queue, "--sync", str(place)) == 1
    told = capsys.readouterr().err
    assert "the archive: " in told
    assert f"{run.checkpoint(STEPS)}: is damaged, and not mirrored" in told
    mirrored = manifest.read(place / "night" / "a")
    assert mirrored
    assert mirrored.step == STEPS - 1
