"""The runs of a report, with their curves, per-patient scores, cost and outcome."""

import logging
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from pathlib import Path

from segtrain.config import Config
from segtrain.errors import DAMAGED, ConfigError, DamagedFile, RunError
from segtrain.report.below import runs_below
from segtrain.report.cost import Cost, cost
from segtrain.report.epochs import Curves, Evaluation, curves, evaluation
from segtrain.report.planned import Listed, end_in_queue, listed_run, not_begun
from segtrain.report.variance import People
from segtrain.run import Environment, Run, RunSplit
from segtrain.run.events import best_of, evaluations, train_events
from segtrain.run.reader import refuse_private
from segtrain.run.result import ResultState
from segtrain.run.stored import damaged

log = logging.getLogger(__name__)

LONGEST_REASON = 1000  # letters

NAME = re.compile(r"(?P<variant>.+?)(-fold(?P<fold>\d+))?-(seed(?P<seed>\d+)|repeat(?P<repeat>\d+))")


@dataclass(frozen=True)
class Collected:
    """A run as far as it has come; where it does not count, `reason` may say why."""

    run: Run
    name: str
    variant: str
    fold: int | None = None
    seed: int | None = None
    repeat: int | None = None  # of an ablation with repeats, where each has a seed of its own in each fold
    misnamed: bool = False  # the name gives another fold or seed than the config; those of the name are used
    config: Config | None = None
    data: str = ""  # the fingerprint of what it was trained on, where it is on record
    begun: str = ""  # ISO 8601
    state: ResultState = "running"
    reason: str = ""
    curves: Curves | None = None
    best: Evaluation | None = None
    last: Evaluation | None = None
    empty_rule: str = ""
    people: People = field(default_factory=dict)  # of all runs of the report: all means are over the same people
    split: RunSplit | None = None  # where it can be read
    cost: Cost | None = None
    images_per_s: float | None = None

    @property
    def began_s(self) -> float:
        """When it began, in seconds since the epoch; infinite where no time says it."""
        try:
            return datetime.fromisoformat(self.begun).timestamp()
        except (ValueError, OverflowError, OSError):
            return math.inf

    @property
    def hours(self) -> float | None:
        """Hours of work."""
        return self.cost.hours if self.cost else None

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions, where there are several."""
        return tuple(self.last.by_region) if self.last else ()

    @property
    def counts(self) -> bool:
        """Whether it enters the comparison: an unfinished run has fewer epochs than the others."""
        return self.state == "finished" and self.last is not None


def collect(paths: Sequence[Path]) -> list[Collected]:
    """The runs in and below `paths`, in the order in which they began, then those that have not begun.

    Raises RunError: a path without any; none of them has begun.
    """
    roots: list[Path] = []
    for path in paths:
        refuse_private(path)
        below = runs_below(path) if path.is_dir() else []
        if not below and not listed_run(path.absolute()):
            raise RunError(f"{path}: no run is there; name a run's directory, or a folder of runs")
        roots += [root for root in below if root not in roots]
    if not roots:
        raise RunError(f"{paths[0]}: has not begun; wait until it has been evaluated once")
    runs = [_with_queue(_read(Run(root), name)) for root, name in zip(roots, _names(roots), strict=True)]
    runs += [_planned(listed) for listed in not_begun(roots, [path.absolute() for path in paths])]
    return _with_people_of_all(sorted(runs, key=lambda run: (not run.begun, run.began_s)))


def _with_people_of_all(runs: Sequence[Collected]) -> list[Collected]:
    """The runs, each with the people that any of them knows, so that n is the same in all comparisons."""
    people: dict[str, str] = {}
    for run in runs:
        for patient, person in run.people.items():
            if people.setdefault(patient, person) != person:
                log.warning(
                    "%s: patient %s is a scan of %s, and of %s in another run, which is used",
                    run.run.root,
                    patient,
                    person,
                    people[patient],
                )
    return [replace(run, people=people) for run in runs]


def _names(roots: Sequence[Path]) -> list[str]:
    """The runs' names, preceded by as many of the folders above them as it takes to tell them apart."""
    parts = next(n for n in count(1) if len({root.parts[-n:] for root in roots}) == len(roots))
    return [str(Path(*root.parts[-parts:])) for root in roots]


def _planned(listed: Listed) -> Collected:
    """A run that has not begun, or whose directory is gone."""
    run = _named(Run(listed.root), listed.root.name)
    if listed.variant is not None:
        run = replace(run, variant=listed.variant, fold=listed.fold, seed=listed.seed, repeat=listed.repeat)
    reason = listed.why
    if not reason and listed.state != "none":
        reason = f"listed as {listed.state}, but {listed.root} is missing"
    return replace(run, state="none", reason=reason)


def _with_queue(run: Collected) -> Collected:
    """With what a queue knows about the end of a run that may have been killed before it could write anything down."""
    line = end_in_queue(run.run.root, run.run.starts()[-1]) if run.state in ("running", "stopped") else None
    if line is None:
        return run
    if line.state in ("failed", "refused"):
        return replace(run, state="failed", reason=line.why)
    if line.state == "diverged":
        return replace(run, state="diverged", reason=line.why)
    return replace(run, reason=run.reason or line.why)


def _named(run: Run, name: str) -> Collected:
    """A run with variant, fold, seed and repeat as far as its name gives them."""
    if not (parts := NAME.fullmatch(name)):
        return Collected(run, name, variant=name)
    fold, seed, repeat = (None if parts[key] is None else int(parts[key]) for key in ("fold", "seed", "repeat"))
    return Collected(run, name, parts["variant"], fold, seed, repeat)


def _read(run: Run, name: str) -> Collected:
    """The content of a run; one that cannot be read does not count, and says why."""
    collected = _named(run, name)
    try:
        starts = run.starts()
        if not starts:
            raise damaged(run.environment_file, "it lists no start")
        collected = replace(collected, begun=str(starts[0].time), data=_data(starts))
        if outcome := run.outcome():
            collected = replace(collected, state=outcome.state, reason=(outcome.message or "")[:LONGEST_REASON])
        collected = _with_events(collected)
        return _with_config(collected, run.config())
    except (*DAMAGED, ConfigError) as error:
        kind = "" if isinstance(error, DamagedFile) else f"{type(error).__name__}: "
        why = " ".join(f"{kind}{error}".split())
        why = why if len(why) <= LONGEST_REASON else f"{why[:LONGEST_REASON]}..."
        log.warning("%s: %s", run.root, why)
        # The scores of an old run are valid even where its config no longer loads.
        return replace(collected, reason=why, state=collected.state if isinstance(error, ConfigError) else "unreadable")


def _with_config(run: Collected, cfg: Config) -> Collected:
    """With its config, and the fold and seed of that where the name has none."""
    fold = cfg.data.fold if cfg.data.split == "kfold" else run.fold
    misnamed = run.fold not in (None, fold) or run.seed not in (None, cfg.seed)
    if misnamed:
        log.warning(
            "%s: trained on fold %s with seed %d; its name's fold and seed are used", run.run.root, fold, cfg.seed
        )
    seed = cfg.seed if run.seed is None else run.seed
    return replace(run, config=cfg, fold=fold if run.fold is None else run.fold, seed=seed, misnamed=misnamed)


def _with_events(run: Collected) -> Collected:
    events = run.run.events()
    if not events:
        return run
    training, scores = train_events(events), evaluations(events)
    run = replace(run, cost=cost(run.run.starts(), events))
    if training:
        run = replace(run, images_per_s=statistics.median(event.images_per_s for event in training))
    if not scores:
        return run
    split = _split(run.run)
    people = split.people if split else {}
    return replace(
        run,
        split=split,
        best=evaluation(run.run, best_of(scores), people),
        last=evaluation(run.run, scores[-1], people),
        empty_rule=scores[-1].empty_masks,
        people=people,
        curves=curves(training, scores),
    )


def _data(starts: Sequence[Environment]) -> str:
    """The data's fingerprint, with which the name of the store ends."""
    return next((start.store.rpartition("-")[2] for start in reversed(starts) if start.store), "")


def _split(run: Run) -> RunSplit | None:
    """The run's split; None where it cannot be read, as the scores of an old run stay valid without it."""
    try:
        return run.split_record()
    except RunError as error:
        log.warning("%s", error)
        return None
