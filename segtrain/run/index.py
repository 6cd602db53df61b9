"""The tables that list runs, also those that never began and those that could not write down how they ended.

results.csv   the runs of an ablation, with their results
queue.csv     the runs of a queue: state, when the last start ended, and why
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from segtrain.run.layout import QUEUE, RESULTS
from segtrain.run.result import Result
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text, read_csv
from segtrain.text_file import text_of

# Of results.csv.
COLUMNS = ("run", "variant", "fold", "seed", "repeat", *(field.name for field in fields(Result)))
# Columns of ablations with repeats, and where a run has several regions, or scans of a person.
OF_SEVERAL = ("repeat", "people", "best_parts", "last_parts")


@dataclass(frozen=True)
class ResultsLine:
    """What results.csv says of a run besides its numbers, which its directory has."""

    run: str
    variant: str
    fold: int | None
    seed: int | None
    state: str
    repeat: int | None = None


@dataclass(frozen=True)
class QueueLine:
    """What a queue says of a run. `time`: of the end of its last start, ISO 8601; empty before that."""

    run: str
    state: str
    time: str
    why: str


def write_queue(folder: Path, lines: Sequence[QueueLine]) -> Path:
    """Write queue.csv beside the runs; returns its path. Raises OSError."""
    table = folder / QUEUE
    files.write_text(table, csv_text([asdict(line) for line in lines]))
    return table


def read_queue(folder: Path) -> dict[str, QueueLine]:
    """The lines of queue.csv by the runs' names; none where there is no such table or it cannot be read."""
    columns = [field.name for field in fields(QueueLine)]
    return {row["run"]: QueueLine(**{key: row[key] for key in columns}) for row in _rows(folder / QUEUE, columns)}


def read_results(folder: Path) -> dict[str, ResultsLine]:
    """The lines of results.csv by the runs' names; none where there is no such table or it cannot be read."""
    return {
        row["run"]: ResultsLine(
            row["run"],
            row["variant"],
            _number_or_none(row["fold"]),
            _number_or_none(row["seed"]),
            row["state"],
            _number_or_none(row.get("repeat") or ""),
        )
        for row in _rows(folder / RESULTS, [field.name for field in fields(ResultsLine) if field.name != "repeat"])
    }


def _rows(table: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows that have all columns and name a run in the table's folder."""
    try:
        rows = read_csv(io.StringIO(text_of(table), newline=""))
    except (OSError, ValueError, csv.Error):
        return []
    whole = [row for row in rows if set(columns) <= row.keys() and all(row[key] is not None for key in columns)]
    return [row for row in whole if row["run"] and Path(row["run"]).name == row["run"]]


def _number_or_none(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 16 else None
