"""Networks by their name in the config, and their weights. See `base.Network` for what goes in and comes out."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from segtrain.config import ModelConfig, ModelName
from segtrain.models.base import Network, supervision_ratio
from segtrain.models.monai import attention_unet, segresnet, swin_unetr, unetplusplus
from segtrain.models.recompute import recompute
from segtrain.models.resunet import resunet
from segtrain.models.smp import smp_unet
from segtrain.models.unet import unet
from segtrain.models.weights import load_weights

__all__ = ["MODELS", "Network", "load_weights", "make_model", "supervision_ratio"]

MODELS: dict[ModelName, Callable[[ModelConfig, int], Network]] = {
    "unet": unet,
    "resunet": resunet,
    "attention_unet": attention_unet,
    "unetplusplus": unetplusplus,
    "segresnet": segresnet,
    "swin_unetr": swin_unetr,
}


def make_model(cfg: ModelConfig, seed: int, in_channels: int = 3) -> Network:
    """The network, for images of `in_channels`, with the weights of `model.weights` or else such as `seed` alone gives.

    The global generator is left as it was. Raises ConfigError: weights that do not fit, a package that is not there.
    """
    make = smp_unet if cfg.name.startswith("smp:") else MODELS[cast(ModelName, cfg.name)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(cfg, in_channels)
    if cfg.weights is not None:
        load_weights(network, Path(cfg.weights))
    if cfg.checkpoint_activations:
        recompute(network)
    return network
