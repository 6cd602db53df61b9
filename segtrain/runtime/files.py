"""Durable writes: aside, synced, renamed, so that no reader ever meets half a file.

In a folder that a group shares (setgid and group-writable) all that is written gets the folder's rights for the group,
whatever the umask, so that each member can go on with what another began. Elsewhere the umask decides.
"""

import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segtrain.runtime import machine
from segtrain.text_file import open_file

SHARED = stat.S_ISGID | stat.S_IWGRP
LONGEST_NAME = 200  # bytes of a file's name in that of what is written aside: names may have 255
LEFT_S = 86400.0
_TIDIED: set[Path] = set()  # where this process has looked for what others left


def make_folder(path: Path) -> None:
    """Make the folder, and those above it that are missing."""
    if path.is_dir():
        return
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    share(path)


def share(path: Path) -> None:
    """Give the group the rights on a new file or folder that it has on the shared folder around it."""
    with suppress(OSError):  # some file systems know no such rights
        around, own = path.parent.stat(), path.lstat()
        # Outside of the group, chmod would take the setgid bit away.
        is_member = own.st_gid in (os.getegid(), *os.getgroups()) or os.geteuid() == 0
        is_ours = own.st_uid == os.geteuid() and is_member and not stat.S_ISLNK(own.st_mode)
        if is_ours and around.st_mode & SHARED == SHARED:
            group = around.st_mode & 0o070
            rights = stat.S_ISGID | group if stat.S_ISDIR(own.st_mode) else group & 0o060
            if own.st_mode & rights != rights:
                path.chmod(stat.S_IMODE(own.st_mode) | rights)


def share_all(folder: Path) -> None:
    """Do so for the folder and all that is in it, from the top down."""
    share(folder)
    for path in folder.rglob("*"):
        share(path)


def copy_rights(source: Path, target: Path) -> None:
    """Give the target the source's rights, as far as the file system knows any."""
    with suppress(OSError):
        target.chmod(stat.S_IMODE(source.stat().st_mode))


def free_place(path: Path, what: str) -> Path:
    """A hidden path beside `path` with nothing there: what a killed process left is removed.

    Where it cannot be, since it is another user's, the path is this user's own.
    """
    for suffix in ("", f"-{os.geteuid()}"):
        place = path.with_name(f".{path.name}.{what}{suffix}")
        shutil.rmtree(place, ignore_errors=True)
        if not os.path.lexists(place):
            break
    return place


def may_enter(folder: Path) -> bool:
    """Whether this user may list the folder and open what is in it."""
    return os.access(folder, os.R_OK | os.X_OK, effective_ids=True)


def owner_of(path: Path) -> str:
    """The name of the user whose file it is, or the number."""
    number = path.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def barrier(path: Path) -> str:
    """The first folder on the way to `path`, or the path, that this user may not read: for messages."""
    for part in (*reversed(path.absolute().parents), path):
        try:
            needed = os.R_OK | os.X_OK * part.is_dir() if part == path else os.X_OK
            if not os.access(part, needed, effective_ids=True):
                return f"{part} belongs to {owner_of(part)}, mode {stat.S_IMODE(part.stat().st_mode):o}"
        except OSError:
            break
    return f"{path} may not be read"


def now_s(folder: Path) -> float:
    """The time by the clock that stamps the folder's files, a file server's for example, in seconds since the epoch.

    By this machine's clock where nothing may be written there.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # without a name, where the file system can
            file.write(b"0")
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def write_json(path: Path, tree: Any) -> None:
    """Write JSON; `path` holds the old content or the new one, whatever happens."""
    write_text(path, json.dumps(tree, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text; `path` holds the old content or the new one, whatever happens.

    What is not Unicode, as a path may have it, is escaped.
    """
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def replace_text(path: Path, text: str) -> None:
    """Write text that a crash of the machine may lose; a reader finds the old content or the new one."""
    with aside(path, durable=False) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def aside(path: Path, durable: bool = True) -> Iterator[Path]:
    """A path to write a file at, which then takes the place of `path`; after an error nothing of it is left.

    Of any number of processes that write one file at once, each replaces it by its own, whole.
    """
    temporary = own_place(path, "tmp")
    try:
        yield temporary
        share(temporary)
        if durable:
            sync_file(temporary)
            rename(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def own_place(path: Path, what: str) -> Path:
    """A hidden path beside `path` that no other process or thread writes; what killed ones left is removed."""
    here = hashlib.sha256(machine.identity().encode()).hexdigest()[:8]
    beginning = os.fsdecode(os.fsencode(f".{path.name}")[:LONGEST_NAME])
    place = path.with_name(f"{beginning}.{here}-{threading.get_native_id()}.{what}")
    if place not in _TIDIED:
        _TIDIED.add(place)
        if path.parent.exists():
            _remove_leftovers(path.parent, rf"{re.escape(beginning)}\.([0-9a-f]{{8}})-(\d+)\.{what}", here, LEFT_S)
    return place


def remove_leftovers(folder: Path, what: str, left_s: float) -> None:
    """Remove what killed processes left in the folder, at an `own_place` of any path, or at a `free_place`.

    Those of another machine are taken for killed where nothing has changed for `left_s`.
    """
    here = hashlib.sha256(machine.identity().encode()).hexdigest()[:8]
    _remove_leftovers(folder, rf"\..+?(?:\.([0-9a-f]{{8}})-(\d+))?\.{what}(?:-\d+)?", here, left_s)


def _remove_leftovers(folder: Path, pattern: str, here: str, left_s: float) -> None:
    for name in os.listdir(folder):
        if owner := re.fullmatch(pattern, name):
            _remove_leftover(folder / name, owner[1] == here, owner[2], left_s)


def _remove_leftover(place: Path, is_here: bool, thread: str | None, left_s: float) -> None:
    """Remove what a thread of this machine left that has ended, or one of another machine, `left_s` ago."""
    with suppress(OSError):
        if (is_here and machine.began(thread) is None) or time.time() - _changed_s(place) > left_s:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink()


def _changed_s(place: Path) -> float:
    """When the file was last written, or a file added to the folder or one in it."""
    inner = [entry for entry in os.scandir(place) if entry.is_dir()] if place.is_dir() else []
    return max(place.stat().st_mtime, *(entry.stat().st_mtime for entry in inner), 0.0)


def keep_aside(path: Path, ending: str) -> Path:
    """The new place of what is at `path`: the first that is free of path{ending}1, path{ending}2, ..."""
    names = (path.with_name(f"{path.name}{ending}{number}") for number in range(1, 10_000))
    place = next(name for name in names if not os.path.lexists(name))
    path.rename(place)
    return place


def append_line(path: Path, line: str) -> None:
    """Append a line, durably, or leave the file as it was: after an OSError it may be called again.

    A line before it that a crash left unfinished is ended first.
    """
    with path.open("ab+", buffering=0) as file:
        end = file.tell()
        if end:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = f"\n{line}"
        data = f"{line}\n".encode(errors="backslashreplace")
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
    share(path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rename(old: Path, new: Path) -> None:
    """Rename and make it durable."""
    old.rename(new)
    sync_folder(new.parent)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Rename a folder to a name that no reader looks at, then remove it, so that a kill leaves no half of it."""
    doomed = free_place(folder, "removed")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
