"""Networks of the folder of parts, as the user's own."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtrain.config import ModelConfig
from segtrain.models.make import make_model
from segtrain.models.own import OwnNetwork

PARTS = Path(__file__).resolve().parent / "parts" / "networks"


def config(part: str, options: dict[str, Any] | None = None, **model: Any) -> ModelConfig:
    """For a part `FILE.py:NAME` of the folder of parts."""
    name = f"{PARTS}/{part}"
    return ModelConfig(name={"part": name, **options} if options else name, **model)


def make(part: str, options: dict[str, Any] | None = None, channels: int = 3, **model: Any) -> OwnNetwork:
    network = make_model(config(part, options, **model), seed=1, in_channels=channels, size_px=64)
    assert isinstance(network, OwnNetwork)
    return network


def image(batch: int = 2, height: int = 48, width: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
