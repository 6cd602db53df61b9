"""What the labels of a data set are, as tables; and labels of several patients that do not fit together."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from segtrain.data.sources import LabelRules, first_few
from segtrain.data.sources.labels import WHITES
from segtrain.data.store import Store
from segtrain.errors import DataError

log = logging.getLogger(__name__)

LABELS = ("label", "is", "voxels", "patients")
REGIONS = ("region", "patients with it", "median volume in them")
MM3_OF_CM3 = 1000

Rows = list[tuple[str, ...]]


def label_rows(store: Store) -> Rows:
    """A row for each value of the masks' files, as in LABELS; none where the source does not count them."""
    rules = LabelRules(store.regions, store.ignore, store.remap)
    counts = [patient.label_voxels for patient in store.patients.values()]
    labels = sorted({label for voxels in counts for label in voxels})
    return [
        (
            str(label),
            rules.meaning(label),
            f"{sum(voxels.get(label, 0) for voxels in counts):,}",
            str(sum(label in voxels for voxels in counts)),
        )
        for label in labels
    ]


def region_rows(store: Store) -> Rows:
    """A row for each region, as in REGIONS: in cm3 where the spacing of all patients is known, else in voxels.

    None of a store that was prepared before its regions were counted.
    """
    rows: Rows = []
    patients = list(store.patients.values())
    if not any(patient.region_voxels for patient in patients):
        return rows
    has_spacing = all(patient.spacing_mm is not None for patient in patients)
    for number, region in enumerate(store.layout.regions):
        those = [patient for patient in patients if patient.region_voxels and patient.region_voxels[number]]
        voxels = [patient.region_voxels[number] for patient in those]
        if not voxels:
            volume = "-"
        elif has_spacing:
            sizes = [np.prod(patient.spacing_mm or ()) for patient in those]
            volume = f"{np.median(np.multiply(voxels, sizes)) / MM3_OF_CM3:.3g} cm3"
        else:
            volume = f"{np.median(voxels):,.0f} voxels"
        rows.append((region, f"{len(those)} of {len(patients)}", volume))
    return rows


def log_labels(store: Store) -> None:
    """Log both tables, where labels have a meaning."""
    if store.regions is None:
        return
    labels = [f"label {label}: {meaning}, {n} voxels in {p} patients" for label, meaning, n, p in label_rows(store)]
    regions = [f"region {region}: in {who} patients, median {volume}" for region, who, volume in region_rows(store)]
    for line in labels + regions:
        log.info("%s", line)


def refuse_unnamed_labels(rules: LabelRules, label_voxels: Mapping[int, int], where: str) -> None:
    """Raises DataError for a patient with several labels, where nothing says what they are."""
    labels = rules.lesion_labels(label_voxels)
    if rules.regions is None and len(labels) > 1:
        raise DataError(f"{where}: {_unnamed(labels)}")


def refuse_mixed_labels(
    rules: LabelRules, patients: Mapping[str, Mapping[int, int]], takes_any_white: bool
) -> list[str]:
    """Warnings on labels. Raises DataError for labels that mean two things in the same data set.

    takes_any_white: masks of 0 and 1 beside masks of 0 and 255 are told alone.
    """
    owner: dict[int, str] = {}
    for patient, voxels in patients.items():
        for label in voxels:
            owner.setdefault(label, patient)
    labels = rules.lesion_labels(owner)
    if rules.regions is None and len(labels) > 1:
        shown = " and ".join(f"{label} in {owner[label]}" for label in labels[:2])
        if set(labels) <= set(WHITES):
            mixed = (
                f"masks of one data set have white as {shown}; save all alike (0 and 255), or name the labels, as in "
                f"data.regions='{{lesion: {labels}}}'"
            )
            if takes_any_white:
                return [mixed]
            raise DataError(mixed)
        raise DataError(f"masks have {shown}; {_unnamed(labels)}")
    for label, target in rules.remapped_into_use(owner):
        raise DataError(
            f"data.remap={{{label}: {target}}} would mix label {label} (in patient {owner[label]}) with label "
            f"{target}, which is in use (in patient {owner[target]}); leave it out, and list {label} in a region"
        )
    return _unmet(rules, owner)


def _unmet(rules: LabelRules, owner: Mapping[int, str]) -> list[str]:
    """Warnings on regions without a label in any mask, and on rules for labels that no mask has."""
    if not owner:
        return []
    remap = rules.remap or {}
    met = {remap.get(label, label) for label in owner}
    warnings = [
        f"region {region} (labels {first_few(labels)}) is in no patient; check data.regions"
        for region, labels in (rules.regions or {}).items()
        if not met & set(labels)
    ]
    if unmet := [label for label in (*rules.ignore, *remap) if label not in owner]:
        warnings.append(f"data.ignore or data.remap names label {first_few(unmet)}, which no mask has")
    return warnings


def _unnamed(labels: Sequence[int]) -> str:
    return (
        f"masks have labels {first_few(labels)}, and nothing says what they are; name regions, as in "
        f"data.regions='{{lesion: {list(labels)}}}'"
    )
