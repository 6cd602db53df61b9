"""U-Nets with the encoders of segmentation-models-pytorch."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from segtrain.config import SMP_PREFIX, ModelConfig, name_of
from segtrain.errors import ConfigError
from segtrain.models.base import Network
from segtrain.models.graph import draws_and_unused, unused_parameters
from segtrain.models.monai import Adapted


def smp_unet(cfg: ModelConfig, in_channels: int, regions: int) -> Network:
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
        network = smp.Unet(encoder_name=encoder, encoder_weights=None, in_channels=in_channels, classes=regions)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"model.name={name}: segmentation-models-pytorch has no U-Net on {encoder!r}; choose a name of "
            "segmentation_models_pytorch.encoders.get_encoder_names(), for example smp:resnet34"
        ) from error
    adapted = Adapted(network, cfg.part.depth, cfg.part.norm)
    adapted.pretrained = "encoder"
    drew, unused = _try(adapted, torch.zeros(2, in_channels, 64, 64))
    for parameter_name, parameter in adapted.named_parameters():
        parameter.requires_grad_(parameter_name not in unused)
    adapted.description = f"{name}: logits; 1 output; sizes /32; {draws_and_unused(drew, len(unused))}"
    return adapted


def _try(network: nn.Module, image_bchw: Tensor) -> tuple[bool, set[str]]:
    """Whether training draws from torch's generator, and the parameters that the logits do not depend on.

    Some encoders keep layers of their classifier, for whose gradients DDP would wait.
    """
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        trained = deepcopy(network).train()  # a copy: batch norm counts what it sees
        unused = unused_parameters(trained, [trained(image_bchw)])
        return not torch.equal(before, torch.get_rng_state()), unused
