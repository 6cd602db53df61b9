"""Limits for a reader of hostile files: seconds, memory, the folder that it may write into, no other programs."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

WALL_S = 60.0  # for an input that waits for something that never comes
AGAIN_S = 5.0  # what cleans up may hang as well
MEMORY_BYTES = 2**30  # over what the process has when it begins
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect",
            "pickle.find_class")  # fmt: skip


class Exceeded(BaseException):
    """A limit was passed; no `except Exception` holds it."""


class Watch:
    """Listens to what Python tells of files, programs and pickles, until the process ends."""

    def __init__(self) -> None:
        self.folder: str | None = None  # that may be written into; None: nobody listens
        self.passed = ""
        self.listens = False

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in PROGRAMS:
            self._refuse(f"{event} {arguments[:2]!r}")
        if (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING) or event in CHANGES:
            for path in arguments[: 2 if event == "os.rename" else 1]:
                if isinstance(path, str | bytes) and not self._is_inside(os.fsdecode(path)):
                    self._refuse(f"{event} of {path!r}")

    def _is_inside(self, path: str) -> bool:
        # Names without a folder are of shutil.rmtree, which goes by open folders.
        return path == "/dev/null" or os.path.abspath(path).startswith(self.folder or "")  # noqa: PTH100  cheap

    def _refuse(self, what: str) -> None:
        self.passed = self.passed or what
        raise Exceeded(what)


_WATCH = Watch()


@contextmanager
def limited(folder: Path, cpu_s: float) -> Iterator[None]:
    """A context in the working directory `folder`, the only one that may be written into. Raises Exceeded.

    cpu_s: of the process's own time, which a busy machine does not lengthen.
    """
    if not _WATCH.listens:
        sys.addaudithook(_WATCH.audit)
        _WATCH.listens = True
    before = Path.cwd()
    os.chdir(folder)
    handlers = [signal.signal(number, _raise) for number in (signal.SIGPROF, signal.SIGALRM)]
    _WATCH.folder, _WATCH.passed = str(folder), ""
    signal.setitimer(signal.ITIMER_PROF, cpu_s, AGAIN_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _WATCH.folder = None
        os.chdir(before)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), handlers, strict=True):
            signal.signal(number, handler)
    if _WATCH.passed:  # something held it
        raise Exceeded(_WATCH.passed)


@contextmanager
def limited_memory() -> Iterator[None]:
    """A context in which this process cannot get more than MEMORY_BYTES beyond what it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _raise(number: int, frame: FrameType | None) -> None:
    raise Exceeded("too much CPU" if number == signal.SIGPROF else f"{WALL_S:.0f} s of waiting")
