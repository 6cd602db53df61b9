"""Runs that an ablation lists and that have not begun, from the `results.csv` beside its runs."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from segtrain.ablation import COLUMNS

RESULTS = "results.csv"


def not_begun(begun: Sequence[Path], asked: Sequence[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Directories of runs, and their lines, that are listed in one of the folders `asked` or beside a run of several.

    A table that is none of an ablation's, or cannot be read, lists nothing.
    """
    parents = [root.parent for root in begun if root not in asked]
    for folder in dict.fromkeys([*asked, *parents]):
        for line in _lines(folder / RESULTS):
            name = line["run"]
            if Path(name).name == name and folder / name not in begun:
                yield folder / name, line


def _lines(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []
    return [line for line in lines if set(COLUMNS) <= line.keys() and all(line[key] is not None for key in COLUMNS)]
