"""The summary of an evaluation: means with n, intervals, strata and rules (L10), as JSON and as tables."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from segtrain.config import Config
from segtrain.data.store import Store
from segtrain.evaluation.ensemble import TrainedCheckpoint
from segtrain.evaluation.metrics import summarise
from segtrain.evaluation.scores import MASK_RULES, METRICS, RATIO_RULE, SURFACE_RULES, GeometryName, Row, Rules, column
from segtrain.evaluation.surface import SOURCE
from segtrain.runtime.terminal import show_table

log = logging.getLogger(__name__)

TERTILES = ("small", "medium", "large")
HEADER = ("", "n", "mean", "95% CI", "median", "quartiles")


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
    """summary.json. Patients that were trained on have means of their own, and are in no stratum."""
    unseen = [row for row in rows if row["trained_on"] == "no"]
    seen = [row for row in rows if row["trained_on"] == "yes"]
    cfg = checkpoints[0].cfg
    places: dict[GeometryName, str] = {
        "prepared": f"cropped, padded and resized to {cfg.data.image_size} px, as the network sees it",
        "original": "the slices as they lie in the source; columns original_...",
    }
    names = [column(name, geometry) for geometry in rules.geometries for name in METRICS]
    summary = {
        "data": store.label,
        "image_size": cfg.data.image_size,
        "runs": [{"run": str(one.run.root.resolve()), "checkpoint": one.folder.name} for one in checkpoints],
        "geometries": {geometry: places[geometry] for geometry in rules.geometries},
        **settings_of(cfg, rules),
        "empty_ratios": RATIO_RULE,
        "chosen_on": _optimism(unseen, checkpoints),
        "surface_distances": f"{SOURCE}, whole volumes, in voxels of the geometry that the row is of",
        "not_trained_on": {name: _mean(unseen, name) for name in names},
        "trained_on": {name: _mean(seen, name) for name in names} if seen else None,
    }
    for geometry in rules.geometries:
        summary[column("dsc_by", geometry)] = _by_stratum(unseen, geometry)
    return summary


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


def _by_stratum(rows: Sequence[Row], geometry: GeometryName) -> dict[str, Any]:
    dsc, voxels = column("dsc", geometry), column("voxels", geometry)
    return {f"{what} {value}": _mean(part, dsc) for what, value, part in _strata(rows, voxels)}


def _mean(rows: Sequence[Row], name: str) -> dict[str, float | int | None]:
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return {"n": 0}
    summary = summarise(values)
    low, high = np.percentile(values, (25, 75))
    return {
        "n": summary.n,
        "mean": summary.mean,
        "ci_low": summary.ci_low if math.isfinite(summary.ci_low) else None,
        "ci_high": summary.ci_high if math.isfinite(summary.ci_high) else None,
        "median": summary.median,
        "quartile_1": float(low),
        "quartile_3": float(high),
    }


def _strata(rows: Sequence[Row], voxels: str) -> Iterator[tuple[str, str, list[Row]]]:
    """By institution; and, with three patients or more, by lesion volume in three parts of equal size."""
    for institution in sorted({row["institution"] for row in rows}):
        yield "institution", institution, [row for row in rows if row["institution"] == institution]
    if len(rows) < len(TERTILES):
        return
    by_volume = sorted(rows, key=lambda row: (row[voxels], row["patient"]))
    for name, part in zip(TERTILES, np.array_split(np.arange(len(rows)), 3), strict=True):
        yield "lesion", name, [by_volume[i] for i in part]


def show(summary: dict[str, Any]) -> None:
    """Print tables of the means, for each geometry, and log the rules."""
    what = f"{summary['data']}, {', '.join(run['checkpoint'] for run in summary['runs'])}"
    for geometry, place in summary["geometries"].items():
        where = f"{geometry} geometry ({place})"
        labels = {column(name, geometry): name for name in METRICS}
        if summary["not_trained_on"][column("dsc", geometry)]["n"]:
            show_table(f"Scores in the {where}: {what}", _lines(summary["not_trained_on"], labels), HEADER)
            strata = summary[column("dsc_by", geometry)]
            title = f"DSC by institution and by lesion volume, {geometry} geometry"
            show_table(title, _lines(strata, {name: name for name in strata}), HEADER)
        if summary["trained_on"]:
            title = f"Trained on, so no measure of new patients, {where}: {what}"
            show_table(title, _lines(summary["trained_on"], labels), HEADER)
    for key in ("empty_masks", "empty_ratios", "empty_surfaces", "surface_distances"):
        log.info("%s: %s", key.replace("_", " "), summary[key])
    if summary["chosen_on"]:
        log.warning("%s", summary["chosen_on"])


def _lines(means: dict[str, Any], labels: dict[str, str]) -> list[tuple[str, ...]]:
    return [_line(label, means[name]) for name, label in labels.items()]


def _line(label: str, mean: dict[str, Any]) -> tuple[str, ...]:
    if not mean["n"]:
        return label, "0", "", "", "", ""
    interval = "" if mean["ci_low"] is None else f"{mean['ci_low']:#.3g} to {mean['ci_high']:#.3g}"
    quartiles = f"{mean['quartile_1']:#.3g} to {mean['quartile_3']:#.3g}"
    return label, str(mean["n"]), f"{mean['mean']:.4f}", interval, f"{mean['median']:.4f}", quartiles
