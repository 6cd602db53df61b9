"""A patient's files of volumes: one a contrast or one of all, and the truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WHOLE = ""  # in place of a contrast's name: the 4-D file of all contrasts


@dataclass(frozen=True)
class Case:
    """images: by contrast, or one file of all of them under WHOLE; truth: None where there is none."""

    images: Mapping[str, Path]
    truth: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, the truth last."""
        return (*self.images.values(), *([] if self.truth is None else [self.truth]))
