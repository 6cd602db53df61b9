"""The summary of an evaluation: means with n, intervals, strata and rules (L10), as JSON and as tables."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from segtrain.config import Config
from segtrain.data.people import groups_of, values_by_person
from segtrain.data.store import Store
from segtrain.evaluation.ensemble import TrainedCheckpoint, people_of_patients
from segtrain.evaluation.metrics import summarise
from segtrain.evaluation.scores import MASK_RULES, METRICS, RATIO_RULE, SURFACE_RULES, GeometryName, Row, Rules, column
from segtrain.evaluation.surface import SOURCE
from segtrain.runtime.terminal import show_table

log = logging.getLogger(__name__)

TERTILES = ("small", "medium", "large")
HEADER = ("", "n", "mean", "95% CI", "median", "quartiles")
PEOPLE_RULE = "n is of people: the scans of one person count as one, with their mean; the scans are `patients`"

Mean = dict[str, Any]  # a mean with its n, interval and quartiles, as in summary.json
People = Mapping[str, str]  # the person of each patient


def settings_of(cfg: Config, rules: Rules) -> dict[str, Any]:
    """The part of the summary that, if it differs, makes other scores of the same patients and weights."""
    irrelevant = ("every_epochs", "batch", "pictures")
    return {
        "settings": {key: value for key, value in asdict(cfg.evaluate).items() if key not in irrelevant},
        "empty_masks": MASK_RULES[rules.masks],
        "empty_surfaces": SURFACE_RULES[rules.surfaces],
    }


def summary_of(
    rows: Sequence[Row], checkpoints: Sequence[TrainedCheckpoint], store: Store, rules: Rules
) -> dict[str, Any]:
    """summary.json. Patients that were trained on have means of their own, and are in no stratum.

    Of several regions each has these means, and beside them are the means over the regions.
    """
    people = people_of_patients({row["patient"] for row in rows}, checkpoints)
    cfg = checkpoints[0].cfg
    places: dict[GeometryName, str] = {
        "prepared": f"cropped, padded and resized to {cfg.data.image_size} px, as the network sees it",
        "original": "the slices as they lie in the source; columns original_...",
    }
    summary = {
        "data": store.label,
        "image_size": cfg.data.image_size,
        "runs": [{"run": str(one.run.root.resolve()), "checkpoint": one.folder.name} for one in checkpoints],
        "geometries": {geometry: places[geometry] for geometry in rules.geometries},
        **settings_of(cfg, rules),
        "empty_ratios": RATIO_RULE,
        "chosen_on": _optimism([row for row in rows if row["trained_on"] == "no"], checkpoints),
        "surface_distances": f"{SOURCE}, whole volumes, in voxels of the geometry that the row is of",
    }
    if len(set(people.values())) < len(people):
        summary["people"] = PEOPLE_RULE
    regions = list(dict.fromkeys(row["region"] for row in rows if "region" in row))
    if not regions:
        return summary | _blocks(rows, rules, people)
    by_region = {region: [row for row in rows if row["region"] == region] for region in regions}
    return summary | {
        **_sides(rows, rules, lambda part, name: _mean_of_regions(part, name, regions, people)),
        "regions": {region: _blocks(of_region, rules, people) for region, of_region in by_region.items()},
    }


def _blocks(rows: Sequence[Row], rules: Rules, people: People) -> dict[str, Any]:
    """The means of one region: of all columns, and of the DSC by stratum."""
    blocks = _sides(rows, rules, lambda part, name: _mean(part, name, people))
    unseen = [row for row in rows if row["trained_on"] == "no"]
    return blocks | {column("dsc_by", geometry): _by_stratum(unseen, geometry, people) for geometry in rules.geometries}


def _sides(rows: Sequence[Row], rules: Rules, mean: Callable[[Sequence[Row], str], Mean]) -> dict[str, Any]:
    """Each column's mean over the patients that were not trained on, and over those that were."""
    names = [column(name, geometry) for geometry in rules.geometries for name in METRICS]
    unseen, seen = ([row for row in rows if row["trained_on"] == side] for side in ("no", "yes"))
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
    return _numbers({row["patient"]: row[name] for row in rows if row[name] is not None}, people)


def _numbers(values: Mapping[str, float], people: People) -> Mean:
    """The mean over people of patients' values; `patients` is there where these are more."""
    if not values:
        return {"n": 0}
    of_people = values_by_person(values, people)
    summary = summarise(of_people)
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
    numbers = _numbers(over_regions, people)
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


def show(summary: dict[str, Any]) -> None:
    """Print tables of the means, for each geometry, and log the rules."""
    what = f"{summary['data']}, {', '.join(run['checkpoint'] for run in summary['runs'])}"
    regions = summary.get("regions", {})
    for geometry, place in summary["geometries"].items():
        where = f"{geometry} geometry ({place})"
        _show_means(summary, geometry, f"{where}, mean over regions" if regions else where, what, tuple(regions))
        if not regions:
            _show_strata(summary, geometry, f"{geometry} geometry")
        for region, blocks in regions.items():
            _show_means(blocks, geometry, f"{where}, region {region}", what)
            _show_strata(blocks, geometry, f"{geometry} geometry, region {region}")
    for key in ("people", "empty_masks", "empty_ratios", "empty_surfaces", "surface_distances"):
        if key in summary:
            log.info("%s: %s", key.replace("_", " "), summary[key])
    if summary["chosen_on"]:
        log.warning("%s", summary["chosen_on"])


def _show_means(
    blocks: dict[str, Any], geometry: GeometryName, where: str, what: str, regions: Sequence[str] = ()
) -> None:
    """The means of all columns; of the mean over `regions` each one's mean beside it."""
    labels = {column(name, geometry): name for name in METRICS}
    header = (*HEADER, *regions)
    if blocks["not_trained_on"][column("dsc", geometry)]["n"]:
        show_table(f"Scores in the {where}: {what}", _lines(blocks["not_trained_on"], labels, regions), header)
    if blocks["trained_on"]:
        title = f"Trained on, so no measure of new patients, {where}: {what}"
        show_table(title, _lines(blocks["trained_on"], labels, regions), header)


def _show_strata(blocks: dict[str, Any], geometry: GeometryName, where: str) -> None:
    if blocks["not_trained_on"][column("dsc", geometry)]["n"]:
        strata = blocks[column("dsc_by", geometry)]
        title = f"DSC by institution and by lesion volume, {where}"
        show_table(title, _lines(strata, {name: name for name in strata}), HEADER)


def _lines(means: dict[str, Mean], labels: dict[str, str], regions: Sequence[str] = ()) -> list[tuple[str, ...]]:
    return [_line(label, means[name], regions) for name, label in labels.items()]


def _line(label: str, mean: Mean, regions: Sequence[str]) -> tuple[str, ...]:
    if not mean["n"]:
        return label, "0", *[""] * (len(HEADER) - 2 + len(regions))
    parts = [mean["parts"][region] for region in regions]
    n = f"{mean['n']} ({mean['patients']} patients)" if "patients" in mean else str(mean["n"])
    interval = "" if mean["ci_low"] is None else f"{mean['ci_low']:#.3g} to {mean['ci_high']:#.3g}"
    quartiles = "" if mean["quartile_1"] is None else f"{mean['quartile_1']:#.3g} to {mean['quartile_3']:#.3g}"
    return label, n, _cell(mean["mean"]), interval, _cell(mean["median"]), quartiles, *map(_cell, parts)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
