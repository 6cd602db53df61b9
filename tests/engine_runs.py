"""What a rank of the engines' conformance suite does: short trainings, on the CPU or a GPU, and what they leave."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from segtrain.config import Config, DeepSpeedConfig, OptimConfig, Ramp, TrainConfig
from segtrain.engines.engine import Engine, make_engine
from segtrain.engines.schedules import make_schedule
from segtrain.losses.loss import make_loss
from segtrain.models.recompute import recompute
from segtrain.runtime.world import World

STEPS = 4
# ZeRO 3 keeps weights below this size whole, which all weights here are: so it would fetch and give back none of them.
PARTED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
State = dict[str, np.ndarray]
Link = tuple[State, State, str]


def config(zero: int | None, **changes: Any) -> Config:
    base = Config(
        loss={"dice": 1.0, "bce": Ramp(start=0.2, end=1.0)},
        optim=OptimConfig(name="adam", lr=1e-2, schedule="warmup_cosine", warmup_steps=2, clip_norm=0.05, ema=0.5),
        train=TrainConfig(global_batch=8),
    )
    if zero is not None:
        extra = PARTED if zero == 3 else {}
        base = replace(base, engine="deepspeed", deepspeed=DeepSpeedConfig(zero=zero, extra=extra))  # type: ignore[arg-type]
    return replace(base, **changes)


def network(norm: bool = False) -> nn.Module:
    """Small enough that no gradient is only rounding, which Adam would enlarge. An odd number of weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        middle = nn.BatchNorm2d(5) if norm else nn.GroupNorm(1, 5)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1, bias=False), middle, nn.ReLU(), nn.Conv2d(5, 1, 3, padding=1)
        )


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A global batch of eight; half of the samples, and so a whole rank of two, have no lesion."""
    image = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    mask = (image.mean(1, keepdim=True) > 0.3).float()
    mask[:4] = 0
    return image, mask


def make(cfg: Config, world: World, norm: bool = False) -> Engine:
    bare = network(norm)
    if cfg.model.checkpoint_activations:
        recompute(bare)
    return make_engine(cfg, bare, make_loss(cfg.loss), world)


def share_of(world: World) -> slice:
    """Of the global batch."""
    share = 8 // world.size
    return slice(world.rank * share, (world.rank + 1) * share)


def go_on(engine: Engine, cfg: Config, world: World, steps: range) -> list[float]:
    mine = share_of(world)
    schedule = make_schedule(cfg.optim, STEPS, STEPS)
    losses = []
    for step in steps:
        image, mask = (tensor[mine].to(world.device) for tensor in batch(step))
        lr = schedule(step)
        losses.append(engine.step(image, mask, lr, progress=step / STEPS).item())
    return losses


def plain(tensors: dict[str, torch.Tensor]) -> State:
    return {key: tensor.numpy() for key, tensor in tensors.items()}


def train(world: World, cfg: Config, norm: bool = False) -> tuple[list[float], State, State, np.ndarray]:
    """Losses, model and moments (rank 0), and the logits of an evaluation in the middle."""
    engine = make(cfg, world, norm)
    losses = go_on(engine, cfg, world, range(2))
    with engine.averaged():
        logits = engine.logits(batch(50)[0].to(world.device)).cpu().numpy()
    losses += go_on(engine, cfg, world, range(2, STEPS))
    model, moments, _ = engine.snapshot()
    return losses, plain(model), plain(moments), logits


def furthest(one: State, other: State) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[key].astype(np.float64) - other[key]).max()) for key in one)


def link(world: World, cfg: Config, given: Link | None, steps: range) -> tuple[list[float], State, State, str]:
    """Restore, go on, and hand over what a checkpoint would hold, through JSON where it is JSON there."""
    engine = make(cfg, world)
    if given is not None:
        engine.restore(
            {k: torch.from_numpy(v) for k, v in given[0].items()},
            {k: torch.from_numpy(v) for k, v in given[1].items()},
            json.loads(given[2]),
        )
    losses = go_on(engine, cfg, world, steps)
    model, moments, extra = engine.snapshot()
    return losses, plain(model), plain(moments), json.dumps(extra)


def meet_infinity(world: World, cfg: Config) -> tuple[bool, float, bool]:
    engine = make(cfg, world)
    go_on(engine, cfg, world, range(1))
    before = engine.finite()
    image, mask = batch(1)
    image[0] = torch.inf  # a sample of rank 0
    mine = share_of(world)
    return before, engine.step(image[mine].to(world.device), mask[mine].to(world.device), 1e-2).item(), engine.finite()


def link_offloaded(
    world: World, cfg: Config, given: Link | None, steps: range
) -> tuple[list[float], State, State, str]:
    """As `link`; DeepSpeed itself says that it keeps moments on the CPU."""
    from deepspeed.runtime.engine import DeepSpeedEngine as Wrapped

    answer = []
    initialize = Wrapped.__init__

    def watched(self: Any, *arguments: Any, **options: Any) -> None:
        initialize(self, *arguments, **options)
        answer.append(
            getattr(self.optimizer, "cpu_offload", False) or getattr(self.optimizer, "offload_optimizer", False)
        )

    Wrapped.__init__ = watched
    told = link(world, cfg, given, steps)
    assert answer == [True]
    return told


def train_recomputed(world: World, cfg: Config) -> tuple[int, tuple[list[float], State, State, np.ndarray]]:
    """How often a layer was computed within a backward pass, and what `train` tells."""
    within_backward = 0

    def count(*_: object) -> None:
        nonlocal within_backward
        within_backward += torch._C._current_graph_task_id() != -1

    with torch.nn.modules.module.register_module_forward_pre_hook(count):
        answer = train(world, cfg)
    return within_backward, answer


Learnt = tuple[list[float], list[float], State, State]


def overflow(world: World, cfg: Config, infinite: tuple[int, ...]) -> Learnt:
    """Losses and the loss's scale of each step, model and moments (rank 0); some steps' gradients are infinite."""
    engine = make(cfg, world)
    backward = engine._backward  # type: ignore[attr-defined]
    losses, scales = [], []
    for step in range(STEPS):
        larger = 1e12 if step in infinite else 1.0
        engine._backward = lambda loss, by=larger: backward(loss * by)  # type: ignore[attr-defined]
        losses += go_on(engine, cfg, world, range(step, step + 1))
        scales.append(engine.snapshot()[2].get("scaler", {}).get("scale"))
    model, moments, _ = engine.snapshot()
    return losses, scales, plain(model), plain(moments)
