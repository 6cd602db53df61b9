"""Whether store and run directory have room, and keep what the project takes for granted: rename, fsync, locks."""

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime import files

SLOW_S = 2.0  # for a few small files made durable
HOLD = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"  # noqa: E501
TAKE = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
ANSWER_S = 10.0  # of a file system that is asked for a lock
GIB = 2**30


def check(what: str, folder: Path, needed_bytes: int) -> Iterator[Finding]:
    """Of the folder, or of the nearest one above it that is there. Leaves nothing behind."""
    there = folder.expanduser().absolute()
    while not os.path.exists(there):  # noqa: PTH110  (which raises where it may not look)
        there = there.parent
    yield space(what, there, needed_bytes)
    try:
        with tempfile.TemporaryDirectory(prefix=".segtrain-doctor-", dir=there) as scratch:
            yield durable(what, Path(scratch))
            yield locks(what, Path(scratch))
    except OSError as error:
        yield failure(
            f"{what}: write", f"{there}: cannot be written ({error.strerror})", f"set {what} to another folder"
        )


def space(what: str, folder: Path, needed_bytes: int) -> Finding:
    """Whether what the config will write fits, twice over."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    said = f"{folder}: {free / GIB:.1f} GiB free, about {needed_bytes / GIB:.2f} GiB will be written"
    check = f"{what}: space"
    if found.f_files and not found.f_favail:
        return failure(check, f"{folder}: no inode is free", "remove files, or set another folder")
    if free < needed_bytes:
        return failure(check, said, f"free some space, or set {what} to another folder")
    if free < 2 * needed_bytes:
        return warning(check, said, f"free some space, or set {what} to another folder")
    return ok(check, said)


def durable(what: str, scratch: Path) -> Finding:
    """Whether files and folders can be replaced in one move and made durable, as checkpoints are."""
    check, file = f"{what}: rename and fsync", scratch / "file.json"
    began = time.monotonic()
    try:
        for turn in range(3):
            files.write_json(file, turn)
            aside = scratch / f".folder-{turn}"
            aside.mkdir()
            (aside / "part").write_text(str(turn))
            files.rename(aside, scratch / f"folder-{turn}")
    except OSError as error:
        return failure(check, f"{scratch.parent}: {error.strerror}", "use a local disk or a POSIX file system")
    took_s = time.monotonic() - began
    made = [file, *(scratch / f"folder-{turn}" / "part" for turn in range(3))]
    if not all(path.exists() for path in made) or file.read_text() != "2\n":
        return failure(check, f"{scratch.parent}: what was renamed is not there", "use a POSIX file system")
    said = f"{scratch.parent}: {1000 * took_s:.0f} ms for three of each"
    return ok(check, said) if took_s < SLOW_S else warning(check, said, "checkpoints will be slow; use a faster disk")


def locks(what: str, scratch: Path) -> Finding:
    """Whether a lock of one process keeps another out, and is gone when its holder is killed."""
    check, file = f"{what}: locks", scratch / "lock"
    file.touch()
    remedy = "two jobs could train in one run unnoticed; mount it with locks (flock), or use another file system"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE)
    try:
        try:
            assert holder.stdout is not None, "it is piped"
            answers, _, _ = select.select([holder.stdout], [], [], ANSWER_S)
            if not answers:
                raise subprocess.TimeoutExpired(holder.args, ANSWER_S)
            if holder.stdout.readline().strip() != b"held":
                return failure(check, f"{scratch.parent}: a lock cannot be taken", remedy)
            if _free(file):
                return failure(check, f"{scratch.parent}: a second process got a lock that is held", remedy)
        finally:
            holder.kill()
            if holder.stdout:
                holder.stdout.close()
            holder.wait(ANSWER_S)
        end = time.monotonic() + 2
        while not _free(file):
            if time.monotonic() > end:
                return failure(check, f"{scratch.parent}: a killed process keeps its lock", "use another file system")
            time.sleep(0.05)
    except subprocess.TimeoutExpired:  # NFS asks a server, and for ever
        return failure(check, f"{scratch.parent}: asked for a lock, it gave no answer in {ANSWER_S:g} s", remedy)
    return ok(check, f"{scratch.parent}: one process at a time, free when its holder is killed")


def _free(file: Path) -> bool:
    """Whether a process of its own gets the lock. Raises TimeoutExpired."""
    asked = [sys.executable, "-S", "-c", TAKE, str(file)]
    return subprocess.run(asked, stderr=subprocess.DEVNULL, timeout=ANSWER_S, check=False).returncode == 0
