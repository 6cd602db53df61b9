"""results.zip: the results of a queue, to be taken home. Without optimiser moments, which only resuming needs."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from segtrain.run import Run, layout
from segtrain.runtime import files

NAME = "results.zip"
PACKED = (".safetensors", ".png", ".zip", ".jpg")  # deflating them again gains nothing
WHEN = (1980, 1, 1, 0, 0, 0)  # equal results, equal archives
CHECKPOINT = (layout.MODEL, layout.STATE)
BUFFER_BYTES = 4 * 2**20


def contents(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files of the queue's folder under their names in the archive; of checkpoints the best and the last weights.

    Hidden files, locks and the archive itself stay out.
    """
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if hidden or file.is_symlink() or not file.is_file() or parts[0].startswith(NAME):
            continue
        if len(parts) > 2 and parts[1] == layout.CHECKPOINTS and not _wanted(Run(folder / parts[0]), parts[2:]):
            continue
        yield "/".join((folder.name, *parts)), file


def _wanted(run: Run, parts: tuple[str, ...]) -> bool:
    """Whether a file below a run's checkpoints/ is packed."""
    if len(parts) == 1:
        return True  # a pointer
    return parts[0] in run.pointed_checkpoints() and parts[1] in (*CHECKPOINT, layout.MANIFEST)


def size_bytes(folder: Path) -> int:
    """The largest size that the archive can have, for the space that must be free."""
    return sum(file.stat().st_size + 1024 for _, file in contents(folder))


def write(folder: Path, go_on: Callable[[], bool] = lambda: True) -> Path | None:
    """Write results.zip into the queue's folder, aside and then renamed, and its checksum for `sha256sum -c`.

    None, and nothing changed, when `go_on` says no between two files.
    """
    archive, aside = folder / NAME, folder / f".{NAME}.tmp"
    aside.unlink(missing_ok=True)
    try:
        with zipfile.ZipFile(aside, "w", allowZip64=True) as pack:
            for name, file in contents(folder):
                if not go_on():
                    return None
                _add(pack, name, file)
        files.share(aside)
        files.sync_file(aside)
        with aside.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        checksum(archive).unlink(missing_ok=True)  # of the archive before
        files.rename(aside, archive)
        files.write_text(checksum(archive), f"{digest}  {NAME}\n")
    finally:
        aside.unlink(missing_ok=True)
    return archive


def checksum(archive: Path) -> Path:
    """The file that sha256sum -c takes."""
    return archive.with_name(f"{archive.name}.sha256")


def _add(pack: zipfile.ZipFile, name: str, file: Path) -> None:
    about = zipfile.ZipInfo(name, WHEN)
    about.compress_type = zipfile.ZIP_STORED if file.suffix in PACKED else zipfile.ZIP_DEFLATED
    about.external_attr = 0o644 << 16
    if file.name == layout.MANIFEST and file.parent.parent.name == layout.CHECKPOINTS:
        pack.writestr(about, _weights_alone(json.loads(file.read_text(encoding="utf-8"))))
        return
    about.file_size = file.stat().st_size  # so that large ones get ZIP64 headers
    with file.open("rb") as stream, pack.open(about, "w") as target:
        shutil.copyfileobj(stream, target, BUFFER_BYTES)


def _weights_alone(manifest: Mapping[str, object]) -> str:
    """The manifest of a checkpoint without its moments: it can be scored and predict, not be resumed."""
    return json.dumps({name: manifest[name] for name in manifest if name in CHECKPOINT}, indent=1) + "\n"
