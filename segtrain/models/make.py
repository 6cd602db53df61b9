"""Networks by their name in the config, with weights from a file or from the seed."""

from collections.abc import Callable
from pathlib import Path

import torch

from segtrain.config import ModelConfig, Reference, name_of, options_of, width_problem
from segtrain.errors import ConfigError
from segtrain.models.base import Network
from segtrain.models.blueprint import Shape
from segtrain.models.own import own_network
from segtrain.models.recompute import recompute
from segtrain.models.weights import load_weights


def make_model(cfg: ModelConfig, seed: int, in_channels: int = 3, size_px: int = 256, regions: int = 1) -> Network:
    """The network from `in_channels` to logits of `regions`, with weights from `model.weights` or else `seed` alone.

    Only some networks of the user's own are made for images of `size_px`. The global generators are left as they were.
    Raises ConfigError: a width that the network cannot have, weights that do not fit, a package that is not installed,
    a network of the user's own that cannot be used.
    """
    if problem := width_problem(name_of(cfg.name), cfg.features):
        raise ConfigError(problem)
    network = _initialised(cfg, seed, in_channels, size_px, regions)
    if cfg.weights is not None:
        load_weights(network, Path(cfg.weights), cfg.weights_input)
    if cfg.checkpoint_activations:
        recompute(network)
    return network


def _initialised(cfg: ModelConfig, seed: int, in_channels: int, size_px: int, regions: int) -> Network:
    if Reference.parse(name_of(cfg.name)):
        return own_network(cfg, seed, Shape(in_channels, size_px, regions))
    make: Callable[[ModelConfig, int, int], Network] = cfg.part.load(**options_of(cfg.name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(cfg, in_channels, regions)
