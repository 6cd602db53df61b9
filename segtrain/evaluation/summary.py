"""The summary of an evaluation: means with n, intervals, strata and rules (L10), as JSON."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from segtrain.config import Config
from segtrain.data.people import groups_of, values_by_person
from segtrain.data.store import Store
from segtrain.evaluation.calibration import ECE
from segtrain.evaluation.calibration_summary import calibration_block, low_ceiling
from segtrain.evaluation.ensemble import TrainedCheckpoint
from segtrain.evaluation.intervals import METHOD
from segtrain.evaluation.lesion_summary import People, agreement_block, recall_by_size_block
from segtrain.evaluation.lesions import EMPTY_HD95_RULE, EMPTY_RULE, RULES
from segtrain.evaluation.metrics import summarise
from segtrain.evaluation.patient_scores import column
from segtrain.evaluation.region_scores import (
    DSC_CEILING,
    LESION_RULES,
    MASK_RULES,
    MOST_LESIONS,
    NO_LESIONS,
    RATIO_RULE,
    SURFACE_RULES,
    WITH_AND_WITHOUT,
    GeometryName,
    Row,
    Rules,
    further_metrics,
    limits,
    metrics,
)
from segtrain.evaluation.scores import Scores
from segtrain.evaluation.surface import SOURCE
from segtrain.evaluation.trained_on import UNKNOWN, people_of_patients
from segtrain.evaluation.units import SOME_SPACING
from segtrain.run import ChosenPostprocessing

TERTILES = ("small", "medium", "large")
RECALL, AGREEMENT = "lesion_recall_by_size", "volume_agreement"  # blocks of one geometry
CALIBRATION = "calibration"  # a block of the prepared geometry
NOT_ALWAYS = (*WITH_AND_WITHOUT, ECE, DSC_CEILING)  # chosen settings are in use; in one geometry
PEOPLE_RULE = "n is of people: the scans of one person count as one, with their mean; the scans are `patients`"

LESIONS = "lesions"  # the setting that summaries of earlier versions do not have

Mean = dict[str, Any]  # a mean with its n, interval and quartiles, as in summary.json


def settings_of(cfg: Config, rules: Rules) -> dict[str, Any]:
    """The part of the summary that, if it differs, makes other scores of the same patients and weights."""
    irrelevant = ("every_epochs", "batch", "pictures")
    return {
        "settings": {key: value for key, value in asdict(cfg.evaluate).items() if key not in irrelevant},
        "empty_masks": MASK_RULES[rules.masks],
        "empty_surfaces": SURFACE_RULES[rules.surfaces],
        LESIONS: f"{rules.lesions}: {LESION_RULES[rules.lesions]}",
    }


def summary_of(scores: Scores, checkpoints: Sequence[TrainedCheckpoint], store: Store, rules: Rules) -> dict[str, Any]:
    """summary.json. Patients that were trained on have means of their own, and are in no stratum.

    Of several regions each has these means, and beside them are the means over the regions.
    """
    rows = scores.rows
    people = people_of_patients({row["patient"] for row in rows}, checkpoints)
    cfg = checkpoints[0].cfg
    places: dict[GeometryName, str] = {
        "prepared": f"cropped, padded and resized to {cfg.data.image_size} px, as the network sees it",
        "original": "the slices as they lie in the source; columns original_...",
    }
    unit = "mm" if scores.in_mm else "voxels"
    summary = {
        "data": store.label,
        "image_size": cfg.data.image_size,
        "runs": [{"run": str(one.run.root.resolve()), "checkpoint": one.folder.name} for one in checkpoints],
        "geometries": {geometry: places[geometry] for geometry in rules.geometries},
        **settings_of(cfg, rules),
        "empty_ratios": RATIO_RULE,
        "intervals": METHOD,
        "chosen_on": _optimism(scores.unseen.rows, checkpoints),
        "surface_distances": f"{SOURCE}, whole volumes, in {unit} of the geometry that the row is of",
        "units": scores.units,
        "low_ceiling": low_ceiling(rows),
        **_lesion_rules(scores, rules),
    }
    if unknown := {row["patient"] for row in rows if row["trained_on"] == UNKNOWN}:
        summary["unknown_training"] = (
            f"{len(unknown)} of {len(people)} patients may have been trained on: weights alone do not say on whom they "
            "were; --config with the config of their training does"
        )
    if len(set(people.values())) < len(people):
        summary["people"] = PEOPLE_RULE
    if not (regions := scores.regions):
        return summary | _blocks(scores, rules, people)
    return summary | {
        **_sides(scores, rules, lambda part, name: _mean_of_regions(part, name, regions, people)),
        "regions": {region: _blocks(scores.of(region), rules, people) for region in regions},
    }


def postprocessing_block(chosen: ChosenPostprocessing | None) -> dict[str, Any]:
    """Where chosen settings are in use: who chose them, by what rule, with what evidence, and what is configured."""
    if chosen is None:
        return {}
    block = {
        "folds": chosen.folds,
        "patients": len(chosen.patients),
        "predicted_by": [asdict(member) for member in chosen.predictors],
        "candidates": chosen.candidates,
        "rule": chosen.rule,
        "regions": {region: asdict(choice) for region, choice in chosen.regions.items()},
    }
    return {"postprocessing": block}


def _lesion_rules(scores: Scores, rules: Rules) -> dict[str, str]:
    if rules.lesions == NO_LESIONS:
        return {}
    left_out = sum(one.of_all - len(one.table) for one in scores.lesions)
    return {
        "empty_lesions": EMPTY_RULE if RULES[rules.lesions].missed_hd95 is None else f"{EMPTY_RULE}; {EMPTY_HD95_RULE}",
        "lesion_matching": RULES[rules.lesions].source,
        **({"lesions_not_in_table": f"{left_out}; of a patient it has the largest {MOST_LESIONS}"} if left_out else {}),
    }


def _blocks(scores: Scores, rules: Rules, people: People) -> dict[str, Any]:
    """Of one region: the means of all columns, of the DSC by stratum, recall by lesion size, agreement of volumes."""
    blocks = _sides(scores, rules, lambda part, name: _mean(part, name, people))
    unseen = scores.unseen.rows
    for geometry in rules.geometries:
        blocks[column("dsc_by", geometry)] = _by_stratum(unseen, geometry, people)
    for geometry in rules.geometries:
        if rules.lesions != NO_LESIONS:
            blocks[column(RECALL, geometry)] = recall_by_size_block(scores, geometry, people)
        blocks[column(AGREEMENT, geometry)] = agreement_block(scores, geometry, people)
    if "prepared" in rules.geometries:
        blocks[CALIBRATION] = calibration_block(scores, people)
    return blocks


def _sides(scores: Scores, rules: Rules, mean: Callable[[Sequence[Row], str], Mean]) -> dict[str, Any]:
    """Each column's mean over the patients that were not trained on, and over those that were."""
    rows, spacing_mm = scores.rows, SOME_SPACING if scores.in_mm else None
    names = [
        column(name, geometry)
        for group in (metrics(spacing_mm), further_metrics(rules, spacing_mm), NOT_ALWAYS)
        for geometry in rules.geometries
        for name in group
        if name not in NOT_ALWAYS or column(name, geometry) in rows[0]
    ]
    unseen, seen = scores.unseen.rows, [row for row in rows if row["trained_on"] == "yes"]
    return {
        "not_trained_on": {name: mean(unseen, name) for name in names},
        "trained_on": {name: mean(seen, name) for name in names} if seen else None,
    }


def _optimism(rows: Sequence[Row], checkpoints: Sequence[TrainedCheckpoint]) -> str | None:
    """The warning where the best epoch was selected by the scores of patients that are scored here."""
    scored = {row["patient"] for row in rows}
    best = [one.run.root.name for one in checkpoints if one.is_best and scored & one.validation]
    if not best:
        return None
    return (
        f"{', '.join(best)}: the best epoch was chosen on patients that are scored here, so the mean is too good; "
        "--checkpoint last was not chosen by any score"
    )


def _by_stratum(rows: Sequence[Row], geometry: GeometryName, people: People) -> dict[str, Mean]:
    dsc, voxels = column("dsc", geometry), column("voxels", geometry)
    return {f"{what} {value}": _mean(part, dsc, people) for what, value, part in _strata(rows, voxels, people)}


def _mean(rows: Sequence[Row], name: str, people: People) -> Mean:
    """The mean of a column of one region's rows."""
    return _numbers({row["patient"]: row[name] for row in rows if row[name] is not None}, people, name)


def _numbers(values: Mapping[str, float], people: People, name: str) -> Mean:
    """The mean over people of patients' values of a column; `patients` is there where these are more."""
    if not values:
        return {"n": 0}
    of_people = values_by_person(values, people)
    lowest, highest = limits(name)
    summary = summarise(of_people, highest, lowest)
    low, high = np.percentile(of_people, (25, 75))
    return {
        "n": summary.n,
        **({"patients": len(values)} if len(values) > summary.n else {}),
        "mean": summary.mean,
        "ci_low": summary.ci_low if math.isfinite(summary.ci_low) else None,
        "ci_high": summary.ci_high if math.isfinite(summary.ci_high) else None,
        "median": summary.median,
        "quartile_1": float(low),
        "quartile_3": float(high),
    }


def _mean_of_regions(rows: Sequence[Row], name: str, regions: Sequence[str], people: People) -> Mean:
    """The mean over the regions of their means, which are its `parts`.

    The interval, median and quartiles are of the people's means over the regions; there are none where somebody has no
    value in one of them.
    """
    by_region = {region: [row for row in rows if row["region"] == region] for region in regions}
    parts = {region: _mean(of_region, name, people).get("mean") for region, of_region in by_region.items()}
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        if row[name] is not None:
            by_patient.setdefault(row["patient"], []).append(row[name])
    over_regions = {patient: math.fsum(values) / len(values) for patient, values in by_patient.items()}
    numbers = _numbers(over_regions, people, name)
    if any(len(values) < len(regions) for values in by_patient.values()):
        means = [mean for mean in parts.values() if mean is not None]
        numbers |= dict.fromkeys(("ci_low", "ci_high", "median", "quartile_1", "quartile_3"))
        numbers["mean"] = math.fsum(means) / len(means) if len(means) == len(regions) else None
    return numbers | {"parts": parts}


def _strata(rows: Sequence[Row], voxels: str, people: People) -> Iterator[tuple[str, str, list[Row]]]:
    """By institution; and, with three people or more, by lesion volume in three parts of equal size.

    The volume of a person is the mean over the scans.
    """
    for institution in sorted({row["institution"] for row in rows}):
        yield "institution", institution, [row for row in rows if row["institution"] == institution]
    by_patient = {row["patient"]: row for row in rows}
    groups = groups_of(by_patient, people)
    if len(groups) < len(TERTILES):
        return
    volumes = [sum(by_patient[patient][voxels] for patient in group) / len(group) for group in groups]
    by_volume = sorted(zip(volumes, groups, strict=True))
    for name, part in zip(TERTILES, np.array_split(np.arange(len(groups)), 3), strict=True):
        yield "lesion", name, [by_patient[patient] for i in part for patient in by_volume[i][1]]
