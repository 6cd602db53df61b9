"""Stacks of this process's threads, written to a file where it hangs, with no danger to the process.

`all_threads` holds Python's interpreter lock, so no stack changes while it is read. A call in C that keeps the lock
keeps every thread from doing that. `Onlooker` is for this case: another process notices, and its signal has the main
thread write its own stack, which does not change either while that call lasts.

faulthandler.dump_traceback_later is not used: it reads the stacks of threads that run, which crashes the process.
"""

import faulthandler
import gc
import os
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from typing import TextIO

from segtrain.runtime import onlooker

LEAST_S = 60.0  # without the interpreter lock; calls that hold it for less are work
SIGNAL: int = getattr(signal, "SIGRTMAX", 0)  # which nobody else uses


def all_threads() -> str:
    """The stack of every thread of Python's, innermost call first, laid out as by faulthandler."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    collects = gc.isenabled()
    gc.disable()  # a collection within the call may deadlock before Python 3.11.5
    try:
        frames = sys._current_frames()
    finally:
        if collects:
            gc.enable()
    lines = []
    for thread, innermost in frames.items():
        lines.append(f"Thread 0x{thread:016x} [{names.get(thread, '?')}] (most recent call first):")
        for frame, line in traceback.walk_stack(innermost):
            lines.append(f'  File "{frame.f_code.co_filename}", line {line} in {frame.f_code.co_name}')
    return "\n".join(lines) + "\n"


class Onlooker:
    """A process that has the main thread's stack written to the file where no thread of Python's runs for too long.

    A thread tells it that they run. Nothing is written where no process can be started, or from another thread.
    """

    def __init__(self, file: TextIO, limit_s: float) -> None:
        self._limit_s = max(limit_s, LEAST_S)
        self._end = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._tell, name="onlooker", daemon=True)
        if not SIGNAL or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(SIGNAL) not in (signal.SIG_DFL, signal.SIG_IGN):  # somebody else uses it
            return
        signal.signal(SIGNAL, signal.SIG_IGN)  # what `unregister` restores: a late signal must end nothing
        faulthandler.register(SIGNAL, file=file, all_threads=False)
        try:
            self._process = self._start()
            self._thread.start()
        except (OSError, RuntimeError):  # no process or thread is to be had
            self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = [onlooker.__file__, str(os.getpid()), str(int(SIGNAL)), str(self._limit_s)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def _tell(self) -> None:
        """Give signs of life. Nothing else, since a thread that reads or writes files may wait for minutes."""
        assert self._process, "it is there where the thread is"
        assert self._process.stdin, "it is a pipe"
        os.set_blocking(self._process.stdin.fileno(), False)
        with suppress(OSError):  # the process has ended
            while not self._end.wait(self._limit_s / onlooker.TICKS):
                self._process.stdin.write(b".")

    def close(self) -> None:
        """End the process."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()  # before its pipe's number may be another file's
        if self._process:
            self._process.kill()  # closing the pipe is not enough: forked processes may have it too
            self._process.communicate()
        if SIGNAL:
            faulthandler.unregister(SIGNAL)
