"""Weights from a local file, all checked before any of them is used."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.models.base import Network

log = logging.getLogger(__name__)

SAME_SETTINGS = "set model.*, data.contrasts, data.regions and data.neighbours as they were when the file was made"
TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")
HOLDERS = ("state_dict", "model_state_dict", "model", "network_weights")  # keys of training programs for the weights
# Prefixes that DDP, torch.compile and `Adapted` put before every name.
WRAPPERS = ("module.", "_orig_mod.", "network.")
COUNT = "num_batches_tracked"  # of batch norm; torchvision's older files do not have it


def load_weights(network: Network, path: Path) -> None:
    """Give `network` the weights in `path`, whose names may have a wrapper's prefix. Runs no code from the file.

    A file may hold the part `network.pretrained` alone; the rest then stays as it is. Raises ConfigError: another
    kind of file, unreadable, or of another network (names the first tensor that differs); nothing is changed then.
    """
    theirs, ours = _bare(_read(path)), _bare(network.state_dict())
    part = f"{network.pretrained}." if network.pretrained else ""
    if part and not any(key in theirs for key in ours if not key.startswith(part)):
        weights = _encoder_weights(path, theirs, ours, part)
    else:
        weights = {key: tensor for key, tensor in theirs.items() if not key.startswith(network.taken_out)}
        _check(path, weights, ours, "the network")
    with torch.no_grad():
        for key, tensor in weights.items():
            ours[key].copy_(tensor)
    untouched = sorted({key.split(".")[0] for key in ours if key not in weights and not key.endswith(COUNT)})
    rest = f"; as initialised stay: {', '.join(untouched)}" if untouched else ""
    log.info("%s: gives %d of the network's %d tensors%s", path, len(weights), len(ours), rest)


def _encoder_weights(path: Path, theirs: dict[str, Tensor], ours: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The file's weights of the encoder, under the network's names; the layers of a classifier are left out.

    Encoders that segmentation-models-pytorch takes from timm (`tu-`) lie one level deeper, under `model`.
    """
    own, theirs = _below(ours, part), _below(theirs, part) or theirs
    if all(key.startswith("model.") for key in own):
        part, own, theirs = f"{part}model.", _below(own, "model."), _below(theirs, "model.") or theirs
    layers = {key.split(".")[0] for key in own}
    weights = {key: tensor for key, tensor in theirs.items() if key.split(".")[0] in layers}
    _check(path, weights or theirs, own, "the encoder")
    if unused := sorted({key.split(".")[0] for key in theirs} - layers):
        log.info("%s: holds an encoder; not taken from it: %s", path, ", ".join(unused))
    return {part + key: tensor for key, tensor in weights.items()}


def _check(path: Path, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], whose: str) -> None:
    if not theirs.keys() & ours.keys():
        first = next(iter(theirs), "nothing")
        raise ConfigError(
            f"{path}: has none of {whose}'s {len(ours)} tensors: they begin with {next(iter(ours))}, its own with "
            f"{first}; name a file of this network, or {SAME_SETTINGS}"
        )
    for key in [*ours, *theirs]:
        if key not in theirs:
            if key.endswith(COUNT):
                continue
            raise ConfigError(f"{path}: has no {key}, which {whose} has; {SAME_SETTINGS}")
        if key not in ours:
            raise ConfigError(f"{path}: has {key}, which {whose} has not; {SAME_SETTINGS}")
        if theirs[key].shape != ours[key].shape:
            shapes = f"{list(theirs[key].shape)}, {whose}'s is {list(ours[key].shape)}"
            raise ConfigError(f"{path}: {key} is {shapes}; {SAME_SETTINGS}")


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the prefixes of wrappers that all its names have."""
    bare = dict(state)
    while prefix := next((prefix for prefix in WRAPPERS if len(_below(bare, prefix)) == len(bare) > 0), None):
        bare = _below(bare, prefix)
    return bare


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with the prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix not in TORCH_FILES:
            known = ", ".join(TORCH_FILES)
            raise ConfigError(f"{path}: weights are read from .safetensors, {known}; convert the file")
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the weights ({error.strerror or error}); name an existing file"
        ) from error
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ConfigError(
            f"{path}: not a file of weights ({type(error).__name__}); save network.state_dict() alone"
        ) from error
    state = loaded
    if isinstance(loaded, dict):
        state = next((loaded[name] for name in HOLDERS if isinstance(loaded.get(name), dict)), loaded)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{path}: holds no state dict; save network.state_dict(), or that under the key state_dict")
    return state
