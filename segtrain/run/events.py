"""Events of a run: a line each in metrics.jsonl, from which curves, tables and reports are derived."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from segtrain.config.json_text import parse_json
from segtrain.run.stored import built, shown


def _now_s() -> float:
    return round(time.time(), 3)


@dataclass(frozen=True, kw_only=True)
class TrainEvent:
    """The steps since the last such event: mean loss, learning rate, speed, resources of the rank."""

    kind: ClassVar[str] = "train"

    step: int
    time: float = field(default_factory=_now_s)  # seconds since the epoch
    loss: float
    lr: float
    images_per_s: float
    memory_gib: float
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationEvent:
    """The scores of the validation patients after an epoch; `per_patient` is their table in the run directory.

    Of several regions `val_dsc` is the mean over them, and `regions` has each one's mean, median and interval. `people`
    is their number where several patients are scans of one person, who then counts once.
    """

    kind: ClassVar[str] = "evaluation"

    step: int
    time: float = field(default_factory=_now_s)  # seconds since the epoch
    epoch: int
    val_loss: float
    val_dsc: float  # mean over patients
    median: float | None = None
    n: int
    ci_low: float | None = None  # one patient alone has no interval
    ci_high: float | None = None
    best: bool
    empty_masks: str
    per_patient: str = ""
    regions: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)  # dsc, median, ci_low, ci_high
    people: int | None = None

    @property
    def parts(self) -> str:
        """The mean of each region, which goes with the mean over them; empty where there is one region."""
        return parts_text({name: numbers["dsc"] for name, numbers in self.regions.items()})


def parts_text(dsc_by_region: Mapping[str, float | None], digits: int = 4) -> str:
    """For example `whole 0.9134, core 0.8021`."""
    return ", ".join(f"{name} {dsc:.{digits}f}" for name, dsc in dsc_by_region.items() if dsc is not None)


Event = TrainEvent | EvaluationEvent
OF_SEVERAL = ("regions", "people")  # left out of the lines of runs that have one region, and a patient a person
LATEST_S = 1e11  # of any time of an event, seconds since the epoch: year 5138
KINDS: dict[str, type[TrainEvent] | type[EvaluationEvent]] = {cls.kind: cls for cls in (TrainEvent, EvaluationEvent)}


def to_line(event: Event) -> str:
    """The event as a line of metrics.jsonl. Raises ValueError: a number that is not finite."""
    values = {key: value for key, value in asdict(event).items() if value or key not in OF_SEVERAL}
    return json.dumps({"event": event.kind, **values}, allow_nan=False) + "\n"


def from_line(line: bytes) -> Event | None:
    """The event in a line of metrics.jsonl; None of one that is only half there. Raises ValueError: it is no event."""
    try:
        tree = parse_json(line.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):  # it was being written when the process was killed
        return None
    kind = KINDS.get(str(tree.get("event"))) if isinstance(tree, dict) else None
    if kind is None:
        raise ValueError("it is no event")
    event = built(kind, tree)
    _refuse_impossible(event)
    return event


def _refuse_impossible(event: Event) -> None:
    """Raise ValueError where no training counts like that."""
    if not 0 <= event.time <= LATEST_S:
        raise ValueError(f"time is {event.time:g}")
    if event.step < 0:
        raise ValueError(f"step is {event.step}")
    if isinstance(event, EvaluationEvent):
        if min(event.step, event.epoch, event.n) < 1:
            raise ValueError(f"step, epoch and n are {event.step}, {event.epoch} and {event.n}")
        if nameless := [name for name, numbers in event.regions.items() if "dsc" not in numbers]:
            raise ValueError(f"region {shown(nameless[0])} has no dsc")


def evaluations(events: Iterable[Event]) -> list[EvaluationEvent]:
    """The evaluations among the events."""
    return [event for event in events if isinstance(event, EvaluationEvent)]


def train_events(events: Iterable[Event]) -> list[TrainEvent]:
    """The events of training steps."""
    return [event for event in events if isinstance(event, TrainEvent)]


def with_steps(events: Iterable[TrainEvent]) -> Iterator[tuple[TrainEvent, int]]:
    """Each event of a run with the number of steps that it is the mean of: those since the event before it.

    They are not alike where an epoch ends between two lines of the log.
    """
    before = 0
    for event in events:
        yield event, max(1, event.step - before)
        before = event.step


def best_of(scores: Iterable[EvaluationEvent]) -> EvaluationEvent:
    """The evaluation with the highest mean DSC, the first of equals."""
    return max(scores, key=lambda event: (event.val_dsc, -event.epoch))
