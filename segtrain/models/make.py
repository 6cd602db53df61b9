"""Networks by their name in the config, with weights from a file or from the seed."""

from collections.abc import Callable
from pathlib import Path

import torch

from segtrain.config import ModelConfig, name_of, options_of, width_problem
from segtrain.errors import ConfigError
from segtrain.models.base import Network
from segtrain.models.recompute import recompute
from segtrain.models.weights import load_weights


def make_model(cfg: ModelConfig, seed: int, in_channels: int = 3) -> Network:
    """The network for images of `in_channels`, with weights from `model.weights` or else from `seed` alone.

    The global generator is left as it was. Raises ConfigError: a width that the network cannot have, weights that do
    not fit, a package that is not installed.
    """
    if problem := width_problem(name_of(cfg.name), cfg.features):
        raise ConfigError(problem)
    make: Callable[[ModelConfig, int], Network] = cfg.part.load(**options_of(cfg.name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(cfg, in_channels)
    if cfg.weights is not None:
        load_weights(network, Path(cfg.weights))
    if cfg.checkpoint_activations:
        recompute(network)
    return network
