"""One patient read, prepared and written into a store that is being built. No torch is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import IGNORED, LGG_CONTRASTS, DataConfig, MaskLayout
from segtrain.data.building import write_array
from segtrain.data.content import mask_hash, pixels_hash, slice_hashes
from segtrain.data.label_table import refuse_unnamed_labels
from segtrain.data.masks import in_region, is_lesion
from segtrain.data.measured import Measured, measure
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources import (
    LggSource,
    PhantomSource,
    Source,
    fill_missing,
    missing_contrasts,
    read_with_mask,
)
from segtrain.data.sources.base import KnowsPeople
from segtrain.data.store_index import StoredPatient
from segtrain.errors import DataError
from segtrain.runtime import files


@dataclass(frozen=True)
class Written:
    """A patient whose files are written.

    Its entry in the index, the files' bytes and SHA-256 by folder, hashes of its slices, what was remarked when it was
    read, and figures by which traps are seen.
    """

    entry: StoredPatient
    file_bytes: dict[str, int]
    file_sha256: dict[str, str]
    slice_hashes: list[str]
    remarks: tuple[str, ...]
    measured: Measured


# A patient's files, or the reason why the patient cannot be used.
Outcome = Written | str


_used: list[Source] = []  # of this process, where it is a worker


def use_source(source: Source) -> None:
    """Let `prepare_of_used` read this source in this process."""
    _used[:] = [source]


def prepare_of_used(patient: str, cfg: DataConfig, aside: Path) -> Outcome:
    """`prepare_patient` of the source of `use_source`."""
    return prepare_patient(_used[0], patient, cfg, aside)


def prepare_patient(source: Source, patient: str, cfg: DataConfig, aside: Path) -> Outcome:
    """Read, prepare and write one patient: its index entry, or the reason why it cannot be used."""
    # All patients of the published data and all phantoms have lesions: one without is broken there.
    keeps_empty = not isinstance(source, (LggSource, PhantomSource))
    try:
        volume, mask_shw = read_with_mask(source, patient)
        refuse_unnamed_labels(source.rules, volume.label_voxels, f"patient {patient}")
        volume = fill_missing(volume, source.contrasts, cfg.missing, where=f"patient {patient}")
        prepared = preprocess(volume, Preparation.of(cfg, keeps_empty), where=f"patient {patient}")
    except DataError as error:
        return str(error)
    first, last = prepared.geometry.box[0]
    hashes = slice_hashes(volume.image_shwc)
    entry = StoredPatient(
        patient=patient,
        institution=source.institution(patient),
        areas=tuple(int(area) for area in is_lesion(prepared.mask_shw).sum(axis=(1, 2), dtype=np.int64)),
        slice_numbers=volume.slice_numbers[first:last],
        geometry=prepared.geometry,
        missing_channels=missing_contrasts(volume.image_shwc) if source.contrasts == LGG_CONTRASTS else volume.absent,
        unlabelled=tuple(np.flatnonzero((prepared.mask_shw == IGNORED).all(axis=(1, 2))).tolist()),
        spacing_mm=volume.spacing_mm,
        label_voxels=dict(volume.label_voxels),
        person=source.person(patient) if isinstance(source, KnowsPeople) else None,
        region_voxels=_region_voxels(mask_shw, source.rules.layout),
        # What is resampled while it is read may differ between machines in last bits.
        pixels="" if cfg.resample else pixels_hash(hashes),
        mask="" if cfg.resample else mask_hash(mask_shw),
    )
    arrays: dict[str, NDArray[Any]] = {"images": prepared.image_shwc.astype(np.float16), "masks": prepared.mask_shw}
    sizes, digests = {}, {}
    for kind, array in arrays.items():
        file = aside / kind / f"{patient}.npy"
        sizes[kind] = write_array(file, array)
        digests[kind] = files.sha256(file)
    return Written(
        entry,
        sizes,
        digests,
        slice_hashes=hashes,
        remarks=volume.remarks + prepared.remarks,
        measured=measure(volume, prepared, source.contrasts, source.rules.layout),
    )


def _region_voxels(mask_shw: NDArray[np.uint8], layout: MaskLayout) -> tuple[int, ...]:
    return tuple(int(np.count_nonzero(in_region(mask_shw, number))) for number in range(len(layout.regions)))
