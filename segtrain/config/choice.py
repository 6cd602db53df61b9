"""A part as a config chooses it: its name, or `{part: NAME, option: value}` with options of the part's own.

The options of a built-in part are the keyword-only parameters of its function. Imports no torch.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BeforeValidator

from segtrain.config.parts import Part
from segtrain.config.reference import Reference
from segtrain.config.signature import signature_of
from segtrain.config.tree import nearest

PART = "part"
_EXPONENT = re.compile(r"[+-]?\d+[eE][+-]?\d+")
Choice = str | dict[str, Any]


def name_of(choice: Choice) -> str:
    """The name of the part, or the reference to a part of the user's own."""
    return choice if isinstance(choice, str) else str(choice[PART])


def options_of(choice: Choice) -> dict[str, Any]:
    """The options that the config gives the part."""
    return {} if isinstance(choice, str) else {key: value for key, value in choice.items() if key != PART}


def with_name(choice: Choice, name: str) -> Choice:
    """The same choice, of another name."""
    return name if isinstance(choice, str) else {PART: name, **options_of(choice)}


def check_name(kind: str, name: Any, table: Mapping[str, object], more: str = "") -> None:
    """Raise ValueError unless `name` is that of a row or refers to a part of the user's own.

    `more`: what there is besides the rows.
    """
    if isinstance(name, str) and (name in table or Reference.parse(name)):
        return
    near = nearest(name, table)
    hint = f" (did you mean {near!r}?)" if near else ""
    raise ValueError(
        f"no {kind} is named {name!r}{hint}; there are {', '.join(table)}{more}, and your own as FILE.py:NAME"
    )


def check_choice(kind: str, choice: Any, table: Mapping[str, Part], more: str = "") -> Choice:
    """The choice in its shortest form. Raises ValueError: an unknown name, an option that the part does not have."""
    if not isinstance(choice, Mapping):
        check_name(kind, choice, table, more)
        return str(choice)
    if PART not in choice:
        raise ValueError(f"a name, or a mapping with the key {PART}, belongs here: {{{PART}: NAME, option: value}}")
    check_name(kind, choice[PART], table, more)
    tree = {str(key): number(value) for key, value in choice.items()}
    if row := table.get(tree[PART]):
        check_options(kind, tree[PART], row, options_of(tree))
    return tree if len(tree) > 1 else tree[PART]


def number(value: Any) -> Any:
    """An option's value: YAML takes 1e-5, without a point, for a text."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def check_options(kind: str, name: str, row: Part, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that a built-in part does not have, or of another type."""
    if options:
        signature_of(row.reference).check(f"{kind} {name}", options, keyword_only=True)


def option_names(row: Part) -> list[str]:
    """The options of a built-in part."""
    return [p.name for p in signature_of(row.reference).parameters if p.keyword_only]


def choice_of(kind: str, table: Mapping[str, Part]) -> BeforeValidator:
    """The validator of a key that chooses one part of `table`."""
    return BeforeValidator(lambda choice: check_choice(kind, choice, table))


def part_of(choice: Choice, table: Mapping[str, Part]) -> Part:
    """The row of a built-in part; for one of the user's own a row that refers to it."""
    name = name_of(choice)
    return table[name] if name in table else Part(name, "of the user's own")
