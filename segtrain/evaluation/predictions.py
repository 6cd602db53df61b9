"""Predictions of a source's patients, written patient by patient: in a folder, and all of it in one zip.

    masks/...                           in the source's own names, format and geometry, for every slice
    overlays/<patient>/<slice>.png      on FLAIR (without it the first contrast): prediction red, truth green, yellow
                                        where they agree; of several regions the prediction left, the truth right;
                                        missed and false lesions marked
    sheets/<patient>.png                all slices of a patient
    probabilities/<patient>.tif         on demand: float32, a page for each slice (.nii.gz for NIfTI volumes)
    labels/...                          several regions, NIfTI: one map of labels in the data's own numbers
    scores.csv, dsc.png                 of the patients with masks
    worst.png                           of these, the slices with the worst lesions, on one sheet
    uncertainty/..., uncertainty.csv    on demand: see uncertainty_files.py
    NOTICE.txt                          the licence of the data that the networks were trained on
    not_predicted.csv                   the patients that could not be read, if there are any, each with the reason
    predictions.zip                     all of it

Of several regions, masks and probabilities are in a folder for each, and scores.csv has a row for each patient and
region. Memory does not grow with the number of patients.

Legend: r region, s slice, h height, w width, c channel.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segtrain.data.content import pixels_hash, slice_hashes
from segtrain.data.geometry import Geometry
from segtrain.data.masks import regions_of
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources import Source, Volume, fill_missing, stand_in_of
from segtrain.data.sources.levels import one_range
from segtrain.errors import DataError, RunError
from segtrain.evaluation.ensemble import TrainedCheckpoint, opened
from segtrain.evaluation.lesion_places import lesions_of_regions
from segtrain.evaluation.metrics import Counts, among_known, count
from segtrain.evaluation.notice import notice_of
from segtrain.evaluation.patient_scores import in_source
from segtrain.evaluation.prediction_files import Prediction, Writer, writing
from segtrain.evaluation.region_scores import MASK_RULES, EmptyMasks, Row
from segtrain.evaluation.trained_on import SAME_PIXELS, people_of_patients, renamed, trained_on, unless_seen
from segtrain.evaluation.uncertainty import MemberSpread, Uncertainty, entropy_bits, say_what_there_is
from segtrain.evaluation.uncertainty_files import write_table, write_uncertainty
from segtrain.evaluation.units import prepared_voxel_ml, refuse_unknown_spacing, usable
from segtrain.evaluation.worst import WorstLesion
from segtrain.runtime.terminal import Progress

if TYPE_CHECKING:
    from segtrain.evaluation.predictor import Predictor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The scores of the patients with masks, and the reason for each patient that could not be predicted.

    people: the person of each patient with scores.
    """

    rows: Sequence[Row]
    not_predicted: Mapping[str, str]
    people: Mapping[str, str]


@dataclass(frozen=True)
class Scored:
    """A patient's rows, one a region, and its worst lesion with the overlay of that; nothing without a mask.

    uncertainty: the rows of that, where it was asked for, with a mask or without. pixels: the hash of its image.
    """

    rows: Sequence[Row] = ()
    worst: tuple[WorstLesion, str] | None = None
    uncertainty: Sequence[Row] = ()
    pixels: str = ""


def refuse_folder(out: Path, images: Path) -> None:
    """Raises RunError for an `out` that is not empty, or is inside the folder of the images."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is there already; name a new folder with --out")
    if out.resolve().is_relative_to(images.resolve()):
        raise RunError(f"{out}: inside --images, where it would be read as a patient; name a folder elsewhere")


def predict_source(
    checkpoints: Sequence[TrainedCheckpoint],
    source: Source,
    out: Path,
    probabilities: bool,
    rule: EmptyMasks,
    sort: str = "dsc",
    uncertainty: bool = False,
) -> Outcome:
    """Predict and write all patients; `sort` (of SORTS) is that of worst.png.

    A broken one is named and left out; where all are broken, DataError is raised.
    """
    not_predicted: dict[str, str] = {}
    slices = _slices(source, not_predicted)  # before anything is predicted
    log.info("%s: %d patients", source.label, len(slices) + len(not_predicted))
    seen = trained_on(slices.keys(), checkpoints)
    people = people_of_patients(slices.keys(), checkpoints)
    rows: list[Row] = []
    worst: list[tuple[WorstLesion, str]] = []
    uncertain: list[Row] = []
    with (
        writing(out, source, checkpoints[0].cfg.data, probabilities) as writer,
        opened(checkpoints) as predictor,
        Progress("predict", total=sum(slices.values()), unit="slices") as bar,
    ):
        if uncertainty:
            say_what_there_is(predictor.networks, predictor.views)
        for patient in slices:
            scored = Scored()
            try:
                scored = _predict_patient(predictor, writer, patient, rule, uncertainty)
            except DataError as error:
                _leave_out(patient, error, not_predicted)
            is_seen = patient in seen or _is_renamed(patient, scored.pixels, checkpoints)
            mark = {"trained_on": "yes" if is_seen else unless_seen(checkpoints)}
            rows += [row | mark for row in scored.rows]
            uncertain += [row | mark for row in scored.uncertainty]
            worst += [scored.worst] if scored.worst else []
            bar.advance(slices[patient], patient=patient)
        if not slices.keys() - not_predicted.keys():
            raise _none_predicted(not_predicted)
        if rows:
            writer.add_scores(rows, MASK_RULES[rule], people)
            writer.add_worst(worst, sort)
        if uncertain:
            write_table(writer, uncertain)
        _write_notes(writer, checkpoints, not_predicted)
    return Outcome(rows, not_predicted, people)


def _write_notes(writer: Writer, checkpoints: Sequence[TrainedCheckpoint], not_predicted: Mapping[str, str]) -> None:
    """Write down whose data are behind the masks, and which patients have none."""
    writer.add_notice(notice_of(checkpoints))
    if not_predicted:
        writer.add_not_predicted(not_predicted)


def _is_renamed(patient: str, pixels: str, checkpoints: Sequence[TrainedCheckpoint]) -> bool:
    """Whether the checkpoints were trained on these pixels under another name, which is told."""
    name = renamed({patient: pixels}, checkpoints).get(patient)
    if name:
        log.warning("%s", SAME_PIXELS.format(patient=patient, name=name))
    return name is not None


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
    predictor: "Predictor", writer: Writer, patient: str, rule: EmptyMasks, uncertainty: bool
) -> Scored:
    """Write a patient. A function of its own, to free its arrays."""
    source, cfg = writer.source, writer.cfg
    stand_in = stand_in_of(cfg, source.contrasts)
    volume = fill_missing(source.read(patient), source.contrasts, stand_in, where=f"patient {patient}")
    for remark in volume.remarks:
        log.info("patient %s: %s", patient, remark)
    pixels = pixels_hash(slice_hashes(volume.image_shwc))
    prediction = predict_volume(predictor, volume, Preparation.of(cfg), f"patient {patient}", uncertainty)
    volume = one_range(volume)  # as pictures show it
    uncertain = write_uncertainty(writer, patient, prediction, volume)
    if volume.mask_shw is None:
        writer.add(patient, prediction, volume)
        return Scored(uncertainty=uncertain, pixels=pixels)
    layout = writer.cfg.layout
    predicted_rshw = among_known(prediction.mask_rshw, volume.mask_shw, layout)
    true_rshw = regions_of(volume.mask_shw, layout)
    lesions = lesions_of_regions(predicted_rshw, true_rshw, layout.regions, usable(volume.spacing_mm))
    writer.add(patient, prediction, volume, lesions)
    rows = [
        _row(patient, name if len(layout.regions) > 1 else "", count(predicted, true), len(true), rule)
        for name, predicted, true in zip(layout.regions, predicted_rshw, true_rshw, strict=True)
    ]
    known = [row["dsc"] for row in rows if row["dsc"] is not None]
    worst = WorstLesion.of(patient, sum(known) / len(known) if known else None, lesions)
    return Scored(rows, (worst, f"overlays/{patient}/{volume.slice_names[worst.place]}.png"), uncertain, pixels)


def _row(patient: str, region: str, counts: Counts, slices: int, rule: EmptyMasks) -> Row:
    return {
        "patient": patient,
        **({"region": region} if region else {}),
        **counts.columns(slices),
        "dsc": counts.dsc if counts.tp + counts.fn > 0 or rule == "score" else None,
    }


def predict_volume(
    predictor: "Predictor", volume: Volume, preparation: Preparation, where: str, uncertainty: bool = False
) -> Prediction:
    """The prediction for a source's volume, prepared as for training and taken back to the source's geometry."""
    prepared = preprocess(replace(volume, mask_shw=None), preparation, where)
    for remark in prepared.remarks:
        log.info("%s: %s", where, remark)
    as_stored_shwc = prepared.image_shwc.astype(np.float16)
    has_spread = uncertainty and predictor.networks * predictor.views > 1
    spread = predictor.room_for_spread(prepared.mask_shw.shape) if has_spread else None
    probability_rshw = predictor.probability(
        as_stored_shwc, prepared.mask_shw, spacing_mm=volume.spacing_mm, where=where, spread=spread
    )
    refuse_unknown_spacing(predictor.cfg, {where: volume.spacing_mm}, predictor.layout.regions)
    voxel_ml = prepared_voxel_ml(volume.spacing_mm, prepared.geometry)
    kept_rshw = predictor.kept(predictor.over_threshold(probability_rshw), voxel_ml)
    return Prediction(
        probability_rshw=in_source(probability_rshw, prepared.geometry),
        mask_rshw=in_source(kept_rshw, prepared.geometry),
        uncertainty=_uncertainty(predictor, probability_rshw, spread, prepared.geometry) if uncertainty else None,
    )


def _uncertainty(
    predictor: "Predictor", probability_rshw: NDArray[np.float32], spread: MemberSpread | None, geometry: Geometry
) -> Uncertainty:
    return Uncertainty(
        entropy_rshw=in_source(entropy_bits(probability_rshw), geometry),
        sd_rshw=None if spread is None else in_source(spread.sd_rshw, geometry),
        volume_cvs=[None if spread is None else spread.volume_cv(region) for region in range(len(probability_rshw))],
        networks=predictor.networks,
        views=predictor.views,
    )
