"""Ten minutes with a GPU, in order of value: steps with limits, in processes of their own, results kept as they come.

python -m benchmarks.gpu --json gpu.json --lgg /data/kaggle_3m    # docs/gpu.md says what each step is
python -m benchmarks.gpu --json gpu.json speed loop               # these steps alone
python -m benchmarks.gpu --json gpu.json --cpu                    # tries all at a tiny size: its figures mean nothing

Run it in the root of a checkout. What a step has found stays in the file where it fails or is late.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu_shot import Shot
from benchmarks.harness import machine, refuse_no_patients

# Seconds of each step; together more than ten minutes: most steps end before their limit.
LIMITS_S = {
    "facts": 30,
    "command": 90,
    "waits": 60,
    "parity": 60,
    "repeat": 100,  # twelve trainings, whose start takes most of their time
    "speed": 120,
    "loop": 100,
    "lgg": 150,
    "memory": 45,
    "ranks": 60,
    "graph": 45,
}
MARK = "RESULT "  # before a result, a line of JSON, on the output of a step
LEAST_S = 10  # a step is not begun with less


def step_of(name: str) -> Callable[[Shot], Iterator[tuple[str, Any]]]:
    """What measures a step: it yields a name and a figure at a time."""
    from benchmarks import gpu_engine, gpu_memory, gpu_runs  # torch

    modules = (gpu_runs, gpu_engine, gpu_memory)
    step: Callable[[Shot], Iterator[tuple[str, Any]]] = next(
        getattr(module, name) for module in modules if hasattr(module, name)
    )
    return step


def run_step(command: Sequence[str], limit_s: float, take: Callable[[str, Any], None]) -> None:
    """Run a step's command and take its results as they come; then, where it went wrong, how it ended."""
    late = threading.Event()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=environment
        )

        def stop() -> None:
            late.set()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started

        timer = threading.Timer(limit_s, stop)
        timer.start()
        assert process.stdout
        with process.stdout as lines:
            for line in lines:
                if line.startswith(MARK):
                    take(*json.loads(line.removeprefix(MARK)))
        code = process.wait()
        timer.cancel()
        errors.seek(0)
        if late.is_set():
            take("late", f"stopped after {limit_s:.0f} s")
        elif code:
            take("failed", {"code": code, "errors": errors.read()[-1500:]})


def measure(steps: Sequence[str], file: Path, budget_s: float, arguments: Sequence[str]) -> None:
    """Run the steps, each with its limit and all within the budget; the file is whole after every result."""
    results: dict[str, Any] = {"machine": machine(), "steps": {}}
    began = time.monotonic()

    def write() -> None:
        aside = file.with_suffix(".tmp")
        aside.write_text(json.dumps(results, indent=1) + "\n")
        aside.replace(file)

    for name in steps:
        figures = results["steps"].setdefault(name, {})
        left_s = budget_s - (time.monotonic() - began)
        if left_s < LEAST_S:
            figures["late"] = "not begun: no time was left"
            write()
            continue

        def take(what: str, figure: Any, name: str = name, figures: dict[str, Any] = figures) -> None:
            figures[what] = figure
            print(name, what, json.dumps(figure)[:300], flush=True)
            write()

        start = time.monotonic()
        limit_s = min(LIMITS_S[name], left_s)
        of_child = ["--child", "--limit-s", str(limit_s)]
        run_step([sys.executable, "-m", "benchmarks.gpu", *of_child, *arguments, name], limit_s, take)
        take("seconds", round(time.monotonic() - start, 1))


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="step", help=f"default: all of {', '.join(LIMITS_S)}")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="the results (default: gpu.json)")
    parser.add_argument("--lgg", type=Path, help="folder of real patients (kaggle_3m), for the step lgg")
    parser.add_argument("--cpu", action="store_true", help="try all at a tiny size: the figures mean nothing")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all steps together (default: 9.5)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--limit-s", type=float, default=math.inf, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    refuse_no_patients(parser, arguments.lgg)
    if unknown := set(arguments.steps) - set(LIMITS_S):
        parser.error(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(LIMITS_S)}")
    if arguments.child:
        with tempfile.TemporaryDirectory() as folder:
            shot = Shot(arguments.cpu, Path(folder), arguments.lgg, time.monotonic() + arguments.limit_s)
            for result in step_of(arguments.steps[0])(shot):
                print(MARK + json.dumps(result, default=str), flush=True)
        return
    if not arguments.cpu:
        import torch

        if not torch.cuda.is_available():
            parser.error("torch sees no CUDA device; --cpu tries the script at a tiny size")
    passed_on = ["--cpu"] * arguments.cpu + (["--lgg", str(arguments.lgg)] if arguments.lgg else [])
    measure(arguments.steps or list(LIMITS_S), arguments.json, 60 * arguments.minutes, passed_on)


if __name__ == "__main__":
    main()
