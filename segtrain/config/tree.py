"""Nested mappings by dotted keys, and the nearest right name to a wrong one. Imports no torch."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# What other programs call a setting, in small letters with underscores, and what it is called here.
SYNONYMS = {
    "learning_rate": "optim.lr",
    "base_lr": "optim.lr",
    "optimizer": "optim.name",
    "optimiser": "optim.name",
    "wd": "optim.weight_decay",
    "scheduler": "optim.schedule",
    "lr_scheduler": "optim.schedule",
    "warmup": "optim.warmup_steps",
    "grad_clip": "optim.clip_norm",
    "gradient_clipping": "optim.clip_norm",
    "batch": "train.global_batch",
    "batch_size": "train.global_batch",
    "micro_batch_size": "train.micro_batch",
    "num_epochs": "train.epochs",
    "max_epochs": "train.epochs",
    "loss_fn": "loss",
    "criterion": "loss",
    "loss_weight": "loss",
    "loss_weights": "loss",
    "network": "model.name",
    "arch": "model.name",
    "encoder": "model.name",
    "backbone": "model.name",
    "pretrained": "model.weights",
    "dataset": "data.root",
    "data_dir": "data.root",
    "data_path": "data.root",
    "img_size": "data.image_size",
    "augmentation": "data.augment",
    "num_workers": "data.workers",
    "random_seed": "seed",
    "amp": "precision",
    "mixed_precision": "precision",
    "output_dir": "runs_dir",
    "run_name": "name",
}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: a synonym; of dotted keys one with the same last part; a similar one."""
    names = list(known)
    last = str(name).rsplit(".", 1)[-1]
    synonym = SYNONYMS.get(last.lower().replace("-", "_").replace(" ", "_"))
    if synonym in names:
        return synonym
    same_last = [key for key in names if key.rsplit(".", 1)[-1] == last]
    return next(iter(same_last or difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.4)), None)
