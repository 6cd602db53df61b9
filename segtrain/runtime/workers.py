"""Worker processes without torch, which die with their parent and leave signals to it."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from segtrain.errors import LaunchError
from segtrain.runtime import machine
from segtrain.runtime.launcher import signal_when_parent_dies

Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 2  # tasks per worker that may wait, so that tasks made faster than they are done do not fill the memory


@contextmanager
def process_pool(workers: int, remedy: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of new processes with one thread each. Raises LaunchError where the machine allows none.

    `remedy`: what asks for one worker, which needs no pool.
    """
    with _one_blas_thread(), _started(workers, remedy) as pool:
        yield pool


def _started(workers: int, remedy: str) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    try:
        pool = ProcessPoolExecutor(workers, context, initializer=_die_with_parent, initargs=(os.getpid(),))
        for _ in range(workers):
            pool.submit(int)  # starts a process, while none is idle yet
    except (OSError, RuntimeError, ImportError) as error:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()  # or Python would wait for it at its end
        raise LaunchError(
            f"{workers} worker processes cannot be started: {machine.why_no_processes(error)}, or set {remedy}"
        ) from error
    return pool


def in_order(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, remedy: str
) -> Generator[Result, None, None]:
    """The results of `function` in the order of the tasks; a single worker is this process.

    Tasks are drawn as they are needed. Raises BrokenProcessPool when a worker is killed, LaunchError where none can be
    started (`remedy`: what asks for a single one), and what `function` raises.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    with process_pool(workers, remedy) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(function, task))
                while waiting and (waiting[0].done() or len(waiting) > AHEAD * workers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _die_with_parent(parent: int) -> None:
    """In a worker: ignore signals, which reach the whole group, and die with the parent even when that is killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal_when_parent_dies(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Processes started inside use one BLAS thread each."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
