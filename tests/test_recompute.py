"""Activation checkpointing changes nothing but what is kept for the backward pass."""

import copy
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from test_models import CASES, each_case, image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from segtrain.models.make import make_model
from segtrain.models.recompute import recompute


def pass_through(network: nn.Module) -> tuple[Tensor, int]:
    """Logits of a forward and backward pass, and how many bytes more were in use in between."""
    x = image(2, 64, 64)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as taken:
        logits = network.train()(x)
    logits.square().mean().backward()
    return logits.detach(), sum(event.self_cpu_memory_usage for event in taken.key_averages())


@each_case
def test_gradients_and_statistics_are_the_same_and_less_is_kept(case: str) -> None:
    plain = make_model(CASES[case], seed=1)
    saving = copy.deepcopy(make_model(replace(CASES[case], checkpoint_activations=True), seed=1))
    assert plain.state_dict().keys() == saving.state_dict().keys()
    (logits, held), (other, held_by_saving) = pass_through(plain), pass_through(saving)
    assert torch.equal(logits, other)
    for one, two in zip(plain.parameters(), saving.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-5, atol=1e-7)
    for one_buffer, two_buffer in zip(plain.buffers(), saving.buffers(), strict=True):
        assert torch.equal(one_buffer, two_buffer)
    assert held_by_saving < 0.7 * held
    with torch.no_grad():
        assert torch.equal(plain.eval()(image(2, 64, 64)), saving.eval()(image(2, 64, 64)))


class Listed(nn.Module):
    """Convolutions in a list, which nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x).relu()
        return x


def test_what_holds_a_list_of_layers_is_the_block() -> None:
    plain, saving = Listed(), nn.Sequential(Listed())
    saving[0].load_state_dict(plain.state_dict())
    recompute(saving)
    (output, held), (other, held_by_saving) = pass_through(plain), pass_through(saving)
    assert torch.equal(output, other)
    assert held_by_saving < 0.3 * held


@pytest.mark.parametrize("case", ["unet"])
def test_nothing_is_computed_again_without_gradients(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_model(replace(CASES[case], checkpoint_activations=True), seed=1)

    def called(*_: object, **__: object) -> None:
        raise AssertionError("checkpointed")

    monkeypatch.setattr(import_module("segtrain.models.recompute"), "checkpoint", called)
    with torch.no_grad():
        network(image(1))
    with pytest.raises(AssertionError, match="checkpointed"):
        network(image(1))
