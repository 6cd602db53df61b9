"""What one run was trained with, in words: its data, its config, its machine (L15)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from segtrain.config import Config, DataConfig, Ramp, flatten
from segtrain.config.licence import UNKNOWN, licence_of
from segtrain.config.own_parts import own_parts
from segtrain.data.splits import hash_of
from segtrain.report.collect import Collected
from segtrain.report.texts import Say
from segtrain.run import Environment

Facts = dict[str, str]  # by the key of its text; "" where nothing is to be said

DATA_KEYS = (
    "contrasts", "missing", "regions", "ignore", "remap", "soft_above", "rater", "protocol", "spacing_mm", "resample",
    "groups",
)  # fmt: skip
PACKAGES = ("segtrain", "torch", "numpy", "deepspeed")  # besides those that own parts come from
DIGITS = 12  # of a hash, for people


def facts_of(run: Collected, cfg: Config, say: Say) -> Facts:
    """All facts, in the order in which a reader asks for them."""
    starts = run.run.starts()
    return _of_data(run, cfg.data, starts, say) | _of_training(cfg) | _of_machine(cfg, starts, say)


def text_of(value: Any) -> str:
    """A setting in words: `whole: 1 2 3; core: 1 3`."""
    if value is None:
        return ""
    if isinstance(value, Ramp):
        return f"{value.start:g} to {value.end:g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {text_of(below)}" for key, below in value.items())
    if isinstance(value, (tuple, list)):
        joint = ", " if any(isinstance(one, str) for one in value) else " "
        return joint.join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def together(values: Iterable[str]) -> str:
    """The values of one fact, each once."""
    different = list(dict.fromkeys(value for value in values if value))
    return ("; " if any("," in value for value in different) else ", ").join(different)


def _of_data(run: Collected, data: DataConfig, starts: Sequence[Environment], say: Say) -> Facts:
    default = DataConfig()
    facts = {"data_source": " ".join(filter(None, (text_of(data.source), data.root)))}
    for key in DATA_KEYS:
        value = getattr(data, key)
        facts[f"data_{key}"] = "" if value == getattr(default, key) else text_of(value)
    licence = licence_of(data)
    facts["fact_licence"] = say("unknown") if licence == UNKNOWN else licence
    facts["fact_store"] = together(start.store.rpartition("-")[2] for start in starts if start.store)
    facts["fact_image_size"] = f"{data.image_size} px"
    by = {"reference": data.split_seed, "kfold": data.split_seed, "file": data.split_file}[data.split]
    facts["fact_split"] = say(f"split_{data.split}", by=by, folds=data.folds)
    facts["fold"] = "" if run.fold is None else str(run.fold)
    if split := run.split:
        facts["fact_patients"] = say("sides_text", train=len(split.train), validation=len(split.validation))
        facts["fact_split_hash"] = hash_of(split.train, split.validation)[:DIGITS]
    return facts


def _of_training(cfg: Config) -> Facts:
    data, optim = cfg.data, cfg.optim
    loss = dict(flatten(cfg.loss)) if isinstance(cfg.loss, Mapping) else cfg.loss
    regions = f"by region {text_of(cfg.loss_regions)}" if cfg.loss_regions else ""
    parts = [f"{part.key}={part.reference}" for part in own_parts(cfg)]
    files = [f"{name} {digest[:DIGITS]}" for name, digest in cfg.code.items()]
    return {
        "fact_network": _settings(cfg.model, shown=("name", "features")),
        "fact_loss": "; ".join(filter(None, (text_of(loss), regions))),
        "fact_optimiser": _settings(optim, shown=("name", "lr"), hidden=("schedule", "ema")),
        "fact_schedule": text_of(optim.schedule),
        "fact_ema": text_of(optim.ema),
        "fact_sampling": data.sampling,
        "fact_augmentation": _settings(data, shown=("augment",), only=("augment", "copy_paste", "mixup", "neighbours")),
        "fact_batch": _settings(cfg.train, shown=("global_batch",), only=("global_batch", "micro_batch")),
        "fact_epochs": str(cfg.train.epochs),
        "fact_seed": str(cfg.seed),
        "fact_scoring": _settings(cfg.evaluate, shown=("threshold",), hidden=("every_epochs", "batch", "pictures")),
        "fact_own_parts": "; ".join([*parts, *files]),
    }


def _settings(section: Any, shown: Sequence[str], hidden: Sequence[str] = (), only: Sequence[str] = ()) -> str:
    """A section of the config: the first of `shown` by its value alone, then it and whatever is not the default."""
    first, *always = shown
    texts = [text_of(getattr(section, first))]
    default = type(section)()
    for key in fields(section):
        value = getattr(section, key.name)
        wanted = key.name in always or (value != getattr(default, key.name) and key.name not in hidden)
        if key.name != first and wanted and (not only or key.name in only):
            texts.append(f"{key.name} {text_of(value)}")
    return ", ".join(texts)


def _of_machine(cfg: Config, starts: Sequence[Environment], say: Say) -> Facts:
    """Of all starts of the run, which may be on other machines."""
    modules = {part.reference.where.partition(".")[0].lower() for part in own_parts(cfg) if not part.reference.is_file}
    engine = f"deepspeed, zero {cfg.deepspeed.zero}" if cfg.engine == "deepspeed" else cfg.engine
    ranks, versions = [], []
    for start in starts:
        device = (start.device or "").partition(":")[0]
        if start.world_size:
            ranks.append(say("ranks_text", ranks=start.world_size, device=start.device_name or device or "?"))
        of_start = {
            "Python": start.python,
            **{name: start.packages.get(name) for name in (*PACKAGES, *sorted(modules))},
        }
        versions += [f"{name} {version}" for name, version in (of_start | dict(start.libraries)).items() if version]
    return {
        "fact_precision": cfg.precision,
        "fact_engine": engine,
        "fact_ranks": together(ranks),
        "fact_versions": together(versions),
        "fact_commit": together(start.git_commit or say("unknown") for start in starts),
    }
