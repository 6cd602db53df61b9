"""Blocks that read two tensors as one, and keep the two for the backward pass in place of the joined one.

A skip connection is kept anyway, by the layers that made and pooled it; its copy in the joined tensor is a tenth of
what a step of the reference U-Net keeps. Joining once more is a copy: values and gradients have the same bits.

Legend: b batch, c, d, e channels, h height, w width.
"""

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

Kept = Tensor | tuple[Tensor, ...]


class Joining(nn.Sequential):
    """Layers in a row, the first of which reads [b, c, h, w] and [b, d, h, w] as [b, c + d, h, w]."""

    def forward(self, *parts: Tensor) -> Tensor:
        """The last layer's output [b, e, h, w].

        In half types, on GPUs, where it was not measured, and where compiled, all is as torch has it. The first layer
        must keep its input as it is, if at all, and neither its output nor views of it: a convolution does.
        """
        first, *others = self
        x_behw: Tensor = _keeping_parts(first, parts)
        for layer in others:
            x_behw = layer(x_behw)
        return x_behw


def _keeping_parts(layer: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    joined = torch.cat(parts, dim=1)
    learns = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if not learns or joined.device.type != "cpu" or joined.dtype != torch.float32:
        plain: Tensor = layer(joined)
        return plain
    which = _which(joined)  # the tensor itself in a hook would live as long as the hook

    def pack(kept: Tensor) -> Kept:
        return parts if _which(kept) == which else kept

    def unpack(kept: Kept) -> Tensor:
        return kept if isinstance(kept, Tensor) else torch.cat(kept, dim=1)

    with saved_tensors_hooks(pack, unpack):
        output: Tensor = layer(joined)
    return output


def _which(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
