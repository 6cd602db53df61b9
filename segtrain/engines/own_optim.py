"""Optimisers of the user's own: a class over parameters or a factory over the network, made as its signature says."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from segtrain.config import OptimConfig, Reference, options_of
from segtrain.config.importing import explained, load
from segtrain.config.signature import NO_DEFAULT, Parameter, Signature
from segtrain.errors import ConfigError

PARAMETERS = ("params", "parameters", "param_groups", "groups", "parameter_groups")
NETWORK = ("network", "model", "net", "module")
WRAPPED = ("optimizer", "base_optimizer", "inner_optimizer", "opt")
RESERVED = ("lr", "weight_decay")  # that have a key of their own
VARIED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
DEFAULTS = OptimConfig()


class OwnOptimizer:
    """The class or factory that `optim.name` refers to, and its arguments.

    Of `optim`'s keys it gets `lr`, and `weight_decay` and `momentum` where they are set, by names in its signature.
    """

    def __init__(self, reference: Reference, cfg: OptimConfig) -> None:
        """Raises ConfigError: a key or option that it does not take, a kind that training cannot step."""
        self.reference, self.cfg = reference, cfg
        self.function = load(reference)
        if isinstance(self.function, type):
            _refuse_kind(reference, self.function)
        self.signature = _signature(reference, self.function)
        self.takes_network = _takes_network(reference, self.function, self.signature)
        self.settings = _settings(reference, self.signature, cfg, options_of(cfg.name), self.takes_network)

    def make(self, network: nn.Module) -> Optimizer:
        """The optimiser over all trained parameters of the network.

        A factory over the network decides on groups and rates; otherwise vectors are not decayed unless
        `optim.decay_all`. Raises ConfigError.
        """
        subject: Any = network if self.takes_network else _groups(network, self.signature, self.cfg)
        remedy = "change its options, or write a factory f(network, lr) that makes it"
        with explained(self.reference, "cannot be made", remedy):
            optimizer: Optimizer = self.function(subject, **self.settings)
        _refuse_kind(self.reference, type(optimizer))
        _refuse_parts(self.reference, optimizer, network, self.cfg)
        return optimizer


def problem_of(kind: type) -> str | None:
    """Why training cannot step an optimiser of this class; None: it may be able to."""
    if hasattr(kind, "first_step"):
        return (
            "takes two gradients a step (first_step), and training computes one; use the optimiser that it is made of"
        )
    if hasattr(kind, "update_hessian"):
        return "needs update_hessian() after an extra backward pass, or it only steps by signs; use one without it"
    if callable(getattr(kind, "train", None)) and callable(getattr(kind, "eval", None)):
        return "swaps weights in train() and eval() of its own; use optim.name=schedulefree, or optim.ema"
    if not issubclass(kind, Optimizer):
        return "is no torch.optim.Optimizer; derive it from that"
    for name, parameter in list(inspect.signature(kind.step).parameters.items())[1:]:
        if parameter.default is parameter.empty and parameter.kind not in VARIED:
            return f"needs {name} at each step, and training calls step() with nothing; use one without it"
    return None


def _refuse_kind(reference: Reference, kind: type) -> None:
    if problem := problem_of(kind):
        raise ConfigError(f"optim.name={reference}: {problem}")


def _signature(reference: Reference, function: Any) -> Signature:
    """What it takes, read from the object, since an imported class is not in the file that names it."""
    if not callable(function):
        raise ConfigError(f"optim.name={reference}: is a {type(function).__name__}; name a class or a function")
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind not in VARIED]
    return Signature(
        tuple(Parameter(p.name, NO_DEFAULT if p.default is p.empty else p.default) for p in named),
        is_class=isinstance(function, type),
        takes_any=any(p.kind == p.VAR_KEYWORD for p in parameters),
    )


def _takes_network(reference: Reference, function: Any, signature: Signature) -> bool:
    """Whether it makes its groups of the network itself."""
    first = signature.names()[0] if signature.parameters else None
    if first in NETWORK:
        return True
    if first in WRAPPED:
        raise ConfigError(
            f"optim.name={reference}: is made around another optimiser ({first}); write a factory f(network, lr) that "
            "makes both"
        )
    if first in PARAMETERS or isinstance(function, type):
        return False
    raise ConfigError(
        f"optim.name={reference}: its first parameter is {first}; name it params to get groups of parameters, or "
        "network to get the network"
    )


def _settings(
    reference: Reference, signature: Signature, cfg: OptimConfig, options: Mapping[str, Any], is_factory: bool
) -> dict[str, Any]:
    """The keyword arguments. Raises ConfigError."""
    known = {parameter.name: parameter for parameter in signature.parameters[1:]}
    for name in RESERVED:
        if name in options:
            raise ConfigError(f"optim.name.{name}={options[name]!r}: leave it out and set optim.{name}")
    try:
        signature.check(reference.short, options)
    except ValueError as error:
        raise ConfigError(f"optim.name: {error}; change optim.name") from error
    settings = {key: _as_default(value, known.get(key)) for key, value in options.items()}
    settings |= _from_config(reference, known, cfg, settings)
    if cfg.decay_all and (is_factory or "weight_decay" not in known):
        raise ConfigError(f"optim.decay_all=true: {reference.short} decides what it decays; leave optim.decay_all out")
    for name, parameter in known.items():
        if parameter.default is NO_DEFAULT and name not in settings:
            key = f"optim.{name}" if hasattr(cfg, name) else f"optim.name.{name}"
            raise ConfigError(f"optim.name={reference}: needs {name}; set {key}")
    return settings


def _from_config(
    reference: Reference, known: Mapping[str, Parameter], cfg: OptimConfig, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Of `optim`'s keys those that it takes. Raises ConfigError for one that is set and that it does not take."""
    settings = {}
    for name in ("lr", "weight_decay", "momentum"):
        value, default = getattr(cfg, name), getattr(DEFAULTS, name)
        if name in known and name not in options and (name == "lr" or value != default):
            settings[name] = value
        elif value != default:
            clash = "has it as an option too" if name in options else "does not take it"
            raise ConfigError(f"optim.{name}={value!r}: {reference.short} {clash}; leave optim.{name} out")
    if "lr" in known and known["lr"].default == 1.0 and cfg.lr == DEFAULTS.lr:
        raise ConfigError(
            f"optim.lr={cfg.lr}: {reference.short} is made for a rate of 1.0, and this is segtrain's default; set "
            "optim.lr=1.0 (or another value than the default)"
        )
    return settings


def _as_default(value: Any, parameter: Parameter | None) -> Any:
    """A list as YAML has it, as a tuple where the signature has one."""
    is_tuple = parameter is not None and isinstance(parameter.default, tuple)
    return tuple(value) if is_tuple and isinstance(value, list) else value


def _groups(network: nn.Module, signature: Signature, cfg: OptimConfig) -> list[Any]:
    """Groups of matrices and vectors, or a plain list where it knows no weight decay."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if "weight_decay" not in signature.names():
        return trained
    decayed: dict[str, Any] = {"params": [p for p in trained if p.dim() > 1 or cfg.decay_all]}
    vectors = {"params": [p for p in trained if not (p.dim() > 1 or cfg.decay_all)], "weight_decay": 0.0}
    return [group for group in (decayed, vectors) if group["params"]]


def _refuse_parts(reference: Reference, optimizer: Optimizer, network: nn.Module, cfg: OptimConfig) -> None:
    """Raise ConfigError where the object is half made, leaves parameters out, or has no rate that is asked for."""
    if "_optimizer_step_pre_hooks" not in vars(optimizer):
        raise ConfigError(f"optim.name={reference}: its __init__ does not call super().__init__(params, defaults)")
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    ours = {id(parameter): name for name, parameter in network.named_parameters()}
    if any(id(parameter) not in ours for parameter in grouped):
        raise ConfigError(f"optim.name={reference}: has parameters that are not the network's; give it those alone")
    there = {id(parameter) for parameter in grouped}
    left_out = [name for name, p in network.named_parameters() if p.requires_grad and id(p) not in there]
    if left_out:
        raise ConfigError(
            f"optim.name={reference}: leaves out {len(left_out)} parameters, the first {left_out[0]}; give it all of "
            "them, or have the network set requires_grad=False"
        )
    is_scheduled = cfg.schedule != DEFAULTS.schedule or cfg.warmup_steps > 0
    if is_scheduled and not any("lr" in group for group in optimizer.param_groups):
        raise ConfigError(
            f"optim.schedule: the groups of {reference.short} have no lr that could follow it; use "
            "optim.schedule=constant and no optim.warmup_steps"
        )
