"""Lesions of a region, true and predicted, matched: counts, recall, precision, F1 and Dice by lesion.

A lesion is a component of voxels that touch by a face, an edge or a corner (26 neighbours), as in the challenges whose
code is named in RULES. (MSSEG's tool, animaSegPerfAnalyzer, joins through faces only and asks for 10% of overlap.)

A true lesion is found if any predicted lesion touches its zone; a predicted lesion that touches no zone is false. By
the rule `overlap` a zone is the lesion itself. By BraTS's rules it is the lesion grown by some steps; true components
whose zones meet are one lesion; and true lesions up to some volume are small: neither they nor the predicted lesions
that touch no others are counted.

Empty rule: no true lesion: no recall; no predicted one: no precision; neither: F1 and lesion-wise Dice 1; only one of
them: both 0. Small lesions, and predicted ones that match these alone, count as none.

Legend: s slice, h height, w width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.evaluation.metrics import occupied
from segtrain.evaluation.surfels import hd95_by_lesion
from segtrain.evaluation.units import Spacing, in_unit, unit

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]  # 0 outside, lesions from 1
Sizes = NDArray[np.int64]  # voxels, by lesion
Scores = dict[str, float | None]

EMPTY_RULE = (
    "no true lesion: no lesion recall; no predicted one: no lesion precision; neither: lesion F1 and lesion-wise Dice "
    "1; only one of them: both 0"
)
EMPTY_HD95_RULE = "neither: lesion-wise HD95 0; only one of them: 374"  # by BraTS's rules
NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)
NEIGHBOURS_18 = ndimage.generate_binary_structure(3, 2)
# Between the size classes of recall. Powers of ten: the challenges agree on no classes.
SIZE_STEPS = {"ml": (0.1, 1.0, 10.0), "voxels": (10, 100, 1000)}


@dataclass(frozen=True)
class MatchingRule:
    """`steps`: true lesions grow by so many steps through faces and edges; `small_mm3`: up to it they do not count;
    `missed_hd95`: the HD95 of a missed or false lesion, in mm; None: there is no lesion-wise HD95.

    Where the spacing is not known, a voxel counts as 1 mm3, as BraTS's have.
    """

    steps: int
    small_mm3: float
    about: str
    source: str
    missed_hd95: float | None = None


_BRATS_CODE = "github.com/rachitsaluja/BraTS-2023-Metrics, metrics.py (commit 43c9052)"
_BRATS_MISSED = 374.0  # about the diagonal of BraTS's volumes, 240 x 240 x 155 mm
RULES: Mapping[str, MatchingRule] = {
    "overlap": MatchingRule(
        0,
        0,
        "any common voxel",
        "WMH Segmentation Challenge 2017 (Kuijf et al., IEEE TMI 2019; github.com/hjkuijf/wmhchallenge, evaluation.py)",
    ),
    "brats2023": MatchingRule(
        3, 50, "BraTS 2023: glioma, Sub-Saharan Africa, paediatric tumours", _BRATS_CODE, _BRATS_MISSED
    ),
    "brats2023_meningioma": MatchingRule(1, 50, "BraTS 2023: meningioma", _BRATS_CODE, _BRATS_MISSED),
    "brats2023_metastases": MatchingRule(1, 2, "BraTS 2023: metastases", _BRATS_CODE, _BRATS_MISSED),
}
DEFAULT_RULE = "overlap"
# Without the columns that name their unit.
NAMES = (
    "lesions",
    "lesions_found",
    "lesions_predicted",
    "lesions_false",
    "lesion_recall",
    "lesion_precision",
    "lesion_f1",
    "lesion_dsc",
)


@dataclass(frozen=True)
class Matching:
    """True and predicted lesions of a region, and which of them match.

    `true_shw`, `predicted_shw`: labels in a box that starts at `origin`; `matches`: pairs of a true and a predicted
    lesion, from 0, each pair once; `overlap_voxels`: of each true lesion with any prediction.
    """

    rule: MatchingRule
    spacing_mm: Spacing | None
    origin: tuple[int, int, int]
    true_shw: Labels
    predicted_shw: Labels
    true_voxels: Sizes
    predicted_voxels: Sizes
    overlap_voxels: Sizes
    matches: tuple[NDArray[np.int64], NDArray[np.int64]]

    @cached_property
    def matched_voxels(self) -> Sizes:
        """Voxels of the predicted lesions that match each true one, together."""
        true, predicted = self.matches
        voxels = np.bincount(true, self.predicted_voxels[predicted], len(self.true_voxels))
        return np.asarray(voxels, np.int64)

    @cached_property
    def is_found(self) -> Mask:
        """Whether each true lesion is matched."""
        return np.asarray(self.matched_voxels > 0)

    @cached_property
    def is_small(self) -> Mask:
        """Whether each true lesion is too small to count."""
        return np.asarray(self.true_voxels * np.prod(self.spacing_mm or 1.0) <= self.rule.small_mm3)

    @cached_property
    def is_false(self) -> Mask:
        """Whether each predicted lesion matches nothing."""
        false = np.ones(len(self.predicted_voxels), bool)
        false[self.matches[1]] = False
        return false

    @cached_property
    def is_counted(self) -> Mask:
        """Whether each predicted lesion is false, or matches a true one that counts."""
        true, predicted = self.matches
        counted = self.is_false.copy()
        counted[predicted[~self.is_small[true]]] = True
        return counted

    @cached_property
    def dsc(self) -> NDArray[np.float64]:
        """Of each true lesion and the predicted ones that match it; 0 if it is missed."""
        return np.asarray(2 * self.overlap_voxels / (self.true_voxels + self.matched_voxels))

    def hd95(self) -> NDArray[np.float64]:
        """Of each true lesion and the predicted ones that match it, as surfels.py has it; infinite if it is missed or
        does not count.
        """
        true, predicted = self.matches
        ends = np.cumsum(np.bincount(true, minlength=len(self.true_voxels)))
        matches = [tuple(numbers.tolist()) for numbers in np.split(predicted, ends)[:-1]]
        counted = [() if small else numbers for numbers, small in zip(matches, self.is_small, strict=True)]
        return hd95_by_lesion(self.true_shw, self.predicted_shw, counted, self.spacing_mm)


def match(predicted_shw: Mask, true_shw: Mask, rule: str = DEFAULT_RULE, spacing_mm: Spacing | None = None) -> Matching:
    """The lesions of a prediction and its truth, matched by a rule of RULES.

    Ignored voxels must be in neither volume. There is no loop over lesions, so a thousand cost as much as one.
    """
    chosen = RULES[rule]
    box = _grown(occupied(predicted_shw | true_shw), chosen.steps, true_shw.shape)
    predicted, true = predicted_shw[box], true_shw[box]
    predicted_labels, zones = _components(predicted), _components(_dilated(true, chosen.steps))
    # Growing a lesion gives the zone that it lies in, so lesions take their zones' labels.
    true_labels = np.where(true, zones, 0)
    n_true, n_predicted = int(zones.max(initial=0)), int(predicted_labels.max(initial=0))
    touched = predicted & (zones > 0)
    pairs = np.unique((zones[touched] - 1).astype(np.int64) * n_predicted + (predicted_labels[touched] - 1))
    return Matching(
        rule=chosen,
        spacing_mm=spacing_mm,
        origin=(box[0].start, box[1].start, box[2].start),
        true_shw=true_labels,
        predicted_shw=predicted_labels,
        true_voxels=_voxels(true_labels[true], n_true),
        predicted_voxels=_voxels(predicted_labels[predicted], n_predicted),
        overlap_voxels=_voxels(true_labels[true & predicted], n_true),
        matches=np.divmod(pairs, max(n_predicted, 1)),
    )


def lesion_scores(matching: Matching) -> Scores:
    """The columns of one patient and region; None where a number has no value (EMPTY_RULE).

    lesions, lesions_found, lesions_predicted, lesions_false: numbers. lesion_recall: the share of true lesions that are
    found. lesion_precision: the share of predicted ones that are not false. lesion_f1: their harmonic mean, as in the
    WMH challenge (ISLES 2022 has found lesions in both places: where one prediction covers two, or two cover one, it
    differs). lesion_dsc: the sum of true lesions' Dice, missed ones 0, divided by true plus false lesions (BraTS 2023).
    lesion_hd95_mm or _px, by BraTS's rules: the mean HD95 of these (surfels.py), 374 for a missed or a false one.
    false_lesion_ml or _voxels: the volume of false lesions. lesion_recall_...: by size of the true lesion.
    """
    counts = ~matching.is_small
    true, found = int(counts.sum()), int((matching.is_found & counts).sum())
    predicted, false = int(matching.is_counted.sum()), int(matching.is_false.sum())
    recall = found / true if true else None
    precision = (predicted - false) / predicted if predicted else None
    nothing = not true and not predicted
    scores: Scores = {
        "lesions": true,
        "lesions_found": found,
        "lesions_predicted": predicted,
        "lesions_false": false,
        "lesion_recall": recall,
        "lesion_precision": precision,
        "lesion_f1": 2 * recall * precision / (recall + precision) if recall and precision else float(nothing),
        "lesion_dsc": float(matching.dsc[counts].sum()) / (true + false) if true + false else 1.0,
    }
    if (missed := matching.rule.missed_hd95) is not None:
        of_true = matching.hd95()[counts]
        together = float(np.where(np.isfinite(of_true), of_true, missed).sum()) + false * missed
        scores[_hd95_name(matching.spacing_mm)] = together / (true + false) if true + false else 0.0
    false_voxels = int(matching.predicted_voxels[matching.is_false].sum())
    scores[f"false_lesion_{unit(matching.spacing_mm)}"] = in_unit(false_voxels, matching.spacing_mm)
    return scores | _recall_by_size(matching)


def names(spacing_mm: Spacing | None, rule: str = DEFAULT_RULE) -> tuple[str, ...]:
    """The columns of `lesion_scores` by a rule of RULES."""
    hd95 = () if RULES[rule].missed_hd95 is None else (_hd95_name(spacing_mm),)
    sizes = (f"lesion_recall_{size}" for size in size_classes(spacing_mm))
    return (*NAMES, *hd95, f"false_lesion_{unit(spacing_mm)}", *sizes)


def _hd95_name(spacing_mm: Spacing | None) -> str:
    return "lesion_hd95_px" if spacing_mm is None else "lesion_hd95_mm"


def size_classes(spacing_mm: Spacing | None) -> dict[str, tuple[float, float]]:
    """Classes of a lesion's size, from (included) to (not included), by the end of their columns' names."""
    steps, word = SIZE_STEPS[unit(spacing_mm)], unit(spacing_mm)
    classes = {f"under_{steps[0]:g}_{word}": (0.0, float(steps[0]))}
    classes |= {f"{low:g}_to_{high:g}_{word}": (float(low), float(high)) for low, high in pairwise(steps)}
    return classes | {f"from_{steps[-1]:g}_{word}": (float(steps[-1]), np.inf)}


def _recall_by_size(matching: Matching) -> Scores:
    sizes = in_unit(1, matching.spacing_mm) * matching.true_voxels
    scores: Scores = {}
    for name, (low, high) in size_classes(matching.spacing_mm).items():
        found = matching.is_found[~matching.is_small & (sizes >= low) & (sizes < high)]
        scores[f"lesion_recall_{name}"] = float(found.mean()) if len(found) else None
    return scores


def _components(volume_shw: Mask) -> Labels:
    labels, _ = ndimage.label(volume_shw, NEIGHBOURS_26, output=np.int32)
    return np.asarray(labels)


def _dilated(volume_shw: Mask, steps: int) -> Mask:
    # scipy takes no iterations to mean: until nothing changes.
    return np.asarray(ndimage.binary_dilation(volume_shw, NEIGHBOURS_18, steps)) if steps else volume_shw


def _grown(box: tuple[slice, ...], steps: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The box with a margin, within the volume."""
    return tuple(slice(max(0, s.start - steps), min(n, s.stop + steps)) for s, n in zip(box, shape, strict=True))


def _voxels(labels: Labels, number: int) -> Sizes:
    return np.bincount(labels, minlength=number + 1)[1:]
