"""A data set's labels and contrasts that are not what their names say, by the intensities of what they name."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segtrain.config import canonical
from segtrain.data.measured import Measured
from segtrain.data.sources import LabelRules
from segtrain.data.store_index import StoredPatient

FEWEST = 3  # patients that a figure of the whole set needs
CLEARLY = 0.2  # standard deviations between the means of two tissues
ENHANCING = re.compile(r"enhanc|^et$|^at$", re.IGNORECASE)
CORE = re.compile(r"core|^tc$|necro|enhanc|^et$", re.IGNORECASE)

Pair = tuple[StoredPatient, Measured]


@dataclass(frozen=True)
class DataSet:
    """All patients of a source, and what is known of it. people: the person of each patient id."""

    patients: Sequence[Pair]
    contrasts: Sequence[str]
    rules: LabelRules
    people: Mapping[str, str]
    is_resampled: bool = False  # to one spacing

    @property
    def ids(self) -> list[str]:
        """The patients' ids."""
        return [entry.patient for entry, _ in self.patients]


def tissues(data: DataSet) -> Iterator[str]:
    """Labels whose intensities are those of another tissue than their region's name says."""
    known = [canonical(contrast) for contrast in data.contrasts]
    labels_of = _labels_of_bits(data)
    means = {
        bits: np.median([one.z_of_bits[bits] for _, one in data.patients if bits in one.z_of_bits], axis=0)
        for bits in labels_of
        if any(bits in one.z_of_bits for _, one in data.patients)
    }
    if len(means) < 2:
        return
    names = list(data.rules.regions or ())
    if {"t1", "t1ce"} <= set(known):
        uptake = {bits: z[known.index("t1ce")] - z[known.index("t1")] for bits, z in means.items()}
        yield from _low_uptake(uptake, labels_of, names)
    if "flair" in known:
        flair = {bits: z[known.index("flair")] for bits, z in means.items()}
        brightest = max(flair, key=lambda bits: flair[bits])
        others = [flair[bits] for bits in flair if bits != brightest]
        for region in _inside(brightest, names, CORE)[:1]:
            if flair[brightest] > max(others) + CLEARLY:
                yield (
                    f"label {_shown(labels_of[brightest])} in region {region} has the highest z(FLAIR), "
                    f"{flair[brightest]:.2f} against {max(others):.2f}, as edema has; check the numbers of "
                    "data.regions: edema is 1 in MSD and nnU-Net, 2 in BraTS"
                )


def _low_uptake(uptake: Mapping[int, float], labels_of: Mapping[int, list[int]], names: Sequence[str]) -> Iterator[str]:
    highest = max(uptake, key=lambda bits: uptake[bits])
    enhancing = [bits for bits in uptake if _inside(bits, names, ENHANCING)]
    if not enhancing or highest in enhancing:
        return
    best = max(enhancing, key=lambda bits: uptake[bits])
    if uptake[highest] <= uptake[best] + CLEARLY:
        return
    region = _inside(best, names, ENHANCING)[0]
    yield (
        f"label {_shown(labels_of[highest])} has the highest z(t1ce) - z(t1), {uptake[highest]:.2f}, but is not in "
        f"region {region}, whose label {_shown(labels_of[best])} has {uptake[best]:.2f}; check the numbers of "
        "data.regions: enhancing tumour is 4 until BraTS 2021, 3 from 2023, 1 in PED 2024"
    )
    for bits in enhancing:
        if 4 in labels_of[bits] and uptake[bits] < uptake[highest] - CLEARLY:
            yield (
                f"label 4 in region {region} takes up little contrast (z(t1ce) - z(t1) {uptake[bits]:.2f}): it is the "
                "resection cavity in BraTS GLI 2024 and edema in PED 2024; leave it out of that region there"
            )


def _inside(bits: int, names: Sequence[str], kind: re.Pattern[str]) -> list[str]:
    """The regions of that kind that voxels of these bits are in."""
    return [name for number, name in enumerate(names) if bits >> number & 1 and kind.search(name)]


def _labels_of_bits(data: DataSet) -> dict[int, list[int]]:
    labels = sorted({label for entry, _ in data.patients for label in entry.label_voxels if label})
    named = [label for labels in (data.rules.regions or {}).values() for label in labels]
    labels_of = defaultdict(list)
    for label in labels or sorted(set(named)):
        labels_of[data.rules.bits_of(label)].append(label)
    return labels_of


def _shown(labels: Sequence[int]) -> str:
    return "/".join(map(str, labels))


def channel_order(data: DataSet) -> Iterator[str]:
    """T2 or FLAIR that may be another contrast: fluid is bright on T2 and dark on FLAIR."""
    shares = [one.dark_fluid for _, one in data.patients if one.dark_fluid is not None]
    if len(shares) >= FEWEST and (median := float(np.median(shares))) < 0.5:
        yield (
            f"what is brightest on T2, mostly fluid, is dark on FLAIR in {median:.0%} of its voxels alone (median of "
            f"{len(shares)} patients); check the order of data.contrasts"
        )
