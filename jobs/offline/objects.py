"""The content of a mirror's files: hashed, sent, compared, brought back.

A small file lies there twice, since what it holds (curves, tables, the journal) no training makes again; of checkpoints
a run has more than one.
"""

import base64
import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.offline.location import Location
from segtrain.runtime import files
from segtrain.text_file import open_file

LARGE_BYTES = 64 * 2**20  # files below this are read into memory
TWICE_BYTES = 2**20  # files below this are kept twice
BUFFER_BYTES = 4 * 2**20
READS = 2  # of an object, before it is believed to be damaged: a connection may be at fault


@dataclass(frozen=True)
class Entry:
    """The content of one file. `md5`: known of a file here, to be compared with what a store tells."""

    bytes: int
    sha256: str
    md5: str = ""

    @classmethod
    def of(cls, stream: Any) -> "Entry":
        """The content of a stream, from its beginning."""
        stream.seek(0)
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        size = 0
        while part := stream.read(BUFFER_BYTES):
            sha256.update(part)
            md5.update(part)
            size += len(part)
        return cls(size, sha256.hexdigest(), md5.hexdigest())

    @property
    def objects(self) -> tuple[str, ...]:
        """The names under which it lies in the mirror."""
        return (self.sha256, f"{self.sha256}.copy") if self.bytes < TWICE_BYTES else (self.sha256,)


class Proven:
    """Compares files of a mirror with what was sent, each once while the store tells the same of it."""

    def __init__(self) -> None:
        self._proofs: dict[str, str] = {}

    def holds(self, file: Location, info: Mapping[str, Any] | None, entry: Entry) -> bool:
        """Whether a file of the mirror has this content. `info`: what its folder's listing tells of it.

        Object stores tell the MD5 of a file that was sent in one piece; all else is read.
        """
        if info is None or info["size"] != entry.bytes:
            return False
        proof = f"{entry.sha256} {sorted((key, str(value)) for key, value in info.items())}"
        if self._proofs.get(file.path) == proof:
            return True
        if (entry.md5 and entry.md5 in _md5s(info)) or sha256_of(file) == entry.sha256:
            self._proofs[file.path] = proof
            return True
        return False


def _md5s(info: Mapping[str, Any]) -> set[str]:
    """The MD5 of a file as S3 and Google tell it; an ETag that is none equals no MD5."""
    md5s = {str(info.get("ETag", "")).strip('"')}
    with contextlib.suppress(ValueError):
        md5s.add(base64.b64decode(str(info.get("md5Hash", ""))).hex())
    return md5s


def sha256_of(file: Location | Path) -> str:
    """The SHA-256 of a file's content."""
    with open_file(file) if isinstance(file, Path) else file.fs.open(file.path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def still(file: Path, grows: bool) -> Iterator[Any]:
    """A file's content now, open for reading, the same for its hash and its upload.

    A small file comes from memory, a large one that `grows` (log, curves) from a copy.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size < LARGE_BYTES:
            yield io.BytesIO(stream.read(size))
        elif not grows:
            yield stream
        else:
            with tempfile.NamedTemporaryFile(prefix=".sync-", dir=file.parent) as copy:
                while part := stream.read(min(size - copy.tell(), BUFFER_BYTES)):
                    copy.write(part)
                copy.flush()
                yield copy


def send(stream: Any, to: Location) -> None:
    """Write a stream of `still` to the mirror."""
    to.write(stream.getvalue() if isinstance(stream, io.BytesIO) else Path(stream.name))


def bring(objects: Location, entry: Entry, target: Path, near: Sequence[Path] = ()) -> bool:
    """Whether `target` has this content now: it had it, or it comes from a file that is `near`, or from the mirror.

    Raises what the file system raises where the mirror does not answer, which says nothing of the content.
    """
    if _is(target, entry):
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    for file in near:
        if _is(file, entry):
            shutil.copyfile(file, target)
            return _is(target, entry)
    for name in entry.objects * READS:
        with contextlib.suppress(FileNotFoundError):
            objects.fs.get_file((objects / name).path, str(target))
            if _is(target, entry):
                files.sync_file(target)
                return True
    target.unlink(missing_ok=True)
    return False


def content(objects: Location, entry: Entry) -> bytes | None:
    """The content of a small file of the mirror; None if it is not there whole."""
    for name in entry.objects * READS:
        with contextlib.suppress(FileNotFoundError):
            data = (objects / name).read()
            if hashlib.sha256(data).hexdigest() == entry.sha256:
                return data
    return None


def _is(file: Path, entry: Entry) -> bool:
    """Whether a file here has this content."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return file.is_file() and file.stat().st_size == entry.bytes and sha256_of(file) == entry.sha256
    return False
