"""What one rank of many does and sends: `segtrain train` as rank r of W in one process, whose collectives are counted.

python -m benchmarks.simulated_ranks                        # 1 to 1,024 ranks, some minutes
python -m benchmarks.simulated_ranks --ranks 1 8 --json ranks.json

The real training runs on a made-up store; in place of gloo or NCCL there is a process group that counts and changes
nothing, as if all ranks had the same. A value that rank 0 sends is worked out here, uncounted. Ranks are eight a node.
"""

import argparse
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

import torch.distributed as dist

from benchmarks import scale
from benchmarks.counting import CountingGroup, Counts, counted
from segtrain.config import Config, load_config
from segtrain.data.prepare import ensure_store
from segtrain.data.sources import make_source
from segtrain.data.store import store_path
from segtrain.data.store_note import StoreNote
from segtrain.errors import DataError
from segtrain.evaluation import evaluate as evaluating
from segtrain.run import Run
from segtrain.runtime.process import run_command
from segtrain.runtime.stop import Stop
from segtrain.runtime.terminal import show_table
from segtrain.runtime.world import World
from segtrain.training.session import train

T = TypeVar("T")
SIZES = (1, 8, 64, 512, 1024)
PER_NODE = 8
BATCH = 1024
FOLDER = Path(".bench/simulated_ranks")
# Two patients train for each of 1,024 lanes, and one validates.
TRAINING, VALIDATING, SIDE_PX = 2048, 1024, 16
ROLES: dict[str, Callable[[int], int]] = {
    "rank 0": lambda _: 0,
    "first rank of another node": lambda size: PER_NODE,
    "another rank": lambda size: size - 1,
}
STAGES = ("start", "step", "evaluation", "checkpoint")


def config(ranks: int, folder: Path) -> Config:
    """A run with one epoch of four steps."""
    return load_config(
        None,
        [
            f"data.store={folder}/store",
            f"data.phantom={{patients: {TRAINING + VALIDATING}, size_px: 64}}",
            f"data.image_size={SIDE_PX}",
            "data.split=reference",
            f"data.validation_patients={VALIDATING}",
            "model.name=unet",
            "model.features=2",
            "model.depth=2",
            f"train.global_batch={BATCH}",
            "train.epochs=1",
            f"train.micro_batch={min(64, BATCH // ranks)}",
            "device=cpu",
            "name=run",
            f"runs_dir={folder}/runs",
        ],
    )


def make_store(folder: Path) -> None:
    """The store that the run asks for: two slices of zeros of each patient."""
    cfg = config(1, folder).data
    path = store_path(cfg, make_source(cfg).fingerprint())
    scale.make_store(path, TRAINING + VALIDATING, slices=range(2, 3), size_px=cfg.image_size)
    ensure_store(cfg)  # is there


def simulate(role: str, size: int, folder: Path) -> dict[str, float]:
    """Train as the rank of that role among `size`; what it did, by stage and kind."""
    rank, counts = ROLES[role](size), Counts()

    @dataclass(frozen=True)
    class Simulated(World):
        """Real collectives, but for values of other ranks."""

        def on_main(self, function: Callable[[], T]) -> T:
            if self.is_main or self.size == 1:
                return super().on_main(function)
            with counts.elsewhere():
                value = function()
                if value is None and function.__qualname__.startswith("_ensure_store_in_step"):
                    value = cast(T, StoreNote.of(ensure_store(cfg.data)))  # rank 0 has the store
            counts.add("broadcast, calls", 2)  # the size and the value
            counts.add("broadcast, bytes", len(pickle.dumps([value, None])) + 8)
            return value

        def gather(self, item: T) -> list[T] | None:
            gathered = super().gather(item)
            return None if gathered is None else [*self._others(item), item]

        def _others(self, scores: Any) -> list[Any]:
            """Every other patient's score, as if it were that of the first."""
            others = patients - {score.patient for score in scores}
            return [[replace(scores[0], patient=patient) for patient in sorted(others)]]

    patients = set[str]()
    real_assign = evaluating.assign

    def assigned(slices: dict[str, int], ranks: int) -> list[list[str]]:
        patients.update(slices)
        dealt = real_assign(slices, ranks)
        counts.add("patients", len(dealt[rank]))
        return dealt

    if size > 1:
        dist.Backend.register_backend("counting", lambda *_: CountingGroup(counts, rank, size), devices=["cpu"])
        dist.init_process_group("counting", store=dist.HashStore(), rank=rank, world_size=size)
    shutil.rmtree(folder / "runs", ignore_errors=True)
    cfg = config(size, folder)
    world = Simulated(rank, size, rank % PER_NODE)
    with counted(counts, folder / "store"), mock.patch.object(evaluating, "assign", assigned):
        train(cfg, Run.of(cfg), [], False, Stop(), world)
    steps = counts.of.pop(("step", "steps"))
    assert steps == 2 * TRAINING // BATCH, steps
    per = {"step": steps}
    return {f"{stage}: {kind}": number / per.get(stage, 1) for (stage, kind), number in counts.of.items()}


def measure(role: str, size: int, folder: Path) -> dict[str, float]:
    """`simulate` in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.simulated_ranks", "--here", role, "--ranks", str(size)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, "--folder", str(folder)], stdout=subprocess.PIPE, text=True, check=False, env=alone)
    if done.returncode:
        raise DataError(f"{role} of {size}: exit code {done.returncode}; see above")
    counts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return counts


def table(measured: dict[str, dict[int, dict[str, float]]], sizes: Sequence[int]) -> list[tuple[str, ...]]:
    """A row for each role, stage and kind: the numbers of each size, and the exponents between neighbours."""
    rows: list[tuple[str, ...]] = []
    for role, of_size in measured.items():
        kinds = {kind for counts in of_size.values() for kind in counts}
        for kind in sorted(kinds, key=lambda kind: (STAGES.index(kind.partition(":")[0]), kind)):
            numbers = [of_size[size].get(kind, 0) if size in of_size else None for size in sizes]
            cells = ["-" if number is None else f"{number:,.0f}" for number in numbers]
            known = [(size, number) for size, number in zip(sizes, numbers, strict=True) if number]
            growth = [f"{math.log(n / m) / math.log(b / a):.2f}" for (a, m), (b, n) in pairwise(known)]
            rows.append((role, kind, *cells, " ".join(growth)))
    return rows


def command(argv: Sequence[str]) -> int:
    """Make the store, train as each role of each number of ranks, print the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.simulated_ranks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=SIZES, metavar="N", help="numbers of ranks")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"for what is made ({FOLDER})")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--here", choices=ROLES, help=argparse.SUPPRESS)
    options = parser.parse_args(list(argv))
    folder, sizes = options.folder.resolve(), sorted(options.ranks)
    if options.here:
        print(json.dumps(simulate(options.here, sizes[0], folder)))
        return 0
    make_store(folder)
    measured = {
        role: {size: measure(role, size, folder) for size in sizes if rank_of(size) < size and (size > 1 or not place)}
        for place, (role, rank_of) in enumerate(ROLES.items())
    }
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    headings = ("rank", "what", *(f"{size:,}" for size in sizes), "exponents")
    show_table("What a rank does and sends, by ranks", table(measured, sizes), headings)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
