"""The card of a patient in an atlas: its rows in the table of scores, its slices, its pictures.

Legend: r region, s slice, h height, w width, c contrast.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtrain.data.store import Store
from segtrain.evaluation.lesion_places import (
    MOST_NAMED,
    Lesion,
    RegionLesions,
    lesions_of_regions,
    rank_of,
    worst_of,
)
from segtrain.evaluation.overlays import REGION_COLOURS, shown_contrast
from segtrain.evaluation.units import prepared_spacing
from segtrain.report.sprites import Colour, Sprites, sprites


@dataclass(frozen=True)
class Names:
    """The contrasts and the regions of all atlases of a page, where the data name them and there are several regions.

    A name's place is part of its layers' names, and the place of its colour.
    """

    contrasts: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()

    def colour(self, region: str) -> Colour:
        """The colour of a region."""
        return REGION_COLOURS[self.regions.index(region) % len(REGION_COLOURS)]

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The regions and their colours, as CSS has them."""
        return [(region, "#{:02x}{:02x}{:02x}".format(*self.colour(region))) for region in self.regions]


@dataclass(frozen=True)
class Slice:
    """A slice's number in the source, and its counts of voxels: of all regions together, and of each as tp, fp, fn."""

    number: int
    tp: int
    fp: int
    fn: int
    parts: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class Card:
    """A patient: its rows in the table of scores, one a region; its slices, its pictures."""

    patient: str
    rows: Sequence[Mapping[str, str]]
    slices: Sequence[Slice]
    pictures: Sprites
    lesions: Sequence[RegionLesions] = ()

    @property
    def row(self) -> Mapping[str, str]:
        """The row of the only region."""
        return self.rows[0]

    @property
    def dsc(self) -> float:
        """The mean over the regions."""
        return math.fsum(float(row["dsc"]) for row in self.rows) / len(self.rows)

    @property
    def counts(self) -> list[tuple[int, int, int, int]]:
        """Each slice's number, true positives, false positives and false negatives, for the page."""
        return [(each.number, each.tp, each.fp, each.fn) for each in self.slices]

    @property
    def parts(self) -> list[Sequence[Sequence[int]]]:
        """Each slice's counts of each region."""
        return [each.parts for each in self.slices]

    @property
    def worst_lesion(self) -> Lesion | None:
        """None where there is no lesion."""
        return worst_of(self.lesions)

    @property
    def by_lesion(self) -> tuple[tuple[int, float], float, str]:
        """What to sort by for the worst lesion first."""
        return rank_of(self.lesions), self.dsc, self.patient

    def start(self, sort: str) -> int:
        """The place of the slice that is shown at first: by lesion that of the worst one."""
        return self.worst_lesion.place if sort == "lesion" and self.worst_lesion else self.worst

    @property
    def wrong(self) -> list[Lesion]:
        """The worst missed and false lesions of all regions."""
        lesions = [lesion for region in self.lesions for lesion in region.wrong]
        return sorted(lesions, key=lambda lesion: lesion.rank)[:MOST_NAMED]

    @property
    def more_wrong(self) -> int:
        """How many more of these there are."""
        return sum(one.lesions - one.found + one.false for one in self.lesions) - len(self.wrong)

    @property
    def worst(self) -> int:
        """The place of the slice with the most wrong voxels, or with the most correct ones if none is wrong."""
        return max(range(len(self.slices)), key=lambda place: _wrong_then_correct(self.slices[place]))


def make_card(
    store: Store,
    rows: Sequence[Mapping[str, str]],
    predicted_rshw: NDArray[np.bool_],
    true_rshw: NDArray[np.bool_],
    names: Names,
    in_mm: bool = False,
) -> Card:
    """A patient's card, from its rows as scored and the volumes behind them; `in_mm`: the spacing is known."""
    patient = rows[0]["patient"]
    stored, (image_shwc, _) = store.patients[patient], store.volume(patient)
    slices = _slices(stored.slice_numbers, predicted_rshw, true_rshw)
    for place, row in enumerate(rows):
        sums = {key: str(sum(one.parts[place][n] for one in slices)) for n, key in enumerate(("tp", "fp", "fn"))}
        assert {**row, **sums} == row, "the volumes are those that were scored"
    shown = shown_contrast(store.contrasts)
    greys = {"flair": image_shwc[..., shown]}
    for place, contrast in enumerate(store.contrasts):
        if place != shown and contrast in names.contrasts:
            greys[f"contrast{names.contrasts.index(contrast)}"] = image_shwc[..., place]
    regions = [row["region"] for row in rows if "region" in row]
    colours = {names.regions.index(region): names.colour(region) for region in regions}
    spacing_mm = prepared_spacing(stored.spacing_mm, stored.geometry) if in_mm else None
    lesions = lesions_of_regions(predicted_rshw, true_rshw, regions or ("",), spacing_mm)
    return Card(patient, rows, slices, sprites(greys, predicted_rshw, true_rshw, colours, lesions), lesions)


def _slices(numbers: Sequence[int], predicted_rshw: NDArray[np.bool_], true_rshw: NDArray[np.bool_]) -> list[Slice]:
    """The slices' numbers and counts."""
    voxels = (predicted_rshw & true_rshw, predicted_rshw & ~true_rshw, true_rshw & ~predicted_rshw)
    counts_srk = np.stack([each.sum((2, 3)) for each in voxels]).transpose(2, 1, 0)  # k: tp, fp, fn
    slices = []
    for number, counts_rk in zip(numbers, counts_srk, strict=True):
        tp, fp, fn = counts_rk.sum(0).tolist()
        slices.append(Slice(number, tp, fp, fn, counts_rk.tolist()))
    return slices


def _wrong_then_correct(counts: Slice) -> tuple[int, int]:
    return counts.fp + counts.fn, counts.tp
