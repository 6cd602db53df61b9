"""What a queue brings home: the archive and its checksum, here and in the mirror."""

import hashlib
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mirrors import STEPS, flip, lose, made
from safetensors.torch import load_file

from jobs.offline import archive, results
from jobs.offline.location import Location, locate
from segtrain.commands import evaluate
from segtrain.errors import DataError, RunError
from segtrain.run import Run, checkpoint, layout


def test_the_archive_is_whole_and_holds_weights_scores_and_pictures_not_moments(night: Path) -> None:
    run = Run(night / "trained")
    written = archive.write(night)
    assert written is not None
    assert not written.left_out
    subprocess.run(["sha256sum", "-c", "results.zip.sha256"], cwd=night, check=True)
    with zipfile.ZipFile(written.file) as pack:
        assert pack.testzip() is None
        names = set(pack.namelist())
        for name in names - {name for name in names if name.endswith("manifest.json")}:
            assert pack.read(name) == (night.parent / name).read_bytes(), name
    inside = {name.removeprefix("night/trained/") for name in names}
    last = f"checkpoints/step-{run.saved_step():08d}"
    assert {f"{last}/model.safetensors", "checkpoints/step-00000001/model.safetensors", "checkpoints/BEST"} <= inside
    assert {"config.yaml", "metrics.jsonl", "log.txt", "validation/epoch-0003.csv"} <= inside
    assert "night/logs/trained.log" in names
    unwanted = ("optimizer", "step-00000002", ".lock", "results.zip")
    assert not [name for name in names for word in unwanted if word in name]


def test_equal_results_make_equal_archives_and_a_stop_leaves_the_old_one(night: Path) -> None:
    written = archive.write(night)
    assert written is not None
    first = written.file
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    for file in night.rglob("*.csv"):
        file.touch()
    archive.write(night)
    assert hashlib.sha256(first.read_bytes()).hexdigest() == digest
    (night / "more").write_text("more")
    answers = iter([True, False])
    assert archive.write(night, lambda: next(answers)) is None
    assert hashlib.sha256(first.read_bytes()).hexdigest() == digest
    assert not list(night.glob(".results*"))


def test_what_the_archive_holds_can_be_scored_and_is_not_resumed(night: Path, tmp_path: Path) -> None:
    original = Run(night / "trained")
    written = archive.write(night)
    assert written is not None
    assert not written.left_out
    zipfile.ZipFile(written.file).extractall(tmp_path / "home")
    run = Run(tmp_path / "home" / "night" / "trained")
    assert evaluate.command([str(run.root), "--checkpoint", "last"]) == 0
    summary = json.loads((run.evaluation("validation", "last") / "summary.json").read_text())
    assert summary["not_trained_on"]["dsc"]["mean"] == pytest.approx(original.result().last_dsc, abs=1e-9)
    with pytest.raises(RunError, match=r"holds weights alone.*model\.weights="):
        checkpoint.newest(run)
    snapshot = checkpoint.read(run.checkpoint(run.saved_step()))
    weights = load_file(original.checkpoint(original.saved_step()) / layout.MODEL)
    assert all((snapshot.model[name] == tensor).all() for name, tensor in weights.items())


@pytest.mark.law("L7")
@pytest.mark.parametrize("damage", [flip, lose])
def test_weights_that_are_not_what_was_written_are_not_packed(night: Path, damage: Callable[[Location], None]) -> None:
    best = Run(night / "trained").checkpoint(1)
    damage(locate(str(best)) / layout.MODEL)
    written = archive.write(night)
    assert written is not None
    [(folder, reason)] = written.left_out.items()
    assert folder == best
    assert "model.safetensors is " in reason
    with zipfile.ZipFile(written.file) as pack:
        weights = [name for name in pack.namelist() if name.endswith(layout.MODEL)]
    assert [Path(name).parent.name for name in weights] == [f"step-{Run(night / 'trained').saved_step():08d}"]


@pytest.fixture
def place(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "bucket"))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """The archive of two finished runs."""
    for name in ("a", "b"):
        made(tmp_path / "whole" / "night" / name)
    archive.write(tmp_path / "whole" / "night")
    return tmp_path / "whole" / "night" / archive.NAME


@pytest.mark.law("L7")
@pytest.mark.parametrize("lacks", ["a run", "steps"])
def test_an_archive_never_replaces_one_that_holds_more(
    place: Location, tmp_path: Path, packed: Path, lacks: str
) -> None:
    results.put(place, packed)
    less = tmp_path / "less" / "night"
    made(less / "a", until=STEPS if lacks == "a run" else 3)
    if lacks == "steps":
        made(less / "b")
    archive.write(less)
    told = "b, not here, is at step 6 there" if lacks == "a run" else "a, at step 3 here, is at step 6 there"
    for _ in range(2):
        with pytest.raises(DataError, match=f"holds more than .*: {told}"):
            results.put(place, less / archive.NAME)
        assert (place / archive.NAME).read() == packed.read_bytes()
    flip(place / archive.checksum(packed).name)
    with pytest.raises(DataError, match=told):
        results.put(place, less / archive.NAME)
    made(less / "a")
    made(less / "b")
    made(less / "c")
    archive.write(less)
    results.put(place, less / archive.NAME)
    assert (place / archive.NAME).read() == (less / archive.NAME).read_bytes()


@pytest.mark.parametrize("damage", [flip, lose])
def test_a_damaged_archive_is_sent_again(
    place: Location, tmp_path: Path, packed: Path, damage: Callable[[Location], None]
) -> None:
    files = {name: (packed.parent / name).read_bytes() for name in (archive.NAME, archive.checksum(packed).name)}
    results.put(place, packed)
    for names in ([archive.NAME], [archive.checksum(packed).name], list(files)):
        for name in names:
            damage(place / name)
        results.put(place, packed)
        assert {name: (place / name).read() for name in files} == files
