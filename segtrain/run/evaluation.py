"""The scores of `segtrain evaluate` in their folder: scores.csv and summary.json."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segtrain.errors import RunError
from segtrain.run.layout import SCORES, SUMMARY
from segtrain.runtime import files


def write_evaluation(folder: Path, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Write the table and the summary. Raises RunError when the folder cannot be written."""
    try:
        files.make_folder(folder)
        files.write_text(folder / SCORES, files.csv_text(rows))
        files.write_json(folder / SUMMARY, summary)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from error


def read_evaluation(folder: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The rows and the summary. Raises OSError, ValueError or TypeError."""
    with (folder / SCORES).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, dict(json.loads((folder / SUMMARY).read_text(encoding="utf-8")))


def foreign_file(folder: Path) -> Path | None:
    """The scores.csv or summary.json in the folder that `segtrain evaluate` did not write; None where there is none."""
    scores, summary = folder / SCORES, folder / SUMMARY
    if scores.exists() and "false_positive_slices" not in _first_line(scores):  # a column of no other table
        return scores
    try:
        if not summary.exists() or "chosen_on" in json.loads(summary.read_text(encoding="utf-8")):
            return None
    except (OSError, ValueError, TypeError):
        pass
    return summary


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline()
    except OSError:
        return ""
