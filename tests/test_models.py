"""The U-Net is the reference's: keys, shapes and outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segtrain.config import ModelConfig
from segtrain.models import make_model


def test_keys_and_shapes_are_the_reference_s(golden: Path) -> None:
    shapes = json.loads((golden / "unet_init32_state_shapes.json").read_text())
    ours = {key: list(tensor.shape) for key, tensor in make_model(ModelConfig(), seed=0).state_dict().items()}
    assert ours == shapes
    assert list(ours) == list(shapes)


def test_outputs_are_the_reference_s(golden: Path) -> None:
    network = make_model(ModelConfig(features=4), seed=0).eval()
    with np.load(golden / "unet_init4.npz") as numbers:
        state = {k.removeprefix("state/"): torch.from_numpy(numbers[k]) for k in numbers if k.startswith("state/")}
        network.load_state_dict(state)
        with torch.inference_mode():
            probability = torch.sigmoid(network(torch.from_numpy(numbers["x"])))
        assert np.abs(probability.numpy() - numbers["y_eval"]).max() < 1e-5


def test_the_seed_alone_decides_the_initial_weights() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = make_model(ModelConfig(features=4), seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = make_model(ModelConfig(features=4), seed=5).state_dict()
    other = make_model(ModelConfig(features=4), seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv.weight"], other["conv.weight"])


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("size", [(16, 16), (48, 32)])
def test_any_multiple_of_16_passes(norm: str, size: tuple[int, int]) -> None:
    network = make_model(ModelConfig(features=4, norm=norm), seed=0)  # type: ignore[arg-type]
    logits = network(torch.zeros(2, 3, *size))
    assert logits.shape == (2, 1, *size)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
