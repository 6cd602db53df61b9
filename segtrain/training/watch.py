"""What each rank uses and where it stands, told while it trains; whether it has stopped making progress.

    ranks/0.json     every `watch.every_s` seconds: step, since when, what it does, resources, host and process
    ranks/0.stacks   the stacks of all its threads, each `watch.stall_s` seconds in which there was no progress

The stacks are written by faulthandler's own thread, which needs nothing of the interpreter: also where the rank hangs
in a C call that holds its lock. Nothing here waits for a device or for another rank.
"""

import faulthandler
import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO

import psutil

from segtrain.config import WatchConfig
from segtrain.run import RunFiles
from segtrain.runtime import files
from segtrain.runtime.usage import Meter, Usage

log = logging.getLogger(__name__)

FRESH_S = 2.0  # a reading is good for so long: shorter intervals say little


class Watch:
    """A background thread of this rank, while it is entered."""

    def __init__(
        self, run: RunFiles, cfg: WatchConfig, rank: int = 0, world_size: int = 1, gpu_uuid: str | None = None
    ) -> None:
        self.run, self.cfg, self.rank, self.world_size = run, cfg, rank, world_size
        self.meter = Meter(gpu_uuid)
        self.state: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._latest: Usage = {}
        self._step, self._doing = 0, "starting"
        self._progressed_s = time.time()
        self._armed_s = 0.0  # monotonic
        self._leave = threading.Event()
        self._stacks: TextIO | None = None
        self._thread = threading.Thread(target=self._tell_on, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self.state = {
            "rank": self.rank, "host": socket.gethostname(), "pid": os.getpid(),
            "process_started": psutil.Process().create_time(), "thread": f"0x{threading.get_ident():016x}",
            "every_s": self.cfg.every_s, "stall_s": self.cfg.stall_s,
        }  # fmt: skip
        with suppress(OSError):  # another node may not see the run's directory
            if self.rank == 0:
                for left in self.run.ranks.glob("*.*"):  # of an earlier start with more ranks
                    if left.stem.isdigit() and int(left.stem) >= self.world_size:
                        left.unlink()
            self.run.ranks.mkdir(exist_ok=True)
            self._stacks = self.run.rank_stacks(self.rank).open("w")
        self.progress(self._step, self._doing)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave.set()
        self._thread.join()
        if self._stacks:
            faulthandler.cancel_dump_traceback_later()
            self._stacks.close()
            self._stacks = None
        self._doing = "ended"
        self._tell()

    def progress(self, step: int, doing: str) -> None:
        """This rank stands at `step` and goes on with `doing`. Microseconds, except every tenth of `stall_s`."""
        self._step, self._doing, self._progressed_s = step, doing, time.time()
        now_s = time.monotonic()
        if self._stacks and now_s - self._armed_s > self.cfg.stall_s / 10:
            self._armed_s = now_s
            faulthandler.dump_traceback_later(self.cfg.stall_s, repeat=True, file=self._stacks)

    def sample(self) -> Usage:
        """What this rank uses: since the last reading, or that one where it is fresh."""
        with self._lock:
            if not self._latest or time.monotonic() - self.meter.at_s > FRESH_S:
                self._latest = self.meter.read()
            return dict(self._latest)

    def _tell_on(self) -> None:
        warned = False
        self._tell()
        while not self._leave.wait(self.cfg.every_s):
            self._tell()
            still_s = time.time() - self._progressed_s
            if still_s > self.cfg.stall_s and not warned:
                log.warning(
                    "rank %d: no progress for %.0f s at step %d (%s); where it stands: %s",
                    self.rank, still_s, self._step, self._doing, self.run.rank_stacks(self.rank),
                )  # fmt: skip
            warned = still_s > self.cfg.stall_s

    def _tell(self) -> None:
        told = {
            **self.state, "step": self._step, "doing": self._doing, "progressed": round(self._progressed_s, 3),
            "time": round(time.time(), 3), "resources": self.sample(),
        }  # fmt: skip
        with suppress(OSError):
            files.replace_text(self.run.rank_state(self.rank), json.dumps(told) + "\n")
