"""A network as a function from a patient's prepared volume to probabilities, and to the mask that is scored.

Legend: b batch, s slice, h height, w width, c channel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.config import LESION, EvaluateConfig
from segtrain.data.augment.batch import to_device
from segtrain.data.neighbours import with_neighbours
from segtrain.engines.out_of_memory import is_out_of_memory
from segtrain.evaluation.tta import mean_probability

Logits = Callable[[Tensor], Tensor]  # of images [b, c, h, w]: [b, 1, h, w]


def _ignore(output: Tensor, mask: Tensor) -> None:
    pass


@dataclass(frozen=True)
class Predictor:
    """The logits of a network, and the settings that make a prediction of them."""

    logits: Logits
    cfg: EvaluateConfig
    device: torch.device
    neighbours: int = 0

    def probability(
        self,
        image_shwc: NDArray[np.float16],
        mask_shw: NDArray[np.uint8],
        watch: Callable[[Tensor, Tensor], None] = _ignore,
    ) -> NDArray[np.float32]:
        """Probabilities [s, h, w] of a prepared volume; `watch` gets each batch's logits and mask, [b, 1, h, w]."""
        channels_shwc = with_neighbours(image_shwc, self.neighbours)
        probability_shw = np.empty(mask_shw.shape, np.float32)
        start, size = 0, self.cfg.batch
        while start < len(image_shwc):
            part = slice(start, start + size)
            try:
                image, mask = to_device(
                    torch.from_numpy(channels_shwc[part]), torch.from_numpy(mask_shw[part]), None, self.device
                )
                with torch.inference_mode():
                    output = self.logits(image)
                    mean = mean_probability(self.logits, image, output, self.cfg.tta)
                    probability_shw[part] = mean[:, 0].cpu().numpy()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                size = (size + 1) // 2  # for this patient; a rank alone may do so, since no collective is inside
                continue
            watch(output, mask)
            start += size
        return probability_shw

    def over_threshold(self, probability_shw: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The predicted mask with all its components."""
        return probability_shw > np.float32(self.cfg.of(LESION).threshold)
