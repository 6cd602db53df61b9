"""Hours, GPU hours and energy of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf

from segtrain.run import Environment
from segtrain.run.events import Event, train_events

WATTS = "gpu_watts"  # in the resources of a training event
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Cost:
    """Hours of work; GPU hours are that times the number of GPUs, 0 on CPUs.

    gpu_kwh: the energy of the GPUs, each as that of rank 0; None where their power is not known. ended_s: the time of
    the last event, in seconds since the epoch; 0 without one.
    """

    hours: float
    gpu_hours: float
    gpu_kwh: float | None = None
    ended_s: float = 0.0


def cost(starts: Sequence[Environment], events: Sequence[Event]) -> Cost:
    """The cost of all starts, each from its beginning to its last event that was kept.

    Neither the time between starts nor work that a kill undid is counted. Where the clock was set back between starts,
    a start counts from no earlier than the one before it. Raises ValueError or TypeError: a start without a readable
    time, device or world size.
    """
    began_s = list(accumulate((start.began_s for start in starts), max))
    hours = gpu_hours = 0.0
    energies: list[float] = []
    for start, (since_s, until_s) in zip(starts, pairwise([*began_s, inf]), strict=True):
        if start.device is None or start.world_size is None:
            raise ValueError(f"the start of {start.time} has no device or no world size")
        own = [event for event in events if since_s <= event.time < until_s]
        worked = (max(event.time for event in own) - since_s) / 3600 if own else 0.0
        hours += worked
        gpus = start.world_size if start.device != "cpu" else 0
        gpu_hours += worked * gpus
        watts = [event.resources[WATTS] for event in train_events(own) if WATTS in event.resources]
        if watts and gpus:
            # Records come at even intervals of time, so their mean is that over the start.
            energies.append(sum(watts) / len(watts) * worked * 3600 * gpus / JOULES_PER_KWH)
    ended_s = max((event.time for event in events), default=0.0)
    return Cost(hours, gpu_hours, sum(energies) if energies else None, ended_s)
