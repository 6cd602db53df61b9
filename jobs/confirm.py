"""The confirmation of a search: its best variant and the baseline on folds that took no part in choosing it.

It is an ablation of its own, `<name>-confirm`, whose report has the verdict to quote.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segtrain.config import Config
from segtrain.config.paths import expanded
from segtrain.data.folds import BEFORE_VERSIONS, fold_of
from segtrain.data.people import people_of
from segtrain.errors import ConfigError, NoFoldLeft, RunError
from segtrain.report.choice import Choice, choose, deal_of
from segtrain.report.measurement import Measurement
from segtrain.run import AblationRecord, Member, Search, Spec, confirmation, read_record

OPTION = "--confirm"


@dataclass(frozen=True)
class Confirmation:
    """The spec and the runs of a confirmation, and its record."""

    spec: Spec
    members: list[Member]
    record: AblationRecord

    @property
    def sentence(self) -> str:
        """What is confirmed, on one line."""
        search = self.record.search
        assert search is not None, "a confirmation has one"
        folds = ", ".join(map(str, self.spec.folds))
        return (
            f"{search.name} chose {search.chosen} of {search.variants} variants on {len(search.patients)} patients; "
            f"confirmed on folds {folds}, none of whose patients took part: {self.members[0].cfg.runs_dir}"
        )


def refuse_wrong(path: Path, spec: Spec, overrides: list[str]) -> None:
    """Raise ConfigError for what `confirm` sets wrongly, which would come up after the whole search."""
    if spec.confirm is None:
        return
    once = replace(spec.confirm, seeds=spec.confirm.seeds[:1], repeats=1 if spec.confirm.repeats else None)
    folds = spec.confirm.folds or spec.folds[:1]
    try:
        confirmation(path, replace(spec, confirm=once), folds, [next(iter(spec.variants))], overrides, {})
    except ConfigError as error:
        raise ConfigError(f"{path}: confirm: {str(error).removeprefix(f'{path}: ')}") from error


def of_search(path: Path, spec: Spec, members: Sequence[Member], overrides: list[str]) -> Confirmation:
    """The confirmation of a search whose runs have ended.

    Raises NoFoldLeft; BaselineIsBest; ConfigError: what `confirm` sets; RunError: runs have not ended, the choice has
    changed since, or a patient of the confirmation took part in choosing.
    """
    if not spec.folds:
        raise NoFoldLeft(f"{path}: has no folds, so none is left to confirm on; list some of them, folds: [0, 1]")
    folder = members[0].run.root.parent
    names: dict[str, list[str]] = {}
    for member in members:
        names.setdefault(member.variant, []).append(member.cfg.name)
    choice = choose(folder, names)
    folds = _folds(path, spec, members[0].cfg, choice)
    baseline = members[0].variant
    version = {"data.split_version": choice.version}
    new, runs = confirmation(path, spec, folds, [baseline, choice.variant], overrides, version)
    _refuse_seen(path, choice, runs)
    patients = dict(choice.patients)
    search = Search(
        spec.name,
        str(folder.absolute()),
        tuple(sorted(choice.folds)),
        choice.variants,
        choice.variant,
        baseline,
        patients,
    )
    _refuse_other_choice(runs[0].run.root.parent, search)
    return Confirmation(new, runs, AblationRecord(new.name, search=search))


def record_of(spec: Spec, members: Sequence[Member], words: Sequence[str]) -> AblationRecord:
    """The record of an ablation, with the command that confirms its best, by its words."""
    folds = _confirming_folds(spec, members[0].cfg, spec.folds) if spec.folds else []
    command = shlex.join([word for word in words if word != "--dry-run"])
    return AblationRecord(
        spec.name, f"cd {shlex.quote(str(Path.cwd()))} && {command}" if folds else "", folds_left=tuple(folds)
    )


def _confirming_folds(spec: Spec, cfg: Config, seen: Sequence[int]) -> list[int]:
    """The folds of the confirmation: those that the spec names for it, or all that were not seen."""
    return list((spec.confirm and spec.confirm.folds) or sorted(set(range(cfg.data.folds)) - {*seen}))


def _folds(path: Path, spec: Spec, cfg: Config, choice: Choice) -> list[int]:
    seen = {*spec.folds} | choice.folds
    folds = _confirming_folds(spec, cfg, sorted(seen))
    if not folds:
        raise NoFoldLeft(
            f"{path}: its runs used all {cfg.data.folds} folds, so no patient is left to confirm {choice.variant}; its "
            "report scores the best on folds that did not choose it; another search on fewer folds leaves some"
        )
    if again := sorted(seen.intersection(folds)):
        raise ConfigError(f"{path}: confirm.folds: runs of the search have used fold {again[0]}; take it off the list")
    return folds


def _refuse_seen(path: Path, choice: Choice, members: Sequence[Member]) -> None:
    """Raise RunError where a patient of these runs took part in choosing, as far as it is known before training."""
    data = members[0].cfg.data
    same_deal = choice.deals == {deal_of(data)}
    if choice.version == BEFORE_VERSIONS:
        ours, theirs = (Measurement.of(cfg, "").settings for cfg in (members[0].cfg, choice.config))
        if not same_deal or ours != theirs:
            raise RunError(
                f"{path}: data.split_version=1 deals patients by their prepared masks, so with other settings of data "
                "than the search's, patients of the search may be in these folds; use the search's, or search anew"
            )
    if same_deal:
        return
    people = people_of(choice.everybody, expanded(data.groups) if data.groups else None, choice.everybody)
    took_part = {people[patient] for patient in choice.patients}
    folds = {member.fold for member in members}
    seen = [
        patient
        for patient, person in people.items()
        if person in took_part and fold_of(person, data.folds, data.split_seed) in folds
    ]
    if seen:
        raise RunError(
            f"{path}: {OPTION}: patient {seen[0]} took part in choosing {choice.variant} ({len(seen)} such patients of "
            "these folds); use data.folds, data.split_seed and data.groups of the search"
        )


def _refuse_other_choice(folder: Path, search: Search) -> None:
    """Raise RunError where the folder has the confirmation of another choice: its patients are for one alone."""
    record = read_record(folder)
    if record is None or record.search is None:
        return
    if (before := record.search.chosen) != search.chosen:
        raise RunError(
            f"{folder}: confirms {before}, and {search.name} chooses {search.chosen} now; move the folder to confirm "
            "anew, and say that its patients have been used before"
        )
