"""The network that a file of weights alone is of, by the names and shapes of its tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtrain.config import NETWORKS, ModelConfig, name_of, network_part, width_problem
from segtrain.config.networks import NormName
from segtrain.errors import ConfigError
from segtrain.models.make import make_model
from segtrain.models.weights import COUNT, read_bare, without_wrappers

DEPTHS = range(1, 8)
NORMS: tuple[NormName, ...] = ("batch", "instance", "group")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Recognised:
    """A network of ours, and how many channels and regions it has; `others`: norms that would fit as well."""

    model: ModelConfig
    channels: int
    regions: int
    others: tuple[str, ...] = ()


def recognise(path: Path, settings: Mapping[str, Any]) -> Recognised:
    """The network of the weights in a file; `settings` are keys of `model` that are known. Raises ConfigError."""
    theirs = _shapes(read_bare(path))
    names = [settings["name"]] if "name" in settings else list(NETWORKS)  # with its options, which may change shapes
    for name in names:
        if matches := list(_matches(name, theirs, settings)):
            return _one_of(path, matches)
    first = next(iter(theirs), "none")
    known = (
        f"model.name={name_of(names[0])}"
        if "name" in settings
        else f"any of segtrain's networks ({', '.join(NETWORKS)})"
    )
    raise ConfigError(
        f"{path}: its {len(theirs)} tensors ({first}, ...) are not those of {known}; give the settings that it was "
        "trained with, by --config F or model.*=..."
    )


def _one_of(path: Path, matches: list[Recognised]) -> Recognised:
    """Instance and group norm have the same tensors: the network's own is taken, and else none."""
    own = [one for one in matches if one.model.norm in (None, one.model.part.norm)]
    norms = tuple(str(one.model.norm) for one in matches)
    if len(matches) > 1 and not own:
        raise ConfigError(f"{path}: its tensors fit model.norm={' and '.join(norms)} alike; say which with model.norm=")
    match = own[0] if own else matches[0]
    return replace(match, others=tuple(norm for norm in norms if norm != match.model.norm))


def _matches(name: Any, theirs: Shapes, settings: Mapping[str, Any]) -> Iterator[Recognised]:
    part = network_part(name_of(name))
    probe = _shapes_of(ModelConfig(**{"features": part.width(32), **settings, "name": name}), 1, 1)
    first = next((key for key, shape in probe.items() if len(shape) == 4), "")
    if len(theirs.get(first, ())) != 4:
        return
    width, channels, *_ = theirs[first]
    choices = {"depth": DEPTHS, "norm": NORMS, "deep_supervision": (0.0, part.supervision or 0.5)}
    open_keys = [key for key in choices if key in part.keys and key not in settings]
    for values in product(*(choices[key] for key in open_keys)):
        keys = {"features": width, **settings, "name": name, **dict(zip(open_keys, values, strict=True))}
        model = ModelConfig(**keys)
        ours = _shapes_of(model, channels, 1) if width_problem(name_of(name), model.features) is None else {}
        if ours.keys() != theirs.keys():
            continue
        *_, last = (key for key in ours if key.endswith(".bias"))
        regions = theirs[last][0]
        if (ours if regions == 1 else _shapes_of(model, channels, regions)) == theirs:
            yield Recognised(model, channels, regions)


def _shapes_of(model: ModelConfig, channels: int, regions: int) -> Shapes:
    try:
        with torch.device("meta"):
            return _shapes(make_model(model, 0, channels, 256, regions).state_dict())
    except (RuntimeError, NotImplementedError):  # it computes with its weights when it is made
        return _shapes(make_model(model, 0, channels, 256, regions).state_dict())


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    bare = without_wrappers(state)
    return {key: tuple(tensor.shape) for key, tensor in bare.items() if not key.endswith(COUNT)}
