"""The step that all engines share: micro-batches, a loss over the global batch, state that is equal on all ranks.

Legend: b this rank's share of the global batch, c channel, h height, w width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from segtrain.config import Config
from segtrain.engines.average import Average, live
from segtrain.engines.batch_norm import GlobalBatchNorm, over_all_ranks
from segtrain.engines.objective import make_objective
from segtrain.engines.precision import AUTOCAST, prefers_channels_last, use_tf32
from segtrain.engines.transposed import sum_biases
from segtrain.errors import gist
from segtrain.losses.loss import Loss
from segtrain.models.freeze import is_frozen
from segtrain.runtime.out_of_memory import OutOfMemory, is_out_of_memory
from segtrain.runtime.world import World

T = TypeVar("T")
Snapshot = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]


class BaseEngine(ABC):
    """The part that engines have in common; subclasses implement the rest. See `segtrain.engines.Engine`."""

    def __init__(self, cfg: Config, network: nn.Module, loss: Loss, world: World) -> None:
        self.cfg = cfg
        self.loss = loss
        self.world = world
        self.micro_batch = min(cfg.train.micro_batch or cfg.train.global_batch, cfg.train.global_batch // world.size)
        self.dtype = AUTOCAST[cfg.precision]
        use_tf32(cfg.precision)
        self.channels_last = not self.flattens and prefers_channels_last(cfg, world.device)
        self.layout = torch.channels_last if self.channels_last else torch.contiguous_format
        network = network.to(world.device)
        network = over_all_ranks(network, world, compiled=bool(cfg.model.compile))
        if self.channels_last:
            sum_biases(network, world.device)
        self._network: nn.Module = network.to(memory_format=self.layout)  # type: ignore[call-overload]

    average: Average
    flattens = False  # whether it copies weights one after the other into a buffer, which makes them contiguous
    recovers = False  # whether a step that ran out of memory has changed nothing and may be repeated
    recording = False  # whether the operations of a step go into a CUDA graph, with no number from Python
    _before: list[Tensor] | None = None  # running statistics before the step, where it may be repeated

    @property
    def _few(self) -> int:
        """Samples for `_start`: no more than a step takes at once; not one alone, where a norm may see one value."""
        return min(2, self.micro_batch)

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @property
    def network(self) -> nn.Module:
        return self._network

    def _live(self) -> dict[str, Tensor]:
        """This rank's weights and running statistics, by name in the state dict."""
        return live(self._network)

    def finite(self) -> bool:
        """Whether all weights that this rank holds are finite. Waits for the device."""
        return bool(torch.stack([tensor.detach().isfinite().all() for tensor in self._live().values()]).all())

    @abstractmethod
    def _start(self, image_bchw: Tensor) -> None:
        """Prepare for a step on images like these. Collective."""

    def _part(self, last: bool) -> AbstractContextManager[None]:
        """A context for forward and backward of a micro-batch; `last`: the update follows."""
        return nullcontext()

    @abstractmethod
    def _forward(self, image_bchw: Tensor) -> Tensor:
        """Logits in training mode."""

    @abstractmethod
    def _backward(self, loss: Tensor) -> None:
        """Add the mean over ranks of this loss's gradients. Collective."""

    def _reserve(self) -> None:  # noqa: B027
        """Allocate what the update will need, and free it: an update that runs short cannot be repeated."""

    @abstractmethod
    def _update(self, lr: float) -> None:
        """Clip and step. Collective."""

    def step(self, image_bchw: Tensor, mask_bchw: Tensor, lr: float, progress: float = 1.0, step: int = 0) -> Tensor:
        """One optimiser step on the global batch: its loss, equal on all ranks, still on the device. Collective.

        With accumulation the loss is still that of the global batch: a first pass without gradients gathers what it
        depends on.
        """
        self._guarded(lambda: self._start(image_bchw[: self._few]))
        self._network.train()
        with self._fastest_algorithms():
            loss = self._learn(image_bchw, mask_bchw, lr, progress, step)
        with unrepeatable():
            self._average_buffers()
            self.average.update()
        return loss

    def _learn(self, image_bchw: Tensor, mask_bchw: Tensor, lr: float, progress: float, step: int) -> Tensor:
        """Forward, backward and update: the loss. Collective."""
        self._remember()
        loss = self._guarded(lambda: self._gradients(image_bchw, mask_bchw, progress, step))
        self._guarded(self._reserve)
        with unrepeatable():
            self._update(lr)
        return loss

    @contextmanager
    def _fastest_algorithms(self) -> Iterator[None]:
        """A context in which cuDNN tries its algorithms for each new shape, unless `deterministic`.

        Not for evaluations, whose last batches have many shapes.
        """
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = self.world.device.type == "cuda" and not self.cfg.deterministic
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before

    def _gradients(self, image_bchw: Tensor, mask_bchw: Tensor, progress: float, step: int) -> Tensor:
        """The loss of the global batch, NaN if it is not finite; the gradients are then in the network."""
        micro_batches = list(zip(image_bchw.split(self.micro_batch), mask_bchw.split(self.micro_batch), strict=True))
        objective = make_objective(self.loss, self.world, progress)
        if len(micro_batches) > 1:
            with torch.no_grad(), unchanged_buffers(self._network), self._autocast():
                objective.gather(self._outputs(micro_batches, step))
        for number, (image, mask) in enumerate(micro_batches):
            with self._part(last=number == len(micro_batches) - 1):
                self._seed(step, number)
                with self._autocast():
                    logits = self._forward(image.contiguous(memory_format=self.layout))
                # DDP averages gradients over ranks; here they are parts of one loss, which have to be added.
                self._backward(objective.share(logits, mask) * self.world.size)
        return objective.value

    def _outputs(self, micro_batches: list[tuple[Tensor, Tensor]], step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and mask of each micro-batch, the same logits as in the pass with gradients."""
        for number, (image, mask) in enumerate(micro_batches):
            self._seed(step, number)
            yield self._network(image.contiguous(memory_format=self.layout)), mask

    def _seed(self, step: int, number: int) -> None:
        """Set torch's generators for a forward pass: a resumed run draws the same dropout (L4, L6)."""
        if self.recording:  # a recording holds no seed: it was set before
            return
        seeds = np.random.SeedSequence((self.cfg.seed, step, number, self.world.rank))
        seed = int(seeds.generate_state(1, np.uint64)[0])
        # Not torch.manual_seed, which sets the generators of all devices.
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.default_generators[self.world.device.index or 0].manual_seed(seed)

    def rehearse(self) -> None:
        """Forward and backward of one micro-batch on this rank alone, with as much memory as moments take set aside.

        It runs the bare network before `_start`, so it does not communicate: a rank that runs short leaves no other one
        waiting. It changes nothing. Raises OutOfMemory.
        """
        size, channels, device = self.cfg.data.image_size, self.cfg.data.channels, self.world.device
        planes = self.cfg.data.layout.planes
        self._network.train()
        for module in self._network.modules():
            if isinstance(module, GlobalBatchNorm):  # needs as much memory in evaluation, and does not communicate
                module.eval()

        def both_ways() -> None:
            with unchanged_buffers(self._network):
                moments = self._moments()
                image = torch.zeros(self.micro_batch, channels, size, size, device=device)
                with self._autocast():
                    logits = self._network(image.contiguous(memory_format=self.layout))
                objective = make_objective(self.loss, replace(self.world, rank=0, size=1), 0.0)
                if self.loss.couples:
                    count = self.cfg.train.global_batch
                    whole = torch.zeros(count, *logits.shape[1:], device=device)
                    objective.gather([(whole, torch.zeros(count, planes, size, size, device=device))])
                objective.share(logits, torch.zeros(self.micro_batch, planes, size, size, device=device)).backward()
            del moments

        self._guarded(both_ways)
        self._drop_gradients()

    def _moments(self) -> list[Tensor]:
        """As much memory as Adam's moments take."""
        parameters = [p for p in self._network.parameters() if p.requires_grad]
        return [torch.empty_like(p) for p in (*parameters, *parameters)]

    def _guarded(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises OutOfMemory if there was not enough memory.

        Gradients and running statistics are then as before the step, and the memory that the work used is free again.
        """
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if self.recording or not is_out_of_memory(error):  # a recording has changed nothing, and allows little
                raise
            message = gist(error)
        # Outside of the except clause: the error's traceback refers to all tensors of the work.
        self._drop_gradients()
        for buffer, value in zip(self._network.buffers(), self._before or (), strict=False):
            buffer.copy_(value)
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(message)

    def _remember(self) -> None:
        """Keep a copy of the running statistics, which a forward pass changes, if the step may be repeated."""
        buffers = list(self._network.buffers())
        if not self.recovers or not buffers or self.cfg.train.on_oom != "halve":
            return
        if self._before is None:
            self._before = [buffer.clone() for buffer in buffers]
        else:
            torch._foreach_copy_(self._before, buffers)

    def _drop_gradients(self) -> None:
        for parameter in self._network.parameters():
            parameter.grad = None

    def logits(self, image_bchw: Tensor) -> Tensor:
        """Logits in evaluation mode and without gradients, float32. Not collective."""
        self._network.eval()
        with torch.inference_mode(), self._autocast():
            logits: Tensor = self._network(image_bchw.contiguous(memory_format=self.layout)).float()
        return logits

    def _average_buffers(self) -> None:
        """Make running statistics equal on all ranks, as their mean. Collective.

        Those of batch norm are equal already. Other layers of the user's own may keep some of their rank's samples;
        any rank's state is then the state of the run.
        """
        if self.world.size == 1:
            return
        buffers = [
            buffer
            for module in self._network.modules()
            if not isinstance(module, GlobalBatchNorm) and not is_frozen(module)
            for name, buffer in module.named_buffers(recurse=False)
            if buffer.is_floating_point() and (name.startswith("running_") or self.world.device.type == "cpu")
        ]
        if not buffers:
            return
        mean = self.world.sum(torch.cat([b.flatten() for b in buffers])) / self.world.size
        for buffer, part in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, dtype=self.dtype, enabled=self.dtype is not None)


@contextmanager
def unrepeatable() -> Iterator[None]:
    """Raises OutOfMemory where memory ends in the block, in which weights may have moved."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(gist(error), repeatable=False) from error


def copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares no memory with the original."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


@contextmanager
def unchanged_buffers(network: nn.Module) -> Iterator[None]:
    """A context after which running statistics are as before."""
    before = [b.clone() for b in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)
