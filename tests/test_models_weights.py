"""Weights from the files that users have: wrapped, of another prefix, an encoder's alone, or another network's."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from test_models import CHEAP
from test_models_elsewhere import SMP, FakeUnet
from torch import Tensor, nn

from segtrain.config import Config, ModelConfig
from segtrain.errors import ConfigError
from segtrain.evaluation.ensemble import TrainedCheckpoint, network_of
from segtrain.models.make import make_model
from segtrain.models.weights import load_weights
from segtrain.run import Run

State = dict[str, Tensor]


def under(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def start(cfg: ModelConfig, path: Path) -> nn.Module:
    return make_model(ModelConfig(**{**vars(cfg), "weights": str(path)}), seed=2)


def message(network: nn.Module, path: Path) -> str:
    """What is said when the file is refused, the network then being as it was."""
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(ConfigError) as error:
        load_weights(network, path)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items()), "nothing was taken"
    return str(error.value)


@pytest.mark.law("L12")
def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network, file = make_model(ModelConfig(features=4), seed=1), tmp_path / "model.safetensors"
    state = network.state_dict()
    save_file(make_model(ModelConfig(features=8), seed=1).state_dict(), file)
    told = message(network, file)
    assert "encoder1.enc1conv1.weight is [8, 3, 3, 3], the network's is [4, 3, 3, 3]; set model" in told
    save_file({key: tensor for key, tensor in state.items() if key != "conv.bias"}, file)
    assert "has no conv.bias" in message(network, file)
    save_file({**state, "conv9.bias": torch.zeros(1)}, file)
    assert "has conv9.bias" in message(network, file)
    save_file(under("another.", state), file)
    assert "has none of the network's 118 tensors" in message(network, file)
    file.write_bytes(file.read_bytes()[:100])
    assert "not a file of weights" in message(network, file)
    assert "No such file" in message(network, tmp_path / "none.pt")
    assert "convert" in message(network, tmp_path / "model.h5")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "no state dict" in message(network, tmp_path / "list.pt")
    torch.save({}, tmp_path / "empty.pt")
    assert "has none of the network's" in message(network, tmp_path / "empty.pt")
    torch.save(network, tmp_path / "whole.pt")
    assert "not a file of weights" in message(network, tmp_path / "whole.pt")
    (tmp_path / "text.pth").write_text("weights")
    assert "not a file of weights" in message(network, tmp_path / "text.pth")


WRAPPED: dict[str, Callable[[State], object]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "ddp": lambda state: {"model_state_dict": under("module.", state)},
    "compiled": lambda state: under("module._orig_mod.", state),
    "without counts": lambda state: {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("way", WRAPPED)
def test_a_wrapped_state_dict_is_unwrapped(way: str, tmp_path: Path) -> None:
    cfg, file = ModelConfig(features=4), tmp_path / "weights.ckpt"
    there = make_model(cfg, seed=1).state_dict()
    torch.save(WRAPPED[way](there), file)
    for key, tensor in start(cfg, file).state_dict().items():
        assert torch.equal(tensor, there[key]), key


@pytest.mark.parametrize("name", ["attention_unet", "unetplusplus", "segresnet", "swin_unetr"])
def test_what_the_package_saves_loads(name: str, tmp_path: Path) -> None:
    """MONAI's network has no `network.` before its names; ours has, in what our runs save."""
    cfg = CHEAP[name]
    made = make_model(cfg, seed=1).state_dict()
    assert all(key.startswith("network.") for key in made)
    theirs = {key.removeprefix("network."): tensor.contiguous() for key, tensor in made.items()}
    if name == "unetplusplus":  # MONAI makes, and saves, outputs that ours leaves out
        from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus

        f = cfg.features
        features = (f, 2 * f, 4 * f, 8 * f, 16 * f, f)
        theirs = BasicUNetPlusPlus(2, 3, 1, features, norm=("instance", {"affine": True}), bias=False).state_dict()
    for file, state in ((tmp_path / "theirs.pt", theirs), (tmp_path / "ours.pt", under("network.", theirs))):
        torch.save(state, file)
        for key, tensor in start(cfg, file).state_dict().items():
            assert torch.equal(tensor, theirs[key.removeprefix("network.")]), key


@pytest.fixture
def smp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: the package itself is not among what the tests install."""
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", SimpleNamespace(Unet=FakeUnet))


def classifier() -> State:
    """Names and layers of an ImageNet classifier's file, for the stand-in's encoder."""
    encoder = FakeUnet("resnet34", None, 3, 1).encoder.state_dict()
    filled = {key: torch.full_like(tensor, 7) for key, tensor in encoder.items()}
    return {**filled, "fc.weight": torch.zeros(1000, 4), "fc.bias": torch.zeros(1000)}


@pytest.mark.usefixtures("smp")
@pytest.mark.parametrize("prefix", ["", "encoder.", "module.encoder.", "network.encoder."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_file_of_an_encoder_alone(
    prefix: str, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, state = tmp_path / f"resnet34{suffix}", under(prefix, classifier())
    if suffix == ".pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    with caplog.at_level(logging.INFO, "segtrain"):
        network = start(SMP, file)
    fresh = make_model(SMP, seed=2).state_dict()
    for key, tensor in network.state_dict().items():
        expected = torch.full_like(tensor, 7) if key.startswith("network.encoder.") else fresh[key]
        assert torch.equal(tensor, expected), key
    assert "not taken from it: fc" in caplog.text
    assert "gives 8 of the network's 10 tensors; as initialised stay: segmentation_head" in caplog.text


@pytest.mark.usefixtures("smp")
def test_the_file_of_the_whole_network_of_another_package(tmp_path: Path) -> None:
    theirs = {key: torch.full_like(tensor, 7) for key, tensor in FakeUnet("resnet34", None, 3, 1).state_dict().items()}
    torch.save(theirs, tmp_path / "unet.pth")
    assert all((tensor == 7).all() for tensor in start(SMP, tmp_path / "unet.pth").state_dict().values())


@pytest.mark.law("L12")
@pytest.mark.usefixtures("smp")
def test_an_encoder_that_does_not_fit_is_named(tmp_path: Path) -> None:
    file, network = tmp_path / "encoder.pth", make_model(SMP, seed=1)
    given = classifier()
    for changed, told in (
        ({"conv1.weight": torch.zeros(4, 1, 3, 3)}, "conv1.weight is [4, 1, 3, 3], the encoder's is [4, 3, 3, 3]"),
        ({"layer1.9.weight": torch.zeros(4)}, "has layer1.9.weight, which the encoder has not"),  # a deeper one's
    ):
        torch.save({**given, **changed}, file)
        assert told in message(network, file)
    torch.save({key: tensor for key, tensor in given.items() if key != "layer1.0.weight"}, file)
    assert "has no layer1.0.weight, which the encoder has" in message(network, file)
    torch.save(under("backbone.", given), file)
    assert "has none of the encoder's 8 tensors" in message(network, file)
    whole = FakeUnet("resnet34", None, 3, 1).state_dict()
    torch.save({**whole, "segmentation_head.0.weight": torch.zeros(5, 4, 1, 1)}, file)
    assert "segmentation_head.0.weight is [5, 4, 1, 1], the network's is [1, 4, 1, 1]" in message(network, file)


@pytest.mark.law("L12")
@pytest.mark.usefixtures("smp")
def test_a_network_to_predict_with_is_whole_and_as_it_was_trained(tmp_path: Path) -> None:
    """`model.weights_input` in the config of its training is of the file that the training started from."""
    model = replace(SMP, weights=str(tmp_path / "start.pt"), weights_input="mean")
    encoder = FakeUnet("resnet34", None, 3, 1).encoder.state_dict()
    for state, words in (
        (encoder, "has none of the network's 10 tensors"),
        (under("encoder.", encoder), "has no segmentation_head.0.weight, which the network has"),
        (FakeUnet("resnet34", None, 5, 1).state_dict(), "conv1.weight is [4, 5, 3, 3], the network's is [4, 3, 3, 3]"),
    ):
        torch.save(state, file := tmp_path / "weights.pth")
        checkpoint = TrainedCheckpoint(Run(file), Config(model=model), file, frozenset(), frozenset(), is_bare=True)
        with pytest.raises(ConfigError) as error:
            network_of(checkpoint, torch.device("cpu"))
        assert words in str(error.value)
        assert "weights_input" not in str(error.value)
    torch.save(FakeUnet("resnet34", None, 3, 1).state_dict(), file)
    assert not network_of(checkpoint, torch.device("cpu")).training
