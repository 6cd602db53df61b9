"""Changes to the nested mappings of a config: `key=value` overrides, the keys of a spec. Imports no torch."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from segtrain.config.choice import PART, Choice, option_names
from segtrain.config.parts import LOSSES
from segtrain.config.schema import Config
from segtrain.config.tree import nearest
from segtrain.config.yaml_text import NO_LETTER, parse_yaml
from segtrain.errors import ConfigError

WHOLE = ("loss", "data.regions", "optim.lr_ratios")  # mappings that are values: another takes their place
YAML_INDICATORS = "'\"|>&!*"  # what a text that is not plain begins with
# Keys that choose a part.
CHOICES = ("loss", "model.name", "data.augment", "data.source", "optim.name", "optim.schedule")
# The keys of a section that a value in the section's place was probably meant for, the likeliest first.
MAIN_KEYS = {
    "data": ("source", "root"),
    "model": ("name",),
    "optim": ("name",),
    "train": ("epochs",),
    "evaluate": ("every_epochs",),
    "checkpoint": ("every_min",),
    "stop": ("deadline",),
    "watch": ("every_s",),
    "deepspeed": ("zero",),
}


def merge(tree: dict[str, Any], changes: Mapping[str, Any], where: str) -> None:
    """Put values, by their dotted keys, into nested mappings. Raises ConfigError, naming `where`."""
    for key, value in values_of(changes):
        try:
            set_key(tree, key, value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def values_of(changes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of each change. Mappings that are values, as a part with its options, stay whole."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and key not in WHOLE and PART not in value:
            yield from values_of({f"{key}.{part}": below for part, below in value.items()})
        else:
            yield str(key), value


def set_key(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Put a value under a dotted key; an option beside a part's name makes a mapping of both. Raises ConfigError."""
    *parents, leaf = _keys(dotted)
    if parents[:1] == ["loss"] and not isinstance(loss := tree.get("loss", Config().loss), dict):
        _refuse_weight_beside_name(dotted, value, loss)
    for place, parent in enumerate(parents, start=1):
        above, section = tree, ".".join(parents[:place])
        tree = above.setdefault(parent, _default_choice(section) if section in CHOICES else {})
        if not isinstance(tree, dict):
            if section in CHOICES:
                tree = {PART: tree}
            elif parents[0] == "loss" and leaf not in ("start", "end"):
                tree = {"weight": tree}
            else:
                remedy = not_a_section(parent, tree) if parent in MAIN_KEYS else "see --help"
                raise ConfigError(f"{dotted}={value!r}: {parent} is a value, not a section; {remedy}")
            above[parent] = tree
    tree[leaf] = value


def _keys(dotted: str) -> list[str]:
    """The keys of a dotted key; a reference to a part of the user's own, which has dots, is one key."""
    if match := re.match(r"loss\.(.+\.py:\w+)(?:\.(.+))?$", dotted):
        return ["loss", *filter(None, match.groups())]
    return dotted.split(".")


def _default_choice(key: str) -> Choice:
    value: Any = Config()
    for name in key.split("."):
        value = getattr(value, name)
    choice: Choice = value
    return choice


def parse_override(override: str, value: str) -> Any:
    """A value as YAML reads it, but a plain text whole: paths may hold ` #`, or bytes that are not UTF-8.

    Raises ConfigError, naming the whole override.
    """
    try:
        parsed = parse_yaml(value)
    except yaml.reader.ReaderError:
        if odd := NO_LETTER.search(value):
            raise ConfigError(f"{override!r}: {odd[0]!a} is no letter; take it out") from None
        return value
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{override!r}: the value is not YAML ({problem}); quote it, for example name='a b'"
        ) from error
    is_plain = isinstance(parsed, str) and value.lstrip()[0] not in YAML_INDICATORS
    return value.strip() if is_plain else parsed


def not_a_section(section: str, value: Any) -> str:
    """The remedy for a value in the place of a section."""
    kind = type(getattr(Config(), section))
    keys = MAIN_KEYS[section]
    for key in keys:
        try:
            TypeAdapter(kind).validate_python({key: value})
        except ValidationError:
            continue
        return f"write {section}.{key}={'null' if value is None else value}"
    return f"{section} has keys of its own; write {section}.{keys[0]}={getattr(kind(), keys[0])}, or another of --help"


def _refuse_weight_beside_name(dotted: str, value: Any, loss: Any) -> None:
    """Raise ConfigError where `loss` is a name and the key is none of its options: a weight would replace it."""
    _, name, *end = _keys(dotted)
    if loss not in LOSSES or name in option_names(LOSSES[loss]):
        return
    if name not in LOSSES:
        near = nearest(name, LOSSES)
        hint = f" (did you mean {near!r}?)" if near else ""
        example = shlex.quote("loss={dice: 1.0, bce: 0.5}")
        raise ConfigError(f"{dotted}={value!r}: no loss is named {name!r}{hint}; weights are written {example}")
    weight = f"{{{end[0]}: {value}, ...}}" if end else value
    both = f"{{{name}: {weight}}}" if name == loss else f"{{{loss}: 1.0, {name}: {weight}}}"
    remedy = shlex.quote(f"loss={both}")
    raise ConfigError(f"{dotted}={value!r}: loss is {loss!r}, which has no weights; write {remedy}")
