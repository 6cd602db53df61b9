"""Labels by the names that an nnU-Net data set's dataset.json gives them. Imports no torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segtrain.config.json_text import json_in
from segtrain.config.paths import expanded
from segtrain.config.tree import nearest
from segtrain.errors import ConfigError

DATASET_JSON = "dataset.json"
BACKGROUND, IGNORE = "background", "ignore"
IN_FILES = ("auto", "nnunet")  # sources whose folder may have such a file


def labels_of(about: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The labels of each name in dataset.json; version 1 and MSD have them turned round. Raises ValueError."""
    labels = about.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError("has no labels")
    is_turned = all(str(key).isdigit() for key in labels) and any(isinstance(name, str) for name in labels.values())
    named = {str(name): number for number, name in labels.items()} if is_turned else labels
    return {str(name): _numbers(name, value) for name, value in named.items()}


def _numbers(name: Any, value: Any) -> tuple[int, ...]:
    labels = value if isinstance(value, list | tuple) else [value]
    if not all(re.fullmatch(r"\d{1,9}", str(label)) for label in labels):
        raise ValueError(f"names {name} as {value!r}, which is neither a label nor a list of labels")
    return tuple(map(int, labels))


def with_label_numbers(tree: Any) -> Any:
    """The config's tree with numbers in place of label names in data.regions and data.ignore.

    Raises ConfigError for a name that dataset.json does not have.
    """
    data = tree.get("data") if isinstance(tree, Mapping) else None
    if not isinstance(data, Mapping) or data.get("source") not in IN_FILES or not data.get("root"):
        return tree
    regions, ignore = data.get("regions"), data.get("ignore")
    lists = [*regions.values(), ignore] if isinstance(regions, Mapping) else [ignore]
    if not any(isinstance(label, str) for labels in lists if isinstance(labels, list) for label in labels):
        return tree
    names = _names_below(expanded(str(data["root"])))
    changed = {**data}
    if isinstance(regions, Mapping):
        changed["regions"] = {
            name: _replaced(f"data.regions.{name}", labels, names) for name, labels in regions.items()
        }
    if ignore:
        changed["ignore"] = _replaced("data.ignore", ignore, names)
    return {**tree, "data": changed}


def _names_below(root: Path) -> dict[str, tuple[int, ...]]:
    path = root / DATASET_JSON
    try:
        return labels_of(json_in(path))
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: labels have no names to look up ({reason}); use numbers in the config") from error


def _replaced(key: str, labels: Any, names: Mapping[str, tuple[int, ...]]) -> Any:
    if not isinstance(labels, list):
        return labels
    numbers: list[Any] = []
    for label in labels:
        if isinstance(label, str) and label not in names:
            near = nearest(label, list(names))
            hint = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"{key}: no label is named {label}{hint} ({DATASET_JSON} has {', '.join(names)})")
        numbers += names[label] if isinstance(label, str) else [label]
    return list(dict.fromkeys(numbers))
