"""The reference program's way of doing each piece of work, written plainly from the protocol (README).

Legend: s slice, h height, w width, c channel.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from medpy.filter.binary import largest_connected_component
from medpy.metric.binary import dc
from skimage.io import imread
from skimage.transform import rescale, resize, rotate
from torch import Tensor, nn

from segtrain.config import ModelConfig
from segtrain.models.make import make_model


def prepare(folder: Path, size_px: int) -> tuple[Any, Any]:
    """Read one patient's folder, then crop, pad, resize and normalise as the reference does."""
    numbers = sorted(int(f.stem.removesuffix("_mask").rsplit("_", 1)[1]) for f in folder.glob("*_mask.tif"))
    image = np.stack([imread(folder / f"{folder.name}_{k}.tif") for k in numbers])[1:-1]
    mask = np.stack([imread(folder / f"{folder.name}_{k}_mask.tif") for k in numbers])[1:-1]
    image = np.where(image < image.max() * 0.1, 0, image)
    inside = np.argwhere(image.max(axis=-1) > 0)
    (z0, y0, x0), (z1, y1, x1) = inside.min(axis=0), inside.max(axis=0) + 1
    image, mask = image[z0:z1, y0:y1, x0:x1], mask[z0:z1, y0:y1, x0:x1]
    height, width = mask.shape[1:]
    before = abs(height - width) // 2
    both = (before, abs(height - width) - before)
    pad = ((0, 0), (0, 0), both) if height > width else ((0, 0), both, (0, 0))
    image, mask = np.pad(image, (*pad, (0, 0))), np.pad(mask, pad)
    shape = (len(mask), size_px, size_px)
    mask = resize(mask, shape, order=0, mode="constant", cval=0, anti_aliasing=False)
    image = resize(image, (*shape, 3), order=2, mode="constant", cval=0, anti_aliasing=False)
    low, high = np.percentile(image, (10, 99))
    image = (np.clip(image, low, high) - low) / (high - low)
    image = (image - image.mean(axis=(0, 1, 2))) / image.std(axis=(0, 1, 2))
    return image, mask > 0


def augment(image_hwc: Any, mask_hw: Any, scale: float, angle: float, flip: bool) -> tuple[Any, Any]:
    """One sample: rescale and crop or pad back, rotate, flip."""
    size = image_hwc.shape[0]
    image = rescale(image_hwc, (scale, scale), channel_axis=-1, order=1, mode="constant", preserve_range=True)
    mask = rescale(mask_hw, (scale, scale), order=0, mode="constant", preserve_range=True)
    if scale < 1:
        before = (size - image.shape[0]) // 2
        pad = (before, size - image.shape[0] - before)
        image, mask = np.pad(image, (pad, pad, (0, 0))), np.pad(mask, (pad, pad))
    else:
        first = (image.shape[0] - size) // 2
        image, mask = (a[first : first + size, first : first + size] for a in (image, mask))
    image = rotate(image, angle, resize=False, preserve_range=True, mode="constant")
    mask = rotate(mask, angle, resize=False, order=0, preserve_range=True, mode="constant")
    return (np.fliplr(image).copy(), np.fliplr(mask).copy()) if flip else (image, mask)


class Training:
    """The reference's eager step: sigmoid in the network, plain Adam, `.item()` after every step."""

    def __init__(self, features: int) -> None:
        self.network: nn.Module = make_model(ModelConfig(features=features), 0)  # same modules as the reference's
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)

    def step(self, image_bchw: Tensor, mask_bchw: Tensor) -> float:
        self.network.train()
        self.optimizer.zero_grad()
        p = torch.sigmoid(self.network(image_bchw))[:, 0].contiguous().view(-1)
        y = mask_bchw[:, 0].contiguous().view(-1)
        loss = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())


def score(predicted_shw: Any, true_shw: Any) -> tuple[float, float]:
    """DSC of all components and of the largest, by medpy."""
    return float(dc(predicted_shw, true_shw)), float(dc(largest_connected_component(predicted_shw), true_shw))


def evaluate(network: nn.Module, image_shwc: Any, mask_shw: Any, batch: int) -> tuple[float, float]:
    """A patient's DSC as the reference computes it: batches, predictions to lists of slices, one volume, medpy."""
    predicted: list[Any] = []
    network.eval()
    for start in range(0, len(mask_shw), batch):
        image = torch.from_numpy(image_shwc[start : start + batch].transpose(0, 3, 1, 2).astype(np.float32))
        with torch.set_grad_enabled(False):
            p = torch.sigmoid(network(image)).detach().cpu().numpy()
        predicted.extend(p[i, 0] for i in range(len(p)))
    return score(np.round(np.array(predicted)).astype(int), mask_shw)
