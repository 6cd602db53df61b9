"""The mirror of a queue while its runs train: pushed to by a thread, tried again, brought up to date at the end."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from jobs.offline import sync

log = logging.getLogger("segtrain.offline")

RETRY_S = 60.0  # after a push that failed
TRIES, PAUSE_S = 3, 5.0  # of the last push


def _push_here(to: sync.Place, folder: Path, queue: Path) -> int:
    if folder != queue:
        return sync.push(to / folder.name, folder)
    own = [*folder.glob("*.jsonl"), *folder.glob("*.txt"), *folder.glob("logs/*.log")]
    return sync.push(to / sync.OWN, folder, sorted(own))


class Mirror:
    """The mirror of the queue in `folder`, kept by a thread so that no run waits; without a place, nothing."""

    def __init__(self, to: sync.Place | None, folder: Path, every_s: float = 900.0) -> None:
        self.to, self.folder, self.every_s = to, folder, every_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._jobs: dict[Path, Future[int]] = {}
        self._due: dict[Path, float] = {}  # when to push a run, in monotonic seconds

    def push(self, run: Path) -> None:
        """Mirror a run, and what the queue says of it, as soon as may be."""
        self._due |= {run: 0.0, self.folder: 0.0}

    def look(self, at_work: Sequence[Path] = ()) -> None:
        """Begin what is due, and note what has ended. `at_work`: runs that train, mirrored now and then."""
        if self.to is None:
            return
        now = time.monotonic()
        for folder in at_work:
            self._due.setdefault(folder, now + self.every_s)
        for folder, job in list(self._jobs.items()):
            if job.done():
                del self._jobs[folder]
                if error := job.exception():
                    log.warning("%s: not mirrored (%s: %s); trying again", folder.name, type(error).__name__, error)
                    self._due[folder] = min(self._due.get(folder, now + RETRY_S), now + RETRY_S)
        for folder, at in list(self._due.items()):
            if at <= now and folder not in self._jobs and folder.is_dir():
                del self._due[folder]
                self._jobs[folder] = self._pool.submit(_push_here, self.to, folder, self.folder)

    def flush(self, extra: Sequence[Callable[[sync.Place], object]] = ()) -> list[str]:
        """Mirror all that is left, and what `extra` puts there; what could not be mirrored, and why."""
        if self.to is None:
            return []
        while self._jobs:
            time.sleep(0.05)
            self.look()
        folders = [folder for folder in {**self._due, self.folder: 0.0} if folder.is_dir()]
        self._due.clear()
        tasks: list[tuple[str, Callable[[sync.Place], object]]] = [
            (folder.name, partial(_push_here, folder=folder, queue=self.folder)) for folder in folders
        ]
        said = [_tried(name, task, self.to) for name, task in [*tasks, *(("the archive", task) for task in extra)]]
        return [failure for failure in said if failure]


def _tried(name: str, task: Callable[[sync.Place], object], to: sync.Place) -> str | None:
    """Do it, after a pause again where it fails; the last failure."""
    failure = ""
    for left in reversed(range(TRIES)):
        try:
            task(to)
            return None
        except Exception as error:  # noqa: BLE001  (each file system has errors of its own)
            failure = f"sync of {name}: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}"
        if left:
            time.sleep(PAUSE_S)
    return failure
