"""Values of a config that do not fit together. Imports no torch."""

import re
from collections.abc import Iterator, Mapping

from segtrain.config.choice import name_of, options_of
from segtrain.config.deepspeed_keys import extra_problems
from segtrain.config.networks import NETWORKS, width_problem
from segtrain.config.parts import AUGMENTATIONS, OPTIMIZERS, SCHEDULES, Part
from segtrain.config.postprocessing import POSTPROCESSING
from segtrain.config.reference import Reference
from segtrain.config.regions import MOST_REGIONS, ZEROS, canonical
from segtrain.config.schema import Config, DataConfig, ModelConfig, OptimConfig
from segtrain.config.unread import unread_by_split
from segtrain.errors import ConfigError

Checks = Iterator[tuple[bool, str]]  # whether something is wrong, and the message for that case


def problems(cfg: Config) -> Iterator[str]:
    """What is wrong with the combination of values, each with its remedy; nothing when they fit."""
    checks = (*_folders(cfg), *_data(cfg.data), *_model(cfg.model), *_optim(cfg.optim), *_engine(cfg))
    yield from (message for wrong, message in checks if wrong)
    yield from extra_problems(cfg.deepspeed.extra)


def refuse_for_regions(cfg: Config) -> None:
    """Raises ConfigError where `evaluate` has values that do not fit the regions of the data, which are known now."""
    regions = cfg.data.layout.regions
    for key in POSTPROCESSING:
        value = getattr(cfg.evaluate, key)
        if unknown := [name for name in value if name not in regions] if isinstance(value, Mapping) else []:
            raise ConfigError(
                f"evaluate.{key} has a value for {unknown[0]}, but the regions are {', '.join(regions)}; name one of "
                "these"
            )
    for region in regions:
        rules = cfg.evaluate.of(region)
        if rules.largest_component and rules.min_component_share:
            raise ConfigError(
                f"evaluate.min_component_share={rules.min_component_share:g}: evaluate.largest_component keeps the "
                f"largest component of {region} alone; set evaluate.largest_component=false"
            )


def _folders(cfg: Config) -> Checks:
    shown = cfg.runs_dir.encode(errors="surrogateescape").decode(errors="backslashreplace")
    yield (
        shown != cfg.runs_dir,
        f"runs_dir={shown}: not in UTF-8, and TensorBoard writes into no such folder; name another",
    )


def _data(data: DataConfig) -> Checks:
    yield (
        data.source == "lgg" and data.root is None,
        "data.source=lgg needs the data's folder; add data.root=.../kaggle_3m",
    )
    yield (
        data.source not in ("lgg", "phantom") and not Reference.parse(name_of(data.source)) and data.root is None,
        f"data.source={data.source} needs the data's folder; add data.root=FOLDER",
    )
    yield (
        data.source == "phantom" and data.root is not None,
        f"data.root={data.root} is set but data.source=phantom trains on made-up patients; "
        "use --config configs/lgg.yaml, data.source=lgg, or data.source=auto, which looks at the folder",
    )
    yield (
        data.regions is not None and not 1 <= len(data.regions) <= MOST_REGIONS,
        f"data.regions={data.regions} has {len(data.regions or ())} regions, but from 1 to {MOST_REGIONS} can be "
        "trained together; name so many",
    )
    yield (
        data.neighbours_mm is not None and data.neighbours == 0,
        f"data.neighbours_mm={data.neighbours_mm} is the distance of neighbours, and data.neighbours=0 takes none; set "
        "data.neighbours=1",
    )
    yield from _contrasts(data)
    if data.source == "phantom":
        yield from _phantom(data)
    yield (
        data.split == "kfold" and data.fold >= data.folds,
        f"data.fold={data.fold} does not exist with data.folds={data.folds}; folds count from 0",
    )
    yield (
        data.sampling == "uniform" and data.lesion_free != DataConfig.lesion_free,
        f"data.lesion_free={data.lesion_free} is of data.sampling=lesion, but data.sampling=uniform draws every slice "
        "alike; leave one of the two out",
    )
    yield (
        bool(data.resident) and name_of(data.augment) not in AUGMENTATIONS,
        f"data.resident=true, but data.augment={name_of(data.augment)} of your own works on the CPU, slice by slice; "
        "leave data.resident out",
    )
    yield data.split == "file" and data.split_file is None, "data.split=file needs data.split_file=FILE.json"
    yield from unread_by_split(data)
    yield from _labels(data)


def _labels(data: DataConfig) -> Checks:
    """Regions, ignored and remapped labels that contradict each other."""
    regions, remap = data.regions or {}, data.remap or {}
    spellings: dict[str, str] = {}
    for name, labels in regions.items():
        other = spellings.setdefault(name.strip().lower(), name)
        yield other != name, f"data.regions has {other} and {name}, one name in two spellings; rename one"
        yield (
            not re.fullmatch(r"[\w][\w .+-]*", name),
            f"data.regions: {name!r} stands in tables and file names; use letters, digits, spaces, and _.+- for it",
        )
        for label in labels:
            yield (
                label in data.ignore,
                f"label {label} is both in region {name} and in data.ignore; leave it out of one",
            )
            yield (
                label in remap and remap.get(label) != label,
                f"label {label} is in region {name}, but data.remap reads it as {remap.get(label)}; leave it out of "
                "one",
            )
    for label, target in remap.items():
        yield (
            label in data.ignore,
            f"label {label} is in data.ignore, but data.remap reads it as {target}; leave it out of one",
        )
        yield (
            target in data.ignore,
            f"data.remap reads label {label} as {target}, which is in data.ignore; list {label} there as well instead",
        )
        yield (
            bool(regions) and target not in data.ignore and all(target not in labels for labels in regions.values()),
            f"data.remap reads label {label} as {target}, which is in no region; list {target} in a region of "
            "data.regions",
        )
    yield (
        bool(remap) and not regions and data.source in ("phantom", "lgg", "slices", "nifti"),
        f"data.remap={remap} needs regions to read labels as; add data.regions='{{lesion: [{_first(remap)}]}}'",
    )


def _first(remap: Mapping[int, int]) -> int:
    return next(iter(remap.values()), 1)


def _contrasts(data: DataConfig) -> Checks:
    names = [canonical(name) for name in data.contrasts or ()]
    twice = [name for place, name in enumerate(data.contrasts or ()) if names[place] in names[:place]]
    yield bool(twice), f"data.contrasts has {next(iter(twice), 'one')} twice, maybe in another spelling; list it once"
    yield (
        bool(names) and data.missing not in (None, ZEROS) and canonical(data.missing or "") not in names,
        f"data.missing={data.missing} is none of data.contrasts, {', '.join(data.contrasts or ())}; name one of them, "
        f"or {ZEROS}",
    )
    yield (
        data.files is not None and data.source not in ("nifti", "auto"),
        f"data.files is set, but data.source={data.source} finds its files itself; set data.source=nifti",
    )


def _phantom(data: DataConfig) -> Checks:
    """What the config says of made-up patients that are otherwise; a run's config repeats what they are."""
    phantom = data.phantom
    yield (
        data.regions not in (None, phantom.labels),
        f"data.regions={data.regions} is set, but masks of data.source=phantom have no labels; leave it out, or set "
        "data.phantom.regions=3",
    )
    yield (
        data.ignore not in ((), phantom.ignore),
        f"data.ignore={list(data.ignore)} is set, but masks of data.source=phantom have no such label; leave it out, "
        "or set data.phantom.unlabelled=0.5",
    )
    yield (
        data.contrasts not in (None, phantom.contrasts),
        f"data.contrasts={list(data.contrasts or ())} is set, but made-up patients have {list(phantom.contrasts)}; "
        "leave it out, and set data.phantom.contrasts",
    )


def _model(model: ModelConfig) -> Checks:
    yield (
        model.norm == "group" and model.features % 4 != 0,
        f"model.features={model.features} cannot be divided into 4 groups for model.norm=group; set model.features=8",
    )
    yield (
        model.weights_input is not None and model.weights is None,
        f"model.weights_input={model.weights_input} is of a file of weights, and model.weights names none; leave it "
        "out, or set model.weights",
    )
    yield from _unread(model, "model", "name", NETWORKS)
    yield from _unread_by_own(model)
    message = width_problem(name_of(model.name), model.features)
    yield message is not None, message or ""


def _unread_by_own(model: ModelConfig) -> Checks:
    """Keys of built-in networks beside a network of the user's own, and the other way round."""
    name = name_of(model.name)
    is_own = Reference.parse(name) is not None
    for key in ("depth", "norm"):  # not `features`, which has a value in every config
        value = getattr(model, key)
        yield (
            is_own and value is not None,
            f"model.{key}={value} means nothing to your own network {name}; leave it out, and give the network an "
            f"option of its own, as model.name={{part: {name}, option: {value}}}",
        )
    yield (
        not is_own and model.output is not None,
        f"model.output={model.output} is for networks of your own, and the output of {name} is known; leave it out",
    )


def _optim(optim: OptimConfig) -> Checks:
    yield from _unread(optim, "optim", "name", OPTIMIZERS)
    yield from _unread(optim, "optim", "schedule", SCHEDULES)
    yield (
        optim.lr_ratios is not None and Reference.parse(name_of(optim.name)) is not None,
        f"optim.lr_ratios={optim.lr_ratios} is not for optim.name={name_of(optim.name)} of your own; leave it out, and "
        "write a factory f(network, lr) that gives its groups their rates",
    )
    schedule, options = name_of(optim.schedule), options_of(optim.schedule)
    for key in ("final_lr_ratio", "power"):
        value = getattr(optim, key)
        if value == getattr(OptimConfig(), key):
            continue
        yield (
            Reference.parse(schedule) is not None,
            f"optim.{key}={value!r} means nothing to optim.schedule={schedule}; leave it out, and give a schedule of "
            f"your own its options as optim.schedule.{key}=...",
        )
        yield (
            key in options,
            f"optim.{key}={value!r} and optim.schedule.{key}={options.get(key)!r} are the same setting; leave one out",
        )


def _unread(section: ModelConfig | OptimConfig, prefix: str, chooser: str, table: Mapping[str, Part]) -> Checks:
    """Keys of the section that have a value and are not read by the part that its key `chooser` names."""
    name = name_of(getattr(section, chooser))
    if Reference.parse(name):
        return  # what a part of the user's own reads is checked with the part
    for key in dict.fromkeys(key for part in table.values() for key in part.keys):
        readers = [reader for reader, part in table.items() if key in part.keys]
        value, default = getattr(section, key), getattr(type(section)(), key)
        yield (
            value != default and name not in readers,
            f"{prefix}.{key}={value!r} means nothing to {prefix}.{chooser}={name}; leave it out, or choose "
            + " or ".join(readers),
        )


def _engine(cfg: Config) -> Checks:
    model, optim = cfg.model, cfg.optim
    yield (
        cfg.deepspeed.offload and cfg.deepspeed.zero == 0,
        "deepspeed.offload=true keeps parts on the CPU, and deepspeed.zero=0 makes none; set deepspeed.zero=1, 2 or 3, "
        "or leave deepspeed.offload out",
    )
    yield (
        cfg.engine == "deepspeed" and name_of(optim.name) == "schedulefree",
        "optim.name=schedulefree swaps weights that DeepSpeed holds in parts; use engine=ddp, or adamw with optim.ema",
    )
    yield (
        cfg.engine == "deepspeed" and (bool(model.compile) or bool(model.channels_last)),
        "model.compile and model.channels_last do not go with engine=deepspeed; use engine=ddp, or leave them out",
    )
    yield (
        cfg.engine == "deepspeed" and cfg.train.cuda_graph,
        "train.cuda_graph=true does not go with engine=deepspeed; use engine=ddp, or leave it out",
    )
    yield (
        bool(model.compile) and model.checkpoint_activations,
        f"model.compile={str(model.compile).lower()} does not go with model.checkpoint_activations=true; choose one",
    )
    yield (
        name_of(optim.name) == "schedulefree"
        and (model.norm or model.part.norm) == "batch"
        and not Reference.parse(name_of(model.name)),  # whose norm is known once it is made
        "optim.name=schedulefree scores other weights than it trains, and batch norm's running statistics are those of "
        "the weights that it trains; use model.norm=instance or group",
    )
    yield (
        name_of(optim.name) == "schedulefree" and (name_of(optim.schedule) != "constant" or optim.ema is not None),
        "optim.name=schedulefree averages weights in place of a schedule; use optim.schedule=constant (warmup_steps "
        "may stay) and no optim.ema",
    )
