"""Networks of MONAI behind `Network`. Keys of the state dict are MONAI's, after `network.`.

MONAI is imported in the functions: it takes seconds, and runs of other networks do not need it.

Legend: b batch, c channel, h height, w width.
"""

from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.config import ModelConfig, NormName
from segtrain.errors import ConfigError
from segtrain.models.base import GROUPS, Network, supervised_levels, supervision_ratio


class Adapted(Network):
    """Another package's network, which returns logits or a list of them, the finest last."""

    def __init__(self, network: nn.Module, halvings: int, norm: NormName, supervised: bool = False) -> None:
        super().__init__(halvings, norm, supervised)
        self.network = network

    def outputs(self, image_bchw: Tensor) -> list[Tensor]:
        logits = self.network(image_bchw)
        return logits[::-1] if isinstance(logits, list) else [logits]


def attention_unet(cfg: ModelConfig, in_channels: int, regions: int) -> Network:
    """A U-Net whose skip connections are gated; MONAI's, which has batch norm.

    O. Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018.
    """
    from monai.networks.nets.attentionunet import AttentionUnet

    depth = cfg.depth or cfg.part.depth
    network = AttentionUnet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=regions,
        channels=[cfg.features * 2**level for level in range(depth + 1)],
        strides=[2] * depth,
    )
    return Adapted(network, depth, cfg.part.norm)


def unetplusplus(cfg: ModelConfig, in_channels: int, regions: int) -> Network:
    """A U-Net with nested skip connections; MONAI's, at the paper's widths.

    Z. Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018. All its outputs
    of deep supervision have the full size; the one that passed through the most nodes is the finest.
    """
    from monai.networks.nets.basic_unet import UpCat
    from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus

    norm = cfg.norm or cfg.part.norm
    supervised = supervision_ratio(cfg) > 0
    f = cfg.features
    network = BasicUNetPlusPlus(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=regions,
        features=(f, 2 * f, 4 * f, 8 * f, 16 * f, f),
        deep_supervision=supervised,
        norm=_monai_norm(norm),
        bias=False,  # the norm that follows cancels it
    )
    if not supervised:  # it computes the other outputs all the same, and DDP would wait for their gradients
        network.final_conv_0_1 = network.final_conv_0_2 = network.final_conv_0_3 = nn.Identity()
    for name, module in list(network.named_children()):
        if isinstance(module, UpCat):
            setattr(network, name, _Join(module.upsample, module.convs))
    adapted = Adapted(network, cfg.part.depth, norm, supervised)
    adapted.taken_out = () if supervised else ("final_conv_0_1.*", "final_conv_0_2.*", "final_conv_0_3.*")
    return adapted


class _Join(nn.Module):
    """MONAI's UpCat without its call of torch.jit.isinstance, at which torch.compile breaks the graph, 17 times."""

    def __init__(self, upsample: nn.Module, convs: nn.Module) -> None:
        super().__init__()
        self.upsample, self.convs = upsample, convs

    def forward(self, coarse_bchw: Tensor, skip_bchw: Tensor) -> Tensor:
        joined: Tensor = self.convs(torch.cat((skip_bchw, self.upsample(coarse_bchw)), dim=1))
        return joined


@dataclass(frozen=True)
class _Size:
    """Of a MedNeXt: how far the blocks of the stages on the way down widen, and how many there are; then the lowest."""

    ratios: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    lowest_ratio: int
    lowest_blocks: int


MEDNEXT_DEPTH = 4  # halvings; Table 1 of the paper has the sizes
MEDNEXT = {
    "S": _Size((2, 2, 2, 2), (2, 2, 2, 2), 2, 2),
    "B": _Size((2, 3, 4, 4), (2, 2, 2, 2), 4, 2),
    "M": _Size((2, 3, 4, 4), (3, 4, 4, 4), 4, 4),
    "L": _Size((3, 4, 8, 8), (3, 4, 8, 8), 8, 8),
}


class _MedNeXt(Adapted):
    """Its outputs of training are a tuple, the finest first; those without a head are features, and left out."""

    def outputs(self, image_bchw: Tensor) -> list[Tensor]:
        logits = self.network(image_bchw)
        return list(logits[: 1 + len(supervised_levels(MEDNEXT_DEPTH))]) if isinstance(logits, tuple) else [logits]


def mednext(cfg: ModelConfig, in_channels: int, regions: int, *, size: str = "S", kernel: int = 3) -> Network:
    """A U-Net of ConvNeXt's blocks, residual on the way down and up too; MONAI's.

    S. Roy et al., "MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image Segmentation", MICCAI 2023.
    `size`: S, B, M or L, the paper's. `kernel`: side of the depthwise convolutions, in the paper 3 or 5. The outputs of
    deep supervision are those of the other networks here: none at the two coarsest of its five levels.
    """
    from monai.networks.nets.mednext import MedNeXt

    if size not in MEDNEXT:
        raise ConfigError(f"model.name=mednext: size={size} is not one of the paper's; set it to S, B, M or L")
    if kernel < 1 or kernel % 2 == 0:
        raise ConfigError(f"model.name=mednext: kernel={kernel} has no middle; set it to 3 or 5")
    of_paper = MEDNEXT[size]
    supervised = supervision_ratio(cfg) > 0
    network = MedNeXt(
        spatial_dims=2,
        init_filters=cfg.features,
        in_channels=in_channels,
        out_channels=regions,
        encoder_expansion_ratio=of_paper.ratios,
        decoder_expansion_ratio=of_paper.ratios[::-1],
        bottleneck_expansion_ratio=of_paper.lowest_ratio,
        kernel_size=kernel,
        deep_supervision=supervised,
        use_residual_connection=True,
        blocks_down=of_paper.blocks,
        blocks_bottleneck=of_paper.lowest_blocks,
        blocks_up=of_paper.blocks[::-1],
    )
    absent = range(MEDNEXT_DEPTH - len(supervised_levels(MEDNEXT_DEPTH))) if supervised else range(MEDNEXT_DEPTH)
    if supervised:  # it computes all of them, and DDP would wait for gradients that no loss gives
        for coarsest in absent:
            network.out_blocks[coarsest] = nn.Identity()
    adapted = _MedNeXt(network, MEDNEXT_DEPTH, cfg.part.norm, supervised)
    adapted.taken_out = tuple(f"out_blocks.{number}.*" for number in absent)
    return adapted


def segresnet(cfg: ModelConfig, in_channels: int, regions: int) -> Network:
    """A residual encoder with a light decoder; MONAI's, without the paper's autoencoder.

    A. Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", BrainLes 2018: group norm with 8
    groups (here the largest power of two, up to 8, that divides the width) and 1, 2, 2 and 4 blocks a level; at other
    depths 1 at the top, 4 at the bottom, 2 between.
    """
    from monai.networks.nets.segresnet import SegResNet

    depth, norm = cfg.depth or cfg.part.depth, cfg.norm or cfg.part.norm
    network = SegResNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=regions,
        init_filters=cfg.features,
        norm=_monai_norm(norm, groups=gcd(8, cfg.features)),
        blocks_down=(1, *[2] * (depth - 1), 4),
        blocks_up=(1,) * depth,
    )
    return Adapted(network, depth, norm)


def swin_unetr(cfg: ModelConfig, in_channels: int, regions: int) -> Network:
    """A Swin transformer as encoder with a residual decoder; MONAI's.

    A. Hatamizadeh et al., "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images",
    BrainLes 2021. MONAI's default width is 24, the paper's 48. `norm` is the decoder's: the encoder has layer norms.
    """
    from monai.networks.nets.swin_unetr import SwinUNETR

    norm = cfg.norm or cfg.part.norm
    network = SwinUNETR(
        in_channels=in_channels,
        out_channels=regions,
        feature_size=cfg.features,
        norm_name=_monai_norm(norm),
        spatial_dims=2,
    )
    # `Network` pads to sizes that fit; this check, in NumPy, would break the graph of torch.compile.
    network._check_input_size = lambda spatial_shape: None  # type: ignore[method-assign]
    return Adapted(network, cfg.part.depth, norm)


def _monai_norm(norm: NormName, groups: int = GROUPS) -> tuple[str, dict[str, Any]]:
    options: dict[NormName, dict[str, Any]] = {
        "batch": {},
        "instance": {"affine": True},
        "group": {"num_groups": groups},
    }
    return norm, options[norm]
