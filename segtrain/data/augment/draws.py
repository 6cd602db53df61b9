"""The parameters of a batch's augmentation: small tensors, drawn on the CPU, that travel with the batch (L4).

Legend: b batch, k samples to which an effect applies.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, device

from segtrain.config import LGG_CONTRASTS, DataConfig, canonical
from segtrain.runtime.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contrasts:
    """The contrasts of a slice, and what the data have in place of a missing one: `data.missing`."""

    names: tuple[str, ...] = LGG_CONTRASTS
    missing: str | None = None

    @classmethod
    def of(cls, cfg: DataConfig) -> "Contrasts":
        """Those of prepared data."""
        return cls(cfg.contrasts or LGG_CONTRASTS, cfg.missing)

    @property
    def count(self) -> int:
        return len(self.names)

    @property
    def are_lgg(self) -> bool:
        """Whether they are those of the LGG data, in its order: there FLAIR stands in for either of the others."""
        return self._canonical == tuple(map(canonical, LGG_CONTRASTS))

    @property
    def stand_in(self) -> int | None:
        """The number of the contrast that stands in for a missing one; None: there is none."""
        name = "flair" if self.are_lgg else canonical(self.missing or "")
        return self._canonical.index(name) if name in self._canonical else None

    @property
    def may_miss(self) -> tuple[int, ...]:
        """The numbers of the contrasts that a patient may lack; never the only one."""
        if self.count == 1 or not (self.are_lgg or self.missing):
            return ()
        return tuple(number for number in range(self.count) if number != self.stand_in)

    @property
    def _canonical(self) -> tuple[str, ...]:
        return tuple(map(canonical, self.names))


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
    contrasts: Contrasts = Contrasts()

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Strong":
        """The same with `move`, which pins tensors or copies them to a device, applied to each tensor."""
        effects = {name: drawn.moved(move) for name, drawn in self.effects.items()}
        return Strong(move(self.still), effects, self.contrasts)


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


def pinned(tensor: Tensor) -> Tensor:
    """The tensor in memory from which a copy to the GPU waits for nothing, unless it is there already.

    As it is, with a warning, where there is no such memory left: copies then wait, and have the same values.
    """
    return tensor if tensor.is_cuda else _pinned_or(lambda: tensor, tensor.pin_memory)


def empty(shape: tuple[int, ...], dtype: torch.dtype, pin: bool) -> Tensor:
    """A tensor to be filled; with `pin` as from `pinned`."""
    plain = partial(torch.empty, shape, dtype=dtype)
    return _pinned_or(plain, partial(plain, pin_memory=True)) if pin else plain()


def _pinned_or(plain: Callable[[], Tensor], pinned_one: Callable[[], Tensor]) -> Tensor:
    try:
        return pinned_one()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _warn_of_plain_memory(" ".join(str(error).split())[:200])
    return plain()


@cache
def _warn_of_plain_memory(message: str) -> None:
    """Once for each cause."""
    log.warning("no pinned memory is left (%s); copies to the GPU wait instead, and nothing else changes", message)
