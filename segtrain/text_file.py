"""Text that a user names as a file: a config, a split, a list of people."""

import errno
import io
import os
import stat
from pathlib import Path

MAX_TEXT_BYTES = 256 * 2**20


def open_file(path: Path) -> io.BufferedReader:
    """A file to be read. Raises OSError: also of a pipe, which would be waited for, and a device, which may not end."""
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except ValueError as error:  # a zero byte, or half a letter
        raise OSError(errno.EINVAL, "no name of a file", ascii(str(path))) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    return file


def text_of(path: Path, limit_bytes: int = MAX_TEXT_BYTES, errors: str = "strict") -> str:
    """The text of a file, UTF-8. Raises OSError: also of what is no file, or larger than any text that is read so."""
    with open_file(path) as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes >> 20} MiB", str(path))
    return content.decode("utf-8", errors)
