"""What all networks share: images of any size, several outputs while training, norms by their name.

Legend: b batch, c channel, r region, h height, w width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtrain.config import ModelConfig, NormName

GROUPS = 4  # of norm=group; the config's rules make sure that they divide every width


class Network(nn.Module):
    """Image [b, c, h, w] of any h and w to logits [b, r, h, w].

    While it trains, a `supervised` network returns logits [b, outputs, r, h, w], finest first, all at full size, for
    `losses.DeepSupervision`. A subclass implements `outputs`.
    """

    pretrained: str | None = None  # the part that a file of weights may hold alone
    taken_out: tuple[str, ...] = ()  # patterns of names that the package's own files have and this network has not
    description: str = ""  # what was found by trying it; empty for networks whose form is known
    warnings: tuple[str, ...] = ()  # what is suspicious about it

    def __init__(self, halvings: int, norm: NormName, supervised: bool = False) -> None:
        super().__init__()
        self.norm: str = norm  # its kinds, for people
        self.supervised = supervised
        self.multiple = 2**halvings
        # One pixel has no variance: an instance norm refuses it.
        self.least = 2 * self.multiple if norm == "instance" else self.multiple

    def outputs(self, image_bchw: Tensor) -> list[Tensor]:
        """Logits, the full size first, then any coarser ones; h and w are multiples of what the network needs."""
        raise NotImplementedError

    def forward(self, image_bchw: Tensor) -> Tensor:
        height, width = image_bchw.shape[-2:]
        below, right = (max(self.least, -(-side // self.multiple) * self.multiple) - side for side in (height, width))
        if below or right:  # repeat the edge: zeros would be another tissue, and a reflection needs a larger image
            image_bchw = F.pad(image_bchw, (0, right, 0, below), mode="replicate")
        outputs = self.outputs(image_bchw)
        logits = _stacked(outputs) if self.training and self.supervised else outputs[0]
        return logits[..., :height, :width] if below or right else logits


def _stacked(outputs: list[Tensor]) -> Tensor:
    """[b, outputs, r, h, w]; coarse logits are enlarged by nearest neighbour, each over the area that it covers."""
    size = outputs[0].shape[-2:]
    return torch.stack([o if o.shape[-2:] == size else F.interpolate(o, size=size) for o in outputs], dim=1)


def supervision_ratio(cfg: ModelConfig) -> float:
    """The weight of each coarser output to the one before, by the config or else the network's row; 0: none."""
    return cfg.part.supervision if cfg.deep_supervision is None else cfg.deep_supervision


def supervised_levels(depth: int) -> range:
    """The coarser levels that have an output of their own; level 0 is the full size.

    All levels of the decoder but the coarsest, as in nnU-Net; a decoder of two levels has one coarser output.
    """
    return range(1, max(depth - 1, min(depth, 2)))


def make_norm(norm: NormName, channels: int) -> nn.Module:
    """The normalisation layer of that name, with a learnt scale and shift a channel."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.GroupNorm(GROUPS, channels)
