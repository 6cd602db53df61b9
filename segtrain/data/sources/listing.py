"""Folders of a source: what lies in them, without the files that operating systems put beside data."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from segtrain.data.sources.base import Check, digest
from segtrain.errors import LEAVE_OUT, DataError
from segtrain.runtime.terminal import Progress

# Put there by operating systems and network drives; what begins with a dot (._slice.tif, .DS_Store) is one as well.
SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found",
     "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)  # fmt: skip
FETCH = f"fetch its content (datalad get, git annex get, git lfs pull), mount its file system or {LEAVE_OUT}"
READERS = 8  # files read at once: hashing releases the interpreter's lock, and network file systems answer in parallel
CHECK_EVERY_S = 0.1
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


def digest_of_content(root: Path, folders: Iterable[Path], check: Check) -> str:
    """Of the names below `root` and of the content of all files in the folders, whatever their times.

    A file that may not be read counts as such: whoever prepares its patient names it, or leaves the patient out.
    """
    entries = list(_entries_below(root, folders))
    parts = []
    checked_at_s = time.monotonic()
    with (
        ThreadPoolExecutor(READERS) as pool,
        Progress(f"compare {len(entries)} files", total=len(entries), unit="files") as bar,
    ):
        try:
            contents = pool.map(_content, (path for _, path in entries))
            for (name, _), content in zip(entries, contents, strict=True):
                parts.append(os.fsencode(f"{name} {content}"))
                bar.advance(1)
                if time.monotonic() - checked_at_s > CHECK_EVERY_S:
                    check()
                    checked_at_s = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
    return digest(parts)


def digest_of_times(root: Path, folders: Iterable[Path]) -> str:
    """Of where the files in the folders are, their sizes and times: any change is noticed without reading 1 GB.

    With the time of the last change of each file's status, which nobody can set: a file that was edited and given its
    old time again is noticed, except on file systems that keep no such time.
    """
    parts = [os.fsencode(root.resolve())]
    for name, path in _entries_below(root, folders):
        with readable(path):
            if is_broken_link(path):
                state = _target(path)
            else:
                now = path.stat()
                state = f"{now.st_size} {now.st_mtime_ns} {now.st_ctime_ns}"
        parts.append(os.fsencode(f"{name} {state}"))
    return digest(parts)


def _entries_below(root: Path, folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """All that lies in the folders, and folders that are lost links, with the name below `root`. Raises DataError."""
    for folder in folders:
        if is_broken_link(folder):
            yield str(folder.relative_to(root)), folder
            continue
        for entry in entries_of(folder):
            path = folder / entry.name
            yield str(path.relative_to(root)), path


def _content(path: Path) -> str:
    """A hash of a file's content; what stands for it where there is none."""
    try:
        if path.is_dir():
            return "folder"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError:
        return _target(path) if path.is_symlink() and not path.exists() else "unreadable"


def _target(link: Path) -> str:
    return f"-> {link.readlink()}"


def _is_link_to_lost_folder(entry: os.DirEntry[str]) -> bool:
    """By the names: a file's has a suffix, and git-annex links files only."""
    path = Path(entry.path)
    return is_broken_link(path) and not path.suffix and "annex" not in path.readlink().parts
