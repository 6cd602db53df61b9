"""Rights of what is written in a folder that a group shares, and elsewhere."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.offline import sync
from jobs.offline.location import locate
from segtrain.runtime import files, lock

WRITERS: dict[str, Callable[[Path], object]] = {
    "write_json": lambda path: files.write_json(path, {}),
    "write_text": lambda path: files.write_text(path, ""),
    "replace_text": lambda path: files.replace_text(path, ""),
    "append_line": lambda path: files.append_line(path, ""),
    "make_folder": files.make_folder,
    "lock": lock.take,
}


@pytest.fixture(params=[0o002, 0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("around", [0o2775, 0o2770, 0o3775, 0o775, 0o2755, 0o700], ids=oct)
def test_the_group_gets_what_it_has_on_a_shared_folder(
    tmp_path: Path, umask: int, write: Callable[[Path], object], around: int
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(around)
    write(folder / "new")
    new = folder / "new"
    usual = (0o777 if new.is_dir() else 0o666) & ~umask
    if around & 0o2020 == 0o2020:
        usual |= 0o2070 if new.is_dir() else 0o060
    elif around & 0o2000 and new.is_dir():
        usual |= 0o2000
    assert mode(new) == usual


def test_what_a_link_names_elsewhere_keeps_its_rights(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.touch(0o600)
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o2775)
    (folder / "link").symlink_to(private)
    files.share_all(folder)
    assert mode(private) == 0o600


def test_a_mirror_in_a_shared_folder_is_the_groups(tmp_path: Path, umask: int) -> None:
    folder, run = tmp_path / "folder", tmp_path / "run"
    for path in (folder, run, run / "checkpoints"):
        path.mkdir()
    folder.chmod(0o2775)
    (run / "checkpoints" / "LATEST").write_text("none")
    mirror = locate(str(folder / "deeper" / "mirror"))
    sync.push(mirror, run)
    (mirror / "LATEST").write(run / "checkpoints" / "LATEST")
    for path in folder.rglob("*"):
        rights = 0o2070 if path.is_dir() else 0o060
        assert mode(path) & rights == rights, path
