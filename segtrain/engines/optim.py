"""Optimisers by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from segtrain.config import OPTIMIZERS, OptimConfig, options_of, part_of

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
