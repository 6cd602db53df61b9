"""The runs of a queue, and how they are to be run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segtrain.config import Config, fingerprint
from segtrain.run import Run


@dataclass(frozen=True)
class Item:
    """One run of a queue. `fresh`: it starts over whatever is there; `trouble`: why it has no config."""

    name: str
    cfg: Config | None
    processes: int = 1  # of torchrun
    retries: int = 0  # further starts after a failure
    fresh: bool = False
    trouble: str = ""

    @property
    def run(self) -> Run:
        """Its directory."""
        assert self.cfg is not None, "without a config there is no run"
        return Run(Path(self.cfg.runs_dir) / self.name)

    @property
    def digest(self) -> str:
        """Tells its config, or its trouble, from another; the same on another machine."""
        if self.cfg is None:
            return hashlib.sha256(self.trouble.encode()).hexdigest()[:12]
        return fingerprint(self.cfg)


@dataclass(frozen=True)
class Queue:
    """A queue whose journal lies in `folder`."""

    name: str
    folder: Path
    items: Sequence[Item]
    at_once: int | None = None  # runs at a time; default: as many as the GPUs allow, one on a CPU
    min_free_gib: float = 0.0  # with less space the queue saves and stops
    attended: bool = False  # output goes to the terminal, and a run that is stopped, or cannot even begin, stops all
