"""The reports of a run's ranks: step, phase and resources of each, as `segtrain.training.watch` writes them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from segtrain.run.layout import RunLayout
from segtrain.run.stored import built, reading, tree_in

LATE = 6  # a rank without a report for so many of its intervals, and a minute, is gone or hangs hard
LATE_S = 60.0

Rank = Mapping[str, Any]


@dataclass(frozen=True)
class _Report:
    """What the report of a rank holds."""

    rank: int
    host: str
    pid: int
    process_started: float
    thread: str
    every_s: float
    stall_s: float
    step: int
    doing: str
    progressed: float
    time: float
    resources: Mapping[str, float] = field(default_factory=dict)
    began: float = 0.0
    process_began: int | None = None


def rank_reports(run: RunLayout, since_s: float) -> list[Rank]:
    """The newest reports of the ranks, in their order, of a start that began at `since_s` (seconds since the epoch).

    Raises DamagedFile; OSError.
    """
    reports: list[Rank] = []
    for file in run.ranks.glob("[0-9]*.json"):
        with suppress(FileNotFoundError), reading(file, "it is written again while the run trains"):
            report = tree_in(file, dict)
            built(_Report, report)
            reports.append(report)
    # The clock may have been set back since the start.
    own = (rank for rank in reports if max(rank.get("began", 0.0), rank["time"]) >= since_s)
    return sorted(own, key=lambda rank: int(rank["rank"]))


def late_after_s(rank: Rank) -> float:
    """How old a rank's newest report may be while the rank is there."""
    return max(LATE_S, LATE * float(rank["every_s"]))
