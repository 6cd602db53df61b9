"""The mean of several networks' probabilities over views, with their spread by running sums.

Legend: b batch, c channel, r region, h height, w width, n member (a network in a view).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segtrain.config import TtaName
from segtrain.evaluation.tta import VIEWS, View

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Spread:
    """Of a batch: logits of the slices as they are, the mean, the standard deviation, voxels over the threshold."""

    logits_brhw: Tensor
    mean_brhw: Tensor
    sd_brhw: Tensor
    voxels_nrb: Tensor


def mean_logits(outputs: Sequence[Tensor]) -> Tensor:
    """The logits of the mean of these logits' probabilities."""
    if len(outputs) == 1:
        return outputs[0]
    # In float64 a mean of probabilities near 1 keeps the digits that its logit needs.
    mean = torch.stack([torch.sigmoid(output.double()) for output in outputs]).mean(0)
    return torch.logit(mean, eps=1e-12).float()


def number_of_views(tta: TtaName) -> int:
    """How many predictions one network makes of a slice."""
    return 1 + len(VIEWS[tta])


def with_spread(networks: Sequence[Logits], image_bchw: Tensor, tta: TtaName, thresholds: Sequence[float]) -> Spread:
    """The ensemble's prediction, bitwise that of `tta.mean_probability`, and the spread of its members.

    Welford's running sums: members that agree have a spread of exactly 0. Divided by the number of members.
    """
    views = (View(), *VIEWS[tta])
    threshold = image_bchw.new_tensor(list(thresholds), dtype=torch.float32)[None, :, None, None]
    plain, total, running_mean, squares = (image_bchw.new_zeros(()) for _ in range(4))
    voxels: list[Tensor] = []
    for view in views:
        outputs = [network(view.there(image_bchw)) for network in networks]
        logits = mean_logits(outputs)
        probability = view.back(torch.sigmoid(logits))
        plain, total = (logits, probability) if not voxels else (plain, total + probability)
        for output in outputs:
            member = view.back(torch.sigmoid(output))
            voxels.append((member > threshold).sum(dim=(2, 3)).T)
            away = member - running_mean
            running_mean = running_mean + away / len(voxels)
            squares = squares + away * (member - running_mean)
    return Spread(plain, total / len(views), (squares / len(voxels)).clamp(min=0).sqrt(), torch.stack(voxels))
