"""Remarks of libraries on the files that they read: caught, to be said once and with the file's name."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NIBABEL = logging.getLogger("nibabel.global")  # it prints, without the file's name, whenever a file is opened


class LibraryRemarks:
    """What libraries remark on a patient's files."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}  # names by text

    @contextmanager
    def on(self, path: Path) -> Iterator[None]:
        """Keeps what libraries warn of or log in the block, in place of printing it."""
        collector = _Collector()
        handlers, propagates = NIBABEL.handlers, NIBABEL.propagate
        NIBABEL.handlers, NIBABEL.propagate = [collector], False
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
        finally:
            NIBABEL.handlers, NIBABEL.propagate = handlers, propagates
        for text in (*collector.texts, *(str(warning.message) for warning in caught)):
            names = self._files.setdefault(" ".join(text.split()), [])
            if path.name not in names:
                names.append(path.name)

    def lines(self) -> tuple[str, ...]:
        """Each remark once: the first file by name, how many more there are, the text."""
        return tuple(
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {text}"
            for text, names in self._files.items()
        )


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
