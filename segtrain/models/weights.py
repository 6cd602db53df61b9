"""Weights from a local file, all checked before any of them is used."""

import logging
import mmap
import os
import pickletools
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors.torch import load_file
from torch import Tensor

from segtrain.config import WeightsInput
from segtrain.config.paths import SAFETENSORS, TORCH_FILES
from segtrain.errors import ConfigError
from segtrain.models.base import Network
from segtrain.text_file import open_file

log = logging.getLogger(__name__)

SAME_SETTINGS = "set model.*, data.contrasts, data.regions and data.neighbours as they were when the file was made"
HOLDERS = ("state_dict", "model_state_dict", "model", "network_weights")  # keys of training programs for the weights
# Prefixes that DDP, torch.compile and `Adapted` put before every name.
WRAPPERS = ("module.", "_orig_mod.", "network.")
LONGEST_NAME = 16_384  # letters of a text in a pickle: of a tensor's name, or of what a program put beside
PICKLES = 5  # of a file by torch before 1.6: two numbers, the machine, the state dict, the storages' keys
# NumPy's numbers, which nnU-Net's files have beside the weights, under the names of NumPy 2 and 1.
NUMBERS: list[Any] = [
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]
COUNT = "num_batches_tracked"  # of batch norm; torchvision's older files do not have it


def load_weights(network: Network, path: Path, weights_input: WeightsInput | None = None, whole: bool = False) -> None:
    """Give `network` the weights in `path`, whose names may have a wrapper's prefix. Runs no code from the file.

    A file may hold the part `network.pretrained` alone, unless `whole`; the rest then stays as it is. `weights_input`:
    what becomes of a first convolution of another number of channels. Raises ConfigError: another kind of file,
    unreadable, or of another network (names the first tensor that differs); nothing is changed then.
    """
    theirs, ours = read_bare(path), without_wrappers(network.state_dict())
    part = f"{network.pretrained}." if network.pretrained else ""
    if part and not whole and not any(key in theirs for key in ours if not key.startswith(part)):
        weights = _encoder_weights(path, theirs, ours, part, weights_input)
    else:
        absent = network.taken_out
        weights = {key: each for key, each in theirs.items() if not any(fnmatchcase(key, one) for one in absent)}
        weights = _with_input(path, weights, ours, weights_input)
        _check(path, weights, ours, "the network", may_adapt=not whole)
    with torch.no_grad():
        for key, tensor in weights.items():
            ours[key].copy_(tensor)
    untouched = sorted({key.split(".")[0] for key in ours if key not in weights and not key.endswith(COUNT)})
    rest = f"; as initialised stay: {', '.join(untouched)}" if untouched else ""
    log.info("%s: gives %d of the network's %d tensors%s", path, len(weights), len(ours), rest)


def read_bare(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, without prefixes of wrappers. Runs no code from the file. Raises ConfigError."""
    return without_wrappers(_read(path))


def _with_input(
    path: Path, theirs: dict[str, Tensor], ours: Mapping[str, Tensor], rule: WeightsInput | None
) -> dict[str, Tensor]:
    """The weights, those of convolutions of the image for as many channels as the network's have, where `rule` is set.

    mean: each channel gets the mean over the file's channels. repeat: the file's channels, over again. Both are scaled
    by the ratio of the numbers of channels, so that an image whose channels are all alike gives the same output.
    """
    others = {
        key: tensor
        for key, tensor in theirs.items()
        if key in ours and tensor.dim() == 4 and ours[key].dim() == 4 and _without_input(tensor, ours[key])
    }
    pairs = {(tensor.shape[1], ours[key].shape[1]) for key, tensor in others.items()}
    if rule is None or len(pairs) != 1:  # further layers differ: another network
        return theirs
    [(their_channels, our_channels)] = pairs
    log.info("%s: %s from %d to %d channels, by %s", path, ", ".join(others), their_channels, our_channels, rule)
    places = [place % their_channels for place in range(our_channels)]
    adapted = {
        key: (tensor.mean(1, keepdim=True).expand(ours[key].shape) if rule == "mean" else tensor[:, places])
        * (their_channels / our_channels)
        for key, tensor in others.items()
    }
    return theirs | adapted


def _without_input(one: Tensor, other: Tensor) -> bool:
    """Whether they have the same shape but for the number of channels of the input."""
    return one.shape[1] != other.shape[1] and (one.shape[0], *one.shape[2:]) == (other.shape[0], *other.shape[2:])


def _encoder_weights(
    path: Path, theirs: dict[str, Tensor], ours: dict[str, Tensor], part: str, weights_input: WeightsInput | None
) -> dict[str, Tensor]:
    """The file's weights of the encoder, under the network's names; the layers of a classifier are left out.

    Encoders that segmentation-models-pytorch takes from timm (`tu-`) lie one level deeper, under `model`.
    """
    own, theirs = _below(ours, part), _below(theirs, part) or theirs
    if all(key.startswith("model.") for key in own):
        part, own, theirs = f"{part}model.", _below(own, "model."), _below(theirs, "model.") or theirs
    layers = {key.split(".")[0] for key in own}
    weights = {key: tensor for key, tensor in theirs.items() if key.split(".")[0] in layers}
    weights = _with_input(path, weights, own, weights_input)
    _check(path, weights or theirs, own, "the encoder")
    if unused := sorted({key.split(".")[0] for key in theirs} - layers):
        log.info("%s: holds an encoder; not taken from it: %s", path, ", ".join(unused))
    return {part + key: tensor for key, tensor in weights.items()}


def _check(
    path: Path, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], whose: str, may_adapt: bool = True
) -> None:
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
            of_input = _without_input(theirs[key], ours[key]) if theirs[key].dim() == ours[key].dim() == 4 else False
            remedy = f"{SAME_SETTINGS}, or model.weights_input=mean" if of_input and may_adapt else SAME_SETTINGS
            raise ConfigError(f"{path}: {key} is {shapes}; {remedy}")


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the prefixes of wrappers that all its names have."""
    bare = dict(state)
    while prefix := next((prefix for prefix in WRAPPERS if len(_below(bare, prefix)) == len(bare) > 0), None):
        bare = _below(bare, prefix)
    return bare


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with the prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _read(path: Path) -> Mapping[str, Tensor]:
    is_of_torch = path.suffix != SAFETENSORS
    if is_of_torch and path.suffix not in TORCH_FILES:
        known = ", ".join(TORCH_FILES)
        raise ConfigError(f"{path}: weights are read from .safetensors, {known}; convert the file")
    try:
        with open_file(path) as file:
            loaded: Any = _of_torch(path, file) if is_of_torch else load_file(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the weights ({error.strerror or error}); name an existing file"
        ) from error
    except Exception as error:  # what is unpickled may raise anything; nothing but tensors is made of it
        raise ConfigError(
            f"{path}: not a file of weights ({type(error).__name__}); save network.state_dict() alone"
        ) from error
    state = loaded
    if isinstance(loaded, dict):
        state = next((loaded[name] for name in HOLDERS if isinstance(loaded.get(name), dict)), loaded)
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in state.items()):
        raise ConfigError(f"{path}: holds no state dict; save network.state_dict(), or that under the key state_dict")
    return state


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor whose values another one can take over."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and not value.is_meta


def _of_torch(path: Path, file: BinaryIO) -> Any:
    """What torch.save wrote, without running any of it. Raises anything.

    No more memory is used than the file has bytes: torch.save does not compress, and a string of an older file may say
    that it is longer than the file.
    """
    if not zipfile.is_zipfile(file):
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            like_a_file: Any = content
            for _ in range(PICKLES):
                _refuse_long_names(like_a_file)
            content.seek(0)
            with torch.serialization.safe_globals(NUMBERS):
                return torch.load(like_a_file, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > file.seek(0, os.SEEK_END):
            raise ValueError("compressed")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                with archive.open(entry) as content_of_entry:
                    _refuse_long_names(content_of_entry)
    with torch.serialization.safe_globals(NUMBERS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_long_names(file: IO[bytes]) -> None:
    """Raise ValueError where the next pickle has a text that no name is as long as.

    torch searches its message about an unknown name in a time that grows with the square of the name's length.
    """
    for _, value, _ in pickletools.genops(file):
        if isinstance(value, str | bytes) and len(value) > LONGEST_NAME:
            raise ValueError(f"a name of {len(value)} letters")
