"""Traps in networks of the user's own, each planted: found before training, with the reason and the remedy."""

import re
from pathlib import Path

import pytest
from own_networks import PARTS, config, make

from segtrain.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig, load_config
from segtrain.errors import ConfigError
from segtrain.models.make import make_model
from segtrain.models.own import check_precision
from segtrain.models.trial import checks_of
from segtrain.runtime.world import World
from segtrain.training.build import build

TRAPS = {
    "Uninitialised": ("weights", r"scale is another each time it is made from one seed.*torch's global generator"),
    "PlainList": ("layers", r"its layers in blocks are in a plain list.*nn\.ModuleList"),
    "Patches": ("sizes", r"cannot be run on images \[2, 3, 256, 256\] \(RuntimeError: .*correct its code"),
    "Solid": ("dimensions", r"built of 3-D convolutions alone.*spatial_dims=2"),
    "Mixes": ("samples", r"mixes the samples of a batch in evaluation"),
    "Unpadded": ("sizes", r"gives 2 x 1 x 166 x 166 for images \[2, 3, 256, 256\].*padding"),
    "Stretched": (
        "place",
        r"its output is displaced: a change at 75%, 25% of the image shows at .*pad its convolutions",
    ),
    "Swapped": ("place", r"its output is displaced"),
    "OneSize": ("sizes", r"takes images of 224 x 224 alone, and data\.image_size=256; set data\.image_size=224"),
    "CallsCuda": ("sizes", r"needs a CUDA device here: take \.cuda\(\) out of its code"),
    "DrawsFromPython": ("randomness", r"draws from Python's random while it trains.*draw from torch"),
    "OwnGenerator": ("randomness", r"another output from the same seed.*torch's global generator"),
    "SkipsLayers": ("parameters", r"skips layers at random \(conv2\.\w+\).*DropPath"),
    "DropsInEvaluation": ("evaluation", r"draws at random in evaluation too.*training=self\.training"),
    "SoftmaxOfOne": ("output", r"a softmax over its one channel is 1 everywhere"),
    "ManyClasses": ("sizes", r"gives 2 x 4 x 256 x 256 for images.*set its classes"),
    "Detached": ("parameters", r"depends on none of its parameters"),
    "InfiniteMask": ("finite", r"its mask holds values that are not finite.*persistent=False"),
    "Explodes": ("finite", r"values that are not finite for a normal image"),
    "NeedsConfig": ("arguments", r"needs config; give it as an option.*or write a function"),
    "ready": ("arguments", r"made when its file was imported.*name its class"),
    "two_of_them": ("builds", r"gives a tuple and not an nn\.Module"),
    "prints_and_fails": (
        "builds",
        r"cannot be built \(RuntimeError: the weights are not there\) in traps\.py, line \d+",
    ),
}


@pytest.mark.law("L12")
@pytest.mark.law("L13")
@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_found_before_training_and_by_the_check(trap: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, message = TRAPS[trap]
    with pytest.raises(ConfigError, match=rf"traps\.py:{trap}.*{message}") as caught:
        make_model(config(f"traps.py:{trap}"), seed=1)
    assert "\n" not in str(caught.value)
    description, checks = checks_of(config(f"traps.py:{trap}"), 3, 256)
    assert description == ""
    assert [check.name for check in checks if check.verdict == "fails"] == [name]
    assert re.search(message, checks[-1].message)
    assert capsys.readouterr().out == ""


def test_what_may_be_right_is_a_warning() -> None:
    network = make("traps.py:Normalises")
    assert len(network.warnings) == 1
    assert "has mean, std: if it normalises its input, take that out" in network.warnings[0]
    assert make("outputs.py:Body").warnings == ()


@pytest.mark.law("L12")
def test_a_network_of_three_channels_is_not_given_neighbours() -> None:
    assert "all parameters used" not in make("traps.py:ThreeAlone").description  # it has a second head
    with pytest.raises(
        ConfigError, match=r"takes images of 3 channels alone, and data.contrasts and data.neighbours give 9"
    ):
        make("traps.py:ThreeAlone", channels=9)


@pytest.mark.law("L12")
def test_a_key_that_changes_nothing_is_refused() -> None:
    make("traps.py:TakesAnything", {"scale": 3.0})
    with pytest.raises(ConfigError, match=r"TakesAnything: depth changes nothing.*correct its name"):
        make("traps.py:TakesAnything", {"scale": 3.0, "depth": 4})


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.depth=3", r"model\.depth=3 means nothing to your own network .*unet\.py:UNet; leave it out.*option: 3"),
        ("model.norm=group", r"model\.norm=group means nothing to your own network"),
    ],
)
def test_keys_of_built_in_networks_mean_nothing_to_an_own_one(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [f"model.name={PARTS}/unet.py:UNet", override])


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", ["unet", "smp:resnet34"])
def test_the_output_of_a_built_in_network_is_known(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.output=logits is for networks of your own, .* {name} is known"):
        load_config(None, [f"model.name={name}", "model.output=logits"])


@pytest.mark.law("L12")
def test_batch_norm_of_a_single_voxel_is_refused_before_torch_does() -> None:
    model = config("unet.py:UNet")
    for size_px, batch, refused in ((16, 1, True), (16, 2, False), (32, 1, False)):
        cfg = Config(data=DataConfig(image_size=size_px), model=model, train=TrainConfig(global_batch=batch))
        if refused:
            with pytest.raises(ConfigError, match=r"image_size=16 halved .* one voxel"):
                build(cfg, World(), begun=False)
        else:
            build(cfg, World(), begun=False)


@pytest.mark.law("L12")
def test_a_network_that_cannot_be_run_in_half_precision_is_refused() -> None:
    network = make("traps.py:Fp32Alone")
    check_precision(network, "tf32")
    with pytest.raises(ConfigError, match=r"cannot be run at precision=bf16 \(AssertionError: expects float32\)"):
        check_precision(network, "bf16")
    half = make("outputs.py:Body")
    check_precision(half, "bf16")
    assert half.training


@pytest.mark.law("L12")
def test_schedule_free_and_batch_norm_do_not_go_together() -> None:
    cfg = Config(model=config("unet.py:UNet"), optim=OptimConfig(name="schedulefree"))
    with pytest.raises(ConfigError, match=r"schedulefree .* batch norm, which unet\.py:UNet has"):
        build(cfg, World(), begun=False)


def test_a_trial_runs_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    make("outputs.py:Body")
    monkeypatch.setattr("segtrain.models.trial.Trial.run", lambda self: pytest.fail("tried again"))
    make_model(config("outputs.py:Body"), seed=7, size_px=64)
    with pytest.raises(pytest.fail.Exception, match="tried again"):
        make_model(config("outputs.py:Body"), seed=7, size_px=128)


def test_the_check_lists_what_holds() -> None:
    description, checks = checks_of(config("unet.py:UNet"), 3, 256)
    assert description == (
        "unet.py:UNet(in_channels=3, out_channels=1): probabilities, taken as logits; 1 output; batch norm; sizes /16; "
        "draws nothing; all parameters used"
    )
    names = ["weights", "layers", "sizes", "output", "randomness", "parameters", "samples", "place"]
    assert [(check.name, check.verdict) for check in checks] == [(name, "holds") for name in names]


@pytest.mark.law("L12")
def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        make_model(ModelConfig(name=f"{tmp_path}/nets.py:UNet"), seed=1)
