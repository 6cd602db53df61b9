"""The residual encoder U-Net of today's nnU-Net, under nnU-Net's names of weights; it needs no other package.

After F. Isensee et al., "nnU-Net Revisited: A Call for Rigorous Validation in 3D Medical Image Segmentation", MICCAI
2024, as dynamic-network-architectures builds it (`ResidualEncoderUNet`) from nnU-Net's plans: a deep encoder, one
convolution a stage on the way up. That package is not used: its state dict has every weight twice or three times, and
it keeps heads that no loss reads.

Legend: b batch, c channel, h height, w width.
"""

import torch
from torch import Tensor, nn

from segtrain.config import ModelConfig, NormName
from segtrain.models.base import Network, make_norm, supervised_levels, supervision_ratio
from segtrain.models.resunet import SLOPE, initialise, widths

BLOCKS = (1, 3, 4, 6)  # of the encoder's stages; 6 in each that follows


class ConvNorm(nn.Module):
    """A convolution with its norm, and a leaky ReLU where `active`: [b, inputs, h, w] to [b, outputs, h/s, w/s]."""

    def __init__(
        self, inputs: int, outputs: int, norm: NormName, size: int = 3, stride: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=size > 1)
        self.norm = make_norm(norm, outputs)
        self.nonlin = nn.LeakyReLU(SLOPE, inplace=True) if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.nonlin(self.norm(self.conv(x)))
        return y


class Convs(nn.Module):
    """One convolution, behind the name that nnU-Net's has."""

    def __init__(self, inputs: int, outputs: int, norm: NormName) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(inputs, outputs, norm))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convs(x)
        return y


class Block(nn.Module):
    """Two convolutions beside a shortcut, which halves by averaging (K. He et al., "Bag of Tricks", CVPR 2019)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormName) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, norm, stride=stride)
        self.conv2 = ConvNorm(outputs, outputs, norm, active=False)
        shortcut: list[nn.Module] = [nn.AvgPool2d(stride)] if stride > 1 else []
        if inputs != outputs:
            shortcut.append(ConvNorm(inputs, outputs, norm, size=1, active=False))
        self.skip = nn.Sequential(*shortcut)
        self.nonlin2 = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x))
        return y


class Stage(nn.Module):
    """Residual blocks, the first of which changes width and size."""

    def __init__(self, count: int, inputs: int, outputs: int, stride: int, norm: NormName) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Block(inputs, outputs, stride, norm), *(Block(outputs, outputs, 1, norm) for _ in range(count - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(x)
        return y


class Encoder(nn.Module):
    """The image to the features of each stage, the full size first."""

    def __init__(self, in_channels: int, sizes: list[int], norm: NormName) -> None:
        super().__init__()
        self.stem = Convs(in_channels, sizes[0], norm)
        self.stages = nn.Sequential(
            *(
                Stage(BLOCKS[min(level, len(BLOCKS) - 1)], inputs, outputs, 2 if level else 1, norm)
                for level, (inputs, outputs) in enumerate(zip([sizes[0], *sizes[:-1]], sizes, strict=True))
            )
        )

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        x, skips = self.stem(image_bchw), []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """Those features to logits of the levels that have a head, the coarsest first; the last is of the full size."""

    def __init__(self, sizes: list[int], norm: NormName, supervised: bool, regions: int) -> None:
        super().__init__()
        depth = len(sizes) - 1
        levels = list(reversed(range(depth)))
        heads = {0, *supervised_levels(depth)} if supervised else {0}
        self.stages = nn.ModuleList(Convs(2 * sizes[level], sizes[level], norm) for level in levels)
        self.transpconvs = nn.ModuleList(
            nn.ConvTranspose2d(sizes[level + 1], sizes[level], 2, stride=2) for level in levels
        )
        self.seg_layers = nn.ModuleList(
            nn.Conv2d(sizes[level], regions, 1) if level in heads else nn.Identity() for level in levels
        )

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        x, outputs = skips[-1], []
        for up, stage, head, skip in zip(
            self.transpconvs, self.stages, self.seg_layers, reversed(skips[:-1]), strict=True
        ):
            x = stage(torch.cat((up(x), skip), dim=1))
            if head is self.seg_layers[-1] or (self.training and isinstance(head, nn.Conv2d)):
                outputs.append(head(x))
        return outputs


class ResEnc(Network):
    """`depth` halvings by strided residual stages, and up again by single convolutions. See `Network` for shapes."""

    def __init__(
        self, in_channels: int, features: int, depth: int, norm: NormName, supervised: bool, regions: int = 1
    ) -> None:
        super().__init__(depth, norm, supervised)
        sizes = widths(features, depth)
        self.encoder = Encoder(in_channels, sizes, norm)
        self.decoder = Decoder(sizes, norm, supervised, regions)
        self.apply(initialise)
        self.apply(_as_if_absent)

    def outputs(self, image_bchw: Tensor) -> list[Tensor]:
        logits: list[Tensor] = self.decoder(self.encoder(image_bchw))
        return logits[::-1]


def resenc(cfg: ModelConfig, in_channels: int, regions: int) -> Network:
    """nnU-Net's residual encoder U-Net: six stages, instance norm, deep supervision, but for what the config says."""
    depth, norm = cfg.depth or cfg.part.depth, cfg.norm or cfg.part.norm
    network = ResEnc(in_channels, cfg.features, depth, norm, supervision_ratio(cfg) > 0, regions)
    heads = (
        f"decoder.seg_layers.{n}." for n, head in enumerate(network.decoder.seg_layers) if not list(head.parameters())
    )
    network.taken_out = ("*.all_modules.*", "decoder.encoder.*", *(f"{head}*" for head in heads))
    return network


def _as_if_absent(module: nn.Module) -> None:
    """A block adds nothing to its shortcut at first, as in nnU-Net."""
    if isinstance(module, Block):
        for parameter in module.conv2.norm.parameters():
            nn.init.zeros_(parameter)
