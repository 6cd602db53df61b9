"""Optimisers by name, and the rates of their groups."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segtrain.config import OPTIMIZERS, OptimConfig, Reference, name_of, options_of, part_of
from segtrain.engines.own_optim import OwnOptimizer
from segtrain.errors import ConfigError
from segtrain.models.freeze import rates_of

Groups = list[dict[str, Any]]  # of parameters, as torch's optimisers take them


def adam(
    groups: Groups,
    cfg: OptimConfig,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam."""
    return torch.optim.Adam(groups, lr=cfg.lr, betas=betas, eps=eps, amsgrad=amsgrad, fused=True)


def adamw(
    groups: Groups,
    cfg: OptimConfig,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=betas, eps=eps, amsgrad=amsgrad, fused=True)


def sgd(groups: Groups, cfg: OptimConfig, *, nesterov: bool | None = None, dampening: float = 0.0) -> Optimizer:
    """Stochastic gradient descent, with Nesterov momentum by default unless momentum is 0 or dampened."""
    if nesterov is None:
        nesterov = cfg.momentum > 0 and dampening == 0
    return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, dampening=dampening, nesterov=nesterov, fused=True)


def schedulefree(
    groups: Groups,
    cfg: OptimConfig,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Optimizer:
    """AdamW without a schedule. A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024, by its authors' library."""
    from schedulefree import AdamWScheduleFree

    optimizer: Optimizer = AdamWScheduleFree(
        groups, lr=cfg.lr, betas=betas, eps=eps, r=r, weight_lr_power=weight_lr_power
    )
    optimizer.train()  # type: ignore[attr-defined]  # the engine swaps the average in and out itself
    return optimizer


def make_optimizer(network: nn.Module, cfg: OptimConfig) -> Optimizer:
    """The optimiser that `optim.name` names.

    Norms and biases, which have one dimension, are not decayed unless `optim.decay_all`: shrinking them does not
    regularise (T. He et al., "Bag of Tricks", CVPR 2019). Raises ConfigError: an option that the optimiser refuses, one
    of the user's own that cannot be trained with.
    """
    name, options = name_of(cfg.name), options_of(cfg.name)
    if reference := Reference.parse(name):
        return OwnOptimizer(reference, cfg).make(network)
    groups = _groups(network, cfg)
    make: Callable[[Groups, OptimConfig], Optimizer] = part_of(cfg.name, OPTIMIZERS).load(**options)
    try:
        return make(groups, cfg)
    except (ValueError, TypeError) as error:
        settings = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ConfigError(f"optim.name={name}: refuses {settings} ({error}); change optim.name's options") from error


def _groups(network: nn.Module, cfg: OptimConfig) -> Groups:
    """The parameters that train: those that are decayed, the others, and both again for each ratio of `lr_ratios`."""
    ratios = rates_of(network, cfg.lr_ratios or {})
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    groups: Groups = []
    for ratio in (None, *dict.fromkeys((cfg.lr_ratios or {}).values())):
        rate = {} if ratio is None else {"lr": cfg.lr * ratio}
        own = [parameter for name, parameter in trained if ratios.get(name) == ratio]
        decayed = [parameter for parameter in own if parameter.dim() > 1 or cfg.decay_all]
        rest = [parameter for parameter in own if not (parameter.dim() > 1 or cfg.decay_all)]
        groups += [{"params": decayed, "weight_decay": cfg.weight_decay, **rate}]
        groups += [{"params": rest, "weight_decay": 0.0, **rate}]
    return [group for group in groups if group["params"]]


class Rates:
    """The rates of an optimiser's groups: one that differs from `optim.lr` when it is made keeps its ratio to it."""

    def __init__(self, optimizer: Optimizer, lr: float) -> None:
        self.lr = lr
        self.own = [float(group["lr"]) if "lr" in group else None for group in optimizer.param_groups]

    def set(self, groups: Sequence[dict[str, Any]], lr: float) -> None:
        """Set the rates to those of a step whose learning rate is `lr`."""
        for group, own in zip(groups, self.own, strict=True):
            if own is None:
                continue
            rate = lr if own == self.lr else own * (lr / self.lr)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
