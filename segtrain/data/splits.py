"""Splits into training and validation, by patient ids and never by slices (L1)."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.config import DataConfig
from segtrain.data.store import Store, StoredPatient
from segtrain.errors import DataError


def hash_of(train: Iterable[str], validation: Iterable[str]) -> str:
    """SHA-256 of both sides, each sorted."""
    return hashlib.sha256(json.dumps([sorted(train), sorted(validation)]).encode()).hexdigest()


@dataclass(frozen=True)
class Split:
    """Sorted patient ids of both sides: disjoint, without duplicates, no side empty."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    def __post_init__(self) -> None:
        for side, patients in (("train", self.train), ("validation", self.validation)):
            if not patients:
                raise DataError(f"split: 0 patients in {side}; every side needs at least one")
            twice = sorted({p for p in patients if patients.count(p) > 1})
            if twice:
                raise DataError(f"split: patient {twice[0]} is listed twice in {side}; list each patient once")
        both = sorted(set(self.train) & set(self.validation))
        if both:
            raise DataError(f"split: patient {both[0]} is on both sides ({len(both)} such patients); keep it on one")

    @property
    def hash(self) -> str:
        """SHA-256 of both sides: the identity of the split in checkpoints and scores."""
        return hash_of(self.train, self.validation)

    def to_json(self) -> dict[str, Any]:
        return {"hash": self.hash, "train": list(self.train), "validation": list(self.validation)}


def make_split(cfg: DataConfig, store: Store) -> Split:
    """The split that `data.split` names, of the store's patients. Raises DataError."""
    if cfg.split == "reference":
        return _reference(sorted(store.patients), cfg.validation_patients, cfg.split_seed)
    if cfg.split == "kfold":
        return _kfold(store.patients, cfg.folds, cfg.fold, cfg.split_seed)
    assert cfg.split_file is not None, "loading checks it"
    return _from_file(Path(cfg.split_file), store)


def _reference(patients: list[str], validation: int, seed: int) -> Split:
    """The draw of the public reference program: `random.Random(42).sample(sorted(patients), 10)`."""
    if len(patients) <= validation:
        raise DataError(
            f"split: {len(patients)} patients are too few for data.validation_patients={validation} and at least one "
            f"to train on; set data.validation_patients={max(1, len(patients) // 5)} or add patients"
        )
    validating = random.Random(seed).sample(patients, validation)
    return Split(tuple(p for p in patients if p not in validating), tuple(sorted(validating)))


def _kfold(patients: Mapping[str, StoredPatient], folds: int, fold: int, seed: int) -> Split:
    """Fold `fold` validates. Neighbours in order of institution and lesion volume are dealt to different folds."""
    if len(patients) < folds:
        raise DataError(
            f"split: {len(patients)} patients cannot make data.folds={folds}; set data.folds={max(2, len(patients))}"
        )
    alike = sorted(patients.values(), key=lambda p: (p.institution, p.lesion_voxels, p.patient))
    rng = np.random.Generator(np.random.Philox(seed))
    sides: tuple[list[str], list[str]] = ([], [])
    for start in range(0, len(alike), folds):
        for patient, dealt in zip(alike[start : start + folds], rng.permutation(folds), strict=False):
            sides[int(dealt) == fold].append(patient.patient)
    return Split(tuple(sorted(sides[0])), tuple(sorted(sides[1])))


def _from_file(path: Path, store: Store) -> Split:
    """From JSON `{"train": [...], "validation": [...]}`, like a run's split.json; patients of neither side stay out."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        sides = [tuple(str(p) for p in tree[side]) for side in ("train", "validation")]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; set data.split_file to a split that can be read") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{path}: not a split ({error}); write {{"train": [...], "validation": [...]}}') from error
    unknown = sorted(set(sides[0] + sides[1]) - store.patients.keys())
    if unknown:
        raise DataError(
            f"{path}: patient {unknown[0]} is not in {store.label} ({len(unknown)} such); take it off the list"
        )
    return Split(tuple(sorted(sides[0])), tuple(sorted(sides[1])))
