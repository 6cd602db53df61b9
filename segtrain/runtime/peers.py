"""Death of another rank, noticed within seconds while this rank waits for the GPU. Imports torch.

NCCL waits for a dead rank until its time-out, half an hour, since a rank may also be slow for a good reason (a file
system that hangs). gloo sees that a process has ended, by its connection, but not while this rank waits for NCCL. So
threads wait at connections of their own, and end NCCL's waiting: the step then fails as it does on a CPU.
"""

import datetime
import logging
import threading
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

log = logging.getLogger(__name__)

FOR_EVER = datetime.timedelta(days=365)
MOST_WATCHED = 32  # ranks by each, a thread for each: enough, since whoever stops waiting ends, and is noticed too
GRACE_S = 10.0  # in which a rank that does not wait for the GPU finds out by itself


class PeerWatch:
    """Calls `on_death` once with the first rank that ended without leaving. Made on all ranks together. Collective."""

    def __init__(self, rank: int, size: int, on_death: Callable[[int], None], grace_s: float = GRACE_S) -> None:
        self.rank = rank
        self.on_death = on_death
        self.grace_s = grace_s
        self.watched, self.watchers = ring(rank, size)
        self.group = dist.new_group(backend="gloo", timeout=FOR_EVER)
        self._over = threading.Event()
        self._first = threading.Lock()
        self._threads = [threading.Thread(target=self._wait_for, args=(other,), daemon=True) for other in self.watched]
        for thread in self._threads:
            thread.start()

    def leave(self, timeout_s: float = 30.0) -> None:
        """Say goodbye to those that watch this rank, and wait for the others' for a while."""
        self._over.set()
        for other in self.watchers:
            try:
                dist.send(torch.zeros(1), other, self.group)
            except RuntimeError:  # it has ended
                log.debug("rank %d has ended before this one", other)
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _wait_for(self, other: int) -> None:
        try:
            dist.recv(torch.zeros(1), other, self.group)
        except RuntimeError:
            if self._over.wait(self.grace_s) or not self._first.acquire(blocking=False):
                return
            log.warning("rank %d waits for rank %d, which has ended; it stops waiting", self.rank, other)
            self.on_death(other)


def ring(rank: int, size: int) -> tuple[list[int], list[int]]:
    """The ranks that a rank watches, the next ones, and those that watch it."""
    steps = range(1, min(size, MOST_WATCHED + 1))
    return [(rank + step) % size for step in steps], [(rank - step) % size for step in steps]


def stop_waiting_for_nccl(dead: int) -> None:
    """Abort NCCL's collectives on this rank, which then fail, whoever is dead."""
    dist.distributed_c10d._get_default_group()._get_backend(torch.device("cuda")).abort()
