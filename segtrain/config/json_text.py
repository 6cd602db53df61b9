"""JSON that others wrote: whatever is wrong with it is a ValueError. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from segtrain.text_file import text_of


def parse_json(text: str) -> Any:
    """What the text says. Raises ValueError: no JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_in(path: Path) -> Any:
    """What a file says, with or without a byte order mark. Raises OSError; ValueError as `parse_json`."""
    return parse_json(text_of(path).removeprefix("\ufeff"))
