"""The worst patients on one sheet: of each the slice with the worst lesion, sorted by DSC or by that lesion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from segtrain.evaluation.lesion_places import RegionLesions, caption, rank_of, worst_of
from segtrain.evaluation.overlays import SIDE_PX, Legend, Picture, legend_of, sheet

MOST_PATIENTS = 24
COLUMNS = 4
SHEET_SIDE_PX = 2 * SIDE_PX  # of a picture on the sheet, at most


@dataclass(frozen=True)
class WorstLesion:
    """A patient: how bad it is by each order (the smaller, the worse), the slice to show, a title for it."""

    patient: str
    dsc: float | None
    by_lesion: tuple[int, float]
    place: int
    title: str

    @classmethod
    def of(cls, patient: str, dsc: float | None, lesions: Sequence[RegionLesions]) -> "WorstLesion":
        """Without any lesion the slice is the middle one."""
        worst = worst_of(lesions)
        place = worst.place if worst else lesions[0].missed_shw.shape[0] // 2
        title = [f"{patient}  DSC {dsc:.3f}" if dsc is not None else patient, caption(lesions)]
        return cls(patient, dsc, rank_of(lesions), place, "\n".join([*title, worst.words if worst else ""]))

    def order(self, sort: str) -> tuple[float, ...]:
        """What to sort by; a patient without DSC is last."""
        dsc = 2.0 if self.dsc is None else self.dsc
        return (*self.by_lesion, dsc) if sort == "lesion" else (dsc, *self.by_lesion)


class WorstPatients:
    """The worst of the patients that were added, with their pictures; of the others only the number is kept."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self.patients = 0
        self._pictures: dict[str, Picture] = {}
        self._worst: list[WorstLesion] = []

    def add(self, one: WorstLesion, picture: Picture) -> None:
        """One more patient."""
        self.patients += 1
        self._pictures[one.patient] = picture
        self._worst = worst_first([*self._worst, one], self.sort)
        self._pictures = {kept.patient: self._pictures[kept.patient] for kept in self._worst}

    def sheet(self, regions: Sequence[str]) -> Picture | None:
        """None where no patient was added."""
        pictures = [(one.title, self._pictures[one.patient]) for one in self._worst]
        return worst_sheet(pictures, self.patients, legend_of(regions)) if pictures else None


def worst_first(patients: Sequence[WorstLesion], sort: str) -> list[WorstLesion]:
    """As many as a sheet shows."""
    return sorted(patients, key=lambda one: (one.order(sort), one.patient))[:MOST_PATIENTS]


def worst_sheet(pictures: Sequence[tuple[str, Picture]], patients: int, legend: Legend) -> Picture:
    """The sheet of pictures of any size with their titles; `patients`: how many there are in all."""
    note = [] if len(pictures) == patients else [(f"the worst {len(pictures)} of {patients} patients", None)]
    heights, widths = zip(*(picture.shape[:2] for _, picture in pictures), strict=True)
    shrink = min(1.0, SHEET_SIDE_PX / max(heights))
    cell = round(shrink * max(heights)), round(shrink * max(widths))
    fitted = [(title, _fitted(picture, cell)) for title, picture in pictures]
    return sheet(fitted, COLUMNS, [*legend, *note])


def _fitted(picture: Picture, cell: tuple[int, int]) -> Picture:
    """The picture in the middle of a black one, made smaller where it has to be."""
    image = Image.fromarray(picture)
    image.thumbnail((cell[1], cell[0]))
    canvas = Image.new("RGB", (cell[1], cell[0]), "black")
    canvas.paste(image, ((cell[1] - image.width) // 2, (cell[0] - image.height) // 2))
    return np.asarray(canvas)
