"""The table of networks: a row each, with what the config may say of it and what it is where the config says nothing.

Imports no torch.
"""

from dataclasses import dataclass
from typing import Literal

from segtrain.config.parts import Part
from segtrain.config.reference import SMP_PREFIX, Reference

NormName = Literal["batch", "instance", "group"]
OutputName = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class NetworkPart(Part):
    """A row. Its function takes ModelConfig, the number of input channels and that of regions.

    `depth`, `norm` and `supervision` are the network's own, which a key of the config can change only if it is in
    `keys`. `features` has to be a multiple of `width_step` and at least `least_width`.
    """

    norm: NormName = "batch"
    depth: int = 4  # times the image is halved
    supervision: float = 0.0  # weight of each coarser output to the one before; 0: there is one output
    width_step: int = 1
    least_width: int = 1

    def width(self, features: int) -> int:
        """The nearest width up to `features` that the network can have."""
        return max(self.least_width, features // self.width_step * self.width_step)


NETWORKS: dict[str, NetworkPart] = {
    "unet": NetworkPart(
        "segtrain.models.unet:unet",
        "the public reference's U-Net",
        "O. Ronneberger, P. Fischer, T. Brox, MICCAI 2015",
        keys=("depth", "norm", "deep_supervision"),
    ),
    "resunet": NetworkPart(
        "segtrain.models.resunet:resunet",
        "a residual U-Net by nnU-Net's rules of 2021, MONAI's DynUNet",
        "F. Isensee et al., Nature Methods 2021",
        keys=("depth", "norm", "deep_supervision"),
        norm="instance",
        depth=5,
        supervision=0.5,
    ),
    "resenc": NetworkPart(
        "segtrain.models.resenc:resenc",
        "nnU-Net's residual encoder U-Net of today",
        "F. Isensee et al., MICCAI 2024",
        keys=("depth", "norm", "deep_supervision"),
        norm="instance",
        depth=5,
        supervision=0.5,
    ),
    "mednext": NetworkPart(
        "segtrain.models.monai:mednext",
        "a U-Net of ConvNeXt's blocks, of four sizes",
        "S. Roy et al., MICCAI 2023",
        keys=("deep_supervision",),
        norm="instance",
        supervision=0.5,
    ),
    "attention_unet": NetworkPart(
        "segtrain.models.monai:attention_unet",
        "a U-Net that weights its skip connections by gates",
        "O. Oktay et al., MIDL 2018",
        keys=("depth",),
        least_width=2,  # gates are half as wide
    ),
    "unetplusplus": NetworkPart(
        "segtrain.models.monai:unetplusplus",
        "a U-Net with nested skip connections",
        "Z. Zhou et al., DLMIA 2018",
        keys=("norm", "deep_supervision"),
        norm="instance",
    ),
    "segresnet": NetworkPart(
        "segtrain.models.monai:segresnet",
        "a deep residual encoder with a light decoder",
        "A. Myronenko, BrainLes 2018",
        keys=("depth", "norm"),
        norm="group",
        depth=3,
    ),
    "swin_unetr": NetworkPart(
        "segtrain.models.monai:swin_unetr",
        "a Swin transformer as encoder with a residual decoder",
        "A. Hatamizadeh et al., BrainLes 2021",
        keys=("norm",),
        norm="instance",
        depth=5,
        width_step=12,  # channels of its attention heads
        least_width=12,
    ),
}
SMP = NetworkPart(
    "segtrain.models.smp:smp_unet", "a U-Net on an encoder of segmentation-models-pytorch", "P. Iakubovskii", depth=5
)


def network_part(name: str) -> NetworkPart:
    """The row of a network; all `smp:<encoder>` share one, and networks of the user's own have one each."""
    if name.startswith(SMP_PREFIX):
        return SMP
    if Reference.parse(name):
        return NetworkPart(name, "of the user's own", keys=("deep_supervision", "output"))
    return NETWORKS[name]


def width_problem(name: str, features: int) -> str | None:
    """Why the network cannot have that width, with the remedy."""
    part = network_part(name)
    if Reference.parse(name):
        return None  # its width is an option of its own
    width = part.width(features)
    if width == features:
        return None
    rule = f"a multiple of {part.width_step}" if part.width_step > 1 else f"{part.least_width} or more"
    return f"model.features={features}: {name}'s width is {rule}; set model.features={width}"
