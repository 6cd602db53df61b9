"""Text from outside on a terminal: names, messages and answers are shown, and cannot steer the terminal."""

import logging
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

# Control characters of both sets, DEL, and those that turn the direction of what follows or end a line.
CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_OF_LINE = re.compile(f"[{CONTROL}]")
_OF_TEXT = re.compile(rf"(?![\n\t])[{CONTROL}]")


def in_one_line(text: object) -> str:
    """The text in one line, with control characters as Python writes them: \\x1b, \\n, \\u202e."""
    return _OF_LINE.sub(_escaped, str(text))


def in_lines(text: object) -> str:
    """The same for a text of ours that has lines and tabs."""
    return _OF_TEXT.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


class Formatter(logging.Formatter):
    """Log lines whose arguments are shown in one line each, and whose text holds no other control characters."""

    def format(self, record: logging.LogRecord) -> str:
        args = record.args
        try:
            if isinstance(args, Mapping):
                record.args = {name: _shown(value) for name, value in args.items()}
            elif args:
                record.args = tuple(map(_shown, args))
            return in_lines(super().format(record))
        finally:
            record.args = args


def _shown(argument: Any) -> Any:
    return in_one_line(argument) if isinstance(argument, str | PurePath | BaseException) else argument
