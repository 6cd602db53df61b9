"""The keys of a config, from the schema: section, value of the bare command, choices, meaning; as lines of a help."""

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from segtrain.config import Config, load_config

WIDTH = 118
MEANING_COLUMN = 44
KEYS_HEADER = """\
all keys, each with its value where neither --config nor the command line names one (the packaged config phantom); in
brackets the value that a key has where --config F does not set it, if that is another:"""


@dataclass(frozen=True)
class Key:
    """A key of the schema. `bare`: its value under the packaged config phantom; `meaning`: the comment on its line."""

    name: str
    hint: Any  # its type
    limits: tuple[Any, ...]  # of its value, as pydantic has them
    default: Any
    bare: Any
    meaning: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of the literals in its type."""
        return tuple(_choices(self.hint))


@dataclass(frozen=True)
class Section:
    """A section of the schema, `data` or `data.phantom`, with its own keys; the topmost has no name."""

    name: str
    meaning: str
    keys: tuple[Key, ...]


def sections() -> Iterator[Section]:
    """All sections with their keys, each before the sections in it."""
    yield from _sections("", load_config(None), Config())


def _sections(name: str, bare: Any, default: Any) -> Iterator[Section]:
    kind = type(default)
    hints, meanings, limits = get_type_hints(kind, include_extras=True), _meanings(kind), kind.__pydantic_fields__
    prefix = f"{name}." if name else ""
    keys, below = [], []
    for field in fields(default):
        own, value = getattr(default, field.name), getattr(bare, field.name)
        if is_dataclass(own):
            below.append((f"{prefix}{field.name}", value, own))
        else:
            hint, limit, meaning = hints[field.name], limits[field.name].metadata, meanings.get(field.name, "")
            keys.append(Key(f"{prefix}{field.name}", hint, tuple(limit), own, value, meaning))
    yield Section(name, inspect.getdoc(kind) or "", tuple(keys))
    for section in below:
        yield from _sections(*section)


def key_lines() -> str:
    """All keys, section by section."""
    return "\n".join(line for section in sections() for line in _lines(section))


def _lines(section: Section) -> Iterator[str]:
    if section.name:
        yield f"\n  {section.name}: {section.meaning}"
    for key in section.keys:
        head = f"  {key.name}={value_text(key.bare)}"
        if key.default != key.bare:
            head += f" [{value_text(key.default)}]"
        yield from _in_two_columns(head, "; ".join(filter(None, ("|".join(map(str, key.choices)), key.meaning))))


def _in_two_columns(head: str, meaning: str) -> Iterator[str]:
    lines = textwrap.wrap(meaning, WIDTH - MEANING_COLUMN) or [""]
    if len(head) >= MEANING_COLUMN - 1:
        yield head
        head = ""
    for line in lines:
        yield f"{head:<{MEANING_COLUMN}}{line}".rstrip()
        head = ""


def value_text(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _choices(hint: Any) -> Iterator[Any]:
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
