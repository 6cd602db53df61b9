"""The sizes and the device of `benchmarks.gpu`. Imports no torch."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtrain.config import Config, DataConfig, ModelConfig, TrainConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shot:
    """Where and how large, and until when in monotonic seconds. `folder`: for scratch files, `lgg`: real patients."""

    cpu: bool
    folder: Path
    lgg: Path | None = None
    end_s: float = math.inf

    def left_s(self) -> float:
        """Seconds until the step is stopped."""
        return self.end_s - time.monotonic()

    @property
    def size_px(self) -> int:
        return 32 if self.cpu else 256

    @property
    def features(self) -> int:
        return 4 if self.cpu else 32

    @property
    def batch(self) -> int:
        return 4 if self.cpu else 16

    @property
    def device(self) -> "torch.device":
        import torch

        return torch.device("cpu") if self.cpu else torch.device("cuda", 0)

    def config(self, **changes: Any) -> Config:
        """The reference network and batch, at this size."""
        base = Config(
            model=ModelConfig(features=self.features),
            data=DataConfig(image_size=self.size_px),
            train=TrainConfig(global_batch=self.batch),
        )
        return replace(base, **changes)

    def wait(self) -> None:
        """Wait until the GPU has done all that it was given."""
        import torch

        if not self.cpu:
            torch.cuda.synchronize()
