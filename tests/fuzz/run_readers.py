"""Readers of run folders: report, status, evaluate, resume; with a good run beside the damaged one."""

import os
import random
import time
from functools import lru_cache
from pathlib import Path

from data_readers import Files, once
from made_runs import train
from PIL import Image

from jobs import overview, status
from jobs.status_table import status_table
from segtrain.evaluation.ensemble import select_checkpoints
from segtrain.report.collect import collect
from segtrain.report.write import make
from segtrain.run import Run
from segtrain.runtime.terminal import standard_output

GOOD, DAMAGED = "runs/good-fold0-seed1", "runs/bad-fold0-seed1"
TARGETS = tuple(
    f"{DAMAGED}/{name}"
    for name in ("config.yaml", "split.json", "metrics.jsonl", "outcome.json", "environment.json", "memory.json",
                 "validation/epoch-0001.csv", "checkpoints/BEST", "checkpoints/LATEST", "log.txt")
)  # fmt: skip


@lru_cache
def run_folders() -> Files:
    """A good run and one to be damaged."""

    def write(folder: Path) -> None:
        for name in (GOOD, DAMAGED):
            run = train(folder / name)
            run.checkpoint(10).mkdir(parents=True)
            (run.checkpoint(10) / "state.json").write_text("{}")
            for pointer in (run.best_pointer, run.latest_pointer):
                pointer.write_text("step-00000010\n")
            run.out_of_memory_file.write_text('{"micro_batch": 2}\n')
            run.log_file.write_text("2026-11-29 12:00:00 loss 0.5\n")
            for picture in run.validation.glob("*.png"):  # small ones
                Image.new("RGB", (8, 8)).save(picture)

    return once(write)


def read_runs(folder: Path, rng: random.Random) -> None:
    """The good run is shown as ever; the other has a row with its reason, or is refused where it alone is asked for."""
    names = {Path(name).name for name in (GOOD, DAMAGED) if os.path.lexists(folder / name / "config.yaml")}
    way = rng.random()
    if way < 0.4:
        collected = {one.name: one for one in collect([folder / "runs"])}
        assert collected[Path(GOOD).name].counts
    elif way < 0.8:
        rows = list(overview.rows(folder / "runs", time.time()))
        assert {row["run"] for row in rows} >= names, "each run has a row"
        assert next(row for row in rows if row["run"] == Path(GOOD).name)["state"] == "finished"
        with standard_output().capture():
            standard_output().print(status_table(rows, status.sum_line(rows, len(rows))))
    elif way < 0.98:
        run = Run(folder / DAMAGED)
        run.result()
        run.best_checkpoint()
        run.out_of_memory()
        run.split()
        select_checkpoints([folder / DAMAGED], "best", [])
        run.rewind(15, 1)
    else:
        make([folder / "runs"], folder / "out")
