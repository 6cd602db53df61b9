"""Where torch's compiler pays on a CPU: the step, eager and compiled by turns, with the vector units of other machines.

python -m benchmarks.compiling
python -m benchmarks.compiling --size 256 --units AMX --json compiling.json

A machine stands for narrower ones: oneDNN, MKL, torch's kernels and its compiler are told to use no wider units. Their
caches, clock and memory stay those of this machine. Types without units for them are left out: they take ten times as
long. Nothing else should run.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Timings, Variant, Work, machine, measure
from benchmarks.step import BATCH, engine_step
from segtrain.config import Precision
from segtrain.runtime.process import run_command

Setting = tuple[tuple[str, str], ...]
# The names of oneDNN, MKL and torch (which inductor reads too) for the same units.
UNITS: dict[str, tuple[str, tuple[Precision, ...], Setting]] = {
    "AVX2": (
        "avx2",
        ("fp32",),
        (("ONEDNN_MAX_CPU_ISA", "AVX2"), ("MKL_ENABLE_INSTRUCTIONS", "AVX2"), ("ATEN_CPU_CAPABILITY", "avx2")),
    ),
    "AVX-512": (
        "avx512f",
        ("fp32",),
        (("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI"), ("MKL_ENABLE_INSTRUCTIONS", "AVX512")),
    ),
    "AVX-512 with bf16": ("avx512_bf16", ("fp32", "bf16"), (("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16"),)),
    "AMX": ("amx_bf16", ("fp32", "bf16"), ()),
}
HEADINGS = ("vector units", "precision", "eager", "compiled", "compiled to eager", "first compiled step", "peak memory")


def step(world: Any, size_px: int, features: int, precision: Precision, compiled: bool) -> Work:
    """A step that returns how long the first one took, in seconds: with the compiler, that of compiling."""
    work = engine_step(world, size_px, features, precision, compiled=compiled)
    started = time.perf_counter()
    work()
    first_s = time.perf_counter() - started
    work()  # the optimiser's state is there from the second on

    def again() -> float:
        work()
        return first_s

    return again


def has_units(flag: str) -> bool:
    return f" {flag}" in Path("/proc/cpuinfo").read_text()


def timed(name: str, size_px: int, features: int, repeat: int) -> dict[str, Timings]:
    """Each precision with and without the compiler, by its name."""
    _, precisions, setting = UNITS[name]
    return measure(
        [
            Variant(f"{precision} {way}", step, (size_px, features, precision, compiled), environment=setting)
            for precision in precisions
            for way, compiled in (("eager", False), ("compiled", True))
        ],
        repeat,
    )


def rows(name: str, timings: dict[str, Timings]) -> list[tuple[str, ...]]:
    """Of one kind of units, a row a precision: HEADINGS."""
    lines: list[tuple[str, ...]] = []
    for precision in UNITS[name][1]:
        eager, compiled = timings[f"{precision} eager"], timings[f"{precision} compiled"]
        lines.append(
            (
                name,
                precision,
                f"{BATCH / eager.median_s:.2f} img/s",
                f"{BATCH / compiled.median_s:.2f} img/s",
                f"{eager.median_s / compiled.median_s:.2f}x",
                f"{compiled.values[0]:.0f} s",
                f"{eager.peak_gib:.2f} and {compiled.peak_gib:.2f} GiB",
            )
        )
    return lines


def command(argv: Sequence[str]) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.compiling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="side of an image in pixels (128)")
    parser.add_argument("--features", type=int, default=32, help="of the network's first stage (32)")
    parser.add_argument("--repeat", type=int, default=5, help="turns; medians are shown (5)")
    parser.add_argument("--units", nargs="+", choices=list(UNITS), help="default: all that the CPU has")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args(argv)
    table = Table(*HEADINGS, title=", ".join(f"{key} {value}" for key, value in machine().items()))
    lines: list[tuple[str, ...]] = []
    for name in arguments.units or [name for name, (flag, *_) in UNITS.items() if has_units(flag)]:
        more = rows(name, timed(name, arguments.size, arguments.features, arguments.repeat))
        for line in more:
            table.add_row(*line)
        lines += more
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if arguments.json:
        results = {"machine": machine(), "rows": [dict(zip(HEADINGS, line, strict=True)) for line in lines]}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
