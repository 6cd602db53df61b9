"""What a run cost: hours at work, and those of GPUs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import inf
from typing import Any

from segtrain.run.events import Event


@dataclass(frozen=True)
class Cost:
    """Hours in which the run was at work; times its GPUs, 0 on CPUs."""

    hours: float
    gpu_hours: float


def cost(starts: Sequence[Mapping[str, Any]], events: Sequence[Event]) -> Cost:
    """Of each start, from it to its last event that stayed: waiting between starts is none, nor work that a kill undid.

    Raises ValueError or KeyError: a start without a readable time, device or world size.
    """
    begun = [datetime.fromisoformat(str(start["time"])).timestamp() for start in starts]
    hours = gpu_hours = 0.0
    for start, (since, until) in zip(starts, pairwise([*begun, inf]), strict=True):
        times = [event.time for event in events if since <= event.time < until]
        worked = (max(times) - since) / 3600 if times else 0.0
        hours += worked
        gpu_hours += worked * int(start["world_size"]) * (start["device"] != "cpu")
    return Cost(hours, gpu_hours)
