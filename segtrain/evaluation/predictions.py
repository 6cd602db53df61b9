"""Predictions of a source's patients, written patient by patient: in a folder, and all of it in one zip.

    masks/...                           in the source's own names, format and geometry, for every slice
    overlays/<patient>/<slice>.png      on FLAIR: prediction red, truth green, yellow where they agree
    sheets/<patient>.png                all slices of a patient
    probabilities/<patient>.tif         on demand: float32, a page for each slice (.nii.gz for NIfTI volumes)
    scores.csv, dsc.png                 of the patients with masks
    not_predicted.csv                   the patients that could not be read, if there are any, each with the reason
    predictions.zip                     all of it

Memory does not grow with the number of patients. Legend: s slice, h height, w width, c channel.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.preprocess import preprocess, to_source
from segtrain.data.sources import FLAIR, Pixels, Source, Volume, fill_missing, stand_in_of
from segtrain.data.sources.levels import one_range
from segtrain.errors import DataError, RunError
from segtrain.evaluation.bars import Bar, chart
from segtrain.evaluation.ensemble import TrainedCheckpoint, opened, trained_on
from segtrain.evaluation.metrics import count, kept_components
from segtrain.evaluation.overlays import overlay, sheet
from segtrain.evaluation.scores import MASK_RULES, EmptyMasks, Row
from segtrain.runtime import files
from segtrain.runtime.terminal import Progress

if TYPE_CHECKING:
    from segtrain.evaluation.predictor import Predictor

log = logging.getLogger(__name__)

SHEET_COLUMNS = 8
COMPRESSED = (".png", ".gz")  # stored in the zip as they are


@dataclass(frozen=True)
class Prediction:
    """In the source's geometry: the probability, float32 [s, h, w], and the mask as it is scored."""

    probability_shw: NDArray[np.float32]
    mask_shw: NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """The scores of the patients with masks, and the reason for each patient that could not be predicted."""

    rows: Sequence[Row]
    not_predicted: Mapping[str, str]


@dataclass(frozen=True)
class Writer:
    """Writes predictions into a folder and its zip."""

    folder: Path
    archive: ZipFile
    source: Source
    probabilities: bool

    def add(self, patient: str, prediction: Prediction, volume: Volume) -> None:
        """A patient's mask and pictures, and on demand its probabilities."""
        for file in self.source.write_mask(patient, prediction.mask_shw, self.folder / "masks"):
            self._zip(file)
        if self.probabilities:
            folder = self.folder / "probabilities"
            self._zip(self.source.write_probability(patient, prediction.probability_shw, folder))
        true_shw = np.zeros_like(prediction.mask_shw) if volume.mask_shw is None else volume.mask_shw.astype(bool)
        pictures = []
        for place, (name, number) in enumerate(zip(volume.slice_names, volume.slice_numbers, strict=True)):
            flair_hw = volume.image_shwc[place, ..., FLAIR].astype(np.float32)
            picture = overlay(flair_hw, prediction.mask_shw[place], true_shw[place])
            pictures.append((f"slice {number}", picture))
            self._draw(f"overlays/{patient}/{name}.png", picture)
        self._draw(f"sheets/{patient}.png", sheet(pictures, SHEET_COLUMNS))

    def add_scores(self, rows: Sequence[Row], rule: str) -> None:
        """scores.csv, and dsc.png of the patients that have a DSC; `rule` is that for patients without lesion."""
        cells = [{**row, "dsc": None if row["dsc"] is None else f"{row['dsc']:.6f}"} for row in rows]
        files.write_text(self.folder / "scores.csv", files.csv_text(cells))
        self._zip(self.folder / "scores.csv")
        bars = [Bar(row["patient"], row["dsc"], row["trained_on"] == "yes") for row in rows if row["dsc"] is not None]
        if bars:
            self._draw("dsc.png", chart(bars, self.source.label, rule))

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


def refuse_folder(out: Path, images: Path) -> None:
    """Raises RunError for an `out` that is not empty, or is inside the folder of the images."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is there already; name a new folder with --out")
    if out.resolve().is_relative_to(images.resolve()):
        raise RunError(f"{out}: inside --images, where it would be read as a patient; name a folder elsewhere")


@contextmanager
def writing(out: Path, source: Source, probabilities: bool) -> Iterator[Writer]:
    """A writer into a folder aside, which is renamed to `out` at the end; after an error nothing of it is left."""
    out = out.resolve()  # "." has no name to put another beside
    aside = files.free_place(out, "writing")
    try:
        files.make_folder(aside)
        with ZipFile(aside / "predictions.zip", "w") as archive:
            yield Writer(aside, archive, source, probabilities)
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
    seen = trained_on(checkpoints)
    cfg = checkpoints[0].cfg.data
    rows = []
    with (
        writing(out, source, probabilities) as writer,
        opened(checkpoints) as predictor,
        Progress("predict", total=sum(slices.values()), unit="slices") as bar,
    ):
        for patient in slices:
            try:
                row = _predict_patient(predictor, writer, patient, cfg, rule)
            except DataError as error:
                _leave_out(patient, error, not_predicted)
                row = None
            if row is not None:
                row["trained_on"] = "yes" if patient in seen else "no"
                rows.append(row)
            bar.advance(slices[patient], patient=patient)
        if not slices.keys() - not_predicted.keys():
            raise _none_predicted(not_predicted)
        if rows:
            writer.add_scores(rows, MASK_RULES[rule])
        if not_predicted:
            writer.add_not_predicted(not_predicted)
    return Outcome(rows, not_predicted)


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


def _predict_patient(
    predictor: "Predictor", writer: Writer, patient: str, cfg: DataConfig, rule: EmptyMasks
) -> Row | None:
    """Write a patient; its scores, None without a mask. A function of its own, so that its arrays are freed."""
    source = writer.source
    stand_in = stand_in_of(cfg, source.contrasts)
    volume = one_range(fill_missing(source.read(patient), source.contrasts, stand_in, where=f"patient {patient}"))
    for remark in volume.remarks:
        log.info("patient %s: %s", patient, remark)
    prediction = predict_volume(predictor, volume.image_shwc, cfg.image_size, where=f"patient {patient}")
    writer.add(patient, prediction, volume)
    if volume.mask_shw is None:
        return None
    counts = count(prediction.mask_shw, volume.mask_shw.astype(bool))
    has_dsc = counts.tp + counts.fn > 0 or rule == "score"
    return {
        "patient": patient,
        **counts.columns(len(volume.mask_shw)),
        "dsc": counts.dsc if has_dsc else None,
    }


def predict_volume(predictor: "Predictor", image_shwc: Pixels, size_px: int, where: str) -> Prediction:
    """The prediction for a source's volume, prepared as for training and taken back to the source's geometry."""
    everywhere = np.ones(image_shwc.shape[:3], np.uint8)  # preparation refuses an empty mask; the result is not used
    prepared = preprocess(image_shwc, everywhere, size_px, where)
    as_stored_shwc = prepared.image_shwc.astype(np.float16)
    probability_shw = predictor.probability(as_stored_shwc, prepared.mask_shw)
    kept_shw = kept_components(predictor.over_threshold(probability_shw), predictor.cfg)
    return Prediction(to_source(probability_shw, prepared.geometry), to_source(kept_shw, prepared.geometry))
