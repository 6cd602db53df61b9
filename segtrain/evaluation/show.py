"""The summary of an evaluation as tables on the terminal, with the rules in the log."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from segtrain.evaluation.patient_scores import column
from segtrain.evaluation.region_scores import GeometryName, Rules, further_metrics, metrics
from segtrain.evaluation.summary import AGREEMENT, CALIBRATION, NOT_ALWAYS, RECALL, Mean
from segtrain.evaluation.units import SOME_SPACING
from segtrain.runtime.terminal import show_table

log = logging.getLogger(__name__)

HEADER = ("", "n", "mean", "95% CI", "median", "quartiles")
RULES = (
    "people",
    "empty_masks",
    "empty_ratios",
    "empty_surfaces",
    "surface_distances",
    "units",
    "lesions",
    "empty_lesions",
)


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
    last = list(summary["geometries"])[-1]  # the original geometry, where it was scored: its sizes are the true ones
    for region, blocks in regions.items() or [("", summary)]:
        _show_lesions(blocks, last, f"{last} geometry{region and f', region {region}'}: {what}")
    for region, blocks in regions.items() or [("", summary)]:
        _log_calibration(blocks.get(CALIBRATION, {}), region)
    for key in RULES:
        if key in summary:
            log.info("%s: %s", key.replace("_", " "), summary[key])
    for key in ("unknown_training", "chosen_on", "low_ceiling"):
        if summary.get(key):
            log.warning("%s", summary[key])


def _log_calibration(block: dict[str, Any], region: str) -> None:
    if block.get("n"):
        what = f"calibration{region and f' of {region}'}"
        log.info("%s: ece %.4f of all voxels together (n = %d); %s", what, block["ece"], block["n"], block["of"])


def _show_means(
    blocks: dict[str, Any], geometry: GeometryName, where: str, what: str, regions: Sequence[str] = ()
) -> None:
    """The means of all columns; of the mean over `regions` each one's mean beside it."""
    names = (*metrics(), *metrics(SOME_SPACING), *NOT_ALWAYS)
    labels = {column(name, geometry): name for name in names}
    header = (*HEADER, *regions)
    if blocks["not_trained_on"][column("dsc", geometry)]["n"]:
        show_table(f"Scores in the {where}: {what}", _lines(blocks["not_trained_on"], labels, regions), header)
    if blocks["trained_on"]:
        title = f"Trained on, so no measure of new patients, {where}: {what}"
        show_table(title, _lines(blocks["trained_on"], labels, regions), header)


def _show_lesions(blocks: dict[str, Any], geometry: GeometryName, where: str) -> None:
    """Means over people, then recall of all their lesions by size, and agreement of their volumes."""
    means = blocks["not_trained_on"]
    if not means[column("dsc", geometry)]["n"]:
        return
    names = (*further_metrics(Rules()), *further_metrics(Rules(), SOME_SPACING))
    labels = {column(name, geometry): name for name in names if not name.startswith("lesion_recall_")}
    lines = _lines(means, labels)
    for size, recall in blocks.get(column(RECALL, geometry), {}).items():
        n = f"{recall['lesions']} lesions of {recall['n']}"
        lines.append((f"recall, {size.replace('_', ' ')}", n, _cell(recall["recall"]), _ends(recall), "", ""))
    lines += _agreement_lines(blocks[column(AGREEMENT, geometry)])
    show_table(f"Lesions and volumes, {where}", lines, HEADER)


def _agreement_lines(agreement: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key in ("bias", "lower_limit", "upper_limit"):
        if agreement.get(key, {}).get("value") is not None:
            label = f"volume {key.replace('_', ' ')}, {agreement['unit']}"
            value = agreement[key]
            yield label, str(agreement["n"]), _cell(value["value"]), _ends(value), "", ""


def _show_strata(blocks: dict[str, Any], geometry: GeometryName, where: str) -> None:
    if blocks["not_trained_on"][column("dsc", geometry)]["n"]:
        strata = blocks[column("dsc_by", geometry)]
        title = f"DSC by institution and by lesion volume, {where}"
        show_table(title, _lines(strata, {name: name for name in strata}), HEADER)


def _lines(means: dict[str, Mean], labels: dict[str, str], regions: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Of the columns that there are, in their order: those of the other unit are not there."""
    return [_line(labels[name], mean, regions) for name, mean in means.items() if name in labels]


def _line(label: str, mean: Mean, regions: Sequence[str]) -> tuple[str, ...]:
    if not mean["n"]:
        return label, "0", *[""] * (len(HEADER) - 2 + len(regions))
    parts = [mean["parts"][region] for region in regions]
    n = f"{mean['n']} ({mean['patients']} patients)" if "patients" in mean else str(mean["n"])
    quartiles = "" if mean["quartile_1"] is None else f"{mean['quartile_1']:#.3g} to {mean['quartile_3']:#.3g}"
    return label, n, _cell(mean["mean"]), _ends(mean), _cell(mean["median"]), quartiles, *map(_cell, parts)


def _ends(mean: Mean) -> str:
    return "" if mean["ci_low"] is None else f"{mean['ci_low']:#.3g} to {mean['ci_high']:#.3g}"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
