"""Max pooling that keeps no indices for its backward pass; values and gradients have the bits of torch's own.

torch keeps an int64 for each output, half the bytes of the float32 input. The input itself is kept anyway, by whatever
else reads it, and finding the indices again is a hundredth of a step. In half types it is a twentieth, so there, as on
GPUs, where it was not measured, torch's own pooling stays.

Legend: b batch, c channel, h height, w width.
"""

from typing import Any

import torch
from torch import Tensor, nn

pooled_with_indices = torch.ops.aten.max_pool2d_with_indices


class Halving(nn.MaxPool2d):
    """The maximum of each 2 x 2 pixels: [b, c, h, w] to [b, c, h / 2, w / 2]."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """As torch's."""
        learns = input.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not learns or input.device.type != "cpu" or input.dtype != torch.float32:
            plain_bchw: Tensor = super().forward(input)
            return plain_bchw
        output_bchw: Tensor = _Halving.apply(input)  # type: ignore[no-untyped-call]
        return output_bchw


class _Halving(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_bchw: Tensor) -> Tensor:
        ctx.save_for_backward(x_bchw)
        output_bchw: Tensor = pooled_with_indices(x_bchw, [2, 2])[0]
        return output_bchw

    @staticmethod
    def backward(ctx: Any, gradient_bchw: Tensor) -> Tensor:
        (x_bchw,) = ctx.saved_tensors
        indices_bchw = pooled_with_indices(x_bchw, [2, 2])[1]
        back = torch.ops.aten.max_pool2d_with_indices_backward
        of_input: Tensor = back(gradient_bchw, x_bchw, [2, 2], [2, 2], [0, 0], [1, 1], False, indices_bchw)
        return of_input
