"""The checkpoints of runs, selected and verified, as one network that predicts volumes: their ensemble.

Torch is imported only when a network is made. Legend: b batch, c channel, h height, w width.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtrain.config import (
    ENGINES,
    POSTPROCESSING,
    Config,
    EvaluateConfig,
    PhantomConfig,
    Reference,
    load_config,
    name_of,
    refuse_for_regions,
    untrained_views,
)
from segtrain.config.own_parts import portable
from segtrain.config.paths import is_weights
from segtrain.data.neighbours import Neighbours
from segtrain.data.splits import hash_of
from segtrain.data.store import READING
from segtrain.errors import ConfigError, RunError
from segtrain.evaluation.checkpoint_folder import checkpoint_folder
from segtrain.run import Run
from segtrain.run.code import with_own_code
from segtrain.runtime.allocator import use_allocator

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from segtrain.evaluation.predictor import Logits, Predictor

log = logging.getLogger(__name__)

# The members of an ensemble must agree in these: they see the same prepared slices and are scored in the same way.
SHARED = (
    "data.source",
    "data.root",
    "data.regions",
    *(f"data.{key}" for key in READING),
    "data.image_size",
    "data.neighbours",
    "data.neighbours_mm",
    "data.skip_bad",
    *(f"data.phantom.{key.name}" for key in fields(PhantomConfig)),
    "evaluate.tta",
    *(f"evaluate.{key}" for key in POSTPROCESSING),
)


@dataclass(frozen=True)
class TrainedCheckpoint:
    """A checkpoint of a run, with the config to use it by and the run's patients."""

    run: Run
    cfg: Config
    folder: Path
    train: frozenset[str]
    validation: frozenset[str]
    people: Mapping[str, str] = field(default_factory=dict)  # the person of each patient who has several ids
    pixels: Mapping[str, str] = field(default_factory=dict)  # the hash of each patient's, as far as it is known
    configured: EvaluateConfig | None = None  # the run's own settings, where `cfg` has chosen post-processing
    asked_as_last: bool = False  # which no score has chosen, though it may be the best
    is_bare: bool = False  # weights without a run, of which `run` and `folder` are the file
    knows_patients: bool = True  # `train` is a record, not an assumption

    @property
    def own_network(self) -> Reference | None:
        """The network, where it is code of the user's own that predicting runs."""
        return Reference.parse(name_of(self.cfg.model.name))

    @property
    def own_source(self) -> Reference | None:
        """The source of its data, where it is code of the user's own that reading them runs."""
        return Reference.parse(name_of(self.cfg.data.source))

    def say_own_source(self) -> None:
        """Log that code of the run is about to be run, where its data have a source of the user's own."""
        if part := self.own_source:
            log.info("%s: reads its data by %s, the run's copy of its own source", self.run.root, part)

    @property
    def is_best(self) -> bool:
        """Whether its epoch was selected by the scores of the run's validation patients."""
        return not self.asked_as_last and self.run.best_checkpoint() == self.folder.name


def select_checkpoints(
    runs: Sequence[Path], which: str, overrides: Sequence[str], settings: Path | None = None
) -> list[TrainedCheckpoint]:
    """The checkpoint `best`, `last` or of step `which` of each run, the members of an ensemble.

    A path may also name a file of weights alone, to be used by the config `settings`, or else by what its tensors say.
    Raises RunError for a run without it; ConfigError for a run that is listed twice, or runs that do not fit together.
    """
    checkpoints = [
        _bare(path, overrides, settings) if is_weights(path) else _select(Run(path), which, overrides) for path in runs
    ]
    if "auto" in {checkpoint.cfg.precision for checkpoint in checkpoints}:
        raise ConfigError("precision=auto: is for training, which tries what is faster; name fp32, bf16 or fp16")
    folders = [checkpoint.folder.resolve() for checkpoint in checkpoints]
    first = checkpoints[0]
    for place, checkpoint in enumerate(checkpoints[1:], start=1):
        if folders[place] in folders[:place]:
            raise ConfigError(f"{checkpoint.run.root}: is listed twice; list it once")
        for key in (*SHARED, "code"):
            our_value, their_value = (_in_order(attrgetter(key)(_compared(one.cfg))) for one in (checkpoint, first))
            if our_value != their_value:
                raise ConfigError(
                    f"{checkpoint.run.root}: {key}={our_value}, but {first.run.root} has {their_value}; the runs of an "
                    "ensemble must agree in what their networks see and how they are scored"
                )
    return checkpoints


def _compared(cfg: Config) -> Config:
    """The config as its copy of own parts may lie anywhere, with the code of its source alone."""
    code = {name: digest for name, digest in cfg.code.items() if name.startswith("source/")}
    return replace(portable(cfg), code=code)


def _in_order(value: Any) -> Any:
    """A setting so that mappings in another order differ: the order of regions is that of the network's channels."""
    return tuple(value.items()) if isinstance(value, Mapping) else value


@contextmanager
def opened(checkpoints: Sequence[TrainedCheckpoint]) -> "Iterator[Predictor]":
    """The ensemble of the checkpoints on this process's device. Raises RunError."""
    cfg = checkpoints[0].cfg
    for checkpoint in checkpoints:
        if part := checkpoint.own_network:
            log.info("%s: runs %s, the run's copy of its own network", checkpoint.run.root, part)
    use_allocator(cfg.allocator, cfg.device)  # before torch allocates
    from segtrain.evaluation.predictor import Predictor
    from segtrain.runtime.world import join

    with join(cfg.device, cfg.threads_per_rank, cfg.deterministic) as world:
        members = tuple(member_logits(checkpoint, world.device) for checkpoint in checkpoints)
        logits = ensemble(members)
        yield Predictor(logits, cfg.evaluate, world.device, Neighbours.of(cfg.data), cfg.data.layout, members)


def ensemble(members: "Sequence[Logits]") -> "Logits":
    """The logits of the mean of the members' probabilities."""
    from segtrain.evaluation.spread import mean_logits

    if len(members) == 1:
        return members[0]
    return lambda image_bchw: mean_logits([member(image_bchw) for member in members])


def member_logits(checkpoint: TrainedCheckpoint, device: "torch.device") -> "Logits":
    """Logits, float32, as the run's engine computes them in validation: same precision, same memory layout."""
    import torch

    from segtrain.engines.precision import AUTOCAST, prefers_channels_last, use_tf32

    cfg = checkpoint.cfg
    network = network_of(checkpoint, device)
    dtype = AUTOCAST[cfg.precision]
    flattens = ENGINES[cfg.engine].load().flattens
    channels_last = not flattens and prefers_channels_last(cfg, device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)  # type: ignore[call-overload]

    def logits(image_bchw: "Tensor") -> "Tensor":
        use_tf32(cfg.precision)
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            output: Tensor = network(image_bchw.contiguous(memory_format=layout)).float()
        return output

    return logits


def network_of(checkpoint: TrainedCheckpoint, device: "torch.device") -> "nn.Module":
    """The network with the checkpoint's weights, in evaluation mode.

    Raises RunError for a checkpoint that cannot be used, and where the run's split.json is not the split that the
    checkpoint was trained with (L1).
    """
    from segtrain.models.make import make_model
    from segtrain.models.own import check_precision
    from segtrain.models.weights import load_weights
    from segtrain.run import checkpoint as checkpoints

    run, cfg, folder = checkpoint.run, checkpoint.cfg, checkpoint.folder
    data = cfg.data
    if checkpoint.is_bare:
        model = replace(cfg.model, weights=None, weights_input=None)  # those are of the start of its training
        network = make_model(model, cfg.seed, data.channels, data.image_size, len(data.layout.regions))
        load_weights(network, folder, whole=True)
        check_precision(network, cfg.precision)
        return network.to(device).eval().requires_grad_(False)
    try:
        snapshot = checkpoints.read(folder)
        network = make_model(cfg.model, cfg.seed, data.channels, data.image_size, len(data.layout.regions))
        check_precision(network, cfg.precision)
        network.load_state_dict(dict(snapshot.model))
    except (checkpoints.CorruptCheckpoint, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{folder}: cannot be used ({reason}); choose another with --checkpoint") from error
    if snapshot.state["split"] != hash_of(checkpoint.train, checkpoint.validation):
        raise RunError(
            f"{run.root}: its split.json is not the split that {folder.name} was trained with, so the patients that it "
            "was trained on are not known; bring the file back"
        )
    return network.to(device).eval().requires_grad_(False)


def _bare(path: Path, overrides: Sequence[str], settings: Path | None) -> TrainedCheckpoint:
    """Weights without a run: nothing is known of the patients that they were trained on."""
    from segtrain.evaluation.bare import config_of  # imports torch

    cfg = config_of(path, overrides, settings)
    refuse_for_regions(cfg)
    return TrainedCheckpoint(Run(path), cfg, path, frozenset(), frozenset(), is_bare=True, knows_patients=False)


def _select(run: Run, which: str, overrides: Sequence[str]) -> TrainedCheckpoint:
    tree = run.config_tree()
    if isinstance(tree.get("model"), dict):
        tree["model"]["weights"] = None  # the file that training started from may be gone
    cfg = with_own_code(run, load_config(None, overrides, tree, where=str(run.root), stored=True))
    refuse_for_regions(cfg)
    if message := untrained_views(cfg):
        log.warning("%s: %s", run.root, message)
    split = run.split_record()
    return TrainedCheckpoint(
        run=run,
        cfg=cfg,
        folder=checkpoint_folder(run, which),
        train=frozenset(split.train),
        validation=frozenset(split.validation),
        people=split.people,
        pixels=split.pixels,
        asked_as_last=which == "last",
    )
