"""Networks that would train wrongly, or not at all, each in one way."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from outputs import Body
from torch import nn

ready = Body()


class PlainList(Body):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__(in_channels, out_channels)
        self.blocks = [nn.Conv2d(4, 4, 3, padding=1)]

    def forward(self, x):
        return self.head(self.blocks[0](F.relu(self.conv1(x))))


class Patches(nn.Module):
    """Takes patches as tokens, not images."""

    def __init__(self, patch=16, in_channels=3):
        super().__init__()
        self.embed = nn.Linear(patch * patch * in_channels, 8)

    def forward(self, tokens):
        return self.embed(tokens)


class Solid(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


class Mixes(Body):
    def forward(self, x):
        return self.both(x - x.mean(0, keepdim=True))[0]


class Unpadded(nn.Module):
    """Convolutions without padding: the output is smaller than the image."""

    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Conv2d(in_channels if i == 0 else 4, 4, 31) for i in range(3)])
        self.head = nn.Conv2d(4, out_channels, 1)

    def forward(self, x):
        return self.head(self.layers(x))


class Stretched(Unpadded):
    def forward(self, x):
        return F.interpolate(super().forward(x), size=x.shape[-2:], mode="bilinear")


class Swapped(Body):
    def forward(self, x):
        return F.interpolate(self.both(x)[0].transpose(2, 3), size=x.shape[-2:])


class ThreeAlone(Body):
    def __init__(self, num_classes=1, input_channels=3):
        super().__init__(3, num_classes)


class OneSize(Body):
    def forward(self, x):
        assert x.shape[-2:] == (224, 224), "Input size must be 224"
        return self.both(x)[0]


class Normalises(Body):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__(in_channels, out_channels)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("std", torch.ones(1, 3, 1, 1))


class CallsCuda(Body):
    def forward(self, x):
        return self.both(x.cuda())[0]


class DrawsFromPython(Body):
    def forward(self, x):
        return self.both(x)[0] * random.choice([0.5, 1.0])


class OwnGenerator(Body):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__(in_channels, out_channels)
        self.generator = torch.Generator()

    def forward(self, x):
        noise = torch.rand(x.shape, generator=self.generator) if self.training else 0
        return self.both(x + noise)[0]


class Uninitialised(Body):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__(in_channels, out_channels)
        generator = np.random.default_rng()
        self.scale = nn.Parameter(torch.tensor(generator.normal(), dtype=torch.float32))

    def forward(self, x):
        return self.both(x)[0] * self.scale


class Fp32Alone(Body):
    def forward(self, x):
        x = self.both(x)[0]
        assert x.dtype == torch.float32, "expects float32"
        return x


class SkipsLayers(Body):
    def forward(self, x):
        x = F.relu(self.conv1(x))
        if not self.training or torch.rand(()) < 0.5:
            x = F.relu(self.conv2(x))
        return self.head(x)


class DropsInEvaluation(Body):
    def forward(self, x):
        return self.both(F.dropout(x, 0.2))[0]


class SoftmaxOfOne(Body):
    def forward(self, x):
        return F.softmax(self.both(x)[0], dim=1)


class ManyClasses(Body):
    def __init__(self, in_channels=3):
        super().__init__(in_channels, 4)


class Detached(Body):
    def forward(self, x):
        return self.both(x)[0].detach().requires_grad_()


class InfiniteMask(Body):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__(in_channels, out_channels)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))


class Explodes(Body):
    def forward(self, x):
        return self.both(x)[0] / 0


class NeedsConfig(Body):
    def __init__(self, config):
        super().__init__()


class TakesAnything(Body):
    def __init__(self, in_channels=3, out_channels=1, **kwargs):
        super().__init__(in_channels, out_channels)
        if "scale" in kwargs:
            self.head.weight.data.mul_(kwargs["scale"])


def two_of_them(in_channels=3, out_channels=1):
    return Body(in_channels, out_channels), Body(in_channels, out_channels)


def prints_and_fails(in_channels=3, out_channels=1):
    print("a table of layers")  # noqa: T201
    raise RuntimeError("the weights are\nnot there")
