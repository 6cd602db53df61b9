"""Reasons to stop: signals, the STOP file, a deadline. A handler only sets a flag; ranks agree at a boundary (L8)."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType

from segtrain.errors import ConfigError, StopReason
from segtrain.runtime.launcher import slurm_environment, slurm_job

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], object] | int
LOOK_EVERY_S = 1.0  # for the STOP file
LOOK_WAIT_S = 0.1  # for an answer; a folder that is slow gives it later
SAFETY_S = 5.0  # before a deadline, on top of the measured duration of a step and a save


class Deadline:
    """A moment, in seconds since the epoch, that comes in time even where the clock is set back."""

    def __init__(self, at_s: float) -> None:
        self._at_s = at_s
        self._end_s = time.monotonic() + at_s - time.time()

    def left_s(self) -> float:
        """Seconds until then, by the clock or by the time that has passed here, whichever is less.

        The clock may be set, and the monotonic one stands still while a machine sleeps.
        """
        return min(self._at_s - time.time(), self._end_s - time.monotonic())

    def at_s(self) -> float:
        """The moment by the clock as it is now."""
        return time.time() + self.left_s()


class Stop:
    """Whether this process was asked to stop, and why."""

    def __init__(self) -> None:
        self._reason: StopReason | None = None
        self._file: Path | None = None
        self._start = ""
        self._deadline: Deadline | None = None
        self._looked_at_s = float("-inf")  # monotonic
        self._look: threading.Thread | None = None
        self._second_interrupt: Handler = signal.SIG_DFL

    def listen(self) -> None:
        """Handle signals from now on, but a SIGHUP that nohup has ignored; a second SIGINT ends the process at once."""
        for number in SIGNALS:
            self._handle(number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals meanwhile, for a caller whose process goes on; a second SIGINT raises KeyboardInterrupt.

        After it signals are handled as before, and one other than SIGINT comes again: it was meant for the caller too.
        Another thread than the main one handles none.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not None}
        self._second_interrupt = signal.default_int_handler
        try:
            for number in before:
                self._handle(number)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._reason and self._reason.name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"):
                signal.raise_signal(signal.Signals[self._reason.name])

    def watch(self, file: Path, deadline_s: float | None, start: str = "") -> None:
        """Watch for a STOP file and a deadline too. One rank is enough, since ranks agree.

        `start`: the name of this start of a job. A file that holds such a name is for earlier starts of that job alone.
        """
        self._file = file
        self._deadline = None if deadline_s is None else Deadline(deadline_s)
        self._start = start

    def ask(self, reason: StopReason) -> None:
        """Stop for this reason, unless there is one already. May be called by any thread."""
        self._reason = self._reason or reason

    def reason(self, margin_s: float = 0.0) -> StopReason | None:
        """Why to stop, None while there is no reason. `margin_s`: how long the next step and a save may take."""
        if self._reason:
            return self._reason
        now_s = time.monotonic()
        if self._deadline and self._deadline.left_s() < margin_s + SAFETY_S:
            self._reason = StopReason.DEADLINE
        elif self._file is not None and now_s - self._looked_at_s > LOOK_EVERY_S:
            self._looked_at_s = now_s
            if self._look is None or not self._look.is_alive():
                self._look = threading.Thread(target=self._look_for, args=(self._file,), name="stop", daemon=True)
                with suppress(RuntimeError):  # no thread is to be had now
                    self._look.start()
                    self._look.join(LOOK_WAIT_S)
        return self._reason

    def _look_for(self, file: Path) -> None:
        """In a thread, since looking into a folder on a server that is away takes minutes."""
        try:
            file.lstat()
        except OSError:  # it is not there, or not to be seen now
            return
        if is_for(_content(file), self._start):
            self._reason = self._reason or StopReason.STOP_FILE
        while True:
            try:
                file.unlink(missing_ok=True)  # or it would stop the next start too
            except OSError:
                time.sleep(LOOK_EVERY_S)
            else:
                return

    def _handle(self, number: signal.Signals) -> None:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:  # the second one ends the process, or the call, in whatever state
            signal.signal(signal.SIGINT, self._second_interrupt)
        self._reason = StopReason[signal.Signals(number).name]


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def is_for(content: str, start: str) -> bool:
    """Whether a STOP file with that content stops that start: an empty one does, 12-3 those before 12-3."""
    job, _, before = content.strip().rpartition("-")
    own_job, _, number = start.rpartition("-")
    if not (job and before.isdigit()):
        return True
    return job == own_job and int(number) < int(before)


def deadline_of(setting: str | None, started_s: float, ask_slurm: bool) -> float | None:
    """Seconds since the epoch of the earlier of `stop.deadline` and the SLURM job's end; None without either.

    `setting`: a time like 2026-11-22T18:00 or a duration from the start like 90m, 2h, 1h30m, 45s. Raises ConfigError.
    """
    ends = [end for end in (_parse(setting, started_s), _slurm_end() if ask_slurm else None) if end is not None]
    return min(ends) if ends else None


def _parse(setting: str | None, started_s: float) -> float | None:
    if setting is None:
        return None
    if match := re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", setting):
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return started_s + 3600 * hours + 60 * minutes + seconds
    try:
        return datetime.fromisoformat(setting).timestamp()
    except ValueError as error:
        raise ConfigError(
            f"stop.deadline={setting!r}: not a time; write 2026-11-22T18:00, or a duration like 1h30m"
        ) from error


def _slurm_end() -> float | None:
    """When SLURM will end this job: from the environment, else from the scheduler. None outside of a job."""
    job = slurm_job()
    if job is None:
        return None
    if end := os.environ.get("SLURM_JOB_END_TIME"):
        return float(end)
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", job],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env=slurm_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"EndTime=(\d{4}-\S+)", shown.stdout)
    return datetime.fromisoformat(match[1]).timestamp() if match else None
