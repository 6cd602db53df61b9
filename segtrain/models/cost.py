"""The cost of each network: parameters, and arithmetic for one image."""

from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from segtrain.config import NETWORKS, ModelConfig, Reference, name_of
from segtrain.models.base import Network, supervision_ratio
from segtrain.models.make import make_model

# Short, for 80 columns: million parameters; work on one image, forward, then with the backward pass; the weight of each
# coarser output of deep supervision to the one before.
HEADER = ("network", "features", "M params", "GFLOP", "+backward", "norm", "deep")


def table(cfg: ModelConfig, channels: int, size_px: int, regions: int = 1) -> list[tuple[str, ...]]:
    """A row a network, in the columns of HEADER, for one image of that many channels and that size.

    A network of the user's own that `cfg` names comes last.
    """
    own = [cfg] if Reference.parse(name_of(cfg.name)) else []
    return [row(one, channels, size_px, regions) for one in [*(settings(cfg, name) for name in NETWORKS), *own]]


def settings(cfg: ModelConfig, name: str) -> ModelConfig:
    """`cfg` for the network `name`: keys that mean nothing to it at their defaults, a width that it can have."""
    part = NETWORKS[name]
    unread = {key for other in (*NETWORKS.values(), cfg.part) for key in other.keys} - {*part.keys}
    return replace(cfg, name=name, features=part.width(cfg.features), weights=None, **dict.fromkeys(unread))  # type: ignore[arg-type]


def row(cfg: ModelConfig, channels: int, size_px: int, regions: int = 1) -> tuple[str, ...]:
    """The network and its cost, in the columns of HEADER, for one image of that many channels and that size."""
    network = make_model(cfg, 0, channels, size_px, regions)
    reference = Reference.parse(name_of(cfg.name))
    try:
        forward, both = _flops(network.to("meta"), channels, size_px)  # shapes alone: counting takes no arithmetic
    except (RuntimeError, NotImplementedError):  # code that asks for values, or makes tensors on the CPU
        if reference is None:
            raise
        forward, both = _flops(make_model(cfg, 0, channels, size_px, regions), channels, size_px)
    return (
        reference.short if reference else name_of(cfg.name),
        "own" if reference else str(cfg.features),
        f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}",
        f"{forward / 1e9:.2f}",
        f"{both / 1e9:.2f}",
        network.norm,
        str(supervision_ratio(cfg)) if network.supervised else "no",
    )


def _flops(network: Network, channels: int, size_px: int) -> tuple[int, int]:
    """Floating-point operations for one image: forward, and with the backward pass."""
    parameter = next(network.parameters())
    image_bchw = torch.zeros(2, channels, size_px, size_px, device=parameter.device)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network.eval()(image_bchw[:1])
    # Of two images: a batch norm may refuse to train on one.
    own = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=own) as both:
        network.train()(image_bchw).sum().backward()
    return forward.get_total_flops(), both.get_total_flops() // 2


def _convolution_backward(
    gradient: list[int], image: list[int], weight: list[int], *rest: Any, out_shape: Any = None
) -> int:
    """Those of its forward pass for each of the gradients of image and weight.

    torch's own count takes a depthwise convolution's weight for one that joins all channels.
    """
    _, _, _, _, transposed, _, _, wanted = rest
    wanted_gradients: int = sum(wanted[:2])
    return conv_flop_count(image, weight, gradient, transposed=transposed) * wanted_gradients
