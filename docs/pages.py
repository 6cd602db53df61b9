"""The pages of docs/reference/, from the schema, the commands' parsers and the exceptions: python -m docs.pages.

A test says when a committed page is not what this makes.
"""

import argparse
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from unittest.mock import patch

from pydantic.fields import FieldInfo

from segtrain import errors
from segtrain.__main__ import COMMANDS
from segtrain.commands.arguments import PARTS
from segtrain.commands.keys import Key, sections, value_text
from segtrain.config.comparison import FROM_DATA, may_differ
from segtrain.config.schema import SOURCES
from segtrain.run import layout

FOLDER = Path(__file__).resolve().parent / "reference"
NOTE = "<!-- Made by `python -m docs.pages`; change the code that it reads. -->\n\n"
NAMES = {**{key: tuple(table) for key, table in PARTS.items()}, "data.source": SOURCES}
UNITS = {"_s": "seconds", "_min": "minutes", "_mm": "mm", "_ml": "ml", "_px": "pixels", "_voxels": "voxels"}
WORDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", dict: "mapping", tuple: "list"}
LIMITS = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}", "multiple_of": "multiple of {}"}


class _Parser(Exception):
    """The parser of a command, which has not parsed anything."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plain(text: str) -> str:
    """Text that Markdown does not take for a tag."""
    return text.replace("<", "&lt;")


def config_page() -> str:
    """Every key with its values, default and meaning, and whether a run may go on with another value."""
    text = f"""{NOTE}# Config keys

A setting is `key=value` on the command line, or a key in a YAML file; the error for a misspelt key names the right one.
`--config` takes a path or the name of a packaged config, such as `--config lgg`; without it a command takes `phantom`,
whose values `--help` shows. The defaults below are those of a key that neither names. `null` says that the key has no
value; what happens then is in its meaning. *Resume* says whether a run that was begun may go on with another
value: a key that is *fixed* is refused, and the error shows both values; *data* may be left to the data, and is fixed
once it is set.
"""
    for section in sections():
        title = f"## `{section.name}`" if section.name else "## The run"
        rows = [
            (f"`{key.name}`", plain(key.meaning), f"`{value_text(key.default)}`", _values(key), _on_resume(key.name))
            for key in section.keys
        ]
        text += f"\n{title}\n\n{section.meaning}\n\n" + table(("key", "meaning", "default", "values", "resume"), rows)
    text += "\n## Built-in parts\n\nEach of these keys takes one of your own, too ([own parts](../own_parts.md)).\n"
    for name, parts in PARTS.items():
        lines = [(f"`{part}`", plain(row.doc), row.source) for part, row in parts.items()]
        text += f"\n### `{name}=`\n\n" + table(("name", "what it is", "source"), lines)
    return text


def _on_resume(key: str) -> str:
    if key.removeprefix("data.") in FROM_DATA:
        return "data"
    return "may change" if may_differ(key) else "fixed"


def _values(key: Key) -> str:
    if names := NAMES.get(key.name):
        own = "" if key.name == "engine" else ", your own"
        return ", ".join(f"`{name}`" for name in names) + own
    words = _words(Annotated[key.hint, *key.limits]) if key.limits else _words(key.hint)
    unit = next((unit for ending, unit in UNITS.items() if key.name.endswith(ending)), "")
    return f"{words}; {unit}" if unit else words


def _words(hint: Any) -> str:
    """A type in words, with the limits of its values."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = ", ".join(dict.fromkeys(_limits(inner[1:])))
        return f"{_words(inner[0])} ({limits})" if limits else _words(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in inner if part is not NoneType))
    return WORDS.get(origin or hint, "")


def _limits(notes: Sequence[Any]) -> Iterator[str]:
    for note in notes:
        for limit in note.metadata if isinstance(note, FieldInfo) else [note]:
            for name, words in LIMITS.items():
                if (value := getattr(limit, name, None)) is not None:
                    yield words.format(value)


def commands_page() -> str:
    """Every command with its arguments and examples."""
    index = [(f"[`segtrain {name}`](#segtrain-{name})", text) for name, (_, text) in COMMANDS.items()]
    text = f"""{NOTE}# Commands

`segtrain COMMAND --help` says the same. `[--config F] [key=value ...]` of a command are
[the keys of a config](config.md).

{table(("command", "does"), index)}"""
    for name, (module, _) in COMMANDS.items():
        parser = parser_of(name)
        rows = [(f"`{_call(action)}`", _help(parser, action)) for action in parser._actions if _is_shown(action)]
        examples = textwrap.dedent(getattr(import_module(module), "EXAMPLES", "")).removeprefix("examples:\n")
        text += f"\n## `segtrain {name}`\n\n{(parser.description or '').strip()}\n\n"
        text += table(("argument", "meaning"), rows) + f"\n```text\n{textwrap.dedent(examples).rstrip()}\n```\n"
    return text


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command's arguments."""

    def refuse(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _Parser(parser)

    kind = argparse.ArgumentParser
    with patch.object(kind, "parse_args", refuse), patch.object(kind, "parse_intermixed_args", refuse):
        try:
            import_module(COMMANDS[command][0]).command([])
        except _Parser as caught:
            parser: argparse.ArgumentParser = caught.args[0]
            return parser
    raise AssertionError(f"segtrain {command} parses no arguments")


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not {"-h", "--version"} & set(action.option_strings)


def _call(action: argparse.Action) -> str:
    value = action.metavar or (action.choices and "|".join(map(str, action.choices))) or action.dest.upper()
    if not action.option_strings:
        return str(value)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return plain(parser._get_formatter()._expand_help(action)) if action.help else ""


def files_page() -> str:
    """The run directory, exit codes and reasons to stop."""
    meanings = {
        errors.EXIT_FINISHED: "Finished, also when it was finished before.",
        errors.EXIT_USER_ERROR: "A user's mistake: one line on standard error names thing, value and remedy.",
        errors.EXIT_DIVERGED: inspect.getdoc(errors.Diverged) or "",
        errors.EXIT_STOPPED: inspect.getdoc(errors.Stopped) or "",
    }
    codes = [(str(code), meaning) for code, meaning in meanings.items()]
    reasons = [(f"`{reason.name}`", reason.sentence) for reason in errors.StopReason]
    tree = (layout.__doc__ or "").split("\n", 1)[1].strip()
    directory, after = tree.rsplit("\n\n", 1)
    return f"""{NOTE}# Run directory and exit codes

A run is a folder, and its name is its identity. Tensors are safetensors, the rest is JSON, CSV and YAML.

```text
{directory}
```

{after}

## Exit codes

{table(("code", "meaning"), codes)}
Anything else is a bug, with its traceback. torchrun does not pass these codes on; `outcome.json` says the same, with
a `reason` for programs and a `message` for people. `segtrain offline` has 1 besides: a run, the report, the archive
or the mirror failed, and the others are finished.

## Reasons to stop

{table(("`reason` in `outcome.json`", "stopped by"), reasons)}"""


def pages() -> dict[Path, str]:
    """The text of each page."""
    return {
        FOLDER / "config.md": config_page(),
        FOLDER / "commands.md": commands_page(),
        FOLDER / "run_directory.md": files_page(),
    }


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
