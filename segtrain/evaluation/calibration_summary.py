"""Calibration of all people together, in numbers and drawn; the ceiling that preparation sets to the DSC."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segtrain.data.people import values_by_person
from segtrain.data.sources import first_few
from segtrain.evaluation.calibration import SOURCE, VOXELS_RULE, Reliability, pooled
from segtrain.evaluation.calibration_figure import calibration_figure
from segtrain.evaluation.overlays import Picture
from segtrain.evaluation.patient_scores import column
from segtrain.evaluation.region_scores import DSC_CEILING, Row
from segtrain.evaluation.scores import Scores
from segtrain.evaluation.svg import Figure, pixels, stacked

LOW_MEAN_CEILING, LOW_CEILING = 0.99, 0.975  # of all patients, of one


def calibration_block(scores: Scores, people: Mapping[str, str]) -> dict[str, Any]:
    """Of one region, the patients that were not trained on: their voxels pooled, by bin of probability."""
    tables = _unseen(scores)
    table = pooled(tables.values())
    if not sum(table.voxels):
        return {"n": 0}
    return {
        "n": len(values_by_person(dict.fromkeys(tables, 0.0), people)),
        "voxels": sum(table.voxels),
        "ece": table.ece,
        "bins": table.bins(),
        "of": VOXELS_RULE,
        "source": SOURCE,
    }


def calibration_pictures(scores: Scores, people: Mapping[str, str]) -> tuple[Figure, Picture] | None:
    """The diagram of reliability, of several regions one below the other, drawn and as pixels; None without people."""
    figures = []
    for region in scores.regions or ("",):
        tables = _unseen(scores.of(region) if region else scores)
        if tables:
            n = len(values_by_person(dict.fromkeys(tables, 0.0), people))
            title = " ".join(filter(None, ("Calibration", region and f"of {region}", "in the prepared geometry")))
            figures.append(calibration_figure(title, pooled(tables.values()), n))
    if not figures:
        return None
    return stacked(figures), np.concatenate([pixels(figure) for figure in figures])


def low_ceiling(rows: Sequence[Row]) -> str | None:
    """What to say where preparation keeps even a perfect prediction from a DSC near 1; None elsewhere."""
    name = column(DSC_CEILING, "original")
    ceilings = [row for row in rows if row.get(name) is not None]
    if not ceilings:
        return None
    mean = math.fsum(row[name] for row in ceilings) / len(ceilings)
    low = sorted((row for row in ceilings if row[name] < LOW_CEILING), key=lambda row: row[name])
    if mean >= LOW_MEAN_CEILING and not low:
        return None
    text = f"a perfect prediction has a mean DSC of {mean:.4f} in the original geometry"
    if low:
        named = [
            " ".join([row["patient"], *([row["region"]] if "region" in row else []), f"{row[name]:.3f}"]) for row in low
        ]
        text += f", and under {LOW_CEILING:g} for {first_few(named)}"
    return f"{text}: image size, resampling and dropped slices do not allow more"


def _unseen(scores: Scores) -> dict[str, Reliability]:
    """Of one region's patients that were not trained on."""
    return {patient: table for (patient, _), table in scores.unseen.calibration.items()}
