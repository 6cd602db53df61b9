"""Folders of this process that are full, closed or stale for some operations."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from segtrain.runtime import outbox
from segtrain.runtime.process import start_logging

KINDS = ("ENOSPC", "EDQUOT", "EACCES", "EROFS", "ESTALE", "EIO", "ENOTCONN", "ENOENT")
OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.truncate", "os.listdir", "os.scandir")


class Folder:
    """Makes operations of this process in a folder fail: those from `first` on, `count` of them."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.number = errno.ENOSPC
        self.first = self.count = self.seen = 0
        self.listens = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """With short pauses between the tries; folders and log are as they were afterwards."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outbox, "FIRST_PAUSE_S", 0.01)
            patch.setattr(outbox, "LONGEST_PAUSE_S", 0.02)
            yield
        self.heal()
        start_logging()

    def bad(self, root: Path, kind: str, first: int, count: int) -> None:
        if not self.listens:
            sys.addaudithook(lambda event, arguments: self.audit(event, arguments))  # until the process ends
            self.listens = True
        self.number, self.first, self.count, self.seen = getattr(errno, kind), first, count, 0
        self.root = root

    def heal(self) -> None:
        """From now on all folders are as they are."""
        self.root = None

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root and event in OPERATIONS and str(arguments[0]).startswith(str(self.root)):
            self.seen += 1
            if self.first < self.seen <= self.first + self.count:
                raise OSError(self.number, os.strerror(self.number), str(arguments[0]))


FOLDER = Folder()
