"""From Enter to the answer: what commands cost a person who waits, beside the start of Python and of torch.

python -m benchmarks.waiting                          # a table
python -m benchmarks.waiting --repeat 5

Each command runs as a person starts it. The run that is looked at is trained first, on made-up patients, in seconds.
CPU seconds of the command and its processes, the least of a few: other work on the machine makes the clock lie.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import machine
from segtrain.errors import RunError
from segtrain.runtime.process import run_command

SEGTRAIN = ("-m", "segtrain")
PREDICTIONS = "predictions"
HEADINGS = ("command", "CPU s", "s by the clock")


@dataclass(frozen=True)
class Cost:
    """Of one call: CPU seconds of all its processes, and those by the clock."""

    cpu_s: float
    wall_s: float


def cost(folder: Path, *words: str) -> Cost:
    """Of Python with these words, in `folder`. Raises RunError with the last line of one that fails."""
    before, started = os.times(), time.perf_counter()
    command = [sys.executable, *words]
    ended = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    after, wall_s = os.times(), time.perf_counter() - started
    if ended.returncode:
        raise RunError(f"{' '.join(words)}: {ended.stderr.strip().rpartition(chr(10))[2]}")
    return Cost(
        after.children_user + after.children_system - before.children_user - before.children_system,
        wall_s,
    )


def _environment() -> dict[str, str]:
    here = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}


def prepared(folder: Path) -> list[tuple[str, Sequence[str]]]:
    """Train a run and write a patient in `folder`; the commands that are measured there, with their names."""
    folder.mkdir(parents=True, exist_ok=True)
    train = ("name=run", "data.image_size=64", "model.features=8", "train.epochs=1", "device=cpu")
    if not (folder / "runs" / "run" / "outcome.json").exists():
        cost(folder, *SEGTRAIN, "train", *train)
    if not (folder / "patients").exists():
        cost(folder, *SEGTRAIN, "phantoms", "--out", "patients", "--patients", "2")
        _, *others = (path for path in (folder / "patients").iterdir() if path.is_dir())
        for patient in others:
            shutil.rmtree(patient)
    commands = {
        "segtrain --help": ["--help"],
        "segtrain train --help": ["train", "--help"],
        "segtrain status": ["status", "runs"],
        "segtrain predict, one patient": ["predict", "runs/run", "--images", "patients", "--out", PREDICTIONS],
        "segtrain evaluate": ["evaluate", "runs/run"],
        "segtrain report": ["report", "runs/run", "--out", "report"],
    }
    return [
        ("python -c pass", ["-c", "pass"]),
        ('python -c "import torch"', ["-c", "import torch"]),
        *((name, [*SEGTRAIN, *words]) for name, words in commands.items()),
    ]


def rows(folder: Path, repeat: int) -> list[tuple[str, str, str]]:
    """Name, CPU seconds and seconds by the clock of each command, the least of `repeat` calls by turns."""
    commands = prepared(folder)
    costs: dict[str, list[Cost]] = {name: [] for name, _ in commands}
    for _ in range(repeat):
        for name, words in commands:
            shutil.rmtree(folder / PREDICTIONS, ignore_errors=True)  # which `predict` makes anew
            costs[name].append(cost(folder, *words))
    return [
        (name, f"{min(one.cpu_s for one in own):.2f}", f"{min(one.wall_s for one in own):.2f}")
        for name, own in costs.items()
    ]


def command(argv: Sequence[str]) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.waiting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3, help="calls of each command; the least is shown (3)")
    parser.add_argument("--folder", type=Path, default=Path(".bench/waiting"), help="where the run lies")
    arguments = parser.parse_args(argv)
    table = Table(*HEADINGS, title=", ".join(f"{key} {value}" for key, value in machine().items()))
    for row in rows(arguments.folder.resolve(), arguments.repeat):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
