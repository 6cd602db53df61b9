"""Build the store of a source: patients in parallel processes, everything checked before it is published.

Light on purpose: no torch, so that worker processes start in a fraction of a second.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Generator
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import DataConfig
from segtrain.data.preprocess import preprocess
from segtrain.data.sources.base import CHANNELS, Source
from segtrain.data.sources.open import make_source
from segtrain.data.store import Store, StoredPatient, building, open_store, store_path, write_array
from segtrain.errors import DataError
from segtrain.runtime import files
from segtrain.runtime.terminal import Progress
from segtrain.runtime.workers import process_pool

log = logging.getLogger(__name__)


def ensure_store(cfg: DataConfig, check: Callable[[], None] = lambda: None) -> Store:
    """The store of `cfg`, built if it is not there; of processes that ask at once, one builds and the rest wait.

    Raises DataError for a broken source (first broken patient by name, unless `data.skip_bad`), for pixels that two
    patients share, and when the disk is full; nothing is left half-built. `check` is called now and then and may raise.
    """
    source = make_source(cfg)
    path = store_path(cfg, source.fingerprint())
    if not path.is_dir():
        _say_if_changed(path, source.label)
        with building(path, check) as aside:
            if aside is not None:
                log.info("preparing %s into %s", source.label, path)
                _build(cfg, source, aside, check)
    return open_store(path)


def _say_if_changed(path: Path, label: str) -> None:
    same_settings = path.name.rsplit("-", 1)[0]
    for old in sorted(path.parent.glob(f"{same_settings}-*")):
        if open_store(old).label == label:
            log.warning("the source has changed since %s was built; preparing it anew", old)


def _build(cfg: DataConfig, source: Source, aside: Path, check: Callable[[], None]) -> None:
    outcomes = _prepare_all(cfg, source, aside, check)
    skipped = {patient: o for patient, o in sorted(outcomes.items()) if isinstance(o, str)}
    if skipped and not cfg.skip_bad:
        more = f" (and {len(skipped) - 1} more broken patients)" if len(skipped) > 1 else ""
        raise DataError(next(iter(skipped.values())) + more)
    for patient, reason in skipped.items():
        log.warning("left out %s: %s", patient, reason)
    entries = [o for _, o in sorted(outcomes.items()) if not isinstance(o, str)]
    if not entries:
        raise DataError(f"{source.label}: every patient is broken, the first: {next(iter(skipped.values()))}")
    _refuse_shared_pixels([(entry["patient"], entry.pop("slice_hashes")) for entry in entries])
    index = {
        "fingerprint": aside.name.split(".")[1],
        "label": source.label,
        "size_px": cfg.image_size,
        "skipped": skipped,
        "patients": entries,
    }
    files.write_json(aside / "index.json", index)
    for folder in ("images", "masks"):
        files.sync_folder(aside / folder)


def _prepare_all(
    cfg: DataConfig, source: Source, aside: Path, check: Callable[[], None]
) -> dict[str, dict[str, Any] | str]:
    """Per patient its index entry, or what is wrong with it; without `skip_bad` the first broken one ends the work."""
    patients = source.patients()
    workers = min(cfg.workers or len(os.sched_getaffinity(0)), len(patients))
    outcomes: dict[str, dict[str, Any] | str] = {}
    with (
        Progress(f"prepare {len(patients)} patients", total=len(patients), unit="patients") as bar,
        closing(_outcomes(source, patients, cfg.image_size, aside, workers, check)) as prepared,
    ):
        for patient, outcome in prepared:
            outcomes[patient] = outcome
            bar.advance(1, patient=patient)
            check()
            if isinstance(outcome, str) and not cfg.skip_bad:
                break
    return outcomes


def _outcomes(
    source: Source, patients: list[str], size_px: int, aside: Path, workers: int, check: Callable[[], None]
) -> Generator[tuple[str, dict[str, Any] | str], None, None]:
    """Each patient with its index entry or what is wrong with it, as they are done; one worker is this process."""
    if workers == 1:
        yield from ((patient, _prepare_patient(source, patient, size_px, aside)) for patient in patients)
        return
    with process_pool(workers) as pool:
        jobs: dict[Future[dict[str, Any] | str], str] = {
            pool.submit(_prepare_patient, source, patient, size_px, aside): patient for patient in patients
        }
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BrokenProcessPool as error:
            check()  # a signal to the whole group may have been what killed it
            raise DataError(
                "a process that prepared patients was killed, for want of memory? try data.workers=1"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_patient(source: Source, patient: str, size_px: int, aside: Path) -> dict[str, Any] | str:
    """Read, prepare and write one patient: its index entry, or the reason why it cannot be used."""
    try:
        raw = source.read(patient)
        prepared = preprocess(raw.image_shwc, raw.mask_shw, size_px, where=f"patient {patient}")
    except DataError as error:
        return str(error)
    first, last = prepared.geometry.box[0]
    entry = StoredPatient(
        patient=patient,
        institution=source.institution(patient),
        areas=tuple(int(area) for area in prepared.mask_shw.sum(axis=(1, 2), dtype=np.int64)),
        slice_numbers=raw.slice_numbers[first:last],
        geometry=prepared.geometry.to_json(),
        missing_channels=_missing_channels(raw.image_shwc),
    )
    sizes = {
        "images": write_array(aside / "images" / f"{patient}.npy", prepared.image_shwc.astype(np.float16)),
        "masks": write_array(aside / "masks" / f"{patient}.npy", prepared.mask_shw),
    }
    return {**asdict(entry), "bytes": sizes, "slice_hashes": _slice_hashes(raw.image_shwc)}


def _missing_channels(image_shwc: NDArray[np.uint8]) -> tuple[str, ...]:
    """Contrasts that are missing: the published data puts FLAIR in their place."""
    return tuple(CHANNELS[c] for c in (0, 2) if np.array_equal(image_shwc[..., c], image_shwc[..., 1]))


def _slice_hashes(image_shwc: NDArray[np.uint8]) -> list[str]:
    """A hash of every slice that shows something: equal ones under two patients are one patient twice."""
    return [
        hashlib.blake2b(np.ascontiguousarray(plane).tobytes(), digest_size=16).hexdigest()
        for plane in image_shwc
        if plane.max() > plane.min()
    ]


def _refuse_shared_pixels(hashes: list[tuple[str, list[str]]]) -> None:
    owner: dict[str, str] = {}
    for patient, slice_hashes in hashes:
        for digest in slice_hashes:
            if owner.setdefault(digest, patient) != patient:
                raise DataError(
                    f"patients {owner[digest]} and {patient} share the same pixels, so one could train and the other "
                    f"validate on them; remove one of the two folders"
                )


def summary(store: Store) -> list[tuple[str, str]]:
    """What the store holds, as rows of (what, value) for a table."""
    patients = list(store.patients.values())
    areas = np.array([area for p in patients for area in p.areas])
    voxels = np.array([p.lesion_voxels for p in patients])
    slices = np.array([p.slices for p in patients])
    institutions: dict[str, int] = {}
    for p in patients:
        institutions[p.institution] = institutions.get(p.institution, 0) + 1
    missing = {name: sum(name in p.missing_channels for p in patients) for name in ("pre-contrast", "post-contrast")}
    return [
        ("data", store.label),
        ("patients", str(len(patients))),
        ("slices", f"{slices.sum()} ({slices.min()} to {slices.max()} a patient, median {np.median(slices):.0f})"),
        ("slices without lesion", f"{(areas == 0).sum()} ({(areas == 0).mean():.0%})"),
        ("lesion voxels", f"{voxels.min()} to {voxels.max()} a patient, median {np.median(voxels):.0f}"),
        ("missing contrast", ", ".join(f"{name}: {count}" for name, count in missing.items())),
        ("institutions", ", ".join(f"{name} {count}" for name, count in sorted(institutions.items()))),
        ("left out", str(len(store.skipped))),
        ("size", f"{store.size_px} px, {_bytes(store.path) / 2**20:.0f} MiB in {store.path}"),
    ]


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*.npy"))
