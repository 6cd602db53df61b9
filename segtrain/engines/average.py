"""The weights that are scored and saved, where they are not the ones that train."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Average:
    """An exponential average of weights and running statistics (`optim.ema`), or schedule-free AdamW's own average.

    Without either there is no average, and the weights that train are scored. The decay of step t is at most
    (1 + t) / (10 + t), so that the initial weights are soon forgotten.
    """

    def __init__(self, held: Callable[[], dict[str, Tensor]], optimizer: Optimizer | None, decay: float | None) -> None:
        """`held()`: this rank's weights and running statistics, by name in the state dict."""
        self.held, self.optimizer, self.decay = held, optimizer, decay
        self.updates = 0
        self._ema = {name: tensor.detach().clone() for name, tensor in held().items()} if decay else {}

    def update(self) -> None:
        """Follow the weights; to be called after every step."""
        if self.decay is None:
            return
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        held = self.held()
        with torch.no_grad():
            torch._foreach_lerp_(list(self._ema.values()), [held[name] for name in self._ema], weight)

    def values(self) -> dict[str, Tensor]:
        """The average by name in the state dict; empty where there is none."""
        if self.decay is not None:
            return self._ema
        if self.optimizer is None:
            return {}
        state, beta = self.optimizer.state, self.optimizer.param_groups[0].get("betas", (0.9,))[0]
        return {
            name: parameter.detach().lerp(state[parameter]["z"], 1 - 1 / beta)
            for name, parameter in self.held().items()
            if "z" in state.get(parameter, {})
        }

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the network has the average; after it the network is bitwise as before."""
        average, held = self.values(), self.held()
        trained = {name: held[name].detach().clone() for name in average}
        self._set(average)
        try:
            yield
        finally:
            self._set(trained)

    def take(self, average: Mapping[str, Tensor], updates: int) -> None:
        """Continue with the average of a checkpoint."""
        self.updates = updates
        for name, tensor in self._ema.items():
            tensor.copy_(average[name])

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        held = self.held()
        for name, value in values.items():
            held[name].copy_(value)


def reached_at(decay: float) -> int:
    """The step from which an average has this decay; before it the decay rises as (1 + t) / (10 + t)."""
    return max(1, math.ceil((10 * decay - 1) / (1 - decay) - 1e-9))


def live(network: nn.Module) -> dict[str, Tensor]:
    """Weights and running statistics by name in the state dict, without the count of batches, an integer.

    A layer that the network has under two names counts under both; tables that are not saved do not count.
    """
    state: dict[str, Tensor] = network.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
