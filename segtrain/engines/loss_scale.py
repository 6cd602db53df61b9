"""The scale of a float16 loss: what is left out with a step whose gradients overflow, and the scale under ZeRO."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class FirstStep:
    """Takes back what a first step leaves in an optimiser if its gradients overflow.

    torch's fused SGD takes its momentum from memory that nothing was written to, and then leaves the step out.
    """

    def __init__(self) -> None:
        self.was_left_out = False  # and so were all after it
        self._is_done = False

    @contextmanager
    def watch(self, scaler: torch.amp.GradScaler | None, optimizer: Optimizer) -> Iterator[None]:
        """A context for the step and the update of the scale; waits for the device until the first step is done."""
        if scaler is None or not scaler.is_enabled() or self._is_done or optimizer.state:
            yield
            return
        before = scaler.get_scale()
        yield
        self.was_left_out = scaler.get_scale() < before
        self._is_done = not self.was_left_out
        if self.was_left_out:
            optimizer.state.clear()


class ZeroScale:
    """A loss scale by torch's own rule, as DDP has it: DeepSpeed multiplies and divides by it, and finds overflows.

    DeepSpeed 0.19.8 has a GradScaler under autocast too. But it passes that by when it leaves a step out, so that the
    scale never falls; it updates it once for each group, so that a rise falls between two groups; and it clips before
    the gradients are divided.
    """

    def __init__(self, optimizer: Any) -> None:
        """`optimizer`: DeepSpeed's, of ZeRO 1 to 3."""
        self.optimizer = optimizer
        optimizer.torch_autocast_gradscaler = None
        self.scaler = torch.amp.GradScaler("cpu")
        self._parameter = nn.Parameter(torch.zeros(()))
        self._unused = torch.optim.SGD([self._parameter])
        self.scaler.scale(self._parameter)  # it makes its tensors at the first use
        self.pass_on()

    def update(self) -> None:
        """Lower the scale after a step that DeepSpeed left out, and raise it after many that it took."""
        self._parameter.grad = torch.full((), torch.inf if self.optimizer.overflow else 0.0)
        self.scaler.unscale_(self._unused)
        self.scaler.update()
        self.pass_on()

    def pass_on(self) -> None:
        """Have DeepSpeed use the scale that the scaler has now."""
        self.optimizer.override_loss_scale(self.scaler.get_scale())
