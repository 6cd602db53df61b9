"""Of all people together: lesions found by size, and predicted volume against true volume, in numbers and drawn."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segtrain.data.people import values_by_person
from segtrain.evaluation.agreement_figure import agreement_figure
from segtrain.evaluation.lesion_table import COLUMNS, recall_by_size
from segtrain.evaluation.lesions import size_classes
from segtrain.evaluation.overlays import Picture
from segtrain.evaluation.patient_scores import column
from segtrain.evaluation.region_scores import GeometryName, Row
from segtrain.evaluation.scores import Scores
from segtrain.evaluation.svg import Figure, pixels, stacked
from segtrain.evaluation.units import SOME_SPACING, unit
from segtrain.evaluation.volumes import SOURCE, Estimate, agreement

People = Mapping[str, str]  # the person of each patient


def recall_by_size_block(scores: Scores, geometry: GeometryName, people: People) -> dict[str, Any]:
    """By class of size: the number of lesions and people, and the share of these lesions that was found."""
    here = [one for one in scores.unseen.lesions if one.geometry == geometry]
    persons = [people.get(one.patient, one.patient) for one in here for _ in one.sizes]
    sizes = [size for one in here for size in one.sizes]
    found = [is_found for one in here for is_found in one.is_found]
    recalls = recall_by_size(persons, sizes, found, size_classes(SOME_SPACING if scores.in_mm else None))
    return {
        one.size: {
            "lesions": one.lesions,
            "n": one.people,
            "recall": one.recall,
            "ci_low": _known(one.ci_low),
            "ci_high": _known(one.ci_high),
        }
        for one in recalls
    }


def agreement_block(scores: Scores, geometry: GeometryName, people: People) -> dict[str, Any]:
    """Bias and limits of agreement with their intervals; n is of people."""
    predicted, true = _volumes(scores, geometry, people)
    if not true:
        return {"n": 0}
    result = agreement(predicted, true)
    return {
        "n": result.n,
        "unit": unit(SOME_SPACING if scores.in_mm else None),
        "bias": _interval(result.bias),
        "sd": _known(result.sd),
        "lower_limit": _interval(result.lower),
        "upper_limit": _interval(result.upper),
        "source": SOURCE,
    }


def volumes_figure(scores: Scores, geometry: GeometryName, people: People) -> tuple[Figure, Picture] | None:
    """The Bland-Altman plot, of several regions one below the other, as drawing and as pixels; None without people."""
    figures = []
    for region in scores.regions or ("",):
        predicted, true = _volumes(scores.of(region) if region else scores, geometry, people)
        if true:
            title = " ".join(filter(None, ("Volume", region and f"of {region}", f"in the {geometry} geometry")))
            word = unit(SOME_SPACING if scores.in_mm else None)
            figures.append(agreement_figure(title, predicted, true, word))
    if not figures:
        return None
    return stacked(figures), np.concatenate([pixels(figure) for figure in figures])


def lesion_rows(scores: Scores) -> tuple[list[str], list[Row]]:
    """The columns and lines of lesions.csv."""
    names = ["patient", *(["region"] if scores.regions else []), "geometry", "trained_on", *COLUMNS]
    if not scores.in_mm:
        names.remove("ml")
    trained_on = {row["patient"]: row["trained_on"] for row in scores.rows}
    lines = []
    for one in scores.lesions:
        place = {"patient": one.patient, **({"region": one.region} if scores.regions else {})}
        place |= {"geometry": one.geometry, "trained_on": trained_on[one.patient]}
        lines += [place | lesion for lesion in one.table]
    return names, lines


def _volumes(scores: Scores, geometry: GeometryName, people: People) -> tuple[Sequence[float], Sequence[float]]:
    """Predicted and true volume of each person who was not trained on, the mean over the scans."""
    word = unit(SOME_SPACING if scores.in_mm else None)
    sides = []
    for side in ("predicted", "true"):
        name = column(f"{side}_{word}", geometry)
        values = {row["patient"]: row[name] for row in scores.unseen.rows if row[name] is not None}
        sides.append(values_by_person(values, people))
    return sides[0], sides[1]


def _interval(estimate: Estimate) -> dict[str, float | None]:
    return {"value": _known(estimate.value), "ci_low": _known(estimate.low), "ci_high": _known(estimate.high)}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
