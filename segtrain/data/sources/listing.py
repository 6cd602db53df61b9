"""Folders of a source: what lies in them, without the files that operating systems put beside data."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from segtrain.data.sources.base import digest
from segtrain.errors import LEAVE_OUT, DataError

# Put there by operating systems and network drives; what begins with a dot (._slice.tif, .DS_Store) is one as well.
SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found",
     "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)  # fmt: skip
FETCH = f"fetch its content (datalad get, git annex get, git lfs pull), mount its file system or {LEAVE_OUT}"
# What git-annex and Git LFS leave in place of a file whose content was not fetched.
POINTERS = (b"/annex/objects/", b"version https://git-lfs.github.com/")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a DataError that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; make it readable for this user") from error


def require_folder(root: Path, remedy: str) -> None:
    """Raises DataError, which ends in `remedy`, where `root` is no folder."""
    with readable(root):
        is_folder = root.is_dir()
    if not is_folder:
        raise DataError(f"{root}: no such folder; {remedy}")


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in the folder, sorted by name, without hidden and system files. Raises DataError."""
    refuse_broken_link(folder)
    with readable(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in SYSTEM_NAMES]


def folders_of(root: Path) -> list[Path]:
    """The folders in `root`, sorted, and links that were to folders, as far as names can tell. Raises DataError."""
    return [root / entry.name for entry in entries_of(root) if entry.is_dir() or _is_link_to_lost_folder(entry)]


def with_suffix(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in `folder` with one of the suffixes, sorted, links without content among them. Raises DataError."""
    return [
        folder / entry.name
        for entry in entries_of(folder)
        if entry.name.lower().endswith(suffixes) and (entry.is_file() or is_broken_link(folder / entry.name))
    ]


def deeper_root(root: Path, holds_data: Callable[[Path], bool]) -> Path | None:
    """The first folder one or two levels below `root` that `holds_data`, for messages. Raises DataError."""
    folders = folders_of(root)
    candidates = [*folders, *(inner for folder in folders for inner in folders_of(folder))]
    return next((folder for folder in candidates if holds_data(folder)), None)


def is_broken_link(path: Path) -> bool:
    """Whether the path is a link whose target is not there. Raises DataError."""
    with readable(path):
        return path.is_symlink() and not path.exists()


def refuse_broken_link(path: Path) -> None:
    """Raises DataError for a link whose target is not there."""
    if is_broken_link(path):
        raise DataError(f"{path}: a link to {path.readlink()}, which is not there; {FETCH}")


def refuse_absent(path: Path) -> None:
    """Raises DataError for a file whose content is not there: a broken link, or a pointer in place of the content."""
    refuse_broken_link(path)
    with readable(path), path.open("rb") as file:
        is_pointer = file.read(40).startswith(POINTERS)
    if is_pointer:
        raise DataError(f"{path}: a pointer of git-annex or Git LFS in place of the content; {FETCH}")


def digest_of_folders(root: Path, folders: Iterable[Path]) -> str:
    """Of the names, sizes and modification times in the folders: any change is noticed without reading 1 GB."""
    parts = []
    for folder in folders:
        if is_broken_link(folder):
            parts.append(os.fsencode(f"{folder.relative_to(root)} -> {folder.readlink()}"))
            continue
        for entry in entries_of(folder):
            name = Path(entry.path).relative_to(root)
            with readable(folder):
                if is_broken_link(Path(entry.path)):
                    state = f"-> {Path(entry.path).readlink()}"
                else:
                    state = f"{entry.stat().st_size} {entry.stat().st_mtime_ns}"
            parts.append(os.fsencode(f"{name} {state}"))
    return digest(parts)


def _is_link_to_lost_folder(entry: os.DirEntry[str]) -> bool:
    """By the names: a file's has a suffix, and git-annex links files only."""
    path = Path(entry.path)
    return is_broken_link(path) and not path.suffix and "annex" not in path.readlink().parts
