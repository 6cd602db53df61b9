"""What is sent of a run to a tracker, read from its files: settings, scores, state, the points of its curves.

No patient's name is in it, and no picture: they stay in the run.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtrain.config import flatten
from segtrain.config.licence import UNKNOWN, licence_of
from segtrain.errors import DAMAGED, ConfigError
from segtrain.run.evaluation import read_summary
from segtrain.run.events import EvaluationEvent, Event, TrainEvent, best_of, evaluations
from segtrain.run.layout import ABLATION, QUEUE
from segtrain.run.reader import RunReader
from segtrain.runtime.visible import in_one_line

Setting = str | int | float | bool | None

LONGEST = 500  # letters of a text
ID_NAME = 60  # letters of a run's name in its id
PACKAGES = ("torch", "segtrain-mri", "numpy")
OF_EVALUATIONS = ("val_loss", "val_dsc", "n", "people", "ci_low", "ci_high")
OF_MEANS = ("mean", "n", "ci_low", "ci_high", "median")


@dataclass(frozen=True)
class Point:
    """An event's numbers. position: grows along a run, and is the same when the run does a step again."""

    position: int
    step: int
    time: float  # seconds since the epoch
    values: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """A run as a tracker gets it.

    id: the same wherever the run's folder lies, and another one after --fresh. group: the ablation or queue. settings:
    by dotted keys. scores: the best epoch's, and means of `segtrain evaluate`. facts: state, versions, device, licence.
    """

    name: str
    id: str
    group: str | None
    settings: Mapping[str, Setting]
    scores: Mapping[str, float]
    facts: Mapping[str, str]
    state: str
    points: Sequence[Point]

    @property
    def digest(self) -> str:
        """A hash of all but the points."""
        content = [self.name, self.group, self.settings, self.scores, self.facts, self.state]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def position(self) -> int:
        """That of the last point; -1 where there is none."""
        return max((point.position for point in self.points), default=-1)


def record_of(run: RunReader) -> Record:
    """A run's record. Raises RunError: this is no run, or a file of it is damaged; OSError."""
    tree = run.config_tree()
    events, outcome, starts = run.events(), run.outcome(), run.starts()
    name = str(tree.get("name") or run.root.name)
    # Of the first start, which --fresh alone replaces; two may begin in one second.
    first = [starts[0].time, starts[0].job, starts[0].command] if starts else []
    digest = hashlib.sha256(json.dumps([name, *first]).encode()).hexdigest()[:12]
    parent = run.root.resolve().parent
    state = outcome.state if outcome else "running"
    return Record(
        name=in_one_line(name),
        id=f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:ID_NAME]}-{digest}",
        group=in_one_line(parent.name) if any((parent / one).exists() for one in (ABLATION, QUEUE)) else None,
        settings={_text(str(key)): _setting(value) for key, value in flatten(tree)},
        scores={**_best(evaluations(events)), **_evaluated(run)},
        facts={**_facts(run), "state": state},
        state=state,
        points=[_point(event) for event in events],
    )


def _point(event: Event) -> Point:
    values: dict[str, float | None]
    if isinstance(event, TrainEvent):
        values = {key: getattr(event, key) for key in ("loss", "lr", "images_per_s", "memory_gib")}
        values |= {f"resources/{_name(name)}": value for name, value in event.resources.items()}
    else:
        values = {key: getattr(event, key) for key in OF_EVALUATIONS}
        values |= {"epoch": event.epoch, "val_dsc_median": event.median}
        regions = zip(_names(event.regions), event.regions.values(), strict=True)
        values |= {f"val_dsc/{name}": numbers["dsc"] for name, numbers in regions}
    known = {key: float(value) for key, value in values.items() if value is not None}
    position = 2 * event.step + isinstance(event, EvaluationEvent)  # an evaluation comes after its step
    return Point(position, event.step, event.time, known)


def _best(scores: Sequence[EvaluationEvent]) -> dict[str, float]:
    """The best evaluation, its mean not without n and interval (L10)."""
    if not scores:
        return {}
    best = best_of(scores)
    values = {key: getattr(best, key) for key in ("epoch", *OF_EVALUATIONS)}
    return {f"best/{key}": float(value) for key, value in values.items() if value is not None}


def _evaluated(run: RunReader) -> dict[str, float]:
    """Of each folder of `segtrain evaluate`: the means over patients that were not trained on."""
    values: dict[str, float] = {}
    folders = sorted(run.evaluations.iterdir()) if run.evaluations.is_dir() else []
    for folder in folders:
        try:
            summary = read_summary(folder)
        except FileNotFoundError:  # it is being written
            continue
        blocks = {"": summary, **_mapping(summary.get("regions"))}
        for place, block in zip(("", *_names(blocks)[1:]), blocks.values(), strict=True):
            where = "/".join(filter(None, (_name(folder.name), place)))
            values |= dict(_means(f"evaluation/{where}", _mapping(_mapping(block).get("not_trained_on"))))
    return values


def _means(where: str, columns: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for column, mean in columns.items():
        for key in OF_MEANS:
            value = _mapping(mean).get(key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield f"{where}/{_name(column)}/{key}", float(value)


def _facts(run: RunReader) -> dict[str, str]:
    """What the last start used, and the licence of the data; no paths, commands or names of machines."""
    starts = run.starts()
    facts: dict[str, Any] = {}
    if starts:
        last = starts[-1]
        facts = {name: last.packages.get(name) for name in PACKAGES}
        facts |= {"commit": last.git_commit, "device": last.device_name or last.device, "ranks": last.world_size}
        facts |= {"starts": len(starts)}
    try:
        facts["licence of the data"] = licence_of(run.config().data)
    except (*DAMAGED, ConfigError):  # of another version
        facts["licence of the data"] = UNKNOWN
    return {name: _text(str(value)) for name, value in facts.items() if value is not None}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _setting(value: Any) -> Setting:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _text(text: str) -> str:
    return in_one_line(text)[:LONGEST]


def _name(text: Any) -> str:
    """As a part of a metric's name, which all trackers take."""
    return re.sub(r"[^\w.-]", "_", str(text)).strip("._-") or "_"


def _names(texts: Mapping[str, Any]) -> list[str]:
    """The same for names that are told apart: two that would be one get their number."""
    names = [_name(text) for text in texts]
    return [name if names.count(name) == 1 else f"{name}_{place}" for place, name in enumerate(names, start=1)]


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return RunReader(path).config_file.is_file()
