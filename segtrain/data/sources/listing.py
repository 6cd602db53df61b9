"""Folders of a source: what lies in them, without the files that operating systems put beside data."""

import errno
import hashlib
import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from segtrain.data.sources.base import Check, digest
from segtrain.data.store_reading import waited_for
from segtrain.errors import LEAVE_OUT, DataError
from segtrain.runtime.outbox import patiently
from segtrain.runtime.terminal import Progress

# Put there by operating systems and network drives; what begins with a dot (._slice.tif, .DS_Store) is one as well.
SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found",
     "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)  # fmt: skip
FETCH = f"fetch its content (datalad get, git annex get, git lfs pull), mount its file system or {LEAVE_OUT}"
READERS = 8  # files read at once: hashing releases the interpreter's lock, and network file systems answer in parallel
CHECK_EVERY_S = 0.1
UNREADABLE = "unreadable"  # in place of a hash
T = TypeVar("T")
# What git-annex and Git LFS leave in place of a file whose content was not fetched.
POINTERS = (b"/annex/objects/", b"version https://git-lfs.github.com/")
# Of a file server that does not answer, or does so again in a minute; EIO may be of a broken disk too.
AWAY = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
     errno.ENETUNREACH, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EREMOTEIO, errno.ESHUTDOWN}
)  # fmt: skip
# A file system allows 255; what is written for a patient or slice is its name and a suffix such as _mask.nii.gz.
MAX_NAME_BYTES = 240
NOT_IN_A_LINE = ("Cc", "Cs", "Zl", "Zp")  # categories of Unicode: control characters, halves of pairs, line ends


def patiently_read(path: Path, work: Callable[[], T]) -> T:
    """The result of reading at the path; waits while its server is away. Raises DataError, which names the path."""

    def once() -> T:
        try:
            return work()
        except OSError as error:
            if error.errno in AWAY:
                raise
            raise DataError(f"{path}: {error.strerror or error}; make it readable for this user") from error

    return waited_for(path, once)


def require_folder(root: Path, remedy: str) -> None:
    """Raises DataError, which ends in `remedy`, where `root` is no folder."""
    if not patiently_read(root, root.is_dir):
        raise DataError(f"{root}: no such folder; {remedy}")


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in the folder, sorted by name, without hidden and system files. Raises DataError."""
    refuse_broken_link(folder)
    entries = patiently_read(folder, lambda: sorted(os.scandir(folder), key=lambda entry: entry.name))
    return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in SYSTEM_NAMES]


def folders_of(root: Path, entries: Sequence[os.DirEntry[str]] | None = None) -> list[Path]:
    """The folders in `root`, sorted, and links that were to folders, as far as names can tell. Raises DataError.

    entries: what lies in `root`, where that is known.
    """
    entries = entries_of(root) if entries is None else entries
    return [root / entry.name for entry in entries if is_folder(entry) or _is_link_to_lost_folder(entry)]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one. Raises DataError where that cannot be read, such as a stale mount."""

    def is_dir() -> bool:
        try:
            return entry.is_dir()
        except OSError:
            if _is_broken(entry):  # a link to itself, for one
                return False
            raise

    return patiently_read(Path(entry.path), is_dir)


def refuse_odd_names(names: Iterable[str], folder: Path) -> None:
    """Raises DataError for a name that tables or file systems cannot hold, or that leaves no room for a suffix."""
    for name in names:
        if "/" in name or name in (".", ".."):
            raise DataError(f"{folder}: the name {escaped(name)!r}, but files are named by it; rename it, without /")
        if any(unicodedata.category(letter) in NOT_IN_A_LINE for letter in name):
            raise DataError(
                f"{folder}/{escaped(name)}: a name with control characters, or not in UTF-8, which tables cannot "
                "hold; rename it"
            )
        if len(os.fsencode(name)) > MAX_NAME_BYTES:
            raise DataError(
                f"{folder}/{name}: a name of {len(os.fsencode(name))} bytes, but {MAX_NAME_BYTES} is the most that "
                "leaves room for the names of its outputs; rename it"
            )


def escaped(name: str) -> str:
    """The name in one line of UTF-8: with escapes in place of what `refuse_odd_names` refuses."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in NOT_IN_A_LINE else c for c in text)


def with_suffix(
    folder: Path, suffixes: tuple[str, ...], entries: Sequence[os.DirEntry[str]] | None = None
) -> list[Path]:
    """The files in `folder` with one of the suffixes, sorted, links without content among them. Raises DataError.

    None where the folder itself is such a link: reading its patient names it. entries: what lies in it, where known.
    """
    if entries is None:
        if is_broken_link(folder):
            return []
        entries = entries_of(folder)
    entries = [entry for entry in entries if entry.name.lower().endswith(suffixes)]
    return patiently_read(folder, lambda: [folder / e.name for e in entries if _is_broken(e) or e.is_file()])


def deeper_root(root: Path, holds_data: Callable[[Path], bool]) -> Path | None:
    """The first folder one or two levels below `root` that `holds_data`, for messages. Raises DataError."""
    folders = folders_of(root)
    there = [folder for folder in folders if not is_broken_link(folder)]
    candidates = [*folders, *(inner for folder in there for inner in folders_of(folder))]
    return next((folder for folder in candidates if holds_data(folder)), None)


def is_broken_link(path: Path) -> bool:
    """Whether the path is a link whose target is not there. Raises DataError."""
    return patiently_read(path, lambda: path.is_symlink() and not path.exists())


def refuse_broken_link(path: Path) -> None:
    """Raises DataError for a link whose target is not there."""
    if is_broken_link(path):
        raise DataError(f"{path}: a link to {path.readlink()}, which is not there; {FETCH}")


def refuse_absent(path: Path) -> None:
    """Raises DataError for a file whose content is not there: a broken link, or a pointer in place of the content."""
    refuse_broken_link(path)
    if patiently_read(path, lambda: not path.is_file() and path.exists()):  # opening a pipe would wait for ever
        raise DataError(f"{path}: not a file; rename it or move it elsewhere")
    if patiently_read(path, partial(_beginning, path)).startswith(POINTERS):
        raise DataError(f"{path}: a pointer of git-annex or Git LFS in place of the content; {FETCH}")


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(40)


def digest_of_content(root: Path, folders: Iterable[Path], check: Check) -> str:
    """Of the names below `root` and of the content of all files in the folders, whatever their times."""
    return digest_of_contents(root, _paths_in(folders), check)


def digest_of_contents(root: Path, paths: Iterable[Path], check: Check) -> str:
    """Of the files' names below `root` and of their content, whatever their times.

    A file that may not be read counts as such: whoever prepares its patient names it, or leaves the patient out.
    """
    entries = [(_below(root, path), path) for path in paths]
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
    """`digest_of_states` of all that lies in the folders."""
    return digest_of_states(root, _paths_in(folders))


def digest_of_states(root: Path, paths: Iterable[Path]) -> str:
    """Of where the files are, their sizes and times: any change is noticed without reading 1 GB.

    With the time of the last change of each file's status, which nobody can set: a file that was edited and given its
    old time again is noticed, except on file systems that keep no such time.
    """
    parts = [os.fsencode(root.resolve())]
    for path in paths:
        state = patiently_read(path, partial(_state, path))
        parts.append(os.fsencode(f"{_below(root, path)} {state}"))
    return digest(parts)


def _state(path: Path) -> str:
    if is_broken_link(path):
        return _target(path)
    now = path.stat()
    return f"{now.st_size} {now.st_mtime_ns} {now.st_ctime_ns}"


def _paths_in(folders: Iterable[Path]) -> Iterator[Path]:
    """All that lies in the folders, and folders that are lost links. Raises DataError."""
    for folder in folders:
        if is_broken_link(folder):
            yield folder
        else:
            yield from (Path(entry.path) for entry in entries_of(folder))


def _below(root: Path, path: Path) -> str:
    """The path from `root`; as it is where a file of data is elsewhere."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _content(path: Path) -> str:
    """A hash of a file's content; what stands for it where there is none. Waits while its server is away."""
    try:
        return patiently(path, partial(_content_now, path))
    except OSError as error:
        if error.errno == errno.EIO:  # still: the disk is broken there
            return UNREADABLE
        raise DataError(f"{path}: cannot be read ({error.strerror}); bring the folder back and try again") from error


def _content_now(path: Path) -> str:
    """Raises OSError where the file's server is away."""
    try:
        if path.is_dir():
            return "folder"
        if not path.is_file() and path.exists():
            return "no file"  # opening a pipe would wait for whoever writes into it
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError as error:
        if error.errno in AWAY:
            raise
        return _target(path) if path.is_symlink() and not path.exists() else UNREADABLE


def _target(link: Path) -> str:
    return f"-> {link.readlink()}"


def _is_broken(entry: os.DirEntry[str]) -> bool:
    """`is_broken_link`, without asking the file system about what is no link."""
    return entry.is_symlink() and is_broken_link(Path(entry.path))


def _is_link_to_lost_folder(entry: os.DirEntry[str]) -> bool:
    """By the names: a file's has a suffix, and git-annex links files only."""
    path = Path(entry.path)
    return _is_broken(entry) and not path.suffix and "annex" not in path.readlink().parts
