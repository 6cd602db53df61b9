"""What a run has achieved so far, in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from segtrain.run.events import Event, best_of, evaluations
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


def result_of(outcome: Outcome | None, events: Sequence[Event]) -> Result:
    """The result of a run that has begun, from how its last start ended and what was recorded."""
    state: ResultState = outcome.state if outcome else "running"
    epochs = outcome.epochs if outcome else None
    scores = evaluations(events)
    if not scores:
        return Result(state, epochs)
    best = best_of(scores)
    return Result(
        state=state,
        epochs=epochs,
        best_epoch=best.epoch,
        best_dsc=best.val_dsc,
        ci_low=best.ci_low,
        ci_high=best.ci_high,
        n=best.n,
        last_dsc=scores[-1].val_dsc,
        hours=round((events[-1].time - events[0].time) / 3600, 4),
        people=best.people,
        best_parts=best.parts or None,
        last_parts=scores[-1].parts or None,
    )
