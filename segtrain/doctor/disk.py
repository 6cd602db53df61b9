"""Disks of the store and of the runs: room, and what the project relies on (rename, fsync, locks)."""

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from segtrain.config.paths import expanded
from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime import files, lock, lock_file

SLOW_S = 2.0  # for a few small files made durable
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1])
try:
    fcntl.flock(file, fcntl.LOCK_EX)
except OSError as error:
    sys.exit(print(error.errno))
print('held', flush=True)
time.sleep(60)
"""
TAKE = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
ANSWER_S = 10.0  # in which the file system must answer a request for a lock
GIB = 2**30


def check(what: str, folder: Path, needed_bytes: int) -> Iterator[Finding]:
    """Check the folder, or the nearest existing one above it. Leaves nothing behind."""
    existing = expanded(folder).absolute()
    while not os.path.exists(existing):  # noqa: PTH110  (Path.exists raises where it may not look)
        existing = existing.parent
    yield space(what, existing, needed_bytes)
    try:
        with tempfile.TemporaryDirectory(prefix=".segtrain-doctor-", dir=existing) as scratch:
            yield durable(what, Path(scratch))
            yield locks(what, Path(scratch))
    except OSError as error:
        yield failure(
            f"{what}: write", f"{existing}: cannot be written ({error.strerror})", f"set {what} to another folder"
        )


def space(what: str, folder: Path, needed_bytes: int) -> Finding:
    """Whether the disk has room for twice what the config will write."""
    disk = os.statvfs(folder)
    free_bytes = disk.f_bavail * disk.f_frsize
    message = f"{folder}: {free_bytes / GIB:.1f} GiB free, about {needed_bytes / GIB:.2f} GiB will be written"
    check = f"{what}: space"
    if disk.f_files and not disk.f_favail:
        return failure(check, f"{folder}: no inode is free", f"set {what} to a folder on another disk")
    if free_bytes < needed_bytes:
        return failure(check, message, f"free some space, or set {what} to another folder")
    if free_bytes < 2 * needed_bytes:
        return warning(check, message, f"free some space, or set {what} to another folder")
    return ok(check, message)


def durable(what: str, scratch: Path) -> Finding:
    """Whether files and folders can be replaced by a rename and made durable, as checkpoints are."""
    check, file = f"{what}: rename and fsync", scratch / "file.json"
    began = time.monotonic()
    try:
        for turn in range(3):
            files.write_json(file, turn)
            aside = scratch / f".folder-{turn}"
            aside.mkdir()
            (aside / "part").write_text(str(turn), encoding="utf-8")
            files.rename(aside, scratch / f"folder-{turn}")
    except OSError as error:
        return failure(check, f"{scratch.parent}: {error.strerror}", "use a local disk or a POSIX file system")
    took_s = time.monotonic() - began
    written = [file, *(scratch / f"folder-{turn}" / "part" for turn in range(3))]
    if not all(path.exists() for path in written) or file.read_text(encoding="utf-8") != "2\n":
        return failure(check, f"{scratch.parent}: a renamed file is missing", "use a POSIX file system")
    message = f"{scratch.parent}: {1000 * took_s:.0f} ms for three of each"
    if took_s > SLOW_S:
        return warning(check, message, "checkpoints will be slow; use a faster disk")
    return ok(check, message)


def locks(what: str, scratch: Path) -> Finding:
    """Whether a lock excludes other processes, and is released when its holder is killed."""
    check, file = f"{what}: locks", scratch / "lock"
    file.touch()
    remedy = "two jobs could train in one run unnoticed; mount it with flock, or use another file system"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE)
    try:
        try:
            assert holder.stdout is not None, "it is piped"
            answers, _, _ = select.select([holder.stdout], [], [], ANSWER_S)
            if not answers:
                raise subprocess.TimeoutExpired(holder.args, ANSWER_S)
            answer = holder.stdout.readline().strip()
            if answer.isdigit() and int(answer) in lock.NO_FLOCK:
                return _lock_files(check, scratch)
            if answer != b"held":
                return failure(check, f"{scratch.parent}: a lock cannot be taken", remedy)
            if _free(file):
                return failure(check, f"{scratch.parent}: a second process got the lock too", remedy)
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
    except subprocess.TimeoutExpired:  # NFS asks its server, without a time limit
        return failure(check, f"{scratch.parent}: no answer to a request for a lock in {ANSWER_S:g} s", remedy)
    return ok(check, f"{scratch.parent}: exclusive, and released when the holder is killed")


def _lock_files(check: str, scratch: Path) -> Finding:
    """Whether the files that take the place of locks exclude others."""
    file = scratch / "without-flock"
    taken = lock_file.take(file)
    again = lock_file.take(file)
    if taken is None or again is not None:
        return failure(check, f"{scratch.parent}: no flock, and no lock files either", "use another file system")
    taken.release()
    silent_s = lock_file.SILENT_S + lock_file.WATCH_S
    return warning(
        check,
        f"{scratch.parent}: no flock, so files with a heartbeat take its place",
        f"mount it with flock; without, a run whose machine failed can go on elsewhere after {silent_s:.0f} s",
    )


def _free(file: Path) -> bool:
    """Whether another process gets the lock. Raises TimeoutExpired."""
    command = [sys.executable, "-S", "-c", TAKE, str(file)]
    return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=ANSWER_S, check=False).returncode == 0
