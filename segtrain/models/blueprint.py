"""A network of the user's own as it is built: its class or factory, with arguments found by their names.

Public networks agree in names, not in order: the channels may come first, last or swapped.
"""

import contextlib
import copy
import inspect
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segtrain.config import ModelConfig, Reference, name_of, options_of
from segtrain.config.importing import quiet
from segtrain.errors import ConfigError, gist
from segtrain.models.base import supervision_ratio

log = logging.getLogger(__name__)

INPUTS = ("in_channels", "input_channels", "in_ch", "in_chans", "img_ch", "channel", "channels", "n_channels")
# Where a network has names of both lines, `out_channels` is the width of its decoder.
CLASSES = ("num_classes", "n_classes", "n_class", "classes", "out_classes")
OUTPUTS = ("out_channels", "output_ch", "out_ch")
SIZES = ("img_size", "image_size", "input_size")
PRETRAINED = ("weights", "encoder_weights", "weights_backbone", "pretrained", "pretrained_backbone")
SUPERVISION = ("deep_supervision", "deepsupervision", "deep_supr")
EMPTY = inspect.Parameter.empty
Parameters = Mapping[str, inspect.Parameter]


class NeedsCuda(ConfigError):
    """Code that runs on a CUDA device alone."""


@dataclass(frozen=True)
class Shape:
    """What a network is made for: channels and side of its images, regions of their masks."""

    in_channels: int
    size_px: int
    regions: int = 1


@dataclass(frozen=True)
class Blueprint:
    """A class or factory and the arguments that it is given."""

    reference: Reference
    make: Callable[..., Any]
    arguments: Mapping[str, Any]
    swallowed: tuple[str, ...]  # options that only **kwargs takes

    def __str__(self) -> str:
        given = ", ".join(f"{name}={_short(value)}" for name, value in self.arguments.items())
        return f"{self.reference.short}({given})"

    def build(self, seed: int) -> nn.Module:
        """The network, with weights from `seed` alone. Raises ConfigError with what its code raises."""
        # Deep copies: some constructors change the lists that they are given.
        arguments = copy.deepcopy(dict(self.arguments))
        with seeded(seed), explained(str(self), "cannot be built"):
            network = self.make(**arguments)
        if not isinstance(network, nn.Module):
            raise ConfigError(
                f"model.name={self.reference.short}: gives a {type(network).__name__} and not an nn.Module; name the "
                "network's class, or a function that returns the network"
            )
        return network

    def without(self, option: str) -> "Blueprint":
        """The same without an option."""
        arguments = {name: value for name, value in self.arguments.items() if name != option}
        return Blueprint(self.reference, self.make, arguments, ())


def blueprint(cfg: ModelConfig, shape: Shape) -> Blueprint:
    """What builds the user's network for such images. Runs the user's module.

    Raises ConfigError: an object that is no class or function, an argument that nothing gives.
    """
    reference, options = Reference.of(name_of(cfg.name)), options_of(cfg.name)
    make = cfg.part.load()
    if isinstance(make, nn.Module):
        raise ConfigError(
            f"model.name={reference.short}: this network was made when its file was imported, so its weights do not "
            "come from the run's seed; name its class, or a function that makes it"
        )
    if not callable(make):
        raise ConfigError(
            f"model.name={reference.short}: is a {type(make).__name__}; name a network's class, or a function that "
            "returns one"
        )
    parameters = parameters_of(make)
    arguments = _from_config(parameters, shape, supervision_ratio(cfg) > 0) | options
    missing = [p.name for p in parameters.values() if p.default is EMPTY and p.name not in arguments]
    if missing:
        raise ConfigError(
            f"model.name={reference.short}: needs {', '.join(missing)}; give it as an option, "
            f"model.name={{part: {reference}, {missing[0]}: ...}}, or write a function beside the network that makes it"
        )
    known = {**dict.fromkeys(parameters), **dict.fromkeys(arguments)}
    ordered = {name: arguments[name] for name in known if name in arguments}
    return Blueprint(reference, make, ordered, tuple(name for name in options if name not in parameters))


def parameters_of(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The named parameters; where a constructor has **kwargs, those of the class that it inherits from too."""
    makers: list[Any] = [make]
    if inspect.isclass(make):
        own = make.__mro__[: make.__mro__.index(nn.Module)] if issubclass(make, nn.Module) else [make]
        makers = [vars(kind)["__init__"] for kind in own if "__init__" in vars(kind)]
    parameters: dict[str, inspect.Parameter] = {}
    for maker in makers:
        declared = list(inspect.signature(maker).parameters.values())[1 if inspect.isclass(make) else 0 :]
        for parameter in declared:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                parameters.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in declared):
            break
    return parameters


def _from_config(parameters: Parameters, shape: Shape, supervised: bool) -> dict[str, Any]:
    """Arguments that follow from the config, by the parameters' names."""
    arguments: dict[str, Any] = dict.fromkeys(_inputs(parameters), shape.in_channels)
    classes = [name for name in CLASSES if name in parameters] or [name for name in OUTPUTS if name in parameters]
    arguments |= dict.fromkeys(classes, shape.regions)
    if "spatial_dims" in parameters:
        arguments["spatial_dims"] = 2
    if "dim" in parameters and isinstance(parameters["dim"].default, str):  # an int is the width of tokens
        arguments["dim"] = "2d"
    for name in SIZES:
        if name in parameters:
            arguments[name] = (shape.size_px, shape.size_px) if _is_pair(parameters[name]) else shape.size_px
    for name in PRETRAINED:
        default = parameters[name].default if name in parameters else None
        if default not in (None, False):  # nothing is downloaded unless the user's options say so
            arguments[name] = False if default is True else None
    if supervised:
        arguments |= {name: True for name in SUPERVISION if name in parameters}
    return arguments


def _inputs(parameters: Parameters) -> list[str]:
    names = [name for name in INPUTS if name in parameters]
    if "channels" in names and not isinstance(parameters["channels"].default, int):
        names.remove("channels")  # widths, in MONAI's networks
    if len(names) > 1 and "n_channels" in names:
        names.remove("n_channels")  # the width, beside in_channels
    return names


def _is_pair(parameter: inspect.Parameter) -> bool:
    annotation = str(parameter.annotation).lower() if parameter.annotation is not EMPTY else ""
    return isinstance(parameter.default, tuple | list) or any(
        word in annotation for word in ("tuple", "list", "sequence")
    )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context in which the global generators begin at `seed`; after it they are as before."""
    kept = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])


@contextlib.contextmanager
def explained(whose: str, doing: str) -> Iterator[None]:
    """A context for running the user's code: its output goes nowhere, its failures to one line."""
    try:
        with quiet():
            yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises is the user's to mend
        text = gist(error) or "no message"
        message = f"model.name={whose}: {doing} ({type(error).__name__}: {text}){_place(error)}"
        if "cuda" in text.lower() or "nvidia" in text.lower():
            raise NeedsCuda(
                f"{message}; it needs a CUDA device here: take .cuda() out of its code (segtrain moves it to its "
                "device), or train it where there is a GPU"
            ) from error
        raise ConfigError(f"{message}; {_remedy(text)}") from error


def _remedy(text: str) -> str:
    if any(word in text.lower() for word in ("url", "download", "connection", "resolve", "huggingface")):
        return "it asks the network for something; switch that off by an option of its own, and use model.weights=FILE"
    return "correct its code or its options"


def _place(error: BaseException) -> str:
    """The innermost line of the traceback that is neither ours nor torch's."""
    place = ""
    ours, torchs = Path(__file__).parent, Path(torch.__file__).parent
    traceback = error.__traceback__
    while traceback is not None:
        file = Path(traceback.tb_frame.f_code.co_filename)
        if not file.name.startswith("<") and not file.is_relative_to(ours) and not file.is_relative_to(torchs):
            place = f" in {file.name}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
