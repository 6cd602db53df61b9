"""`precision=auto`: the number type that is faster on this machine, by a trial before a run's first step.

A run that has begun keeps what it began with, so that it resumes bitwise on the same machine.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from segtrain.config import Config, Precision
from segtrain.engines.engine import make_engine
from segtrain.errors import ConfigError
from segtrain.run import Run
from segtrain.runtime.gpu import is_ampere_or_newer
from segtrain.runtime.machine import cpu_flags
from segtrain.runtime.out_of_memory import OutOfMemory
from segtrain.runtime.world import World
from segtrain.training import build

SLICES = 4  # of a trial's step
LONGEST_S = 2.0  # of a type's steps after the first, unless one takes longer
MOST_STEPS = 5
WORTH = 1.2  # times as fast, for a half type to be taken: it rounds more, and a trial says little about small gains
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")  # the last is Arm's


@dataclass(frozen=True)
class Chosen:
    """What `auto` stands for, and why in words."""

    precision: Precision
    why: str

    def __str__(self) -> str:
        return f"precision=auto: {self.precision}, {self.why}"


def chosen_precision(cfg: Config, run: Run, fresh: bool, world: World) -> Chosen | None:
    """What `auto` stands for here, the same on all ranks; None where the config says something else. Collective.

    Raises ConfigError, as building the network does.
    """
    if cfg.precision != "auto":
        return None
    return world.on_main(lambda: _kept(run, fresh) or _by_trial(cfg, world.device))


def half_type(device: torch.device) -> Precision | None:
    """The half type that the device has units for, None where it has none."""
    if device.type == "cuda":
        return "bf16" if is_ampere_or_newer(device) else "fp16"
    return "bf16" if set(BF16_FLAGS) & cpu_flags() else None


def _kept(run: Run, fresh: bool) -> Chosen | None:
    if fresh or not run.saved_step():
        return None
    return Chosen(run.config().precision, "as the run began")


def _by_trial(cfg: Config, device: torch.device) -> Chosen:
    half = half_type(device)
    if half is None:
        return Chosen("fp32", f"since this {device.type} has no units for a half type")
    try:
        full_s, half_s = (_step_s(replace(cfg, precision=precision), device) for precision in ("fp32", half))
    except ConfigError as error:
        build.parts(replace(cfg, precision="fp32"), begun=True)  # raises what is wrong at any precision
        return Chosen("fp32", f"since {error}")
    except OutOfMemory as error:
        return Chosen("fp32", f"since there is no memory for a trial ({error})")
    ratio = full_s / half_s
    clock = "of the GPU" if device.type == "cuda" else "of CPU time"
    figures = f"{half_s:.3g} s and {full_s:.3g} s {clock} for {_slices(cfg)} slices there and back"
    why = f"since {half} is {ratio:.1f} times as fast as fp32 in a trial ({figures}; {WORTH} times are asked for)"
    return Chosen(half if ratio >= WORTH else "fp32", why)


def _step_s(cfg: Config, device: torch.device) -> float:
    """The least time of forward and backward, after a first one that is not counted."""
    alone = replace(cfg.train, global_batch=_slices(cfg), micro_batch=None)
    model = replace(cfg.model, compile=False, weights=None, weights_input=None)
    loss, network = build.parts(replace(cfg, model=model), begun=True)
    engine = make_engine(replace(cfg, engine="ddp", train=alone, model=model), network, loss, World(device=device))
    times_s = list(_steps_s(engine.rehearse, device))
    return min(times_s[1:])


def _slices(cfg: Config) -> int:
    return min(SLICES, cfg.train.micro_batch or SLICES, cfg.train.global_batch)


def _steps_s(step: Callable[[], None], device: torch.device) -> Iterator[float]:
    """The time of each step, two at least, the first of which is slower.

    On a CPU its own time: others may be busy there now, which says nothing about the types.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    spent_s = 0.0
    for number in range(MOST_STEPS + 1):
        started = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield (step_s := clock() - started)
        spent_s += step_s if number else 0.0
        if spent_s > LONGEST_S:
            return
