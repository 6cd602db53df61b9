"""All checks of the doctor, in order."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from segtrain.config import Config, DataConfig
from segtrain.data.order import plan_order
from segtrain.data.sources import Source, make_source, read_with_mask, with_layout
from segtrain.data.sources.identity import identify
from segtrain.data.store import (
    Store,
    is_built,
    open_store,
    resolved_by_source,
    store_path,
    stores_like,
)
from segtrain.data.store_folder import stores_folder
from segtrain.doctor import cluster, disk, forecast, limits, listening, software, talk
from segtrain.doctor.finding import Finding, failure, ok
from segtrain.errors import ConfigError, SegtrainError

SAMPLED = 3  # patients that are read to estimate slices where there is no store


def findings(cfg: Config, ranks: int, grace_s: float, price: float | None) -> Iterator[Finding]:
    """All checks, each as soon as it is done. `price`: of the machine an hour."""
    if importlib.util.find_spec("torch") is None:
        yield software.packages()
        return
    yield from software.check(cfg)
    yield from limits.check(ranks)
    yield from talk.ports()
    yield from listening.check()
    yield from talk.check(cfg, max(ranks, gpus(cfg)), grace_s)  # every device, also those that no rank will use
    yield from cluster.check()
    finding, work, store_bytes = data(cfg, ranks)
    yield finding
    trial = forecast.run_trial(cfg, ranks)
    yield from forecast.check(cfg, ranks, work, trial, price)
    yield from _disks(cfg, work, store_bytes, trial)


def _disks(cfg: Config, work: forecast.Work | None, store_bytes: int, trial: forecast.Trial) -> Iterator[Finding]:
    is_prepared = work is not None and work.exact
    with suppress(ConfigError):  # it is on a job's node, as the check of the data says
        store = stores_folder(cfg.data)
        if not is_prepared or os.access(store, os.W_OK, effective_ids=True):  # a colleague's need not be writable
            yield from disk.check("data.store", store, store_bytes)
    yield from disk.check("runs_dir", Path(cfg.runs_dir), forecast.checkpoint_bytes(cfg.checkpoint, trial.parameters))


def data(cfg: Config, ranks: int) -> tuple[Finding, forecast.Work | None, int]:
    """Whether the data can be read and shared by the ranks; how much work it is; bytes that are still to prepare."""
    try:
        prepared_as = with_layout(cfg.data)
        source = make_source(prepared_as)
        patients = source.patients()
        if store := _prepared(prepared_as, source):
            split, _ = plan_order(cfg, store, ranks)
            train, validation = (
                sum(store.columns.slices_of(side).values()) for side in (split.train, split.validation)
            )
            message = (
                f"{source.label}: {len(store.patients)} patients, prepared: {train} slices train, {validation} validate"
            )
            return ok("data", message), forecast.Work(train, validation, exact=True), 0
        sample = [len(read_with_mask(source, patient)[1]) for patient in patients[:SAMPLED]]
    except SegtrainError as error:
        thing, _, remedy = str(error).rpartition("; ")
        return failure("data", thing or remedy, remedy), None, 0
    slices = round(sum(sample) / len(sample))
    if cfg.data.split == "kfold":
        validating = len(patients) // cfg.data.folds
    else:
        validating = min(cfg.data.validation_patients, len(patients) - 1)
    work = forecast.Work((len(patients) - validating) * slices, validating * slices, exact=False)
    bytes_a_voxel = 2 * len(source.contrasts) + 1  # a float16 of each contrast, and the mask
    needed_bytes = len(patients) * slices * cfg.data.image_size**2 * bytes_a_voxel
    message = f"{source.label}: {len(patients)} patients, not prepared yet; {SAMPLED} of them can be read"
    return ok("data", message), work, needed_bytes


def _prepared(cfg: DataConfig, source: Source) -> Store | None:
    """The source's store, None where there is none; reads the source only where there may be one. Raises DataError."""
    cfg = resolved_by_source(cfg, source)
    if not stores_like(cfg):
        return None
    path = store_path(cfg, identify(stores_folder(cfg), source).fingerprint)
    return open_store(path) if is_built(path) else None


def gpus(cfg: Config) -> int:
    """GPUs that the config may use on this machine."""
    if cfg.device == "cpu" or importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def usual_ranks(cfg: Config) -> int:
    """One rank a GPU, or two on a CPU; fewer where the global batch cannot be shared evenly."""
    wanted = range(min(gpus(cfg) or 2, cfg.train.global_batch), 0, -1)
    return next(ranks for ranks in wanted if cfg.train.global_batch % ranks == 0)
