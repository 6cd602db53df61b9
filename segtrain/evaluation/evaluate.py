"""Validation: whole patients, each scored once by one rank, and the counts gathered on rank 0 (L3, L10).

Legend: b batch, s slice, h height, w width, c channel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.data.sources import FLAIR
from segtrain.data.store import Store
from segtrain.evaluation.metrics import Counts, Summary, count, kept_components, summarise
from segtrain.evaluation.overlays import Picture, overlay
from segtrain.evaluation.predictor import Predictor
from segtrain.losses.loss import Loss
from segtrain.runtime.terminal import Progress
from segtrain.runtime.world import World


@dataclass(frozen=True)
class PatientScore:
    """One patient's counts as scored and with all components, the sums of the loss, and a picture."""

    patient: str
    slices: int
    scored: Counts
    all_components: Counts
    loss_sums: tuple[float, ...]  # empty without a loss
    picture: Picture | None

    def row(self) -> dict[str, object]:
        """The patient's line in the table of an epoch."""
        return {
            "patient": self.patient,
            **self.scored.columns(self.slices),
            "dsc": f"{self.scored.dsc:.6f}",
            "dsc_all_components": f"{self.all_components.dsc:.6f}",
        }


@dataclass(frozen=True)
class Evaluation:
    """All patients' scores, sorted by patient, DSC over patients, and the loss.

    The loss is that of all their slices as one batch. Where it couples samples it is that of each patient's volume, and
    of these the mean weighted by slices, so that it depends neither on the ranks nor on `evaluate.batch`.
    """

    scores: tuple[PatientScore, ...]
    dsc: Summary
    loss: float


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
) -> Evaluation | None:
    """The evaluation of `patients` on rank 0, None on the others. Collective.

    All ranks call `check`, which may raise, as often: after each of their patients, and where others have more of them.
    """
    assignment = assign({patient: store.patients[patient].slices for patient in patients}, world.size)
    mine = assignment[world.rank]
    drawn = set(sorted(patients)[: predictor.cfg.pictures])
    scores = []
    total = sum(store.patients[patient].slices for patient in mine)
    with Progress("evaluate", total=total, unit="slices", quiet=not world.is_main) as bar:
        for turn in range(max(map(len, assignment))):
            for patient in mine[turn : turn + 1]:
                score, *_ = score_patient(predictor, loss, store, patient, draw=patient in drawn)
                scores.append(score)
                bar.advance(store.patients[patient].slices, patient=patient)
            check()
    gathered = world.gather(scores)
    if gathered is None:
        return None
    return combine([score for part in gathered for score in part], patients, loss, progress)


def assign(slices: dict[str, int], world_size: int) -> list[list[str]]:
    """Patients per rank, longest first to the rank with the least so far: whole patients, each exactly once."""
    ranks: list[list[str]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for patient in sorted(slices, key=lambda patient: (-slices[patient], patient)):
        least = load.index(min(load))
        ranks[least].append(patient)
        load[least] += slices[patient]
    return ranks


def combine(scores: Sequence[PatientScore], patients: Sequence[str], loss: Loss, progress: float = 1.0) -> Evaluation:
    """The evaluation of gathered scores. Asserts that they are the split's patients, each once."""
    ordered = tuple(sorted(scores, key=lambda score: score.patient))
    gathered, expected = [score.patient for score in ordered], sorted(patients)
    assert gathered == expected, f"gathered {gathered}, but the split validates {expected}"
    sums = torch.tensor([score.loss_sums for score in ordered], dtype=torch.float64).sum(0)
    return Evaluation(ordered, summarise([score.scored.dsc for score in ordered]), float(loss.value(sums, progress)))


def score_patient(
    predictor: Predictor, loss: Loss | None, store: Store, patient: str, draw: bool
) -> tuple[PatientScore, NDArray[np.bool_], NDArray[np.bool_]]:
    """The patient's score, and the two volumes [s, h, w] that it compares: the prediction as scored, the truth."""
    image_shwc, mask_shw = store.volume(patient)
    sums: list[Tensor] = []
    volume: list[tuple[Tensor, Tensor]] = []

    def add_loss(output: Tensor, mask: Tensor) -> None:
        if loss is not None and loss.couples:
            volume.append((output, mask))
        elif loss is not None:
            sums.append(loss.sums(output, mask).double())

    probability_shw = predictor.probability(image_shwc, mask_shw, add_loss)
    if loss is not None and volume:
        output, mask = (torch.cat(parts) for parts in zip(*volume, strict=True))
        sums.append(loss.sums(output, mask).double())
    predicted, true = predictor.over_threshold(probability_shw), mask_shw.astype(bool)
    kept = kept_components(predicted, predictor.cfg)
    score = PatientScore(
        patient=patient,
        slices=len(true),
        scored=count(kept, true),
        all_components=count(predicted, true),
        loss_sums=tuple(sum(sums[1:], start=sums[0]).tolist()) if sums else (),
        picture=_picture(image_shwc, kept, true) if draw else None,
    )
    return score, kept, true


def _picture(image_shwc: NDArray[np.float16], predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> Picture:
    """The slice with the most lesion."""
    most = int(true.sum(axis=(1, 2)).argmax())
    return overlay(image_shwc[most, ..., FLAIR].astype(np.float32), predicted[most], true[most])
