"""L11 where locks hold on one node alone (Lustre with localflock, NFS with local_lock): builders spare each other."""

import os
import time
from pathlib import Path
from threading import Thread

import pytest

from segtrain.data import building as module
from segtrain.data.building import building
from segtrain.data.sources.base import no_check
from segtrain.runtime import files
from segtrain.runtime.lock import Lock

DAY_S, HOUR_S = 86400, 3600


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prepared" / "phantom-32px-01234567-0123456789ab"


def build(path: Path, text: str) -> None:
    with building(path, no_check) as aside:
        assert aside is not None
        (aside / "images" / "P.npy").write_text(text)


@pytest.mark.law("L11")
def test_the_first_of_builders_that_cannot_exclude_each_other_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_take", lambda file: Lock(()))
    with building(path, no_check) as aside:
        assert aside is not None
        (aside / "images" / "P.npy").write_text("mine")
        other = Thread(target=build, args=(path, "the other's"))
        other.start()
        other.join()
        assert (aside / "images" / "P.npy").read_text() == "mine"
    assert (path / "images" / "P.npy").read_text() == "the other's"
    assert [place.name for place in path.parent.iterdir()] == [path.name]


def leave(path: Path, owner: str, *, folder_s: float, patient_s: float) -> Path:
    """What a builder left: the ages of the folder and of its last patient."""
    place = path.with_name(f".{path.name}{owner}.building")
    images = place / "images"
    images.mkdir(parents=True)
    (images / "P.npy").touch()
    for folder, age_s in ((images, patient_s), (place, folder_s)):
        os.utime(folder, (time.time() - age_s,) * 2)
    return place


@pytest.mark.law("L11")
@pytest.mark.parametrize("owner", [".deadbeef-77", ""], ids=["this version", "an earlier one"])
def test_what_a_builder_of_another_node_has_is_removed_an_hour_after_its_last_patient(path: Path, owner: str) -> None:
    """A build may take longer than a day, so the age of its folder says nothing."""
    other = path.with_name("another-32px-01234567-0123456789ab")
    living = leave(path, owner, folder_s=2 * DAY_S, patient_s=60)
    dead = leave(other, owner, folder_s=2 * DAY_S, patient_s=2 * HOUR_S)
    build(path, "mine")
    assert living.exists()
    assert not dead.exists(), "of whatever store"


@pytest.mark.law("L11")
def test_what_a_killed_thread_of_the_same_number_left_is_no_part_of_the_store(path: Path) -> None:
    path.parent.mkdir()
    place = files.own_place(path, "building")
    (place / "images").mkdir(parents=True)
    (place / "images" / "half.npy").touch()
    build(path, "mine")
    assert [file.name for file in (path / "images").iterdir()] == ["P.npy"]
