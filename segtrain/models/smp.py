"""U-Nets with the encoders of segmentation-models-pytorch."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from segtrain.config import SMP_PREFIX, ModelConfig, name_of
from segtrain.errors import ConfigError
from segtrain.models.base import Network
from segtrain.models.monai import Adapted


def smp_unet(cfg: ModelConfig, in_channels: int) -> Network:
    """A U-Net on an encoder of segmentation-models-pytorch, `model.name=smp:<encoder>`; nothing is downloaded."""
    name = name_of(cfg.name)
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ConfigError(
            f"model.name={name} needs segmentation-models-pytorch; pip install segmentation-models-pytorch"
        ) from error
    encoder = name.removeprefix(SMP_PREFIX)
    try:
        network = smp.Unet(encoder_name=encoder, encoder_weights=None, in_channels=in_channels, classes=1)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"model.name={name}: segmentation-models-pytorch has no U-Net on {encoder!r}; choose a name of "
            "segmentation_models_pytorch.encoders.get_encoder_names(), for example smp:resnet34"
        ) from error
    adapted = Adapted(network, cfg.part.depth, cfg.part.norm)
    adapted.pretrained = "encoder"
    image = torch.zeros(1, in_channels, 64, 64)
    if _draws_when_trained(adapted, image):
        raise ConfigError(
            f"model.name={name}: this encoder drops layers by chance, from a generator that no checkpoint holds; "
            "choose one that does not, for example smp:resnet34"
        )
    _freeze_unused(adapted, image)
    return adapted


def _draws_when_trained(network: nn.Module, image_bchw: Tensor) -> bool:
    """Whether training draws from torch's global generator: a resumed run would drop other layers (L6)."""
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        deepcopy(network).train()(image_bchw)  # a copy: batch norm counts what it sees
        return not torch.equal(before, torch.get_rng_state())


def _freeze_unused(network: nn.Module, image_bchw: Tensor) -> None:
    """Switch gradients off for parameters that the logits do not depend on: DDP would wait for them.

    Some encoders keep layers of their classifier.
    """
    network.eval()(image_bchw).sum().backward()
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    network.train()
