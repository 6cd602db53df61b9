"""How a run's last start ended: outcome.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from segtrain.errors import StopReason
from segtrain.run.stored import built, shown

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


@dataclass(frozen=True)
class _Stored:
    """What outcome.json holds."""

    state: str
    step: int = 0
    epochs: int = 0
    best_dsc: float | None = None
    reason: str | None = None
    message: str | None = None


def outcome_from_json(tree: Mapping[str, Any]) -> Outcome:
    """The outcome in a file. Raises ValueError: damaged.

    Older files have no `message` but a sentence as `reason`; it is read as the message.
    """
    stored = built(_Stored, tree)
    if stored.state not in get_args(State):
        raise ValueError(f"it ended as {shown(stored.state)}, which no run does")
    state: Any = stored.state
    named = stored.reason in StopReason.__members__
    return Outcome(
        state=state,
        step=stored.step,
        epochs=stored.epochs,
        best_dsc=stored.best_dsc,
        reason=StopReason[str(stored.reason)] if named else None,
        message=tree.get("message", None if named else stored.reason),
    )
