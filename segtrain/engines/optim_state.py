"""The whole state of an optimiser as tensors and JSON, and back: moments, counters, numbers of groups.

A tensor of a parameter is named `<parameter>/<key>`. The JSON has whatever is no such tensor: numbers, None, lists, and
references to tensors that lie deeper or have another layout than the parameter. Nothing is pickled.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segtrain.engines.base import copy
from segtrain.errors import ConfigError

Parameters = Iterable[tuple[str, nn.Parameter]]  # with their names
Group = dict[str, Any]  # of an optimiser
Dump = tuple[Mapping[str, Tensor], Mapping[str, Any]]  # tensors by name, and JSON
SECTIONS = ("groups", "state", "shared")
TRAINED = "trained"  # the name of the weights that train, beside the moments, where others are scored


class Unsaveable(ConfigError):
    """A state that a checkpoint cannot hold without pickling it."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"optim.name: {problem}; keep tensors and numbers in self.state and self.param_groups")


def weights_of(model: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that trains, of a snapshot's, which is scored, and of the weights beside the moments."""
    suffix = f"/{TRAINED}"
    return {**model, **{key.removesuffix(suffix): value for key, value in moments.items() if key.endswith(suffix)}}


def settings_of_groups(optimizer: Optimizer) -> list[Group]:
    """A copy of what the groups hold besides parameters and the rate, which is set at each step."""
    return [deepcopy(_settings(group)) for group in optimizer.param_groups]


def changed_settings(optimizer: Optimizer, settings: Sequence[Group]) -> list[Group]:
    """Of each group what differs from its settings before the first step."""
    return [
        {key: value for key, value in _settings(group).items() if key not in before or not _same(value, before[key])}
        for group, before in zip(optimizer.param_groups, settings, strict=True)
    ]


def dump(
    optimizer: Optimizer, parameters: Parameters, settings: Sequence[Group]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of the state on the CPU: tensors by name, and the rest as JSON can hold it.

    `settings`: those of the groups before the first step. They follow from the config, so only what differs is stored.
    Raises Unsaveable.
    """
    names: dict[Any, str] = {parameter: name for name, parameter in parameters}
    tensors = _Tensors(next(iter(names)).device)
    state: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for key, value in optimizer.state.items():
        if isinstance(key, str):
            shared[key] = tensors.encode(value, f"/{key}")
        elif key not in names or not isinstance(value, Mapping):
            raise Unsaveable(f"its state has an entry for a {type(key).__name__} that is no parameter of the network")
        elif numbers := _dump_parameter(key, value, names[key], tensors):
            state[names[key]] = numbers
    groups = [
        {key: tensors.encode(value, f"/group-{place}.{key}") for key, value in changed.items()}
        for place, changed in enumerate(changed_settings(optimizer, settings))
    ]
    numbers = {"groups": groups if any(groups) else [], "state": state, "shared": shared}
    return tensors, {key: value for key, value in numbers.items() if value}


def load(
    optimizer: Optimizer, parameters: Parameters, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Give a new optimiser the state of a dump. Raises KeyError when it is of another network."""
    by_name = dict(parameters)
    device = next(iter(by_name.values())).device
    if not numbers.keys() & set(SECTIONS):  # before groups were stored one by one: counters of all of them
        numbers = {"groups": [dict(numbers)] * len(optimizer.param_groups)}
    referred = set(_references(list(numbers.values())))
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        if moment != TRAINED and key not in referred:
            optimizer.state[by_name[name]][moment] = _like(value, by_name[name])
    for name, entries in numbers.get("state", {}).items():
        decoded = {key: _decode(value, tensors, device) for key, value in entries.items()}
        optimizer.state[by_name[name]].update(decoded)
    for key, value in numbers.get("shared", {}).items():
        optimizer.state[key] = _decode(value, tensors, device)
    for group, changed in zip(optimizer.param_groups, numbers.get("groups", ()), strict=False):
        group.update({key: _decode(value, tensors, device) for key, value in changed.items()})


def restart(optimizer: Optimizer, parameters: Parameters, settings: Sequence[Group], fresh: Dump) -> None:
    """Take an optimiser back to what it was when `settings` and `fresh` were taken of it."""
    optimizer.state.clear()
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        for key in _settings(group):
            del group[key]
        group.update(deepcopy(before))
    load(optimizer, parameters, *fresh)


def reset(entries: dict[str, Any]) -> None:
    """Set the tensors and numbers of one parameter's state to 0, which is where most optimisers begin."""
    for key, value in entries.items():
        if isinstance(value, Tensor):
            value.zero_()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            entries[key] = type(value)(0)


def _dump_parameter(parameter: Tensor, entries: Mapping[Any, Any], name: str, tensors: "_Tensors") -> dict[str, Any]:
    """Put the tensors of a parameter's state into `tensors`; the rest."""
    rest: dict[str, Any] = {}
    for key, value in entries.items():
        if not isinstance(key, str) or "/" in key:
            raise Unsaveable(f"its state has an entry named {key!r}; only texts without / can be stored")
        if isinstance(value, Tensor) and key != TRAINED and _is_plain(value, parameter):
            tensors[f"{name}/{key}"] = copy(value)
        else:
            suffix = "." if key == TRAINED else ""
            rest[key] = tensors.encode(value, f"{name}/{key}{suffix}")
    return rest


def _is_plain(value: Tensor, parameter: Tensor) -> bool:
    """Whether `_like` gives it back with its layout and device."""
    like = parameter if value.shape == parameter.shape else torch.empty(value.shape, device="meta")
    return value.device == parameter.device and _strides(value) == _strides(like)


def _like(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy of the value on the parameter's device; of the parameter's shape, also in its layout."""
    pattern = parameter if value.shape == parameter.shape else value
    return torch.empty_like(pattern, dtype=value.dtype, device=parameter.device).detach().copy_(value)


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Those that matter: a dimension of one voxel has any."""
    return tuple(stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)


def _settings(group: Group) -> Group:
    return {key: value for key, value in group.items() if key not in ("params", "param_names", "lr")}


class _Tensors(dict[str, Tensor]):
    """Copies of tensors by name; `encode` adds those of a value and returns the rest of it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device  # of the parameters

    def encode(self, value: Any, key: str) -> Any:
        """The value as JSON can hold it, which refers to its tensors. Raises Unsaveable."""
        if isinstance(value, Tensor):
            return self._refer(value, key)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            items = [self.encode(item, f"{key}.{place}") for place, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, Mapping):  # whose keys may be numbers
            names = [self.encode(name, f"{key}.{name}") for name in value]
            items = [self.encode(item, f"{key}.{name}") for name, item in value.items()]
            return {"dict": [list(pair) for pair in zip(names, items, strict=True)]}
        kind = type(value).__name__
        raise Unsaveable(f"its state {key.strip('/')} is a {kind}, which is neither a tensor nor a number")

    def _refer(self, value: Tensor, key: str) -> dict[str, Any]:
        self[key] = copy(value)
        reference: dict[str, Any] = {"tensor": key}
        if value.device != self.device:
            reference["device"] = value.device.type
        # A transposed matrix has to come back as one: sums would be rounded in another order.
        is_dense = torch.empty_like(value, device="meta").stride() == value.stride()
        if is_dense and not value.is_contiguous():
            reference["stride"] = list(value.stride())
        return reference


def _decode(tree: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    if isinstance(tree, list):
        return [_decode(item, tensors, device) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tuple" in tree:
        return tuple(_decode(item, tensors, device) for item in tree["tuple"])
    if "dict" in tree:
        return {_decode(name, tensors, device): _decode(item, tensors, device) for name, item in tree["dict"]}
    value = tensors[tree["tensor"]]
    device = torch.device(tree.get("device", device))
    if "stride" not in tree:
        return value.to(device, copy=True)
    return torch.empty_strided(value.shape, tree["stride"], dtype=value.dtype, device=device).copy_(value)


def _references(tree: Any) -> Iterable[str]:
    """The names of all tensors that the JSON refers to."""
    if isinstance(tree, dict):
        if isinstance(key := tree.get("tensor"), str):
            yield key
        tree = list(tree.values())
    for item in tree if isinstance(tree, list) else ():
        yield from _references(item)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return bool(one == other)
