"""Run directories mirrored to a folder or any address of fsspec, and fetched from there on another machine.

<address>/<queue>/<run>/manifest.json       path to size and SHA-256; step and state of the run
<address>/<queue>/<run>/objects/<sha256>    the files' content
<address>/<queue>/.queue/...                the same for the queue's journal and logs
<address>/<queue>/results.zip, .sha256      when the queue has ended

Objects go first, the manifest last: an upload that is cut off leaves the earlier one whole. What is fetched is verified
beside the run's directory and renamed, so that a run is fetched whole or not at all.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from jobs.offline import store_retry
from segtrain.config import first_difference, from_tree
from segtrain.errors import ConfigError, DataError, RunError
from segtrain.run import Run, layout
from segtrain.runtime import files

log = logging.getLogger("segtrain.queue")

MANIFEST = "manifest.json"
OWN = ".queue"
JOURNAL = "journal.jsonl"
LARGE_BYTES = 64 * 2**20  # files below this are read into memory
BUFFER_BYTES = 4 * 2**20
ANSWER_S = 60.0  # that a store may take for its first answer


@dataclass(frozen=True)
class Location:
    """A folder on a file system of fsspec."""

    fs: Any
    path: str

    def __truediv__(self, name: str) -> "Location":
        return Location(self.fs, f"{self.path.rstrip('/')}/{name}")

    @property
    def is_local(self) -> bool:
        return "file" in self.fs.protocol

    def __str__(self) -> str:
        return str(self.fs.unstrip_protocol(self.path))


MISTAKES = (  # in the address, which waiting does not mend
    ValueError,
    TypeError,
    PermissionError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)


def locate(address: str) -> Location:
    """The location that an address names. Raises ConfigError: unknown protocol, a package that is missing, no access.

    Whether it answers is not known then: a network may come up later than this machine.
    """
    from fsspec.core import url_to_fs  # a tenth of a second

    try:
        fs, path = url_to_fs(address)
        try:
            store_retry.call(lambda: _make_folder(Location(fs, path)), store_retry.limit(ANSWER_S, lambda: 0))
        except Exception as error:  # each file system has errors of its own
            local = "file" in fs.protocol and not isinstance(error, store_retry.Unanswered)
            unknown = "Credentials" in type(error).__name__  # of botocore or google-auth, which need not be there
            if local or unknown or isinstance(error, MISTAKES):
                raise
            log.warning("sync: %s: does not answer (%s); trying again", address, _message(error))
        return Location(fs, path)
    except ImportError as error:
        raise ConfigError(
            f"sync: {address}: {error}, for example pip install s3fs for s3://, gcsfs for gs://"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"sync: {address}: cannot be used ({_message(error)}); name a folder or an address"
        ) from error


def _message(error: Exception) -> str:
    message = str(error) if isinstance(error, store_retry.Unanswered) else f"{type(error).__name__}: {error}"
    return " ".join(message.split())[:300]


def push(to: Location, folder: Path, only: Sequence[Path] | None = None) -> int:
    """Mirror a run's directory, or `only` these files below a folder; returns the number of bytes sent.

    Raises what the file systems raise, also FileNotFoundError when a checkpoint is pruned meanwhile: the mirror then
    stays as it was. Raises DataError: the mirror is of a run with another config.
    """
    to.fs.invalidate_cache()
    _refuse_another(to, folder)
    objects = to / "objects"
    sent = 0
    listed = {}
    _make_folder(objects)
    try:
        infos = to.fs.ls(objects.path, detail=True)
    except FileNotFoundError:  # a store of objects has no empty folders
        infos = []
    there = {PurePosixPath(info["name"]).name: info["size"] for info in infos}
    for file in _files(folder) if only is None else only:
        name = file.relative_to(folder)
        with _still(file, grows=name.parts[0] != layout.CHECKPOINTS) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.seek(0, os.SEEK_END)
            listed[name.as_posix()] = {"bytes": size, "sha256": digest}
            if there.get(digest) == size:
                continue
            with _writing(objects / digest) as path:
                if isinstance(stream, io.BytesIO):
                    to.fs.pipe_file(path, stream.getvalue())
                else:
                    to.fs.put_file(stream.name, path)
        there[digest] = size
        sent += size
    run = Run(folder)
    about = {"files": listed, "step": run.saved_step(), "finished": _is_finished(run)}
    _replace(to / MANIFEST, json.dumps(about, indent=1).encode())
    for digest in set(there) - {entry["sha256"] for entry in listed.values()}:
        to.fs.rm_file((objects / digest).path)
    return sent


def _make_folder(to: Location) -> None:
    if to.is_local:
        files.make_folder(Path(to.path))
    else:
        to.fs.makedirs(to.path, exist_ok=True)


@contextmanager
def _writing(to: Location) -> Iterator[str]:
    """The path of a file, for it to be written: in a folder that a group shares, whoever left half of it there."""
    if to.is_local:
        Path(to.path).unlink(missing_ok=True)
    yield to.path
    if to.is_local:
        files.share(Path(to.path))


@contextmanager
def _still(file: Path, grows: bool) -> Iterator[Any]:
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
                copy.seek(0)
                yield copy


def fetch(source: Location, folder: Path) -> bool:
    """Fetch a run's directory if it is missing here, or behind the mirror; returns whether it was fetched.

    Raises DataError: the mirror of it is damaged, or of a run with another config; RunError: it does not answer.
    """
    aside = folder.with_name(f".{folder.name}.fetched")
    try:
        source.fs.invalidate_cache()
        try:  # not exists(), which also says no of a store that does not answer
            about = json.loads(source.fs.cat_file((source / MANIFEST).path))
        except FileNotFoundError:
            return False
        _refuse_another(source, folder)
        here = Run(folder)
        ours = here.saved_step(), _is_finished(here)
        if folder.exists() and ours >= (int(about["step"]), bool(about["finished"])):
            return False
        shutil.rmtree(aside, ignore_errors=True)
        for name, entry in about["files"].items():
            _bring(source / "objects" / entry["sha256"], aside, name, entry["sha256"])
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(
            f"{source}: may not be read ({_message(error)}); ask its owner for the rights, or name another --sync"
        ) from error
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: is damaged ({_message(error)}); rename it, and the run is trained anew") from error
    except Exception as error:
        raise RunError(f"{source}: cannot be fetched ({_message(error)}); see that it can be reached") from error
    if folder.exists():
        files.remove_folder(folder)
    files.share_all(aside)
    files.rename(aside, folder)
    return True


def _refuse_another(mirror: Location, folder: Path) -> None:
    """Raise DataError where mirror and folder hold runs of two configs: one would replace the other."""
    here = Run(folder).config_file
    if not here.exists():
        return
    ours = hashlib.sha256(here.read_bytes()).hexdigest()
    try:
        digest = json.loads(mirror.fs.cat_file((mirror / MANIFEST).path))["files"][layout.CONFIG]["sha256"]
        content = mirror.fs.cat_file((mirror / "objects" / digest).path) if digest != ours else b""
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return  # nothing is mirrored, or it is damaged: fetching says so, pushing mends it
    if digest == ours or hashlib.sha256(content).hexdigest() != digest:
        return
    try:
        different = first_difference(Run(folder).config(), from_tree(yaml.safe_load(content), where=str(mirror)))
    except (ConfigError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:300]
        raise DataError(f"{mirror}: cannot be compared with {folder} ({why}); rename one of the two") from error
    if different:
        key, mine, theirs = different
        raise DataError(
            f"{mirror}: mirrors a run that has {key}={theirs}, not {mine} as {folder} has; give the run another name, "
            "or --sync another address, or rename one of the two"
        )


def _bring(source: Location, aside: Path, name: str, sha256: str) -> None:
    target = aside / name
    if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise DataError(f"{source}: its manifest names {name}, which is outside of the run; rename it")
    target.parent.mkdir(parents=True, exist_ok=True)
    source.fs.get_file(source.path, str(target))
    with target.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise DataError(
                f"{source}: is damaged: {name} is not what was sent; rename it, and the run is trained anew"
            )
    files.sync_file(target)


def put(to: Location, file: Path) -> None:
    """Mirror a file under its own name, whole or not at all."""
    with _writing(to / f".{file.name}.part") as aside:
        to.fs.put_file(str(file), aside)
    to.fs.mv(aside, (to / file.name).path)


def _replace(to: Location, content: bytes) -> None:
    with _writing(Location(to.fs, f"{to.path}.part")) as aside:
        to.fs.pipe_file(aside, content)
    to.fs.mv(aside, to.path)


def _files(folder: Path) -> Iterator[Path]:
    """The files to mirror: none that is being written, no damaged checkpoint."""
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(part.startswith(".") or layout.is_damaged_checkpoint(part) for part in parts):
            yield file


def fetch_journal(source: Location, folder: Path) -> None:
    """Fetch the queue's own files to a machine that has none of them. Raises like `fetch`."""
    if (folder / JOURNAL).exists():
        return
    aside = folder / ".queue"
    fetch(source / OWN, aside)
    if aside.exists():  # just now, or by a start that was killed while it moved them
        for file in sorted(aside.rglob("*"), key=lambda file: file.name == JOURNAL):  # the journal last
            target = folder / file.relative_to(aside)
            if file.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)
        shutil.rmtree(aside)


def _is_finished(run: Run) -> bool:
    outcome = run.outcome()
    return outcome is not None and outcome.state == "finished"
