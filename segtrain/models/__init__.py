"""Networks by their name in the config, and their weights.

    base.py        what all networks share: images of any size in, logits out
    unet.py, resunet.py, monai.py, smp.py    networks; `segtrain.config.networks` has a row for each
    weights.py     weights from a file
    recompute.py   activation checkpointing
    cost.py        parameters and arithmetic of each network

Imports torch.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from segtrain.config import ModelConfig, width_problem
from segtrain.errors import ConfigError
from segtrain.models.base import Network, supervision_ratio
from segtrain.models.recompute import recompute
from segtrain.models.weights import load_weights

__all__ = ["Network", "load_weights", "make_model", "supervision_ratio"]


def make_model(cfg: ModelConfig, seed: int, in_channels: int = 3) -> Network:
    """The network for images of `in_channels`, with weights from `model.weights` or else from `seed` alone.

    The global generator is left as it was. Raises ConfigError: a width that the network cannot have, weights that do
    not fit, a package that is not installed.
    """
    if problem := width_problem(cfg.name, cfg.features):
        raise ConfigError(problem)
    make: Callable[[ModelConfig, int], Network] = cfg.part.load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(cfg, in_channels)
    if cfg.weights is not None:
        load_weights(network, Path(cfg.weights))
    if cfg.checkpoint_activations:
        recompute(network)
    return network
