"""Durable writes: aside, synced, renamed, so that no reader ever meets half a file.

In a folder that a group shares (setgid and group-writable) all that is written gets the folder's rights for the group,
whatever the umask, so that each member can go on with what another began. Elsewhere the umask decides.
"""

import csv
import io
import json
import os
import pwd
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SHARED = stat.S_ISGID | stat.S_IWGRP


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


def write_json(path: Path, tree: Any) -> None:
    """Write JSON; `path` holds the old content or the new one, whatever happens."""
    write_text(path, json.dumps(tree, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text; `path` holds the old content or the new one, whatever happens.

    What is not Unicode, as a path may have it, is escaped.
    """
    aside = _written_aside(path, text)
    sync_file(aside)
    rename(aside, path)


def replace_text(path: Path, text: str) -> None:
    """Write text that a crash of the machine may lose; a reader finds the old content or the new one."""
    _written_aside(path, text).replace(path)


def _written_aside(path: Path, text: str) -> Path:
    aside = path.with_name(f".{path.name}.tmp")
    aside.unlink(missing_ok=True)  # a killed process of another user may have left one that only he may write
    aside.write_text(text, encoding="utf-8", errors="backslashreplace")
    share(aside)
    return aside


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


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """A CSV of these columns, or of the keys of its first row; None is an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(columns or rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


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
