"""One step of training over all ranks, behind a protocol: the loop does not know which engine runs."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from segtrain.config import Config, EngineName
from segtrain.engines.ddp import DdpEngine
from segtrain.engines.deepspeed import DeepSpeedEngine
from segtrain.losses import Loss
from segtrain.runtime.world import World


class Engine(Protocol):
    """Legend: b this rank's share of the global batch, h height, w width."""

    @property
    def network(self) -> nn.Module:
        """The bare network."""

    @property
    def settings(self) -> dict[str, Any]:
        """What a library that does the work is told, as its users would write it; empty where there is none."""

    micro_batch: int
    """Samples of a rank in memory at once; may be made smaller between steps where the engine `recovers`."""

    recovers: bool
    """Whether a step that raised OutOfMemory has left nothing behind and may be tried again."""

    def rehearse(self) -> None:
        """Forward and backward of one micro-batch, without a word to other ranks; changes nothing. Raises OutOfMemory
        (engines.shortage). Before the first step all ranks call it alike."""

    def step(self, image_bchw: Tensor, mask_bchw: Tensor, lr: float, progress: float = 1.0) -> Tensor:
        """One optimiser step on the global batch: its loss, equal on all ranks, still on the device. Collective.

        `progress` of the run, 0 to 1, is for losses whose weights move. Raises OutOfMemory on the rank that is short.
        """

    def finite(self) -> bool:
        """Whether all that this rank holds of the weights is finite. Waits for the device."""

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds, in one format for all engines: state dict, moments by name, the rest; on rank 0,
        empty on the others. Collective."""

    def restore(self, model: Mapping[str, Tensor], moments: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Go on from a snapshot, of whatever engine. Collective."""

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the network is the one that is scored and saved: an average of weights, where there is one.
        Collective."""

    def logits(self, image_bchw: Tensor) -> Tensor:
        """Logits in evaluation mode and without gradients, float32. Not collective."""


ENGINES: dict[EngineName, Callable[[Config, nn.Module, Loss, World], Engine]] = {
    "ddp": DdpEngine,
    "deepspeed": DeepSpeedEngine,
}


def make_engine(cfg: Config, network: nn.Module, loss: Loss, world: World) -> Engine:
    """The engine that `engine` names, around `network`."""
    return ENGINES[cfg.engine](cfg, network, loss, world)
