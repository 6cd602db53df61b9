"""results.zip in the mirror: sent with its checksum, and never in the place of one that holds more."""

import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.offline import archive
from jobs.offline.damage import checkpoint_of
from jobs.offline.location import Location
from jobs.offline.objects import READS, Entry, Proven, sha256_of
from segtrain.config.json_text import parse_json
from segtrain.errors import DAMAGED, DataError
from segtrain.run import Outcome, RunLayout, layout
from segtrain.run.outcome import outcome_from_json

LARGEST_OUTCOME_BYTES = 2**20
WRITES = 3  # of a file, until the store has it as it is here

Progress = tuple[int, bool]  # of a run: its last step, and whether it is finished
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, ValueError, LookupError, TypeError, EOFError, NotImplementedError)


def put(to: Location, packed: Path, proven: Proven | None = None) -> None:
    """Mirror the archive and its checksum. Raises DataError: the mirror's holds more of a run, and is whole."""
    proven = proven or Proven()
    entry = _entry(packed)
    listing = to.listing()
    info = listing.get(packed.name)
    if not proven.holds(to / packed.name, info, entry):
        if info is not None and (missing := _missing(to, packed)):
            raise DataError(
                f"{to / packed.name}: kept, since it holds more than {packed}: {missing}; to replace it, remove it, "
                "and run the same command again"
            )
        _send(to, packed, proven)
    _send(to, archive.checksum(packed), proven)


def _send(to: Location, file: Path, proven: Proven) -> None:
    """Write a file until the store has it as it is here. Raises OSError."""
    entry = _entry(file)
    for _ in range(WRITES):
        if proven.holds(to / file.name, to.listing().get(file.name), entry):
            return
        (to / file.name).write(file)
    if not proven.holds(to / file.name, to.listing().get(file.name), entry):
        raise OSError(f"{to / file.name}: is not what was sent")


def _entry(file: Path) -> Entry:
    with file.open("rb") as stream:
        return Entry.of(stream)


def _missing(to: Location, packed: Path) -> str:
    """What the mirror's archive holds that the one here does not; "" if that is nothing, or it is damaged.

    Raises OSError: it cannot be read now.
    """
    theirs, ours = _held(to / packed.name), _held(packed) or {}
    if theirs is None:
        if _has_its_checksum(to, packed.name):  # zipfile takes an error of the network for damage
            raise OSError(f"{to / packed.name}: cannot be read")
        return ""
    behind = sorted(run for run, progress in theirs.items() if progress > ours.get(run, (-1, False)))
    if not behind or not (_has_its_checksum(to, packed.name) or _has_its_sums(to / packed.name)):
        return ""
    run = behind[0]
    here = f"at step {ours[run][0]} here" if run in ours else "not here"
    others = f", and {len(behind) - 1} more runs" if len(behind) > 1 else ""
    return f"{run}, {here}, is at step {theirs[run][0]} there{others}"


def _held(file: Location | Path) -> dict[str, Progress] | None:
    """How far the runs in an archive are; None if it cannot be read as one."""
    for _ in range(READS):
        try:
            with _opened(file) as stream:
                return _progress(zipfile.ZipFile(stream))
        except DAMAGED_ZIP:
            continue
    return None


def _progress(pack: zipfile.ZipFile) -> dict[str, Progress]:
    held: dict[str, Progress] = {}
    for name in pack.namelist():
        run, *rest = PurePosixPath(name).parts[1:]  # below the queue's folder
        inside = "/".join(rest)
        step, is_finished = held.get(run, (0, False))
        if checkpoint := checkpoint_of(inside):
            held[run] = max(step, layout.step_of(checkpoint) or 0), is_finished
        elif inside == RunLayout(Path()).outcome_file.name:
            outcome = _outcome(pack, name)
            held[run] = max(step, outcome.step if outcome else 0), outcome is not None and outcome.state == "finished"
        elif inside == layout.CONFIG:
            held[run] = step, is_finished
    return held


def _outcome(pack: zipfile.ZipFile, name: str) -> Outcome | None:
    """The outcome of a run in an archive; None of one that is damaged, or is larger than any outcome."""
    if pack.getinfo(name).file_size > LARGEST_OUTCOME_BYTES:
        return None
    content = pack.read(name)
    try:
        return outcome_from_json(parse_json(content.decode("utf-8")))
    except DAMAGED:
        return None


def _has_its_checksum(to: Location, name: str) -> bool:
    """Whether an archive in the mirror is what the checksum beside it says."""
    try:
        stated = (to / archive.checksum(Path(name)).name).read().split()[0].decode()
    except (FileNotFoundError, ValueError, IndexError):
        return False
    return any(sha256_of(to / name) == stated for _ in range(READS))


def _has_its_sums(file: Location) -> bool:
    """Whether all that an archive in the mirror holds is what its own sums say."""
    for _ in range(READS):
        try:
            with _opened(file) as stream:
                if zipfile.ZipFile(stream).testzip() is None:
                    return True
        except DAMAGED_ZIP:
            continue
    return False


def _opened(file: Location | Path) -> Any:
    return file.open("rb") if isinstance(file, Path) else file.fs.open(file.path, "rb")
