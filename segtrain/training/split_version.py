"""The version of a run's split: that of the run itself or of the runs beside it, else the newest.

So a run from before there were versions goes on with its patients, and an ablation with its folds.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import get_args

from segtrain.config import DataConfig, SplitVersion
from segtrain.data.folds import BEFORE_VERSIONS, NEWEST
from segtrain.data.store import Store
from segtrain.errors import DAMAGED, ConfigError, RunError
from segtrain.run import Run
from segtrain.runtime import files

log = logging.getLogger(__name__)

SAME_SPLIT = ("split", "split_seed", "folds", "validation_patients", "groups")
KNOWN: Mapping[int, SplitVersion] = {version: version for version in get_args(SplitVersion)}


def split_version(cfg: DataConfig, store: Store, run: Run, fresh: bool = False) -> SplitVersion | None:
    """The version; None where the split is from a file.

    Raises RunError where the run's split cannot be read, or follows a version that later code made.
    """
    if cfg.split == "file" or cfg.split_version is not None:
        return cfg.split_version
    if cfg.split == "reference" and cfg.source != "lgg":
        return NEWEST  # all versions draw alike
    if not fresh and run.split_file.exists():
        return _version_of(run)
    for other in _beside(run):
        version = _version_of_same_split(cfg, store, other)
        if version is not None and version != NEWEST:
            log.info(
                "split: by version %d of its definition, as in %s; data.split_version=%d is the newest",
                version,
                other.root,
                NEWEST,
            )
            return version
    return NEWEST


def _version_of(run: Run) -> SplitVersion:
    version = run.split_record().version or BEFORE_VERSIONS
    if version not in KNOWN:
        raise RunError(
            f"{run.split_file}: follows version {version}, which this segtrain does not know; use a later one"
        )
    return KNOWN[version]


def _beside(run: Run) -> Iterator[Run]:
    """The other runs of the folder, but those that `--fresh` set aside."""
    parent = run.root.parent
    for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
        original, _, number = folder.name.rpartition(".")
        set_aside = number.isdigit() and (parent / original).is_dir()
        other = Run(folder)
        if folder.name == run.root.name or set_aside or not files.may_enter(folder):
            continue
        if other.split_file.is_file():
            yield other


def _version_of_same_split(cfg: DataConfig, store: Store, run: Run) -> SplitVersion | None:
    """The version of a run that splits the same patients in the same way; None of any other."""
    try:
        version = _version_of(run)
        if version == NEWEST or run.split_record().patients != set(store.patients):
            return None
        theirs = run.config().data
    except (*DAMAGED, ConfigError, RunError):
        return None  # it is no reason to stop another run
    return version if all(getattr(theirs, key) == getattr(cfg, key) for key in SAME_SPLIT) else None
