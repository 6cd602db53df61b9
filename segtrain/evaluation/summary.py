"""What stands beside the means of an evaluation (L10): n, intervals, strata, rules; and how it is shown."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from segtrain.config import Config
from segtrain.data.store import Store
from segtrain.evaluation.ensemble import Chosen
from segtrain.evaluation.metrics import Summary, summarise
from segtrain.evaluation.scores import MASK_RULES, METRICS, RATIO_RULE, SURFACE_RULES, GeometryName, Row, Rules, column
from segtrain.evaluation.surface import SOURCE
from segtrain.runtime.terminal import show_table

log = logging.getLogger(__name__)

TERTILES = ("small", "medium", "large")
HEADER = ("", "n", "mean", "95% CI", "median", "quartiles")


def how(cfg: Config, rules: Rules) -> dict[str, Any]:
    """What makes scores of the same patients and weights other scores; part of the summary."""
    return {
        "settings": {k: v for k, v in asdict(cfg.evaluate).items() if k not in ("every_epochs", "batch", "pictures")},
        "empty_masks": MASK_RULES[rules.masks],
        "empty_surfaces": SURFACE_RULES[rules.surfaces],
    }


def summary_of(rows: Sequence[Row], chosen: Sequence[Chosen], store: Store, rules: Rules) -> dict[str, Any]:
    """What belongs beside the means (L10); patients that were trained on are told apart, and in no stratum."""
    unseen = [row for row in rows if row["trained_on"] == "no"]
    seen = [row for row in rows if row["trained_on"] == "yes"]
    cfg = chosen[0].cfg
    places = {
        "prepared": f"cropped, padded and resized to {cfg.data.image_size} px, as the network sees it",
        "original": "the slices as they lie in the source; columns original_...",
    }
    names = [column(name, geometry) for geometry in rules.geometries for name in METRICS]
    return {
        "data": store.label,
        "image_size": cfg.data.image_size,
        "runs": [{"run": str(one.run.root.resolve()), "checkpoint": one.folder.name} for one in chosen],
        "geometries": {geometry: places[geometry] for geometry in rules.geometries},
        **how(cfg, rules),
        "empty_ratios": RATIO_RULE,
        "chosen_on": _chosen_on(unseen, chosen),
        "surface_distances": f"{SOURCE}, whole volumes, in voxels of the geometry that the row is of",
        "not_trained_on": {name: _summary(unseen, name) for name in names},
        "trained_on": {name: _summary(seen, name) for name in names} if seen else None,
        **{column("dsc_by", geometry): _by_stratum(unseen, geometry) for geometry in rules.geometries},
    }  # fmt: skip


def _chosen_on(rows: Sequence[Row], chosen: Sequence[Chosen]) -> str | None:
    """What must be said where an epoch was chosen by the scores of the very patients that are scored."""
    scored = {row["patient"] for row in rows}
    best = [one.run.root.name for one in chosen if one.is_best and scored & one.validation]
    if not best:
        return None
    return (
        f"{', '.join(best)}: the best epoch was chosen on patients that are scored here, so the mean is too good; "
        "nobody chose --checkpoint last"
    )


def _by_stratum(rows: Sequence[Row], geometry: GeometryName) -> dict[str, Any]:
    dsc, voxels = column("dsc", geometry), column("voxels", geometry)
    return {f"{what} {value}": _summary(part, dsc) for what, value, part in _strata(rows, voxels)}


def _summary(rows: Sequence[Row], name: str) -> dict[str, float | int | None]:
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return {"n": 0}
    found: Summary = summarise(values)
    low, high = np.percentile(values, (25, 75))
    ends = {"ci_low": found.ci_low, "ci_high": found.ci_high}
    return {
        "n": found.n, "mean": found.mean, **{k: v if math.isfinite(v) else None for k, v in ends.items()},
        "median": found.median, "quartile_1": float(low), "quartile_3": float(high),
    }  # fmt: skip


def _strata(rows: Sequence[Row], voxels: str) -> Iterator[tuple[str, str, list[Row]]]:
    """By institution, and by third of the patients, from three on, in order of lesion volume."""
    for institution in sorted({row["institution"] for row in rows}):
        yield "institution", institution, [row for row in rows if row["institution"] == institution]
    if len(rows) < len(TERTILES):
        return
    by_volume = sorted(rows, key=lambda row: (row[voxels], row["patient"]))
    for name, part in zip(TERTILES, np.array_split(np.arange(len(rows)), 3), strict=True):
        yield "lesion", name, [by_volume[i] for i in part]


def show(summary: dict[str, Any]) -> None:
    """Tables of the means, a geometry each, and the rules they were made by."""
    what = f"{summary['data']}, {', '.join(run['checkpoint'] for run in summary['runs'])}"
    for geometry, place in summary["geometries"].items():
        where = f"{geometry} geometry ({place})"
        names = {column(name, geometry): name for name in METRICS}
        if summary["not_trained_on"][column("dsc", geometry)]["n"]:
            show_table(f"Scores in the {where}: {what}", _lines(summary["not_trained_on"], names), HEADER)
            strata = summary[column("dsc_by", geometry)]
            title = f"DSC by institution and by lesion volume, {geometry} geometry"
            show_table(title, _lines(strata, {name: name for name in strata}), HEADER)
        if summary["trained_on"]:
            title = f"Trained on, so no measure of new patients, {where}: {what}"
            show_table(title, _lines(summary["trained_on"], names), HEADER)
    for key in ("empty_masks", "empty_ratios", "empty_surfaces", "surface_distances"):
        log.info("%s: %s", key.replace("_", " "), summary[key])
    if summary["chosen_on"]:
        log.warning("%s", summary["chosen_on"])


def _lines(found: dict[str, Any], names: dict[str, str]) -> list[tuple[str, ...]]:
    return [_line(shown, found[name]) for name, shown in names.items()]


def _line(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    if not found["n"]:
        return name, "0", "", "", "", ""
    interval = "" if found["ci_low"] is None else f"{found['ci_low']:#.3g} to {found['ci_high']:#.3g}"
    quartiles = f"{found['quartile_1']:#.3g} to {found['quartile_3']:#.3g}"
    return name, str(found["n"]), f"{found['mean']:.4f}", interval, f"{found['median']:.4f}", quartiles
