"""Events of a run: a line each in metrics.jsonl, from which curves, tables and reports are derived."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar


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
KINDS: dict[str, type[TrainEvent] | type[EvaluationEvent]] = {cls.kind: cls for cls in (TrainEvent, EvaluationEvent)}


def to_line(event: Event) -> str:
    """The event as a line of metrics.jsonl. Raises ValueError: a number that is not finite."""
    values = {key: value for key, value in asdict(event).items() if value or key not in OF_SEVERAL}
    return json.dumps({"event": event.kind, **values}, allow_nan=False) + "\n"


def from_lines(lines: Iterable[str]) -> list[Event]:
    """The events in lines of metrics.jsonl, without a line that is only half there.

    Raises KeyError or TypeError: a whole line that is no event.
    """
    events = []
    for line in lines:
        try:
            tree = json.loads(line)
        except ValueError:  # it was being written when the process was killed
            continue
        kind = KINDS[tree["event"]]
        values: dict[str, Any] = {key.name: tree[key.name] for key in fields(kind) if key.name in tree}
        events.append(kind(**values))
    return events


def evaluations(events: Iterable[Event]) -> list[EvaluationEvent]:
    """The evaluations among the events."""
    return [event for event in events if isinstance(event, EvaluationEvent)]


def train_events(events: Iterable[Event]) -> list[TrainEvent]:
    """The events of training steps."""
    return [event for event in events if isinstance(event, TrainEvent)]


def best_of(scores: Iterable[EvaluationEvent]) -> EvaluationEvent:
    """The evaluation with the highest mean DSC, the first of equals."""
    return max(scores, key=lambda event: (event.val_dsc, -event.epoch))
