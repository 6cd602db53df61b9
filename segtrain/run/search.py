"""Searches: a space of settings, trials drawn from it, and stages of more and more epochs for the better ones.

A trial is a variant whose name is the hash of its settings, and each stage is an ablation of some trials. What was
drawn is written down before it is trained: trials.jsonl, a line a trial. Imports no torch.

Successive halving: Jamieson and Talwalkar, AISTATS 2016, in rounds as the brackets of Hyperband (Li et al., JMLR 2018).
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from segtrain.config import checked, flatten, read_yaml
from segtrain.errors import ConfigError, RunError
from segtrain.run.ablation import MOST_RUNS, ConfirmSpec, Member, Name, Numbers, Spec
from segtrain.run.layout import TRIALS
from segtrain.run.stored import built, entries_in, reading
from segtrain.runtime import files
from segtrain.runtime.outbox import patiently

BY_STAGES = "train.epochs"  # the key that the stages set
REFERENCE = "reference"  # the variant that is to be beaten


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Interval:
    """Numbers from `low` to `high`, both included; whole ones where both are. `log`: evenly over their logarithms."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low: {self.low} is not below high: {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log: low: {self.low} has no logarithm; above 0")
        if self.log and self.step is not None:
            raise ValueError("log and step: leave one out")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step: {self.step}; above 0")
        return self

    @property
    def whole(self) -> bool:
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 0))

    def has(self, value: Any) -> bool:
        """Whether it could have been drawn, but for the step."""
        kind = int if self.whole else (int, float)
        return isinstance(value, kind) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Choice:
    """One of several values, which may be lists or mappings."""

    values: Annotated[tuple[Any, ...], Field(min_length=2)]

    def place(self, value: Any) -> int:
        """Which of them it is. Raises ValueError: none."""
        return [canonical(one) for one in self.values].index(canonical(value))

    def has(self, value: Any) -> bool:
        """Whether it could have been drawn."""
        return canonical(value) in map(canonical, self.values)


def canonical(value: Any) -> str:
    """The same for equal values alone: true is not 1."""
    return json.dumps(value, sort_keys=True)


Choices = Interval | Annotated[Choice, BeforeValidator(lambda value: {"values": value})]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SearchSpec:
    """The content of a search's YAML."""

    name: Name
    base: str  # a config, relative to the spec
    space: Annotated[dict[str, Choices], Field(min_length=1)]  # key: [value, ...] or {low: , high: , log: , step: }
    trials: Annotated[int, Field(ge=1, le=MOST_RUNS)]
    at_once: Annotated[int, Field(ge=1, le=MOST_RUNS)] = 9  # trials of a round; the next learns from them
    epochs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (20,)  # of each stage
    keep: Annotated[int, Field(ge=2)] = 3  # the best of so many trials of a stage goes on to the next
    reference: dict[str, Any] = field(default_factory=dict)  # settings of the variant that is to be beaten
    overrides: dict[str, Any] = field(default_factory=dict)  # for all trials and the reference
    folds: Numbers = ()
    seeds: Numbers = ()
    repeats: Annotated[int, Field(ge=1, le=MOST_RUNS)] | None = None
    confirm: ConfirmSpec | None = None
    seed: int = 0  # of what is drawn

    def stage(self, stage: int, trials: Sequence["Trial"]) -> Spec:
        """The ablation of a stage with these trials; the last one has the search's name, and the reference."""
        last = stage == len(self.epochs) - 1
        reference: dict[str, dict[str, Any] | None] = {REFERENCE: self.reference} if last else {}
        return Spec(
            name=self.name if last else f"{self.name}-{self.epochs[stage]}-epochs",
            base=self.base,
            variants=reference | {trial.name: dict(trial.settings) for trial in trials},
            overrides=self.overrides | {BY_STAGES: self.epochs[stage]},
            folds=self.folds,
            seeds=self.seeds,
            repeats=self.repeats,
            confirm=self.confirm,
        )


def read_search(path: Path) -> SearchSpec:
    """The search in a file. Raises ConfigError."""
    spec = checked(SearchSpec, read_yaml(path), str(path), help_text="see configs/search/ for an example")
    if list(spec.epochs) != sorted(set(spec.epochs)):
        raise ConfigError(f"{path}: epochs: {list(spec.epochs)}; each stage has more than the one before")
    for where, settings in (("space", spec.space), ("reference", spec.reference), ("overrides", spec.overrides)):
        if BY_STAGES in dict(flatten(settings)):
            raise ConfigError(f"{path}: {where} sets {BY_STAGES}, which the stages set; leave it out, and see epochs")
    return spec


@dataclass(frozen=True)
class Trial:
    """Settings that were drawn, by their keys."""

    round: int
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The variant's: a hash of its settings, so that the same settings are the same runs."""
        return f"t{hashlib.sha256(canonical(dict(self.settings)).encode()).hexdigest()[:8]}"


def read_trials(folder: Path, spec: SearchSpec) -> list[Trial]:
    """All that were drawn, in their order. Raises DamagedFile; RunError: of another space than the spec's; OSError."""
    file = folder / TRIALS
    remedy = "move it away to draw anew: what was trained is found by its settings"
    with reading(file, remedy):
        trials = [built(Trial, entry) for entry in entries_in(file, remedy)]
    for trial in trials:
        own = trial.settings
        if own.keys() != spec.space.keys() or not all(choices.has(own[key]) for key, choices in spec.space.items()):
            raise RunError(
                f"{file}: has {canonical(own)}, which is not of the spec's space; give the search another name"
            )
    return trials


def write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """All that were drawn, before those that are new are trained."""
    lines = "".join(json.dumps({"round": trial.round, "settings": dict(trial.settings)}) + "\n" for trial in trials)
    files.make_folder(folder)
    patiently(folder / TRIALS, partial(files.write_text, folder / TRIALS, lines))


def score_of(members: Sequence[Member]) -> float | None:
    """The mean DSC of a trial's runs after their last epoch; None where a run has none, since it failed."""
    results = [member.run.result() for member in members]
    scores = [result.last_dsc for result in results if result.state == "finished" and result.last_dsc is not None]
    return sum(scores) / len(scores) if len(scores) == len(members) else None


def better(trials: Sequence[Trial], scores: Mapping[str, float | None], keep: int) -> list[Trial]:
    """Those that go on to the next stage: the best of each `keep`, at least one; none that has no score."""
    scored = [trial for trial in trials if scores[trial.name] is not None]
    ranked = sorted(scored, key=lambda trial: -(scores[trial.name] or 0.0))  # the one drawn first where they are equal
    return ranked[: math.ceil(len(trials) / keep)]
