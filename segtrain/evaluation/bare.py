"""A file of weights without a run: what its tensors say, and what is assumed, as the reference program does.

Torch is imported only when a file is read.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segtrain.config import LGG_CONTRASTS, Config, DataConfig, load_config, name_of
from segtrain.config.load import read_yaml
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.errors import ConfigError
from segtrain.evaluation.ensemble import TrainedCheckpoint

if TYPE_CHECKING:
    from segtrain.models.from_shapes import Recognised

log = logging.getLogger(__name__)

SPLIT_KEYS = (
    "split",
    "split_file",
    "split_seed",
    "split_version",
    "folds",
    "fold",
    "validation_patients",
    "groups",
)


def config_of(path: Path, overrides: Sequence[str], settings: Path | None = None) -> Config:
    """The config to use the weights by, of `settings` or else of the file; what is assumed is logged.

    Raises ConfigError: the tensors are of no network of ours, or leave something open that the overrides do not say.
    """
    if settings is not None:
        tree = read_yaml(settings)
        if isinstance(tree, dict) and isinstance(tree.get("model"), dict):
            tree["model"]["weights"] = None
        log.info("%s: weights alone, used as %s says", path, settings)
        return load_config(None, overrides, tree, where=str(settings), stored=True)
    is_of_data = any(override.startswith("data.root=") for override in overrides)
    source = "auto" if is_of_data else "lgg"  # in predict, the images are elsewhere
    assumed = load_config(None, overrides, {"name": "bare", "data": {"source": source}}, stored=True)
    keys = {override.partition("=")[0] for override in overrides}
    from segtrain.models.from_shapes import recognise

    known = {key: getattr(assumed.model, key) for key in vars(assumed.model) if _is_given(f"model.{key}", keys)}
    seen = recognise(path, known)
    cfg = replace(assumed, model=seen.model)
    _refuse_open(path, cfg, seen.channels, seen.regions)
    _say(path, cfg, seen)
    return cfg


def _say(path: Path, cfg: Config, seen: "Recognised") -> None:
    """Log what is known of the weights, and what is assumed."""
    model = seen.model
    log.info(
        "%s: weights alone. By its tensors: %s, features %d, depth %d, norm %s, %d channels, %d region(s)",
        path,
        name_of(model.name),
        model.features,
        model.depth or model.part.depth,
        model.norm or model.part.norm,
        seen.channels,
        seen.regions,
    )
    data, evaluate = cfg.data, cfg.evaluate
    also = f" (norm {' or '.join(seen.others)} has the same tensors)" if seen.others else ""
    log.info(
        "%s: assumed, as the reference program does, unless given by key=value or --config: channels %s; "
        "data.protocol=%s, data.image_size=%d; evaluate.threshold=%s, evaluate.largest_component=%s%s",
        path,
        ", ".join(data.contrasts or LGG_CONTRASTS),
        data.protocol,
        data.image_size,
        evaluate.threshold,
        str(evaluate.largest_component).lower(),
        also,
    )


def _is_given(key: str, keys: set[str]) -> bool:
    return any(f"{one}.".startswith(f"{key}.") for one in keys)


def _refuse_open(path: Path, cfg: Config, channels: int, regions: int) -> None:
    """Raises ConfigError where contrasts and regions are not as many as the network has channels and outputs."""
    data = cfg.data
    if data.channels != channels:
        names = ", ".join(data.contrasts or LGG_CONTRASTS)
        raise ConfigError(
            f"{path}: the network takes {channels} channels, and there are {data.channels} ({names}, with "
            f"data.neighbours={data.neighbours}); name its contrasts in order, as data.contrasts=[t1,flair], or set "
            "data.neighbours"
        )
    if len(data.layout.regions) != regions:
        raise ConfigError(
            f"{path}: the network gives {regions} region(s), and data.regions has {len(data.layout.regions)}; name "
            "them in order with their labels, as data.regions='{whole: [1, 2], core: [2]}'"
        )


def with_assumed_patients(
    checkpoints: Sequence[TrainedCheckpoint], store: Store, split_is_known: bool = False
) -> list[TrainedCheckpoint]:
    """The checkpoints, those without a run with the patients of the store that are taken for those of their training.

    Of LGG data, where the config has a split of its own, or where `split_is_known`, as it is by the config of the
    training, these are the split's; of other data there are none.
    """
    return [_with_patients(one, store, split_is_known) if one.is_bare else one for one in checkpoints]


def _with_patients(checkpoint: TrainedCheckpoint, store: Store, split_is_known: bool) -> TrainedCheckpoint:
    data = store.resolved(checkpoint.cfg.data)
    cfg = replace(checkpoint.cfg, data=data)
    default = DataConfig()
    has_split = split_is_known or any(getattr(data, key) != getattr(default, key) for key in SPLIT_KEYS)
    if not has_split and data.source != "lgg":
        log.warning("%s: taken to be trained on none of these patients, which is not known", checkpoint.folder)
        return replace(checkpoint, cfg=cfg, validation=frozenset(store.patients))
    split = make_split(data, store)
    log.warning(
        "%s: taken to be trained on all but the %d validation patients of data.split=%s%s",
        checkpoint.folder,
        len(split.validation),
        data.split,
        "" if split_is_known else ", which is not known",
    )
    return replace(
        checkpoint,
        cfg=cfg,
        train=frozenset(split.train),
        validation=frozenset(split.validation),
        people=split.people,
        knows_patients=split_is_known,
    )
