"""Predictions of a source's patients, written patient by patient: in a folder, and all of it in one zip.

    masks/...                           in the source's own names, format and geometry, for every slice
    overlays/<patient>/<slice>.png      on FLAIR (without it the first contrast): prediction red, truth green, yellow
                                        where they agree; of several regions the prediction left, the truth right
    sheets/<patient>.png                all slices of a patient
    probabilities/<patient>.tif         on demand: float32, a page for each slice (.nii.gz for NIfTI volumes)
    labels/...                          several regions, NIfTI: one map of labels in the data's own numbers
    scores.csv, dsc.png                 of the patients with masks
    not_predicted.csv                   the patients that could not be read, if there are any, each with the reason
    predictions.zip                     all of it

Of several regions, masks and probabilities are in a folder for each, and scores.csv has a row for each patient and
region. Memory does not grow with the number of patients.

Legend: r region, s slice, h height, w width, c channel.
"""

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.masks import regions_of
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources import Source, Volume, fill_missing, stand_in_of
from segtrain.data.sources.levels import one_range
from segtrain.errors import DataError, RunError
from segtrain.evaluation.bars import Bar, chart
from segtrain.evaluation.ensemble import TrainedCheckpoint, opened, people_of_patients, trained_on
from segtrain.evaluation.label_map import label_map
from segtrain.evaluation.metrics import among_known, count
from segtrain.evaluation.overlays import drawn, legend_of, sheet, shown_contrast
from segtrain.evaluation.region_scores import MASK_RULES, EmptyMasks, Row
from segtrain.evaluation.scores import in_source
from segtrain.evaluation.units import prepared_voxel_ml, refuse_unknown_spacing
from segtrain.runtime import files
from segtrain.runtime.terminal import Progress

if TYPE_CHECKING:
    from segtrain.evaluation.predictor import Predictor

log = logging.getLogger(__name__)

SHEET_COLUMNS = 8
COMPRESSED = (".png", ".gz")  # stored in the zip as they are


@dataclass(frozen=True)
class Prediction:
    """In the source's geometry: the regions' probabilities, float32 [r, s, h, w], and their masks as delivered."""

    probability_rshw: NDArray[np.float32]
    mask_rshw: NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """The scores of the patients with masks, and the reason for each patient that could not be predicted.

    people: the person of each patient with scores.
    """

    rows: Sequence[Row]
    not_predicted: Mapping[str, str]
    people: Mapping[str, str]


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

    def add(self, patient: str, prediction: Prediction, volume: Volume) -> None:
        """A patient's masks and pictures, and on demand its probabilities."""
        regions = self.cfg.layout.regions
        for number, region in enumerate(regions):
            below = _folder_of(number, region) if len(regions) > 1 else ""
            for file in self.source.write_mask(patient, prediction.mask_rshw[number], self.folder / "masks" / below):
                self._zip(file)
            if self.probabilities:
                folder = self.folder / "probabilities" / below
                self._zip(self.source.write_probability(patient, prediction.probability_rshw[number], folder))
        if self.cfg.regions and len(regions) > 1 and isinstance(self.source, WritesLabels):
            labels_shw = label_map(prediction.mask_rshw, self.cfg.regions)
            for file in self.source.write_labels(patient, labels_shw, self.folder / "labels"):
                self._zip(file)
        self._draw_slices(patient, prediction, volume)

    def _draw_slices(self, patient: str, prediction: Prediction, volume: Volume) -> None:
        layout, has_truth = self.cfg.layout, volume.mask_shw is not None
        true_rshw = None if volume.mask_shw is None else regions_of(volume.mask_shw, layout)
        contrast = shown_contrast(self.source.contrasts)
        pictures = []
        for place, (name, number) in enumerate(zip(volume.slice_names, volume.slice_numbers, strict=True)):
            plane_hw = volume.image_shwc[place, ..., contrast]
            true_rhw = None if true_rshw is None else true_rshw[:, place]
            picture = drawn(plane_hw, prediction.mask_rshw[:, place], true_rhw)
            pictures.append((f"slice {number}", picture))
            self._draw(f"overlays/{patient}/{name}.png", picture)
        legend = legend_of(layout.regions, has_truth) if len(layout.regions) > 1 else None
        columns = SHEET_COLUMNS // 2 if legend and has_truth else SHEET_COLUMNS
        self._draw(f"sheets/{patient}.png", sheet(pictures, columns, legend))

    def add_scores(self, rows: Sequence[Row], rule: str, people: Mapping[str, str]) -> None:
        """scores.csv, and dsc.png of the patients that have a DSC; `rule` is that for patients without lesion."""
        cells = [{**row, "dsc": None if row["dsc"] is None else f"{row['dsc']:.6f}"} for row in rows]
        files.write_text(self.folder / "scores.csv", files.csv_text(cells))
        self._zip(self.folder / "scores.csv")
        bars = [
            Bar(row["patient"], row["dsc"], row["trained_on"] == "yes", row.get("region", ""))
            for row in rows
            if row["dsc"] is not None
        ]
        if bars:
            self._draw("dsc.png", chart(bars, self.source.label, rule, people))

    def add_not_predicted(self, reasons: Mapping[str, str]) -> None:
        """not_predicted.csv, so that whoever gets the folder knows that it is not whole."""
        rows = [{"patient": patient, "reason": reason} for patient, reason in reasons.items()]
        files.write_text(self.folder / "not_predicted.csv", files.csv_text(rows))
        self._zip(self.folder / "not_predicted.csv")

    def _draw(self, name: str, picture: NDArray[np.uint8]) -> None:
        file = self.folder / name
        files.make_folder(file.parent)
        Image.fromarray(picture).save(file)
        self._zip(file)

    def _zip(self, file: Path) -> None:
        method = ZIP_STORED if file.name.lower().endswith(COMPRESSED) else ZIP_DEFLATED
        self.archive.write(file, file.relative_to(self.folder), method)


def _folder_of(number: int, region: str) -> str:
    """The region's name, where a folder may have it on any system."""
    return region if re.fullmatch(r"\w([\w .+-]*\w)?", region) else f"region-{number + 1}"


def refuse_folder(out: Path, images: Path) -> None:
    """Raises RunError for an `out` that is not empty, or is inside the folder of the images."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is there already; name a new folder with --out")
    if out.resolve().is_relative_to(images.resolve()):
        raise RunError(f"{out}: inside --images, where it would be read as a patient; name a folder elsewhere")


@contextmanager
def writing(out: Path, source: Source, cfg: DataConfig, probabilities: bool) -> Iterator[Writer]:
    """A writer into a folder aside, which is renamed to `out` at the end; after an error nothing of it is left."""
    out = out.resolve()  # "." has no name to put another beside
    aside = files.free_place(out, "writing")
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


def predict_source(
    checkpoints: Sequence[TrainedCheckpoint], source: Source, out: Path, probabilities: bool, rule: EmptyMasks
) -> Outcome:
    """Predict and write all patients. A broken one is named and left out; where all are broken, DataError is raised."""
    not_predicted: dict[str, str] = {}
    slices = _slices(source, not_predicted)  # before anything is predicted
    log.info("%s: %d patients", source.label, len(slices) + len(not_predicted))
    seen = trained_on(slices.keys(), checkpoints)
    people = people_of_patients(slices.keys(), checkpoints)
    rows: list[Row] = []
    with (
        writing(out, source, checkpoints[0].cfg.data, probabilities) as writer,
        opened(checkpoints) as predictor,
        Progress("predict", total=sum(slices.values()), unit="slices") as bar,
    ):
        for patient in slices:
            try:
                scores = _predict_patient(predictor, writer, patient, rule)
            except DataError as error:
                _leave_out(patient, error, not_predicted)
                scores = []
            rows += [{**row, "trained_on": "yes" if patient in seen else "no"} for row in scores]
            bar.advance(slices[patient], patient=patient)
        if not slices.keys() - not_predicted.keys():
            raise _none_predicted(not_predicted)
        if rows:
            writer.add_scores(rows, MASK_RULES[rule], people)
        if not_predicted:
            writer.add_not_predicted(not_predicted)
    return Outcome(rows, not_predicted, people)


def _slices(source: Source, not_predicted: dict[str, str]) -> dict[str, int]:
    """The number of slices of each patient whose names and headers can be read; the others go into `not_predicted`."""
    slices = {}
    for patient in source.patients():
        try:
            slices[patient] = source.slices(patient)
        except DataError as error:
            _leave_out(patient, error, not_predicted)
    if not slices:
        raise _none_predicted(not_predicted)
    return slices


def _leave_out(patient: str, error: DataError, not_predicted: dict[str, str]) -> None:
    not_predicted[patient] = str(error)
    log.warning("patient %s: cannot be predicted, passed over", patient)  # the reason is told once, at the end


def _none_predicted(reasons: Mapping[str, str]) -> DataError:
    first = next(iter(reasons.values()))
    others = f" (and {len(reasons) - 1} more patients cannot be predicted, so none can)" if len(reasons) > 1 else ""
    return DataError(f"{first}{others}")


def _predict_patient(predictor: "Predictor", writer: Writer, patient: str, rule: EmptyMasks) -> list[Row]:
    """Write a patient; a row of scores a region, none without a mask. A function of its own, to free its arrays."""
    source, cfg = writer.source, writer.cfg
    stand_in = stand_in_of(cfg, source.contrasts)
    volume = fill_missing(source.read(patient), source.contrasts, stand_in, where=f"patient {patient}")
    for remark in volume.remarks:
        log.info("patient %s: %s", patient, remark)
    prediction = predict_volume(predictor, volume, Preparation.of(cfg), where=f"patient {patient}")
    volume = one_range(volume)  # as pictures show it
    writer.add(patient, prediction, volume)
    if volume.mask_shw is None:
        return []
    layout, mask_shw = writer.cfg.layout, volume.mask_shw
    predicted_rshw = among_known(prediction.mask_rshw, mask_shw, layout)
    rows: list[Row] = []
    for name, predicted, true in zip(layout.regions, predicted_rshw, regions_of(mask_shw, layout), strict=True):
        counts = count(predicted, true)
        has_dsc = counts.tp + counts.fn > 0 or rule == "score"
        rows.append(
            {
                "patient": patient,
                **({"region": name} if len(layout.regions) > 1 else {}),
                **counts.columns(len(mask_shw)),
                "dsc": counts.dsc if has_dsc else None,
            }
        )
    return rows


def predict_volume(predictor: "Predictor", volume: Volume, preparation: Preparation, where: str) -> Prediction:
    """The prediction for a source's volume, prepared as for training and taken back to the source's geometry."""
    prepared = preprocess(replace(volume, mask_shw=None), preparation, where)
    for remark in prepared.remarks:
        log.info("%s: %s", where, remark)
    as_stored_shwc = prepared.image_shwc.astype(np.float16)
    probability_rshw = predictor.probability(
        as_stored_shwc, prepared.mask_shw, spacing_mm=volume.spacing_mm, where=where
    )
    refuse_unknown_spacing(predictor.cfg, {where: volume.spacing_mm}, predictor.layout.regions)
    voxel_ml = prepared_voxel_ml(volume.spacing_mm, prepared.geometry)
    kept_rshw = predictor.kept(predictor.over_threshold(probability_rshw), voxel_ml)
    return Prediction(in_source(probability_rshw, prepared.geometry), in_source(kept_rshw, prepared.geometry))
