"""Paths as users write them: any text at all. Imports no torch."""

import os
from pathlib import Path

SAFETENSORS = ".safetensors"
TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")


def expanded(text: str | Path) -> Path:
    """The path with the home folder in place of ~; as it is where there is no such user."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_file(path: Path) -> bool:
    """Whether a file is there that can be looked at; no name is too long for the question."""
    return os.path.isfile(path)  # noqa: PTH113  Path.is_file raises OSError for such names


def is_weights(path: Path) -> bool:
    """Whether a path names a file of weights, not a run."""
    return path.suffix in (SAFETENSORS, *TORCH_FILES) and not path.is_dir()
