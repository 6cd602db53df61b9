"""Locks of files that several users share. The kernel releases a lock when its holder ends, however it ends.

Where the file system has no flock, as Lustre without its mount option, files with a heartbeat take its place.
"""

import errno
import fcntl
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from segtrain.runtime import files, lock_file
from segtrain.runtime.lock_file import LockFile

log = logging.getLogger(__name__)

NO_FLOCK = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})
LOCAL = Path("/tmp")
_TOLD: set[Path] = set()  # folders without flock


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds, until it ends or releases it."""

    descriptors: tuple[int, ...]
    file: LockFile | None = None  # where there is no flock

    def release(self) -> None:
        """Let other processes have it."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        if self.file:
            self.file.release()


def take(path: Path) -> Lock | None:
    """The lock of the file `path`, which is made where it is missing; None while another process has it.

    The file may be another user's, whom alone its mode lets write. NFS locks such a file only against its writers
    (flock(2)). Processes that may not write it hold that lock, and among themselves the lock of a second file. Raises
    OSError.
    """
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Lock((descriptor,))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno in NO_FLOCK:
            os.close(descriptor)
            return _take_file(path)
        if error.errno not in (errno.EBADF, errno.EACCES) or _may_write(descriptor):
            os.close(descriptor)
            raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        second = take(_second(path))
    except BlockingIOError:
        second = None
    except OSError:
        os.close(descriptor)
        raise
    if second is None:
        os.close(descriptor)
        return None
    return Lock((descriptor, *second.descriptors))


def _take_file(path: Path) -> Lock | None:
    if path.parent not in _TOLD:
        _TOLD.add(path.parent)
        log.warning(
            "%s: the file system has no flock, so locks are files with a heartbeat; what a machine that failed held is "
            "free after %.0f s",
            path.parent,
            lock_file.SILENT_S + lock_file.WATCH_S,
        )
    file = lock_file.take(path)
    return Lock((), file) if file else None


def is_taken(path: Path) -> bool:
    """Whether another process has the lock, as far as this machine can see.

    Not for polling: the shared lock that is tried here would refuse the lock to another process at that moment.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in NO_FLOCK and lock_file.is_taken(path)
    return is_taken(_second(path))


def join(path: Path) -> int:
    """A descriptor of the file, made where it is missing, with a lock that many may have, until all close it."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in NO_FLOCK:
            raise
        return join(_on_this_machine(path))
    return descriptor


def is_joined(path: Path) -> bool:
    """Whether a process of this machine has a descriptor of `join`. Raises OSError."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return is_joined(_on_this_machine(path))
    finally:
        os.close(descriptor)
    return False


def _on_this_machine(path: Path) -> Path:
    """A file for locks among the processes of this machine, where a file system has none."""
    if path.parent == LOCAL:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))
    return LOCAL / f"segtrain-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}.lock"


def _second(path: Path) -> Path:
    return path.with_name(f"{path.name}2")


def _open(path: Path) -> int:
    """A descriptor for writing where this user may write, else for reading. Raises OSError."""
    try:
        # Without O_CREAT, which the kernel refuses for another user's file in /tmp (fs.protected_regular).
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        files.share(path)
        return descriptor


def _may_write(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
