"""The manifest of a checkpoint: size and SHA-256 of its files, and a hash of the manifest itself.

    {"model.safetensors": {"bytes": ..., "sha256": ...}, ..., "manifest": {"format": 2, "sha256": ...}}

A checkpoint without moments, as archives of results hold, lists none: it can be scored, and not be resumed. Manifests
of earlier versions have no hash of their own; the names in them must be those of a checkpoint.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segtrain.run.layout import MANIFEST, MODEL, OPTIMIZER, STATE
from segtrain.run.stored import reading, tree_in
from segtrain.runtime import files

OWN = "manifest"  # the entry about the manifest itself
FORMAT = 2
TO_TRAIN = frozenset((MODEL, OPTIMIZER, STATE))
TO_SCORE = frozenset((MODEL, STATE))


def fingerprint(file: Path) -> dict[str, Any]:
    """The size and the hash of a file. Raises DamagedFile; OSError."""
    with reading(file):
        return {"bytes": file.stat().st_size, "sha256": files.sha256(file)}


def manifest_of(listed: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the manifest that lists these fingerprints by file."""
    return {**listed, OWN: {"format": FORMAT, "sha256": _digest(listed)}}


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The fingerprints of a checkpoint's files. Raises ValueError: not what was written; OSError."""
    listed = tree_in(checkpoint / MANIFEST, dict)
    about = listed.pop(OWN, None)
    if listed.keys() not in (TO_TRAIN, TO_SCORE):
        raise ValueError(f"{MANIFEST} lists {', '.join(sorted(listed)) or 'nothing'}")
    if about is not None and about != {"format": FORMAT, "sha256": _digest(listed)}:
        raise ValueError(f"{MANIFEST} is not what was written, or of a later version")
    return listed


def weights_sha256(checkpoint: Path) -> str:
    """The hash of a checkpoint's weights; `sha256sum model.safetensors` gives the same. Raises as `read_manifest`."""
    return str(read_manifest(checkpoint)[MODEL]["sha256"])


def _digest(listed: Mapping[str, Any]) -> str:
    canonical = json.dumps({"format": FORMAT, **listed}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
