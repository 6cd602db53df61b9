"""A folder at any address of fsspec: found, listed, read, written whole.

An object store has buckets and keys, no folders: each upload to it is whole or not there, and a bucket is never made.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.offline import store_retry
from segtrain.errors import ConfigError
from segtrain.runtime import files

log = logging.getLogger("segtrain.queue")

ANSWER_S = 60.0  # that a store may take for its first answer
MISTAKES = (  # in the address, which waiting does not mend
    ValueError,
    TypeError,
    PermissionError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)


@dataclass(frozen=True)
class Location:
    """A file or a folder on a file system of fsspec."""

    fs: Any
    path: str

    def __truediv__(self, name: str) -> "Location":
        return Location(self.fs, f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return str(self.fs.unstrip_protocol(self.path))

    @property
    def is_local(self) -> bool:
        return "file" in self.fs.protocol

    @property
    def bucket(self) -> str:
        """The bucket, or whatever an object store calls it; empty on a file system with folders."""
        return "" if self.path.startswith("/") else self.path.split("/")[0]

    def listing(self) -> dict[str, Mapping[str, Any]]:
        """What fsspec tells of each file in this folder, by name; nothing where there is no such folder."""
        self.fs.invalidate_cache()
        try:
            infos = self.fs.ls(self.path, detail=True)
        except FileNotFoundError:  # a store of objects has no empty folders
            return {}
        return {PurePosixPath(info["name"]).name: info for info in infos}

    def read(self) -> bytes:
        """The content of this file."""
        self.fs.invalidate_cache()
        return bytes(self.fs.cat_file(self.path))

    def make_folder(self) -> None:
        """Make the folder where there are folders. In an object store this would make the bucket."""
        if self.is_local:
            files.make_folder(Path(self.path))
        elif not self.bucket:
            self.fs.makedirs(self.path, exist_ok=True)

    def write(self, content: bytes | Path) -> None:
        """Put the content, or a local file's, here: whole or not at all."""
        path = PurePosixPath(self.path)
        aside = self.path if self.bucket else str(path.with_name(f".{path.name}.part"))
        if self.is_local:
            Path(aside).unlink(missing_ok=True)  # another user's, in a folder that a group shares
        if isinstance(content, Path):
            self.fs.put_file(str(content), aside)
        else:
            self.fs.pipe_file(aside, content)
        if self.is_local:
            files.share(Path(aside))
        if aside != self.path:
            self.fs.mv(aside, self.path)

    def remove(self) -> None:
        """Remove this file."""
        self.fs.rm_file(self.path)


def locate(address: str) -> Location:
    """The location that an address names.

    Raises ConfigError: unknown protocol, a package that is missing, no access, no such bucket. Whether it answers is
    not known then: a network may come up later than this machine.
    """
    from fsspec.core import url_to_fs  # a tenth of a second

    try:
        location = Location(*url_to_fs(address))
        try:
            store_retry.call(lambda: _try_out(location), store_retry.limit(ANSWER_S, lambda: 0))
        except ConfigError:
            raise
        except Exception as error:  # each file system has errors of its own
            is_local_error = location.is_local and not isinstance(error, store_retry.Unanswered)
            unknown = "Credentials" in type(error).__name__  # of botocore or google-auth, which need not be there
            if is_local_error or unknown or isinstance(error, MISTAKES):
                raise
            log.warning("sync: %s: does not answer (%s); trying again", address, one_line(error))
        return location
    except ConfigError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"sync: {address}: {error}, for example pip install s3fs for s3://, gcsfs for gs://"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"sync: {address}: cannot be used ({one_line(error)}); name a folder or an address"
        ) from error


def _try_out(location: Location) -> None:
    """Make the folder, or see that the bucket is there."""
    location.make_folder()
    if not location.bucket:
        return
    try:
        location.fs.ls(location.path)
    except FileNotFoundError:  # of the bucket, or of what is in it
        try:
            location.fs.info(location.bucket)
        except FileNotFoundError:
            raise ConfigError(
                f"sync: {location}: there is no bucket {location.bucket}; correct the address, or make the bucket"
            ) from None
        except PermissionError:  # some may use a folder of it alone
            pass


def one_line(error: Exception) -> str:
    """An error as part of a sentence."""
    message = str(error) if isinstance(error, store_retry.Unanswered) else f"{type(error).__name__}: {error}"
    return " ".join(message.split())[:300]
