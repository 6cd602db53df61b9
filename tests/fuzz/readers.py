"""Every reader of files that others made, each with valid files to begin with, by kind."""

import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from damage import NASTY
from data_readers import (
    Files,
    nifti_files,
    nnunet_files,
    once,
    read_nifti,
    read_nnunet,
    read_slices,
    read_splits,
    read_store,
    slices_files,
    split_files,
    stored,
)
from run_readers import TARGETS as RUN_TARGETS
from run_readers import read_runs, run_folders
from safetensors.torch import save as to_safetensors
from snapshots import save as save_checkpoints

from jobs.offline import queue_file
from segtrain.config import (
    SCHEDULES,
    ModelConfig,
    builtin_config,
    fingerprint,
    flatten,
    from_tree,
    load_config,
    name_of,
    to_yaml,
)
from segtrain.config.schema import Config
from segtrain.config.yaml_text import parse_yaml
from segtrain.engines.schedules import make_schedule
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.models.weights import load_weights
from segtrain.run import Run, checkpoint, expand
from segtrain.run.manifest import fingerprint as fingerprint_of_file
from segtrain.run.manifest import manifest_of

OWN = b"""
def loss(logits, mask, weight: float = 1.0, name: str = "a", pair: tuple[float, float] = (0, 1)):
    return weight * (logits * mask).mean()


class Net:
    def __init__(self, in_channels, out_channels, width: int = 4, deep: bool = False, **more):
        pass
"""


@dataclass(frozen=True)
class Kind:
    """Files by their path in a folder, and what reads them there; `names`: what its errors name, besides the folder.

    targets: endings of the files that are damaged.
    """

    files: Callable[[random.Random], Files]
    read: Callable[[Path, random.Random], None]
    targets: tuple[str, ...] = ("",)
    names: tuple[str, ...] = ()
    undamaged: float = 0.0  # share of inputs of which the options alone are odd
    cpu_s: float = 5.0  # of an input
    may_ask: tuple[str, ...] = ()  # functions that may ask for what a damaged file says it needs, and never touch it


# Configs, specs of ablations, queues


@lru_cache
def _configs() -> list[bytes]:
    folder = builtin_config("phantom.yaml").parent
    own = {
        "loss": {"own.py:loss": {"weight": 0.5, "name": "b"}, "dice": 1.0},
        "model": {"name": {"part": "own.py:Net", "width": 8, "deep": True}},
        "data": {
            "augment": {"part": "strong"},
            "regions": {"whole": [1, 2], "core": [1]},
            "source": "nifti",
            "root": "x",
        },
        "optim": {"name": "adamw", "schedule": {"part": "step", "gamma": 0.5}},
        "evaluate": {"threshold": {"whole": 0.4, "core": 0.5}},
    }
    texts = [path.read_bytes() for path in sorted(folder.glob("*.yaml"))]
    return [*texts, to_yaml(Config()).encode(), json.dumps(own).encode(), b"{}"]


def _config_files(rng: random.Random) -> Files:
    return {"run.yaml": rng.choice(_configs()), "own.py": OWN}


KEYS = [key for key, _ in flatten(asdict(Config()))] + [
    "loss.dice",
    "loss.own.py:loss.weight",
    "data.regions",
    "a.b",
    "",
]


def _read_config(folder: Path, rng: random.Random) -> None:
    overrides = ["data.root=x"]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        value = rng.choice(
            (*NASTY, "own.py:loss", "own.py:Net", "{part: own.py:loss, weight: 2}", "{dice: 1, bce: .nan}")
        )
        text = value if isinstance(value, str) else json.dumps(value)
        overrides.append(rng.choice((f"{rng.choice(KEYS)}={text}", f"{rng.choice(KEYS)}={text}", text)))
    cfg = load_config(folder / "run.yaml", overrides)
    fingerprint(cfg)
    if name_of(cfg.optim.schedule) in SCHEDULES:
        make_schedule(cfg.optim, 10 * cfg.train.epochs, 10)
    if "own.py" not in str(cfg.loss):
        make_loss(cfg.loss, cfg.data.layout)
    text = to_yaml(cfg)
    (folder / "written.yaml").write_text(text, encoding="utf-8")
    again = from_tree(parse_yaml(text), "again", stored=True)
    assert repr(again) == repr(cfg), "what is written is read back"


@lru_cache
def _specs() -> list[tuple[str, bytes]]:
    folder = builtin_config("phantom.yaml").parent
    paths = [*sorted(folder.glob("ablation/*.yaml")), *sorted(folder.glob("offline/*.yaml")) * 4]
    return [(path.parent.name, path.read_bytes()) for path in paths]


def _spec_files(rng: random.Random) -> Files:
    kind, text = rng.choice(_specs())
    return {f"{kind}/spec.yaml": text, "own.py": OWN, **_named_configs()}


@lru_cache
def _named_configs() -> Files:
    folder = builtin_config("phantom.yaml").parent
    files = {path.name: path.read_bytes() for path in folder.glob("*.yaml")}
    return files | {f"ablation/{path.name}": path.read_bytes() for path in folder.glob("ablation/*.py")}


def _read_spec(folder: Path, rng: random.Random) -> None:
    if (folder / "offline").exists():
        queue_file.load(folder / "offline" / "spec.yaml")
    else:
        expand(folder / "ablation" / "spec.yaml", [f"data.root={folder}"])


# Weights and checkpoints


@lru_cache
def network() -> Any:
    return make_model(ModelConfig(features=4), seed=1)


@lru_cache
def _weights() -> dict[str, bytes]:
    state = dict(network().state_dict())
    few = dict(list(state.items())[:4])
    files = {"weights.safetensors": to_safetensors(state), "few.safetensors": to_safetensors(few)}
    for name, content in {"plain": state, "held": {"state_dict": few, "epoch": 3}, "list": [few]}.items():
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            files[f"{name}-{zipped}.pt"] = stream.getvalue()
    return files


def _weights_files(rng: random.Random) -> Files:
    name, content = rng.choice(sorted(_weights().items()))
    return {name: content}


def _read_weights(folder: Path, rng: random.Random) -> None:
    load_weights(network(), next(folder.iterdir(), folder / "gone.pt"))


@lru_cache
def checkpointed() -> Files:
    def make(folder: Path) -> None:
        run = Run(folder / "run")
        run.checkpoints.mkdir(parents=True)
        save_checkpoints(run, 1, 2)
        run.best_pointer.write_text("step-00000001\n")

    return once(make)


def _read_checkpoints(folder: Path, rng: random.Random) -> None:
    """As a resumed training does: the newest whole one is taken, others are set aside; in some inputs hashes fit."""
    run = Run(folder / "run")
    if rng.random() < 0.5:
        for step in (1, 2):
            forge(run.checkpoint(step))
    name = checkpoint.newest(run)
    assert name is not None, "there are checkpoints, so no run is begun anew"
    checkpoint.read(run.checkpoints / name)
    run.best_checkpoint()
    run.latest_checkpoint()
    checkpoint.prune(run, 1)


def forge(folder: Path) -> None:
    """Make the manifest fit the files."""
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    if all((folder / name).is_file() and not (folder / name).is_symlink() for name in names):
        listed = {name: fingerprint_of_file(folder / name) for name in names}
        manifest = folder / "manifest.json"
        if manifest.is_file() and not manifest.is_symlink():
            manifest.write_text(json.dumps(manifest_of(listed)))


PATIENTS = ("patient", "A1", "B2")
KINDS: Mapping[str, Kind] = {
    "runs": Kind(lambda rng: run_folders(), read_runs, RUN_TARGETS),
    "configs": Kind(
        _config_files, _read_config, (".yaml",), ("the command line", "run.yaml", "=", "not an override"), undamaged=0.3
    ),
    "specs": Kind(_spec_files, _read_spec, ("spec.yaml",), ("the command line", "cannot read the config"), cpu_s=60.0),
    "weights": Kind(_weights_files, _read_weights, may_ask=("_read",)),
    "checkpoints": Kind(lambda rng: checkpointed(), _read_checkpoints),
    "slices": Kind(slices_files, read_slices, (".tif", ".png", ".tif", ".png", ".csv"), PATIENTS),
    "nifti": Kind(
        nifti_files, read_nifti, (".nii", ".nii.gz", ".nii", ".nii.gz", ".csv"), PATIENTS, may_ask=("open_volume",)
    ),
    "nnunet": Kind(
        nnunet_files,
        read_nnunet,
        (".json", ".json", ".json", ".nii.gz"),
        (*PATIENTS, "/dev/zero"),
        may_ask=("open_volume",),
    ),
    "stores": Kind(lambda rng: stored(), read_store, (".json", ".json", ".npy"), ("split: ",)),
    "splits": Kind(split_files, read_splits, ("split.json", ".csv"), ("split", *PATIENTS)),
}
