"""Network, loss and engine of a run, put together and checked before anything is written."""

import logging
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from segtrain.config import Config, DataConfig, Reference, loss_terms, name_of, refuse_for_regions
from segtrain.data.augment.batch import draw, is_own
from segtrain.data.augment.draws import Contrasts
from segtrain.data.augment.trial import Tried, tried
from segtrain.engines.engine import Engine, make_engine
from segtrain.engines.optim_trial import try_optimizer
from segtrain.errors import ConfigError, LaunchError
from segtrain.losses.loss import DeepSupervision, Loss, make_loss, own_losses
from segtrain.models.base import Network, supervision_ratio
from segtrain.models.freeze import freeze, is_frozen
from segtrain.models.make import make_model
from segtrain.models.own import OwnNetwork, check_precision
from segtrain.runtime.gpu import is_ampere_or_newer
from segtrain.runtime.machine import lacks_to_compile
from segtrain.runtime.world import World

log = logging.getLogger(__name__)


def build(cfg: Config, world: World, begun: bool) -> tuple[Loss, Engine]:
    """The loss, and the engine around the network with its initial weights.

    A run that has `begun` has weights of its own, and needs the file of `model.weights` no more. Raises ConfigError or
    LaunchError, before anything is written.
    """
    loss, network = parts(cfg, begun)
    _refuse_single_voxels(cfg, network, world.size)
    _refuse_optimizer(cfg, network)
    for message in network.warnings if world.is_main else ():
        log.warning("model.name=%s %s", name_of(cfg.model.name), message)
    return loss, make_engine(cfg, network, loss, world)


def augmentation(cfg: Config, world: World) -> Tried | None:
    """What rank 0's trials found of an augmentation of the user's own; None: it is a built-in one. Collective.

    Raises ConfigError on all ranks alike: the trials refuse it, or an option has a value that it cannot have.
    """
    data = cfg.data
    if not is_own(data.augment):
        draw(data.augment, cfg.seed, np.arange(1), Contrasts.of(data))
        return None

    def try_it() -> Tried:
        trials = tried(data.augment, cfg.seed, data.channels, data.image_size, data.layout, short=True)
        trials.require()
        return trials

    return world.on_main(try_it)


def rehearse(cfg: Config, ranks: int, begun: bool) -> None:
    """Raise what `build` would raise on each of `ranks` ranks; builds on this process's CPU."""
    loss, network = parts(cfg, begun)
    _refuse_single_voxels(cfg, network, ranks)
    _refuse_optimizer(cfg, network)
    # Without a graph, of which this CPU would be told that it can have none.
    share = replace(cfg.train, global_batch=cfg.train.global_batch // ranks, cuda_graph=False)
    make_engine(replace(cfg, train=share), network, loss, World())


def refuse_for_device(cfg: Config, device: torch.device) -> None:
    """Raise LaunchError for settings that this device does not support."""
    kind = device.type
    if cfg.precision == "tf32" and kind != "cuda":
        raise LaunchError("precision=tf32 is a mode of CUDA devices, and this is a CPU; use precision=fp32 or bf16")
    if cfg.precision == "tf32" and not is_ampere_or_newer(device):
        raise LaunchError(
            f"precision=tf32: {torch.cuda.get_device_name(device)} has no TF32, which came with compute "
            "capability 8.0; use precision=fp16 or fp32"
        )
    if cfg.model.compile is True and (lack := lacks_to_compile(kind)):
        raise LaunchError(f"model.compile=true needs a compiler, and there is no {lack.thing}; {lack.remedy}")
    losses = {term.part for term in loss_terms(cfg.loss)}
    if cfg.deterministic and kind == "cuda" and "lovasz" in losses:
        raise LaunchError(
            "loss=lovasz with deterministic=true: its running sums (torch.cumsum) are not deterministic on CUDA; use "
            "another loss, or deterministic=false"
        )


def parts(cfg: Config, begun: bool) -> tuple[Loss, Network]:
    """The loss and the network with its initial weights. Raises ConfigError."""
    refuse_for_regions(cfg)
    layout = cfg.data.layout
    loss: Loss = make_loss(cfg.loss, layout, cfg.loss_regions)
    for own in own_losses(loss):
        if cfg.data.mixup and not own.takes_soft_masks:
            raise ConfigError(
                f"data.mixup={cfg.data.mixup} gives masks between 0 and 1, which {own.function} takes for 0 or 1; set "
                "data.mixup=0 or choose another loss"
            )
    if ratio := supervision_ratio(cfg.model):
        loss = DeepSupervision(loss, ratio)
    model = replace(cfg.model, weights=None) if begun else cfg.model
    network = make_model(model, cfg.seed, cfg.data.channels, cfg.data.image_size, len(layout.regions))
    freeze(network, cfg.model.freeze)
    check_precision(network, cfg.precision)
    if name_of(cfg.optim.name) == "schedulefree" and isinstance(network, OwnNetwork) and "batch" in network.norm:
        raise ConfigError(
            f"optim.name=schedulefree scores other weights than it trains, and batch norm, which "
            f"{network.findings.name} has, keeps statistics of those that it trains; use another optimiser"
        )
    return loss, network


def _refuse_optimizer(cfg: Config, network: Network) -> None:
    """Raise ConfigError for an optimiser of the user's own that fails one of its trials."""
    if Reference.parse(name_of(cfg.optim.name)) is None:
        return
    zero = cfg.deepspeed.zero if cfg.engine == "deepspeed" else None
    _, checks = try_optimizer(cfg.optim, zero, network)
    for check in checks:
        if check.verdict == "fails":
            raise ConfigError(f"optim.name={name_of(cfg.optim.name)}: {check.message}")


def _refuse_single_voxels(cfg: Config, network: Network, ranks: int) -> None:
    """Raise ConfigError where a batch norm would see one value for each channel, which torch refuses to train on.

    It sees the samples of all ranks.
    """
    share = cfg.train.global_batch // ranks
    micro_batch = min(cfg.train.micro_batch or share, share)
    fewest = share % micro_batch or micro_batch  # the last may be smaller
    norms = (module for module in network.modules() if isinstance(module, _BatchNorm))
    if fewest * ranks > 1 or all(is_frozen(norm) for norm in norms):
        return
    if _ends_in_one_voxel(network, cfg.data):
        raise ConfigError(
            f"data.image_size={cfg.data.image_size} halved to the network's coarsest level is one voxel, and batch "
            f"norm needs more than one to train on, but with train.global_batch={cfg.train.global_batch} on "
            f"{ranks} rank(s) a micro-batch has one sample; set train.global_batch or train.micro_batch so that "
            "none does, a larger data.image_size, or model.norm=instance where the network has it"
        )


def _ends_in_one_voxel(network: Network, data: DataConfig) -> bool:
    if not isinstance(network, OwnNetwork):
        return bool(data.image_size <= network.multiple)  # smaller images are enlarged to it
    image = torch.zeros(1, data.channels, data.image_size, data.image_size)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            deepcopy(network).train()(image)
    except ValueError:  # of torch's batch norm
        return True
    return False
