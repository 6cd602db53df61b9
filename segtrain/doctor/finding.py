"""The result of a check."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """ok; warning: training works, but something is slow or missing; failure: it will fail.

    Warnings and failures come with a remedy.
    """

    check: str
    state: State
    message: str
    remedy: str = ""

    def row(self) -> dict[str, Any]:
        """The finding as JSON holds it."""
        return asdict(self)


def ok(check: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, remedy: str) -> Finding:
    """Something to know before it costs time."""
    return Finding(check, "warning", message, remedy)


def failure(check: str, message: str, remedy: str) -> Finding:
    """Something to repair first."""
    return Finding(check, "failure", message, remedy)
