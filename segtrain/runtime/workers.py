"""Worker processes, which die with their parent and leave signals to it."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from segtrain.errors import LaunchError
from segtrain.runtime import machine
from segtrain.runtime.launcher import signal_when_parent_dies

Task = TypeVar("Task")
Result = TypeVar("Result")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
# Of BLAS libraries and torch, OpenCV, SimpleITK.
THREADS = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
LEAVE_S = 5.0  # for a process to end
AHEAD = 2  # tasks per worker that may wait, so that tasks made faster than they are done do not fill the memory


@contextmanager
def process_pool(workers: int, remedy: str, set_up: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of new processes with one thread each. Raises LaunchError where the machine allows none.

    `remedy`: what asks for one worker, which needs no pool. set_up: called in each process before its first task; what
    it holds is sent there once.
    """
    with _one_thread_each(), _started(workers, remedy, set_up) as pool:
        yield pool


def _started(workers: int, remedy: str, set_up: Callable[[], None] | None) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    try:
        pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(os.getpid(), set_up))
        with _signals_held(), _script_hidden():
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


class Worker:
    """A process that answers tasks one by one, in the order in which they are sent."""

    def __init__(self, serve: Callable[..., None], arguments: Sequence[Any]) -> None:
        """`serve` is called there with the other end of the connection, then `arguments`."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        with theirs:  # closed here, so that the end of the process ends the connection
            self._process = context.Process(
                target=_serve, args=(os.getpid(), serve, theirs, *arguments), name="worker", daemon=True
            )
            self._process.start()

    def why_it_ended(self) -> str:
        """How the process ended, for an error's message."""
        self._process.join(LEAVE_S)
        code = self._process.exitcode
        if code is not None and code < 0:
            cause = ", probably out of memory" if code == -signal.SIGKILL else ""
            return f"was killed by {signal.Signals(-code).name}{cause}"
        return (
            f"ended with code {code}; its traceback is above, and a script that trains must do so below "
            'if __name__ == "__main__":'
        )

    def kill(self) -> None:
        """End the process now; it holds nothing that is worth keeping."""
        self._process.kill()
        self._process.join(LEAVE_S)  # one that waits for a file system that is away dies when it is back


def start_workers(serve: Callable[..., None], arguments: Sequence[Any], workers: int, remedy: str) -> list[Worker]:
    """Workers with one thread each. Raises LaunchError where the machine allows none (`remedy`: what needs none).

    Call it in the main thread: workers die with the thread that started them.
    """
    started: list[Worker] = []
    try:
        with _one_thread_each(), _signals_held(), _script_hidden():
            for _ in range(workers):
                started.append(Worker(serve, arguments))  # noqa: PERF401  those that started are killed below
    except (OSError, RuntimeError, ImportError) as error:
        for worker in started:
            worker.kill()
        raise LaunchError(
            f"{workers} worker processes cannot be started: {machine.why_no_processes(error)}, or set {remedy}"
        ) from error
    return started


def _serve(parent: int, serve: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    _die_with_parent(parent)
    os.dup2(2, 1)  # what the user's code prints is no output of the program
    serve(connection, *arguments)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Processes started inside are born with signals held back, until they ignore them: one may come any moment."""
    resource_tracker.ensure_running()  # its start would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Processes started inside do not run this process's script again, which may train: nothing of it is sent there."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or main.__spec__ is not None:
        yield
        return
    main.__file__ = None
    try:
        yield
    finally:
        main.__file__ = file


def _begin(parent: int, set_up: Callable[[], None] | None) -> None:
    _die_with_parent(parent)
    if set_up is not None:
        set_up()


def _die_with_parent(parent: int) -> None:
    """In a worker: ignore signals, which reach the whole group, and die with the parent even when that is killed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    signal_when_parent_dies(signal.SIGKILL, parent)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside compute with one thread each."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
