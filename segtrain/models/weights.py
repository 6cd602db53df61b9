"""Weights from a local file, checked whole before any of them is taken."""

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

SAME_SETTINGS = "set model.* (and data.neighbours) to what they were when the file was made"
TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")
HOLDERS = ("state_dict", "model_state_dict", "model", "network_weights")  # under which a training program keeps weights
# What DDP, torch.compile and `Adapted` put before every name.
AROUND = ("module.", "_orig_mod.", "network.")
COUNT = "num_batches_tracked"  # of batch norm; torchvision's older files do not have it


def load_weights(network: Network, path: Path) -> None:
    """Give `network` the weights in `path`, whose names may have a wrapper's prefix. Runs no code from it.

    A file may hold the part `network.pretrained` alone; the rest then stays as it is. Raises ConfigError: another
    kind of file, unreadable, or of another network (names the first tensor that differs); then nothing is taken.
    """
    given, ours = _bare(_read(path)), _bare(network.state_dict())
    part = f"{network.pretrained}." if network.pretrained else ""
    if part and not any(key in given for key in ours if not key.startswith(part)):
        taken = _of_encoder(path, given, ours, part)
    else:
        taken = {key: tensor for key, tensor in given.items() if not key.startswith(network.taken_out)}
        _check(path, taken, ours, "the network")
    with torch.no_grad():
        for key, tensor in taken.items():
            ours[key].copy_(tensor)
    kept = sorted({key.split(".")[0] for key in ours if key not in taken and not key.endswith(COUNT)})
    rest = f"; as initialised stay: {', '.join(kept)}" if kept else ""
    log.info("%s: gives %d of the network's %d tensors%s", path, len(taken), len(ours), rest)


def _of_encoder(path: Path, given: dict[str, Tensor], ours: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """What the file has for the encoder, under the network's names; the layers of a classifier are left out.

    Encoders that segmentation-models-pytorch takes from timm (`tu-`) lie one level deeper, under `model`.
    """
    own, theirs = _below(ours, part), _below(given, part) or given
    if all(key.startswith("model.") for key in own):
        part, own, theirs = f"{part}model.", _below(own, "model."), _below(theirs, "model.") or theirs
    layers = {key.split(".")[0] for key in own}
    taken = {key: tensor for key, tensor in theirs.items() if key.split(".")[0] in layers}
    _check(path, taken or theirs, own, "the encoder")
    if left := sorted({key.split(".")[0] for key in theirs} - layers):
        log.info("%s: holds an encoder; not taken from it: %s", path, ", ".join(left))
    return {part + key: tensor for key, tensor in taken.items()}


def _check(path: Path, given: Mapping[str, Tensor], ours: Mapping[str, Tensor], whose: str) -> None:
    if not given.keys() & ours.keys():
        first = next(iter(given), "nothing")
        raise ConfigError(
            f"{path}: has none of {whose}'s {len(ours)} tensors: they begin with {next(iter(ours))}, its own with "
            f"{first}; name a file of this network, or {SAME_SETTINGS}"
        )
    for key in [*ours, *given]:
        if key not in given:
            if key.endswith(COUNT):
                continue
            raise ConfigError(f"{path}: has no {key}, which {whose} has; {SAME_SETTINGS}")
        if key not in ours:
            raise ConfigError(f"{path}: has {key}, which {whose} has not; {SAME_SETTINGS}")
        if given[key].shape != ours[key].shape:
            theirs, shape = list(given[key].shape), list(ours[key].shape)
            raise ConfigError(f"{path}: {key} is {theirs}, {whose}'s is {shape}; {SAME_SETTINGS}")


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without what stands before every name of it."""
    bare = dict(state)
    while around := next((before for before in AROUND if len(_below(bare, before)) == len(bare) > 0), None):
        bare = _below(bare, around)
    return bare


def _below(state: Mapping[str, Tensor], before: str) -> dict[str, Tensor]:
    """What lies under a name, by the rest of its name."""
    return {key.removeprefix(before): tensor for key, tensor in state.items() if key.startswith(before)}


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix not in TORCH_FILES:
            known = ", ".join(TORCH_FILES)
            raise ConfigError(f"{path}: weights are read from .safetensors, {known}; convert the file")
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the weights ({error.strerror}); name an existing file") from error
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ConfigError(
            f"{path}: not a file of weights ({type(error).__name__}); save network.state_dict(), nothing else"
        ) from error
    state = loaded
    if isinstance(loaded, dict):
        state = next((loaded[name] for name in HOLDERS if isinstance(loaded.get(name), dict)), loaded)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{path}: holds no state dict; save network.state_dict(), or that under the key state_dict")
    return state
