"""Ranks that work for different times before the first step, and stop or fail together (L8)."""

import time

from segtrain.errors import DataError, SegtrainError, Stopped, StopReason
from segtrain.runtime.stop import Stop
from segtrain.runtime.world import World

EVERY_S = 0.1  # between two collectives of a rank that works


class InStep:
    """Work of this rank that calls `check` now and then; then it waits in `finish` for the ranks that still work.

    Both raise Stopped, or DataError where a rank failed, on all ranks alike.
    """

    def __init__(self, stop: Stop, world: World, where: str = "before the first step") -> None:
        self.stop = stop
        self.world = world
        self.where = where
        self._checked_s = float("-inf")
        self._ended: SegtrainError | None = None  # what all ranks have raised

    def check(self) -> None:
        """Hear of the others, at most every EVERY_S."""
        if time.monotonic() - self._checked_s > EVERY_S:
            self._exchange(busy=True)
            self._checked_s = time.monotonic()

    def finish(self, error: SegtrainError | None = None) -> None:
        """Wait for all ranks; `error`: what this rank failed with. Collective."""
        while self._exchange(busy=False, error=error):
            pass

    def _exchange(self, busy: bool, error: SegtrainError | None = None) -> bool:
        """Whether any rank is still busy."""
        if self._ended:  # `check` raised it, and the work took it for its own failure
            raise self._ended
        reason, failed, others_busy = self.world.largest(self.stop.reason() or 0, error is not None, busy)
        if reason:
            self._ended = stopped(StopReason(reason), self.where)
        elif failed:
            self._ended = DataError(self.world.first(str(error) if error else None))
        if self._ended:
            raise self._ended
        return others_busy > 0


def stopped(reason: StopReason, where: str) -> Stopped:
    """The exception that says why and where the training was stopped."""
    return Stopped(f"stopped by {reason.sentence} {where}; the same command goes on from there", reason)
