"""Blocks that read two tensors as one, and keep the two for the backward pass in place of the joined one.

A skip connection is kept anyway, by the layers that made and pooled it; its copy in the joined tensor is a tenth of
what a step of the reference U-Net keeps. Joining once more is a copy: values and gradients have the same bits.

Legend: b batch, c and d channels, h height, w width.
"""

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

Kept = Tensor | tuple[Tensor, ...]
ROOM = 1024  # values


class Joining(nn.Sequential):
    """Layers in a row, the first of which reads [b, c, h, w] and [b, d, h, w] as [b, c + d, h, w]."""

    def forward(self, *parts: Tensor) -> Tensor:
        """The last layer's output. On a GPU, where it was not measured, and where compiled, all is as torch has it."""
        first, *others = self
        x: Tensor = _keeping_parts(first, parts)
        for layer in others:
            x = layer(x)
        return x


def _keeping_parts(layer: nn.Module, parts: tuple[Tensor, ...]) -> Tensor:
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or parts[0].device.type != "cpu":
        plain: Tensor = layer(torch.cat(parts, dim=1))
        return plain
    joined: Tensor = _Joined.apply(*parts)  # type: ignore[no-untyped-call]
    which = joined.data_ptr(), joined.shape  # the tensor itself in a hook would live as long as the hook

    def pack(kept: Tensor) -> Kept:
        return parts if (kept.data_ptr(), kept.shape) == which else kept

    def unpack(kept: Kept) -> Tensor:
        return kept if isinstance(kept, Tensor) else torch.cat(kept, dim=1)

    with saved_tensors_hooks(pack, unpack):
        output: Tensor = layer(joined)
    return output


class _Joined(torch.autograd.Function):
    """`torch.cat` of channels, in a block with room to spare: two of half its size fit into the hole that it leaves.

    Without, they lack some bytes for their alignment, and the hole is half wasted (segtrain/runtime/allocator.py).
    """

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.widths = [part.shape[1] for part in parts]
        like = torch.cat([torch.empty_like(part, device="meta") for part in parts], dim=1)
        block = torch.empty(like.numel() + ROOM, dtype=like.dtype)
        return torch.cat(parts, dim=1, out=block.as_strided(like.shape, like.stride()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        starts = accumulate(ctx.widths, initial=0)
        return tuple(gradient.narrow(1, start, width) for start, width in zip(starts, ctx.widths, strict=False))
