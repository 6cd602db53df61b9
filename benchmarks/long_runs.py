"""How what reads a run grows with its length: a status, a report, a resume, of metrics.jsonl of up to a million lines.

python -m benchmarks.long_runs                        # 1,000 to 1,000,000 lines
python -m benchmarks.long_runs --lines 1000 --pieces resume

One run is made up, with twenty evaluations among its lines. benchmarks/growth.py says how each piece is measured.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.growth import Growth, Work
from benchmarks.many_runs import EPOCHS, make_runs, report, status
from segtrain.run import Run
from segtrain.run.events import EvaluationEvent, to_line
from segtrain.runtime.process import run_command

EVERY_STEPS = 10  # a line


def make_run(folder: Path, lines: int) -> None:
    """A run whose metrics have so many lines, EPOCHS of them evaluations."""
    make_runs(folder, 1)
    run = _run(folder)
    events = run.events()
    train = next(event for event in events if not isinstance(event, EvaluationEvent))
    evaluations = [event for event in events if isinstance(event, EvaluationEvent)]
    per_epoch = lines // EPOCHS
    with run.metrics.open("w", encoding="utf-8") as stream:
        for line in range(1, lines + 1):
            epoch, rest = divmod(line, per_epoch)
            event = evaluations[epoch - 1] if rest == 0 and epoch <= EPOCHS else train
            stream.write(to_line(replace(event, step=line * EVERY_STEPS)))


def _run(folder: Path) -> Run:
    return Run(next(file.parent for file in folder.glob("*/metrics.jsonl")))


def _resume(folder: Path) -> Work:
    """What a start does with the metrics: read them, and write those before its checkpoint again."""
    run = _run(folder)
    last = run.milestones().last
    assert last is not None
    return lambda: run.rewind(last.step, EPOCHS)


GROWTH = Growth(
    "benchmarks.long_runs",
    "What reads a run, by the lines of its metrics",
    "lines",
    (1_000, 10_000, 100_000, 1_000_000),
    make_run,
    {"status": status, "report": report, "resume": _resume},
    Path(".bench/lines"),
)


def command(argv: Sequence[str]) -> int:
    """Make the runs, measure each piece at each size, print the table."""
    return GROWTH.command(argv, __doc__)


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
