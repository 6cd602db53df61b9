"""The configuration of a run: what it may say, how it is read, which values do not fit together.

    schema.py     the frozen dataclasses, whose defaults are the only defaults
    parts.py      tables of losses, optimisers, schedules, augmentations and engines: a row a part
    networks.py   the table of networks
    load.py       YAML <- key=value overrides, checked; compared; written
    rules.py      values that do not fit together
    tree.py       nested mappings by dotted keys, the nearest right name

Imports no torch: login nodes and job scripts load configurations in milliseconds.
"""

from segtrain.config.load import (
    COMMAND_LINE,
    builtin_config,
    checked,
    find_config,
    first_difference,
    from_tree,
    load_config,
    merge,
    read_yaml,
    to_yaml,
)
from segtrain.config.networks import NETWORKS, SMP, SMP_PREFIX, NetworkPart, NormName, network_part, width_problem
from segtrain.config.parts import AUGMENTATIONS, ENGINES, LOSSES, OPTIMIZERS, SCHEDULES, Part
from segtrain.config.rules import problems
from segtrain.config.schema import (
    MAY_DIFFER,
    AllocatorName,
    CheckpointConfig,
    Config,
    DataConfig,
    DeepSpeedConfig,
    DeviceName,
    EvaluateConfig,
    LossConfig,
    ModelConfig,
    OnOom,
    OptimConfig,
    PhantomConfig,
    Precision,
    Ramp,
    SamplingName,
    SourceName,
    SplitName,
    StopConfig,
    TrainConfig,
    TtaName,
    WatchConfig,
)
from segtrain.config.tree import flatten, nearest

__all__ = [
    "AUGMENTATIONS",
    "COMMAND_LINE",
    "ENGINES",
    "LOSSES",
    "MAY_DIFFER",
    "NETWORKS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SMP",
    "SMP_PREFIX",
    "AllocatorName",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DeepSpeedConfig",
    "DeviceName",
    "EvaluateConfig",
    "LossConfig",
    "ModelConfig",
    "NetworkPart",
    "NormName",
    "OnOom",
    "OptimConfig",
    "Part",
    "PhantomConfig",
    "Precision",
    "Ramp",
    "SamplingName",
    "SourceName",
    "SplitName",
    "StopConfig",
    "TrainConfig",
    "TtaName",
    "WatchConfig",
    "builtin_config",
    "checked",
    "find_config",
    "first_difference",
    "flatten",
    "from_tree",
    "load_config",
    "merge",
    "nearest",
    "network_part",
    "problems",
    "read_yaml",
    "to_yaml",
    "width_problem",
]
