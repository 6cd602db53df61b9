"""What a report is made of: runs, with their curves, per-patient scores, cost and end."""

import logging
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from segtrain.config import Config
from segtrain.errors import DAMAGED, ConfigError, RunError
from segtrain.evaluation.metrics import Summary, summarise
from segtrain.report.cost import Cost, cost
from segtrain.report.planned import end_told, listed, not_begun
from segtrain.report.statistics import Scores, Unit, per_patient
from segtrain.run import Member, Run, differences
from segtrain.run.events import EvaluationEvent, best_of, evaluations, trained

log = logging.getLogger(__name__)

NAME = re.compile(r"(?P<variant>.+?)(-fold(?P<fold>\d+))?-seed(?P<seed>\d+)")
STATES = (
    "finished",
    "stopped",
    "diverged",
    "failed",
    "running",
    "unreadable",
    "none",
)  # the last two: the report's own
UNTOLD = ("running", "stopped")  # a start may have ended since without a word
Point = tuple[float, float]


@dataclass(frozen=True)
class Evaluation:
    """An epoch's scores: a row a patient, as the run wrote them."""

    epoch: int
    step: int
    dsc: float
    rows: Sequence[Mapping[str, str]]
    by_patient: Mapping[str, float]


@dataclass(frozen=True)
class Collected:
    """A run as far as it has come; `reason` says why it does not count, where it does not."""

    run: Run
    name: str
    variant: str
    fold: int | None = None
    seed: int | None = None
    misnamed: bool = False  # the name gives another fold or seed than the config; the name's count
    config: Config | None = None
    begun: str = ""
    state: str = "running"
    reason: str = ""
    curves: Mapping[str, Sequence[Point]] | None = None  # loss, val_loss, val_dsc by epoch
    best: Evaluation | None = None
    last: Evaluation | None = None
    empty_rule: str = ""
    cost: Cost | None = None
    images_per_s: float | None = None

    @property
    def hours(self) -> float | None:
        """Hours at work."""
        return self.cost.hours if self.cost else None

    @property
    def counts(self) -> bool:
        """Whether it enters the comparison: an unfinished run has fewer epochs than the others."""
        return self.state == "finished" and self.last is not None


def collect(paths: Sequence[Path]) -> list[Collected]:
    """The runs in and below `paths`, in the order in which they began, then those that have not.

    Raises RunError: a path without any; none of them has begun.
    """
    roots: list[Path] = []
    for path in paths:
        below = list(_runs_below(path)) if path.is_dir() else []
        if not below and not listed(path.absolute()):
            raise RunError(f"{path}: no run is there; name a run's directory, or a folder of runs")
        roots += [root for root in below if root not in roots]
    if not roots:
        raise RunError(f"{paths[0]}: has not begun; wait until it has been evaluated once")
    runs = [_as_told(_read(Run(root), name)) for root, name in zip(roots, _names(roots), strict=True)]
    runs += [_planned(root, line) for root, line in not_begun(roots, [path.absolute() for path in paths])]
    return sorted(runs, key=lambda run: (not run.begun, run.begun))


def _names(roots: Sequence[Path]) -> list[str]:
    """The runs' names, with as many of the folders above them as make them differ."""
    parts = next(n for n in count(1) if len({root.parts[-n:] for root in roots}) == len(roots))
    return [str(Path(*root.parts[-parts:])) for root in roots]


def _planned(root: Path, line: Mapping[str, str]) -> Collected:
    """A run that has not begun, or whose directory is gone; as the tables beside it have it."""
    variant, fold, seed = _by_name(line["run"])
    if "variant" in line:  # in an ablation's table
        variant = line["variant"]
        fold, seed = (int(line[key]) if line[key].isdecimal() else None for key in ("fold", "seed"))
    gone = "" if line["state"] == "none" else f"listed as {line['state']}, but {root} is not there"
    return Collected(Run(root), line["run"], variant, fold, seed, state="none", reason=line.get("why") or gone)


def _as_told(run: Collected) -> Collected:
    """With the reason that a queue has, where the run could not write down how its last start ended."""
    told = end_told(run.run.root, str(run.run.starts()[-1].get("time", ""))) if run.state in UNTOLD else None
    if told is None:
        return run
    state = "failed" if told["state"] == "refused" else told["state"]
    if state in ("failed", "diverged"):
        return replace(run, state=state, reason=told["why"])
    return replace(run, reason=run.reason or told["why"])


def _by_name(name: str) -> tuple[str, int | None, int | None]:
    """Variant, fold and seed, as far as the name says them."""
    if not (parts := NAME.fullmatch(name)):
        return name, None, None
    return parts["variant"], None if parts["fold"] is None else int(parts["fold"]), int(parts["seed"])


def _runs_below(folder: Path) -> Iterator[Path]:
    """`folder` itself where it is a run, else every run below it but those that `--fresh` has set aside."""
    folder = folder.absolute()
    if Run(folder).starts():
        yield folder
        return
    for child in sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")):
        original, dot, number = child.name.rpartition(".")
        if dot and number.isdigit() and Run(folder / original).starts():
            log.info("%s: left out, --fresh has set it aside", child)
            continue
        yield from _runs_below(child)


def _read(run: Run, name: str) -> Collected:
    """What the run holds; one that cannot be read says why, and does not count."""
    found = Collected(run, name, *_by_name(name), begun=str(run.starts()[0].get("time", "")))
    try:
        outcome = run.outcome()
        if outcome:
            found = replace(found, state=outcome.state, reason=outcome.message or "")
        found = replace(found, **_events(run))
        return _with_config(found, run.config())
    except (*DAMAGED, yaml.YAMLError, ConfigError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("%s: %s", run.root, why)
        # An old run's config need not load any more; its scores are scores.
        return replace(found, reason=why, state=found.state if isinstance(error, ConfigError) else "unreadable")


def _with_config(run: Collected, cfg: Config) -> Collected:
    """Fold and seed are the config's where the name has none."""
    fold = cfg.data.fold if cfg.data.split == "kfold" else run.fold
    misnamed = run.fold not in (None, fold) or run.seed not in (None, cfg.seed)
    if misnamed:
        log.warning("%s: trained on fold %s with seed %d; the name's count", run.run.root, fold, cfg.seed)
    seed = cfg.seed if run.seed is None else run.seed
    return replace(run, config=cfg, fold=fold if run.fold is None else run.fold, seed=seed, misnamed=misnamed)


def _events(run: Run) -> dict[str, Any]:
    events = run.events()
    scores, training = evaluations(events), trained(events)
    if not events:
        return {}
    found: dict[str, Any] = {"cost": cost(run.starts(), events)}
    if rates := [event.images_per_s for event in training]:
        found["images_per_s"] = statistics.median(rates)
    if not scores:
        return found
    for which, event in (("best", best_of(scores)), ("last", scores[-1])):
        found[which] = _evaluation(run, event)
    found["empty_rule"] = scores[-1].empty_masks
    losses: dict[int, list[float]] = defaultdict(list)
    steps_per_epoch = scores[0].step / scores[0].epoch
    for record in training:
        losses[int(-(-record.step // steps_per_epoch))].append(record.loss)
    found["curves"] = {
        "loss": [(float(epoch), statistics.fmean(values)) for epoch, values in sorted(losses.items())],
        "val_loss": [(float(event.epoch), event.val_loss) for event in scores],
        "val_dsc": [(float(event.epoch), event.val_dsc) for event in scores],
    }
    return found


def _evaluation(run: Run, event: EvaluationEvent) -> Evaluation:
    rows = run.scores(event.epoch)
    by_patient = {row["patient"]: float(row["dsc"]) for row in rows}
    if len(by_patient) != event.n:
        raise ValueError(f"{run.validation_table(event.epoch)}: {len(by_patient)} patients, {event.n} were scored")
    return Evaluation(event.epoch, event.step, event.val_dsc, rows, by_patient)


def by_variant(runs: Sequence[Collected], baseline: str | None) -> tuple[str, dict[str, list[Collected]]]:
    """The baseline (unless named, the variant that began first) and the runs that count, its own first.

    Raises RunError: nothing counts, or the baseline has nothing that does.
    """
    groups: dict[str, list[Collected]] = {}
    for run in runs:
        if run.counts:
            groups.setdefault(run.variant, []).append(run)
    first = baseline or (runs[0].variant if runs[0].variant in groups else next(iter(groups), ""))
    if groups and first not in groups:
        raise RunError(f"--baseline {first}: no finished run of it; choose one of {', '.join(groups)}")
    return first, {variant: groups[variant] for variant in sorted(groups, key=lambda variant: variant != first)}


def scores(runs: Sequence[Collected], which: str = "last") -> Scores:
    """Every patient's DSC by its fold and seed, at the `last` or the `best` epoch of these runs of one variant.

    Raises RunError: two of them score a patient in one fold and with one seed.
    """
    found: dict[Unit, float] = {}
    for run in runs:
        evaluation: Evaluation = getattr(run, which)
        own = {(patient, run.fold, run.seed): dsc for patient, dsc in evaluation.by_patient.items()}
        if twice := sorted(own.keys() & found.keys(), key=str):
            again = f"patient {twice[0][0]} was scored by another run of {run.variant}, fold and seed"
            raise RunError(f"{run.run.root}: {again}; leave one of the two out")
        found |= own
    return found


def best_epoch(runs: Sequence[Collected]) -> Summary:
    """Over the patients of these runs of one variant, each at its run's best epoch."""
    return summarise(list(per_patient(scores(runs, "best")).values()))


def changes(run: Collected, baseline: Collected) -> Mapping[str, Any]:
    """The settings in which two runs differ; empty where a config cannot be read."""
    if run.config is None or baseline.config is None:
        return {}
    one, other = (Member(r.variant, r.fold, r.seed or 0, r.config) for r in (run, baseline) if r.config)
    return {key: value for key, value in differences(one, other).items() if key not in ("runs_dir", "data.store")}
