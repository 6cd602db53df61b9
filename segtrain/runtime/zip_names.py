"""Names in archives that every system can unpack, and nothing beside the folder into which it is unpacked."""

import hashlib
import os
import re
from pathlib import PurePath

from segtrain.runtime.visible import CONTROL

# What Windows takes for drives, folders or patterns, and what no name should hold.
_UNFIT = re.compile(rf'[\\/:*?"<>|{CONTROL}]|[. ]+$')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows, whatever its ending


def zip_name(path: PurePath) -> str:
    """The name of a file of a folder in the folder's archive, in parts that are plain.

    A part that is not is changed, and marked by its hash, so that two of them stay two.
    """
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{path}: does not lie in the folder of the archive")
    return "/".join(map(_plain, path.parts))


def _plain(part: str) -> str:
    raw = os.fsencode(part)
    plain = _UNFIT.sub("_", raw.decode(errors="replace"))
    if _DEVICE.fullmatch(plain):
        plain = f"_{plain}"
    if plain == part:
        return part
    name, dot, ending = plain.rpartition(".")
    mark = hashlib.sha256(raw).hexdigest()[:8]
    return f"{name}-{mark}.{ending}" if name and dot else f"{plain}-{mark}"
