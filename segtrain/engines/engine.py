"""The protocol of an engine: one optimiser step over all ranks."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from segtrain.config import ENGINES, Config
from segtrain.losses.loss import Loss
from segtrain.runtime.world import World


class Engine(Protocol):
    """Legend: b this rank's share of the global batch, h height, w width."""

    @property
    def network(self) -> nn.Module:
        """The bare network."""

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration of the library behind the engine, in its own format; empty where there is none."""

    micro_batch: int
    """Samples of a rank in memory at once; may be reduced between steps where the engine `recovers`."""

    recovers: bool
    """Whether a step that raised OutOfMemory has changed nothing and may be repeated."""

    def rehearse(self) -> None:
        """Forward and backward of one micro-batch, which changes nothing. Raises OutOfMemory (runtime.out_of_memory).

        It does not communicate, but before the first step all ranks have to call it equally often.
        """

    def step(self, image_bchw: Tensor, mask_bchw: Tensor, lr: float, progress: float = 1.0, step: int = 0) -> Tensor:
        """One optimiser step on the global batch: its loss, equal on all ranks, still on the device. Collective.

        `progress` of the run, 0 to 1, is for losses whose weights move; `step`, its number, seeds dropout. Raises
        OutOfMemory on the rank that ran out; where that is not `repeatable`, weights may have changed.
        """

    def finite(self) -> bool:
        """Whether all weights that this rank holds are finite. Waits for the device."""

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """The state dict, moments by name and the rest, in one format for all engines. Collective.

        On rank 0; empty on the others.
        """

    def restore(self, model: Mapping[str, Tensor], moments: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Continue from a snapshot of any engine. Collective."""

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the network has the weights that are scored and saved: their average, if there is one.

        Collective.
        """

    def logits(self, image_bchw: Tensor) -> Tensor:
        """Logits in evaluation mode and without gradients, float32. Not collective."""


def make_engine(cfg: Config, network: nn.Module, loss: Loss, world: World) -> Engine:
    """The engine that `engine` names, around `network`."""
    make: Callable[[Config, nn.Module, Loss, World], Engine] = ENGINES[cfg.engine].load()
    return make(cfg, network, loss, world)
