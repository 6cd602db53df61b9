"""What a run was trained with: packages, device, commit. Imports no torch."""

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from segtrain import __version__
from segtrain.runtime.launcher import job_id

PACKAGES = ("torch", "numpy", "scipy", "pillow", "pydantic", "safetensors", "tensorboard")
CHECKOUT = Path(__file__).resolve().parent.parent.parent  # of a wheel: site-packages


def environment(world_size: int, device: str) -> dict[str, Any]:
    """Of this start of a run."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "job": job_id(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"segtrain": __version__} | {name: _version(name) for name in PACKAGES},
        "world_size": world_size,
        "device": device,
        "cores": len(os.sched_getaffinity(0)),
        "git_commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit that this package is of: as a snapshot's maker says, or of the checkout that it lies in."""
    if told := os.environ.get("SEGTRAIN_COMMIT"):
        return told
    if not (CHECKOUT / "pyproject.toml").is_file():  # a wheel, in a virtual environment that another project may track
        return None
    command = ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        return None
