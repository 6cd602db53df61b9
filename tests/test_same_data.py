"""L11: data is the same where its content is; files are read for that once, while nobody touches them."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from predictions import IMAGE, MASK, write_patient

from segtrain.config import DataConfig
from segtrain.data.prepare import ensure_store
from segtrain.data.sources import listing


def patients(root: Path) -> Path:
    for number in range(2):
        write_patient(root, f"TCGA_XX_{number}", IMAGE + number, MASK)
    return root


@pytest.fixture
def source(tmp_path: Path) -> DataConfig:
    root = patients(tmp_path / "patients")
    return DataConfig(source="lgg", root=str(root), store=str(tmp_path / "store"), image_size=32, workers=1)


def touched(root: Path) -> None:
    for file in root.rglob("*"):
        os.utime(file, (1, 1))


def copied(root: Path) -> None:
    """As by `cp -r`: other times, other inodes."""
    shutil.copytree(root, root.with_name("copy"), copy_function=shutil.copyfile)
    root.rename(root.with_name("original"))
    root.with_name("copy").rename(root)


def linked(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))
    root.symlink_to(root.with_name("elsewhere"))


@pytest.mark.law("L11")
@pytest.mark.parametrize("change", [touched, copied, linked])
def test_the_same_content_is_the_same_data(
    source: DataConfig, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy is read once, to compare it; what was not touched is never read again."""
    first = ensure_store(source)
    change(Path(str(source.root)))
    assert ensure_store(source).path == first.path
    monkeypatch.setattr(listing, "_content", None)
    assert ensure_store(source).path == first.path


@pytest.mark.law("L11")
def test_a_file_changed_behind_its_time_is_noticed(source: DataConfig) -> None:
    first = ensure_store(source)
    file = next(Path(str(source.root)).rglob("*_5.tif"))
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ensure_store(source).path != first.path


@pytest.mark.law("L11")
def test_a_copy_on_another_path_uses_the_store_under_its_own_name(source: DataConfig, tmp_path: Path) -> None:
    first = ensure_store(source)
    copy = tmp_path / "copy"
    shutil.copytree(str(source.root), copy)
    second = ensure_store(replace(source, root=str(copy)))
    assert second.path == first.path
    assert str(copy) in second.label


@pytest.mark.law("L11")
@pytest.mark.parametrize("place", ["nowhere", "a file", "half written"])
def test_what_is_remembered_of_a_source_is_not_needed(source: DataConfig, place: str) -> None:
    first = ensure_store(source)
    notes = Path(source.store, ".sources")
    note = next(notes.iterdir())
    if place == "half written":
        note.write_text(note.read_text()[:10])
    else:
        shutil.rmtree(notes)
    if place == "a file":
        notes.touch()
    assert ensure_store(source).path == first.path
