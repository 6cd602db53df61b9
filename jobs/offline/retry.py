"""What a store may not do to a queue: work that fails is tried again, work that never returns is left behind."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from segtrain.errors import RunError, Stopped

log = logging.getLogger("segtrain.offline")

T = TypeVar("T")
LOOK_EVERY_S = 0.05
REACH_S, PAUSE_S = 600.0, 10.0  # that a store is waited for at the start, and between two tries

Limit = Callable[[], str]  # why to wait no longer; "" while there is time


class Unanswered(Exception):
    """It did not come back in time."""


def begin(task: Callable[[], T]) -> "Future[T]":
    """What the task will return or raise, from a thread that, unlike a pool's, does not hold up this process's end."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(task())
        except BaseException as error:  # noqa: BLE001  (it is raised where the result is asked for)
            future.set_exception(error)

    threading.Thread(target=work, name="sync", daemon=True).start()
    return future


def call(task: Callable[[], T], limit: Limit) -> T:
    """What the task returns. Raises what it raises; Unanswered: the limit was reached, and it is left behind."""
    future = begin(task)
    while not future.done():
        if why := limit():
            raise Unanswered(why)
        wait([future], LOOK_EVERY_S)
    return future.result()


def pause(seconds: float, limit: Limit) -> None:
    """Wait, no longer than the limit allows."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not limit():
        time.sleep(min(seconds, LOOK_EVERY_S))


def limit(seconds: float, told: Callable[[], object], told_s: float = 0.0) -> Limit:
    """A limit so many seconds from now, or `told_s` after this process was `told` to stop, whichever is first."""
    began = time.monotonic()
    end, said = began + seconds, f"no answer in {seconds:.0f} s"

    def why() -> str:
        nonlocal end, said
        if told() and end > (sooner := time.monotonic() + told_s) and "told" not in said:
            end, said = sooner, f"no answer in {told_s:.0f} s after it was told to stop"
        return said if time.monotonic() >= end else ""

    return why


def insist(task: Callable[[], T], told: Callable[[], object], within_s: float) -> T:
    """What the task returns, tried again for `REACH_S` while it raises RunError: a network may come up after this.

    Raises RunError: that was in vain, or it never came back; Stopped: this process was `told` to stop; what else the
    task raises.
    """
    end = time.monotonic() + REACH_S
    while True:
        try:
            return call(task, limit(within_s, told))
        except Unanswered as error:
            trouble = RunError(f"the store of --sync: {error}; see that it can be reached")
        except RunError as error:
            trouble = error
            if not told() and time.monotonic() < end:
                log.warning("%s; trying again", error)
                pause(PAUSE_S, lambda: "told to stop" if told() else "")
                if not told():
                    continue
        if told():
            raise Stopped("stopped before all was fetched from the store of --sync; the same command goes on")
        raise trouble
