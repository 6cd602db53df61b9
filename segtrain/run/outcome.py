"""How a run's last start ended: outcome.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from segtrain.errors import StopReason

State = Literal["finished", "stopped", "diverged", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How a start ended. `epochs` counts whole epochs; `message` is for people, None for a finished run."""

    state: State
    step: int
    epochs: int
    best_dsc: float | None = None
    reason: StopReason | None = None  # for a stopped run
    message: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of outcome.json."""
        return {**asdict(self), "reason": self.reason.name if self.reason else None}


def outcome_from_json(tree: Mapping[str, Any]) -> Outcome:
    """The outcome in a file. Raises ValueError, KeyError or TypeError: damaged.

    Older files have no `message` but a sentence as `reason`; it is read as the message.
    """
    state = tree["state"]
    reason: Any = tree.get("reason")
    if state not in get_args(State):
        raise ValueError(f"it ended as {state!r}, which no run does")
    named = reason in StopReason.__members__
    return Outcome(
        state=state,
        step=tree.get("step", 0),
        epochs=tree.get("epochs", 0),
        best_dsc=tree.get("best_dsc"),
        reason=StopReason[reason] if named else None,
        message=tree.get("message", None if named else reason),
    )
