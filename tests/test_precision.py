"""The precision of float32 on CUDA: plain torch's by default, and set so that torch's own getters still answer."""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
import torch

from segtrain.config import Config, ModelConfig, Precision
from segtrain.engines.precision import AUTOCAST, ON_CUDA, described_precision, prefers_channels_last, use_tf32

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("before", get_args(Precision))
@pytest.mark.parametrize(
    ("precision", "convolutions", "products"),
    [
        ("fp32", True, False),
        ("tf32", True, True),
        ("ieee", False, False),
        ("bf16", True, False),
        ("fp16", True, False),
    ],
)
def test_a_precision_chooses_what_cuda_computes_in_tf32(
    before: Precision, precision: Precision, convolutions: bool, products: bool
) -> None:
    """Whatever was chosen before; torch's older getters and its newer ones say the same, and none raises."""
    use_tf32(before)
    use_tf32(precision)
    backends = torch.backends
    assert backends.cudnn.allow_tf32 is convolutions
    assert backends.cuda.matmul.allow_tf32 is products
    assert torch.get_float32_matmul_precision() == ("high" if products else "highest")
    assert (backends.cudnn.conv.fp32_precision == "tf32") is convolutions  # type: ignore[attr-defined]
    assert (backends.cuda.matmul.fp32_precision == "tf32") is products


def test_float32_is_by_default_what_plain_torch_makes_of_it() -> None:
    plain = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    use_tf32(Config().precision)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == plain == (True, False)


def test_every_precision_says_what_a_gpu_computes() -> None:
    assert set(AUTOCAST) == set(ON_CUDA) == set(get_args(Precision))
    assert "convolutions in TF32" in (described_precision("fp32", CUDA) or "")
    assert described_precision("fp32", CPU) is None


def test_tensor_cores_get_their_layout() -> None:
    layouts = {p: prefers_channels_last(replace(Config(), precision=p), CUDA) for p in get_args(Precision)}
    assert layouts == {"fp32": True, "tf32": True, "bf16": True, "fp16": True, "ieee": False}
    assert not prefers_channels_last(Config(model=ModelConfig(channels_last=False)), CUDA)
