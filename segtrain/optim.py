"""Optimisers by name, and the learning rate as a function of the step."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from segtrain.config import OptimConfig, OptimName, ScheduleName

OPTIMIZERS: dict[OptimName, Callable[[list[nn.Parameter], OptimConfig], Optimizer]] = {
    "adam": lambda p, cfg: torch.optim.Adam(p, lr=cfg.lr, weight_decay=cfg.weight_decay, fused=True),
    "adamw": lambda p, cfg: torch.optim.AdamW(p, lr=cfg.lr, weight_decay=cfg.weight_decay, fused=True),
    "sgd": lambda p, cfg: torch.optim.SGD(
        p, lr=cfg.lr, weight_decay=cfg.weight_decay, momentum=cfg.momentum, nesterov=cfg.momentum > 0, fused=True
    ),
}


def make_optimizer(parameters: Iterable[nn.Parameter], cfg: OptimConfig) -> Optimizer:
    """The optimiser that `optim.name` names."""
    return OPTIMIZERS[cfg.name](list(parameters), cfg)


def _constant(progress: float, cfg: OptimConfig) -> float:
    return 1.0


def _cosine(progress: float, cfg: OptimConfig) -> float:
    return cfg.final_lr_ratio + (1 - cfg.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES: dict[ScheduleName, Callable[[float, OptimConfig], float]] = {"constant": _constant, "warmup_cosine": _cosine}


def lr_at(step: int, total_steps: int, cfg: OptimConfig) -> float:
    """The learning rate of a step (from 0): linear over `warmup_steps`, then the schedule until `total_steps`."""
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / cfg.warmup_steps
    progress = (step - cfg.warmup_steps) / max(1, total_steps - cfg.warmup_steps)
    return cfg.lr * SCHEDULES[cfg.schedule](min(1.0, progress), cfg)
