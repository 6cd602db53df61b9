"""Splits into training and validation, by patient ids and never by slices (L1)."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtrain.config import DataConfig
from segtrain.config.json_text import json_in
from segtrain.config.paths import expanded
from segtrain.data.folds import BEFORE_VERSIONS, NEWEST, Group, by_volume, empty_fold, fold_of, seed_without_empty_fold
from segtrain.data.people import groups_of, people_of, refuse_parted, several
from segtrain.data.published import is_published, published_validation
from segtrain.data.store import Store
from segtrain.errors import DataError


def hash_of(train: Iterable[str], validation: Iterable[str]) -> str:
    """SHA-256 of both sides, each sorted."""
    return hashlib.sha256(json.dumps([sorted(train), sorted(validation)]).encode()).hexdigest()


@dataclass(frozen=True)
class Split:
    """Sorted patient ids of both sides: disjoint, without duplicates, no side empty.

    version: of the definition that they follow; None: they are from a file.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    people: Mapping[str, str] = field(default_factory=dict)  # the person of each patient who has several ids
    version: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for side, patients in (("train", self.train), ("validation", self.validation)):
            if not patients:
                raise DataError(f"split: 0 patients in {side}; every side needs at least one")
            twice = sorted(patient for patient, count in Counter(patients).items() if count > 1)
            if twice:
                raise DataError(f"split: patient {twice[0]} is listed twice in {side}; list each patient once")
        both = sorted(set(self.train) & set(self.validation))
        if both:
            raise DataError(f"split: patient {both[0]} is on both sides ({len(both)} such patients); keep it on one")
        refuse_parted((("train", self.train), ("validation", self.validation)), self.people, "split")

    @property
    def hash(self) -> str:
        """SHA-256 of both sides: the identity of the split in checkpoints and scores."""
        return hash_of(self.train, self.validation)

    @property
    def counts_of_people(self) -> tuple[int, int]:
        """The number of patients whose person has several, and of these people."""
        return len(self.people), len(set(self.people.values()))

    def to_json(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"hash": self.hash}
        if self.version is not None:
            tree["version"] = self.version
        tree |= {"train": list(self.train), "validation": list(self.validation)}
        return tree | ({"people": dict(self.people)} if self.people else {})


def make_split(cfg: DataConfig, store: Store) -> Split:
    """The split that `data.split` names; the patients of one person stay together. Raises DataError."""
    people = people_in(cfg, store)
    if cfg.split == "file":
        assert cfg.split_file is not None, "loading checks it"
        sides = _from_file(expanded(cfg.split_file), store, cfg.fold)
        refuse_parted((("train", sides[0]), ("validation", sides[1])), people, cfg.split_file)
    else:
        groups = groups_of(store.patients, people)
        refuse_impossible(cfg, groups, people)
        draw = _reference if cfg.split == "reference" else _kfold
        validating = draw(cfg, groups, people, store)
        sides = tuple(sorted(store.patients.keys() - validating)), tuple(sorted(validating))
    of_sides = several({patient: people[patient] for side in sides for patient in side})
    return Split(*sides, of_sides, None if cfg.split == "file" else cfg.split_version or NEWEST)


def people_in(cfg: DataConfig, store: Store) -> dict[str, str]:
    """The person of each patient of a store. Raises DataError."""
    return people_of(store.patients, expanded(cfg.groups) if cfg.groups else None, store.columns.people)


def refuse_impossible(cfg: DataConfig, groups: Sequence[Group], people: Mapping[str, str]) -> None:
    """Raise DataError where these people cannot be split as the config says, which their names alone tell."""
    validation, folds = cfg.validation_patients, cfg.folds
    if cfg.split == "reference" and len(groups) <= validation:
        raise DataError(
            f"split: {_count(groups)} are too few for data.validation_patients={validation} and at least one "
            f"to train on; set data.validation_patients={max(1, len(groups) // 5)} or add patients"
        )
    if cfg.split == "kfold" and len(groups) < folds:
        raise DataError(f"split: {_count(groups)} cannot make data.folds={folds}; set data.folds={max(2, len(groups))}")
    if cfg.split_version == BEFORE_VERSIONS:
        return
    names = [people[group[0]] for group in groups]
    if is_published(cfg, names):
        published_validation(cfg, names)
    if cfg.split == "kfold" and (empty := empty_fold(names, folds, cfg.split_seed)) is not None:
        seed = seed_without_empty_fold(names, folds, cfg.split_seed)
        remedy = "fewer data.folds" if seed is None else f"data.split_seed={seed}, which leaves none empty"
        raise DataError(
            f"split: data.split_seed={cfg.split_seed} leaves fold {empty} of data.folds={folds} empty, with "
            f"{_count(groups)}; set {remedy}"
        )


def _reference(cfg: DataConfig, groups: list[Group], people: Mapping[str, str], store: Store) -> set[str]:
    """The ten published people, or the draw of the public reference program.

    That is `random.Random(42).sample(sorted(patients), 10)`; of people instead, each by the first patient, which is the
    same where nobody has two.
    """
    by_first = {group[0]: group for group in groups}
    if cfg.split_version != BEFORE_VERSIONS and is_published(cfg, people.values()):
        ten = published_validation(cfg, people.values())
        if ten is not None:
            return {patient for patient in store.patients if people[patient] in ten}
    drawn = random.Random(cfg.split_seed).sample(list(by_first), cfg.validation_patients)
    return {patient for first in drawn for patient in by_first[first]}


def _kfold(cfg: DataConfig, groups: list[Group], people: Mapping[str, str], store: Store) -> set[str]:
    """Fold `data.fold` validates."""
    if cfg.split_version == BEFORE_VERSIONS:
        dealt = by_volume(groups, store.patients, cfg.folds, cfg.split_seed)
        return {patient for group, fold in dealt.items() if fold == cfg.fold for patient in group}
    return {p for p in store.patients if fold_of(people[p], cfg.folds, cfg.split_seed) == cfg.fold}


def _count(groups: Sequence[Group]) -> str:
    patients = sum(map(len, groups))
    return f"{patients} patients" + (f" of {len(groups)} people" if len(groups) < patients else "")


def _from_file(path: Path, store: Store, fold: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """From JSON `{"train": [...], "validation": [...]}`, like a run's split.json; patients of neither side stay out.

    Or from nnU-Net's splits_final.json, a list of `{"train": [...], "val": [...]}`, whose entry `fold` is taken.
    """
    try:
        tree = json_in(path)
        names = ("train", "val") if isinstance(tree, list) else ("train", "validation")
        if isinstance(tree, list) and fold >= len(tree):
            raise DataError(f"{path}: has {len(tree)} folds, but data.fold={fold}; folds count from 0")
        tree = tree[fold] if isinstance(tree, list) else tree
        sides = [tuple(str(p) for p in tree[side]) for side in names]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; set data.split_file to a split that can be read") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{path}: not a split ({error}); write {{"train": [...], "validation": [...]}}') from error
    unknown = sorted(set(sides[0] + sides[1]) - store.patients.keys())
    if unknown:
        raise DataError(
            f"{path}: patient {unknown[0]} is not in {store.label} ({len(unknown)} such); take it off the list"
        )
    return tuple(sorted(sides[0])), tuple(sorted(sides[1]))
