"""Which values of a config do not fit together. Imports no torch."""

from collections.abc import Iterator, Mapping
from typing import Any

from segtrain.config.schema import OWN_NORM, TAKES, Config, DataConfig, OptimConfig

_NOT_THERE = object()
# Keys of DeepSpeed's JSON that are made from ours, and which of ours.
OWNED = {
    "train_batch_size": "train.global_batch",
    "elasticity": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.micro_batch",
    "managed_gradient_accumulation": "train.micro_batch",
    "gradient_clipping": "optim.clip_norm",
    "optimizer": "optim.name",
    "zero_allow_untested_optimizer": "optim.name",
    "scheduler": "optim.schedule",
    "fp16": "precision",
    "bf16": "precision",
    "bfloat16": "precision",
    "amp": "precision",
    "torch_autocast": "precision",
    "activation_checkpointing": "model.checkpoint_activations",
    "compile": "model.compile (with engine=ddp)",
    "zero_optimization.stage": "deepspeed.zero",
    "zero_optimization.cpu_offload": "deepspeed.offload",
    "zero_optimization.offload_optimizer.device": "deepspeed.offload",
    "zero_force_ds_cpu_optimizer": "deepspeed.offload",
}


def problems(cfg: Config) -> Iterator[str]:
    """What is wrong with the combination of values, each with its remedy; nothing when they fit."""
    for wrong, message in (
        *_data(cfg.data),
        *_model(cfg),
        *_optim(cfg.optim),
        *_engine(cfg),
        *_extra(cfg.deepspeed.extra),
    ):
        if wrong:
            yield message


def _data(data: DataConfig) -> Iterator[tuple[bool, str]]:
    yield (
        data.source == "lgg" and data.root is None,
        "data.source=lgg needs the data's folder; add data.root=.../kaggle_3m",
    )
    yield (
        data.source == "phantom" and data.root is not None,
        f"data.root={data.root} is set but data.source=phantom trains on made-up patients; "
        "use --config configs/lgg.yaml or data.source=lgg",
    )
    yield (
        data.split == "kfold" and data.fold >= data.folds,
        f"data.fold={data.fold} does not exist with data.folds={data.folds}; folds count from 0",
    )
    yield data.split == "file" and data.split_file is None, "data.split=file needs data.split_file=FILE.json"


def _model(cfg: Config) -> Iterator[tuple[bool, str]]:
    model = cfg.model
    yield (
        model.norm == "group" and model.features % 4 != 0,
        f"model.features={model.features} cannot be normed in groups of 4; set model.features=8",
    )
    for key in ("depth", "norm", "deep_supervision"):
        takers = [name for name, keys in TAKES.items() if key in keys]
        yield (
            getattr(model, key) is not None and model.name not in takers,
            f"model.{key}={getattr(model, key)!r} means nothing to model.name={model.name}; leave it out, or choose "
            + " or ".join(takers),
        )
    yield (
        model.name == "swin_unetr" and model.features % 12 != 0,
        f"model.features={model.features}: swin_unetr's width is a multiple of 12; set model.features=24",
    )
    yield (
        model.name == "attention_unet" and model.features < 2,
        f"model.features={model.features}: attention_unet's gates are half as wide; set model.features=2 or more",
    )


def _optim(optim: OptimConfig) -> Iterator[tuple[bool, str]]:
    """Keys that some optimisers and schedules do not read."""
    readers = {
        "momentum": ("name", ("sgd",)),
        "final_lr_ratio": ("schedule", ("warmup_cosine", "polynomial")),
        "power": ("schedule", ("polynomial",)),
    }
    for key, (chooser, takers) in readers.items():
        value, chosen = getattr(optim, key), getattr(optim, chooser)
        yield (
            value != getattr(OptimConfig(), key) and chosen not in takers,
            f"optim.{key}={value} means nothing to optim.{chooser}={chosen}; leave it out, or choose "
            + " or ".join(takers),
        )


def _engine(cfg: Config) -> Iterator[tuple[bool, str]]:
    model, optim = cfg.model, cfg.optim
    norm = model.norm or OWN_NORM.get(str(model.name), "batch")
    yield (
        cfg.deepspeed.offload and cfg.deepspeed.zero == 0,
        "deepspeed.offload=true keeps parts on the CPU, and deepspeed.zero=0 makes none; set deepspeed.zero=1, 2 or 3, "
        "or leave deepspeed.offload out",
    )
    yield (
        cfg.engine == "deepspeed" and optim.name == "schedulefree",
        "optim.name=schedulefree swaps weights that DeepSpeed holds in parts; use engine=ddp, or adamw with optim.ema",
    )
    yield (
        cfg.engine == "deepspeed" and (model.compile or bool(model.channels_last)),
        "model.compile and model.channels_last do not go with engine=deepspeed; use engine=ddp, or leave them out",
    )
    yield (
        model.compile and model.checkpoint_activations,
        "model.compile=true does not go with model.checkpoint_activations=true; choose one",
    )
    yield (
        optim.name == "schedulefree" and norm == "batch",
        "optim.name=schedulefree scores other weights than it trains, and batch norm's running statistics are not of "
        "those; use model.norm=instance or group",
    )
    yield (
        optim.name == "schedulefree" and (optim.schedule != "constant" or optim.ema is not None),
        "optim.name=schedulefree averages weights in place of a schedule; use optim.schedule=constant (warmup_steps "
        "may stay) and no optim.ema",
    )


def _extra(extra: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """What lies over DeepSpeed's JSON may not change what is made from other keys; the first of it that does."""
    for key, ours in OWNED.items():
        found: Any = extra
        for part in key.split("."):
            found = found.get(part, _NOT_THERE) if isinstance(found, Mapping) else _NOT_THERE
        yield (
            found is not _NOT_THERE,
            f"deepspeed.extra.{key}={found!r} is made from the project's own key; leave it out and set {ours}",
        )
    zero = extra.get("zero_optimization", {})
    offload = zero.get("offload_optimizer", {}) if isinstance(zero, Mapping) else {}
    for key, value in (("zero_optimization", zero), ("zero_optimization.offload_optimizer", offload)):
        said = f"deepspeed.extra.{key}={value!r}: a mapping of DeepSpeed's keys belongs there"
        yield not isinstance(value, Mapping), said
