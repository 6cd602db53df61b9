"""A process beside a rank that signals it where it gives no sign of life on standard input: run as a script.

The rank cannot time this itself, since a call in C may hold the interpreter's lock; neither can a timer of the kernel,
which also runs while the rank is suspended. Ticks are counted here, and only while the rank is not stopped.
"""

import os
import select
import signal
import sys
from pathlib import Path

TICKS = 20  # in the longest silence
LONGEST_TICK_S = 5.0


def look_on(process: int, number: int, limit_s: float) -> None:
    """Send the signal after every `limit_s` seconds of silence, until the process ends or closes the pipe."""
    tick_s = min(limit_s / TICKS, LONGEST_TICK_S)
    silent_s = 0.0
    while os.getppid() == process:
        if select.select([0], [], [], tick_s)[0]:
            if not os.read(0, 4096):
                return
            silent_s = 0.0
        elif not _is_stopped(process):
            silent_s += tick_s
        if silent_s > limit_s:
            os.kill(process, number)
            silent_s = 0.0


def _is_stopped(process: int) -> bool:
    """Whether it is stopped by a signal or a debugger; see proc(5)."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


if __name__ == "__main__":
    for asked_to_stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(asked_to_stop, signal.SIG_IGN)  # may come to all processes of a job; the rank saves first
    look_on(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
