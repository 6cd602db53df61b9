"""How time and memory of `segtrain prepare` grow with the number of patients.

python -m benchmarks.preparing                         # 10 to 1,000 made-up patients, on one core; --most-s 60 for all
python -m benchmarks.preparing --patients 10 100

The patients are phantoms of 64 px, prepared at 32 px by this process alone. benchmarks/growth.py says how.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.growth import Growth, Work
from segtrain.config import DataConfig, PhantomConfig
from segtrain.runtime.process import run_command


def _config(folder: Path) -> DataConfig:
    phantom = PhantomConfig(patients=int(folder.name), size_px=64)
    return DataConfig(store=str(folder), image_size=32, workers=1, phantom=phantom)


def _make(folder: Path, patients: int) -> None:
    """An empty folder of stores, whose name is the number of patients."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _prepare(folder: Path) -> Work:
    from segtrain.data.prepare import ensure_store

    return lambda: ensure_store(_config(folder))


def _again(folder: Path) -> Work:
    """The command where the store is there already."""
    from segtrain.data.prepare import ensure_store, summary

    ensure_store(_config(folder))
    return lambda: summary(ensure_store(_config(folder)))


def _verify(folder: Path) -> Work:
    from segtrain.data.prepare import ensure_store, verify

    store = ensure_store(_config(folder))
    return lambda: verify(store)


GROWTH = Growth(
    "benchmarks.preparing",
    "segtrain prepare, by patients",
    "patients",
    (10, 30, 100, 300, 1_000),
    _make,
    {"prepare": _prepare, "prepare, it is there": _again, "prepare --verify": _verify},
    Path(".bench/preparing"),
)


def command(argv: Sequence[str]) -> int:
    """Prepare each number of patients, print the table."""
    return GROWTH.command(argv, __doc__ or "")


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
