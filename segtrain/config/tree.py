"""Nested mappings by dotted keys, and the nearest right name to a wrong one. Imports no torch."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; of dotted keys, first one with the same last part."""
    names = list(known)
    last = str(name).rsplit(".", 1)[-1]
    same_last = [key for key in names if key.rsplit(".", 1)[-1] == last]
    return next(iter(same_last or difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.4)), None)
