"""Steps that fit into memory: where one does not, the micro-batch is halved and gradients are accumulated over more.

The slices that lie on the device make room first (`data.resident`): without them batches have the same bits.

One rank alone repeats the step that ran out of memory. Several ranks try a micro-batch before their first step, each by
itself, and agree on one that fits all: all steps have one shape, so what fits once fits later. If a rank still runs out
of memory in the middle of a step, the others wait for it in a collective and none can go on. It then writes down the
next smaller micro-batch, all ranks leave, and the same command goes on from the last checkpoint with that.
"""

import logging
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.config import TrainConfig
from segtrain.engines.engine import Engine
from segtrain.errors import RunError, Stopped, StopReason, gist
from segtrain.run import Run
from segtrain.runtime.out_of_memory import OutOfMemory, is_out_of_memory
from segtrain.runtime.world import World

log = logging.getLogger(__name__)

REMEDIES = (
    "model.checkpoint_activations=true, precision=bf16, data.resident=false, a smaller data.image_size or "
    "model.features"
)


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
        self.holds_slices = True  # whether training slices may lie on the device
        self.release: Callable[[], bool] = lambda: False  # `Feed.release`

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
            if self.holds_slices and not state.get("resident", True):
                log.info("going on without the training slices on the device: they left too little memory")
                self.holds_slices = False
            self._take(min(state["micro_batch"], self.engine.micro_batch))

    def rehearse(self) -> None:
        """Find what fits before the first step, where running out of memory in it would end the run. Collective."""
        if self.halves:
            self._agree()
        if not self.halves or self.engine.recovers or not self.world.any(may_run_short(self.world.device)):
            return
        while True:
            message = ""
            try:
                self.engine.rehearse()
            except OutOfMemory as error:
                message = str(error)
            failed = self.world.largest((self.world.rank + 1) if message else 0)[0]
            if not failed:
                return
            self._halve(message or f"rank {failed - 1} ran out of memory")

    def _agree(self) -> None:
        """Go on with the smallest micro-batch of all ranks, since each recalls only what fitted its kind of device.

        Collective.
        """
        smallest = -self.world.largest(-self.engine.micro_batch)[0]
        if smallest < self.engine.micro_batch:
            self._take(smallest)

    def step(self, number: int, image_bchw: Tensor, mask_bchw: Tensor, lr: float, progress: float) -> Tensor:
        """`Engine.step`, in micro-batches that fit. Collective.

        Raises Stopped where memory ran out and the same command can go on, RunError where it cannot.
        """
        while True:
            try:
                return self.engine.step(image_bchw, mask_bchw, lr, progress, number)
            except OutOfMemory as error:
                message, repeatable = str(error), error.repeatable
            if not self.halves:
                remedy = f"set train.micro_batch below {self.engine.micro_batch}, or train.on_oom=halve"
                raise self._error(message, f"{remedy}; data.resident=false" if self.release() else remedy)
            if not (self.engine.recovers and repeatable):
                raise self._leave_to_the_next_start(number, message)
            if not self._release(message):
                self._halve(message)

    def _release(self, message: str) -> bool:
        """Whether slices made room on the device; the next start then does not bring them there."""
        if not self.release():
            return False
        self.holds_slices = False
        self._take(self.engine.micro_batch)
        log.warning(
            "out of memory (%s); the training slices leave the %s to the network, and each step reads its own: losses "
            "and weights stay the same",
            message,
            self.world.device.type,
        )
        return True

    def logits(self, image_bchw: Tensor) -> Tensor:
        """`Engine.logits`, for which slices on the device make room. Not collective."""
        try:
            return self.engine.logits(image_bchw)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not self._release(gist(error)):
                raise
        return self.engine.logits(image_bchw)

    def explain(self, error: RuntimeError) -> Exception:
        """The cause of a failed collective: another rank that ran out of memory and left, else the error itself."""
        record = self.run.out_of_memory()
        return _stopped(record["why"]) if record and record != self.earlier else error

    def _halve(self, message: str) -> None:
        """Go on with half the micro-batch. Raises RunError where it is one sample already."""
        before = self.engine.micro_batch
        share = self.cfg.global_batch // self.world.size
        self._take(self._half(message))
        if self.world.is_main:
            log.warning(
                "out of memory with %d samples of a rank at once (%s); going on with %d, %d times a step: the global "
                "batch stays %d; %s",
                before,
                message,
                self.engine.micro_batch,
                -(-share // self.engine.micro_batch),
                self.cfg.global_batch,
                what_changes(self.engine.network),
            )

    def _half(self, message: str) -> int:
        if self.engine.micro_batch == 1:
            raise self._error(message, REMEDIES)
        return (self.engine.micro_batch + 1) // 2

    def _take(self, micro_batch: int) -> None:
        self.engine.micro_batch = micro_batch
        self.state = {"micro_batch": micro_batch, "asked": self.cfg.micro_batch, "device": self._device()}
        if not self.holds_slices:
            self.state["resident"] = False

    def _leave_to_the_next_start(self, step: int, message: str) -> Stopped:
        if not self._release(message):
            self._take(self._half(message))
        why = f"rank {self.world.rank} was out of memory at step {step} ({message})"
        with suppress(OSError):  # another node may not see the run's directory; then the next start finds out again
            self.run.record_out_of_memory({**(self.state or {}), "why": why, "time": time.time()})
        return _stopped(why)

    def _error(self, message: str, remedy: str) -> RunError:
        return RunError(f"out of memory with {self.engine.micro_batch} samples of a rank at once ({message}); {remedy}")

    def _device(self) -> str:
        """The kind of device; another kind may hold more."""
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
    """How smaller micro-batches change a network's training, for people."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return (
            "batch norm now sees fewer samples at a time, which changes losses and weights "
            "(they would stay the same with model.norm=instance or group)"
        )
    return "losses and weights stay the same within rounding"


def may_run_short(device: torch.device) -> bool:
    """Whether an allocation can fail. Where Linux overcommits, it kills a process instead, which cannot be handled."""
    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    limited = any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in limits)
    with suppress(OSError):
        limited |= Path("/proc/sys/vm/overcommit_memory").read_text(encoding="utf-8").strip() == "2"
    return limited or device.type == "cuda"


def _stopped(why: str) -> Stopped:
    message = f"{why}; the same command goes on from the last checkpoint, with less in memory at once"
    return Stopped(message, StopReason.OUT_OF_MEMORY)
