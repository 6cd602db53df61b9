"""Activation checkpointing: inner activations of blocks are not kept but computed again for the backward pass.

T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

PRODUCTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def recompute(network: nn.Module) -> None:
    """From now on, keep only the input of each block.

    A block is a smallest module with at least two convolutions or linear layers. Names in the state dict, values and
    gradients do not change; running statistics count each batch once.
    """
    for block in _blocks(network):
        block.__class__ = _recomputed(type(block))


def _blocks(module: nn.Module) -> list[nn.Module]:
    inner = [block for child in module.children() for block in _blocks(child)]
    if inner or isinstance(module, nn.ModuleList | nn.ModuleDict):  # a list is not called; what holds it is
        return inner
    products = sum(isinstance(part, PRODUCTS) for part in module.modules())
    return [module] if products > 1 else []


def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        inner = partial(kind.forward, self, **named)
        if not torch.is_grad_enabled():
            return inner(*inputs)
        return checkpoint(inner, *inputs, use_reentrant=False, context_fn=partial(_contexts, self))

    return type(kind.__name__, (kind,), {"forward": forward})


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _uncounted(block)


@contextmanager
def _uncounted(block: nn.Module) -> Iterator[None]:
    """A context in which running statistics are copies, which are discarded."""
    buffers = [(module, *named) for module in block.modules() for named in module.named_buffers(recurse=False)]
    for module, name, buffer in buffers:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
