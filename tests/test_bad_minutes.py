"""L14 for the start: what a file server does for a minute is no damage and no lack of rights, and ends nothing."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from bad_folders import Folder
from volumes import save_set, source

from segtrain.config import DataConfig, PhantomConfig
from segtrain.data.prepare import ensure_store
from segtrain.data.sources.listing import entries_of
from segtrain.data.store import is_built, open_store
from segtrain.errors import DataError
from segtrain.runtime import outbox

KINDS = ("ESTALE", "EIO", "ENOTCONN", "ETIMEDOUT")
SMALL = DataConfig(image_size=32, workers=1, phantom=PhantomConfig(patients=2, size_px=64))


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return ensure_store(replace(SMALL, store=str(tmp_path))).path


@pytest.mark.law("L14")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_store_that_is_away_when_it_is_opened_is_waited_for(
    built: Path, folder: Folder, kind: str, first: int
) -> None:
    folder.bad(built, kind, first, 3)
    store = open_store(built)
    assert folder.seen > first
    assert len(store.patients) == 2


@pytest.mark.law("L14")
def test_a_store_that_stays_away_is_not_called_damaged(
    built: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE_S", 0.05)
    folder.bad(built, "ESTALE", 0, 10**9)
    with pytest.raises(DataError, match=r"cannot be read \(Stale file handle\); bring the folder back") as caught:
        open_store(built)
    assert "rename" not in str(caught.value)


@pytest.mark.law("L14")
def test_whether_a_store_is_there_is_asked_again(built: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    really, bad = Path.stat, iter([errno.ESTALE, errno.EIO])

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path == built and (number := next(bad, 0)):
            raise OSError(number, os.strerror(number), str(path))
        return really(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", stat)
    assert is_built(built)
    assert not is_built(built.with_name("nowhere"))


@pytest.mark.law("L14")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [0, 1, 2, 4])
def test_data_that_are_away_are_the_same_data_afterwards(tmp_path: Path, folder: Folder, kind: str, first: int) -> None:
    names = [f"P{n}/P{n}_{name}" for n in (1, 2) for name in ("flair", "seg")]
    root = save_set(tmp_path / "in", *names)
    there = source(root)
    expected = there.patients(), there.fingerprint(), there.stamp()
    again = source(root)
    folder.bad(root, kind, first, 3)
    assert (again.patients(), again.fingerprint(), again.stamp()) == expected
    assert folder.seen > first


@pytest.mark.law("L14")
def test_data_that_stay_away_are_told_as_that_and_a_broken_file_as_unreadable(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE_S", 0.05)
    root = save_set(tmp_path / "in", "P1/P1_flair", "P1/P1_seg")
    there = source(root)
    whole = there.fingerprint()
    folder.bad(root, "ESTALE", 0, 10**9)
    for read in (there.fingerprint, lambda: entries_of(root)):
        with pytest.raises(DataError, match=r"cannot be read \(Stale file handle\); bring the folder back"):
            read()
    folder.bad(root / "P1" / "P1_flair.nii.gz", "EIO", 0, 10**9)
    assert there.fingerprint() != whole, "its patient is refused, or left out"
    folder.bad(root, "EACCES", 0, 10**9)
    with pytest.raises(DataError, match="Permission denied; make it readable for this user"):
        entries_of(root)
    assert folder.seen == 1, "which no waiting mends"
