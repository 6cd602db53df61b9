"""Whether an optimiser of the user's own trains alike where DeepSpeed has divided the weights among ranks.

ZeRO gives each rank a part of all weights of a group, one after the other as one long vector, and steps one group at a
time. Before the first step, a step at rate 0 makes the state, which is then set to 0 (`DeepSpeedEngine._settle`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segtrain.engines.optim_bench import STEPS, UNUSED, Bench, gradient
from segtrain.engines.optim_state import changed_settings, reset
from segtrain.errors import gist

RANKS = 2
TOLERANCE = 1e-3  # of the furthest that a weight moves; sums over a part of the weights differ by far more


def zero_problem(make: Callable[[], Bench], zero: int | None) -> str | None:
    """Why it cannot be trained under DeepSpeed at that stage (None: at each); None: it can."""
    try:
        if zero == 0:  # each rank has all weights, and what the first step made is taken back
            optimizer = make().optimizer
            return _settle(optimizer, optimizer.param_groups, whole=True)
        return _problem_of_parts(make)
    except Exception as error:  # noqa: BLE001  whatever it raises there is the reason
        return f"fails as DeepSpeed steps it ({type(error).__name__}: {gist(error)})"


def _problem_of_parts(make: Callable[[], Bench]) -> str | None:
    whole = make().step()
    if changed := {key for group in changed_settings(whole.optimizer, whole.settings) for key in group}:
        return f"keeps {', '.join(sorted(changed))} in its groups, which would change with each part of the weights"
    begun = make()
    if problem := _settle(begun.optimizer, begun.optimizer.param_groups):
        return problem
    if not _alike(begun.step().moved(), whole.moved()):
        return "has a state that does not begin at 0"
    moved, problem = _parted(make)
    if problem:
        return problem
    if not _alike(moved, whole.moved()):
        return "moves weights differently where they are parts of one long vector"
    return None


def _alike(moved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    furthest = max(float(value.abs().max()) for value in expected.values())
    return all(
        torch.allclose(value, expected[name], rtol=0, atol=TOLERANCE * furthest) for name, value in moved.items()
    )


def _parted(make: Callable[[], Bench]) -> tuple[dict[str, Tensor], str | None]:
    """How far weights move where each of two ranks has a part of each group."""
    bench = make()
    names = {id(parameter): name for name, parameter in bench.parameters.items()}
    ranks = [make().optimizer for _ in range(RANKS)]
    members: list[list[str]] = []
    for place, group in enumerate(bench.optimizer.param_groups):
        members.append([names[id(p)] for p in group["params"] if names[id(p)] != UNUSED])
        assert members[-1], "each group has a parameter with a gradient"
        flat = torch.cat([bench.start[name].flatten() for name in members[-1]])
        for optimizer, part in zip(ranks, flat.chunk(RANKS), strict=True):
            optimizer.param_groups[place]["params"] = [nn.Parameter(part.clone())]
    problems = [_settle(optimizer, optimizer.param_groups) for optimizer in ranks]
    for step in range(STEPS):
        for place, group_names in enumerate(members):
            values = _whole(ranks, place, group_names, bench.start)
            gradients = torch.cat([gradient(values[n], bench.start[n], step).flatten() for n in group_names])
            for optimizer, part in zip(ranks, gradients.chunk(RANKS), strict=True):
                optimizer.param_groups[place]["params"][0].grad = part.clone()
        for optimizer in ranks:
            bench.rates.set(optimizer.param_groups, bench.cfg.lr)
            _step(optimizer, optimizer.param_groups)
    moved = {
        name: value.double() - bench.start[name].double()
        for place, group_names in enumerate(members)
        for name, value in _whole(ranks, place, group_names, bench.start).items()
    }
    return moved, next(filter(None, problems), None)


def _whole(ranks: list[Optimizer], place: int, names: list[str], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a group, of the parts of all ranks."""
    flat = torch.cat([optimizer.param_groups[place]["params"][0].detach() for optimizer in ranks])
    parts = flat.split([start[name].numel() for name in names])
    return {name: part.view_as(start[name]) for name, part in zip(names, parts, strict=True)}


def _step(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    for group in groups:
        optimizer.param_groups = [group]
        optimizer.step()
    optimizer.param_groups = groups


def _settle(optimizer: Optimizer, groups: list[dict[str, Any]], whole: bool = False) -> str | None:
    """Take the step at rate 0; what is wrong with it or, unless weights are `whole`, with the state that it makes."""
    before = []
    for group in groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
            before.append((parameter, parameter.detach().clone()))
        if "lr" in group:
            group["lr"] = group["lr"] * 0
    _step(optimizer, groups)
    if any(not torch.equal(parameter, value) for parameter, value in before):
        return "moves weights at a rate of 0 and without a gradient"
    for parameter, _ in () if whole else before:
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                return f"has a state {key} of another shape than the weights, which cannot be divided with them"
            if not isinstance(value, Tensor | int | float | None):
                return f"has a state {key} that is a {type(value).__name__}"
        reset(optimizer.state.get(parameter, {}))
        parameter.grad = None
    return None
