"""Every run at a glance: the seconds and the memory of `segtrain status` over many long runs.

python -m benchmarks.glance [RUNS]                     # 200, of 100 epochs with 60 records each
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from segtrain.config import from_tree, to_yaml
from segtrain.run import Environment, Outcome, Run
from segtrain.run.events import EvaluationEvent, Event, TrainEvent, to_line
from segtrain.runtime import files
from segtrain.runtime.process import run_command

EPOCHS, RECORDS, STEPS = 100, 60, 300
RESOURCES = ("cpu_percent", "rss_gib", "machine_memory_percent", "gpu_percent", "gpu_memory_gib", "gpu_watts")


def metrics() -> str:
    """The events of a training."""
    events: list[Event] = []
    for epoch in range(1, EPOCHS + 1):
        step = epoch * STEPS
        events += [
            TrainEvent(
                step=step - STEPS + (record + 1) * STEPS // RECORDS,
                loss=1 / epoch,
                lr=1e-3,
                images_per_s=123.4,
                memory_gib=3.21,
                resources=dict.fromkeys(RESOURCES, 12.345),
            )
            for record in range(RECORDS)
        ]
        events.append(
            EvaluationEvent(
                step=step,
                epoch=epoch,
                val_loss=0.1,
                val_dsc=0.9 - 0.2 / epoch,
                n=10,
                ci_low=0.88,
                ci_high=0.93,
                best=True,
                empty_masks="",
            )
        )
    return "".join(map(to_line, events))


def make(folder: Path, runs: int) -> None:
    """So many finished runs."""
    config = to_yaml(from_tree({"name": "any", "train": {"epochs": EPOCHS}}, "benchmark"))
    start, events = asdict(Environment.now(4, "cuda:0")), metrics()
    for number in range(runs):
        run = Run(folder / f"run-{number:03d}")
        run.checkpoint(EPOCHS * STEPS).mkdir(parents=True)
        run.config_file.write_text(config)
        run.metrics.write_text(events)
        files.write_json(run.environment_file, [start] * 3)
        run.end(Outcome("finished", EPOCHS * STEPS, EPOCHS, 0.9))


# The peak is the command's own: `ru_maxrss` of a child includes its parent's from before exec.
STATUS = """
import sys
from benchmarks.harness import peak_gib
from jobs.status import command
command(sys.argv[1:])
print(peak_gib(), file=sys.stderr)
"""


def command(argv: Sequence[str]) -> int:
    """Print what it took."""
    runs = int(argv[0]) if argv else 200
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), runs)
        began_s = time.monotonic()
        status = [sys.executable, "-c", STATUS, folder, "--json"]
        done = subprocess.run(status, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
        took_s = time.monotonic() - began_s
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        size_mb = sum(file.stat().st_size for file in Path(folder).rglob("metrics.jsonl")) / 1e6
    print(
        f"{runs} runs, {size_mb:.0f} MB of events: {took_s:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, "
        f"{1024 * float(done.stderr.split()[-1]):.0f} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
