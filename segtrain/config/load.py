"""Configurations from files: YAML <- `key=value` overrides, checked before anything else runs, and compared.

Imports no torch.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from segtrain.config.rules import problems
from segtrain.config.schema import MAY_DIFFER, Config, LossName
from segtrain.errors import ConfigError


def builtin_config(name: str) -> Path:
    """The path of a YAML that comes with the project: in a checkout `configs/`, in a wheel `segtrain/configs/`."""
    here = Path(__file__).resolve().parent.parent
    folders = (here / "configs", here.parent / "configs")
    return next((f / name for f in folders if (f / name).is_file()), folders[-1] / name)


def load_config(
    path: Path | None, overrides: Sequence[str] = (), tree: dict[str, Any] | None = None, where: str | None = None,
    stored: bool = False,
) -> Config:  # fmt: skip
    """The resolved config of `path` (default: the phantom run), or of `tree`, with `key=value` overrides applied.

    `stored`: of a run, which was trained so whatever is refused by now.
    Raises ConfigError: file missing or not YAML, unknown key (with the nearest right one), bad value or combination.
    """
    path = path or builtin_config("phantom.yaml")
    tree = read_yaml(path) if tree is None else tree
    for override in overrides if isinstance(tree, dict) else ():
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r}: not an override; write key=value, for example optim.lr=1e-3")
        _set(tree, key, _parse(override, value))
    return from_tree(tree, where=where or str(path), stored=stored)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; an empty one, an empty mapping. Raises ConfigError: unreadable, not YAML, a key twice."""
    try:
        return yaml.load(path.read_text(), _UniqueKeys) or {}
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the config ({error.strerror}); name an existing file with --config"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())}); see configs/ for examples") from error


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML lets the last of equal keys win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if doubled := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{doubled[0]} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def merge(tree: dict[str, Any], changes: Mapping[str, Any], where: str) -> None:
    """Put values, by their dotted keys, into nested mappings. Raises ConfigError, naming `where`."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and key != "loss":
            merge(tree, {f"{key}.{part}": below for part, below in value.items()}, where)
            continue
        try:
            _set(tree, str(key), value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def from_tree(tree: Mapping[str, Any], where: str, stored: bool = False) -> Config:
    """A checked Config from nested mappings; `where` names their origin in errors.

    `stored`: of a run; its combination of values was accepted when it was trained.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where}: a config is a mapping of keys, this is a {type(tree).__name__}; see configs/")
    known = _known_keys()
    for key, _ in flatten(tree):
        if key not in known and not key.startswith("deepspeed.extra."):
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            last = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
            hint = f"; did you mean {(last or near)[0]}?" if last or near else "; --help lists the keys"
            raise ConfigError(f"{where}: unknown key {key}{hint}")
    try:
        config = TypeAdapter(Config).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
        value = first["input"]
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {key}={value!r}: {message}; change {key}") from error
    if not stored:
        _check(config, where)
    return config


def _known_keys() -> set[str]:
    leaves = {key for key, _ in flatten(asdict(Config()))}
    leaves |= {f"loss.{name}{part}" for name in get_args(LossName) for part in ("", ".start", ".end")}
    return leaves | {leaf.rsplit(".", up)[0] for leaf in leaves for up in range(1, leaf.count(".") + 1)}


def _check(cfg: Config, where: str) -> None:
    """Raise ConfigError for values that do not fit together."""
    for message in problems(cfg):
        raise ConfigError(f"{where}: {message}")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_yaml(cfg: Config) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal Config."""
    return yaml.safe_dump(asdict(cfg), sort_keys=False)


def first_difference(ours: Config, theirs: Config) -> tuple[str, Any, Any] | None:
    """(key, our value, their value) of the first difference that makes two configs different runs, or None."""
    one, other = dict(flatten(asdict(ours))), dict(flatten(asdict(theirs)))
    for key in [*one, *other]:
        if key not in MAY_DIFFER and not key.startswith("deepspeed.") and one.get(key) != other.get(key):
            return key, one.get(key), other.get(key)
    return None


def _parse(override: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML; quote it, for example name='a b'") from error


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    if parents[:1] == ["loss"] and not isinstance(tree.get("loss"), dict):
        _refuse_a_part_of_the_loss(dotted, value, tree.get("loss", Config().loss))
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted}={value!r}: {parent} is a value, not a section; see --help")
    tree[leaf] = value


def _refuse_a_part_of_the_loss(dotted: str, value: Any, loss: Any) -> None:
    """A weight beside a name: it would take the name's place."""
    _, name, *end = dotted.split(".")
    weight = f"{{{end[0]}: {value}, ...}}" if end else value
    both = f"{{{name}: {weight}}}" if name == loss else f"{{{loss}: 1.0, {name}: {weight}}}"
    raise ConfigError(f"{dotted}={value!r}: loss is {loss!r}, which has no weights; write loss={both}")
