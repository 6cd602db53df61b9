"""Calls to a store that may fail or hang: tried again when they fail, left behind when they never return."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from segtrain.errors import RunError, Stopped

log = logging.getLogger("segtrain.queue")

T = TypeVar("T")
POLL_EVERY_S = 0.05
REACH_S = 600.0  # that the queue waits at its start for a store that cannot be reached
PAUSE_S = 10.0  # between two tries

Limit = Callable[[], str]  # why to wait no longer; "" while there is time


class Unanswered(Exception):
    """The call did not return in time."""


def begin(task: Callable[[], T]) -> "Future[T]":
    """The future of a task in a thread that, unlike a pool's, does not hold up this process's end."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(task())
        except BaseException as error:  # noqa: BLE001  (it is raised where the result is read)
            future.set_exception(error)

    threading.Thread(target=work, name="sync", daemon=True).start()
    return future


def call(task: Callable[[], T], limit: Limit) -> T:
    """The task's result. Raises what it raises; Unanswered: the limit was reached, and the task is left behind."""
    future = begin(task)
    while not future.done():
        if why := limit():
            raise Unanswered(why)
        wait([future], POLL_EVERY_S)
    return future.result()


def pause(seconds: float, limit: Limit) -> None:
    """Wait, no longer than the limit allows."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not limit():
        time.sleep(min(seconds, POLL_EVERY_S))


def limit(seconds: float, stopped: Callable[[], object], stopped_s: float = 0.0) -> Limit:
    """A limit so many seconds from now, or `stopped_s` after this process was `stopped`, whichever is first."""
    end = time.monotonic() + seconds
    message = f"no answer in {seconds:.0f} s"
    shortened = False

    def why() -> str:
        nonlocal end, message, shortened
        if stopped() and not shortened and end > (sooner := time.monotonic() + stopped_s):
            shortened = True
            end = sooner
            message = f"no answer in {stopped_s:.0f} s after it was told to stop"
        return message if time.monotonic() >= end else ""

    return why


def insist(task: Callable[[], T], stopped: Callable[[], object], within_s: float) -> T:
    """The task's result, tried again for `REACH_S` while it raises RunError: a network may come up late.

    Raises RunError: that was in vain, or the task never returned; Stopped: this process was `stopped`; what else the
    task raises.
    """
    end = time.monotonic() + REACH_S
    while True:
        try:
            return call(task, limit(within_s, stopped))
        except Unanswered as error:
            trouble = RunError(f"the store of --sync: {error}; see that it can be reached")
        except RunError as error:
            trouble = error
            if not stopped() and time.monotonic() < end:
                log.warning("%s; trying again", error)
                pause(PAUSE_S, lambda: "told to stop" if stopped() else "")
                if not stopped():
                    continue
        if stopped():
            raise Stopped("stopped before all was fetched from the store of --sync; the same command goes on")
        raise trouble
