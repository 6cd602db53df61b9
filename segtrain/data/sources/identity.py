"""A source's fingerprint, read from its files once and remembered beside the stores while no file is touched.

<data.store>/.sources/<stamp>   the fingerprint of the source whose files have these paths, sizes and times
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segtrain.data.sources.base import Check, Source, no_check
from segtrain.runtime import files

FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Identity:
    """A source's fingerprint, and where it is remembered: None where it is already, or need not be."""

    fingerprint: str
    note: Path | None

    def remember(self) -> None:
        """Spare the next process the reading, where this user may write."""
        if self.note is not None:
            with suppress(OSError):
                files.make_folder(self.note.parent)
                files.replace_text(self.note, f"{self.fingerprint}\n")


def identify(store: Path, source: Source, check: Check = no_check) -> Identity:
    """The source's identity, by what is remembered in the folder of stores, else by the content. Raises DataError."""
    stamp = source.stamp()
    if stamp is None:
        return Identity(source.fingerprint(), None)
    note = store / ".sources" / stamp[:32]
    with suppress(OSError, ValueError):
        fingerprint = note.read_text(encoding="utf-8").strip()
        if FINGERPRINT.fullmatch(fingerprint):
            return Identity(fingerprint, None)
    fingerprint = source.fingerprint(check)
    was_touched = source.stamp() != stamp
    return Identity(fingerprint, None if was_touched else note)
