"""Configs compared: whether two are the same run, and a hash of what one trains. Imports no torch."""

import hashlib
from dataclasses import asdict, replace
from typing import Any

import yaml

from segtrain.config.own_parts import portable
from segtrain.config.schema import Config, DataConfig
from segtrain.config.tree import flatten
from segtrain.config.unread import SPLIT_READERS

FROM_DATA = ("contrasts", "regions", "ignore")  # keys of data that are known once the data are prepared

# Keys that came after the first queues: where they have their default, a queue's journal counts on the config without.
NEWER_KEYS = frozenset(
    {
        "code",
        "data.regions",
        "data.augment_workers",
        "data.groups",
        "data.files",
        "data.licence",
        "data.contrasts",
        "data.missing",
        "data.ignore",
        "data.remap",
        "data.soft_above",
        "data.rater",
        "data.resample",
        "data.protocol",
        "data.spacing_mm",
        "data.lesion_free",
        "data.neighbours_mm",
        "data.split_version",
        "data.published",
        "data.resident",
        "train.cuda_graph",
        "data.phantom.contrasts",
        "data.phantom.regions",
        "data.phantom.spacing_mm",
        "data.phantom.scans",
        "data.phantom.unlabelled",
        "loss_regions",
        "model.output",
        "model.weights_input",
        "model.freeze",
        "optim.lr_ratios",
        "evaluate.min_component_ml",
        "evaluate.min_component_share",
    }
)

# Keys that may differ between the config of a run and the one that continues it: its length, paths, how the work is
# divided, speed, what is recorded. Like the world size, these change the result only as far as L5 allows.
MAY_DIFFER = frozenset(
    {
        "train.epochs",
        "precision",
        "engine",
        "runs_dir",
        "data.root",
        "data.licence",
        "data.store",
        "data.workers",
        "data.augment_workers",
        "data.skip_bad",
        "data.split_version",  # the split itself is compared
        "data.published",
        "data.resident",
        "device",
        "allocator",
        "deterministic",
        "threads_per_rank",
        "log_every_steps",
        "model.channels_last",
        "model.compile",
        "model.checkpoint_activations",
        "train.micro_batch",
        "train.on_oom",
        "train.cuda_graph",
        "evaluate.batch",
        "evaluate.pictures",
        "evaluate.every_epochs",
        "checkpoint.every_min",
        "checkpoint.keep",
        "stop.deadline",
        "watch.every_s",
        "watch.stall_s",
    }
)


def may_differ(key: str) -> bool:
    """Whether a run may go on with another value of the key."""
    return key in MAY_DIFFER or key.startswith("deepspeed.")


def fingerprint(cfg: Config) -> str:
    """A hash of what a config trains, the same in later versions, which have more keys; not of where it lies."""
    tree, default = asdict(replace(cfg, runs_dir="")), asdict(Config())
    for dotted in NEWER_KEYS:
        *parents, leaf = dotted.split(".")
        section, usual = tree, default
        for parent in parents:
            section, usual = section[parent], usual[parent]
        if section[leaf] == usual[leaf]:
            del section[leaf]
    return hashlib.sha256(yaml.safe_dump(tree, sort_keys=False).encode()).hexdigest()[:12]


def _as_read(cfg: Config) -> Config:
    """The config without values that its `data.split` does not read."""
    unread = [key for key, readers in SPLIT_READERS.items() if cfg.data.split not in readers]
    return replace(cfg, data=replace(cfg.data, **{key: getattr(DataConfig, key) for key in unread}))


def first_difference(ours: Config, theirs: Config) -> tuple[str, Any, Any] | None:
    """(key, our value, their value) of the first difference that makes two configs different runs, or None.

    What ours leaves to the data is theirs. Keys that `data.split` does not read, which earlier versions let stand, do
    not count.
    """
    ours, theirs = _as_read(ours), _as_read(theirs)
    left_to_data = {key: getattr(theirs.data, key) for key in FROM_DATA if not getattr(ours.data, key)}
    if ours.data.source == "auto":
        left_to_data["source"] = theirs.data.source
    ours = replace(ours, data=replace(ours.data, **left_to_data))
    one, other = (dict(flatten(asdict(portable(cfg)))) for cfg in (ours, theirs))
    for key in [*one, *other]:
        if not may_differ(key) and one.get(key) != other.get(key):
            return key, one.get(key), other.get(key)
    return None
