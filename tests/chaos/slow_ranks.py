"""Trainings whose ranks take their time, so that what a test does to them comes before they leave."""

import time
from collections.abc import Callable
from typing import Any

from trainings import HeldJob, Job, train_held_rank, train_rank

from segtrain.runtime import stop
from segtrain.training.loop import Loop

CAUTION_S = 30.0


class CautiousJob(HeldJob):
    def rank_of(self) -> Callable[..., None]:
        return train_cautiously


def train_cautiously(*arguments: Any) -> None:
    """A rank that leaves half a minute before the deadline, and not five seconds: this machine may be slow."""
    stop.SAFETY_S = CAUTION_S
    train_held_rank(*arguments)


class SlowToLeave(Job):
    def rank_of(self) -> Callable[..., None]:
        return train_and_leave_slowly


def train_and_leave_slowly(*arguments: Any) -> None:
    """A rank that takes ten minutes to leave, as it may where much is to be saved."""

    def leave(*_: Any) -> None:
        time.sleep(600)

    setattr(Loop, "_leave", leave)  # noqa: B010
    train_rank(*arguments)
