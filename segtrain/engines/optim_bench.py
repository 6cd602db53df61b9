"""A toy of four parameters, and an optimiser of the user's own that steps on it with made-up gradients."""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from segtrain.config import OptimConfig, Reference, name_of
from segtrain.engines.optim import Rates
from segtrain.engines.optim_state import dump, load, settings_of_groups
from segtrain.engines.own_optim import OwnOptimizer
from segtrain.errors import ConfigError

STEPS = 10
UNUSED = "unused"


class Toy(nn.Module):
    """A kernel, a matrix, a vector, and a parameter that never has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in (("kernel", (4, 3, 3, 3)), (UNUSED, (2, 3)), ("matrix", (6, 5)), ("vector", (7,))):
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))


class Bench:
    """A network and an optimiser of the user's own on it, stepped with made-up gradients."""

    def __init__(self, own: OwnOptimizer, network: nn.Module) -> None:
        self.own, self.cfg = own, own.cfg
        self.initial = network
        self.network = deepcopy(network)
        self.parameters = dict(self.network.named_parameters())
        self.optimizer = own.make(self.network)
        self.rates = Rates(self.optimizer, self.cfg.lr)
        self.settings = settings_of_groups(self.optimizer)
        self.start = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def moved(self) -> dict[str, Tensor]:
        """How far each parameter is from where it began, in float64."""
        return {name: p.detach().double() - self.start[name].double() for name, p in self.parameters.items()}

    def step(self, steps: range = range(STEPS), factor: float = 1.0) -> "Bench":
        """Take the steps, at `optim.lr` times `factor`."""
        for place in steps:
            self._step(place, factor)
            self.optimizer.zero_grad()
        return self

    def kept_gradients(self) -> list[str]:
        """The entries of the state that share their memory with a gradient, after a step."""
        self._step(0, 1.0)
        memory = {p.grad.untyped_storage().data_ptr() for p in self.parameters.values() if p.grad is not None}
        entries = [entry for state in self.optimizer.state.values() for entry in state.items()]
        self.optimizer.zero_grad()
        return [k for k, v in entries if isinstance(v, Tensor) and v.untyped_storage().data_ptr() in memory]

    def _step(self, place: int, factor: float) -> None:
        for name, parameter in self.parameters.items():
            if name != UNUSED and parameter.requires_grad:
                parameter.grad = gradient(parameter.detach(), self.start[name], place)
        self.rates.set(self.optimizer.param_groups, self.cfg.lr * factor)
        self.optimizer.step()

    def resumed(self) -> "Bench":
        """Another one that was given what a checkpoint of this one holds. Raises Unsaveable."""
        tensors, numbers = dump(self.optimizer, self.parameters.items(), self.settings)
        other = Bench(self.own, self.initial)
        with torch.no_grad():
            for name, parameter in other.parameters.items():
                parameter.copy_(self.parameters[name])
        read = read_tensors(write_tensors(tensors)) if tensors else {}
        load(other.optimizer, other.parameters.items(), read, json.loads(json.dumps(numbers)))
        return other


def gradient(value: Tensor, start: Tensor, step: int) -> Tensor:
    """That of a bowl whose lowest point is ten away from the start in each direction, with noise of the step."""
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(step))
    return 0.01 * (value - start - way_down(start)) + 0.01 * noise.to(start)


def way_down(start: Tensor) -> Tensor:
    """From the start to the lowest point."""
    return torch.where(torch.arange(start.numel()) % 3 == 0, -10.0, 10.0).view(start.shape).to(start)


def bench_of(cfg: OptimConfig, network: nn.Module | None) -> Callable[[], Bench]:
    """Makes benches for the optimiser of the user's own that `optim.name` refers to, each as new.

    On the toy; on copies of `network` where a factory needs more than parameters. Raises ConfigError where the
    optimiser cannot be made.
    """
    own = OwnOptimizer(Reference.of(name_of(cfg.name)), cfg)
    toy: nn.Module = Toy()
    try:
        Bench(own, toy)
    except ConfigError:
        if network is None:
            raise
        toy = deepcopy(network).cpu()
        Bench(own, toy)
    return partial(Bench, own, toy)
