"""What a run has achieved so far, in numbers."""

from dataclasses import dataclass
from typing import Literal

from segtrain.run.milestones import Milestones
from segtrain.run.outcome import Outcome, State

# none: it has not begun; running: its last start has not ended, or was killed.
ResultState = State | Literal["none", "running", "unreadable"]


@dataclass(frozen=True)
class Result:
    """The state of a run and its best and last mean DSC over `n` validation patients.

    The fields are columns of results.csv. `hours` go from the first event to the last. `people`: their number, where
    several patients are scans of one person; `best_parts`, `last_parts`: of several regions, the means behind the mean.
    """

    state: ResultState
    epochs: int | None = None
    best_epoch: int | None = None
    best_dsc: float | None = None
    ci_low: float | None = None  # of the best epoch; one patient alone has no interval
    ci_high: float | None = None
    n: int | None = None
    last_dsc: float | None = None
    hours: float | None = None
    people: int | None = None
    best_parts: str | None = None
    last_parts: str | None = None


def result_of(outcome: Outcome | None, reached: Milestones) -> Result:
    """The result of a run that has begun, from how its last start ended and what it has reached."""
    state: ResultState = outcome.state if outcome else "running"
    epochs = outcome.epochs if outcome else None
    first, last, best, newest = reached.first, reached.last, reached.best, reached.last_evaluation
    if first is None or last is None or best is None or newest is None:
        return Result(state, epochs)
    return Result(
        state=state,
        epochs=epochs,
        best_epoch=best.epoch,
        best_dsc=best.val_dsc,
        ci_low=best.ci_low,
        ci_high=best.ci_high,
        n=best.n,
        last_dsc=newest.val_dsc,
        hours=round((last.time - first.time) / 3600, 4),
        people=best.people,
        best_parts=best.parts or None,
        last_parts=newest.parts or None,
    )
