"""One process or many, each with the whole network: DistributedDataParallel, accumulation, clipping, loss scaling."""

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segtrain.config import Config, name_of
from segtrain.engines.average import Average
from segtrain.engines.base import BaseEngine, Snapshot, copy, unchanged_buffers
from segtrain.engines.graph import StepGraph, graph_of
from segtrain.engines.loss_scale import FirstStep
from segtrain.engines.optim import Rates, make_optimizer
from segtrain.engines.optim_state import TRAINED, dump, load, settings_of_groups, weights_of
from segtrain.losses.loss import Loss
from segtrain.runtime.world import World


class DdpEngine(BaseEngine):
    """Trains `network` in place. See `segtrain.engines.Engine`."""

    def __init__(self, cfg: Config, network: nn.Module, loss: Loss, world: World) -> None:
        super().__init__(cfg, network, loss, world)
        self.optimizer = make_optimizer(self._network, cfg.optim)
        self.rates = Rates(self.optimizer, cfg.optim.lr)
        self.graph: StepGraph | None = graph_of(self)
        self._settings = settings_of_groups(self.optimizer)
        averages = name_of(cfg.optim.name) == "schedulefree"
        self.average = Average(self._live, self.optimizer if averages else None, cfg.optim.ema)
        self.scaler = self._new_scaler({})
        self.first_step = FirstStep()
        wrapped: nn.Module = self._network
        if world.size > 1:
            # Buffers are averaged after each step instead of broadcast before it; see _average_buffers. torch 2.13
            # renamed the option.
            known = inspect.signature(DistributedDataParallel).parameters
            switch = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            buffers: dict[str, Any] = {switch: False}
            wrapped = DistributedDataParallel(wrapped, gradient_as_bucket_view=True, **buffers)
        self.wrapped = wrapped
        self._settled = False
        self.recovers = world.size == 1  # otherwise other ranks may be waiting in the middle of the step
        self.forward = wrapped
        if cfg.model.compile:  # the compiler would choose a layout itself
            # And other dropout than the first pass of an accumulated step, which is not compiled.
            options: dict[str, Any] = {"layout_optimization": self.channels_last, "fallback_random": True}
            self.forward = torch.compile(wrapped, options=options)  # type: ignore[assignment]

    def _new_scaler(self, state: Mapping[str, Any]) -> torch.amp.GradScaler:
        """A loss scale with the state of another; {}: as at the start."""
        scaler = torch.amp.GradScaler(self.world.device.type, enabled=self.dtype == torch.float16)
        if scaler.is_enabled() and state:
            scaler.load_state_dict(dict(state))
        return scaler

    def drop_step(self, scaler: Mapping[str, Any]) -> None:
        """Forget a step that was begun and computed nothing; `scaler`: the loss scale's state before it."""
        self._drop_gradients()
        self.scaler = self._new_scaler(scaler)

    def _start(self, image_bchw: Tensor) -> None:
        """Have DDP rebuild its buckets, as it does after its first backward pass, before the first step. Collective.

        With more than two ranks the buckets decide in which order gradients are added: without this, the first step of
        a resumed run would differ in the last bits from the same step of an uninterrupted run (L6).
        """
        if self._settled or not isinstance(self.wrapped, DistributedDataParallel):
            return
        self._network.train()
        with unchanged_buffers(self._network), self._autocast():
            (self.wrapped(image_bchw.contiguous(memory_format=self.layout)).float().sum() * 0).backward()
        self.optimizer.zero_grad()
        self._settled = True

    def _learn(self, image_bchw: Tensor, mask_bchw: Tensor, lr: float, progress: float, step: int) -> Tensor:
        if self.graph is None:
            return super()._learn(image_bchw, mask_bchw, lr, progress, step)
        self.rates.set(self.optimizer.param_groups, lr)
        plain = super()._learn

        def work(image: Tensor, mask: Tensor) -> Tensor:
            return plain(image, mask, lr, progress, step)

        return self.graph.run(image_bchw, mask_bchw, work, seed=lambda: self._seed(step, 0))

    def _forward(self, image_bchw: Tensor) -> Tensor:
        logits: Tensor = self.forward(image_bchw)
        return logits

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def _part(self, last: bool) -> AbstractContextManager[None]:
        if isinstance(self.wrapped, DistributedDataParallel) and not last:
            return self.wrapped.no_sync()
        return nullcontext()

    def _reserve(self) -> None:
        if not self.optimizer.state:  # the first update makes the moments
            self._moments()

    def _update(self, lr: float) -> None:
        if not self.recording:
            self.rates.set(self.optimizer.param_groups, lr)
        if self.cfg.optim.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._network.parameters(), self.cfg.optim.clip_norm)
        with self.first_step.watch(self.scaler, self.optimizer):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the network has the weights that are scored and saved. Not collective."""
        return self.average.in_place()

    def snapshot(self) -> Snapshot:
        """Copies on the CPU of the state dict, the optimiser's tensors, and all else that the next step depends on.

        The state dict is that which is scored. Moments are named `<parameter>/<moment>`; where the weights that train
        are others than those that are scored, they are `<name>/trained`. On rank 0; empty on the others.
        """
        if not self.world.is_main:
            return {}, {}, {}
        state, average = self._network.state_dict(), self.average.values()
        model = {name: copy(average.get(name, tensor)) for name, tensor in state.items()}
        moments, numbers = dump(self.optimizer, self._network.named_parameters(), self._settings)
        moments |= {f"{name}/{TRAINED}": copy(state[name]) for name in average}
        extra = {"scaler": self.scaler.state_dict(), "optimizer": numbers, "averaged": self.average.updates}
        return model, moments, extra

    def restore(self, model: Mapping[str, Tensor], moments: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Continue from a snapshot. Raises KeyError or RuntimeError when it is of another network."""
        self._network.load_state_dict(weights_of(model, moments))
        self.average.take(model, extra["averaged"])
        load(self.optimizer, self._network.named_parameters(), moments, extra["optimizer"])
        self.scaler = self._new_scaler(extra["scaler"])
        if self.graph:
            self.graph.forget()
