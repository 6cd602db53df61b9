"""Run the benchmarks and print a table, or write JSON. docs/performance.md describes the rows and their targets.

python -m benchmarks                                   # all rows, on phantom patients
python -m benchmarks --lgg /data/kaggle_3m --json bench.json
python -m benchmarks step feed --repeat 5
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import checkpoint, data, engines, loop, metrics, step
from benchmarks.harness import Line, Options, machine, refuse_no_patients
from benchmarks.publish import HEADINGS, cells

ROWS: dict[str, Callable[[Options], list[Line]]] = {
    "prepare": data.prepare,
    "start": loop.start,
    "feed": data.feed,
    "step": step.step,
    "train": loop.train,
    "evaluate": loop.evaluate,
    "metrics": metrics.metrics,
    "checkpoint": checkpoint.checkpoint,
    "scale": step.scale,
    "memory": step.memory,
    "engines": engines.engines,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="row", help=f"rows to run: {' '.join(ROWS)} (default: all)")
    parser.add_argument("--lgg", type=Path, help="folder of real patients (kaggle_3m); default: phantom patients")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions; the median is reported (3)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="stores and scratch files (.bench)")
    parser.add_argument("--tiny", action="store_true", help="test the benchmarks themselves: the figures mean nothing")
    arguments = parser.parse_args()
    refuse_no_patients(parser, arguments.lgg)
    if unknown := [row for row in arguments.rows if row not in ROWS]:
        parser.error(f"{unknown[0]}: no such row; choose from {' '.join(ROWS)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    options = Options(arguments.repeat, arguments.lgg, arguments.folder.resolve(), arguments.tiny)
    lines: list[Line] = []
    for row in arguments.rows or ROWS:
        started = time.monotonic()
        lines += ROWS[row](options)
        print(f"{row}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        if arguments.json:  # after each, since a later one may fail
            _write(arguments, lines)
    table = Table(*HEADINGS, title=", ".join(f"{k} {v}" for k, v in machine().items()), title_justify="left")
    for line in lines:
        table.add_row(*cells(asdict(line)))
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def _write(arguments: argparse.Namespace, lines: Sequence[Line]) -> None:
    results = {
        "machine": machine(),
        "repeat": arguments.repeat,
        "tiny": arguments.tiny,
        "data": "real" if arguments.lgg else "made up",
        "lines": [asdict(line) for line in lines],
    }
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
