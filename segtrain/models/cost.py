"""The cost of each network: parameters, and arithmetic for one image."""

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from segtrain.config import NETWORKS, ModelConfig, name_of
from segtrain.models.base import supervision_ratio
from segtrain.models.make import make_model

# Short, for 80 columns: million parameters; work on one image, forward, then with the backward pass; the weight of each
# coarser output of deep supervision to the one before.
HEADER = ("network", "features", "M params", "GFLOP", "+backward", "norm", "deep")


def table(cfg: ModelConfig, channels: int, size_px: int) -> list[tuple[str, ...]]:
    """A row a network, in the columns of HEADER, for one image of that many channels and that size."""
    return [row(settings(cfg, name), channels, size_px) for name in NETWORKS]


def settings(cfg: ModelConfig, name: str) -> ModelConfig:
    """`cfg` for the network `name`: keys that mean nothing to it at their defaults, a width that it can have."""
    part = NETWORKS[name]
    unread = {key for other in NETWORKS.values() for key in other.keys} - {*part.keys}
    return replace(cfg, name=name, features=part.width(cfg.features), weights=None, **dict.fromkeys(unread))  # type: ignore[arg-type]


def row(cfg: ModelConfig, channels: int, size_px: int) -> tuple[str, ...]:
    """The network and its cost, in the columns of HEADER, for one image of that many channels and that size."""
    network = make_model(cfg, 0, channels).to("meta")  # shapes alone: counting takes no arithmetic
    image_bchw = torch.empty(1, channels, size_px, size_px, device="meta")
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network.eval()(image_bchw)
    with FlopCounterMode(display=False) as both:
        network.train()(image_bchw).sum().backward()
    return (
        name_of(cfg.name),
        str(cfg.features),
        f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}",
        f"{forward.get_total_flops() / 1e9:.2f}",
        f"{both.get_total_flops() / 1e9:.2f}",
        network.norm,
        str(supervision_ratio(cfg)) if network.supervised else "no",
    )
