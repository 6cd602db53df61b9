"""Writes into a folder, made by a thread: in order, and again while the folder is full, closed, stale or slow (L14).

What is handed over takes no time and raises no OSError. Small writes go first, so a large one (a checkpoint) begins
when all small ones that were handed over before it are made; a large one that fails does not hold up small ones.
"""

import errno
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from segtrain.errors import RunError
from segtrain.runtime import files

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S = 0.5  # between two tries of a write; doubled each time
LONGEST_PAUSE_S = 5.0
SLOW_S = 60.0  # a write that takes longer is told, and not waited for
# At the end. All are shorter than the 30 minutes after which the other ranks give up a collective.
PATIENCE_S = 300.0  # with writes that fail
LONGEST_WRITE_S = 1500.0
LAST_WORDS_S = 5.0  # with a write after the patience has ended
LIMIT_BYTES = 256 << 20  # of what may wait and can be left out
HOPELESS = (errno.EFBIG, errno.EMFILE, errno.ENFILE)  # limits that do not pass by waiting


@dataclass(eq=False)
class _Write:
    """`make` is called again after an OSError, so it must not do anything twice."""

    what: str
    make: Callable[[], None]
    size: int
    pause_s: float
    error: OSError | None = None  # of the last try
    due_s: float = 0.0  # monotonic


class Outbox:
    """The writes of this process into `folder`. A `quiet` one tells nobody of its troubles."""

    def __init__(self, folder: Path, quiet: bool = False) -> None:
        self.folder = folder
        self.quiet = quiet
        self._small: deque[_Write] = deque()
        self._large: deque[_Write] = deque()
        self._current: tuple[_Write, float] | None = None  # the write that is being made, and since when
        self._bug: BaseException | None = None  # of a write; raised in the thread that hands over the next
        self._told = False  # that the folder is bad
        self._gave_up = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread()  # started with the first write

    def put(self, what: str, make: Callable[[], None], size: int = 0, large: bool = False) -> bool:
        """Hand over a write; one that is known by the same `make` and waits already is not made twice.

        Returns whether there is room in memory for it: none where it has a `size` in bytes and too many bytes wait.
        Raises what an earlier write raised that was no OSError.
        """
        with self._changed:
            self._raise_bug()
            lane = self._large if large else self._small
            if size and size + sum(write.size for write in self._small) > LIMIT_BYTES:
                return False
            if not (large and any(write.make == make and write is not self._now() for write in lane)):
                lane.append(_Write(what, make, size, FIRST_PAUSE_S))
            if not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            self._tell_if_slow()
        return True

    def keep_up(self) -> None:
        """Wait until everything is written, or until the folder turns out to be bad."""
        with self._changed:
            while (self._small or self._large) and not self._told:
                self._raise_bug()
                self._tell_if_slow()
                self._changed.wait(0.2)
            self._raise_bug()

    def drain(self, patience_s: float | None = None, longest_s: float = LONGEST_WRITE_S) -> str | None:
        """Wait until everything is written; None, or what could not be written and why.

        Writes that fail are waited for as long as the patience lasts, one that hangs for at most `longest_s`.
        """
        if patience_s is None:
            patience_s = 0.0 if self._gave_up else PATIENCE_S
        if self._gave_up:
            longest_s = LAST_WORDS_S
        began_s = time.monotonic()
        with self._changed:
            for write in (*self._small, *self._large):
                write.due_s = 0.0
                if patience_s:
                    write.error = None  # only what it fails with from now on counts
            self._changed.notify_all()
            while waiting := (*self._small, *self._large):
                self._raise_bug()
                waited_s = time.monotonic() - began_s
                for write in waiting:
                    if write.error and (waited_s >= patience_s or write.error.errno in HOPELESS):
                        return f"{write.what} could not be written ({write.error.strerror or write.error})"
                if waited_s > longest_s:
                    return f"{waiting[0].what} could not be written (it has taken {waited_s:.0f} s)"
                self._changed.wait(0.2)
            self._raise_bug()
        return None

    def finish(self) -> None:
        """Wait until everything is written. Raises RunError where the folder stays bad; nothing is tried any more."""
        if failure := self.drain():
            self.give_up()
            raise RunError(
                f"{self.folder}: {failure}; free some space, or mend what is wrong with the folder, and run the same "
                "command again, which goes on from the last whole checkpoint"
            )

    def give_up(self) -> None:
        """Forget what waits. A write that is handed over later is tried once."""
        with self._changed:
            self._small.clear()
            self._large.clear()
            self._gave_up = True
            self._told = True

    def close(self) -> None:
        """End the thread when it has nothing to do any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while write := self._next():
            error: OSError | None = None
            try:
                write.make()
            except OSError as failure:
                error = failure
            except BaseException as bug:  # noqa: BLE001  raised by `put` or `drain`
                self._bug = bug
            self._note(write, error)

    def _next(self) -> _Write | None:
        """The next write that is due, None at the end. Waits."""
        with self._changed:
            while True:
                lane = self._small or self._large
                if not lane and self._closed:
                    return None
                now = time.monotonic()
                if lane and lane[0].due_s <= now:
                    self._current = lane[0], now
                    return lane[0]
                self._changed.wait(lane[0].due_s - now if lane else None)

    def _note(self, write: _Write, error: OSError | None) -> None:
        """Note that a write is made, or failed with an error; tell when the folder turns bad, or good again."""
        with self._changed:
            self._current = None
            write.error = error
            if error:
                write.due_s = time.monotonic() + write.pause_s
                write.pause_s = min(2 * write.pause_s, LONGEST_PAUSE_S)
            else:
                for lane in (self._small, self._large):
                    if write in lane:
                        lane.remove(write)
            waiting = (*self._small, *self._large)
            bad = any(other.error for other in waiting) or (self._told and bool(waiting))
            if error and not self._told:
                self._tell(
                    "%s: %s cannot be written now (%s); the training goes on, what is to be written waits in memory",
                    self.folder,
                    write.what,
                    error.strerror or error,
                )
            elif self._told and not bad and not self._gave_up:
                self._tell("%s: can be written again; what waited is written", self.folder)
            self._told = bad or self._gave_up
            self._changed.notify_all()

    def _tell_if_slow(self) -> None:
        if self._current and not self._told:
            write, began_s = self._current
            if (taken_s := time.monotonic() - began_s) > SLOW_S:
                self._told = True
                message = "%s: writing %s has taken %.0f s so far; the training goes on"
                self._tell(message, self.folder, write.what, taken_s)

    def _tell(self, message: str, *values: object) -> None:
        if not self.quiet:
            log.warning(message, *values)

    def _now(self) -> _Write | None:
        return self._current[0] if self._current else None

    def _raise_bug(self) -> None:
        if self._bug:
            bug, self._bug = self._bug, None
            raise bug


class Appended:
    """A file that only this process adds to. An addition that failed half-way is cut off before it is tried again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = path.stat().st_size if path.exists() else 0

    def append(self, data: bytes) -> None:
        """Add to the end."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            there = os.fstat(descriptor).st_size
            if there < self._bytes:  # somebody removed it, or its server crashed
                log.warning("%s: %d bytes that were written are gone", self.path, self._bytes - there)
                self._bytes = there
            file.truncate(self._bytes)
            file.seek(self._bytes)
            file.write(data)
        if not self._bytes:
            files.share(self.path)
        self._bytes += len(data)


class Addition:
    """One addition to a file to which other processes add too: a call goes on where the call before it failed."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self._left = data

    def __call__(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            if not os.fstat(descriptor).st_size:
                files.share(self.path)
            while self._left:
                self._left = self._left[os.write(descriptor, self._left) :]
        finally:
            os.close(descriptor)


_WAITING: Counter[Path] = Counter()  # threads that wait, by what they wait for: the first and the last tell of it
_WAITING_LOCK = threading.Lock()


def patiently(path: Path, work: Callable[[], T]) -> T:
    """The result of reading or writing below a path, in this thread, tried again while that fails: `PATIENCE_S` long.

    Raises the last OSError.
    """
    try:
        return work()
    except OSError as error:
        if error.errno in HOPELESS:
            raise
        reason = error.strerror or error
    with _WAITING_LOCK:
        _WAITING[path] += 1
        if _WAITING[path] == 1:
            log.warning("%s: cannot be used now (%s); waiting for it", path, reason)
    try:
        return _again(work)
    finally:
        with _WAITING_LOCK:
            _WAITING[path] -= 1
            if _WAITING[path] == 0:
                log.warning("%s: the waiting has ended", path)


def _again(work: Callable[[], T]) -> T:
    began_s, pause_s = time.monotonic(), FIRST_PAUSE_S
    while True:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        try:
            return work()
        except OSError:
            if time.monotonic() - began_s > PATIENCE_S:
                raise
