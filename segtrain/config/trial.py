"""What a trial of a part of the user's own found: a line about the part, and a line for each law that was tried.

Imports no torch.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "fails", "warning", "not tried"]


@dataclass(frozen=True)
class Check:
    """One law or trap: `fails` refuses the part, a `warning` does not; `message` has the figures and the remedy."""

    name: str
    verdict: Verdict
    message: str = ""
