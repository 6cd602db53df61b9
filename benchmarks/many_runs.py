"""How what looks at many runs grows with their number: `segtrain status` and `segtrain report`.

python -m benchmarks.many_runs                        # 1 to 1,000 runs
python -m benchmarks.many_runs --runs 10 100 --pieces report

Runs are made up as training leaves them, with an evaluation each epoch and their ends: up to 40 variants, each on five
folds with five seeds and 20 patients a fold. benchmarks/growth.py says how each piece is measured.
"""

import io
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growth import Growth, Work
from segtrain.config import from_tree
from segtrain.evaluation.metrics import EMPTY_RULE
from segtrain.run import Environment, Outcome, Run
from segtrain.run.events import EvaluationEvent, TrainEvent
from segtrain.runtime.process import run_command

FOLDS = SEEDS = 5
PATIENTS = 20  # a fold
EPOCHS = 20
STEPS = 165  # an epoch


def make_runs(folder: Path, count: int) -> None:
    """So many runs that have ended."""
    environment = Environment.now(1, "cpu")
    for number in range(count):
        variant, of_variant = divmod(number, FOLDS * SEEDS)
        fold, seed = divmod(of_variant, SEEDS)
        run = Run(folder / f"variant{variant:02d}-fold{fold}-seed{seed}")
        if run.outcome() is None:
            _make_run(run, number, fold, seed, environment)


def _make_run(run: Run, number: int, fold: int, seed: int, environment: Environment) -> None:
    patients = [f"patient{fold * PATIENTS + place:03d}" for place in range(PATIENTS)]
    tree = {"name": run.root.name, "seed": seed, "data": {"split": "kfold", "fold": fold}, "train": {"epochs": EPOCHS}}
    run.open(from_tree(tree, "made up"), {"hash": "0", "train": [], "validation": patients}, [], environment)
    draw = np.random.default_rng(number)
    events: list[TrainEvent | EvaluationEvent] = []
    best = 0.0
    for epoch in range(1, EPOCHS + 1):
        dsc = draw.uniform(0.2, 0.8, PATIENTS) + 0.2 * epoch / EPOCHS
        run.write_scores(epoch, [_scores(patient, own) for patient, own in zip(patients, dsc, strict=True)])
        mean, step = math.fsum(dsc) / PATIENTS, epoch * STEPS
        events += [
            TrainEvent(step=each, loss=1 / each, lr=1e-3, images_per_s=5.0, memory_gib=1.0)
            for each in range(step - STEPS + 15, step + 1, 15)
        ]
        scores: dict[str, Any] = {"val_dsc": mean, "val_loss": 1 / epoch, "n": PATIENTS, "best": mean > best}
        events.append(EvaluationEvent(step=step, epoch=epoch, empty_masks=EMPTY_RULE, **scores))
        best = max(best, mean)
    for event in events:
        run.record(event)
    run.end(Outcome("finished", EPOCHS * STEPS, EPOCHS, best))


def _scores(patient: str, dsc: float) -> dict[str, Any]:
    """A patient's row in the table of an evaluation."""
    counts = {"slices": 30, "voxels": 9000, "tp": 8000, "fp": 500, "fn": 1000}
    return {"patient": patient, **counts, "dsc": f"{dsc:.6f}", "dsc_all_components": f"{dsc:.6f}"}


def silent(command: Callable[[Sequence[str]], int], *words: str) -> Work:
    """A command in this process, whose output nobody reads."""

    def work() -> None:
        with redirect_stdout(io.StringIO()):
            command(words)

    return work


def status(folder: Path) -> Work:
    """`segtrain status`."""
    from jobs import status

    return silent(status.command, str(folder))


def report(folder: Path) -> Work:
    """`segtrain report`."""
    from segtrain.commands import report

    return silent(report.command, str(folder), "--out", str(folder.parent / f"report-{folder.name}"))


GROWTH = Growth(
    "benchmarks.many_runs",
    "What looks at runs, by their number",
    "runs",
    (1, 10, 100, 1_000),
    make_runs,
    {"status": status, "report": report},
    Path(".bench/runs"),
)


def command(argv: Sequence[str]) -> int:
    """Make the runs, measure each piece at each size, print the table."""
    return GROWTH.command(argv, __doc__)


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
