"""DeepSpeed behind the same step: ZeRO 0 to 3, moments on the CPU if asked for, and the same checkpoint (L9).

Its JSON is made from our config (`settings_of`). Mixed precision is torch's autocast over float32 weights as in DDP,
since DeepSpeed's own casts running statistics too. Checkpoints are ours, gathered one parameter at a time, since
DeepSpeed's can be resumed at the same world size only.
"""

import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.config import Config, Reference, name_of
from segtrain.engines.average import Average, live
from segtrain.engines.base import BaseEngine, Snapshot, copy, unchanged_buffers
from segtrain.engines.loss_scale import FirstStep, ZeroScale
from segtrain.engines.optim import Rates, make_optimizer
from segtrain.engines.optim_bench import bench_of
from segtrain.engines.optim_state import TRAINED, dump, load, reset, restart, settings_of_groups, weights_of
from segtrain.engines.zero import check, load_deepspeed, local_rank_of, settings_of
from segtrain.engines.zero_state import ZeroState, part_of
from segtrain.engines.zero_trial import zero_problem
from segtrain.errors import ConfigError, LaunchError
from segtrain.losses.loss import Loss
from segtrain.runtime.world import World, be_a_group


def _hollow(network: nn.Module) -> nn.Module:
    """A copy of the network on the meta device, which has no values."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta")) for p in network.parameters()}
    return deepcopy(network, memo | {id(b): b.detach().to("meta") for b in network.buffers()})


class DeepSpeedEngine(BaseEngine):
    """See `segtrain.engines.Engine`.

    DeepSpeed takes the network over at the first step, so that a checkpoint can be loaded into the whole network before
    it is divided among the ranks.
    """

    flattens = True

    def __init__(self, cfg: Config, network: nn.Module, loss: Loss, world: World) -> None:
        if importlib.util.find_spec("deepspeed") is None:
            raise LaunchError("engine=deepspeed, but DeepSpeed is not installed; pip install deepspeed")
        super().__init__(cfg, network, loss, world)
        if cfg.deepspeed.extra:
            check(self.settings, cfg.deepspeed.extra, world.device.type)
        self._refuse_optimizer()
        self.engine: Any = None
        self._first_step = FirstStep()
        self._zero_scale: ZeroScale | None = None  # of a float16 loss with ZeRO 1 to 3
        self.parted = False  # whether each rank holds a part of each weight
        self._whole = _hollow(self._network) if cfg.deepspeed.zero == 3 else self._network
        self._restored: Snapshot = {}, {}, {}

    def _refuse_optimizer(self) -> None:
        """Raise ConfigError for an optimiser that cannot be made, which it is at the first step, or not be divided."""
        optim, zero = self.cfg.optim, self.cfg.deepspeed.zero
        make_optimizer(self._network, optim)
        if Reference.parse(name_of(optim.name)) and (problem := zero_problem(bench_of(optim, self._network), zero)):
            raise ConfigError(
                f"optim.name={name_of(optim.name)}: {problem}, so it does not go with engine=deepspeed and "
                f"deepspeed.zero={zero}; use engine=ddp"
            )

    @property
    def settings(self) -> dict[str, Any]:
        train = replace(self.cfg.train, micro_batch=self.micro_batch)
        return settings_of(replace(self.cfg, train=train), self.world.size)

    def rehearse(self) -> None:
        """As in BaseEngine, on the bare network, and before DeepSpeed takes over: it fixes the micro-batch then."""
        if self.engine is None:
            super().rehearse()

    def restore(self, model: Mapping[str, Tensor], moments: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Continue from a snapshot at the next step. Raises RuntimeError when it is of another network."""
        assert self.engine is None, "DeepSpeed has divided the network already"
        self._network.load_state_dict(weights_of(model, moments))
        self._restored = dict(model), dict(moments), dict(extra)

    def step(self, image_bchw: Tensor, mask_bchw: Tensor, lr: float, progress: float = 1.0, step: int = 0) -> Tensor:
        """As in BaseEngine. Collective."""
        with local_rank_of(self.world.device):
            return super().step(image_bchw, mask_bchw, lr, progress, step)

    def _start(self, image_bchw: Tensor) -> None:
        """Hand the network over. Collective."""
        if self.engine is not None:
            return
        be_a_group(self.world)  # DeepSpeed needs a process group, even of one process
        deepspeed = load_deepspeed(self.world.device.type)
        # A collective through shared memory, for CPUs, which is compiled at the first start; a process killed meanwhile
        # leaves a lock that all later ones wait for. gloo does the same job.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        for call in ("all_gather_into_tensor", "reduce_scatter_tensor"):  # which DeepSpeed 0.19 uses, at each step
            warnings.filterwarnings("ignore", f".torch.distributed.{call}. is deprecated", FutureWarning)
        self.optimizer = make_optimizer(self._network, self.cfg.optim)
        self.rates = Rates(self.optimizer, self.cfg.optim.lr)
        self._group_settings = settings_of_groups(self.optimizer)
        fresh = self._dump() if self.cfg.deepspeed.zero == 0 else None
        self.engine, *_ = deepspeed.initialize(model=self._network, optimizer=self.optimizer, config=self.settings)
        self.parted = self.cfg.deepspeed.zero == 3
        self._state = ZeroState(self._network, self.optimizer, self.world, self.parted)
        if self.dtype == torch.float16 and self.cfg.deepspeed.zero:
            self._zero_scale = ZeroScale(self.engine.optimizer)
        self._settle(image_bchw)
        if fresh is not None:
            restart(self.optimizer, self._network.named_parameters(), self._group_settings, fresh)
            self._first_step = FirstStep()
        self._take_back()

    def _dump(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return dump(self.optimizer, self._network.named_parameters(), self._group_settings)

    def _settle(self, image_bchw: Tensor) -> None:
        """Take one step that changes nothing, so that all moments exist, and set them to 0. Collective."""
        scale = self._scale_state()
        self._network.train()
        with unchanged_buffers(self._network):
            for _ in range(self.engine.gradient_accumulation_steps()):
                logits = self._forward(image_bchw.contiguous(memory_format=self.layout))
                self._backward(logits.float().sum() * 0)
            self._update(lr=0.0)
        if self.cfg.deepspeed.zero in (1, 2):
            # DeepSpeed 0.19.8 links moments to weights after the step of the first group of parameters, when the second
            # has no moments yet. Link them again, now that all have some.
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()
        for entries in self.optimizer.state.values():
            reset(entries)
        self._load_scale(scale)

    def _take_back(self) -> None:
        """Set moments and averages to those of the checkpoint. Collective."""
        model, moments, extra = self._restored
        if self.cfg.deepspeed.zero == 0:
            load(self.optimizer, self._network.named_parameters(), moments, extra.get("optimizer", {}))
        elif moments:
            self._state.load(moments, extra["optimizer"])
        self.average = Average(self._live, None, self.cfg.optim.ema)
        if model:
            held = self._live()
            own = {name: part_of(value, held.get(name), self.world.rank) for name, value in model.items()}
            self.average.take(own, extra["averaged"])
        self._load_scale(extra.get("scaler"))
        self._restored = {}, {}, {}

    def _scaler(self) -> torch.amp.GradScaler | None:
        """The scaler of the loss, in float16."""
        if self._zero_scale:
            return self._zero_scale.scaler
        scaler: torch.amp.GradScaler | None = getattr(self.engine, "torch_autocast_z0_gradscaler", None)
        return scaler

    def _scale_state(self) -> dict[str, Any]:
        """The loss scale's state, in float16; else empty."""
        scaler = self._scaler()
        return dict(scaler.state_dict()) if scaler else {}

    def _load_scale(self, state: Mapping[str, Any] | None) -> None:
        scaler = self._scaler()
        if scaler and state:
            scaler.load_state_dict(dict(state))
        if self._zero_scale:
            self._zero_scale.pass_on()

    def _forward(self, image_bchw: Tensor) -> Tensor:
        logits: Tensor = self.engine(image_bchw)
        return logits

    def _backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()  # it counts micro-batches

    def _update(self, lr: float) -> None:
        self.rates.set(self.optimizer.param_groups, lr)
        with self._first_step.watch(self._scaler(), self.optimizer):
            self.engine.step()
        if self._zero_scale:
            self._zero_scale.update()

    def logits(self, image_bchw: Tensor) -> Tensor:
        """Logits in evaluation mode and without gradients, float32; with ZeRO 3 only within `averaged`."""
        self._whole.eval()
        with torch.inference_mode(), self._autocast():
            logits: Tensor = self._whole(image_bchw.contiguous(memory_format=self.layout)).float()
        return logits

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which every rank has the whole network that is scored and saved. Collective."""
        size, channels = self.cfg.data.image_size, self.cfg.data.channels
        image = torch.zeros(self._few, channels, size, size, device=self.world.device)
        with local_rank_of(self.world.device):
            self._start(image)  # a resumed run may begin here
        if not self.parted:
            self._whole = self._network
            with self.average.in_place():
                yield
            return
        self._whole.to_empty(device=self.world.device)
        with self.average.in_place():
            for name, tensor in self._gathered():
                self._whole.state_dict(keep_vars=True)[name].data.copy_(tensor)
            tables = dict(self._whole.named_buffers())  # those that are not saved among them
            for name, buffer in self._network.named_buffers():
                tables[name].copy_(buffer)
        try:
            yield
        finally:
            self._whole.to("meta")

    def snapshot(self) -> Snapshot:
        """As `DdpEngine.snapshot`, on rank 0; empty on the others. Gathers one parameter at a time. Collective."""
        keep = self.world.is_main
        with self.average.in_place():
            model = {name: copy(tensor) for name, tensor in self._gathered() if keep}
        moments, numbers = self._dump() if self.cfg.deepspeed.zero == 0 else self._state.dump()
        if self.average.values():
            trained = {name: copy(tensor) for name, tensor in self._gathered() if keep}
            moments |= {f"{name}/{TRAINED}": value for name, value in trained.items() if value.is_floating_point()}
        extra = {"scaler": self._scale_state(), "optimizer": numbers, "averaged": self.average.updates}
        return (model, moments, extra) if keep else ({}, {}, {})

    def _gathered(self) -> Iterator[tuple[str, Tensor]]:
        """The state dict's entries, each gathered when it is its turn. Collective."""
        parts = self._live() if self.parted else {}
        for name, tensor in self._network.state_dict(keep_vars=True).items():
            if not self.parted or not isinstance(tensor, nn.Parameter):
                yield name, tensor.detach()
                continue
            # Not deepspeed.zero.GatheredParameters: it keeps small parameters whole and returns these, although the
            # parts may have been replaced by the average.
            shape: torch.Size = getattr(tensor, "ds_shape")  # noqa: B009
            yield name, self.world.concatenate(parts[name].detach())[: shape.numel()].view(shape)

    def _live(self) -> dict[str, Tensor]:
        """This rank's weights (with ZeRO 3, its parts of them) and running statistics."""
        if not self.parted:
            return live(self._network)
        parameters = self._network.named_parameters(remove_duplicate=False)
        parts = {name: getattr(parameter, "ds_tensor") for name, parameter in parameters}  # noqa: B009
        return parts | {name: b for name, b in live(self._network).items() if name not in parts}

    def finite(self) -> bool:
        """Whether all weights that this rank holds are finite. Waits for the device.

        The last part of a weight is padded with whatever was in memory, which does not count.
        """
        if not self.parted:
            return super().finite()
        parameters = self._network.named_parameters(remove_duplicate=False)
        shapes = {name: getattr(p, "ds_shape").numel() for name, p in parameters}  # noqa: B009
        held = [
            tensor.detach()[: max(0, shapes[name] - self.world.rank * tensor.numel())] if name in shapes else tensor
            for name, tensor in self._live().items()
        ]
        return bool(torch.stack([tensor.isfinite().all() for tensor in held]).all())
