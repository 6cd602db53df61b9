"""Networks by their name in the config. Each takes images [b, 3, h, w] and returns logits [b, 1, h, w]."""

from collections.abc import Callable

import torch
from torch import nn

from segtrain.config import ModelConfig, ModelName
from segtrain.models.unet import unet

MODELS: dict[ModelName, Callable[[ModelConfig], nn.Module]] = {"unet": unet}


def supervision_ratio(cfg):
    return cfg.deep_supervision or 0.0


def make_model(cfg: ModelConfig, seed: int, in_channels: int = 3) -> nn.Module:
    """The network with initial weights that depend on `seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[cfg.name](cfg)
