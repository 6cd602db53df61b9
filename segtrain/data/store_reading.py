"""What goes wrong when a store is read: a folder that is away is waited for, errors say what to do."""

import errno
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from segtrain.errors import DataError
from segtrain.runtime import files, machine
from segtrain.runtime.outbox import patiently

T = TypeVar("T")
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# A folder, a pipe or far more in place of a file; a name that no file has.
NO_FILE = (errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.EFBIG, errno.ENAMETOOLONG)


def waited_for(path: Path, work: Callable[[], T]) -> T:
    """The result of reading in the store's folder; waits for one that is away. Raises DataError: it does not return."""
    try:
        return patiently(path, work)
    except OSError as error:
        if machine.shortage(error):  # told by whoever ends the command
            raise
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be read ({reason}); bring the folder back and try again") from error


def is_folder(path: Path) -> bool:
    """Whether there is a folder. Raises DataError: it is private; OSError where that cannot be told now."""
    try:
        with readable(path):
            return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if error.errno in NOT_THERE:
            return False
        raise


def means_damage(error: OSError) -> bool:
    """Whether a file of a store that is there is missing or no file, which waiting does not mend."""
    return error.errno in (*NOT_THERE, *NO_FILE)


def damaged(path: Path, error: OSError | ValueError) -> DataError:
    """The error of a store that is not what was prepared."""
    reason = " ".join(str(error).split())
    return DataError(f"{path}: damaged store ({reason}); rename it and it is built again")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns a lack of rights in the block into a DataError that says whose the store, or a file of it, is."""
    try:
        yield
    except PermissionError as error:
        barrier = files.barrier(Path(error.filename or path))
        raise DataError(
            f"{path}: a private store: {barrier}; prepare another one with data.store=FOLDER, or ask for that one's "
            "rights"
        ) from error
