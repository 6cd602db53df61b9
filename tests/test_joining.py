"""Layers that read two tensors as one and keep the two: the same bits as of the joined one, in less memory."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from test_pooling import LAYOUTS, WAYS, network, require_same_training
from test_recompute import pass_through
from torch import Tensor, nn

from segtrain.models.joining import Joining

SIZES = st.integers(1, 9)


class Plain(Joining):
    """The same of a tensor that is joined outside, as torch keeps it."""

    def forward(self, *parts: Tensor) -> Tensor:
        x = torch.cat(parts, dim=1)
        for layer in self:
            x = layer(x)
        return x


def plain(network: nn.Module) -> nn.Module:
    """The network with what torch keeps."""
    changed = [module for module in network.modules() if isinstance(module, Joining)]
    assert changed
    for module in changed:
        module.__class__ = Plain
    return network


@given(
    seed=st.integers(0, 1000),
    widths=st.tuples(SIZES, SIZES, SIZES),
    size=st.tuples(st.integers(1, 3), SIZES, SIZES),
    layout=st.sampled_from(LAYOUTS),
    learn=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    precision=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_values_and_gradients_are_those_of_the_joined_tensor(
    seed: int,
    widths: tuple[int, int, int],
    size: tuple[int, int, int],
    layout: torch.memory_format,
    learn: tuple[bool, bool, bool],
    precision: torch.dtype,
) -> None:
    """Also of the gradients' gradient; whatever of the two and of the weights learns."""
    batch, height, width = size
    torch.manual_seed(seed)
    layers = [nn.Conv2d(widths[0] + widths[1], widths[2], 3, padding=1), nn.Tanh()]
    inputs = [torch.randn(batch, w, height, width).contiguous(memory_format=layout) for w in widths[:2]]

    def results(kind: type[Joining]) -> list[Tensor]:
        parts = [x.clone().requires_grad_(learns) for x, learns in zip(inputs, learn[:2], strict=True)]
        layers[0].requires_grad_(learn[2])
        learning = [x for x in (*parts, *layers[0].parameters()) if x.requires_grad]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            output = kind(*layers)(*parts)
        if not learning:
            return [output]
        firsts = torch.autograd.grad(output.float().pow(3).sum(), learning, create_graph=True)
        seconds = torch.autograd.grad(torch.stack([first.square().sum() for first in firsts]).sum(), learning)
        return [output, *firsts, *seconds]

    ours, theirs = results(Joining), results(Plain)
    assert len(ours) == len(theirs)
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


def test_no_copies_of_skip_connections_are_kept() -> None:
    (_, ours), (_, theirs) = pass_through(network()), pass_through(plain(network()))  # of 2 images of 64 px
    pixels = [2 * 4 * 2**level * (64 >> level) ** 2 for level in range(3)]
    assert theirs - ours == 4 * sum(pixels)


@WAYS
def test_a_training_has_the_bits_of_joined_tensors(model: dict[str, Any], more: dict[str, Any]) -> None:
    require_same_training(model, more, plain)
