"""What a check says."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """ok; warning: it runs, or only some of it does not; failure: it will fail. The remedy is for the last two."""

    check: str
    state: State
    said: str
    remedy: str = ""

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ok(check: str, said: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", said)


def warning(check: str, said: str, remedy: str) -> Finding:
    """Something to know before it matters."""
    return Finding(check, "warning", said, remedy)


def failure(check: str, said: str, remedy: str) -> Finding:
    """Something to mend first."""
    return Finding(check, "failure", said, remedy)
