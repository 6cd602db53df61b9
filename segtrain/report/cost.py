"""Hours and GPU hours of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from segtrain.run import Environment
from segtrain.run.events import Event


@dataclass(frozen=True)
class Cost:
    """Hours of work; GPU hours are that times the number of GPUs, 0 on CPUs."""

    hours: float
    gpu_hours: float


def cost(starts: Sequence[Environment], events: Sequence[Event]) -> Cost:
    """The cost of all starts, each from its beginning to its last event that was kept.

    Neither the time between starts nor work that a kill undid is counted. Raises ValueError or TypeError: a start
    without a readable time, device or world size.
    """
    began_s = [start.began_s for start in starts]
    hours = gpu_hours = 0.0
    for start, (since_s, until_s) in zip(starts, pairwise([*began_s, inf]), strict=True):
        if start.device is None or start.world_size is None:
            raise ValueError(f"the start of {start.time} has no device or no world size")
        times = [event.time for event in events if since_s <= event.time < until_s]
        worked = (max(times) - since_s) / 3600 if times else 0.0
        hours += worked
        gpu_hours += worked * start.world_size * (start.device != "cpu")
    return Cost(hours, gpu_hours)
