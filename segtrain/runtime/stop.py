"""Reasons to stop: signals, the STOP file, a deadline. A handler only sets a flag; ranks agree at a boundary (L8)."""

import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType

from segtrain.errors import ConfigError, StopReason

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
LOOK_EVERY_S = 1.0  # for the STOP file
LOOK_WAIT_S = 0.1  # for an answer; a folder that is slow gives it later
SAFETY_S = 5.0  # before a deadline, on top of the measured duration of a step and a save


class Stop:
    """Whether this process was asked to stop, and why."""

    def __init__(self) -> None:
        self._reason: StopReason | None = None
        self._file: Path | None = None
        self._deadline_s: float | None = None  # seconds since the epoch
        self._looked_at = 0.0
        self._look: threading.Thread | None = None

    def listen(self) -> None:
        """Handle signals from now on; a second SIGINT ends the process at once."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def watch(self, file: Path, deadline_s: float | None) -> None:
        """Watch for a STOP file and a deadline too. One rank is enough, since ranks agree."""
        self._file, self._deadline_s = file, deadline_s

    def reason(self, margin_s: float = 0.0) -> StopReason | None:
        """Why to stop, None while there is no reason. `margin_s`: how long the next step and a save may take."""
        if self._reason:
            return self._reason
        now = time.time()
        if self._deadline_s is not None and now + margin_s + SAFETY_S > self._deadline_s:
            self._reason = StopReason.DEADLINE
        elif self._file is not None and now - self._looked_at > LOOK_EVERY_S:
            self._looked_at = now
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
        self._reason = self._reason or StopReason.STOP_FILE
        while True:
            try:
                file.unlink(missing_ok=True)  # or it would stop the next start too
            except OSError:
                time.sleep(LOOK_EVERY_S)
            else:
                return

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:  # the second one ends the process in whatever state
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._reason = StopReason[signal.Signals(number).name]


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
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    if end := os.environ.get("SLURM_JOB_END_TIME"):
        return float(end)
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", job], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"EndTime=(\d{4}-\S+)", shown.stdout)
    return datetime.fromisoformat(match[1]).timestamp() if match else None
