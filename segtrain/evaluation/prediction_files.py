"""The files of predictions: each patient's masks and pictures, the tables, and all of it in one zip.

They are written into a folder aside. Legend: r region, s slice, h height, w width.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import DataConfig
from segtrain.config.licence import NOTICE
from segtrain.data.masks import regions_of
from segtrain.data.sources import Source, Volume
from segtrain.errors import RunError
from segtrain.evaluation.bars import bars_of, chart
from segtrain.evaluation.label_map import label_map
from segtrain.evaluation.lesion_marks import picture_of
from segtrain.evaluation.lesion_places import RegionLesions, caption
from segtrain.evaluation.overlays import legend_of, sheet, shown_contrast
from segtrain.evaluation.region_scores import Row
from segtrain.evaluation.uncertainty import Uncertainty
from segtrain.evaluation.worst import WorstLesion, worst_first, worst_sheet
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text
from segtrain.runtime.zip_names import zip_name

SHEET_COLUMNS = 8
COMPRESSED = (".png", ".gz")  # stored in the zip as they are


@dataclass(frozen=True)
class Prediction:
    """In the source's geometry: the regions' probabilities, float32 [r, s, h, w], and their masks as delivered.

    uncertainty: where it was asked for.
    """

    probability_rshw: NDArray[np.float32]
    mask_rshw: NDArray[np.bool_]
    uncertainty: Uncertainty | None = None


@runtime_checkable
class WritesLabels(Protocol):
    """A source whose masks are of labels."""

    def write_labels(self, patient: str, labels_shw: NDArray[Any], folder: Path) -> list[Path]:
        """Write a map of labels below `folder` in the source's own format and geometry; returns the files."""


@dataclass(frozen=True)
class Writer:
    """Writes predictions into a folder and its zip. cfg: the data as the networks know them."""

    folder: Path
    archive: ZipFile
    source: Source
    cfg: DataConfig
    probabilities: bool

    def add(self, patient: str, prediction: Prediction, volume: Volume, lesions: Sequence[RegionLesions] = ()) -> None:
        """A patient's masks and pictures, and on demand its probabilities; `lesions`: where there is a truth."""
        regions = self.cfg.layout.regions
        for number, region in enumerate(regions):
            below = folder_of(number, region) if len(regions) > 1 else ""
            for file in self.source.write_mask(patient, prediction.mask_rshw[number], self.folder / "masks" / below):
                self.add_file(file)
            if self.probabilities:
                folder = self.folder / "probabilities" / below
                self.add_file(self.source.write_probability(patient, prediction.probability_rshw[number], folder))
        if self.cfg.regions and len(regions) > 1 and isinstance(self.source, WritesLabels):
            labels_shw = label_map(prediction.mask_rshw, self.cfg.regions)
            for file in self.source.write_labels(patient, labels_shw, self.folder / "labels"):
                self.add_file(file)
        self._draw_slices(patient, prediction, volume, lesions)

    def _draw_slices(
        self, patient: str, prediction: Prediction, volume: Volume, lesions: Sequence[RegionLesions]
    ) -> None:
        layout, has_truth = self.cfg.layout, volume.mask_shw is not None
        true_rshw = None if volume.mask_shw is None else regions_of(volume.mask_shw, layout)
        contrast = shown_contrast(self.source.contrasts)
        pictures = []
        for place, (name, number) in enumerate(zip(volume.slice_names, volume.slice_numbers, strict=True)):
            plane_hw = volume.image_shwc[place, ..., contrast]
            true_rhw = None if true_rshw is None else true_rshw[:, place]
            picture = picture_of(plane_hw, prediction.mask_rshw[:, place], true_rhw, lesions, place)
            pictures.append((f"slice {number}", picture))
            self.draw(f"overlays/{patient}/{name}.png", picture)
        legend = [*legend_of(layout.regions, has_truth), *([(caption(lesions), None)] if lesions else [])]
        columns = SHEET_COLUMNS // 2 if len(layout.regions) > 1 and has_truth else SHEET_COLUMNS
        self.draw(f"sheets/{patient}.png", sheet(pictures, columns, legend))

    def add_scores(self, rows: Sequence[Row], rule: str, people: Mapping[str, str]) -> None:
        """scores.csv, and dsc.png of the patients that have a DSC; `rule` is that for patients without lesion."""
        cells = [{**row, "dsc": None if row["dsc"] is None else f"{row['dsc']:.6f}"} for row in rows]
        files.write_text(self.folder / "scores.csv", csv_text(cells))
        self.add_file(self.folder / "scores.csv")
        if bars := bars_of(rows):
            self.draw("dsc.png", chart(bars, self.source.label, rule, people))

    def add_worst(self, patients: Sequence[tuple[WorstLesion, str]], sort: str) -> None:
        """worst.png, of patients and the overlays of their worst lesions."""
        overlays = {one.patient: name for one, name in patients}
        pictures = []
        for one in worst_first([one for one, _ in patients], sort):
            with Image.open(self.folder / overlays[one.patient]) as picture:
                pictures.append((one.title, np.asarray(picture)))
        self.draw("worst.png", worst_sheet(pictures, len(patients), legend_of(self.cfg.layout.regions)))

    def add_not_predicted(self, reasons: Mapping[str, str]) -> None:
        """not_predicted.csv, so that whoever gets the folder knows that it is not whole."""
        rows = [{"patient": patient, "reason": reason} for patient, reason in reasons.items()]
        files.write_text(self.folder / "not_predicted.csv", csv_text(rows))
        self.add_file(self.folder / "not_predicted.csv")

    def add_notice(self, text: str) -> None:
        """NOTICE.txt: the licence of the data behind the masks."""
        files.write_text(self.folder / NOTICE, text)
        self.add_file(self.folder / NOTICE)

    def draw(self, name: str, picture: NDArray[np.uint8]) -> None:
        """Write a picture and add it to the zip; name: below the folder."""
        file = self.folder / name
        files.make_folder(file.parent)
        Image.fromarray(picture).save(file)
        self.add_file(file)

    def add_file(self, file: Path) -> None:
        """Add a file of the folder to the zip."""
        method = ZIP_STORED if file.name.lower().endswith(COMPRESSED) else ZIP_DEFLATED
        self.archive.write(file, zip_name(file.relative_to(self.folder)), method)


@contextmanager
def writing(out: Path, source: Source, cfg: DataConfig, probabilities: bool) -> Iterator[Writer]:
    """A writer into a folder aside, which is renamed to `out` at the end; after an error nothing of it is left."""
    out = out.resolve()  # "." has no name to put another beside
    aside = files.own_place(out, "writing")
    try:
        files.make_folder(aside)
        with ZipFile(aside / "predictions.zip", "w") as archive:
            yield Writer(aside, archive, source, cfg, probabilities)
        if out.is_dir():
            out.rmdir()
        files.share_all(aside)
        files.rename(aside, out)
    except OSError as error:
        raise RunError(
            f"{out}: cannot be written ({error.strerror or error}); free some space, or name another folder with --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def folder_of(number: int, region: str) -> str:
    """The region's name, where a folder may have it on any system."""
    return region if re.fullmatch(r"\w([\w .+-]*\w)?", region) else f"region-{number + 1}"
