"""results.zip: the results of a queue, to be taken home. Without optimiser moments, which only resuming needs."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from segtrain.errors import DAMAGED
from segtrain.run import Run, layout, manifest
from segtrain.runtime import files
from segtrain.runtime.zip_names import zip_name
from segtrain.text_file import open_file

NAME = "results.zip"
SUMS = f"{NAME}.sha256"
PACKED = (".safetensors", ".png", ".zip", ".jpg")  # deflating them again gains nothing
WHEN = (1980, 1, 1, 0, 0, 0)  # equal results, equal archives
CHECKPOINT = (layout.MODEL, layout.STATE)
BUFFER_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Written:
    """An archive, and what could not be packed: the reason of each file, or of each checkpoint by its folder."""

    file: Path
    left_out: Mapping[Path, str]


def contents(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files of the queue's folder under their names in the archive; of checkpoints the best and the last weights.

    Hidden files, locks, links and the archive itself stay out. A folder that cannot be listed is there as itself.
    """
    for parent, below, names in os.walk(folder, onerror=None):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if not files.may_enter(Path(parent)):
            below.clear()
            yield _name(folder, Path(parent)), Path(parent)
        for name in sorted(names):
            file = Path(parent, name)
            parts = file.relative_to(folder).parts
            if name.startswith(".") or file.is_symlink() or parts in ((NAME,), (SUMS,)):
                continue
            if len(parts) > 2 and parts[1] == layout.CHECKPOINTS and not _wanted(Run(folder / parts[0]), parts[2:]):
                continue
            yield _name(folder, file), file


def _name(folder: Path, file: Path) -> str:
    return zip_name(PurePath(folder.name, *file.relative_to(folder).parts))


def _wanted(run: Run, parts: tuple[str, ...]) -> bool:
    """Whether a file below a run's checkpoints/ is packed."""
    if len(parts) == 1:
        return True  # a pointer
    return parts[0] in run.pointed_checkpoints() and parts[1] in (*CHECKPOINT, layout.MANIFEST)


def size_bytes(folder: Path) -> int:
    """The largest size that the archive can have, for the space that must be free."""
    size = 0
    for _, file in contents(folder):
        with suppress(OSError):  # it is left out
            size += file.stat().st_size + 1024
    return size


def write(folder: Path, go_on: Callable[[], bool] = lambda: True) -> Written | None:
    """Write results.zip into the queue's folder, aside and then renamed, and its checksum for `sha256sum -c`.

    What cannot be read, and weights that are not what was written, are left out: no file costs the others their place.
    None, and nothing changed, when `go_on` says no between two files.
    """
    archive = folder / NAME
    aside = files.own_place(archive, "tmp")
    left_out: dict[Path, str] = {}
    try:
        is_whole = False
        while not is_whole:
            before = len(left_out)
            is_whole = _pack(folder, aside, left_out, go_on)
            if is_whole:
                left_out |= (damaged := _damaged(folder, aside))
                is_whole = not damaged
            assert is_whole or len(left_out) > before, "each turn leaves out more"
        files.share(aside)
        files.sync_file(aside)
        digest = files.sha256(aside)
        checksum(archive).unlink(missing_ok=True)  # of the archive before
        files.rename(aside, archive)
        files.write_text(checksum(archive), f"{digest}  {NAME}\n")
    except _Stopped:
        return None
    finally:
        aside.unlink(missing_ok=True)
    return Written(archive, left_out)


def _pack(folder: Path, aside: Path, left_out: dict[Path, str], go_on: Callable[[], bool]) -> bool:
    """Write the archive at `aside`, adding to what is left out; whether nothing of that is in it. Raises _Stopped."""
    is_whole = True
    with zipfile.ZipFile(aside, "w", allowZip64=True) as pack:
        for name, file in contents(folder):
            if not go_on():
                raise _Stopped
            if file in left_out or file.parent in left_out:
                continue
            try:
                _add(pack, name, file)
            except _Unreadable as error:
                is_of_checkpoint = file.parent.parent.name == layout.CHECKPOINTS
                left_out[file.parent if is_of_checkpoint else file] = str(error)
                is_whole &= not (error.half or is_of_checkpoint)
                if error.half:
                    return False
    return is_whole


def _damaged(folder: Path, aside: Path) -> dict[Path, str]:
    """The checkpoints in the archive that are not what was written. Without a manifest, nobody knows what that was."""
    damaged: dict[Path, str] = {}
    with zipfile.ZipFile(aside) as pack:
        names = set(pack.namelist())
        for name, file in contents(folder):
            if name not in names or not _is_manifest(file):
                continue
            listed = json.loads(pack.read(name))
            for part in CHECKPOINT:
                packed = name.removesuffix(file.name) + part
                is_there = packed in names
                if not is_there or listed[part] != _fingerprint(pack, packed):
                    damaged[file.parent] = f"{part} is {'not what its manifest says' if is_there else 'missing'}"
    return damaged


def _is_manifest(file: Path) -> bool:
    """Whether a file is the manifest of a checkpoint."""
    return file.name == layout.MANIFEST and file.parent.parent.name == layout.CHECKPOINTS


def checksum(archive: Path) -> Path:
    """The file that sha256sum -c takes."""
    return archive.with_name(f"{archive.name}.sha256")


def _fingerprint(pack: zipfile.ZipFile, name: str) -> dict[str, Any]:
    """That of a packed file, as a manifest has it."""
    sha256 = hashlib.sha256()
    with pack.open(name) as stream:
        while part := stream.read(BUFFER_BYTES):
            sha256.update(part)
    return {"bytes": pack.getinfo(name).file_size, "sha256": sha256.hexdigest()}


class _Stopped(Exception):
    """The archive is not wanted any more."""


class _Unreadable(Exception):
    """A file that cannot be packed. `half`: its beginning is in the archive already."""

    def __init__(self, error: Exception, half: bool = False) -> None:
        super().__init__(" ".join(str(error).split()))
        self.half = half


def _add(pack: zipfile.ZipFile, name: str, file: Path) -> None:
    """Raises _Unreadable; OSError: the archive cannot be written."""
    about = zipfile.ZipInfo(name, WHEN)
    about.compress_type = zipfile.ZIP_STORED if file.suffix in PACKED else zipfile.ZIP_DEFLATED
    about.external_attr = 0o644 << 16
    try:
        stream = io.BytesIO(_weights_alone(file.parent).encode()) if _is_manifest(file) else open_file(file)
    except DAMAGED as error:
        raise _Unreadable(error) from error
    with stream:
        about.file_size = stream.seek(0, io.SEEK_END)  # so that large ones get ZIP64 headers
        stream.seek(0)
        with pack.open(about, "w") as target:
            while part := _read(stream):
                target.write(part)


def _read(stream: io.BufferedIOBase) -> bytes:
    try:
        return stream.read(BUFFER_BYTES)
    except OSError as error:
        raise _Unreadable(error, half=True) from error


def _weights_alone(checkpoint: Path) -> str:
    """The manifest of a checkpoint without its moments: it can be scored and predict, not be resumed."""
    listed = manifest.read_manifest(checkpoint)
    return json.dumps(manifest.manifest_of({name: listed[name] for name in CHECKPOINT}), indent=1) + "\n"
