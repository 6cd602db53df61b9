"""The uncertainty of predictions, written beside them: maps, heat maps and a table.

    uncertainty/entropy/...             as probabilities are: float32, bits
    uncertainty/spread/...              likewise, the standard deviation over members; without members no such folder
    uncertainty/sheets/<patient>.png    both over all slices of a patient
    uncertainty.csv                     a row for each patient and region

Of several regions each has a folder. Legend: r region, s slice, h height, w width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segtrain.data.sources import Volume
from segtrain.evaluation.heat_maps import heat_map, scale
from segtrain.evaluation.overlays import Picture, sheet, shown_contrast
from segtrain.evaluation.prediction_files import Prediction, Writer, folder_of
from segtrain.evaluation.region_scores import Row
from segtrain.evaluation.uncertainty import MOST_SPREAD, Uncertainty, numbers_of
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text

FOLDER, TABLE = "uncertainty", "uncertainty.csv"
COLUMNS = 6  # of a sheet of one map; of two there are half as many


def write_uncertainty(writer: Writer, patient: str, prediction: Prediction, volume: Volume) -> list[Row]:
    """Write a patient's maps and sheets; returns its rows, one a region; without uncertainty nothing."""
    uncertainty = prediction.uncertainty
    if uncertainty is None:
        return []
    regions, rows = writer.cfg.layout.regions, []
    for number, region in enumerate(regions):
        below = folder_of(number, region) if len(regions) > 1 else ""
        maps = {"entropy": uncertainty.entropy_rshw}
        if uncertainty.sd_rshw is not None:
            maps["spread"] = uncertainty.sd_rshw
        for name, map_rshw in maps.items():
            folder = writer.folder / FOLDER / name / below
            writer.add_file(writer.source.write_probability(patient, map_rshw[number], folder))
        picture = _sheet(writer, prediction.mask_rshw[number], uncertainty, volume, number)
        writer.draw(str(Path(FOLDER, "sheets", below, f"{patient}.png")), picture)
        place: Row = {"patient": patient, **({"region": region} if len(regions) > 1 else {})}
        rows.append(place | numbers_of(uncertainty, prediction.mask_rshw, number))
    return rows


def write_table(writer: Writer, rows: Sequence[Row]) -> None:
    """Write uncertainty.csv."""
    cells = [{key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    files.write_text(writer.folder / TABLE, csv_text(cells))
    writer.add_file(writer.folder / TABLE)


def _sheet(
    writer: Writer, mask_shw: NDArray[np.bool_], uncertainty: Uncertainty, volume: Volume, number: int
) -> Picture:
    """All slices: the entropy left, the spread right, where there is one."""
    contrast = shown_contrast(writer.source.contrasts)
    pictures = []
    for place, slice_number in enumerate(volume.slice_numbers):
        plane_hw, mask_hw = volume.image_shwc[place, ..., contrast], mask_shw[place]
        panes = [heat_map(plane_hw, uncertainty.entropy_rshw[number, place], mask_hw)]
        if uncertainty.sd_rshw is not None:
            panes.append(heat_map(plane_hw, uncertainty.sd_rshw[number, place] / MOST_SPREAD, mask_hw))
        pictures.append((f"slice {slice_number}", np.concatenate(panes, axis=1)))
    legend = list(scale("entropy", 1, "bit"))
    if uncertainty.sd_rshw is None:
        return sheet(pictures, COLUMNS, legend)
    legend = [*scale("left: entropy", 1, "bit")[:-1], *scale("right: standard deviation", MOST_SPREAD)]
    return sheet(pictures, COLUMNS // 2, legend)
