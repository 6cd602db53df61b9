"""What is checked when network, loss and engine are put together, before anything is written."""

from dataclasses import replace

import pytest
import torch

from segtrain.config import Config, DataConfig, ModelConfig, NormName, TrainConfig
from segtrain.errors import ConfigError
from segtrain.models.make import make_model
from segtrain.runtime.world import World
from segtrain.training.build import build, rehearse


def config(batch: int, micro_batch: int | None = None, size_px: int = 16, **model: object) -> Config:
    return Config(
        data=DataConfig(image_size=size_px),
        model=ModelConfig(**{"features": 4, **model}),  # type: ignore[arg-type]
        train=TrainConfig(global_batch=batch, micro_batch=micro_batch),
    )


def _one_value(cfg: Config) -> bool:
    """Whether torch refuses to train on one sample."""
    size_px = cfg.data.image_size
    try:
        make_model(cfg.model, 0).train()(torch.zeros(1, 3, size_px, size_px))
    except ValueError as error:
        return "more than 1 value per channel" in str(error)
    return False


@pytest.mark.law("L12")
@pytest.mark.parametrize(("name", "depth"), [
    ("unet", None), ("unet", 5), ("resunet", None), ("resunet", 2), ("attention_unet", None), ("segresnet", None),
    ("unetplusplus", None), ("swin_unetr", None), ("resenc", None),
])  # fmt: skip
@pytest.mark.parametrize("size_px", [16, 32, 48])
def test_batch_norm_of_a_single_voxel_is_refused_before_torch_does(name: str, depth: int | None, size_px: int) -> None:
    """Exactly where torch would: it is asked with one sample."""
    norm: NormName | None = None if name == "attention_unet" else "batch"
    cfg = config(1, None, size_px, name=name, depth=depth, norm=norm, features=12 if name == "swin_unetr" else 4)
    if _one_value(cfg):
        with pytest.raises(ConfigError, match=rf"image_size={size_px} halved .* one voxel.*model\.norm=instance"):
            build(cfg, World(), begun=False)
    else:
        build(cfg, World(), begun=False)
    build(replace(cfg, train=TrainConfig(global_batch=2)), World(), begun=False)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("batch", "micro_batch", "ranks", "refused"),
    [
        (3, 2, 1, True),  # the last of a step has one
        (4, 2, 1, False),
        (1, None, 1, True),
        (2, None, 2, False),  # batch norm is of all ranks: two together
        (6, 2, 2, False),
        (8, 4, 2, False),
    ],
)
def test_the_smallest_micro_batch_decides(batch: int, micro_batch: int | None, ranks: int, refused: bool) -> None:
    cfg = config(batch, micro_batch)
    if refused:
        with pytest.raises(ConfigError, match=rf"train\.global_batch={batch} on {ranks} rank"):
            rehearse(cfg, ranks, begun=False)
    else:
        rehearse(cfg, ranks, begun=False)
    rehearse(replace(cfg, model=replace(cfg.model, norm="instance")), ranks, begun=False)


@pytest.mark.law("L12")
@pytest.mark.law("L13")
def test_mixup_is_refused_with_a_loss_that_takes_whole_numbers() -> None:
    """It would cut 0.4 to 0 in silence."""
    cfg = replace(config(4), loss="torch.nn:CrossEntropyLoss")
    build(cfg, World(), begun=False)
    mixed = replace(cfg, data=replace(cfg.data, mixup=0.5))
    with pytest.raises(
        ConfigError, match=r"data\.mixup=0\.5 gives masks between 0 and 1, which torch\.nn:CrossEntropyLoss"
    ):
        build(mixed, World(), begun=False)
    build(replace(mixed, loss={"torch.nn:BCELoss": 1.0, "dice": 1.0}), World(), begun=False)
