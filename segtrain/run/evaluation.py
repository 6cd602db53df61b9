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
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / SCORES, files.csv_text(rows))
        files.write_json(folder / SUMMARY, summary)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from error


def read_evaluation(folder: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The rows and the summary. Raises OSError, ValueError or TypeError."""
    with (folder / SCORES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, dict(json.loads((folder / SUMMARY).read_text()))
