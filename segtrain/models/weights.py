"""Weights from a local file, checked whole before any of them is taken."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segtrain.errors import ConfigError

SAME_SETTINGS = "set model.* (and data.neighbours) to what they were when the file was made"


def load_weights(network: nn.Module, path: Path) -> None:
    """Give `network` the weights in `path`: a state dict, or one under the key `state_dict`. Runs no code from it.

    Raises ConfigError: another kind of file, unreadable, or of another network (names the first key that differs).
    """
    given, ours = _read(path), network.state_dict()
    for key in [*ours, *given]:
        if key not in given:
            raise ConfigError(f"{path}: has no {key}, which the network has; {SAME_SETTINGS}")
        if key not in ours:
            raise ConfigError(f"{path}: has {key}, which the network has not; {SAME_SETTINGS}")
        if given[key].shape != ours[key].shape:
            theirs, shape = list(given[key].shape), list(ours[key].shape)
            raise ConfigError(f"{path}: {key} is {theirs}, the network's is {shape}; {SAME_SETTINGS}")
    network.load_state_dict(dict(given))


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix not in (".pt", ".pth"):
            raise ConfigError(f"{path}: weights are read from .safetensors, .pt or .pth; convert the file")
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the weights ({error.strerror}); name an existing file") from error
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ConfigError(
            f"{path}: not a file of weights ({type(error).__name__}); save network.state_dict(), nothing else"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{path}: holds no state dict; save network.state_dict(), or that under the key state_dict")
    return state
