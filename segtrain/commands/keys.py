"""The keys of a config as lines of a command's help: value of the bare command, choices, meaning."""

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from segtrain.config import Config, load_config

WIDTH = 118
MEANING_COLUMN = 44
KEYS_HEADER = """\
all keys, each with its value where neither --config nor the command line names one (the packaged config phantom); in
brackets the value that a key has where --config F does not set it, if that is another:"""


def key_lines() -> str:
    """All keys, section by section."""
    return "\n".join(_lines("", load_config(None), Config()))


def _lines(prefix: str, bare: Any, default: Any) -> Iterator[str]:
    """The keys of a section: first those with a value, then the sections in it."""
    hints = get_type_hints(type(default), include_extras=True)
    meanings = _meanings(type(default))
    sections = [field.name for field in fields(default) if is_dataclass(getattr(default, field.name))]
    for field in fields(default):
        if field.name in sections:
            continue
        value, own = getattr(bare, field.name), getattr(default, field.name)
        head = f"  {prefix}{field.name}={_text(value)}" + (f" [{_text(own)}]" if own != value else "")
        choices = "|".join(str(choice) for choice in _choices(hints[field.name]))
        meaning = "; ".join(filter(None, (choices, meanings.get(field.name))))
        yield from _in_two_columns(head, meaning)
    for name in sections:
        below = getattr(default, name)
        yield f"\n  {prefix}{name}: {inspect.getdoc(type(below))}"
        yield from _lines(f"{prefix}{name}.", getattr(bare, name), below)


def _in_two_columns(head: str, meaning: str) -> Iterator[str]:
    lines = textwrap.wrap(meaning, WIDTH - MEANING_COLUMN) or [""]
    if len(head) >= MEANING_COLUMN - 1:
        yield head
        head = ""
    for line in lines:
        yield f"{head:<{MEANING_COLUMN}}{line}".rstrip()
        head = ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _choices(hint: Any) -> Iterator[Any]:
    """The values of the literals in a type hint."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        for part in get_args(hint):
            yield from _choices(part)


def _meanings(section: type) -> dict[str, str]:
    """The comment on each key's line in the schema, the one place where its meaning is written."""
    try:
        source = inspect.getsource(section)
    except OSError:  # installed without sources
        return {}
    return {
        match["key"]: match["text"] for match in re.finditer(r"^    (?P<key>\w+): .*  # (?P<text>.*)$", source, re.M)
    }
