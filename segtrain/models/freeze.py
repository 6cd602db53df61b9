"""Parts of a network by name, for fine-tuning: those that do not train, those that train at another rate."""

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from types import MethodType

from torch import nn

from segtrain.errors import ConfigError

WRAPPER = "network."  # that some networks put before every name; a checkpoint has it, too
MOST_NAMES = 20  # in a message


def freeze(network: nn.Module, patterns: Iterable[str]) -> None:
    """Have the parts that the patterns of `model.freeze` name stay as they are.

    Their parameters get no gradients, so neither moments nor weight decay, and ranks do not exchange any. Their modules
    stay in evaluation mode: batch norm normalises by its running statistics and keeps them, dropout drops nothing.
    Raises ConfigError: a pattern that matches nothing, or nothing left to train.
    """
    patterns = tuple(patterns)
    if not patterns:
        return
    for pattern in patterns:
        names = parameters_of(network, pattern, f"model.freeze={pattern}")
        for name, parameter in network.named_parameters(remove_duplicate=False):
            if name in names:
                parameter.requires_grad_(False)
        for name, module in network.named_modules(remove_duplicate=False):
            if name and _is_named(name, pattern):
                _keep_in_evaluation(module)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(
            f"model.freeze={','.join(patterns)}: freezes the whole network, and nothing is left to train; leave a part "
            f"out: {_parts(network)}"
        )


def is_frozen(module: nn.Module) -> bool:
    """Whether `freeze` keeps the module as it is."""
    return "train" in vars(module)


def _keep_in_evaluation(part: nn.Module) -> None:
    """Have `train()` of the module, and of those in it, leave it in evaluation mode."""
    for module in part.modules():
        module.eval()
        vars(module)["train"] = MethodType(_stay_in_evaluation, module)  # which a copy of the module has as well


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def described_freeze(network: nn.Module, patterns: Collection[str]) -> str:
    """For example `4,705,632 of 7,763,041 weights stay as they are (encoder*, bottleneck)`."""
    weights = [(p.numel(), p.requires_grad) for p in network.parameters()]
    frozen = sum(count for count, trained in weights if not trained)
    return f"{frozen:,} of {sum(count for count, _ in weights):,} weights stay as they are ({', '.join(patterns)})"


def rates_of(network: nn.Module, ratios: Mapping[str, float]) -> dict[str, float]:
    """The ratio to `optim.lr` of each trained parameter that a pattern of `optim.lr_ratios` names.

    Raises ConfigError: a pattern that matches nothing, or nothing that trains; a parameter that two patterns name.
    """
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    of_parameter: dict[str, tuple[str, float]] = {}
    for pattern, ratio in ratios.items():
        key = f"optim.lr_ratios={{{pattern}: {ratio:g}}}"
        names = parameters_of(network, pattern, key) & trained
        if not names:
            raise ConfigError(f"{key}: what it names is frozen by model.freeze; leave it out of one of the two")
        for name in names:
            if name in of_parameter:
                raise ConfigError(f"{key}: {name} is named by {of_parameter[name][0]} too; let one pattern name it")
            of_parameter[name] = pattern, ratio
    return {name: ratio for name, (_, ratio) in of_parameter.items()}


def parameters_of(network: nn.Module, pattern: str, key: str) -> set[str]:
    """The names of the parameters that a pattern names, or whose part of the network it names. Raises ConfigError."""
    names = {
        name
        for name, _ in network.named_parameters(remove_duplicate=False)
        if any(_is_named(part, pattern) for part in _with_parents(name))
    }
    if not names:
        raise ConfigError(f"{key}: no part of the network has this name; its parts are {_parts(network)}")
    return names


def _with_parents(name: str) -> list[str]:
    """For example encoder1.conv.weight, encoder1.conv and encoder1."""
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]


def _is_named(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.removeprefix(WRAPPER), pattern)


def _parts(network: nn.Module) -> str:
    names = list(dict.fromkeys(name.removeprefix(WRAPPER).split(".")[0] for name, _ in network.named_parameters()))
    return ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
