"""The mirror of a queue while its runs train: a thread pushes to it, and tries again what fails.

A store that hangs holds up neither the runs nor the queue's end.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from jobs.offline import own_files, store_retry, sync
from jobs.offline.location import Location
from jobs.offline.objects import Proven
from segtrain.errors import DataError

log = logging.getLogger("segtrain.queue")

RETRY_S = 60.0  # after a push that failed
TRIES, PAUSE_S = 3, 5.0  # of the last push
LAST_S = 3600.0  # that the last push of all may take where there is no deadline,
LEAST_S = 60.0  # where there is one, late as it may be,
STOPPED_S = 300.0  # and after the queue was stopped;
STOPPED_WAIT_S = 5.0  # then, before the others are pushed beside the push that is at work


class Mirror:
    """The mirror of the queue in `folder`, kept by a thread so that no run waits; without `to`, nothing."""

    def __init__(self, to: Location | None, folder: Path, every_s: float = 900.0) -> None:
        self.to, self.folder, self.every_s = to, folder, every_s
        self.proven = Proven()
        self._job: tuple[Path, Future[int]] | None = None  # one at a time
        self._due: dict[Path, float] = {}  # when to push a run, in monotonic seconds
        self._runs: set[Path] = set()  # all of which it was told

    def _push_here(self, to: Location, folder: Path) -> int:
        if folder == self.folder:
            return own_files.push(to, folder, self.proven)
        return sync.push(to / folder.name, folder, proven=self.proven)

    def push(self, run: Path) -> None:
        """Mirror a run, and the queue's own files, as soon as possible."""
        self._due |= {run: 0.0, self.folder: 0.0}
        self._runs.add(run)

    def look(self, at_work: Sequence[Path] = ()) -> None:
        """Begin the push that is due. `at_work`: runs that train, mirrored now and then."""
        if self.to is None:
            return
        now = time.monotonic()
        for folder in at_work:
            self._due.setdefault(folder, now + self.every_s)
        if not self._at_work():
            due = [folder for folder, at in self._due.items() if at <= now and folder.is_dir()]
            for folder in due[:1]:
                del self._due[folder]
                self._job = folder, store_retry.begin(partial(self._push_here, self.to, folder))

    def _at_work(self) -> bool:
        """Whether a push is at work; one that has failed is due again."""
        if self._job is None:
            return False
        folder, job = self._job
        if not job.done():
            return True
        self._job = None
        if error := job.exception():
            log.warning("%s: not mirrored (%s: %s); trying again", folder.name, type(error).__name__, error)
            again = time.monotonic() + RETRY_S
            self._due[folder] = min(self._due.get(folder, again), again)
        return False

    def flush(
        self,
        extra: Sequence[Callable[[Location], object]] = (),
        until_s: float | None = None,
        stopped: Callable[[], object] = lambda: 0,
    ) -> list[str]:
        """Mirror all that is left, and what `extra` puts there; returns what could not be mirrored, and why.

        What was mirrored before is compared once more, unless this process was `stopped`. It is given up at `until_s`,
        in seconds since the epoch, or soon after this process was stopped.
        """
        if self.to is None:
            return []
        left_s = LAST_S if until_s is None else max(LEAST_S, until_s - time.time())
        half = store_retry.limit(left_s / 2, stopped, min(STOPPED_WAIT_S, STOPPED_S / 2))
        limit = store_retry.limit(left_s, stopped, STOPPED_S)
        self._wait(half)
        slow = self._job[0] if self._job else None  # goes on beside the others
        due = {**self._due, self.folder: 0.0}
        self._due.clear()
        outcomes = [self._pushed(folder, limit) for folder in due if folder != slow]
        outcomes += [_tried("the archive", partial(task, self.to), limit) for task in extra]
        for folder in sorted(self._runs - {*due, slow}):
            if not stopped() and not limit():
                outcomes.append(self._pushed(folder, limit))
        self._wait(limit)
        if self._job:
            outcomes.append(f"sync of {self._job[0].name}: {limit()}")
        elif slow and slow in self._due:  # it has failed after all
            outcomes.append(self._pushed(slow, limit))
        return [failure for failure in outcomes if failure]

    def _pushed(self, folder: Path, limit: store_retry.Limit) -> str | None:
        """Push a folder, if it is there; returns why that failed."""
        if self.to is None or not folder.is_dir():
            return None
        return _tried(folder.name, partial(self._push_here, self.to, folder), limit)

    def _wait(self, limit: store_retry.Limit) -> None:
        """Wait for the push at work."""
        while self._at_work() and not limit():
            time.sleep(store_retry.POLL_EVERY_S)


def _tried(name: str, task: Callable[[], object], limit: store_retry.Limit) -> str | None:
    """Do a task, again after a pause if it fails, as long as the limit allows; returns the last failure."""
    failure = ""
    for left in reversed(range(TRIES)):
        if late := limit():
            return f"sync of {name}: {failure or late}"
        try:
            store_retry.call(task, limit)
            return None
        except (store_retry.Unanswered, DataError) as error:  # another try would end alike
            return f"sync of {name}: {error}"
        except Exception as error:  # noqa: BLE001  (each file system has errors of its own)
            failure = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if left:
            store_retry.pause(PAUSE_S, limit)
    return f"sync of {name}: {failure}"
