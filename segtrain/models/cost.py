"""What each network costs: weights and arithmetic for one image."""

from collections.abc import Sequence
from dataclasses import replace

from segtrain.config import TAKES, Config, ModelConfig, ModelName

# Short, for 80 columns: million parameters; work on one image, forward, then with the backward pass; the weight of each
# coarser output of deep supervision to the one before.
HEADER = ("network", "features", "M params", "GFLOP", "+backward", "norm", "deep")


def table(cfg: Config) -> list[tuple[str, ...]]:
    """A row a network, in the columns of HEADER."""
    return [row(settings(cfg.model, name), cfg.data.channels, cfg.data.image_size) for name in TAKES]


def settings(cfg: ModelConfig, name: ModelName) -> ModelConfig:
    """`cfg` for the network `name`: keys that mean nothing to it at their defaults, a width that it can have."""
    dropped = dict.fromkeys({"depth", "norm", "deep_supervision"} - TAKES[name])
    width = max(12, cfg.features // 12 * 12) if name == "swin_unetr" else cfg.features
    return replace(cfg, name=name, features=width, weights=None, **dropped)  # type: ignore[arg-type]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """HEADER and rows as a Markdown table."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def row(cfg: ModelConfig, channels: int, size_px: int) -> tuple[str, ...]:
    """What the network is and costs, in the columns of HEADER, for one image of that many channels and that size."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segtrain.models import make_model, supervision_ratio

    network = make_model(cfg, 0, channels).to("meta")  # shapes alone: counting takes no arithmetic
    image_bchw = torch.empty(1, channels, size_px, size_px, device="meta")
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network.eval()(image_bchw)
    with FlopCounterMode(display=False) as both:
        network.train()(image_bchw).sum().backward()
    return (
        cfg.name,
        str(cfg.features),
        f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}",
        f"{forward.get_total_flops() / 1e9:.2f}",
        f"{both.get_total_flops() / 1e9:.2f}",
        network.norm,
        str(supervision_ratio(cfg)) if network.supervised else "no",
    )
