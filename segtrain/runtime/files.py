"""Durable writes: aside, synced, renamed, so that no reader ever meets half a file."""

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_json(path: Path, tree: Any) -> None:
    """Write JSON; `path` holds the old content or the new one, whatever happens."""
    write_text(path, json.dumps(tree, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text; `path` holds the old content or the new one, whatever happens.

    What is not Unicode, as a path may have it, is escaped.
    """
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text, encoding="utf-8", errors="backslashreplace")
    sync_file(aside)
    rename(aside, path)


def replace_text(path: Path, text: str) -> None:
    """Write text that a crash of the machine may lose; a reader finds the old content or the new one."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text, encoding="utf-8", errors="backslashreplace")
    aside.replace(path)


def append_line(path: Path, line: str) -> None:
    """Append a line, durably. A line before it that a crash left unfinished is ended first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = f"\n{line}"
        file.write(f"{line}\n".encode(errors="backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A CSV whose columns are the keys of its first row; None is an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def rename(old: Path, new: Path) -> None:
    """Rename and make it durable."""
    old.rename(new)
    sync_folder(new.parent)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Rename a folder to a name that no reader looks at, then remove it, so that a kill leaves no half of it."""
    doomed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
