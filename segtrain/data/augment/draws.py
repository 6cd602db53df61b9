"""The parameters of a batch's augmentation: small tensors, drawn on the CPU, that travel with the batch (L4).

Legend: b batch, k samples to which an effect applies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, device


@dataclass(frozen=True)
class Drawn:
    """One effect's draws for the k samples that it applies to.

    place: int64 [k], indices of the samples in the batch; contrast: int64 [k], a contrast of each, or None for the
    whole sample; values: float32 [k, ...], the effect's parameters. k is known on the CPU, so that the device works on
    these samples alone without a synchronisation.
    """

    place: Tensor
    contrast: Tensor | None
    values: Tensor

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Drawn":
        """The same with `move`, which pins tensors or copies them to a device, applied to each tensor."""
        return Drawn(move(self.place), None if self.contrast is None else move(self.contrast), move(self.values))


@dataclass(frozen=True)
class Strong:
    """The draws of `strong` besides the affine map. still: int64 [k], samples that keep their exact geometry."""

    still: Tensor
    effects: Mapping[str, Drawn]  # those that apply to at least one sample of the batch

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Strong":
        """The same with `move`, which pins tensors or copies them to a device, applied to each tensor."""
        return Strong(move(self.still), {name: drawn.moved(move) for name, drawn in self.effects.items()})


@dataclass(frozen=True)
class Draws:
    """affines: float32 [b, 2, 3], output to input coordinates in -1..1; strong: None for `reference`."""

    affines: Tensor
    strong: Strong | None = None

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Draws":
        """The same with `move`, which pins tensors or copies them to a device, applied to each tensor."""
        return Draws(move(self.affines), None if self.strong is None else self.strong.moved(move))


def to(target: device) -> Callable[[Tensor], Tensor]:
    """A copy to a device that nobody waits for (which needs pinned memory)."""
    return lambda tensor: tensor.to(target, non_blocking=True)
