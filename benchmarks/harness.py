"""Timing of variants of a piece of work, each in separate processes, which take turns; the lines of the table.

The processes are separate because the allocator is a setting of the whole process. They take turns because the machine
is shared, so its speed drifts. This module imports no torch, so that a child can set its allocator first.
"""

import argparse
import multiprocessing
import os
import platform
import socket
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from segtrain.runtime.allocator import begin_first_step, end_first_step, keep_memory, without_small_caches

Work = Callable[[], Any]
TIMEOUT_S = 900


@dataclass(frozen=True)
class Options:
    """Options of all rows: repetitions, a folder of real patients or None, a folder for stores and scratch files."""

    repeat: int
    lgg: Path | None
    folder: Path
    tiny: bool  # small sizes, to test the benchmarks themselves; the figures of such a run mean nothing


@dataclass(frozen=True)
class Variant:
    """`setup(world, *arguments)`, called once in each of `ranks` processes, returns the work to be timed."""

    name: str
    setup: Callable[..., Work]
    arguments: tuple[Any, ...] = ()
    ranks: int = 1
    threads: int = 2
    keep: bool = True  # the allocator setting of segtrain.runtime.allocator
    environment: tuple[tuple[str, str], ...] = ()  # variables of the processes


@dataclass
class Timings:
    """Seconds of each repetition (of the slowest rank), the work's return values on rank 0, peak memory."""

    seconds: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    peak_gib: float = 0.0

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Line:
    """A line of the table. `value` is what the target refers to; `met` is None if there is no target."""

    row: str
    what: str
    ours: str
    baseline: str
    value: str
    target: str = ""
    met: bool | None = None


def at_least(row: str, what: str, ours: str, baseline: str, ratio: float, target: float) -> Line:
    """A line whose ratio to the baseline must reach a target."""
    return Line(row, what, ours, baseline, f"{ratio:.2f}x", f"at least {target:g}x", ratio >= target)


def measure(variants: Sequence[Variant], repeat: int) -> dict[str, Timings]:
    """Each variant once to warm up, then `repeat` times, taking turns."""
    timings = {variant.name: Timings() for variant in variants}
    with ExitStack() as stack:
        teams = {variant.name: stack.enter_context(_Team(variant)) for variant in variants}
        for turn in range(repeat + 1):
            for name, team in teams.items():
                seconds, value, peak_gib = team.go()
                timings[name].peak_gib = peak_gib
                if turn:
                    timings[name].seconds.append(seconds)
                    timings[name].values.append(value)
    return timings


class _Team:
    def __init__(self, variant: Variant) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(variant.ranks):
            here, there = context.Pipe()
            process = context.Process(target=_rank, args=(variant, rank, port, there))
            with _environment(variant):
                process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
        for pipe in self.pipes:
            self._receive(pipe)

    def __enter__(self) -> "_Team":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(10)
            process.kill()

    def go(self) -> tuple[float, Any, float]:
        for pipe in self.pipes:
            pipe.send("go")
        answers = [self._receive(pipe) for pipe in self.pipes]
        return max(a[0] for a in answers), answers[0][1], max(a[2] for a in answers)

    def _receive(self, pipe: Connection) -> Any:
        if not pipe.poll(TIMEOUT_S):
            raise TimeoutError(f"no answer in {TIMEOUT_S} s")
        kind, value = pipe.recv()
        if kind == "raised":
            raise RuntimeError(value)
        return value


@contextmanager
def _environment(variant: Variant) -> Iterator[None]:
    """A context in which processes start with what the variant has set, as segtrain's launcher starts ranks."""
    before = dict(os.environ)
    os.environ.update(variant.environment)
    if variant.keep:
        without_small_caches(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _rank(variant: Variant, rank: int, port: int, pipe: Connection) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(variant.ranks), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(variant.ranks),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = str(variant.threads)
    if variant.keep:
        keep_memory()
    from segtrain.runtime.world import join

    try:
        with join("cpu", variant.threads) as world:
            work = variant.setup(world, *variant.arguments)
            begin_first_step()
            pipe.send(("ready", None))
            while pipe.recv() == "go":
                started = time.perf_counter()
                value = work()
                seconds = time.perf_counter() - started
                end_first_step()
                pipe.send(("done", (seconds, value, peak_gib())))
    except EOFError:
        os._exit(0)
    except BaseException:  # noqa: BLE001  sent to the parent, which raises it
        pipe.send(("raised", traceback.format_exc()))


def refuse_no_patients(parser: argparse.ArgumentParser, folder: Path | None) -> None:
    """End with the parser's error where --lgg names a folder in which there are no patients."""
    if folder and next(folder.glob("*/*_mask.tif"), None) is None:
        parser.error(f"--lgg {folder}: no folder with folders of patients; name one like kaggle_3m")


def peak_gib() -> float:
    """Peak resident memory of this process; `ru_maxrss` would include its parent's from before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20


def machine() -> dict[str, Any]:
    """The machine and versions that the figures were measured with."""
    from importlib.metadata import version

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    flags = Path("/proc/cpuinfo").read_text()
    widest = next((name for name in ("amx_bf16", "avx512f", "avx2") if f" {name}" in flags), "none of them")
    return {
        "cpu": cpu, "vector_units": widest, "cores": len(os.sched_getaffinity(0)), "platform": platform.platform(),
        "python": platform.python_version(), "torch": version("torch"), "libc": " ".join(platform.libc_ver()),
    }  # fmt: skip
