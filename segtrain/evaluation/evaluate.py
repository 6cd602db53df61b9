"""Validation: whole patients, each scored once by one rank, and the counts gathered on rank 0 (L3, L10).

Legend: b batch, s slice, h height, w width, c channel, r region.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from heapq import heapreplace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.data.augment.draws import empty
from segtrain.data.masks import regions_of
from segtrain.data.people import values_by_person
from segtrain.data.store import Store
from segtrain.data.store_index import StoredPatient
from segtrain.evaluation.lesion_marks import picture_of
from segtrain.evaluation.lesion_places import caption, lesions_of_regions, worst_of
from segtrain.evaluation.metrics import Counts, Summary, among_known, count, summarise
from segtrain.evaluation.overlays import Picture, shown_contrast
from segtrain.evaluation.predictor import Predictor, Queued
from segtrain.evaluation.units import Spacing, prepared_spacing, prepared_voxel_ml
from segtrain.losses.loss import Loss
from segtrain.runtime.gpu import fence
from segtrain.runtime.terminal import Progress
from segtrain.runtime.world import World


@dataclass(frozen=True)
class RegionScore:
    """A region's counts in one patient: of the prediction as scored, and with all its components."""

    scored: Counts
    all_components: Counts


@dataclass(frozen=True)
class PatientScore:
    """One patient's counts by region, the sums of the loss, and pictures.

    worst_lesion: the slice of that, with its words, where it is not in `picture`; lesions: how many were found.
    """

    patient: str
    slices: int
    regions: Mapping[str, RegionScore]
    loss_sums: tuple[float, ...]  # empty without a loss
    picture: Picture | None
    worst_lesion: tuple[str, Picture] | None = None
    lesions: str = ""

    @property
    def dsc(self) -> float:
        """The mean over the regions."""
        return math.fsum(region.scored.dsc for region in self.regions.values()) / len(self.regions)

    def rows(self) -> list[dict[str, object]]:
        """The patient's lines in the table of an epoch: one a region, named where there are several."""
        return [
            {
                "patient": self.patient,
                **({"region": name} if len(self.regions) > 1 else {}),
                **region.scored.columns(self.slices),
                "dsc": f"{region.scored.dsc:.6f}",
                "dsc_all_components": f"{region.all_components.dsc:.6f}",
            }
            for name, region in self.regions.items()
        ]


@dataclass(frozen=True)
class Evaluation:
    """All patients' scores, sorted by patient, DSC over people, and the loss.

    `dsc` is of each person's mean over scans and regions, `regions` of the mean over scans alone. The loss is that of
    all their slices as one batch. Where it couples samples it is that of each patient's volume, and of these the mean
    weighted by slices, so that it depends neither on the ranks nor on `evaluate.batch`.
    """

    scores: tuple[PatientScore, ...]
    dsc: Summary
    regions: Mapping[str, Summary]
    loss: float

    @property
    def people(self) -> int | None:
        """The number of people; None where each has one patient id."""
        return self.dsc.n if self.dsc.n < len(self.scores) else None


def _do_nothing() -> None:
    pass


def evaluate(
    predictor: Predictor,
    loss: Loss,
    store: Store,
    patients: Sequence[str],
    world: World,
    check: Callable[[], None] = _do_nothing,
    progress: float = 1.0,
    people: Mapping[str, str] | None = None,
) -> Evaluation | None:
    """The evaluation of `patients` on rank 0, None on the others. Collective.

    A thread waits for a patient's prediction, counts its voxels and draws its picture; the next patient is queued by
    then, so that a GPU always has work.
    `people`: the person of each patient who has several ids. All ranks call `check`, which may raise, as often: after
    each of their patients, and where others have more of them.
    """
    slices = store.columns.slices_of(patients)
    assignment = assign(slices, world.size)
    mine = assignment[world.rank]
    drawn = set(sorted(patients)[: predictor.cfg.pictures])
    scores: list[PatientScore] = []
    total = sum(slices[patient] for patient in mine)
    with (
        ThreadPoolExecutor(1, "score") as scorer,
        Progress("evaluate", total=total, unit="slices", quiet=not world.is_main) as bar,
    ):
        waiting: Future[PatientScore] | None = None
        for turn in range(max(map(len, assignment))):
            for patient in mine[turn : turn + 1]:
                predicted = _predict(predictor, loss, store, patient)
                if waiting:  # for the one before: no more than two are on the device
                    scores.append(waiting.result())
                waiting = scorer.submit(_score_of, predictor, store, predicted, patient in drawn)
                bar.advance(slices[patient], patient=patient)
            check()
        if waiting:
            scores.append(waiting.result())
    gathered = world.gather(scores)
    if gathered is None:
        return None
    return combine([score for part in gathered for score in part], patients, loss, progress, people)


def assign(slices: dict[str, int], world_size: int) -> list[list[str]]:
    """Patients per rank, longest first to the rank with the least so far: whole patients, each exactly once."""
    ranks: list[list[str]] = [[] for _ in range(world_size)]
    loads = [(0, rank) for rank in range(world_size)]  # a heap
    for patient in sorted(slices, key=lambda patient: (-slices[patient], patient)):
        load, least = loads[0]
        ranks[least].append(patient)
        heapreplace(loads, (load + slices[patient], least))
    return ranks


def combine(
    scores: Sequence[PatientScore],
    patients: Sequence[str],
    loss: Loss,
    progress: float = 1.0,
    people: Mapping[str, str] | None = None,
) -> Evaluation:
    """The evaluation of gathered scores. Asserts that they are the split's patients, each once."""
    ordered = tuple(sorted(scores, key=lambda score: score.patient))
    gathered, expected = [score.patient for score in ordered], sorted(patients)
    assert gathered == expected, f"gathered {gathered}, but the split validates {expected}"
    sums = torch.tensor([score.loss_sums for score in ordered], dtype=torch.float64).sum(0)
    dsc = _over_people({score.patient: score.dsc for score in ordered}, people)
    regions = {
        name: _over_people({score.patient: score.regions[name].scored.dsc for score in ordered}, people)
        for name in ordered[0].regions
    }
    return Evaluation(ordered, dsc, regions, float(loss.value(sums, progress)))


def _over_people(values: Mapping[str, float], people: Mapping[str, str] | None) -> Summary:
    return summarise(values_by_person(values, people or {}))


def score_patient(
    predictor: Predictor, loss: Loss | None, store: Store, patient: str, draw: bool
) -> tuple[PatientScore, NDArray[np.bool_], NDArray[np.bool_]]:
    """The patient's score, and the two volumes [r, s, h, w] that it compares: the prediction as scored, the truth.

    Neither has voxels that the mask ignores.
    """
    return _scored(predictor, store, _predict(predictor, loss, store, patient), draw)


@dataclass(frozen=True)
class _Predicted:
    """A patient as prepared, and what the network makes of it. loss_sums: waits for those of the volume."""

    patient: StoredPatient
    image_shwc: NDArray[np.float16]
    mask_shw: NDArray[np.uint8]
    probability: Queued
    loss_sums: Callable[[], tuple[float, ...]]


def _predict(predictor: Predictor, loss: Loss | None, store: Store, patient: str) -> _Predicted:
    """The work of the device, queued."""
    stored = store.patients[patient]
    image_shwc, mask_shw = store.volume(patient)
    sums: list[Tensor] = []
    volume: list[tuple[Tensor, Tensor]] = []

    def add_loss(output: Tensor, mask: Tensor) -> None:
        if loss is not None and loss.couples:
            volume.append((output, mask))
        elif loss is not None:
            sums.append(loss.sums(output, mask).double())

    probability = predictor.queue(image_shwc, mask_shw, add_loss, stored.spacing_mm, f"patient {patient}")
    if loss is not None and volume:
        output, mask = (torch.cat(parts) for parts in zip(*volume, strict=True))
        sums.append(loss.sums(output, mask).double())
    return _Predicted(stored, image_shwc, mask_shw, probability, _total(sums, predictor.device))


def _total(sums: Sequence[Tensor], device: torch.device) -> Callable[[], tuple[float, ...]]:
    """What waits for the sum of these, and for nothing that the device gets later; it is empty of none."""
    if not sums:
        return tuple
    total = sum(sums[1:], start=sums[0])
    copied = empty(tuple(total.shape), total.dtype, pin=device.type == "cuda").copy_(total, non_blocking=True)
    wait = fence(device)

    def values() -> tuple[float, ...]:
        wait()
        return tuple(copied.tolist())

    return values


def _scored(
    predictor: Predictor, store: Store, predicted: _Predicted, draw: bool
) -> tuple[PatientScore, NDArray[np.bool_], NDArray[np.bool_]]:
    """The work of the CPU, once the device has done its own: see `score_patient`."""
    stored, mask_shw = predicted.patient, predicted.mask_shw
    layout, true_rshw = predictor.layout, regions_of(mask_shw, predictor.layout)
    predicted_rshw = predictor.over_threshold(predicted.probability.result())
    voxel_ml = prepared_voxel_ml(stored.spacing_mm, stored.geometry)
    kept_rshw = among_known(predictor.kept(predicted_rshw, voxel_ml), mask_shw, layout)
    predicted_rshw = among_known(predicted_rshw, mask_shw, layout)
    pictures = _Pictures()
    if draw:
        spacing_mm = prepared_spacing(stored.spacing_mm, stored.geometry)
        pictures = _pictures(predicted.image_shwc, store.contrasts, kept_rshw, true_rshw, layout.regions, spacing_mm)
    score = PatientScore(
        patient=stored.patient,
        slices=len(mask_shw),
        regions={
            name: RegionScore(count(kept, true), count(all_components, true))
            for name, kept, all_components, true in zip(
                layout.regions, kept_rshw, predicted_rshw, true_rshw, strict=True
            )
        },
        loss_sums=predicted.loss_sums(),
        picture=pictures.most,
        worst_lesion=pictures.worst_lesion,
        lesions=pictures.caption,
    )
    return score, kept_rshw, true_rshw


def _score_of(predictor: Predictor, store: Store, predicted: _Predicted, draw: bool) -> PatientScore:
    """The score alone: nobody needs the volumes."""
    return _scored(predictor, store, predicted, draw)[0]


@dataclass(frozen=True)
class _Pictures:
    most: Picture | None = None
    worst_lesion: tuple[str, Picture] | None = None
    caption: str = ""


def _pictures(
    image_shwc: NDArray[np.float16],
    contrasts: Sequence[str],
    predicted_rshw: NDArray[np.bool_],
    true_rshw: NDArray[np.bool_],
    regions: Sequence[str],
    spacing_mm: Spacing | None,
) -> _Pictures:
    """The slice with the most lesion, and where it is another one, that of the worst lesion."""
    lesions = lesions_of_regions(predicted_rshw, true_rshw, regions, spacing_mm)

    def picture(place: int) -> Picture:
        plane_hw = image_shwc[place, ..., shown_contrast(contrasts)].astype(np.float32)
        return picture_of(plane_hw, predicted_rshw[:, place], true_rshw[:, place], lesions, place)

    most, worst = int(true_rshw.any(axis=0).sum(axis=(1, 2)).argmax()), worst_of(lesions)
    other = (worst.words, picture(worst.place)) if worst and worst.place != most else None
    return _Pictures(picture(most), other, caption(lesions))
