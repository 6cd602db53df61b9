"""The public reference U-Net: same modules, same names, same state dict; it returns logits instead of probabilities.

After O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI
2015, as changed by M. Buda et al. (2019): batch norm after every convolution, 32 first features, 4 halvings.

Legend: b batch, c channel, h height, w width.
"""

from collections import OrderedDict

from torch import Tensor, nn

from segtrain.config import ModelConfig, NormName
from segtrain.models.base import Network, make_norm, supervised_levels, supervision_ratio
from segtrain.models.joining import Joining
from segtrain.models.pooling import Halving


class UNet(Network):
    """`depth` levels down and up, twice as wide each time. See `Network` for shapes.

    The levels are numbered attributes, `encoder1` to `encoder4`, since these are the reference's keys. The heads of
    deep supervision, `conv2` and so on, exist only in a supervised network.
    """

    def __init__(
        self,
        in_channels: int,
        features: int = 32,
        depth: int = 4,
        norm: NormName = "batch",
        supervised: bool = False,
        regions: int = 1,
    ) -> None:
        super().__init__(depth, norm, supervised)
        self.depth = depth
        widths = [features * 2**level for level in range(depth + 1)]
        for level, (inputs, outputs) in enumerate(zip([in_channels, *widths[:-2]], widths[:-1], strict=True), start=1):
            setattr(self, f"encoder{level}", _block(inputs, outputs, f"enc{level}", norm))
            setattr(self, f"pool{level}", Halving())
        self.bottleneck = _block(widths[-2], widths[-1], "bottleneck", norm)
        for level in range(depth, 0, -1):
            width = widths[level - 1]
            setattr(self, f"upconv{level}", nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2))
            setattr(self, f"decoder{level}", _block(2 * width, width, f"dec{level}", norm, Joining))
        self.conv = nn.Conv2d(features, regions, kernel_size=1)
        self.head_names = [f"conv{level + 1}" for level in supervised_levels(depth)] if supervised else []
        for head, width in zip(self.head_names, widths[1:], strict=False):
            setattr(self, head, nn.Conv2d(width, regions, kernel_size=1))

    def outputs(self, image_bchw: Tensor) -> list[Tensor]:
        x, skips = image_bchw, []
        for level in range(1, self.depth + 1):
            skips.append(getattr(self, f"encoder{level}")(x))
            x = getattr(self, f"pool{level}")(skips[-1])
        x = self.bottleneck(x)
        coarser: list[Tensor] = []
        for level in range(self.depth, 0, -1):
            x = getattr(self, f"decoder{level}")(getattr(self, f"upconv{level}")(x), skips.pop())
            if self.training and f"conv{level}" in self.head_names:
                coarser.append(getattr(self, f"conv{level}")(x))
        return [self.conv(x), *reversed(coarser)]


def unet(cfg: ModelConfig, in_channels: int, regions: int) -> Network:
    """The reference U-Net, of other depth, norm or supervision where the config says so."""
    depth, norm = cfg.depth or cfg.part.depth, cfg.norm or cfg.part.norm
    return UNet(in_channels, cfg.features, depth, norm, supervision_ratio(cfg) > 0, regions)


def _block(
    inputs: int, outputs: int, name: str, norm: NormName, kind: type[nn.Sequential] = nn.Sequential
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, width in ((1, inputs), (2, outputs)):
        layers[f"{name}conv{number}"] = nn.Conv2d(width, outputs, kernel_size=3, padding=1, bias=False)
        layers[f"{name}norm{number}"] = make_norm(norm, outputs)
        layers[f"{name}relu{number}"] = nn.ReLU(inplace=True)
    return kind(layers)
