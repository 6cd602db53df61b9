"""`model.compile=auto`: whether torch's compiler saves time, by a trial of the run's own step before its first one.

A run that has begun keeps what it began with, so that it resumes bitwise on the same machine.
"""

import time
from dataclasses import dataclass, replace

import torch

from segtrain.config import Config
from segtrain.engines.batch_norm import over_all_ranks
from segtrain.engines.engine import make_engine
from segtrain.errors import gist
from segtrain.run import Run
from segtrain.runtime.machine import lacks_to_compile
from segtrain.runtime.out_of_memory import OutOfMemory
from segtrain.runtime.world import World
from segtrain.training import build

WORTH = 1.05  # times as fast: less is within what a trial varies by
STEPS = 4  # of a trial, the first of which is not counted: it compiles
LEAST_S = 120.0  # of all steps that are left, for a trial to be made: compiling takes a third of that


@dataclass(frozen=True)
class CompileChoice:
    """What `auto` stands for, and why in words."""

    compile: bool
    why: str

    def __str__(self) -> str:
        return f"model.compile=auto: {str(self.compile).lower()}, {self.why}"


def chosen_compile(cfg: Config, run: Run, fresh: bool, steps: int, world: World) -> CompileChoice | None:
    """What `auto` stands for in a run of so many steps, the same on all ranks; None where the config says.

    Collective. Raises ConfigError, as building the network does.
    """
    if cfg.model.compile != "auto":
        return None
    return world.on_main(lambda: _kept(run, fresh) or _by_trial(cfg, steps, world))


def _kept(run: Run, fresh: bool) -> CompileChoice | None:
    if fresh or not run.saved_step():
        return None
    return CompileChoice(run.config().model.compile is True, "as the run began")


def _by_trial(cfg: Config, steps: int, world: World) -> CompileChoice:
    device = world.device
    if lack := lacks_to_compile(device.type):
        return CompileChoice(False, f"since there is no {lack.thing} ({lack.remedy.partition(', or')[0]})")
    share = cfg.train.global_batch // world.size
    samples = min(cfg.train.micro_batch or share, share)
    try:
        plain = _timed(cfg, samples, world, compiled=False)
        left_s = plain.wall_s * steps * -(-share // samples)
        if left_s < LEAST_S:
            return CompileChoice(False, f"since all steps take some {left_s:.0f} s, in which compiling does not pay")
        compiled = _timed(cfg, samples, world, compiled=True)
    except OutOfMemory as error:
        return CompileChoice(False, f"since there is no memory for a trial ({error})")
    except _CannotCompile as error:
        return CompileChoice(False, f"since this network cannot be compiled ({error})")
    ratio = plain.own_s / compiled.own_s
    pays = ratio >= WORTH and left_s * (1 - 1 / ratio) > compiled.first_s
    why = (
        f"since a step of {samples} slices is {ratio:.2f} times as fast compiled in a trial ({plain.wall_s:.3g} s "
        f"plainly), and compiling takes {compiled.first_s:.0f} s"
    )
    return CompileChoice(pays, why)


class _CannotCompile(Exception):
    """torch's compiler raises something for this network."""


@dataclass(frozen=True)
class _Times:
    """The least of some steps on the clock, and in time of its own: on a CPU others may be busy now. The first one."""

    wall_s: float
    own_s: float
    first_s: float


def _timed(cfg: Config, samples: int, world: World, compiled: bool) -> _Times:
    """Of steps on `samples`, by one rank, with the norms of all. Raises ConfigError, OutOfMemory, _CannotCompile."""
    device = world.device
    alone = World(device=device)
    train = replace(cfg.train, global_batch=samples, micro_batch=None, cuda_graph=False)
    model = replace(cfg.model, compile=compiled, weights=None, weights_input=None)
    cfg = replace(cfg, train=train, model=model)
    loss, network = build.parts(cfg, begun=True)
    if world.size > 1:  # which the compiler leaves out
        over_all_ranks(network, alone, compiled, alone=True)
    engine = make_engine(cfg, network, loss, alone)
    size = cfg.data.image_size
    image = torch.zeros(samples, cfg.data.channels, size, size, device=device)
    mask = torch.zeros(samples, cfg.data.layout.planes, size, size, device=device)
    own_clock = time.perf_counter if device.type == "cuda" else time.process_time
    walls_s, owns_s = [], []
    with torch.random.fork_rng():
        for _ in range(STEPS):
            wall_s, own_s = time.perf_counter(), own_clock()
            try:
                float(engine.step(image, mask, cfg.optim.lr))  # waits for the device
            except Exception as error:  # whatever compilers raise
                if compiled and not isinstance(error, OutOfMemory):
                    raise _CannotCompile(f"{type(error).__name__}: {gist(error)}") from error
                raise
            walls_s.append(time.perf_counter() - wall_s)
            owns_s.append(own_clock() - own_s)
    return _Times(min(walls_s[1:]), min(owns_s[1:]), walls_s[0])
