"""Score whole patients, each once on one rank, and bring the counts to rank 0 (L3, L10).

Legend: b batch, s slice, h height, w width, c channel.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.config import EvaluateConfig
from segtrain.data.augment import to_device
from segtrain.data.store import Store, with_neighbours
from segtrain.engines.out_of_memory import is_shortage
from segtrain.evaluation.metrics import Counts, Summary, count, drop_small, largest_component, summarise
from segtrain.evaluation.overlays import Picture, overlay
from segtrain.evaluation.tta import mean_probability
from segtrain.losses import Loss
from segtrain.runtime.terminal import Progress
from segtrain.runtime.world import World

log = logging.getLogger(__name__)

FLAIR = 1


@dataclass(frozen=True)
class PatientScore:
    """One patient's volume: its counts as scored, its counts before the largest component was kept, its loss sums."""

    patient: str
    slices: int
    scored: Counts
    all_components: Counts
    loss_sums: tuple[float, ...]
    picture: Picture | None

    def row(self) -> dict[str, object]:
        """The patient's line in the table."""
        c = self.scored
        return {
            "patient": self.patient, "slices": self.slices, "voxels": c.tp + c.fn, "tp": c.tp, "fp": c.fp, "fn": c.fn,
            "dsc": f"{c.dsc:.6f}", "dsc_all_components": f"{self.all_components.dsc:.6f}",
        }  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """All patients' scores, sorted by patient; DSC over patients; the loss over all their slices as one batch."""

    scores: tuple[PatientScore, ...]
    dsc: Summary
    loss: float


def assign(slices: dict[str, int], world_size: int) -> list[list[str]]:
    """Patients per rank, longest first to the rank with the least so far: whole patients, each exactly once."""
    ranks: list[list[str]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for patient in sorted(slices, key=lambda p: (-slices[p], p)):
        least = load.index(min(load))
        ranks[least].append(patient)
        load[least] += slices[patient]
    return ranks


def evaluate(
    logits: Callable[[Tensor], Tensor],
    loss: Loss,
    store: Store,
    patients: Sequence[str],
    world: World,
    cfg: EvaluateConfig,
    check: Callable[[], None] = lambda: None,
    progress: float = 1.0,
    neighbours: int = 0,
) -> Evaluation | None:
    """The evaluation of `patients` on rank 0, None on the others; `check` is called by all ranks after each patient and
    may raise. Collective."""
    assignment = assign({p: store.patients[p].slices for p in patients}, world.size)
    mine = assignment[world.rank]
    drawn = set(sorted(patients)[: cfg.pictures])
    scores = []
    total = sum(store.patients[p].slices for p in mine)
    with Progress("evaluate", total=total, unit="slices", quiet=not world.is_main) as bar:
        for turn in range(max(map(len, assignment))):
            for patient in mine[turn : turn + 1]:
                draw = patient in drawn
                score, *_ = score_patient(logits, loss, store, patient, world.device, cfg, draw, neighbours)
                scores.append(score)
                bar.advance(store.patients[patient].slices, patient=patient)
            check()
    gathered = world.gather(scores)
    if gathered is None:
        return None
    return combine([score for part in gathered for score in part], patients, loss, progress)


def combine(scores: Sequence[PatientScore], patients: Sequence[str], loss: Loss, progress: float = 1.0) -> Evaluation:
    """The evaluation of gathered scores. Asserts that they are the split's patients, each once."""
    ordered = tuple(sorted(scores, key=lambda score: score.patient))
    found, wanted = [score.patient for score in ordered], sorted(patients)
    assert found == wanted, f"gathered {found}, but the split validates {wanted}"
    sums = torch.tensor([score.loss_sums for score in ordered], dtype=torch.float64).sum(0)
    return Evaluation(ordered, summarise([s.scored.dsc for s in ordered]), float(loss.value(sums, progress)))


def score_patient(
    logits: Callable[[Tensor], Tensor],
    loss: Loss,
    store: Store,
    patient: str,
    device: torch.device,
    cfg: EvaluateConfig,
    draw: bool,
    neighbours: int = 0,
) -> tuple[PatientScore, NDArray[np.bool_], NDArray[np.bool_]]:
    """The patient's score, and the two volumes [s, h, w] it is of: the prediction as scored, the truth."""
    image_shwc, mask_shw = store.volume(patient)
    sums: list[Tensor] = []
    probability_shw = predict_volume(
        logits, image_shwc, mask_shw, device, cfg, neighbours, lambda out, mask: sums.append(loss.sums(out, mask))
    )
    assert sums, "a stored patient has slices"
    total = sum((part.double() for part in sums[1:]), start=sums[0].double())
    predicted, true = probability_shw > np.float32(cfg.threshold), mask_shw.astype(bool)
    kept = kept_components(predicted, cfg)
    score = PatientScore(
        patient=patient,
        slices=len(true),
        scored=count(kept, true),
        all_components=count(predicted, true),
        loss_sums=tuple(total.tolist()),
        picture=_picture(image_shwc, kept, true) if draw else None,
    )
    return score, kept, true


def predict_volume(
    logits: Callable[[Tensor], Tensor],
    image_shwc: NDArray[np.float16],
    mask_shw: NDArray[np.uint8],
    device: torch.device,
    cfg: EvaluateConfig,
    neighbours: int,
    watch: Callable[[Tensor, Tensor], None] = lambda output, mask: None,
) -> NDArray[np.float32]:
    """Probabilities [s, h, w] of a prepared volume; `watch` sees each batch's logits and mask [b, 1, h, w]."""
    channels_shwc = with_neighbours(image_shwc, neighbours)
    probability_shw = np.empty(mask_shw.shape, np.float32)
    start, size = 0, cfg.batch
    while start < len(image_shwc):
        part = slice(start, start + size)
        try:
            image, mask = to_device(
                torch.from_numpy(channels_shwc[part]), torch.from_numpy(mask_shw[part]), None, device
            )
            with torch.inference_mode():
                output = logits(image)
                probability_shw[part] = mean_probability(logits, image, output, cfg.tta)[:, 0].cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error) or size == 1:
                raise
            size = (size + 1) // 2  # of this patient alone; nobody waits in the middle of one
            continue
        watch(output, mask)
        start += size
    return probability_shw


def kept_components(predicted_shw: NDArray[np.bool_], cfg: EvaluateConfig) -> NDArray[np.bool_]:
    """What of a prediction is scored: without small components, the largest alone, as the settings say."""
    kept = drop_small(predicted_shw, cfg.min_component_voxels) if cfg.min_component_voxels > 1 else predicted_shw
    return largest_component(kept) if cfg.largest_component else kept


def _picture(image_shwc: NDArray[np.float16], predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> Picture:
    """The slice with the most lesion."""
    most = int(true.sum(axis=(1, 2)).argmax())
    return overlay(image_shwc[most, ..., FLAIR].astype(np.float32), predicted[most], true[most])
