"""Patients predicted out of fold: each by the runs of a k-fold ablation that did not train on the person.

Legend: r region, s slice, h height, w width, c channel.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segtrain.config import Config, first_difference
from segtrain.data.sources import first_few
from segtrain.data.store import Store
from segtrain.errors import RunError
from segtrain.evaluation.ensemble import TrainedCheckpoint, opened
from segtrain.evaluation.trained_on import trained_on
from segtrain.runtime.terminal import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutOfFold:
    """One patient as prepared, predicted by a run that did not train on the person.

    mask_shw: bits of regions, and the bit of ignored voxels; run: the first of the fold, where it has several seeds.
    """

    patient: str
    fold: int
    run: Path
    image_shwc: NDArray[np.float16]
    mask_shw: NDArray[np.uint8]
    probability_rshw: NDArray[np.float32]


@dataclass(frozen=True)
class Fold:
    """The runs that hold out the same patients, one for each seed. They predict these as an ensemble."""

    number: int
    checkpoints: tuple[TrainedCheckpoint, ...]

    @property
    def patients(self) -> frozenset[str]:
        return self.checkpoints[0].validation


def out_of_fold(checkpoints: Sequence[TrainedCheckpoint], store: Store) -> Iterator[OutOfFold]:
    """Each patient that a fold holds out, once, fold by fold; several seeds of a fold give their mean probability.

    Patients that no fold holds out are named in a warning. Raises RunError: the runs are not folds of one split, or of
    several variants, or a patient's person was trained on (L1). DataError: the store does not have a patient.
    """
    folds = folds_of(checkpoints)
    predicted = frozenset[str]().union(*(fold.patients for fold in folds))
    store.require(predicted)
    if left := sorted(store.patients.keys() - predicted):
        log.warning(
            "%d of %d patients (%s) are in the validation side of none of these runs and have no prediction; name the "
            "runs of all folds",
            len(left),
            len(store.patients),
            first_few(left),
        )
    return _predicted(folds, store)


def folds_of(checkpoints: Sequence[TrainedCheckpoint]) -> list[Fold]:
    """The checkpoints by the patients that they hold out, in the order of the folds. Raises RunError."""
    first = checkpoints[0]
    by_side: dict[frozenset[str], list[TrainedCheckpoint]] = defaultdict(list)
    for one in checkpoints:
        _refuse_other_variant(one, first)
        by_side[one.validation].append(one)
    folds = [Fold(runs[0].cfg.data.fold, tuple(runs)) for runs in by_side.values()]
    folds.sort(key=lambda fold: (fold.number, fold.checkpoints[0].run.root))
    for fold in folds:
        _refuse_other_split(fold, folds)
        if seen := sorted(trained_on(fold.patients, fold.checkpoints)):
            raise RunError(
                f"{fold.checkpoints[0].run.root}: patient {seen[0]} is in its validation side, but it was trained on "
                f"the person ({len(seen)} such patients), so it does not predict out of fold; train it again"
            )
    return folds


def _predicted(folds: Sequence[Fold], store: Store) -> Iterator[OutOfFold]:
    total = sum(sum(store.columns.slices_of(fold.patients).values()) for fold in folds)
    with Progress("predict out of fold", total=total, unit="slices") as bar:
        for fold in folds:
            with opened(fold.checkpoints) as predictor:
                for patient in sorted(fold.patients):
                    image_shwc, mask_shw = store.volume(patient)
                    yield OutOfFold(
                        patient=patient,
                        fold=fold.number,
                        run=fold.checkpoints[0].run.root,
                        image_shwc=image_shwc,
                        mask_shw=mask_shw,
                        probability_rshw=predictor.probability(
                            image_shwc,
                            mask_shw,
                            spacing_mm=store.patients[patient].spacing_mm,
                            where=f"patient {patient}",
                        ),
                    )
                    bar.advance(store.patients[patient].slices, patient=patient)


def _refuse_other_variant(one: TrainedCheckpoint, first: TrainedCheckpoint) -> None:
    """Raise RunError where two runs differ in more than fold and seed."""
    theirs = first.cfg
    ours = _as_fold_of(one.cfg, theirs)
    difference = first_difference(ours, theirs)
    if ours.train.epochs != theirs.train.epochs:
        difference = "train.epochs", ours.train.epochs, theirs.train.epochs
    if difference is not None:
        key, value, other = difference
        raise RunError(
            f"{one.run.root}: {key}={value}, but {first.run.root} has {other}; name the folds of one variant alone"
        )


def _as_fold_of(cfg: Config, other: Config) -> Config:
    """The config with the other's name, fold and seed."""
    # Each fold may have a split file of its own: what matters are the sides, which are compared.
    data = replace(cfg.data, fold=other.data.fold, split_file=other.data.split_file)
    return replace(cfg, name=other.name, seed=other.seed, data=data)


def _refuse_other_split(fold: Fold, folds: Sequence[Fold]) -> None:
    """Raise RunError where the fold is not one of the same split as the others."""
    mine, first = fold.checkpoints[0], folds[0].checkpoints[0]
    remedy = "these are no folds of one split; name runs that were trained with the same data.split"
    for run in fold.checkpoints:
        if run.train | run.validation != first.train | first.validation:
            raise RunError(f"{run.run.root}: its patients are others than those of {first.run.root}; {remedy}")
    for other in folds:
        theirs = other.checkpoints[0]
        if other is fold:
            continue
        if both := sorted(fold.patients & other.patients):
            raise RunError(
                f"{mine.run.root}: patient {both[0]} validates here and in {theirs.run.root} ({len(both)} such "
                f"patients), beside others; {remedy}"
            )
        if fold.number == other.number:
            raise RunError(
                f"{mine.run.root}: data.fold={fold.number} has other patients in {theirs.run.root}; {remedy}"
            )
