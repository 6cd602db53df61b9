"""Progress and resource use of each rank, written down while it trains, and its stacks when it stalls.

    ranks/0.json     every `watch.every_s` seconds: step, since when, phase, resources, host and process
    ranks/0.stacks   the stacks of all its threads, after every `watch.stall_s` seconds without progress

The thread that measures writes the stacks too, once progress has stopped. Where the rank hangs in a C call that holds
the interpreter's lock, no thread runs: another process then has the main thread write its stack (`runtime.stacks`).
Nothing here waits for a device or for another rank. Intervals are monotonic, since the clock may be set.
"""

import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TextIO

import psutil

from segtrain.config import WatchConfig
from segtrain.run import RunLayout
from segtrain.runtime import files, machine, stacks
from segtrain.runtime.usage import Meter, Usage

log = logging.getLogger(__name__)

LEAVE_S = 5.0  # for the thread's last write, in a folder that is slow
FRESH_S = 2.0  # a reading is used again for so long; rates over shorter intervals are noise


class Watch:
    """A background thread of this rank, while it is entered."""

    def __init__(
        self, run: RunLayout, cfg: WatchConfig, rank: int = 0, world_size: int = 1, gpu_uuid: str | None = None
    ) -> None:
        self.run = run
        self.cfg = cfg
        self.rank = rank
        self.world_size = world_size
        self.meter = Meter(gpu_uuid)
        self.identity: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._latest: Usage = {}
        self._step = 0
        self._phase = "starting"
        self._progressed_s = time.monotonic()
        self._leave = threading.Event()
        self._stacks: TextIO | None = None
        self._onlooker: stacks.Onlooker | None = None
        self._thread = threading.Thread(target=self._write_repeatedly, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self.identity = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "process_began": machine.began(os.getpid()),
            "began": round(time.time(), 3),
            "thread": f"0x{threading.get_ident():016x}",
            "every_s": self.cfg.every_s,
            "stall_s": self.cfg.stall_s,
        }
        with suppress(OSError):  # another node may not see the run's directory
            if self.rank == 0:
                self._remove_further_ranks()
            files.make_folder(self.run.ranks)
            file = self.run.rank_stacks(self.rank)
            file.unlink(missing_ok=True)
            self._stacks = file.open("a", encoding="utf-8")
            files.share(file)
            self._onlooker = stacks.Onlooker(self._stacks, self.cfg.stall_s)
        self.progress(self._step, self._phase)
        self._thread.start()
        return self

    def _remove_further_ranks(self) -> None:
        """Remove the files of ranks that an earlier, larger start had."""
        for file in self.run.ranks.glob("*.*"):
            if file.stem.isdigit() and int(file.stem) >= self.world_size:
                file.unlink()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave.set()
        self._thread.join(LEAVE_S)
        if self._onlooker:
            self._onlooker.close()
        self._phase = "ended"
        if not self._thread.is_alive():
            if self._stacks:
                with suppress(OSError):
                    self._stacks.close()
            self._write()

    def progress(self, step: int, phase: str) -> None:
        """Note that this rank has reached `step`, in a phase: training or evaluating. Takes microseconds."""
        self._step = step
        self._phase = phase
        self._progressed_s = time.monotonic()

    def sample(self) -> Usage:
        """Resources that this rank has used since the last reading; that reading itself while it is fresh."""
        with self._lock:
            if not self._latest or time.monotonic() - self.meter.at_s > FRESH_S:
                self._latest = self.meter.read()
            return dict(self._latest)

    def _write_repeatedly(self) -> None:
        dumps = 0  # since the last progress
        self._write()
        while not self._leave.wait(self.cfg.every_s):
            still_s = time.monotonic() - self._progressed_s
            if still_s <= self.cfg.stall_s:
                dumps = 0
            elif still_s > self.cfg.stall_s * (dumps + 1):
                self._write_stacks(still_s)
                if not dumps:
                    self._warn(still_s)
                dumps = int(still_s / self.cfg.stall_s)
            self._write()

    def _write_stacks(self, still_s: float) -> None:
        if self._stacks:
            with suppress(OSError):
                self._stacks.write(f"Timeout ({timedelta(seconds=int(still_s))})!\n{stacks.all_threads()}")
                self._stacks.flush()

    def _warn(self, still_s: float) -> None:
        log.warning(
            "rank %d: no progress for %.0f s at step %d (%s); its stacks: %s",
            self.rank,
            still_s,
            self._step,
            self._phase,
            self.run.rank_stacks(self.rank),
        )

    def _write(self) -> None:
        now_s = time.time()
        state = {
            **self.identity,
            "step": self._step,
            "doing": self._phase,
            "progressed": round(now_s - (time.monotonic() - self._progressed_s), 3),
            "time": round(now_s, 3),
            "resources": self.sample(),
        }
        with suppress(OSError):
            files.replace_text(self.run.rank_state(self.rank), json.dumps(state) + "\n")
