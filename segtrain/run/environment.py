"""The packages, device and commit that a start of a run uses: an entry of environment.json."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from segtrain import __version__
from segtrain.runtime.launcher import job_id

PACKAGES = ("torch", "numpy", "scipy", "pillow", "pydantic", "safetensors", "tensorboard")
CHECKOUT = Path(__file__).resolve().parent.parent.parent  # of a wheel: site-packages


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What one start used. A field that an entry lacks has its default."""

    time: str = ""  # ISO 8601
    job: str | None = None
    python: str | None = None
    platform: str | None = None
    packages: Mapping[str, str | None] = field(default_factory=dict)
    world_size: int | None = None
    device: str | None = None
    cores: int | None = None
    git_commit: str | None = None

    @classmethod
    def now(cls, world_size: int, device: str, packages: Iterable[str] = ()) -> Self:
        """That of this process; `packages` are those of own parts, which no hash identifies."""
        return cls(
            time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            job=job_id(),
            python=platform.python_version(),
            platform=platform.platform(),
            packages={"segtrain": __version__} | {name: _version(name) for name in (*PACKAGES, *packages)},
            world_size=world_size,
            device=device,
            cores=len(os.sched_getaffinity(0)),
            git_commit=_commit(),
        )

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """That of an entry."""
        return cls(**{key.name: tree[key.name] for key in fields(cls) if key.name in tree})

    @property
    def began_s(self) -> float:
        """When the start began, in seconds since the epoch. Raises ValueError or TypeError: `time` is no time."""
        return datetime.fromisoformat(self.time).timestamp()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this code: from SEGTRAIN_COMMIT, which a submission's snapshot sets, or from the checkout."""
    if commit := os.environ.get("SEGTRAIN_COMMIT"):
        return commit
    if not (CHECKOUT / "pyproject.toml").is_file():  # a wheel, in a virtual environment that another project may track
        return None
    command = ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        return None
