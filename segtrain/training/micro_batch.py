"""Steps that fit into memory: out of it, the micro-batch is halved and the gradients are accumulated over more of them.

On one rank the step that was short is tried again. Several ranks try a micro-batch, each for itself, before their first
step, and agree on one that fits all: all steps are of one shape, so what fits there fits later. If a rank is short in
the middle of a step all the same, the others wait for it in a collective, and nobody can go on: it writes down what to
go on with, all leave, and the same command goes on from the last checkpoint with that.
"""

import logging
import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.config import TrainConfig
from segtrain.engines import Engine
from segtrain.engines.out_of_memory import OutOfMemory
from segtrain.errors import RunError, Stopped, StopReason
from segtrain.run import Run
from segtrain.runtime.world import World

log = logging.getLogger(__name__)

REMEDIES = "model.checkpoint_activations=true, precision=bf16, a smaller data.image_size or model.features"


class MemoryGuard:
    """The engine's steps, in micro-batches that fit.

    `state` is what the next start needs to know, for a checkpoint. `earlier`: what an earlier start left, on rank 0.
    """

    def __init__(
        self, cfg: TrainConfig, run: Run, engine: Engine, world: World, earlier: Mapping[str, Any] | None = None
    ) -> None:
        self.cfg = cfg
        self.run = run
        self.engine = engine
        self.world = world
        self.earlier = earlier
        self.state: dict[str, Any] | None = None

    @property
    def halves(self) -> bool:
        """Whether a micro-batch that does not fit is halved."""
        return self.cfg.on_oom == "halve"

    def recall(self, state: Mapping[str, Any] | None) -> None:
        """Go on with the micro-batch that fitted, unless the device or `train.micro_batch` are others now."""
        mine = {"asked": self.cfg.micro_batch, "device": self._device()}
        if self.halves and state and mine.items() <= state.items():
            if state["micro_batch"] < self.engine.micro_batch:
                log.info("going on with %d samples at once: more did not fit into memory", state["micro_batch"])
            self._take(min(state["micro_batch"], self.engine.micro_batch))

    def rehearse(self) -> None:
        """Find what fits before the first step, where a shortage in it could not be mended. Collective."""
        if self.halves:
            self._agree()
        if not self.halves or self.engine.recovers or not may_run_short(self.world.device):
            return
        while True:
            short = ""
            try:
                self.engine.rehearse()
            except OutOfMemory as error:
                short = str(error)
            ranks = self.world.largest((self.world.rank + 1) if short else 0)[0]
            if not ranks:
                return
            self._halve(short or f"rank {ranks - 1} was short")

    def _agree(self) -> None:
        """Go on with the smallest micro-batch of all ranks: what was found is recalled on its kind of device alone.
        Collective."""
        smallest = -self.world.largest(-self.engine.micro_batch)[0]
        if smallest < self.engine.micro_batch:
            self._take(smallest)

    def step(self, number: int, image_bchw: Tensor, mask_bchw: Tensor, lr: float, progress: float) -> Tensor:
        """`Engine.step`. Raises Stopped when memory ran out and the same command can go on; RunError when nothing can.
        Collective."""
        while True:
            try:
                return self.engine.step(image_bchw, mask_bchw, lr, progress)
            except OutOfMemory as error:
                short = str(error)
            if not self.halves:
                raise self._hopeless(short, f"set train.micro_batch below {self.engine.micro_batch}, or on_oom=halve")
            if not self.engine.recovers:
                raise self._left_to_the_next(number, short)
            self._halve(short)

    def explain(self, error: RuntimeError) -> Exception:
        """What made a collective fail: a rank that ran out of memory and left, or else the error itself."""
        left = self.run.out_of_memory()
        return _stopped(left["why"]) if left and left != self.earlier else error

    def _halve(self, short: str) -> None:
        """Go on with half. Raises RunError when there is no half."""
        before = self.engine.micro_batch
        share = self.cfg.global_batch // self.world.size
        self._take(self._half(short))
        if self.world.is_main:
            log.warning(
                "out of memory with %d samples of a rank at once (%s); going on with %d, %d times a step: the global "
                "batch stays %d; %s",
                before,
                short,
                self.engine.micro_batch,
                -(-share // self.engine.micro_batch),
                self.cfg.global_batch,
                what_changes(self.engine.network),
            )

    def _half(self, short: str) -> int:
        if self.engine.micro_batch == 1:
            raise self._hopeless(short, REMEDIES)
        return (self.engine.micro_batch + 1) // 2

    def _take(self, micro_batch: int) -> None:
        self.engine.micro_batch = micro_batch
        self.state = {"micro_batch": micro_batch, "asked": self.cfg.micro_batch, "device": self._device()}

    def _left_to_the_next(self, step: int, short: str) -> Stopped:
        self._take(self._half(short))
        why = f"rank {self.world.rank} was out of memory at step {step} ({short})"
        with suppress(OSError):  # another node may not see the run's directory; then the next start finds out again
            self.run.record_out_of_memory({**(self.state or {}), "why": why, "time": time.time()})
        return _stopped(why)

    def _hopeless(self, short: str, remedy: str) -> RunError:
        return RunError(f"out of memory with {self.engine.micro_batch} samples of a rank at once ({short}); {remedy}")

    def _device(self) -> str:
        """By the kind: on another kind more may fit."""
        device = self.world.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def guard(cfg: TrainConfig, run: Run, engine: Engine, world: World, state: Mapping[str, Any] | None) -> MemoryGuard:
    """The guard of a run that goes on from a checkpoint's `state`, or else from what a start without one left.

    Collective.
    """
    memory = MemoryGuard(cfg, run, engine, world, earlier=world.on_main(run.out_of_memory))
    memory.recall(memory.earlier)
    memory.recall(state)
    return memory


def what_changes(network: nn.Module) -> str:
    """What smaller micro-batches mean for a network's training, in words."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return (
            "batch norm now sees fewer samples at a time, so losses and weights become others than without this "
            "(model.norm=instance or group would keep them)"
        )
    return "losses and weights stay the same within rounding"


def may_run_short(device: torch.device) -> bool:
    """Whether memory can be refused. Where Linux overcommits, it kills a process instead, and nothing can be done."""
    limited = any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY
                  for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))  # fmt: skip
    with suppress(OSError):
        limited |= Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    return limited or device.type == "cuda"


def _stopped(why: str) -> Stopped:
    message = f"{why}; the same command goes on from the last checkpoint, with fewer samples at once"
    return Stopped(message, StopReason.OUT_OF_MEMORY)
