"""Trained networks: a run's checkpoint, verified, as a function from slices to logits; several as an ensemble.

Imports torch only when a network is made. Legend: b batch, c channel, h height, w width.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtrain.config import Config, flatten, load_config
from segtrain.data.splits import hash_of
from segtrain.errors import ConfigError, RunError
from segtrain.run import Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)

# What the members of an ensemble must have in common: they see the same prepared slices, and are scored in one way.
SHARED = (
    "data.source", "data.root", "data.image_size", "data.neighbours", "data.skip_bad", "data.phantom.patients",
    "data.phantom.seed", "data.phantom.size_px", "evaluate.threshold", "evaluate.tta", "evaluate.largest_component",
    "evaluate.min_component_voxels",
)  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """A checkpoint that is there, with the config to use it by and the patients that it trained on."""

    run: Run
    cfg: Config
    folder: Path
    train: frozenset[str]
    validation: frozenset[str]

    @property
    def is_best(self) -> bool:
        """Whether its epoch was chosen by the scores of the run's validation patients."""
        pointer = self.run.best_pointer
        return pointer.exists() and pointer.read_text().strip() == self.folder.name


def choose(runs: Sequence[Path], which: str, overrides: Sequence[str]) -> list[Chosen]:
    """The checkpoint of each run: `best`, `last` or that of a step. Raises RunError; ConfigError for runs that do not
    fit together."""
    chosen = [_choose(Run(path), which, overrides) for path in runs]
    folders = [one.folder.resolve() for one in chosen]
    for place, one in enumerate(chosen[1:], start=1):
        if folders[place] in folders[:place]:
            raise ConfigError(f"{one.run.root}: stands there twice; name each run once")
        ours, theirs = (dict(flatten(asdict(c.cfg))) for c in (one, chosen[0]))
        for key in SHARED:
            if ours[key] != theirs[key]:
                raise ConfigError(
                    f"{one.run.root}: {key}={ours[key]}, but {chosen[0].run.root} has {theirs[key]}; runs of an "
                    "ensemble must agree in what their networks see and how they are scored"
                )
    return chosen


def _choose(run: Run, which: str, overrides: Sequence[str]) -> Chosen:
    tree = run.config_tree()
    if isinstance(tree.get("model"), dict):
        tree["model"]["weights"] = None  # what training started from need not be there any more
    cfg = load_config(None, overrides, tree, where=str(run.root), stored=True)
    sides = run.split()
    return Chosen(run, cfg, _folder(run, which), frozenset(sides["train"]), frozenset(sides["validation"]))


def _folder(run: Run, which: str) -> Path:
    pointers = {"best": run.best_pointer, "last": run.latest_pointer}
    if which not in pointers and not which.isdecimal():
        raise ConfigError(f"--checkpoint {which}: neither best nor last nor the number of a step")
    pointer = pointers.get(which)
    if pointer is None:
        folder = run.checkpoint(int(which))
    elif pointer.exists():
        folder = run.checkpoints / pointer.read_text().strip()
    else:
        raise RunError(f"{run.root}: has no {which} checkpoint yet; train it first, or name a step with --checkpoint")
    if not folder.is_dir():
        there = ", ".join(str(int(f.name.removeprefix("step-"))) for f in sorted(run.checkpoints.glob("step-*")))
        raise RunError(f"{folder}: no such checkpoint; there are those of steps {there or '(none)'}")
    return folder


def load_network(chosen: Chosen, device: "torch.device") -> tuple["nn.Module", Mapping[str, Any]]:
    """The network with the checkpoint's weights, in evaluation mode, and the checkpoint's state. Raises RunError, also
    where the run's split.json names other patients than the checkpoint was trained by (L1)."""
    from segtrain.models import make_model
    from segtrain.run import checkpoint

    try:
        snapshot = checkpoint.read(chosen.folder)
        network = make_model(chosen.cfg.model, chosen.cfg.seed, chosen.cfg.data.channels)
        network.load_state_dict(dict(snapshot.model))
    except (checkpoint.CorruptCheckpoint, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{chosen.folder}: cannot be used ({reason}); choose another with --checkpoint") from error
    if snapshot.state["split"] != hash_of(chosen.train, chosen.validation):
        raise RunError(
            f"{chosen.run.root}: its split.json is not the split that {chosen.folder.name} was trained by, so nobody "
            "can say who was trained on; bring the file back"
        )
    return network.to(device).eval().requires_grad_(False), snapshot.state


def member_logits(chosen: Chosen, device: "torch.device") -> Callable[["Tensor"], "Tensor"]:
    """Logits, float32, as the engine of the run's validation computes them: same precision, same memory layout."""
    import torch

    from segtrain.engines import ENGINES
    from segtrain.engines.base import AUTOCAST, prefers_channels_last, set_tf32

    cfg = chosen.cfg
    network, _ = load_network(chosen, device)
    dtype = AUTOCAST[cfg.precision]
    flattens = getattr(ENGINES[cfg.engine], "flattens", False)
    channels_last = not flattens and prefers_channels_last(cfg, device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)  # type: ignore[call-overload]

    def logits(image_bchw: "Tensor") -> "Tensor":
        set_tf32(cfg.precision == "tf32")
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            output: Tensor = network(image_bchw.contiguous(memory_format=layout)).float()
        return output

    return logits


def ensemble_logits(chosen: Sequence[Chosen], device: "torch.device") -> Callable[["Tensor"], "Tensor"]:
    """Logits of one checkpoint, or of the mean of several ones' probabilities."""
    return ensemble([member_logits(one, device) for one in chosen])


def ensemble(members: "list[Callable[[Tensor], Tensor]]") -> "Callable[[Tensor], Tensor]":
    """Logits of the mean of the members' probabilities."""
    import torch

    if len(members) == 1:
        return members[0]

    def logits(image_bchw: "Tensor") -> "Tensor":
        # In float64 a mean of probabilities next to 1 keeps what the logit needs of it.
        mean = torch.stack([torch.sigmoid(member(image_bchw).double()) for member in members]).mean(0)
        return torch.logit(mean, eps=1e-12).float()

    return logits
