"""A queue that somebody watches at a terminal: its runs one after the other, their output shown."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jobs.queue.items import Item, Queue
from jobs.queue.journal import DONE, FAILED, Journal, QueueEnd, Standing, standing
from jobs.queue.runner import Observer, Runner
from jobs.requeue import EXIT_BUG
from jobs.submission import Submission
from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR
from segtrain.runtime.stop import SIGNALS, Stop

log = logging.getLogger("segtrain.queue")

CODES = {"finished": EXIT_FINISHED, "diverged": EXIT_DIVERGED, "refused": EXIT_USER_ERROR, "failed": EXIT_BUG}


class Nobody:
    """Observes nothing."""

    def look(self, at_work: Sequence[Path]) -> None:
        """Do nothing."""

    def push(self, run: Path) -> None:
        """Do nothing."""


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Note the signals to this process, in place of their handlers, which are put back afterwards."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    stop = Stop()
    stop.listen()
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train(submission: Submission, items: Sequence[Item], stop: Stop, observer: Observer | None = None) -> int:
    """Train the runs of a submission here; the exit code: 75 if it was stopped, else the worst.

    A run that stops by its own deadline goes on in another start while it gains steps. A signal and the STOP file of a
    run end the queue.
    """
    job = f"local-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    submission.keep(runs={item.name: job for item in items})
    # In the submission's folder: whoever gives the command again wants what has failed to be tried again.
    queue = Queue(submission.record["name"], submission.root, items, at_once=1, attended=True)
    journal = Journal(queue.folder, job)
    journal.write("begin", pid=os.getpid(), runs=len(items))
    end = Runner(queue, journal, stop, observer or Nobody(), submission=submission).run()
    code = exit_code(end, [standing(item, journal) for item in items])
    journal.write("left", reason=end.reason, why=end.sentence, code=code)
    if end not in (DONE, FAILED):
        log.warning("stopped: %s; everything is saved, the same command goes on", end.sentence)
    elif end == FAILED:
        log.warning("ended: %s", end.sentence)
    return code


def exit_code(end: QueueEnd, standings: Iterable[Standing]) -> int:
    """The exit code of a queue: 75 if it was stopped, else that of its worst run."""
    if end.reason not in (DONE.reason, FAILED.reason):
        return EXIT_STOPPED
    states = {one.state for one in standings}
    worst = [state for state in ("failed", "refused", "diverged") if state in states]
    if worst:
        return CODES[worst[0]]
    return EXIT_STOPPED if "held" in states else EXIT_FINISHED
