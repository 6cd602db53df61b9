"""A loss of the user's own behind the protocol of ours: called as it expects, exact at any world size (L5, L13).

Legend: b batch, h height, w width.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from segtrain.config import Reference
from segtrain.config.loss_terms import TAKES
from segtrain.losses.own_function import OwnFunction, own_function
from segtrain.losses.probe import Probe, random_logits
from segtrain.losses.search import find

# Unlike lesions and unlike certainty, so that a loss of the whole batch is no mean over samples. More than 200,000
# voxels: losses that keep the hardest ones keep so many at least.
_LESIONS = ((slice(40, 150), slice(30, 200)), (slice(5, 15), slice(100, 106)), None, (slice(100, 140), slice(60, 130)))
_HALVES = (([0], [1, 2, 3]), ([0, 2], [1, 3]), ([2], [0, 1, 3]), ([0, 1, 2], [3]))


class OwnLoss:
    """See `segtrain.losses.loss.Loss`.

    `description`: how it is called, for people; `remarks`: what they should know, each as the rest of a sentence.

    A loss that does not couple samples is a sum over them, and each rank computes its part. Its gradient at the logits
    is computed at once, so that nothing of the user's runs in the backward pass, where other ranks take part.
    """

    width = 2

    def __init__(self, function: OwnFunction, probe: Probe) -> None:
        self.function, self.probe, self.convention = function, probe, probe.convention
        self.remarks = probe.remarks
        self.couples = self._couples()
        self.takes_soft_masks = self._takes_soft_masks()
        samples = "couples the samples of a batch" if self.couples else "couples no samples"
        self.description = f"{function}: {self.convention}; {samples}; {probe.best:.2f} for the truth"

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The loss times the number of samples, and the number."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if torch.is_grad_enabled() and logits.requires_grad:
            value, gradient = self.function.value_and_gradient(self.convention, logits, mask)
            value = _WithGradient.apply(logits, value, gradient)  # type: ignore[no-untyped-call]
        else:
            with torch.inference_mode(False), torch.no_grad():
                value = self.function.value(self.convention, logits, mask)
        return torch.stack((value * len(logits), value.new_full((), len(logits))))

    def value(self, sums: Tensor, progress: float = 1.0) -> Tensor:
        return sums[0] / sums[1]

    def _couples(self) -> bool:
        """Whether it is anything but a mean over samples."""
        certain, mask = four_samples()
        for logits in (certain, 0.1 * certain):
            whole = self._of(logits, mask)
            for halves in _HALVES:
                mean = sum(len(half) * self._of(logits[half], mask[half]) for half in halves) / len(mask)
                if not math.isclose(mean, whole, rel_tol=1e-5, abs_tol=1e-6 * self.probe.spread):
                    return True
        return False

    def _takes_soft_masks(self) -> bool:
        """Whether a mask of 0.6, as of data.mixup, is more to it than no mask."""
        if self.convention.layout.whole_numbers:
            return False
        logits, mask = four_samples()
        try:
            return self._of(logits, 0.6 * mask) != self._of(logits, 0 * mask)
        except Exception:  # noqa: BLE001  the user's code may raise anything; it then takes 0 and 1 alone
            return False

    def _of(self, logits: Tensor, mask: Tensor) -> float:
        with torch.no_grad():
            return self.function.value(self.convention, logits, mask).item()


class _WithGradient(torch.autograd.Function):
    """A value whose gradient at the logits is known."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return slope * gradient, None, None


def four_samples() -> tuple[Tensor, Tensor]:
    """Logits and masks [4, 1, h, w] with unlike lesions, one without."""
    mask = torch.zeros(4, 1, 240, 224)
    for sample, lesion in zip(mask, _LESIONS, strict=True):
        if lesion:
            sample[0][lesion] = 1
    certainty = torch.tensor([0.3, 1.0, 2.0, 0.6]).view(4, 1, 1, 1)
    return certainty * random_logits(4, 240, 224, seed=1), mask


def find_own_loss(reference: Reference, options: Mapping[str, Any]) -> OwnLoss:
    """The loss that a reference names, with the way to call it. Raises ConfigError where there is none."""
    ours = {key: str(value) for key, value in options.items() if key == TAKES}
    function = own_function(reference, {key: value for key, value in options.items() if key not in ours})
    if ours and function.known and TAKES in function.known:  # it has a parameter of that name
        function, ours = own_function(reference, options), {}
    with undisturbed():
        return OwnLoss(function, find(function, ours.get(TAKES)))


@contextmanager
def undisturbed() -> Iterator[None]:
    """A context for trials: torch's generator is as before afterwards, and calls of a millisecond use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
