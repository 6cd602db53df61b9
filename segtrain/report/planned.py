"""What lies beside runs and knows more of them than they do: of those that never began, of those that were killed.

results.csv   an ablation's runs, begun or not
queue.csv     a queue's (jobs.offline): what each has come to, when its last start ended, and why
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from segtrain.run import COLUMNS
from segtrain.runtime import files

RESULTS, QUEUE = "results.csv", "queue.csv"
OF_QUEUE = ("run", "state", "time", "why")

Line = dict[str, str]


def not_begun(begun: Sequence[Path], asked: Sequence[Path]) -> Iterator[tuple[Path, Line]]:
    """Directories of runs, and their lines, that have not begun: listed in one of the folders `asked`, beside a run of
    several, or asked for themselves.

    A table that is neither an ablation's nor a queue's, or cannot be read, lists nothing.
    """
    parents = [root.parent for root in begun if root not in asked]
    found = {
        folder / name: line for folder in dict.fromkeys([*asked, *parents]) for name, line in _lines(folder).items()
    }
    found |= {path: line for path in asked if (line := listed(path))}
    yield from ((root, line) for root, line in found.items() if root not in begun)


def listed(root: Path) -> Line | None:
    """The line of the run with that directory, from the tables beside it."""
    return _lines(root.parent).get(root.name)


def end_told(root: Path, began: str) -> Line | None:
    """A queue's line on how the start of the run that began then has ended; what it says of an earlier one is old."""
    line = _read(root.parent / QUEUE, OF_QUEUE).get(root.name)
    with suppress(ValueError, TypeError):
        if line and line["why"] and datetime.fromisoformat(began) <= datetime.fromisoformat(line["time"]):
            return line
    return None


def write_queue(folder: Path, lines: Sequence[Mapping[str, str]]) -> None:
    """queue.csv beside the runs. Raises OSError."""
    files.write_text(folder / QUEUE, files.csv_text(lines))


def _lines(folder: Path) -> dict[str, Line]:
    """By the runs' names: what an ablation says, and over it what a queue says."""
    ablation, queue = _read(folder / RESULTS, COLUMNS), _read(folder / QUEUE, OF_QUEUE)
    return {name: ablation.get(name, {}) | queue.get(name, {}) for name in [*ablation, *queue]}


def _read(table: Path, columns: Sequence[str]) -> dict[str, Line]:
    try:
        with table.open(newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return {}
    whole = [line for line in lines if set(columns) <= line.keys() and all(line[key] is not None for key in columns)]
    return {line["run"]: line for line in whole if line["run"] and Path(line["run"]).name == line["run"]}
