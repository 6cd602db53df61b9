"""Copy-paste of lesions and mixup, of a sample and a partner in the same lane (L2, L3).

Legend: b batch, k samples with a partner, h height, w width, c channel, p plane of a mask.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.config import MaskLayout
from segtrain.data.augment.intensity import blur
from segtrain.data.order import MIX_STREAM, generator

EDGE_SIGMA_PX = 0.8  # of a pasted lesion's edge, which rises from 0.1 to 0.9 within 2 px
MIXUP_ALPHA = 0.4  # H. Zhang et al., ICLR 2018: between 0.1 and 0.4


@dataclass(frozen=True)
class Mix:
    """Partners as they are in the store, and their use.

    place: int64 [k], indices of the samples in the batch; image_khwc: float16; mask_khw: uint8; paste: float32 [k], 1
    for copy-paste; own_share: float32 [k], the sample's own share in mixup, 1 for no mixup.
    """

    place: Tensor
    image_khwc: Tensor
    mask_khw: Tensor
    paste: Tensor
    own_share: Tensor

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Mix":
        """The same after `move`, which pins tensors or brings them to a device."""
        return Mix(*(move(getattr(self, f.name)) for f in fields(self)))

    def apply(
        self, image_bchw: Tensor, mask_bphw: Tensor, other_mask_kphw: Tensor, layout: MaskLayout
    ) -> tuple[Tensor, Tensor]:
        """Image and mask, changed at `place`: the partner's lesion pasted (G. Ghiasi et al., CVPR 2021), then mixup.

        A lesion is what is in any region; where it is pasted, all planes of the mask are the partner's. After mixup
        regions are between 0 and 1, and voxels are ignored that either sample ignores.
        """
        image, mask = image_bchw.index_select(0, self.place), mask_bphw.index_select(0, self.place)
        other, other_mask = self.image_khwc.float().permute(0, 3, 1, 2), other_mask_kphw
        lesion = other_mask[:, : len(layout.regions)].amax(1, keepdim=True)
        own_share, paste = self.own_share[:, None, None, None], self.paste[:, None, None, None]
        image = image + paste * softened(lesion) * (other - image)
        image = own_share * image + (1 - own_share) * other
        mask = torch.where(paste * lesion > 0, other_mask, mask)
        blended = own_share * mask + (1 - own_share) * other_mask
        if layout.ignores:
            ignored = torch.maximum(mask[:, -1:], other_mask[:, -1:] * (own_share < 1))
            blended = torch.cat((blended[:, :-1], ignored), dim=1)
        return image_bchw.index_copy(0, self.place, image), mask_bphw.index_copy(0, self.place, blended)


def softened(mask_k1hw: Tensor) -> Tensor:
    """The mask with an edge that falls from 1 to 0 over about 2 px."""
    return blur(mask_k1hw, torch.full((len(mask_k1hw), 1), EDGE_SIGMA_PX, device=mask_k1hw.device))


def mix_draws(
    seed: int, positions: NDArray[np.int64], copy_paste: float, mixup: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """paste [b] (0/1) and own share [b] of the samples at `positions`, with these probabilities."""
    paste, own_share = np.zeros(len(positions), np.float32), np.ones(len(positions), np.float32)
    for place, position in enumerate(positions):
        rng = generator(seed, MIX_STREAM, int(position))
        pasted, mixed = rng.random(2) < (copy_paste, mixup)
        share = rng.beta(MIXUP_ALPHA, MIXUP_ALPHA)
        paste[place], own_share[place] = pasted, share if mixed else 1.0
    return paste, own_share
