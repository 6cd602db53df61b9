"""The scores of `segtrain evaluate` in their folder: scores.csv, summary.json, lesions.csv and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtrain.config.postprocessing import ADDED
from segtrain.errors import RunError
from segtrain.run.layout import (
    CALIBRATION,
    CALIBRATION_PICTURE,
    LESION_TABLE,
    SCORES,
    SUMMARY,
    VOLUMES,
    VOLUMES_PICTURE,
    WORST,
)
from segtrain.run.stored import table_in, tree_in
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text
from segtrain.text_file import open_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Drawing = tuple[str, NDArray[np.uint8]]  # as SVG, and as pixels [height, width, 3]


AGAIN = "run segtrain evaluate again"


@dataclass(frozen=True)
class EvaluationFiles:
    """The contents; None of lesions or a picture: no such file.

    lesions: the columns and rows of its table; worst: uint8 [height, width, 3].
    """

    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    lesions: tuple[Sequence[str], Sequence[Mapping[str, Any]]] | None = None
    volumes: "Drawing | None" = None
    calibration: "Drawing | None" = None
    worst: "NDArray[np.uint8] | None" = None


def write_evaluation(folder: Path, contents: EvaluationFiles) -> None:
    """Write the files, the summary last. Raises RunError when the folder cannot be written."""
    try:
        files.make_folder(folder)
        files.write_text(folder / SCORES, csv_text(contents.rows))
        if contents.lesions is None:
            (folder / LESION_TABLE).unlink(missing_ok=True)
        else:
            columns, rows = contents.lesions
            files.write_text(folder / LESION_TABLE, csv_text(rows, columns))
        _write_drawing(folder / VOLUMES, folder / VOLUMES_PICTURE, contents.volumes)
        _write_drawing(folder / CALIBRATION, folder / CALIBRATION_PICTURE, contents.calibration)
        if contents.worst is None:
            (folder / WORST).unlink(missing_ok=True)
        else:
            _write_picture(folder / WORST, contents.worst)
        files.write_json(folder / SUMMARY, contents.summary)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from error


def _write_drawing(svg: Path, picture: Path, drawing: "Drawing | None") -> None:
    if drawing is None:
        svg.unlink(missing_ok=True)
        picture.unlink(missing_ok=True)
    else:
        files.write_text(svg, drawing[0])
        _write_picture(picture, drawing[1])


def _write_picture(path: Path, picture_hwc: "NDArray[np.uint8]") -> None:
    from PIL import Image  # slow to import

    with files.aside(path) as temporary:
        Image.fromarray(picture_hwc).save(temporary, format="PNG", optimize=True)


def read_evaluation(folder: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The rows and the summary. Raises DamagedFile; OSError."""
    return table_in(folder / SCORES, AGAIN), read_summary(folder)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary alone. Raises DamagedFile; OSError.

    One of an earlier version has the rules of post-processing that were added since, at what did nothing.
    """
    summary = tree_in(folder / SUMMARY, dict, AGAIN)
    if isinstance(settings := summary.get("settings"), dict):
        summary["settings"] = ADDED | settings
    return summary


def foreign_file(folder: Path) -> Path | None:
    """The file of such a name in the folder that `segtrain evaluate` did not write; None where there is none."""
    scores, lesions = folder / SCORES, folder / LESION_TABLE
    if scores.exists() and "false_positive_slices" not in _first_line(scores):  # a column of no other table
        return scores
    if lesions.exists() and "overlap_voxels" not in _first_line(lesions):
        return lesions
    try:
        summary = _summary(folder)
    except (OSError, ValueError):
        return folder / SUMMARY
    if summary and "chosen_on" not in summary:
        return folder / SUMMARY
    # An earlier version drew none, the one after it no calibration.
    drawn = {"units": (VOLUMES, VOLUMES_PICTURE, WORST), "low_ceiling": (CALIBRATION, CALIBRATION_PICTURE)}
    for key, names in drawn.items():
        pictures = [folder / name for name in names if (folder / name).exists()]
        if pictures and key not in summary:
            return pictures[0]
    return None


def _summary(folder: Path) -> dict[str, Any]:
    """An empty one where there is no file."""
    if not (folder / SUMMARY).exists():
        return {}
    return tree_in(folder / SUMMARY, dict, AGAIN)


def _first_line(path: Path) -> str:
    try:
        with open_file(path) as file:
            return file.readline(1 << 16).decode(errors="replace")
    except OSError:
        return ""
