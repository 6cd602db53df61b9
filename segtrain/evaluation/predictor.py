"""A network as a function from a patient's prepared volume to probabilities of regions, and to their masks.

Legend: b batch, s slice, h height, w width, c channel, r region, p plane of a mask.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.config import EvaluateConfig, MaskLayout
from segtrain.data.augment.batch import to_device
from segtrain.data.augment.draws import empty, pinned
from segtrain.data.neighbours import Neighbours, with_neighbours
from segtrain.errors import DataError
from segtrain.evaluation.metrics import kept_components
from segtrain.evaluation.spread import number_of_views, with_spread
from segtrain.evaluation.tta import mean_probability
from segtrain.evaluation.uncertainty import MemberSpread
from segtrain.runtime.gpu import fence
from segtrain.runtime.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

Logits = Callable[[Tensor], Tensor]  # of images [b, c, h, w]: [b, r, h, w]


def _ignore(output: Tensor, mask: Tensor) -> None:
    pass


@dataclass(frozen=True)
class Queued:
    """The probabilities of the volume `where`, which the device may still be computing; any thread may ask for them.

    training: see `Predictor`.
    """

    probability_srhw: Tensor  # on the host
    wait: Callable[[], None]  # until they are there
    where: str
    training: bool

    def result(self) -> NDArray[np.float32]:
        """The probabilities [r, s, h, w]. Raises DataError: one is NaN, and this is no `training`."""
        self.wait()
        probability_rshw = np.ascontiguousarray(self.probability_srhw.numpy().swapaxes(0, 1))
        self._look_for_nan(probability_rshw)
        return probability_rshw

    def _look_for_nan(self, probability_rshw: NDArray[np.float32]) -> None:
        """A NaN is over no threshold: such a patient would have no lesion, and nobody would know why."""
        unknown = int(np.isnan(probability_rshw).any(axis=(0, 2, 3)).sum())
        if not unknown:
            return
        slices = f"in {unknown} of {probability_rshw.shape[1]} slices"
        if not self.training:
            raise DataError(
                f"{self.where}: the network's output is NaN {slices}; are its weights damaged, or is fp16 too small "
                "for it? Take another checkpoint (--checkpoint), or try precision=fp32"
            )
        log.warning("%s: the network's output is NaN %s, which counts as no lesion there", self.where, slices)


@dataclass(frozen=True)
class Predictor:
    """The logits of a network, the settings that make a prediction of them, and the regions of masks.

    members: the networks whose mean probability `logits` are of; none where it is one network.
    training: a network that is being trained may give NaN for a while; it is told, and scored as no lesion.
    """

    logits: Logits
    cfg: EvaluateConfig
    device: torch.device
    neighbours: Neighbours = field(default_factory=Neighbours)
    layout: MaskLayout = field(default_factory=MaskLayout)
    members: tuple[Logits, ...] = ()
    training: bool = False

    def probability(
        self,
        image_shwc: NDArray[np.float16],
        mask_shw: NDArray[np.uint8],
        spacing_mm: Sequence[float] | None = None,
        where: str = "a patient",
        spread: MemberSpread | None = None,
    ) -> NDArray[np.float32]:
        """Probabilities [r, s, h, w] of a prepared volume. See `queue`, and `Queued.result`."""
        return self.queue(image_shwc, mask_shw, spacing_mm=spacing_mm, where=where, spread=spread).result()

    def queue(
        self,
        image_shwc: NDArray[np.float16],
        mask_shw: NDArray[np.uint8],
        watch: Callable[[Tensor, Tensor], None] = _ignore,
        spacing_mm: Sequence[float] | None = None,
        where: str = "a patient",
        spread: MemberSpread | None = None,
    ) -> Queued:
        """The probabilities of a prepared volume, for which a GPU is not waited for.

        `watch` gets each batch's logits [b, r, h, w] and mask [b, p, h, w], and those of fewer slices where it runs out
        of memory, when it must have kept nothing. spacing_mm: of the volume `where`.
        `spread` is filled (`room_for_spread`), which waits. Raises DataError: neighbours are at a distance in mm, and
        it is not known.
        """
        channels_shwc = with_neighbours(image_shwc, self.neighbours.offsets(spacing_mm, where))
        on_gpu = self.device.type == "cuda"
        # On a GPU the batches are queued: pinned memory, and a batch in one piece of it.
        slices, *plane = mask_shw.shape
        probability_srhw = empty((slices, len(self.layout.regions), *plane), torch.float32, pin=on_gpu)
        start, size = 0, self.cfg.batch
        while start < len(image_shwc):
            part = slice(start, start + size)
            try:
                batch = [torch.from_numpy(array[part]) for array in (channels_shwc, mask_shw)]
                if on_gpu:
                    batch = [pinned(tensor) for tensor in batch]
                image, mask = to_device(batch[0], batch[1], None, self.device, layout=self.layout)
                with torch.inference_mode():
                    output, mean = self._predicted(image, part, spread)
                    probability_srhw[part].copy_(mean, non_blocking=True)
                watch(output, mask)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                size = (size + 1) // 2  # for this patient; a rank alone may do so, since no collective is inside
                continue
            start += size
        return Queued(probability_srhw, fence(self.device), where, self.training)

    def _predicted(self, image: Tensor, part: slice, spread: MemberSpread | None) -> tuple[Tensor, Tensor]:
        """The logits of these slices and the mean over views, [b, r, h, w]; their part of `spread` is filled."""
        if spread is None:
            output = self.logits(image)
            return output, mean_probability(self.logits, image, output, self.cfg.tta)
        thresholds = [self.cfg.of(region).threshold for region in self.layout.regions]
        batch = with_spread(self.members or (self.logits,), image, self.cfg.tta, thresholds)
        spread.sd_rshw[:, part] = batch.sd_brhw.transpose(0, 1).cpu().numpy()
        spread.voxels_nrs[..., part] = batch.voxels_nrb.cpu().numpy()
        return batch.logits_brhw, batch.mean_brhw

    @property
    def networks(self) -> int:
        """How many there are."""
        return max(1, len(self.members))

    @property
    def views(self) -> int:
        """In how many each of them sees a slice."""
        return number_of_views(self.cfg.tta)

    def room_for_spread(self, shape: tuple[int, ...]) -> MemberSpread:
        """What `probability` fills for a volume [s, h, w]."""
        return MemberSpread.empty(self.networks * self.views, len(self.layout.regions), shape)

    def over_threshold(self, probability_rshw: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The regions' predicted masks with all their components."""
        predicted_rshw = np.empty(probability_rshw.shape, bool)
        for number, region in enumerate(self.layout.regions):
            threshold = np.float32(self.cfg.of(region).threshold)
            np.greater(probability_rshw[number], threshold, out=predicted_rshw[number])
        return predicted_rshw

    def kept(self, predicted_rshw: NDArray[np.bool_], voxel_ml: float | None) -> NDArray[np.bool_]:
        """The components of these masks that are scored and delivered; voxel_ml: the volume of a voxel, if known."""
        return kept_components(predicted_rshw, self.layout.regions, self.cfg, voxel_ml)
