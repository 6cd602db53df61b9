"""What trackers have in common: the protocol, the options, how their errors are told."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from segtrain.errors import LaunchError
from segtrain.run.tracked import Sent
from segtrain.tracking.record import Record

PROJECT = "segtrain"


@dataclass(frozen=True)
class Destination:
    """Where runs are sent. uri: of MLflow's store. folder: of what is written offline; default: the tracker's own."""

    project: str = PROJECT
    uri: str | None = None
    offline: bool = False
    folder: Path | None = None

    def words(self, name: str, offline: bool) -> str:
        """The place that runs are sent to, by the tracker's name: offline, its folder."""
        folder = f" offline {(self.folder or Path()).resolve()}" if offline else ""
        return f"{name} {self.project}{folder}"


class Tracker(Protocol):
    """A tracker, ready to be sent runs. One that can be asked what it has needs no note in the run's folder."""

    @property
    def place(self) -> str:
        """Where runs are sent, in words without a password or key."""

    def sent(self, record: Record) -> Sent | None:
        """What the tracker itself says that it has; None where it cannot be asked."""

    def send(self, record: Record, after: int) -> str:
        """Send the points after this position, and all else anew; returns where to look. Raises LaunchError."""


@contextmanager
def explained(place: str, kinds: tuple[type[Exception], ...], remedy: str) -> Iterator[None]:
    """Turns the tracker's errors into a LaunchError with its first words and the remedy."""
    try:
        yield
    except kinds as error:
        words = re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))  # without a password in an address
        reason = words[:300].rstrip(". ") or type(error).__name__
        raise LaunchError(f"{place}: {reason}; {remedy}") from error
