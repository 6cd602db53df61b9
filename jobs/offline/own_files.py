"""The queue's own files, journal and logs, mirrored and fetched: what both sides have added is kept."""

import json
import logging
import shutil
from collections import Counter
from datetime import datetime
from pathlib import Path

from jobs.offline import manifest as manifests
from jobs.offline import sync
from jobs.offline.location import Location
from jobs.offline.manifest import Damaged
from jobs.offline.objects import Proven, bring
from jobs.queue.journal import FILE as JOURNAL
from segtrain.runtime import files
from segtrain.runtime.process import flush_log

log = logging.getLogger("segtrain.queue")

OWN = ".queue"


def push(to: Location, folder: Path, proven: Proven | None = None) -> int:
    """Mirror the queue's own files; returns the number of bytes sent."""
    own = [*folder.glob("*.jsonl"), *folder.glob("*.txt"), *folder.glob("logs/*.log")]
    return sync.push(to / OWN, folder, sorted(file for file in own if file.is_file()), proven)


def fetch(source: Location, folder: Path) -> None:
    """Add to the queue's own files what another machine wrote after they were last here. Raises like `sync.fetch`."""
    mirror, aside = source / OWN, folder / OWN
    shutil.rmtree(aside, ignore_errors=True)  # of a start that was killed
    with sync.explained(mirror):
        try:
            theirs = manifests.read(mirror)
        except Damaged as error:
            log.warning("%s; going on with the journal that is here", error)
            return
        for name, entry in theirs.files.items() if theirs else ():
            if not bring(mirror / sync.OBJECTS, entry, aside / name, [folder / name]):
                log.warning("%s: %s is lost; going on with what is here", mirror, name)
    flush_log()
    for file in sorted(aside.rglob("*")):
        if file.is_file():
            _add(file, folder / file.relative_to(aside))
    shutil.rmtree(aside, ignore_errors=True)


def _add(theirs: Path, ours: Path) -> None:
    """Put into `ours` what both files hold."""
    here = ours.read_bytes() if ours.exists() else b""
    both = merged(here, theirs.read_bytes(), by_time=ours.name == JOURNAL)
    if both != here:
        files.make_folder(ours.parent)
        theirs.write_bytes(both)
        files.share(theirs)
        files.sync_file(theirs)
        files.rename(theirs, ours)


def merged(ours: bytes, theirs: bytes, by_time: bool) -> bytes:
    """The lines of two files that began as one and were added to on two machines.

    What both have comes first, then what the mirror has, then what is here; in a journal in the order of the time.
    """
    one, other = (content.splitlines(keepends=True) for content in (ours, theirs))
    shared = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    theirs_alone, ours_alone = other[shared:], []
    known = Counter(theirs_alone)
    for line in one[shared:]:
        if not known[line]:
            ours_alone.append(line)
        known[line] -= known[line] > 0
    added = [*theirs_alone, *ours_alone]
    if by_time and theirs_alone and ours_alone:
        added.sort(key=_time_s)
    lines = [*other[:shared], *added]
    return b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines[:-1]) + b"".join(lines[-1:])


def _time_s(line: bytes) -> float:
    """When an entry of the journal was written, in seconds since the epoch; 0 of one that cannot be read."""
    try:
        return datetime.fromisoformat(json.loads(line)["time"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return 0.0
