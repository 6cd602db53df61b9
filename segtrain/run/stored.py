"""The files of a run, read without trust: what is not what was written is one error that names the file.

A run may come from another machine, from an archive or from somebody else. Its files may be cut off, mended by hand, or
no files at all; none of that may stop a reader in the middle of its work, or keep it waiting.
"""

import csv
import errno
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from segtrain.config.json_text import parse_json
from segtrain.errors import DamagedFile
from segtrain.runtime.cells import read_csv
from segtrain.text_file import text_of

T = TypeVar("T")

RESTORE = "restore it from a copy of the run"
LARGEST = 1e39  # of any number in a run, above what float32 holds: a loss that diverges is no damage
MOST = 10**15  # of anything that is counted
LONGEST_CELL = 10_000  # letters of a cell of a table
SHOWN = 80  # letters of a value in a message
# No file, or no file that could be read: unlike a full or closed disk, that does not pass.
NO_FILE = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.ENXIO)
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}


def damaged(file: Path, what: str, remedy: str = RESTORE) -> DamagedFile:
    """The error about a file, in one line."""
    return DamagedFile(f"{file}: cannot be read ({' '.join(what.split())}); {remedy}")


@contextmanager
def reading(file: Path, remedy: str = RESTORE) -> Iterator[None]:
    """Turns what reading a file raises into DamagedFile; an OSError of a missing file, or one that may pass, stays."""
    try:
        yield
    except DamagedFile:
        raise
    except FileNotFoundError as error:
        if not file.is_symlink():
            raise
        raise damaged(file, "it is a link that leads nowhere", remedy) from error
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        raise damaged(file, str(error.strerror), remedy) from error
    except UnicodeDecodeError as error:
        raise damaged(file, f"not UTF-8: {error.reason} at byte {error.start}", remedy) from error
    except ValueError as error:
        raise damaged(file, str(error), remedy) from error


def tree_in(file: Path, kind: type[T], remedy: str = RESTORE) -> T:
    """The JSON in a file, a dict or a list as `kind` says. Raises DamagedFile; OSError: missing or closed."""
    with reading(file, remedy):
        text = text_of(file)
        if not text.strip():
            raise ValueError("it is empty")
        try:
            tree = parse_json(text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(tree, kind):
            raise ValueError(f"it holds {shown(tree)}, not a {'mapping' if kind is dict else kind.__name__}")
        return tree


def entries_in(file: Path, remedy: str = RESTORE) -> list[dict[str, Any]]:
    """The mappings in a file of JSON lines, without a line that is only half there; none where there is no file.

    Raises DamagedFile; OSError.
    """
    entries = []
    with reading(file, remedy):
        try:
            text = text_of(file, errors="replace")
        except FileNotFoundError:
            if file.is_symlink():
                raise
            return []
        for line in text.splitlines():
            with suppress(json.JSONDecodeError):  # it was being written when the process was killed
                entries.append(parse_json(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def table_in(file: Path, remedy: str = RESTORE) -> list[dict[str, str]]:
    """The rows of a CSV, all cells there. Raises like `tree_in`."""
    with reading(file, remedy):
        try:
            rows = read_csv(io.StringIO(text_of(file), newline=""))
        except csv.Error as error:
            raise ValueError(f"no table: {error}") from error
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise ValueError(f"row {number} has more or fewer cells than the head")
            if max(map(len, row.values())) > LONGEST_CELL:
                raise ValueError(f"row {number} has a cell of more than {LONGEST_CELL} letters")
        return rows


def number_in(cell: str) -> float:
    """The number in a cell of a table. Raises ValueError: none, or none that can be reckoned with."""
    try:
        number = float(cell)
    except ValueError:
        raise ValueError(f"{shown(cell)} is no number") from None
    if not abs(number) <= LARGEST:
        raise ValueError(f"{shown(cell)} is no finite number")
    return number


def built(kind: type[T], tree: Any) -> T:
    """A dataclass from JSON, of the keys that it knows. Raises ValueError: a value is missing, or of another kind."""
    if not isinstance(tree, dict):
        raise ValueError(f"{shown(tree)} is no mapping")
    known: dict[str, Any] = _kinds(kind)  # type: ignore[arg-type]
    for name in known.keys() & tree.keys():
        if not _fits(tree[name], known[name]):
            raise ValueError(f"{name} is {shown(tree[name])}, not {_words(known[name])}")
    try:
        return kind(**{name: tree[name] for name in known if name in tree})
    except TypeError as error:  # its own message names the function
        missing = str(error).partition("argument")[2].lstrip("s: ")
        raise ValueError(f"{missing} is missing") from error


def shown(value: Any) -> str:
    """A value in a message."""
    text = json.dumps(value, default=str) if not isinstance(value, (dict, list)) else f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


@cache
def _kinds(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of an annotated kind."""
    if kind is Any:
        return True
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if origin is list:
        return isinstance(value, list)
    if origin is not None:
        assert issubclass(origin, Mapping), f"{kind}: no field of a run's files is of that kind"
        return isinstance(value, dict) and all(_fits(each, get_args(kind)[1]) for each in value.values())
    if kind is float or kind is int:
        is_number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        return is_number and abs(value) <= (MOST if kind is int else LARGEST)  # no NaN is
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return " or ".join(WORDS.get(one, "a mapping of such values") for one in kinds)
