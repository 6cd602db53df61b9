"""Optimisers by name, and the learning rate as a function of the step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from segtrain.config import OptimConfig, OptimName, ScheduleName

Groups = list[dict[str, Any]]


def _schedulefree(groups: Groups, cfg: OptimConfig) -> Optimizer:
    """AdamW without a schedule. A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024, by its authors' library."""
    from schedulefree import AdamWScheduleFree

    optimizer: Optimizer = AdamWScheduleFree(groups, lr=cfg.lr)
    optimizer.train()  # type: ignore[attr-defined]  # the engine swaps the average in and out itself
    return optimizer


OPTIMIZERS: dict[OptimName, Callable[[Groups, OptimConfig], Optimizer]] = {
    "adam": lambda groups, cfg: torch.optim.Adam(groups, lr=cfg.lr, fused=True),
    "adamw": lambda groups, cfg: torch.optim.AdamW(groups, lr=cfg.lr, fused=True),
    "sgd": lambda groups, cfg: torch.optim.SGD(
        groups, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.momentum > 0, fused=True
    ),
    "schedulefree": _schedulefree,
}


def make_optimizer(network: nn.Module, cfg: OptimConfig) -> Optimizer:
    """The optimiser that `optim.name` names. Norms and biases, which have one dimension, are not decayed unless
    `optim.decay_all`: shrinking them does not regularise (T. He et al., "Bag of Tricks", CVPR 2019)."""
    matrices = [p for p in network.parameters() if p.dim() > 1 or cfg.decay_all]
    vectors = [p for p in network.parameters() if not (p.dim() > 1 or cfg.decay_all)]
    groups = [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return OPTIMIZERS[cfg.name]([group for group in groups if group["params"]], cfg)


def _constant(progress: float, cfg: OptimConfig) -> float:
    return 1.0


def _cosine(progress: float, cfg: OptimConfig) -> float:
    return cfg.final_lr_ratio + (1 - cfg.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def _polynomial(progress: float, cfg: OptimConfig) -> float:
    """nnU-Net's, power 0.9 (F. Isensee et al., Nature Methods 2021)."""
    return cfg.final_lr_ratio + (1 - cfg.final_lr_ratio) * math.pow(1 - progress, cfg.power)


SCHEDULES: dict[ScheduleName, Callable[[float, OptimConfig], float]] = {
    "constant": _constant,
    "warmup_cosine": _cosine,
    "polynomial": _polynomial,
}


def lr_at(step: int, total_steps: int, cfg: OptimConfig) -> float:
    """The learning rate of a step (from 0): linear over `warmup_steps`, then the schedule until `total_steps`."""
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / cfg.warmup_steps
    progress = (step - cfg.warmup_steps) / max(1, total_steps - cfg.warmup_steps)
    return cfg.lr * SCHEDULES[cfg.schedule](min(1.0, progress), cfg)
