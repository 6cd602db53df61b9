"""One process or many, each with the whole network: DistributedDataParallel, mixed precision, accumulation, clipping.

Legend: b this rank's share of the global batch, c channel, h height, w width.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segtrain.config import Config, Precision
from segtrain.dist import World
from segtrain.engines.average import Average
from segtrain.losses import Loss
from segtrain.optim import make_optimizer

AUTOCAST: dict[Precision, torch.dtype | None] = {
    "fp32": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
WIDTH = 16  # float32 numbers in an AVX-512 register: networks with fewer first features gain nothing from channels_last

COUNTERS = ("k", "weight_sum", "lr_max")  # that an optimiser keeps beside its moments (schedule-free)


class DdpEngine:
    """Trains `network` in place. See `segtrain.engines.Engine`."""

    def __init__(self, cfg: Config, network: nn.Module, loss: Loss, world: World) -> None:
        self.cfg, self.loss, self.world = cfg, loss, world
        network = network.to(world.device)
        if world.device.type == "cuda" and world.size > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        _set_tf32(cfg.precision == "tf32")
        channels_last = _channels_last(cfg, world.device)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self._network: nn.Module = network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self._network, cfg.optim)
        self.average = Average(self._network, self.optimizer, cfg.optim.ema)
        self.dtype = AUTOCAST[cfg.precision]
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype == torch.float16)
        wrapped: nn.Module = self._network
        if world.size > 1:
            # Buffers are averaged after each step instead of broadcast before it; see _average_buffers. torch 2.13 has
            # another name for that switch.
            known = inspect.signature(DistributedDataParallel).parameters
            switch = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            options: dict[str, Any] = {switch: False}
            wrapped = DistributedDataParallel(wrapped, gradient_as_bucket_view=True, **options)
        self.wrapped, self._settled = wrapped, False
        self.forward = wrapped
        if cfg.model.compile:  # it would choose its own layout
            self.forward = torch.compile(wrapped, options={"layout_optimization": channels_last})  # type: ignore[assignment]

    @property
    def network(self) -> nn.Module:
        return self._network

    def step(self, image_bchw: Tensor, mask_bchw: Tensor, lr: float, progress: float = 1.0) -> Tensor:
        """One optimiser step on the global batch: its loss, equal on all ranks, still on the device. Collective.

        With accumulation the loss stays that of the global batch: a first pass without gradients gathers its sums.
        """
        self._network.train()
        if isinstance(self.wrapped, DistributedDataParallel) and not self._settled:
            self._settle(image_bchw[:2])
        size = self.cfg.train.micro_batch or len(image_bchw)
        micro_batches = list(zip(image_bchw.split(size), mask_bchw.split(size), strict=True))
        total = self._total_sums(micro_batches) if len(micro_batches) > 1 else None
        for number, (image, mask) in enumerate(micro_batches, start=1):
            with self._sync(number == len(micro_batches)):
                with self._autocast():
                    logits = self.forward(image.contiguous(memory_format=self.layout))
                sums = self.loss.sums(logits, mask)
                total_sums = self.world.sum_keep_gradient(sums) if total is None else total + (sums - sums.detach())
                loss = self.loss.value(total_sums, progress)
                finite = total_sums.detach().isfinite().all()
                # DDP divides the summed gradients by the world size; ours are parts of one loss, not copies of it.
                self.scaler.scale(loss * self.world.size).backward()
        self._update(lr)
        return torch.where(finite, loss.detach(), torch.nan)

    def logits(self, image_bchw: Tensor) -> Tensor:
        """Logits in evaluation mode and without gradients, float32. Not collective."""
        self._network.eval()
        with torch.inference_mode(), self._autocast():
            logits: Tensor = self._network(image_bchw.contiguous(memory_format=self.layout)).float()
        return logits

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the network is the one that is scored and saved. Not collective."""
        return self.average.in_place()

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Copies on the CPU of the state dict as it is scored, of the moments (`<parameter>/<moment>`; the weights that
        train, where they are not those that are scored, are `<name>/trained`), and what else the next step depends on.
        """
        state, average = self._network.state_dict(), self.average.values()
        model = {name: _copy(average.get(name, tensor)) for name, tensor in state.items()}
        moments = {
            f"{name}/{moment}": _copy(value)
            for name, parameter in self._network.named_parameters()
            for moment, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        } | {f"{name}/trained": _copy(state[name]) for name in average}
        counters = {key: value for key, value in self.optimizer.param_groups[0].items() if key in COUNTERS}
        extra = {"scaler": self.scaler.state_dict(), "optimizer": counters, "averaged": self.average.updates}
        return model, moments, extra

    def restore(self, model: Mapping[str, Tensor], moments: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Go on from a snapshot. Raises KeyError or RuntimeError when it is of another network."""
        self._network.load_state_dict(dict(model))
        parameters, trained = dict(self._network.named_parameters()), {}
        for key, value in moments.items():
            name, moment = key.rsplit("/", 1)
            if moment == "trained":
                trained[name] = value
                continue
            parameter = parameters[name]
            like = torch.empty_like(parameter if value.shape == parameter.shape else value, device=parameter.device)
            self.optimizer.state[parameter][moment] = like.detach().copy_(value)
        self.average.restore(trained, extra["averaged"])
        for group in self.optimizer.param_groups:
            group.update(extra["optimizer"])
        if self.scaler.is_enabled() and extra["scaler"]:
            self.scaler.load_state_dict(dict(extra["scaler"]))

    def _settle(self, image_bchw: Tensor) -> None:
        """Have DDP regroup its buckets, as it does after its first backward pass, before anything counts. Collective.

        The groups decide in which order gradients are added over more than two ranks: without this, the first step of a
        run that came back would differ in the last bits from that of a run that never left (L6).
        """
        with _unchanged_buffers(self._network), self._autocast():
            (self.wrapped(image_bchw.contiguous(memory_format=self.layout)).float().sum() * 0).backward()
        self.optimizer.zero_grad()
        self._settled = True

    def _total_sums(self, micro_batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The loss's sums over the global batch; leaves running statistics as they were. Collective."""
        with torch.no_grad(), _unchanged_buffers(self._network), self._autocast():
            parts = [
                self.loss.sums(self._network(image.contiguous(memory_format=self.layout)), mask)
                for image, mask in micro_batches
            ]
            return self.world.sum(torch.stack(parts).sum(0))

    def _update(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.cfg.optim.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._network.parameters(), self.cfg.optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self._average_buffers()
        self.average.update()

    def _average_buffers(self) -> None:
        """Make batch norm's running statistics equal on all ranks, as their mean. Collective.

        SyncBatchNorm (CUDA) keeps them equal by itself. Elsewhere each rank normalises its own share of the batch; the
        running values are linear in what the ranks saw, so their mean after each step is what validation should use,
        and any rank's state is the state of the run.
        """
        buffers = [b for b in self._network.buffers() if b.is_floating_point()]
        if self.world.size == 1 or not buffers or self.world.device.type == "cuda":
            return
        mean = self.world.sum(torch.cat([b.flatten() for b in buffers])) / self.world.size
        for buffer, part in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))

    def _sync(self, last: bool) -> AbstractContextManager[None]:
        if isinstance(self.wrapped, DistributedDataParallel) and not last:
            return self.wrapped.no_sync()
        return nullcontext()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, dtype=self.dtype, enabled=self.dtype is not None)


def _set_tf32(wanted: bool) -> None:
    """Say of float32 products and convolutions on CUDA what torch otherwise decides differently for the two."""
    torch.backends.cuda.matmul.fp32_precision = "tf32" if wanted else "ieee"
    torch.backends.cudnn.conv.fp32_precision = "tf32" if wanted else "ieee"  # type: ignore[attr-defined]


def _channels_last(cfg: Config, device: torch.device) -> bool:
    """`model.channels_last`, or else what was measured: faster on CPUs with AVX-512, unless the network is narrow.

    On CUDA for the half precisions, whose convolutions the vendor's library does in this layout (not measured here).
    """
    if cfg.model.channels_last is not None:
        return cfg.model.channels_last
    if device.type == "cuda":
        return cfg.precision in ("bf16", "fp16")
    wide: bool = torch.backends.cpu.get_cpu_capability() == "AVX512" and cfg.model.features >= WIDTH
    return wide


def _copy(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, sharing nothing with the original."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


@contextmanager
def _unchanged_buffers(network: nn.Module) -> Iterator[None]:
    before = [b.clone() for b in network.buffers()]
    yield
    for buffer, value in zip(network.buffers(), before, strict=True):
        buffer.copy_(value)
