"""A checkpoint is whole or is not there (L7): written aside, synced, hashed, renamed; the pointer moves last.

    checkpoints/step-00001000/model.safetensors   the plain state dict
                              state.json          step, epoch, score, config and split
                              manifest.json       size and SHA-256 of the others
    checkpoints/BEST                              the name of the best one

Tensors are safetensors, the rest is JSON: reading one runs no code from the file.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from segtrain.data.store import sync_folder
from segtrain.run import write_json


def publish(folder: Path, pointer: Path, model: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the checkpoint `folder`, point `pointer` at it, then remove the checkpoint it pointed at before."""
    before = folder.with_name(pointer.read_text().strip()) if pointer.exists() else None
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file({name: t.detach().cpu().contiguous() for name, t in model.items()}, aside / "model.safetensors")
    write_json(aside / "state.json", state)
    write_json(aside / "manifest.json", {file.name: _fingerprint(file) for file in sorted(aside.iterdir())})
    for file in aside.iterdir():
        _sync(file)
    sync_folder(aside)
    aside.rename(folder)
    sync_folder(folder.parent)
    tmp = pointer.with_name(f".{pointer.name}.tmp")
    tmp.write_text(folder.name + "\n")
    _sync(tmp)
    tmp.replace(pointer)
    sync_folder(pointer.parent)
    if before is not None and before != folder:
        shutil.rmtree(before, ignore_errors=True)


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
