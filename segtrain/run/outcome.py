"""How a run's last start ended: outcome.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from segtrain.errors import StopReason

State = Literal["finished", "stopped", "diverged", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of a start. `epochs`: trained to their end; `message`: for people, None of a run that finished."""

    state: State
    step: int
    epochs: int
    best_dsc: float | None = None
    reason: StopReason | None = None  # of a run that was stopped
    message: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As outcome.json holds it."""
        return {**asdict(self), "reason": self.reason.name if self.reason else None}


def outcome_from_json(tree: Mapping[str, Any]) -> Outcome:
    """The outcome in a file. Raises ValueError, KeyError or TypeError: damaged.

    Before there was a message, `reason` held a sentence; it is read as the message.
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
