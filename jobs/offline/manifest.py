"""The manifest of a mirrored folder, manifest.json: its files and how far the run is. It lies there twice."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.offline.location import Location, one_line
from jobs.offline.objects import READS, Entry
from segtrain.errors import DAMAGED, DataError
from segtrain.run import Run

MANIFEST = "manifest.json"
COPY = "manifest.copy.json"
WRITES = 3  # of a manifest, until it is read back as it was written


class Damaged(DataError):
    """The manifest is not what was written, and its copy neither."""


@dataclass(frozen=True)
class Manifest:
    """What a mirror holds: the files by path in the folder; the run's last step, and whether the run is finished."""

    files: Mapping[str, Entry]
    step: int
    finished: bool

    @property
    def progress(self) -> tuple[int, bool]:
        """Of two mirrors, or a mirror and a folder, the larger is further."""
        return self.step, self.finished


def progress(folder: Path) -> tuple[int, bool]:
    """The same of a run's folder."""
    run = Run(folder)
    outcome = None
    with contextlib.suppress(*DAMAGED):
        outcome = run.outcome()
    return run.saved_step(), outcome is not None and outcome.state == "finished"


def read(mirror: Location) -> Manifest | None:
    """The manifest of a mirror; None where there is none.

    Raises Damaged; DataError: it names a file outside of the run; what the file system raises.
    """
    damage: Exception | None = None
    for name in (MANIFEST, COPY) * READS:
        try:
            return _parsed((mirror / name).read(), mirror)
        except FileNotFoundError:  # not exists(), which also says no of a store that does not answer
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            damage = error
    if damage:
        raise Damaged(f"{mirror}: is damaged ({MANIFEST} and its copy: {one_line(damage)})") from damage
    return None


def write(mirror: Location, manifest: Manifest) -> None:
    """Write both manifests, and read them back."""
    files = {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in manifest.files.items()}
    tree = {"files": files, "step": manifest.step, "finished": manifest.finished}
    content = json.dumps(tree | {"check": _check(tree)}, indent=1).encode()
    for name in (MANIFEST, COPY):
        for _ in range(WRITES):
            (mirror / name).write(content)
            if (mirror / name).read() == content:
                break
        else:
            raise OSError(f"{mirror / name}: is not what was written")


def _check(tree: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest without this line."""
    rest = {key: value for key, value in tree.items() if key != "check"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _parsed(content: bytes, mirror: Location) -> Manifest:
    tree = json.loads(content)
    if tree.get("check", _check(tree)) != _check(tree):  # one from before there was a check is taken as it is
        raise ValueError("its check does not fit")
    entries = {name: Entry(int(entry["bytes"]), str(entry["sha256"])) for name, entry in tree["files"].items()}
    for name in entries:
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise DataError(f"{mirror}: its manifest names {name}, which is outside of the run; rename the mirror")
    return Manifest(entries, int(tree["step"]), bool(tree["finished"]))
