"""Locks on file systems without flock: numbered files beside the locked one, of which the newest is the holder's.

It names machine and process, and its holder touches it now and then. Whoever finds that holder gone makes the file of
the next number, which one process alone can do, and removes those before it. A holder on this machine is gone when its
process is; one on another machine when its file has not been touched for a while.
"""

import atexit
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtrain.errors import EXIT_USER_ERROR
from segtrain.runtime import files, machine

log = logging.getLogger(__name__)

BEAT_S = 10.0  # between two touches
SILENT_S = 60.0  # without a touch by this machine's clock, from which on it is doubted that the holder is there
WATCH_S = 25.0  # without a touch while somebody looks on: clocks of two machines may differ
_HELD: "set[LockFile]" = set()


@dataclass(frozen=True)
class LockFile:
    """A lock that this process holds."""

    path: Path
    file: Path
    _pid: int = field(default_factory=os.getpid)
    _released: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """Touch the file from now on."""
        threading.Thread(target=self._beat, name="lock", daemon=True).start()
        _HELD.add(self)

    def release(self) -> None:
        """Let other processes have it. The file stays, so that numbers only grow."""
        _HELD.discard(self)
        if os.getpid() == self._pid and not self._released.is_set():  # not in a child that was forked
            self._released.set()
            with suppress(OSError):
                self.file.write_text("{}\n", encoding="utf-8")

    def _beat(self) -> None:
        while not self._released.wait(BEAT_S):
            with suppress(OSError):  # the folder is away for a while
                if (newest := _newest(self.path)) != self.file and newest is not None:
                    self._leave(newest)
                os.utime(self.file)

    def _leave(self, newest: Path) -> None:
        """End this process, which stood still for so long that another took the lock: it must write nothing more."""
        other = _holder(newest) or {}
        where = f"process {other.get('pid')} on {other.get('host')}"
        log.error("error: %s: this process stood still, and %s took its lock over; it ends here", self.path, where)
        logging.shutdown()
        os._exit(EXIT_USER_ERROR)


@atexit.register
def release_all() -> None:
    """Release what this process holds, at its end: else machines that do not see its end would wait."""
    for lock in tuple(_HELD):
        lock.release()


def take(path: Path) -> LockFile | None:
    """The lock of `path`; None while another process has it. Raises OSError."""
    newest = _newest(path)
    if newest is not None and (_is_alive(newest) or _is_touched(newest)):
        return None
    file = path.with_name(f"{path.name}.{1 + (_number(path, newest) if newest else 0)}")
    try:
        file.touch(exist_ok=False)
    except FileExistsError:  # somebody was quicker
        return None
    files.share(file)
    try:
        file.write_text(json.dumps(_this_process()) + "\n", encoding="utf-8")
    except OSError:
        file.unlink()
        raise
    # Others may have come and gone since this process looked, and in the middle of a listing too.
    if any(_newest(path) != file for _ in range(2)):
        file.unlink(missing_ok=True)
        return None
    for old in _files(path):
        if _number(path, old) < _number(path, file):
            with suppress(OSError):  # another user's, where only its owner may remove it
                old.unlink()
    lock = LockFile(path, file)
    lock.begin()
    return lock


def is_taken(path: Path) -> bool:
    """Whether another process has the lock, or has had it until a moment ago."""
    newest = _newest(path)
    return newest is not None and (_is_alive(newest) or _is_of_the_future(newest))


def _newest(path: Path) -> Path | None:
    return max(_files(path), key=lambda file: _number(path, file), default=None)


def _files(path: Path) -> list[Path]:
    return [file for name in os.listdir(path.parent) if _number(path, file := path.with_name(name))]


def _number(path: Path, file: Path) -> int:
    """The number of one of the files, 0 of any other file."""
    name, _, number = file.name.rpartition(".")
    return int(number) if name == path.name and number.isdecimal() else 0


def _is_alive(file: Path) -> bool:
    """Whether the holder is there: for certain on this machine, else by how long ago it touched the file.

    Where this machine's clock was set back since, that says nothing: it counts as silent, and `take` looks on.
    """
    holder = _holder(file)
    if holder == {}:  # released
        return False
    if holder and holder.get("machine") == machine.identity():
        return holder.get("started") == machine.began(holder.get("pid"))
    with suppress(OSError):
        return abs(time.time() - file.stat().st_mtime) < SILENT_S
    return False


def _is_of_the_future(file: Path) -> bool:
    """Whether another machine's holder touched it at a time that has not come here."""
    if (holder := _holder(file)) == {} or (holder and holder.get("machine") == machine.identity()):
        return False
    with suppress(OSError):
        return file.stat().st_mtime > time.time()
    return False


def _is_touched(file: Path) -> bool:
    """Whether a holder that seems gone, of another machine, touches the file while this process waits."""
    holder = _holder(file)
    if holder == {} or (holder and holder.get("machine") == machine.identity()):
        return False
    with suppress(OSError):
        before, end = file.stat().st_mtime_ns, time.monotonic() + WATCH_S
        while time.monotonic() < end:
            time.sleep(min(0.5, WATCH_S))
            if file.stat().st_mtime_ns != before:
                return True
    return False


def _holder(file: Path) -> Mapping[str, Any] | None:
    """The content of the file; None where it is not readable, or not written yet."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": machine.identity(), "pid": pid, "started": machine.began(pid)}
