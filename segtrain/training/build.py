"""Network, loss and engine of a run, put together and checked before anything is written."""

from dataclasses import replace

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from segtrain.config import Config
from segtrain.data.augment.batch import draw, is_own
from segtrain.data.augment.trial import Tried, tried
from segtrain.engines.engine import Engine, make_engine
from segtrain.errors import ConfigError, LaunchError
from segtrain.losses.loss import DeepSupervision, Loss, make_loss
from segtrain.models.base import Network, supervision_ratio
from segtrain.models.make import make_model
from segtrain.runtime.machine import missing_compiler
from segtrain.runtime.world import World


def build(cfg: Config, world: World, begun: bool) -> tuple[Loss, Engine]:
    """The loss, and the engine around the network with its initial weights.

    A run that has `begun` has weights of its own, and needs the file of `model.weights` no more. Raises ConfigError or
    LaunchError, before anything is written.
    """
    loss, network = _parts(cfg, begun)
    _refuse_single_voxels(cfg, network, world.size, world.device)
    return loss, make_engine(cfg, network, loss, world)


def augmentation(cfg: Config, world: World) -> Tried | None:
    """What rank 0's trials found of an augmentation of the user's own; None: it is a built-in one. Collective.

    Raises ConfigError on all ranks alike: the trials refuse it, or an option has a value that it cannot have.
    """
    data = cfg.data
    if not is_own(data.augment):
        draw(data.augment, cfg.seed, np.arange(1))
        return None

    def try_it() -> Tried:
        trials = tried(data.augment, cfg.seed, data.channels, data.image_size, short=True)
        trials.require()
        return trials

    return world.on_main(try_it)


def rehearse(cfg: Config, ranks: int, device: torch.device, begun: bool) -> None:
    """Raise what `build` would raise on each of `ranks` ranks with such a device; builds on this process's CPU."""
    loss, network = _parts(cfg, begun)
    _refuse_single_voxels(cfg, network, ranks, device)
    share = replace(cfg.train, global_batch=cfg.train.global_batch // ranks)
    make_engine(replace(cfg, train=share), network, loss, World())


def refuse_for_device(cfg: Config, kind: str) -> None:
    """Raise LaunchError for settings that this kind of device, cpu or cuda, does not support."""
    if cfg.precision == "tf32" and kind != "cuda":
        raise LaunchError("precision=tf32 is a mode of CUDA devices, and this is a CPU; use precision=fp32 or bf16")
    if cfg.model.compile and (command := missing_compiler(kind)):
        raise LaunchError(
            f"model.compile=true needs a compiler, and there is no {command}; install one, name it in "
            f"{'CC' if kind == 'cuda' else 'CXX'}, or set model.compile=false"
        )
    losses = {cfg.loss} if isinstance(cfg.loss, str) else cfg.loss.keys()
    if cfg.deterministic and kind == "cuda" and "lovasz" in losses:
        raise LaunchError(
            "loss=lovasz with deterministic=true: its running sums (torch.cumsum) are not deterministic on CUDA; use "
            "another loss, or deterministic=false"
        )


def _parts(cfg: Config, begun: bool) -> tuple[Loss, Network]:
    loss: Loss = make_loss(cfg.loss)
    if ratio := supervision_ratio(cfg.model):
        loss = DeepSupervision(loss, ratio)
    model = replace(cfg.model, weights=None) if begun else cfg.model
    return loss, make_model(model, cfg.seed, cfg.data.channels)


def _refuse_single_voxels(cfg: Config, network: Network, ranks: int, device: torch.device) -> None:
    """Raise ConfigError where a batch norm would see one value for each channel, which torch refuses to train on."""
    share = cfg.train.global_batch // ranks
    micro_batch = min(cfg.train.micro_batch or share, share)
    fewest = share % micro_batch or micro_batch  # the last may be smaller
    together = fewest * ranks if device.type == "cuda" else fewest  # on CUDA batch norm is synchronised
    if together > 1 or cfg.data.image_size > network.multiple:  # smaller images are enlarged to it
        return
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise ConfigError(
            f"data.image_size={cfg.data.image_size} halved {network.multiple.bit_length() - 1} times is one voxel, and "
            f"batch norm needs more than one to train on, but with train.global_batch={cfg.train.global_batch} on "
            f"{ranks} rank(s) a micro-batch has one sample; set train.global_batch or train.micro_batch so that "
            "none does, a larger data.image_size, or model.norm=instance where the network has it"
        )
