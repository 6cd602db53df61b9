"""Run directories mirrored to a folder or any address of fsspec, and fetched from there on another machine.

<address>/<queue>/<run>/manifest.json, manifest.copy.json    path to size and SHA-256; step and state of the run
<address>/<queue>/<run>/objects/<sha256>, <sha256>.copy      the files' content; of small files a copy
<address>/<queue>/<run>.damaged-1/...                        a mirror that could not be used, kept
<address>/<queue>/.queue/...                                 the same for the queue's journal and logs (own_files)
<address>/<queue>/results.zip, .sha256                       when the queue has ended (results)

Objects go first, the manifest last: an upload that is cut off leaves the earlier one whole. What is fetched is verified
beside the run's directory and renamed, so that a run is never half there. Whoever has a file whole mends the other:
a push sends what is missing or damaged in the mirror, a fetch brings what is damaged here. Less never replaces more.
"""

import errno
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from jobs.offline import damage
from jobs.offline import manifest as manifests
from jobs.offline.location import Location, one_line
from jobs.offline.manifest import Damaged, Manifest, progress
from jobs.offline.objects import Entry, Proven, bring, content, sha256_of
from jobs.offline.upload import Upload
from segtrain.config import first_difference, from_tree
from segtrain.config.yaml_text import parse_yaml
from segtrain.errors import ConfigError, DataError, LaunchError, RunError
from segtrain.run import Run, layout
from segtrain.runtime import files

log = logging.getLogger("segtrain.queue")

OBJECTS = "objects"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def push(to: Location, folder: Path, only: Sequence[Path] | None = None, proven: Proven | None = None) -> int:
    """Mirror a run's directory, or `only` these files below a folder; returns the number of bytes sent.

    A mirror that is further than the folder, and whole, stays. Raises what the file systems raise, also
    FileNotFoundError when a checkpoint is pruned meanwhile: the mirror then stays as it was. Raises DataError: the
    mirror is of a run with another config.
    """
    upload = Upload(to / OBJECTS, folder, proven or Proven())
    mirrored: Mapping[str, Entry] = {}
    try:
        if theirs := manifests.read(to):
            mirrored = theirs.files
            _refuse_another(to, theirs, folder)
            if only is None and theirs.progress > progress(folder) and upload.holds(mirrored.values()):
                log.info("%s: at step %d, its mirror at step %d: kept", folder, progress(folder)[0], theirs.step)
                return 0
    except Damaged as error:
        log.warning("%s; made again from %s", error, folder)
    damaged = damage.damaged_checkpoints(folder, mirrored)
    for checkpoint in sorted(damaged):
        log.warning("%s: is damaged, and not mirrored", folder / layout.CHECKPOINTS / checkpoint)
    upload.send(list(_files(folder, damaged)) if only is None else only)
    whole_there = {name: entry for name, entry in mirrored.items() if damage.checkpoint_of(name) in damaged}
    entries = upload.entries | whole_there
    steps = [layout.step_of(damage.checkpoint_of(name)) or 0 for name in entries]
    manifests.write(to, Manifest(entries, max(steps, default=0), progress(folder)[1]))
    for name in upload.objects.listing().keys() - {name for entry in entries.values() for name in entry.objects}:
        (upload.objects / name).remove()
    return upload.bytes_sent


def _files(folder: Path, damaged: Collection[str]) -> Iterator[Path]:
    """The files to mirror: none that is being written, no damaged checkpoint."""
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        is_left_out = any(part.startswith(".") or layout.is_damaged_checkpoint(part) for part in parts)
        if file.is_file() and not is_left_out and damage.checkpoint_of("/".join(parts)) not in damaged:
            yield file


def fetch(source: Location, folder: Path) -> bool:
    """Fetch a run's directory if it is missing here, or behind the mirror; returns whether it was fetched.

    Of a damaged mirror it brings what is whole. One that is of no use is moved aside, so that the run is trained anew.
    Raises DataError: the mirror is of a run with another config, or may not be read; RunError: it does not answer.
    """
    with explained(source):
        try:
            theirs = manifests.read(source)
        except Damaged as error:
            if not Run(folder).config_file.exists():
                _set_aside(source, str(error))
            return False  # else what is here mends it
        if theirs is None:
            return False
        _refuse_another(source, theirs, folder)
        if folder.exists() and progress(folder) >= theirs.progress:
            _mend(source, theirs, folder)
            return False
        return _replace(source, theirs, folder)


@contextmanager
def explained(source: Location) -> Iterator[None]:
    """Turns what a file system raises while it is read into a DataError or a RunError.

    What this machine's disk raises meanwhile is told as that; LaunchError where it is full: waiting does not mend it.
    """
    try:
        yield
    except (DataError, RunError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and (here := _place_here(error, source)):
            lasting = LaunchError if error.errno in FULL else RunError
            kind = DataError if isinstance(error, PermissionError) else lasting
            raise kind(
                f"{here}: cannot be used ({error.strerror}); free some space there, or make it readable and writable "
                "for this user, and try again"
            ) from error
        if isinstance(error, PermissionError):
            raise DataError(
                f"{source}: may not be read ({one_line(error)}); ask its owner for the rights, or name another --sync"
            ) from error
        raise RunError(f"{source}: cannot be fetched ({one_line(error)}); see that it can be reached") from error


def _place_here(error: OSError, source: Location) -> str:
    """The place on this machine, outside the mirror, where an error arose; "" where it is the mirror's."""
    is_full = error.errno in FULL  # which reading the mirror never is; of a copy the second name is the target's
    name = (error.filename2 if is_full else None) or error.filename
    place = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else Path()
    if place.is_absolute() and os.path.exists(place.parent):  # noqa: PTH110 (which raises there)
        is_mirror = source.is_local and place.is_relative_to(Path(source.path).parent)  # the mirror of the queue
        return "" if is_mirror and not is_full else str(place)
    return "the disk of the runs" if is_full else ""


def _replace(source: Location, theirs: Manifest, folder: Path) -> bool:
    """Put what the mirror has whole in the place of the folder, if that is further."""
    aside = folder.with_name(f".{folder.name}.fetched")
    lost = _bring_all(source, theirs.files, aside, folder)
    if lost:
        log.warning("%s: %d files are missing or damaged, the first is %s", source, len(lost), lost[0])
    useless = damage.without_the_lost(Run(aside), lost)
    is_behind = folder.exists() and progress(folder) >= progress(aside)
    if useless or is_behind:
        shutil.rmtree(aside)
        if folder.exists():
            log.warning("%s: %s; going on with %s, which mends it", source, useless or "is behind", folder)
        else:
            _set_aside(source, f"{source}: {useless}")
        return False
    if folder.exists():
        files.remove_folder(folder)
    files.share_all(aside)
    files.rename(aside, folder)
    return True


def _bring_all(source: Location, entries: Mapping[str, Entry], aside: Path, folder: Path) -> list[str]:
    """Bring these files, and no others, to the folder `aside`; returns those that are not to be had.

    What an earlier try has brought, or is in `folder`, is not brought again.
    """
    for file in list(aside.rglob("*")):
        if not file.is_dir() and file.relative_to(aside).as_posix() not in entries:
            file.unlink()
    aside.mkdir(parents=True, exist_ok=True)
    objects = source / OBJECTS
    return [name for name, entry in entries.items() if not bring(objects, entry, aside / name, [folder / name])]


def _mend(source: Location, theirs: Manifest, folder: Path) -> None:
    """Bring the checkpoints that are damaged here and whole in the mirror."""
    for checkpoint in sorted(damage.damaged_checkpoints(folder, theirs.files)):
        here, aside = folder / layout.CHECKPOINTS / checkpoint, folder / f".{checkpoint}.fetched"
        entries = {name: entry for name, entry in theirs.files.items() if damage.checkpoint_of(name) == checkpoint}
        brought = aside / here.relative_to(folder)
        if entries and not _bring_all(source, entries, aside, folder) and damage.is_whole(brought):
            files.remove_folder(here)
            files.share_all(brought)
            files.rename(brought, here)
            log.warning("%s: was damaged; it is whole again, from %s", here, source)
        shutil.rmtree(aside, ignore_errors=True)


def _set_aside(source: Location, why: str) -> None:
    """Move a mirror that is of no use to the first free of name.damaged-1, name.damaged-2, ..."""
    name = source.path.rpartition("/")[2]
    queue = Location(source.fs, source.path.rpartition("/")[0])
    taken = queue.listing()
    free = next(f"{name}.damaged-{n}" for n in range(1, 10_000) if f"{name}.damaged-{n}" not in taken)
    source.fs.mv(source.path, (queue / free).path, recursive=True)
    log.warning("%s; kept as %s, and the run is trained anew", why, queue / free)


def _refuse_another(mirror: Location, theirs: Manifest, folder: Path) -> None:
    """Raise DataError where mirror and folder hold runs of two configs: one would replace the other."""
    here, entry = Run(folder).config_file, theirs.files.get(layout.CONFIG)
    if entry is None or not here.exists() or sha256_of(here) == entry.sha256:
        return
    config = content(mirror / OBJECTS, entry)
    if config is None:  # what is here mends it
        return
    try:
        their_config = from_tree(parse_yaml(config.decode()), where=str(mirror))
        different = first_difference(Run(folder).config(), their_config)
    except (ConfigError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:300]
        raise DataError(f"{mirror}: cannot be compared with {folder} ({why}); rename one of the two") from error
    if different:
        key, mine, other = different
        raise DataError(
            f"{mirror}: mirrors a run that has {key}={other}, not {mine} as {folder} has; give the run another name, "
            "or --sync another address, or rename one of the two"
        )
