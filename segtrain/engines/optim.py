"""Optimisers by name, and the learning rate as a function of the step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from segtrain.config import OPTIMIZERS, SCHEDULES, OptimConfig, options_of, part_of

Groups = list[dict[str, Any]]  # of parameters, as torch's optimisers take them


def adam(groups: Groups, cfg: OptimConfig) -> Optimizer:
    """Adam."""
    return torch.optim.Adam(groups, lr=cfg.lr, fused=True)


def adamw(groups: Groups, cfg: OptimConfig) -> Optimizer:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(groups, lr=cfg.lr, fused=True)


def sgd(groups: Groups, cfg: OptimConfig) -> Optimizer:
    """Stochastic gradient descent, with Nesterov momentum unless `optim.momentum` is 0."""
    return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.momentum > 0, fused=True)


def schedulefree(groups: Groups, cfg: OptimConfig) -> Optimizer:
    """AdamW without a schedule. A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024, by its authors' library."""
    from schedulefree import AdamWScheduleFree

    optimizer: Optimizer = AdamWScheduleFree(groups, lr=cfg.lr)
    optimizer.train()  # type: ignore[attr-defined]  # the engine swaps the average in and out itself
    return optimizer


def make_optimizer(network: nn.Module, cfg: OptimConfig) -> Optimizer:
    """The optimiser that `optim.name` names.

    Norms and biases, which have one dimension, are not decayed unless `optim.decay_all`: shrinking them does not
    regularise (T. He et al., "Bag of Tricks", CVPR 2019).
    """
    matrices = [p for p in network.parameters() if p.dim() > 1 or cfg.decay_all]
    vectors = [p for p in network.parameters() if not (p.dim() > 1 or cfg.decay_all)]
    groups = [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    make: Callable[[Groups, OptimConfig], Optimizer] = part_of(cfg.name, OPTIMIZERS).load(**options_of(cfg.name))
    return make([group for group in groups if group["params"]], cfg)


def constant(progress: float, cfg: OptimConfig) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float, cfg: OptimConfig) -> float:
    """Half a cosine from 1 to `final_lr_ratio`. I. Loshchilov, F. Hutter, "SGDR", ICLR 2017, without restarts."""
    return cfg.final_lr_ratio + (1 - cfg.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def polynomial(progress: float, cfg: OptimConfig) -> float:
    """(1 - progress)^power from 1 to `final_lr_ratio`; nnU-Net's power is 0.9 (F. Isensee et al., 2021)."""
    return cfg.final_lr_ratio + (1 - cfg.final_lr_ratio) * math.pow(1 - progress, cfg.power)


def lr_at(step: int, total_steps: int, cfg: OptimConfig) -> float:
    """The learning rate of a step (from 0): linear over `warmup_steps`, then the schedule until `total_steps`."""
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / cfg.warmup_steps
    progress = (step - cfg.warmup_steps) / max(1, total_steps - cfg.warmup_steps)
    factor: float = part_of(cfg.schedule, SCHEDULES).load(**options_of(cfg.schedule))(min(1.0, progress), cfg)
    return cfg.lr * factor
