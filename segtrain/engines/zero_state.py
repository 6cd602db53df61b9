"""The state of an optimiser whose moments DeepSpeed has divided among the ranks, in the format of all engines (L9)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segtrain.engines.base import copy
from segtrain.runtime.world import World


class ZeroState:
    """Each rank's optimiser has a part of each group, and with it a part of each moment; counters are one for all."""

    def __init__(self, network: nn.Module, optimizer: Optimizer, world: World, parted: bool) -> None:
        """`parted`: each rank has a part of each weight too."""
        self.optimizer, self.world, self.parted = optimizer, world, parted
        self.trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As `optim_state.dump`, on rank 0. Gathers one moment at a time. Collective."""
        keep = self.world.is_main
        state = next(iter(self._states()), {})
        counters = {key: value for key, value in state.items() if isinstance(value, Tensor) and not value.dim()}
        numbers = {key: value for key, value in state.items() if isinstance(value, int | float)}
        tensors = {}
        for name, parameter in self.trained:
            for moment in self._moments():
                value = _whole(parameter, moment)
                if keep:
                    tensors[f"{name}/{moment}"] = copy(value)
            if keep:
                tensors |= {f"{name}/{key}": copy(value) for key, value in counters.items()}
        return tensors, {"state": {name: numbers for name, _ in self.trained}} if numbers else {}

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Set this rank's parts of the moments, which have to exist, and the counters. Collective."""
        for name, parameter in self.trained:
            for moment in self._moments():
                self._set(parameter, moment, tensors[f"{name}/{moment}"].to(self.world.device))
        first = self.trained[0][0]
        counters = numbers.get("state", {}).get(first, {})
        counters = {key: value for key, value in counters.items() if isinstance(value, int | float)}
        for state in self._states():
            state.update(counters)
            for key, value in state.items():
                if isinstance(value, Tensor) and not value.dim():
                    value.copy_(tensors[f"{first}/{key}"])

    def _states(self) -> list[dict[str, Any]]:
        """One of this rank's part of each group."""
        return [state for state in self.optimizer.state.values() if state]

    def _moments(self) -> list[str]:
        """Names of the moments that have the weights' shape."""
        state = next(iter(self._states()), {})
        return [name for name, value in state.items() if isinstance(value, Tensor) and value.dim()]

    def _set(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.parted:  # safe_set_full_optimizer_state of 0.19.8 needs sizes that are multiples of the world size
            held: Tensor = getattr(parameter, "ds_tensor")  # noqa: B009
            safe_set_local_optimizer_state(parameter, part_of(value, held, self.world.rank), moment)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)


def _whole(parameter: nn.Parameter, moment: str) -> Tensor:
    """A whole moment, on every rank. Collective."""
    from deepspeed.utils import safe_get_full_optimizer_state

    whole: Tensor = safe_get_full_optimizer_state(parameter, moment)
    return whole


def part_of(whole: Tensor, held: Tensor | None, rank: int) -> Tensor:
    """The part of a tensor that a rank has, which is like `held`; the last one is padded."""
    if held is None or held.shape == whole.shape:
        return whole
    first = held.numel() * rank
    part = whole.flatten()[first : first + held.numel()]
    return torch.nn.functional.pad(part, (0, held.numel() - part.numel()))
