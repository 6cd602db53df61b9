"""A patient's files of volumes: one a contrast or one of all, and the truth.

Of a patient whose files names alone cannot tell apart, it says so: `problem` refuses the patient, `doubt` only where a
truth is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WHOLE = ""  # in place of a contrast's name: the 4-D file of all contrasts


@dataclass(frozen=True)
class Case:
    """images: by contrast, or one file of all of them under WHOLE; truth: None where there is none.

    channels: names along the fourth axis of a file of all contrasts, where these are not the source's contrasts.
    doubt: why it is not known which file is the truth; problem: why the patient cannot be read; both errors' texts.
    is_lost: its only file is a link to a folder that is not there, which opening it names. person: where the folders
    say whose scan it is, and the id alone may not.
    """

    images: Mapping[str, Path]
    truth: Path | None = None
    channels: tuple[str, ...] = ()
    doubt: str = ""
    problem: str = ""
    is_lost: bool = False
    person: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, the truth last."""
        return (*self.images.values(), *([] if self.truth is None else [self.truth]))

    def names_in(self, role: str, contrasts: tuple[str, ...]) -> tuple[str, ...]:
        """The names of the volumes in the file of that role: the source's contrasts in one of all."""
        return (self.channels or contrasts) if role == WHOLE else (role,)
