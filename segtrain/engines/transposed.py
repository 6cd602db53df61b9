"""Transposed convolutions whose bias has its gradient by a sum: in channels_last oneDNN takes ten times as long for it.

Of a step of the reference network at 256 px that was a sixth in bf16 (docs/performance.md). torch's compiler does the
same for the networks that it compiles. In float32 and the other layout oneDNN is as fast: there, as in the narrow
networks that have it, torch's own layers stay.

Legend: b batch, c channel, h height, w width.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Sizes = tuple[int, int]


def sum_biases(network: nn.Module, device: torch.device) -> None:
    """Have torch's own ConvTranspose2d of the network do so on a CPU; values, names and weights stay as they are."""
    if device.type != "cpu":
        return
    for module in network.modules():
        if type(module) is nn.ConvTranspose2d and module.bias is not None:
            module.__class__ = SummedBias


class SummedBias(nn.ConvTranspose2d):
    """A transposed convolution with a bias. See `nn.ConvTranspose2d`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002  torch's name
        """As torch's, [b, c, h, w] to [b, c, h, w]."""
        bias = self.bias
        learns = torch.is_grad_enabled() and bias is not None and bias.requires_grad
        if bias is None or not learns or torch.compiler.is_compiling():
            return super().forward(input, output_size)
        stride, padding, dilation = (cast(Sizes, sizes) for sizes in (self.stride, self.padding, self.dilation))
        more = self._output_padding(
            input, output_size, list(stride), list(padding), list(self.kernel_size), 2, list(dilation)
        )
        output_bchw = functional.conv_transpose2d(
            input, self.weight, bias.detach(), stride, padding, more, self.groups, dilation
        )
        biased: Tensor = _Biased.apply(output_bchw, bias)  # type: ignore[no-untyped-call]
        return biased


class _Biased(torch.autograd.Function):
    """The output itself, which has the bias in it already; backward gives the bias its gradient."""

    @staticmethod
    def forward(ctx: Any, output_bchw: Tensor, bias: Tensor) -> Tensor:
        ctx.mark_dirty(output_bchw)  # and no view of it, which no activation could change in place
        return output_bchw

    @staticmethod
    def backward(ctx: Any, gradient_bchw: Tensor) -> tuple[Tensor, Tensor]:
        return gradient_bchw, gradient_bchw.sum((0, 2, 3))  # torch adds half types up in float32
