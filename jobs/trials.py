"""Where a search stands: what was drawn, what has ended, and which stage is due."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import confirm
from jobs.history import History
from jobs.proposals import draw
from jobs.requeue import MAX_FAULTS
from jobs.submit import placed
from segtrain.errors import ConfigError, RunError
from segtrain.run import Member, Spec
from segtrain.run.ablation import members_of
from segtrain.run.layout import refuse_run
from segtrain.run.search import (
    BY_STAGES,
    REFERENCE,
    Trial,
    better,
    canonical,
    read_search,
    read_trials,
    score_of,
    write_trials,
)
from segtrain.runtime.terminal import show, show_table

REFUSED = "refused"  # in a run's history: training would not begin it, and begins the reference
LOST = (REFUSED, "failed", "given up")  # the last of a history


@dataclass(frozen=True)
class Stage:
    """Trials that are trained for so many epochs."""

    round: int
    epochs: int
    spec: Spec
    members: Sequence[Member]
    has_ended: Callable[[Member], bool]

    @property
    def due(self) -> list[str]:
        """The runs that have not ended, and are not lost.

        Where no run of several trials has ended, failures before an outcome are hardly theirs: all are due.
        """
        rest = [member for member in self.members if not self.has_ended(member)]
        all_alike = len(rest) == len(self.members) and len({member.variant for member in rest}) > 1
        counted = (REFUSED,) if all_alike else LOST
        return [member.cfg.name for member in rest if _how_lost(member) not in counted]

    @property
    def lost(self) -> set[str]:
        """The variants with a run that is lost."""
        return {member.variant for member in self.members if not self.has_ended(member) and _how_lost(member)}

    @property
    def kills(self) -> int:
        """How often a kill or its machine ended one of the runs, as far as that is tried again."""
        return sum(min(_faults(member), MAX_FAULTS) for member in self.members)


def _faults(member: Member) -> int:
    return sum(bool(entry.get("faults")) for entry in History(member.run).entries())


def _how_lost(member: Member) -> str:
    """How a trial's run ended for good that left no outcome, by its history; "" where it is to be tried again.

    A run that was stopped or preempted is, and one that a kill or its machine ended, `MAX_FAULTS` times. The reference
    is no trial.
    """
    if member.variant == REFERENCE or member.run.result().state == "unreadable":
        return ""
    last: Mapping[str, Any] = next(reversed(History(member.run).entries()), {})
    how = str(last.get("how", ""))
    if how == "failed" and last.get("faults") and _faults(member) < MAX_FAULTS:
        return ""
    return how if how in LOST else ""


def _has_ended(member: Member) -> bool:
    """Raises RunError: the run in its place is of other settings, as of an earlier state of the spec."""
    result = member.run.result()
    if result.state in ("none", "unreadable"):
        return False
    member.run.finished(member.cfg)
    if result.state == "finished" and result.epochs != member.cfg.train.epochs:
        raise RunError(
            f"{member.run.root}: was trained for {result.epochs} epochs, not {member.cfg.train.epochs}; give the "
            "search another name"
        )
    return result.state in ("finished", "diverged", "failed")


class Searching:
    """Where a search stands."""

    def __init__(self, path: Path, overrides: list[str]) -> None:
        """Reads the spec, and what was drawn. Raises ConfigError, DamagedFile, RunError."""
        self.path, self.spec, self.overrides = path, read_search(path), overrides
        for key in (override.partition("=")[0] for override in overrides):
            if key == BY_STAGES or key in self.spec.space:
                raise ConfigError(f"{key}: is set by the search, in {path}; leave it off the command line")
        self._passed: set[str] = set()
        self._known: dict[tuple[int, str], list[Member]] = {}
        self._ended: set[tuple[str, int]] = set()  # names and epochs: what has ended stays so, and reading takes long
        last = self.spec.stage(len(self.spec.epochs) - 1, [])
        self.reference = members_of(path, last, overrides)[0]
        confirm.refuse_wrong(path, last, overrides)
        self.folder = self.reference.run.root.parent.absolute()
        refuse_run(self.folder, path, "search")
        self.trials: list[Trial] = []
        self.read()

    def read(self) -> None:
        """Read what was drawn, which another process may have done meanwhile. Raises DamagedFile, RunError."""
        self.trials = read_trials(self.folder, self.spec)

    def next(self, keep: bool = True) -> Stage | None:
        """The stage that is due, drawn anew where one must be; None where the search has ended.

        `keep`: what is drawn is written down.
        """
        while True:
            for number in sorted({trial.round for trial in self.trials}):
                if stage := self._due([trial for trial in self.trials if trial.round == number]):
                    return stage
            count = min(self.spec.at_once, self.spec.trials - len(self.trials))
            new = draw(self.spec, count, self.trials, self.scores(), self._fits) if count > 0 else []
            if not new:
                return None
            self._stage(len(self.spec.epochs) - 1, [*self.trials, *new])  # no two are the same training
            self.trials += new
            if keep:
                write_trials(self.folder, self.trials)

    def _due(self, trials: Sequence[Trial]) -> Stage | None:
        """The first stage of a round that has not ended."""
        for place in range(len(self.spec.epochs)):
            if not trials:
                break
            if (stage := self._stage(place, trials)).due:
                return stage
            trials = better(trials, {trial.name: self._score(place, trial) for trial in trials}, self.spec.keep)
        return None

    def _stage(self, place: int, trials: Sequence[Trial]) -> Stage:
        spec = self.spec.stage(place, trials)
        members = [replace(one, cfg=placed(one.cfg)) for one in members_of(self.path, spec, self.overrides)]
        return Stage(trials[0].round, self.spec.epochs[place], spec, members, self._has_ended)

    def last(self) -> Stage | None:
        """The last stage with all trials that have reached it in any round; None where none has."""
        place = len(self.spec.epochs) - 1
        scores = self.scores()[place]
        reached = [trial for trial in self.trials if trial.name in scores]
        return self._stage(place, reached) if reached else None

    def scores(self) -> list[dict[str, float | None]]:
        """By stage, the score of each trial that has ended there; None: a run of it has failed."""
        return [
            {
                trial.name: self._score(place, trial)
                for trial in self.trials
                if all(self._has_ended(one) or _how_lost(one) for one in self._members(place, trial))
            }
            for place in range(len(self.spec.epochs))
        ]

    def _has_ended(self, member: Member) -> bool:
        key = member.cfg.name, member.cfg.train.epochs
        if key not in self._ended and _has_ended(member):
            self._ended.add(key)
        return key in self._ended

    def _score(self, place: int, trial: Trial) -> float | None:
        return score_of(self._members(place, trial))

    def _members(self, place: int, trial: Trial) -> list[Member]:
        """The runs of a trial in a stage."""
        key = place, trial.name
        if key not in self._known:
            members = self._stage(place, [trial]).members
            self._known[key] = [member for member in members if member.variant == trial.name]
        return self._known[key]

    def _fits(self, trial: Trial) -> bool:
        try:
            self._members(len(self.spec.epochs) - 1, trial)  # beside the reference, which it may equal
        except ConfigError as error:
            if trial.name not in self._passed:
                show(f"segtrain: warning: passed over: {error}", errors=True)
            self._passed.add(trial.name)
            return False
        return True

    def show(self) -> None:
        """Print the trials with their scores, the best of the last stage first."""
        scores = self.scores()

        def rank(trial: Trial) -> list[float]:
            return [-(of_stage.get(trial.name) or 0.0) for of_stage in reversed(scores)]

        rows = [
            (
                trial.name,
                str(trial.round + 1),
                *(_cell(of_stage, trial.name) for of_stage in scores),
                " ".join(
                    f"{key}={value if isinstance(value, str) else canonical(value)}"
                    for key, value in trial.settings.items()
                ),
            )
            for trial in sorted(self.trials, key=rank)
        ]
        heads = ("trial", "round", *(f"DSC, {epochs} epochs" for epochs in self.spec.epochs), "settings")
        show_table(f"{self.spec.name}: {len(self.trials)} of {self.spec.trials} trials in {self.folder}", rows, heads)


def _cell(of_stage: Mapping[str, float | None], name: str) -> str:
    if name not in of_stage:
        return ""
    score = of_stage[name]
    return "failed" if score is None else f"{score:.4f}"
