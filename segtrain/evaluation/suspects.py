"""Patients whose mask disagrees most with a confident out-of-fold prediction, worst first.

Legend: r region, s slice, h height, w width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segtrain.config import EvaluateConfig, MaskLayout
from segtrain.data.geometry import Geometry, Spacing, to_source
from segtrain.data.masks import is_known, regions_of
from segtrain.data.store import Store
from segtrain.evaluation.evidence import Evidence, Kind, Shift, evidence_of
from segtrain.evaluation.out_of_fold import OutOfFold
from segtrain.evaluation.overlays import shown_contrast
from segtrain.evaluation.swaps import Footprint, Swap, swaps
from segtrain.evaluation.units import usable, voxel_ml

PICTURES = 3  # slices of a patient that can be drawn
SMALL = 0.1  # of the median lesion: evidence of fewer voxels counts less than half


@dataclass(frozen=True)
class Drawn:
    """A slice as it is drawn: its number in the source, the contrast, prediction and mask."""

    number: int
    plane_hw: NDArray[np.float16]
    predicted_hw: NDArray[np.bool_]
    mask_hw: NDArray[np.bool_]


@dataclass(frozen=True)
class Suspect:
    """A region's mask of a patient; `region` is empty where there is one. Voxels are those of the prepared volume.

    shift: of kind shifted, what the mask is to be moved by, in voxels of the source. swapped_with: of kind swapped, the
    patient whose prediction the mask agrees with. slices: worst first; voxel_ml: None where the spacing is not known.
    """

    patient: str
    region: str
    fold: int
    run: str
    kind: Kind
    score: float
    evidence: Evidence
    slice_numbers: Sequence[int]
    slices: Sequence[Drawn]
    shift: Shift | None = None
    swapped_with: str = ""
    dsc_corrected: float | None = None
    voxel_ml: float | None = None


@dataclass(frozen=True)
class _Candidate:
    """A region of a patient before all patients are known."""

    suspect: Suspect
    geometry: Geometry
    footprint: Footprint


def suspects_of(
    predictions: Iterable[OutOfFold], store: Store, layout: MaskLayout, cfg: EvaluateConfig
) -> list[Suspect]:
    """Every region of every patient whose mask disagrees with its prediction, the most suspicious first."""
    candidates: dict[str, list[_Candidate]] = {region: [] for region in layout.regions}
    for prediction in predictions:
        for number, region in enumerate(layout.regions):
            candidates[region].append(_candidate(prediction, store, layout, number, cfg.of(region).threshold))
    suspects = [suspect for of_region in candidates.values() for suspect in _judged(of_region)]
    return sorted(suspects, key=lambda suspect: (-suspect.score, suspect.patient, suspect.region))


def _candidate(prediction: OutOfFold, store: Store, layout: MaskLayout, number: int, threshold: float) -> _Candidate:
    stored = store.patients[prediction.patient]
    known_shw = is_known(prediction.mask_shw)
    mask_shw = regions_of(prediction.mask_shw, layout)[number] & known_shw
    probability_shw = prediction.probability_rshw[number]
    evidence = evidence_of(probability_shw, mask_shw, known_shw, threshold)
    predicted_shw = (probability_shw > threshold) & known_shw
    contrast = shown_contrast(store.contrasts)
    slices = [
        Drawn(
            stored.slice_numbers[place],
            prediction.image_shwc[place, ..., contrast].copy(),
            predicted_shw[place].copy(),
            mask_shw[place].copy(),
        )
        for place in _worst(evidence)[:PICTURES]
    ]
    spacing_mm = usable(stored.spacing_mm)
    suspect = Suspect(
        patient=prediction.patient,
        region=layout.regions[number] if len(layout.regions) > 1 else "",
        fold=prediction.fold,
        run=prediction.run.name,
        kind=Kind.MISSING,  # until all patients are known
        score=0.0,
        evidence=evidence,
        slice_numbers=stored.slice_numbers,
        slices=slices,
        voxel_ml=spacing_mm and voxel_ml(stored.geometry.prepared_spacing(spacing_mm)),
    )
    in_source = (to_source(volume, stored.geometry) for volume in (mask_shw, predicted_shw))
    return _Candidate(suspect, stored.geometry, Footprint.of(*in_source))


def _worst(evidence: Evidence) -> list[int]:
    """The places of slices with confidently wrong voxels, the most first."""
    wrong = evidence.missing + evidence.extra
    return [int(place) for place in np.argsort(-wrong, kind="stable") if wrong[place] > 0]


def _judged(candidates: Sequence[_Candidate]) -> list[Suspect]:
    """The candidates of one region that are suspects, with their kinds and scores."""
    sizes = [one.suspect.evidence.mask_voxels for one in candidates]
    small = SMALL * float(np.median([size for size in sizes if size] or [1]))
    swapped = swaps({one.suspect.patient: one.footprint for one in candidates})
    judged = (_with_swap(one, swapped, small) for one in candidates)
    return [suspect for suspect in judged if suspect.score > 0]


def _with_swap(candidate: _Candidate, swapped: Mapping[str, Swap], small: float) -> Suspect:
    suspect = candidate.suspect
    evidence, swap = suspect.evidence, swapped.get(suspect.patient)
    if swap is not None:
        corrections = {**evidence.corrections, Kind.SWAPPED: swap.correction}
        evidence = replace(evidence, corrections=corrections)
    kind = evidence.kind(small)
    correction = evidence.corrections.get(kind)
    return replace(
        suspect,
        kind=kind,
        score=evidence.score(small),
        evidence=evidence,
        shift=_in_source(correction.shift, candidate.geometry) if correction and kind is Kind.SHIFTED else None,
        swapped_with=swap.other if swap and kind is Kind.SWAPPED else "",
        dsc_corrected=correction.dsc if correction else None,
    )


def _in_source(shift: Shift, geometry: Geometry) -> Shift:
    """A shift of prepared voxels in those of the source."""
    one: Spacing = (1.0, 1.0, 1.0)
    slices, rows, columns = (
        round(step * scale) for step, scale in zip(shift, geometry.prepared_spacing(one), strict=True)
    )
    return slices, rows, columns
