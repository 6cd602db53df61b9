"""The configuration: frozen dataclasses <- YAML <- `key=value` overrides, checked before anything else runs.

Imports no torch: login nodes and job scripts load configurations in milliseconds.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from segtrain.errors import ConfigError

STRICT = ConfigDict(extra="forbid")

SourceName = Literal["phantom", "lgg"]
SplitName = Literal["reference", "kfold", "file"]
SamplingName = Literal["lesion", "uniform"]
AugmentName = Literal["none", "reference"]
ModelName = Literal["unet"]
NormName = Literal["batch", "group"]
LossName = Literal["dice"]
OptimName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["constant", "warmup_cosine"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
EngineName = Literal["ddp"]
DeviceName = Literal["auto", "cpu", "cuda"]
AllocatorName = Literal["keep", "system"]


@dataclass(frozen=True, config=STRICT)
class PhantomConfig:
    """Made-up patients: how many, from which seed, how large a slice is before preparation."""

    patients: int = Field(default=24, ge=2)
    seed: int = Field(default=0, ge=0)
    size_px: int = Field(default=128, ge=64)


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Where patients come from, how they are prepared, split, drawn and augmented."""

    source: SourceName = "phantom"
    root: str | None = None  # the folder of patient folders, for source=lgg
    store: str = "prepared"  # parent folder of prepared stores; share it between runs
    image_size: int = Field(default=256, ge=16, multiple_of=16)
    skip_bad: bool = False  # leave broken patients out (and list them) instead of stopping
    workers: int | None = Field(default=None, ge=1)  # processes that prepare; default: the usable cores
    split: SplitName = "reference"
    validation_patients: int = Field(default=10, ge=1)  # split=reference
    split_seed: int = Field(default=42, ge=0)
    folds: int = Field(default=5, ge=2)  # split=kfold
    fold: int = Field(default=0, ge=0)
    split_file: str | None = None  # split=file
    sampling: SamplingName = "lesion"
    augment: AugmentName = "reference"
    phantom: PhantomConfig = field(default_factory=PhantomConfig)


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The network."""

    name: ModelName = "unet"
    features: int = Field(default=32, ge=1)
    norm: NormName = "batch"
    channels_last: bool | None = None  # default: where it was measured to be faster (docs/performance.md)
    compile: bool = False


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """The optimiser, its schedule (a function of the step) and gradient clipping."""

    name: OptimName = "adam"
    lr: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)  # sgd
    schedule: ScheduleName = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    final_lr_ratio: float = Field(default=0.0, ge=0, le=1)  # of lr, at the end of warmup_cosine
    clip_norm: float | None = Field(default=None, gt=0)


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """How long, and how many samples an optimiser step over all ranks (`global_batch`)."""

    epochs: int = Field(default=100, ge=1)
    global_batch: int = Field(default=16, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)  # samples per rank in memory at once; default: all


@dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """How validation patients are scored."""

    every_epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=16, ge=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    largest_component: bool = True
    pictures: int = Field(default=6, ge=0)  # validation patients drawn in every evaluation's picture


@dataclass(frozen=True, config=STRICT)
class CheckpointConfig:
    """When to save (besides each epoch's end) and how many to keep (besides the best)."""

    every_min: float = Field(default=10.0, gt=0)
    keep: int = Field(default=2, ge=1)


@dataclass(frozen=True, config=STRICT)
class StopConfig:
    """When to save and leave without being told: a time (2026-11-22T18:00) or a duration (1h30m)."""

    deadline: Annotated[str | None, BeforeValidator(lambda v: v.isoformat() if isinstance(v, date) else v)] = None


@dataclass(frozen=True, config=STRICT)
class Config:
    """One run, whole."""

    name: str = Field(default="phantom", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    runs_dir: str = "runs"
    seed: int = Field(default=42, ge=0, lt=2**63)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossName = "dice"
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    precision: Precision = "fp32"
    engine: EngineName = "ddp"
    device: DeviceName = "auto"
    threads_per_rank: int | None = Field(default=None, ge=1)  # default: usable cores / ranks on the node
    allocator: AllocatorName = "keep"  # keep: glibc keeps freed memory for the next step (faster, some 30% more memory)
    log_every_steps: int = Field(default=10, ge=1)


# What may differ between the config of a run and the one that continues it: how long it goes on, where things lie, how
# the work is divided and how fast it goes, what is looked at on the way. Like the world size, these change what is
# learnt only as far as L5 allows.
MAY_DIFFER = frozenset(
    {
        "train.epochs",
        "precision",
        "engine",
        "runs_dir",
        "data.root",
        "data.store",
        "data.workers",
        "data.skip_bad",
        "device",
        "allocator",
        "threads_per_rank",
        "log_every_steps",
        "model.channels_last",
        "model.compile",
        "train.micro_batch",
        "evaluate.batch",
        "evaluate.pictures",
        "evaluate.every_epochs",
        "checkpoint.every_min",
        "checkpoint.keep",
        "stop.deadline",
    }
)


def builtin_config(name: str) -> Path:
    """The path of a YAML that comes with the project: in a checkout `configs/`, in a wheel `segtrain/configs/`."""
    here = Path(__file__).resolve().parent
    folders = (here / "configs", here.parent / "configs")
    return next((f / name for f in folders if (f / name).is_file()), folders[-1] / name)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """The resolved config of `path` (default: the phantom run) with `key=value` overrides applied.

    Raises ConfigError: file missing or not YAML, unknown key (with the nearest right one), bad value or combination.
    """
    path = path or builtin_config("phantom.yaml")
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the config ({error.strerror}); name an existing file with --config"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())}); see configs/ for examples") from error
    for override in overrides if isinstance(tree, dict) else ():
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r}: not an override; write key=value, for example optim.lr=1e-3")
        _set(tree, key, _parse(override, value))
    return from_tree(tree, where=str(path))


def from_tree(tree: Mapping[str, Any], where: str) -> Config:
    """A checked Config from nested mappings; `where` names their origin in errors."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where}: a config is a mapping of keys, this is a {type(tree).__name__}; see configs/")
    known = _known_keys()
    for key, _ in flatten(tree):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            last = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
            hint = f"; did you mean {(last or near)[0]}?" if last or near else "; --help lists the keys"
            raise ConfigError(f"{where}: unknown key {key}{hint}")
    try:
        config = TypeAdapter(Config).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
        value = first["input"]
        raise ConfigError(f"{where}: {key}={value!r}: {first['msg']}; change {key}") from error
    _check(config, where)
    return config


def _known_keys() -> set[str]:
    leaves = {key for key, _ in flatten(asdict(Config()))}
    return leaves | {leaf.rsplit(".", up)[0] for leaf in leaves for up in range(1, leaf.count(".") + 1)}


def _check(cfg: Config, where: str) -> None:
    """Raise ConfigError for values that do not fit together."""
    data = cfg.data
    if data.source == "lgg" and data.root is None:
        raise ConfigError(f"{where}: data.source=lgg needs the data's folder; add data.root=.../kaggle_3m")
    if data.source == "phantom" and data.root is not None:
        raise ConfigError(
            f"{where}: data.root={data.root} is set but data.source=phantom trains on made-up patients; "
            "use --config configs/lgg.yaml or data.source=lgg"
        )
    if data.split == "kfold" and data.fold >= data.folds:
        raise ConfigError(
            f"{where}: data.fold={data.fold} does not exist with data.folds={data.folds}; folds count from 0"
        )
    if data.split == "file" and data.split_file is None:
        raise ConfigError(f"{where}: data.split=file needs data.split_file=FILE.json")
    if cfg.model.norm == "group" and cfg.model.features % 4:
        raise ConfigError(
            f"{where}: model.features={cfg.model.features} cannot be normed in groups of 4; set model.features=8"
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_yaml(cfg: Config) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal Config."""
    return yaml.safe_dump(asdict(cfg), sort_keys=False)


def first_difference(ours: Config, theirs: Config) -> tuple[str, Any, Any] | None:
    """(key, our value, their value) of the first difference that makes two configs different runs, or None."""
    other = dict(flatten(asdict(theirs)))
    for key, value in flatten(asdict(ours)):
        if key not in MAY_DIFFER and value != other[key]:
            return key, value, other[key]
    return None


def _parse(override: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML; quote it, for example name='a b'") from error


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted}={value!r}: {parent} is a value, not a section; see --help")
    tree[leaf] = value
