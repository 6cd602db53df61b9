"""Networks of the user's own, as they stand: arguments by name, outputs found by a trial, names of weights kept."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from own_networks import PARTS, config, image, make
from safetensors.torch import save_file
from torch.nn import functional as F

from segtrain.config import NETWORKS, ModelConfig, Reference, name_of
from segtrain.config.importing import load
from segtrain.engines.batch_norm import GlobalBatchNorm, over_all_ranks
from segtrain.errors import ConfigError
from segtrain.models import cost
from segtrain.models.make import make_model
from segtrain.models.own import check_precision
from segtrain.models.recompute import recompute
from segtrain.runtime.world import World


@pytest.mark.parametrize(
    ("part", "channels", "arguments"),
    [
        ("unet.py:UNet", 3, "in_channels=3, out_channels=1"),
        ("unet.py:UNet", 9, "in_channels=9, out_channels=1"),
        ("nested-unet++.py:NestedUNet", 9, "num_classes=1, input_channels=9"),
        ("project/nets/unet_model.py:UNet", 9, "n_channels=9, n_classes=1"),
        ("first/net.py:build", 3, "in_ch=3, out_ch=1"),
        ("factory.py:build", 9, "classes=1, in_chans=9, weights=None"),
    ],
)
def test_channels_are_given_by_name_in_any_order(part: str, channels: int, arguments: str) -> None:
    network = make(part, channels=channels)
    assert f":{part.rpartition(':')[2]}({arguments}): " in network.description
    assert network(image(channels=channels)).shape == (2, 1, 48, 64)


def test_options_go_to_the_network_and_win() -> None:
    network = make("unet.py:UNet", {"init_features": 2, "in_channels": 3})
    assert network.state_dict()["conv.weight"].shape == (1, 2, 1, 1)
    assert "UNet(in_channels=3, out_channels=1, init_features=2)" in network.description
    assert make("factory.py:build", {"n_channels": 5}).state_dict()["layers.0.weight"].shape[0] == 5


def test_siblings_of_one_name_do_not_meet() -> None:
    widths = [make(f"{folder}/net.py:build").state_dict()["0.weight"].shape[0] for folder in ("first", "second")]
    assert widths == [4, 6]
    assert "utils" not in sys.modules


@pytest.mark.law("L13")
@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("BestFirst", "logits; 2 outputs, of which [0] is used"),
        ("BestLast", "logits; 2 outputs, of which [1] is used"),
        ("Nested", "probabilities, taken as logits; 2 outputs, of which [1] is used"),
        ("Dictionary", "logits; 1 output"),
        ("Output", "logits; 1 output"),
        ("WithLabel", "logits; 1 output"),
        ("Stacked", "logits; 2 outputs, of which [0] is used (in evaluation: logits; 1 output)"),
        ("Squeezed", "logits; 1 output"),
        ("TwoChannels", "logits of two channels; 1 output"),
        ("TwoProbabilities", "probabilities of two channels, taken as logits; 1 output"),
        ("TwoLogProbabilities", "logits of two channels; 1 output"),
        ("Sigmoid", "probabilities, taken as logits; 1 output"),
        ("SigmoidLayer", "probabilities, taken as logits; 1 output"),
        ("SigmoidInEvaluation", "logits; 1 output (in evaluation: probabilities, taken as logits; 1 output)"),
        ("Twice", "logits; 1 output"),
    ],
)
def test_the_same_logits_in_every_form_are_found(part: str, says: str) -> None:
    """One network that returns them in many ways: all are logits [b, 1, h, w], and the description says how."""
    network, plain = make(f"outputs.py:{part}"), make("outputs.py:Body")
    assert f": {says}; " in network.description
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            dict(network.named_parameters(remove_duplicate=False))[name].copy_(parameter)
    x = image()
    for mode in (True, False):
        expected = plain.train(mode)(x)
        assert torch.allclose(network.train(mode)(x), expected, atol=1e-6)


def test_other_heads_are_left_alone_unless_they_are_asked_for() -> None:
    """DDP waits for the gradient of every parameter that wants one."""
    for ratio, heads in ((None, 1), (0.5, 2)):
        network = make("outputs.py:BestLast", deep_supervision=ratio).train()
        logits = network(image())
        assert logits.shape == ((2, 1, 48, 64) if heads == 1 else (2, 2, 1, 48, 64))
        logits.sum().backward()
        wanted = {name for name, p in network.named_parameters() if p.requires_grad}
        assert wanted == {name for name, p in network.named_parameters() if p.grad is not None}
        assert ("aux.weight" in wanted) == (heads == 2)
        assert network.eval()(image()).shape == (2, 1, 48, 64)
    assert "2 parameters unused and frozen" in make("outputs.py:BestLast").description


def test_deep_supervision_begins_with_the_main_output() -> None:
    network = make("nested-unet++.py:NestedUNet", deep_supervision=0.5)
    assert "NestedUNet(num_classes=1, input_channels=3, deep_supervision=True)" in network.description
    assert "2 outputs, of which 2 are trained, [1] is predicted" in network.description
    x = image()
    first = network.train()(x)[:, 0]
    assert torch.equal(first, network.inner(x)[1])
    coarse = make("outputs.py:BestLast", deep_supervision=0.5).train()
    outputs = coarse(x).unbind(1)
    assert torch.equal(outputs[1], F.interpolate(coarse.inner(x)[0], size=(48, 64)))
    with pytest.raises(ConfigError, match=r"deep_supervision is set, and unet\.py:UNet gives one output"):
        make("unet.py:UNet", deep_supervision=0.5)


def test_a_quarter_of_the_size_is_enlarged() -> None:
    network = make("outputs.py:Quarter").eval()
    assert "logits at 1/4 of the size, enlarged; 1 output" in network.description
    assert "sizes /4" in network.description
    x = image()
    assert torch.allclose(network(x), F.interpolate(network.inner(x), scale_factor=4, mode="bilinear"))


@pytest.mark.parametrize(("part", "sizes"), [("unet.py:UNet", "/16"), ("project/nets/unet_model.py:UNet", "any")])
def test_any_size_passes(part: str, sizes: str) -> None:
    network = make(part).eval()
    assert f"sizes {sizes};" in network.description
    for side in ((64, 80), (33, 17), (5, 100)):
        assert network(image(1, *side)).shape == (1, 1, *side)


@pytest.mark.parametrize("part", ["Sigmoid", "SigmoidLayer", "TwoProbabilities"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_a_sigmoid_was_given_is_exact_where_its_value_is_rounded_to_one(part: str, dtype: torch.dtype) -> None:
    network, plain = make(f"outputs.py:{part}"), make("outputs.py:Body")
    plain.load_state_dict(network.state_dict())
    x = 1000 * image()
    with torch.autocast("cpu", dtype=dtype):
        logits, expected = network(x), plain(x)
    assert expected.abs().max() > 20
    if part != "TwoProbabilities":
        assert torch.equal(logits, expected)
    assert torch.allclose(logits.float(), expected.float(), rtol=0.02)
    logits.float().sum().backward()
    assert plain.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("part", ["Sigmoid", "SigmoidLayer", "TwoProbabilities", "BestLast"])
def test_torch_compile_sees_one_graph(part: str) -> None:
    """And takes a sigmoid's input as well: its value would be rounded to one."""
    network = make(f"outputs.py:{part}", deep_supervision=0.5 if part == "BestLast" else None)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    x = 1000 * image()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compiled(x), network(x))


@pytest.mark.law("L12")
def test_probabilities_without_a_sigmoid_are_asked_about_and_need_fp32() -> None:
    with pytest.raises(ConfigError, match=r"Hyperbolic: cannot tell whether.*set model\.output=probabilities or"):
        make("outputs.py:Hyperbolic")
    network, plain = make("outputs.py:Hyperbolic", output="probabilities"), make("outputs.py:Body")
    plain.load_state_dict(network.state_dict())
    assert torch.allclose(network(image()), plain(image()), atol=1e-5)
    assert "turned back into logits (fp32 alone)" in network.description
    check_precision(network, "fp32")
    check_precision(make("unet.py:UNet"), "bf16")
    for part, output in (("outputs.py:Hyperbolic", "probabilities"), ("unet.py:Rounded", None)):
        with pytest.raises(ConfigError, match=r"precision=bf16: .* returns probabilities, .* use precision=fp32"):
            check_precision(make(part, output=output), "bf16")


def test_declared_logits_are_taken_as_they_are() -> None:
    network = make("outputs.py:Hyperbolic", output="logits")
    assert torch.equal(network(image()), network.inner(image()))


@pytest.mark.law("L13")
def test_exported_weights_load_in_the_user_s_own_code(tmp_path: Path) -> None:
    network = make("unet.py:UNet", {"init_features": 4})
    theirs = load(Reference.of(f"{PARTS}/unet.py:UNet"))(init_features=4)
    assert list(theirs.state_dict()) == list(network.state_dict())
    assert [name for name, _ in theirs.named_parameters()] == [name for name, _ in network.named_parameters()]
    theirs.load_state_dict(network.state_dict())
    x = image()
    assert torch.allclose(torch.sigmoid(network.eval()(x)), theirs.eval()(x), atol=1e-6)
    save_file({name: tensor * 2 for name, tensor in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = make("unet.py:UNet", {"init_features": 4}, weights=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(tensor, 2 * theirs.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_the_wrapper_is_the_network_in_whatever_is_done_to_it() -> None:
    """Copies, casts, other devices, synchronised norms, modes, recomputed blocks."""
    network = make("unet.py:UNet", {"init_features": 4})
    x, before = image(), copy.deepcopy(network.state_dict())
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(x).any()
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items() if "running" not in name
    )
    assert network.to("meta")(x.to("meta")).shape == (2, 1, 48, 64)
    double = make("unet.py:UNet", {"init_features": 4}).double()
    assert double(x.double()).dtype == torch.float64
    synchronised = over_all_ranks(double, World(0, 2), compiled=False)
    assert sum(isinstance(module, GlobalBatchNorm) for module in synchronised.modules()) == 18
    synchronised.eval()
    assert not any(module.training for module in double.inner.modules())
    plain, saving = make("unet.py:UNet", {"init_features": 4}), make("unet.py:UNet", {"init_features": 4})
    recompute(saving)
    plain(x).sum().backward()
    saving(x).sum().backward()
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.law("L4")
def test_weights_come_from_the_seed_and_a_trial_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    cfg = config("outputs.py:Dropout")
    first, again, other = (make_model(cfg, seed, size_px=64).state_dict() for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert make("unet.py:UNet").state_dict()["encoder1.enc1norm1.num_batches_tracked"] == 0


def test_an_input_that_is_written_into_is_copied() -> None:
    network, x = make("outputs.py:WritesItsInput"), image()
    before = x.clone()
    network(x)
    assert torch.equal(x, before)


def test_the_cost_of_an_own_network_is_listed_last(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = replace(config("unet.py:UNet"), output="probabilities")
    own, ours = cost.row(cfg, 3, 64), cost.row(ModelConfig(), 3, 64)
    assert own[:2] == ("unet.py:UNet", "own")
    assert own[2:] == ours[2:]
    monkeypatch.setattr(cost, "row", lambda one, *_: (name_of(one.name), one.output))
    *built_in, last = cost.table(cfg, 3, 64)
    assert [name for name, _ in built_in] == list(NETWORKS)
    assert last == (str(cfg.name), "probabilities")
