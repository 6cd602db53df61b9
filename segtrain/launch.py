"""What the launcher (torchrun, srun) tells a process, read without torch."""

import os

from segtrain.errors import LaunchError


def env_int(name: str, default: int) -> int:
    """An integer of the environment. Raises LaunchError when it is none."""
    value = os.environ.get(name, "")
    if value and not value.isdigit():
        raise LaunchError(f"{name}={value}: not a number; start with torchrun, or unset it for a single process")
    return int(value) if value else default
