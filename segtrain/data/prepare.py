"""Building the store of a source: patients in parallel processes, everything checked before the store is there.

No torch is imported, so that worker processes start in a fraction of a second.
"""

import logging
import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from segtrain.config import LGG_CONTRASTS, DataConfig, name_of
from segtrain.config.paths import expanded
from segtrain.data.building import building, copy_store, shared_store
from segtrain.data.label_table import refuse_mixed_labels
from segtrain.data.patient import Outcome, Written, prepare_of_used, prepare_patient, use_source
from segtrain.data.people import people_of, read_groups, strangers_in
from segtrain.data.sources import (
    FLAIR,
    LISTED,
    LggSource,
    Source,
    first_few,
    make_source,
    not_taken,
    with_layout,
)
from segtrain.data.sources.base import Check, LeavesOut, ListsFiles, no_check
from segtrain.data.sources.identity import identify
from segtrain.data.sources.licence import stated_licence
from segtrain.data.store import (
    Store,
    is_built,
    open_store,
    resolved_by_source,
    store_path,
    stores_like,
)
from segtrain.data.store_columns import label_of, write_index
from segtrain.data.store_folder import stores_folder
from segtrain.data.survey import overview
from segtrain.data.tissues import DataSet
from segtrain.data.traps import judge
from segtrain.errors import DataError
from segtrain.runtime import cpus, files
from segtrain.runtime.terminal import Progress
from segtrain.runtime.workers import process_pool

log = logging.getLogger(__name__)

OTHERS_S = 60.0  # after the first broken patient, in which others are looked for: nothing of the work is kept


def ensure_store(cfg: DataConfig, check: Check = no_check) -> Store:
    """The store of `cfg`, built if it is not there; of several processes at once, one builds and the others wait.

    Raises DataError for a broken source (first broken patient by name, unless `data.skip_bad`; it and the others are
    warned of as they are met), for pixels that two patients share, and when the disk is full; nothing is left
    half-built. `check` is called now and then and may raise.
    """
    original, cfg = cfg, with_layout(cfg)
    source = make_source(cfg)
    identity = identify(stores_folder(cfg), source, check)
    cfg = resolved_by_source(cfg, source)  # a run's config, which says what came with the data, has the same store
    path = store_path(cfg, identity.fingerprint)
    if not is_built(path):
        _warn_if_changed(cfg, source.label)
        with building(path, check) as aside:
            if aside is not None and (shared := shared_store(cfg, path)):
                log.info("copying %s into %s", shared, path)
                copy_store(shared, aside, check)
            elif aside is not None:
                log.info("preparing %s into %s", source.label, path)
                _log_overview(original, source)
                _build(cfg, source, aside, check)
    store = open_store(path)
    identity.remember()
    # It may be prepared from a copy elsewhere, and its one region under another name.
    layout = name_of(cfg.source) if original != cfg else None
    return replace(store, label=source.label, regions=source.rules.regions, source=layout, licence=stated_licence(cfg))


def _log_overview(cfg: DataConfig, source: Source) -> None:
    """Log what of the files is taken for what."""
    if isinstance(source, ListsFiles) or cfg.source == "auto":
        for line in overview(cfg, source).lines():
            log.info("%s", line)


def log_left_out(cfg: DataConfig, store: Store) -> None:
    """Log what of the source's folder and of data.groups is not read, and the patients left out. Raises DataError."""
    if cfg.root is not None and (names := not_taken(expanded(cfg.root), make_source(cfg))):
        log.info("not read, no part of %s: %s", store.label, first_few(names))
    if store.skipped:
        log.info("patients left out: %d (%s)", len(store.skipped), first_few(list(store.skipped)))
    for warning in store.warnings:
        log.warning("%s", warning)
    people = read_groups(expanded(cfg.groups)) if cfg.groups else {}
    if strangers := strangers_in(people, store.patients):
        log.warning(
            "%s: %d of %d lines name no patient of the data (%s); correct ids that are misspelled, others may stay",
            cfg.groups,
            len(strangers),
            len(people),
            first_few(strangers),
        )


def verify(store: Store) -> None:
    """Check all files of the store against their hashes. Raises DataError: one that is damaged, or there are none."""
    if not all(store.sha256.get(patient) for patient in store.patients):
        raise DataError(
            f"{store.path}: prepared by an earlier version, which kept no hashes; rename it and it is built again"
        )
    damaged = []
    with Progress("verify", total=len(store.patients), unit="patients") as bar:
        for patient in store.patients:
            try:
                store.verify(patient)
            except DataError as error:
                damaged.append(str(error))
                log.warning("%s", error)
            bar.advance(1, patient=patient)
    if damaged:
        more = f" (and {len(damaged) - 1} more patients)" if len(damaged) > 1 else ""
        raise DataError(f"{damaged[0]}{more}")
    log.info("%s: the files of %d patients are what was prepared", store.path, len(store.patients))


def _warn_if_changed(cfg: DataConfig, label: str) -> None:
    """Log a warning when a store with the same settings was built from this source as it was before.

    A store that cannot be read is passed over, since it is not needed.
    """
    for old in stores_like(cfg):
        if label_of(old) == label:
            log.warning("the source has changed since %s was built; preparing it anew", old)


def _build(cfg: DataConfig, source: Source, aside: Path, check: Check) -> None:
    outcomes = _prepare_all(cfg, source, aside, check)
    skipped = {patient: outcome for patient, outcome in sorted(outcomes.items()) if isinstance(outcome, str)}
    if skipped and not cfg.skip_bad:
        others = len(skipped) - 1
        rest = "" if len(outcomes) == len(source.patients()) else "; those after them were not looked at"
        more = f" (and {others} more broken patient{'s' if others > 1 else ''}, named above{rest})" if others else ""
        raise DataError(next(iter(skipped.values())) + more)
    for patient, reason in skipped.items():
        log.warning("left out %s: %s", patient, reason)
    written = [outcome for _, outcome in sorted(outcomes.items()) if isinstance(outcome, Written)]
    if not written:
        raise DataError(f"{source.label}: every patient is broken, the first: {next(iter(skipped.values()))}")
    if isinstance(source, LeavesOut):
        skipped |= source.left_out()
    _log_remarks(written)
    index = {
        "fingerprint": aside.name.split(".")[1],
        "label": source.label,
        "size_px": cfg.image_size,
        "contrasts": source.contrasts,
        "regions": source.rules.regions,
        "ignore": source.rules.ignore,
        "remap": source.rules.remap,
        "warnings": _checked(cfg, source, written),
        "skipped": skipped,
    }
    entries = [{**asdict(one.entry), "bytes": one.file_bytes, "sha256": one.file_sha256} for one in written]
    write_index(aside, index, entries)
    for folder in ("images", "masks"):
        files.sync_folder(aside / folder)


def _checked(cfg: DataConfig, source: Source, written: Sequence[Written]) -> list[str]:
    """What looks wrong in the whole data set. Raises DataError for what is wrong for certain."""
    _refuse_shared_pixels(written)
    label_voxels = {one.entry.patient: one.entry.label_voxels for one in written}
    warnings = refuse_mixed_labels(source.rules, label_voxels, takes_any_white=isinstance(source, LggSource))
    groups = expanded(cfg.groups) if cfg.groups else None
    known = {one.entry.patient: one.entry.person for one in written if one.entry.person}
    data = DataSet(
        patients=[(one.entry, one.measured) for one in written],
        contrasts=source.contrasts,
        rules=source.rules,
        people=people_of([one.entry.patient for one in written], groups, known),
        is_resampled=cfg.spacing_mm is not None,
    )
    return warnings + judge(data)


def _log_remarks(written: Sequence[Written]) -> None:
    remarks = [f"patient {one.entry.patient}: {remark}" for one in written for remark in one.remarks]
    for remark in remarks[:LISTED]:
        log.info("%s", remark)
    if len(remarks) > LISTED:
        log.info("and %d more such remarks", len(remarks) - LISTED)


def _prepare_all(cfg: DataConfig, source: Source, aside: Path, check: Check) -> dict[str, Outcome]:
    """Each patient's index entry or its error; without `skip_bad` errors are told at once, and end the work soon."""
    patients = source.patients()
    workers = min(cfg.workers or cpus.usable(), len(patients))
    outcomes: dict[str, Outcome] = {}
    broken, end_s = 0, float("inf")
    with (
        Progress(f"prepare {len(patients)} patients", total=len(patients), unit="patients") as bar,
        closing(_outcomes(source, patients, cfg, aside, workers, check)) as prepared,
    ):
        for patient, outcome in prepared:
            outcomes[patient] = outcome
            bar.advance(1, patient=patient)
            check()
            if isinstance(outcome, str) and not cfg.skip_bad:
                log.warning("%s", outcome)
                broken, end_s = broken + 1, min(end_s, time.monotonic() + OTHERS_S)
            if broken == LISTED or time.monotonic() > end_s:
                break
    return outcomes


def _outcomes(
    source: Source, patients: list[str], cfg: DataConfig, aside: Path, workers: int, check: Check
) -> Generator[tuple[str, Outcome], None, None]:
    """Patients with their index entry or error, as they are done; one worker is this process."""
    if workers == 1:
        yield from ((patient, prepare_patient(source, patient, cfg, aside)) for patient in patients)
        return
    # A source knows all patients' files, so it is not sent with each patient.
    with process_pool(workers, "data.workers=1", partial(use_source, source)) as pool:
        jobs: dict[Future[Outcome], str] = {
            pool.submit(prepare_of_used, patient, cfg, aside): patient for patient in patients
        }
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BrokenProcessPool as error:
            check()  # a signal to the whole group may have been what killed it
            raise DataError(
                "a process that prepared patients was killed, probably out of memory; try data.workers=1"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _refuse_shared_pixels(written: Sequence[Written]) -> None:
    owner: dict[str, str] = {}
    for one in written:
        patient = one.entry.patient
        for slice_hash in one.slice_hashes:
            if owner.setdefault(slice_hash, patient) != patient:
                raise DataError(
                    f"patients {owner[slice_hash]} and {patient} share the same pixels, so one could train and the "
                    "other validate on them; keep one of the two folders"
                )


def summary(store: Store, groups: str | None = None) -> list[tuple[str, str]]:
    """What the store holds, as rows (name, value) of a table. groups: the file that says who is who."""
    patients = list(store.patients.values())
    areas = np.array([area for patient in patients for area in patient.areas])
    voxels = np.array([patient.lesion_voxels for patient in patients])
    slices = np.array([patient.slices for patient in patients])
    institutions = Counter(patient.institution for patient in patients)
    missing = Counter(name for patient in patients for name in patient.missing_channels)
    replaceable = [name for name in store.contrasts if store.contrasts != LGG_CONTRASTS or name != LGG_CONTRASTS[FLAIR]]
    known = {patient.patient: patient.person for patient in patients if patient.person}
    people = set(people_of(store.patients, expanded(groups) if groups else None, known).values())
    of_people = f" of {len(people)} people" if len(people) < len(patients) else ""
    megabytes = sum(file.stat().st_size for file in store.path.rglob("*.npy") if file.is_file()) / 2**20
    return [
        ("data", store.label),
        ("patients", f"{len(patients)}{of_people}"),
        ("contrasts", ", ".join(store.contrasts)),
        ("slices", f"{slices.sum()} ({slices.min()} to {slices.max()} a patient, median {np.median(slices):.0f})"),
        ("slices without lesion", f"{(areas == 0).sum()} ({(areas == 0).mean():.0%})"),
        ("lesion voxels", f"{voxels.min()} to {voxels.max()} a patient, median {np.median(voxels):.0f}"),
        ("missing contrast", ", ".join(f"{name}: {missing[name]}" for name in replaceable)),
        ("institutions", ", ".join(f"{name} {count}" for name, count in sorted(institutions.items()))),
        ("patients without lesion", str((voxels == 0).sum())),
        ("left out", str(len(store.skipped))),
        ("size", f"{store.size_px} px, {megabytes:.0f} MiB in {store.path}"),
    ]
