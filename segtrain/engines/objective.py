"""The loss of the global batch as a rank and a micro-batch see it: what goes backward for their share of it.

Two ways, chosen by the loss. Both give each rank the gradient that one process with the whole batch would have.

Legend: b this rank's share of the global batch, or a part of it, h height, w width.
"""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from segtrain.losses.loss import Loss
from segtrain.runtime.world import World

Outputs = Iterable[tuple[Tensor, Tensor]]  # logits and masks of one micro-batch after the other


class Objective(Protocol):
    """One step's loss. `value` is known once a micro-batch went through; NaN where it is not finite."""

    value: Tensor

    def gather(self, outputs: Outputs) -> None:
        """Take in this rank's logits before those of its micro-batches come with gradients. Collective."""

    def share(self, logits: Tensor, mask: Tensor) -> Tensor:
        """A scalar whose gradient at these logits is the loss's. Collective.

        Without `gather` before it they are all logits of this rank.
        """


class SumsObjective:
    """A loss made of additive sums: the sums of all ranks and micro-batches are added, nothing else travels."""

    value: Tensor

    def __init__(self, loss: Loss, world: World, progress: float) -> None:
        self.loss, self.world, self.progress = loss, world, progress
        self.total: Tensor | None = None

    def gather(self, outputs: Outputs) -> None:
        """Add up the sums. Collective."""
        parts = [self.loss.sums(logits, mask) for logits, mask in outputs]
        self.total = self.world.sum(torch.stack(parts).sum(0))

    def share(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The loss itself, whose gradient flows to these logits alone. Collective."""
        sums = self.loss.sums(logits, mask)
        total = self.world.sum_keep_gradient(sums) if self.total is None else self.total + (sums - sums.detach())
        loss = self.loss.value(total, self.progress)
        self.value = torch.where(total.detach().isfinite().all(), loss.detach(), torch.nan)
        return loss


class WholeBatchObjective:
    """A loss that couples samples: every rank has the logits of the global batch and computes its gradient at them.

    Each rank then sends its own samples' part of the gradient backward. Exact for any differentiable loss, at the cost
    of 4 bytes a voxel of the global batch, and of the loss computed as often as there are ranks.
    """

    value: Tensor

    def __init__(self, loss: Loss, world: World, progress: float) -> None:
        self.loss, self.world, self.progress = loss, world, progress
        self.gradient: Tensor | None = None  # of this rank's samples
        self.place = 0  # the first sample that has not gone backward

    def gather(self, outputs: Outputs) -> None:
        """Compute the loss and its gradient at the logits of all ranks, in the order of positions. Collective."""
        logits, masks = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        whole = self.world.concatenate_samples(logits).requires_grad_()
        with torch.enable_grad():
            loss = self.loss.value(self.loss.sums(whole, self.world.concatenate_samples(masks)), self.progress)
        (gradient,) = torch.autograd.grad(loss, whole)
        first = self.world.rank * len(logits)
        self.gradient = gradient[first : first + len(logits)]
        value = torch.where(loss.detach().isfinite(), loss.detach(), torch.nan)
        # Rank 0's: kernels that add in any order may give ranks other last bits.
        self.value = self.world.sum(value if self.world.is_main else torch.zeros_like(value))

    def share(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Logits times the gradient at them, summed. Collective where they are all."""
        if self.gradient is None:
            self.gather([(logits, mask)])
        assert self.gradient is not None
        gradient = self.gradient[self.place : self.place + len(logits)]
        self.place += len(logits)
        return (logits.to(gradient.dtype) * gradient).sum()


def make_objective(loss: Loss, world: World, progress: float) -> Objective:
    """The objective of one step."""
    kind = WholeBatchObjective if loss.couples else SumsObjective
    return kind(loss, world, progress)
