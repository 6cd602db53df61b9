"""Parts of one's own, as one would write them for any training program: segtrain takes them as they stand.

Copy this file, change it, and name what is in it: loss=own_parts.py:power_loss. See docs/own_parts.md.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn


def power_loss(prediction, target, power=1.5, smooth=1.0):
    """Soft Dice of the whole batch on probabilities, whose errors are raised to a power."""
    overlap = (prediction * target).sum()
    size = (prediction**power).sum() + (target**power).sum()
    return 1 - (2 * overlap + smooth) / (size + smooth)


class Block(nn.Sequential):
    """Two convolutions with dropout between."""

    def __init__(self, channels_in, channels_out, dropout):
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class DropoutUNet(nn.Module):
    """A small U-Net with dropout, which ends in a sigmoid."""

    def __init__(self, in_channels=3, out_channels=1, width=16, dropout=0.1):
        super().__init__()
        self.down1 = Block(in_channels, width, dropout)
        self.down2 = Block(width, 2 * width, dropout)
        self.bottom = Block(2 * width, 4 * width, dropout)
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.decode2 = Block(4 * width, 2 * width, dropout)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.decode1 = Block(2 * width, width, dropout)
        self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.bottom(self.pool(second))
        x = self.decode2(torch.cat((self.up2(x), second), dim=1))
        x = self.decode1(torch.cat((self.up1(x), first), dim=1))
        return torch.sigmoid(self.head(x))


def fog(image, mask, density=0.3):
    """Blend a random part of the contrast towards its mean, and flip upside down half of the time."""
    share = np.random.uniform(0, density)
    image = (1 - share) * image + share * image.mean(axis=(0, 1), keepdims=True)
    if np.random.rand() < 0.5:
        image, mask = image[::-1], mask[::-1]
    return image, mask


class Lion(torch.optim.Optimizer):
    """Steps by the sign of a momentum. X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            fast, slow = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * momentum.lerp(parameter.grad, 1 - fast).sign())
                momentum.lerp_(parameter.grad, 1 - slow)


def halves(progress):
    """The learning rate's factor: 1, then a half, then a quarter."""
    return 0.5 ** int(3 * progress)


class Archives:
    """Patients in NumPy archives: <patient>.npz with `flair` and `t2` [s, h, w] and `labels` of the same shape."""

    contrasts = ("flair", "t2")

    def __init__(self, root, suffix=".npz"):
        self.root = Path(root)
        self.suffix = suffix

    def patients(self):
        return [file.stem for file in self.root.glob(f"*{self.suffix}")]

    def read(self, patient):
        with np.load(self.root / f"{patient}{self.suffix}") as arrays:
            return [arrays["flair"], arrays["t2"]], arrays["labels"]

    def person(self, patient):
        return patient.partition("_")[0]
