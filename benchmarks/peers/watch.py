"""A command with its marks, seconds, CPU seconds and memory, those of all processes that it starts included."""

import bisect
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.work import MARKS

EVERY_S = 0.2
MEMORY_EVERY_S = 1.0  # reading the sizes of a large process takes the kernel some 10 ms
LIMIT_S = 3600


@dataclass(frozen=True)
class Moment:
    """Monotonic clock, and CPU seconds of all processes until then."""

    at: float
    cpu_s: float


@dataclass
class Watched:
    """What a command did. `began` and `ended` are of the monotonic clock, `began_unix` is in seconds since the epoch.

    `error` is the last line of what it wrote, where it failed.
    """

    began: float
    began_unix: float
    ended: float = 0.0
    cpu_s: float = 0.0
    peak_gib: float = 0.0
    error: str | None = None
    marks: list[dict[str, Any]] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        return self.ended - self.began

    def moment(self, at: float) -> Moment:
        """CPU seconds at a time of the clock, between two samples in proportion."""
        times = [moment.at for moment in self.moments]
        place = bisect.bisect_left(times, at)
        if place in (0, len(times)):
            return Moment(at, self.moments[0].cpu_s if place == 0 else self.moments[-1].cpu_s)
        before, after = self.moments[place - 1], self.moments[place]
        share = (at - before.at) / (after.at - before.at)
        return Moment(at, before.cpu_s + share * (after.cpu_s - before.cpu_s))


class _Tree:
    """The processes below one, those that have ended included in the CPU time."""

    def __init__(self, pid: int) -> None:
        self.root = psutil.Process(pid)
        self.cpu_s: dict[tuple[int, float], float] = {}

    def living(self) -> list[psutil.Process]:
        try:
            return [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def moment(self) -> Moment:
        for process in self.living():
            try:
                times = process.cpu_times()
                self.cpu_s[process.pid, process.create_time()] = times.user + times.system
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return Moment(time.monotonic(), sum(self.cpu_s.values()))

    def gib(self) -> float:
        """Resident memory; pages that several processes share count once (their proportional set sizes)."""
        kib = 0
        for process in self.living():
            try:
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kib / 2**20


def watch(
    argv: Sequence[str], environment: Mapping[str, str], folder: Path, name: str, limit_s: float = LIMIT_S
) -> Watched:
    """Run a command to its end, or kill what it started after `limit_s`; its output is in `folder`/`name`.log."""
    marks, log = folder / f"{name}.marks", folder / f"{name}.log"
    marks.touch()
    before = os.times()
    watched = Watched(time.monotonic(), time.time())
    watched.moments.append(Moment(watched.began, 0.0))
    with log.open("w") as file:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **environment, MARKS: str(marks)},
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(_Tree(process.pid), watched, ended))
        sampler.start()
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            watched.error = f"stopped after {limit_s:g} s"
        finally:
            if process.poll() is None:  # after an interrupt, too: it is in a session of its own
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended.set()
            sampler.join()
    watched.ended = time.monotonic()
    after = os.times()
    watched.cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    watched.marks = [json.loads(line) for line in marks.read_text().splitlines()]
    if process.returncode and watched.error is None:
        watched.error = last_line(log.read_text()) or f"exit status {process.returncode}"
    return watched


def _sample(tree: _Tree, watched: Watched, ended: threading.Event) -> None:
    memory_at = 0.0
    while not ended.wait(EVERY_S):
        watched.moments.append(tree.moment())
        if time.monotonic() - memory_at >= MEMORY_EVERY_S:
            watched.peak_gib = max(watched.peak_gib, tree.gib())
            memory_at = time.monotonic()


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
