"""The residual U-Net that MONAI's DynUNet builds by nnU-Net's rules of 2021, small and without MONAI.

After F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
Nature Methods 2021, as DynUNet has it with `res_block=True`; the tests compare them. nnU-Net's own residual network is
another, `resenc`. DynUNet itself is not used: between steps it keeps the outputs of deep supervision with their graph
in a list of the module (so that it can no longer be copied, and memory stays occupied), computes them in evaluation
too, and has every weight twice in its state dict.

Legend: b batch, c channel, h height, w width.
"""

import torch
from torch import Tensor, nn

from segtrain.config import ModelConfig, NormName
from segtrain.errors import ConfigError
from segtrain.models.base import Network, make_norm, supervised_levels, supervision_ratio

WIDEST = 512  # nnU-Net's bound on features of 2D networks
SLOPE = 0.01  # of the leaky ReLU


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut: [b, inputs, h, w] to [b, outputs, h / stride, w / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormName, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1 = make_norm(norm, outputs)
        self.norm2 = make_norm(norm, outputs)
        self.relu = nn.LeakyReLU(SLOPE, inplace=True)
        self.shortcut = (
            nn.Identity() if stride == 1 and inputs == outputs else _projection(inputs, outputs, stride, norm)
        )
        self.drop = _drop(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y: Tensor = self.drop(self.relu(out + self.shortcut(x)))
        return y


class UpBlock(nn.Module):
    """Enlarges, joins the encoder's features, two convolutions: to [b, outputs, 2h, 2w]."""

    def __init__(self, inputs: int, outputs: int, norm: NormName, dropout: float) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)
        self.conv1 = nn.Conv2d(2 * outputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1 = make_norm(norm, outputs)
        self.norm2 = make_norm(norm, outputs)
        self.relu = nn.LeakyReLU(SLOPE, inplace=True)
        self.drop = _drop(dropout)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat((self.up(x), skip), dim=1)
        x = self.relu(self.norm1(self.conv1(x)))
        y: Tensor = self.drop(self.relu(self.norm2(self.conv2(x))))
        return y


class ResUNet(Network):
    """`depth` halvings by strided residual blocks, and up again by plain ones. See `Network` for shapes."""

    def __init__(
        self,
        in_channels: int,
        features: int,
        depth: int,
        norm: NormName,
        supervised: bool,
        regions: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(depth, norm, supervised)
        sizes = widths(features, depth)
        self.encoder = nn.ModuleList(
            ResBlock(inputs, outputs, 1 if level == 0 else 2, norm, dropout)
            for level, (inputs, outputs) in enumerate(zip([in_channels, *sizes[:-1]], sizes, strict=True))
        )
        self.decoder = nn.ModuleList(
            UpBlock(sizes[level + 1], sizes[level], norm, dropout) for level in reversed(range(depth))
        )
        levels = [0, *supervised_levels(depth)] if supervised else [0]
        self.heads = nn.ModuleList(nn.Conv2d(sizes[level], regions, 1) for level in levels)
        self.apply(initialise)

    def outputs(self, image_bchw: Tensor) -> list[Tensor]:
        x, skips = image_bchw, []
        for down in self.encoder:
            x = down(x)
            skips.append(x)
        skips.pop()
        levels = []
        for up in self.decoder:
            x = up(x, skips.pop())
            levels.append(x)
        heads = self.heads if self.training else self.heads[:1]
        return [head(level) for head, level in zip(heads, reversed(levels), strict=False)]


def resunet(cfg: ModelConfig, in_channels: int, regions: int, *, dropout: float = 0.0) -> Network:
    """nnU-Net's residual U-Net: six levels, instance norm and deep supervision unless the config says otherwise.

    `dropout`: the chance that a channel is left out after a block while the network trains; nnU-Net's is 0.
    """
    if not 0 <= dropout < 1:
        raise ConfigError(f"model.name=resunet: dropout={dropout} is no chance; set it to 0 or more, and below 1")
    depth, norm = cfg.depth or cfg.part.depth, cfg.norm or cfg.part.norm
    return ResUNet(in_channels, cfg.features, depth, norm, supervision_ratio(cfg) > 0, regions, dropout)


def widths(features: int, depth: int) -> list[int]:
    """Channels of each level, the full size first: doubled up to nnU-Net's bound."""
    return [min(features * 2**level, max(WIDEST, features)) for level in range(depth + 1)]


def _drop(dropout: float) -> nn.Module:
    return nn.Dropout2d(dropout) if dropout else nn.Identity()


def _projection(inputs: int, outputs: int, stride: int, norm: NormName) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), make_norm(norm, outputs))


def initialise(module: nn.Module) -> None:
    """He initialisation for the leaky ReLU, biases 0: nnU-Net's."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
