"""Configurations from files: YAML <- `key=value` overrides, checked before anything else runs.

Imports no torch.
"""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from segtrain.config.label_names import with_label_numbers
from segtrain.config.overrides import CHOICES, MAIN_KEYS, not_a_section, parse_override, set_key
from segtrain.config.own_parts import beside, with_code
from segtrain.config.paths import is_file
from segtrain.config.rules import problems
from segtrain.config.schema import Config
from segtrain.config.tree import flatten, nearest
from segtrain.config.unread import refuse_without_engine
from segtrain.config.views import with_trained_views
from segtrain.config.yaml_text import parse_yaml
from segtrain.errors import ConfigError
from segtrain.text_file import text_of

T = TypeVar("T")

COMMAND_LINE = "the command line"


def builtin_config(name: str) -> Path:
    """The path of a YAML that comes with the project: in a checkout `configs/`, in a wheel `segtrain/configs/`."""
    package = Path(__file__).resolve().parent.parent
    folders = (package / "configs", package.parent / "configs")
    return next((f / name for f in folders if (f / name).is_file()), folders[-1] / name)


def find_config(path: Path | str) -> Path:
    """The file itself, or the config of that name that comes with the project. Raises ConfigError: neither."""
    path = Path(path)
    if is_file(path) or path.suffix or len(path.parts) > 1:
        return path
    names = sorted(file.stem for file in builtin_config("phantom.yaml").parent.glob("*.yaml"))
    if path.name not in names:
        near = nearest(path.name, names)
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(
            f"{path}: neither a file nor the name of a packaged config{hint}; there are {', '.join(names)}"
        )
    return builtin_config(f"{path.name}.yaml")


def config_beside(folder: Path, name: str) -> Path:
    """The config of that name or path in a folder, or the one of that name that comes with the project.

    Raises ConfigError: neither.
    """
    path = folder / name
    return path if is_file(path) or Path(name).suffix or len(Path(name).parts) > 1 else find_config(name)


def load_config(
    path: Path | str | None,
    overrides: Sequence[str] = (),
    tree: dict[str, Any] | None = None,
    where: str | None = None,
    stored: bool = False,
    overrides_from: str = COMMAND_LINE,
    parts_beside: Path | None = None,
) -> Config:
    """The resolved config of `path` (default: the phantom run), or of `tree`, with `key=value` overrides applied.

    `path` may be the name of a packaged config. `stored`: the config of a run, whose combination of values was accepted
    when it was trained. Raises ConfigError: file missing or not YAML, unknown key (with the nearest right one), bad
    value or combination. It names the origin: `overrides_from` for a key that an override sets, or where no file was
    named; else `where`, by default the file. Parts of the user's own are looked for in the working directory, then in
    the folder `parts_beside`, then beside the file.
    """
    if path is None and overrides:
        where = where or overrides_from
    path = builtin_config("phantom.yaml") if path is None else find_config(path)
    tree = read_yaml(path) if tree is None else tree
    for override in overrides if isinstance(tree, dict) else ():
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r}: not an override; write key=value, for example optim.lr=1e-3")
        set_key(tree, key, parse_override(override, value))
    try:
        return _config(tree, stored, [*filter(None, [parts_beside]), path.parent])
    except ConfigError as error:
        keys = [override.partition("=")[0] for override in overrides]
        origin = overrides_from if _names_one(str(error), keys) else where or path
        raise ConfigError(f"{origin}: {error}") from error


def _names_one(message: str, keys: Sequence[str]) -> bool:
    """Whether an error's message is about one of the keys, one below it, or the part that it is an option of."""
    parts = [choice for choice in CHOICES for key in keys if key.startswith(f"{choice}.")]
    return any(re.search(rf"(?<![\w.-]){re.escape(key)}[.=;:]", message) for key in (*keys, *parts))


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; an empty one, an empty mapping. Raises ConfigError: unreadable, not YAML, a key twice."""
    try:
        return parse_yaml(text_of(path)) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config ({error.strerror}); name an existing file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())}); see configs/ for examples") from error


def from_tree(tree: Any, where: str, stored: bool = False) -> Config:
    """A checked Config from nested mappings; `where` names their origin in errors.

    `stored`: the config of a run, whose combination of values was accepted when it was trained. Raises ConfigError.
    """
    try:
        return _config(tree, stored)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _config(tree: Any, stored: bool, folders: Sequence[Path] = ()) -> Config:
    """A checked Config from nested mappings. Raises ConfigError, which does not name their origin.

    `folders`: where parts of the user's own are looked for, besides the working directory.
    """
    leaves = [key for key, _ in flatten(asdict(Config()))]
    for section in MAIN_KEYS if isinstance(tree, Mapping) else ():
        if section in tree and not isinstance(tree[section], Mapping):
            raise ConfigError(f"{section}={tree[section]!r}: {not_a_section(section, tree[section])}")
    tree = with_label_numbers(tree)
    cfg = _checked(Config, tree, [*leaves, *MAIN_KEYS, "data.phantom"], help_text="--help lists the keys")
    cfg = with_trained_views(cfg)
    if stored:
        return cfg
    for problem in problems(cfg):
        raise ConfigError(problem)
    if "engine" not in tree:
        refuse_without_engine(cfg)
    return with_code(beside(cfg, folders))


def checked(
    kind: type[T],
    tree: Any,
    where: str,
    known: Collection[str] | None = None,
    help_text: str = "see configs/ for examples",
) -> T:
    """A mapping as the pydantic dataclass `kind`, with every value checked.

    Raises ConfigError, which names `where`, the key, the value and the remedy: not a mapping, an unknown key (with the
    nearest of `known`, by default the names of the fields), a bad value. `help_text` is the remedy where there is none.
    """
    names = [field.name for field in fields(kind)] if known is None else known  # type: ignore[arg-type]
    try:
        return _checked(kind, tree, names, help_text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _checked(kind: type[T], tree: Any, known: Collection[str], help_text: str) -> T:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"a mapping of keys belongs there, this is a {type(tree).__name__}; {help_text}")
    try:
        result = TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        errors = error.errors()
    else:
        _refuse_switches(tree, result)
        return result
    # Of several errors first the unknown keys: a misspelt key may be why another is missing. A value that may be of two
    # types has an error for each, and that of the other type says nothing.
    ranked = [one for one in errors if one["type"] == "unexpected_keyword_argument"]
    ranked += [one for one in errors if not one["type"].endswith("_type")]
    first = [*ranked, *errors][0]
    # A location holds the names of validators and of types as well.
    key = ".".join(str(part) for part in first["loc"] if not re.match(r"function|constrained-|bool$|dict\[", str(part)))
    if first["type"] == "unexpected_keyword_argument":
        near = nearest(key, known)
        if near == "loss" and "weight" in key:
            near = shlex.quote("loss={dice: 1.0, bce: 0.5}")
        raise ConfigError(f"unknown key {key}; " + (f"did you mean {near}?" if near else help_text))
    if first["type"] == "missing":
        raise ConfigError(f"{key} is missing; {help_text}")
    message = first["msg"].removeprefix("Value error, ")
    raise ConfigError(f"{key}={first['input']!r}: {message}; change {key}")


def _refuse_switches(tree: Mapping[str, Any], result: Any, above: str = "") -> None:
    """Raise ConfigError for a number that was written as true or false, of which pydantic makes 1 or 0."""
    for name, value in tree.items():
        key = f"{above}{name}"
        taken = result.get(name) if isinstance(result, Mapping) else getattr(result, str(name), None)
        if isinstance(value, bool) and isinstance(taken, int | float) and not isinstance(taken, bool):
            raise ConfigError(f"{key}={value}: a number belongs there, this is a switch (yes and on are true, too)")
        if isinstance(value, Mapping):
            _refuse_switches(value, taken, f"{key}.")


def to_yaml(cfg: Config) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal Config."""
    return yaml.safe_dump(asdict(cfg), sort_keys=False)
