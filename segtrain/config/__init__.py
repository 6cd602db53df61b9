"""The configuration of a run: what it may say, how it is read, which values do not fit together.

    schema.py     the frozen dataclasses, whose defaults are the only defaults
    parts.py      tables of losses, optimisers, schedules, augmentations and engines: a row a part
    networks.py   the table of networks
    choice.py     a part as a config chooses it: a name, or a name with options
    reference.py  references to parts of the user's own, and the file of each
    signature.py  the options of a part, read from its source
    loss_terms.py the loss: one, or a weighted sum
    phantoms.py   made-up patients
    postprocessing.py what makes a mask of probabilities
    regions.py    contrasts and regions by name, bits of masks
    licence.py    the licence of a data set
    label_names.py labels by their names in nnU-Net's dataset.json
    own_parts.py  the parts of the user's own that a config names
    own_code.py   the files of a part of the user's own, and their hashes
    importing.py  imports the code of such a part
    overrides.py  changes by key=value and by the keys of a spec
    json_text.py  JSON that others wrote
    load.py       YAML <- key=value overrides, checked; written
    comparison.py whether two configs are the same run
    paths.py      paths as users write them
    rules.py      values that do not fit together
    tree.py       nested mappings by dotted keys, the nearest right name
    views.py      flips at test time, and those of the training

Imports no torch: login nodes and job scripts load configurations in milliseconds.
"""

from segtrain.config.choice import PART, Choice, name_of, options_of, part_of
from segtrain.config.comparison import MAY_DIFFER, fingerprint, first_difference
from segtrain.config.load import (
    COMMAND_LINE,
    builtin_config,
    checked,
    config_beside,
    find_config,
    from_tree,
    load_config,
    read_yaml,
    to_yaml,
)
from segtrain.config.loss_terms import LossConfig, LossTerm, Ramp, loss_terms
from segtrain.config.networks import NETWORKS, SMP, NetworkPart, NormName, OutputName, network_part, width_problem
from segtrain.config.overrides import merge
from segtrain.config.parts import AUGMENTATIONS, ENGINES, LOSSES, OPTIMIZERS, SCHEDULES, Part
from segtrain.config.phantoms import PhantomConfig
from segtrain.config.postprocessing import POSTPROCESSING, Postprocessing
from segtrain.config.reference import SMP_PREFIX, Reference
from segtrain.config.regions import IGNORED, LESION, LGG_CONTRASTS, MaskLayout, canonical
from segtrain.config.rules import problems, refuse_for_regions
from segtrain.config.schema import (
    AllocatorName,
    CheckpointConfig,
    Config,
    DataConfig,
    DeepSpeedConfig,
    DeviceName,
    EvaluateConfig,
    ModelConfig,
    OnOom,
    OptimConfig,
    Precision,
    ProtocolName,
    SamplingName,
    SplitName,
    SplitVersion,
    StopConfig,
    TrainConfig,
    TtaName,
    WatchConfig,
    WeightsInput,
)
from segtrain.config.tree import flatten, nearest
from segtrain.config.views import untrained_views

__all__ = [
    "AUGMENTATIONS",
    "COMMAND_LINE",
    "ENGINES",
    "IGNORED",
    "LESION",
    "LGG_CONTRASTS",
    "LOSSES",
    "MAY_DIFFER",
    "NETWORKS",
    "OPTIMIZERS",
    "PART",
    "POSTPROCESSING",
    "SCHEDULES",
    "SMP",
    "SMP_PREFIX",
    "AllocatorName",
    "CheckpointConfig",
    "Choice",
    "Config",
    "DataConfig",
    "DeepSpeedConfig",
    "DeviceName",
    "EvaluateConfig",
    "LossConfig",
    "LossTerm",
    "MaskLayout",
    "ModelConfig",
    "NetworkPart",
    "NormName",
    "OnOom",
    "OptimConfig",
    "OutputName",
    "Part",
    "PhantomConfig",
    "Postprocessing",
    "Precision",
    "ProtocolName",
    "Ramp",
    "Reference",
    "SamplingName",
    "SplitName",
    "SplitVersion",
    "StopConfig",
    "TrainConfig",
    "TtaName",
    "WatchConfig",
    "WeightsInput",
    "builtin_config",
    "canonical",
    "checked",
    "config_beside",
    "find_config",
    "fingerprint",
    "first_difference",
    "flatten",
    "from_tree",
    "load_config",
    "loss_terms",
    "merge",
    "name_of",
    "nearest",
    "network_part",
    "options_of",
    "part_of",
    "problems",
    "read_yaml",
    "refuse_for_regions",
    "to_yaml",
    "untrained_views",
    "width_problem",
]
