"""Figures of one patient, taken while it is prepared, by which the traps of `traps.py` are seen.

Cheap: on 16 slices, on the lesion's voxels, or on every second voxel.

Legend: s slice, h height, w width, c channel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import IGNORED, MaskLayout, canonical
from segtrain.data.masks import is_lesion
from segtrain.data.preprocess import Prepared
from segtrain.data.sources import Volume
from segtrain.data.sources.levels import BRIGHTEST_PERCENTILE, background_of

SIDE = 16  # of a thumbnail
FLUID_PERCENTILE = 98  # of T2: from it on is mostly fluid


@dataclass(frozen=True)
class Measured:
    """Figures of a patient.

    thumbnail: float32 [16, 16, 16] of one contrast (FLAIR where there is one) in the head's box, of mean 0 and norm 1;
    lesion_share: of the head, on 16 slices; blank_share: of the lesion, where all contrasts are 0 in the source;
    z_of_bits: the mean of each contrast by the bits of a mask's regions, where there are several; dark_fluid: the share
    of fluid, bright on T2, where FLAIR is below its median; brightest: by contrast, the 99.9th percentile as a part of
    the range, where it is not of 8 bits; darkest: by contrast, the lowest value below a background of 0; stretched: the
    share of slices of 8 bits whose maximum is 255.
    """

    thumbnail: NDArray[np.float32]
    lesion_share: float = 0.0
    blank_share: float = 0.0
    z_of_bits: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    dark_fluid: float | None = None
    brightest: Mapping[str, float] = field(default_factory=dict)
    darkest: Mapping[str, float] = field(default_factory=dict)
    stretched: float = 0.0


def measure(volume: Volume, prepared: Prepared, contrasts: Sequence[str], layout: MaskLayout) -> Measured:
    """The figures of a patient."""
    known = [canonical(contrast) for contrast in contrasts]
    slices = ((np.arange(SIDE) + 0.5) * len(prepared.mask_shw) / SIDE).astype(int)
    lesion_shw = is_lesion(prepared.mask_shw[slices])
    shown = known.index("flair") if "flair" in known else 0
    sample_shw = np.ascontiguousarray(prepared.image_shwc[slices, ..., shown])
    # By the protocol zscore all outside the head is 0, by the reference it is what the lowest tenth is clipped to.
    head_shw = sample_shw != (0 if (sample_shw == 0).any() else sample_shw.min())
    fluid = None
    if {"t2", "flair"} <= set(known):
        t2_shw = np.ascontiguousarray(prepared.image_shwc[slices, ..., known.index("t2")])
        fluid = _dark_fluid(t2_shw, sample_shw, head_shw & ~lesion_shw)
    brightest, darkest = _ranges(volume, contrasts)
    return Measured(
        thumbnail=_thumbnail(np.where(head_shw, sample_shw, sample_shw.min())),
        lesion_share=float(lesion_shw.sum() / max(1, head_shw.sum())),
        blank_share=_blank_share(volume),
        z_of_bits=_z_of_bits(prepared) if len(layout.regions) > 1 else {},
        dark_fluid=fluid,
        brightest=brightest,
        darkest=darkest,
        stretched=_stretched(volume.image_shwc),
    )


def _thumbnail(sample_shw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Block means in plane, of mean 0 and norm 1."""
    block = sample_shw.shape[1] // SIDE
    means = sample_shw.reshape(SIDE, SIDE, block, SIDE, block).mean(axis=(2, 4))
    means -= means.mean()
    norm = np.sqrt((means**2).sum())
    return np.asarray(means / norm if norm else means, np.float32)


def _blank_share(volume: Volume) -> float:
    assert volume.mask_shw is not None
    places = np.flatnonzero(is_lesion(volume.mask_shw))
    if not len(places):
        return 0.0
    values_vc = volume.image_shwc.reshape(-1, volume.image_shwc.shape[3])[places]
    return float(1 - values_vc.any(axis=1).mean())


def _z_of_bits(prepared: Prepared) -> dict[int, tuple[float, ...]]:
    """Of every pattern of bits in the mask, that of no region apart."""
    counts = np.bincount(prepared.mask_shw.ravel())
    return {
        int(bits): tuple(prepared.image_shwc[prepared.mask_shw == bits].mean(axis=0, dtype=np.float64).tolist())
        for bits in np.flatnonzero(counts)
        if bits & (IGNORED - 1)
    }


def _dark_fluid(
    t2_shw: NDArray[np.float32], flair_shw: NDArray[np.float32], healthy_shw: NDArray[np.bool_]
) -> float | None:
    t2, flair = t2_shw[healthy_shw], flair_shw[healthy_shw]
    if not len(t2) or t2.max() == t2.min():
        return None
    return float((flair[t2 >= np.percentile(t2, FLUID_PERCENTILE)] < np.median(flair)).mean())


def _ranges(volume: Volume, contrasts: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """By contrast: the brightest percentile as a part of the range, and the lowest value below a background of 0."""
    brightest, darkest = {}, {}
    if volume.image_shwc.dtype == np.uint8:
        return {}, {}
    for c, contrast in enumerate(contrasts):
        values = volume.image_shwc[..., c]
        low, high = float(values.min()), float(values.max())
        every_second = values[::2, ::2, ::2]
        above = every_second[every_second > (0 if low < 0 < high else low)]
        if len(above) and high > low:
            brightest[contrast] = (float(np.percentile(above, BRIGHTEST_PERCENTILE)) - low) / (high - low)
        if low < 0 and background_of(values) == 0:
            darkest[contrast] = low
    return brightest, darkest


def _stretched(image_shwc: NDArray[Any]) -> float:
    if image_shwc.dtype != np.uint8:
        return 0.0
    highest = image_shwc.reshape(len(image_shwc), -1).max(axis=1)
    return float((highest[highest > 0] == 255).mean()) if highest.any() else 0.0
