"""Options of the built-in losses: those of the formulas, within their ranges."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_losses import Array, cross_entropy, dice, samples, tversky_index

from segtrain.config import LossConfig, load_config, loss_terms
from segtrain.errors import ConfigError
from segtrain.losses.loss import make_loss

OPTIONS: dict[str, tuple[dict[str, float], Callable[[Array, Array], float]]] = {
    "dice": ({"smooth": 0.01}, lambda p, y: float(1 - (2 * (p * y).sum() + 0.01) / (p.sum() + y.sum() + 0.01))),
    "tversky": ({"alpha": 0.5, "beta": 0.2}, lambda p, y: 1 - tversky_index(p, y, 0.5, 0.2)),
    "focal_tversky": ({"alpha": 0.4, "beta": 0.6, "gamma": 2}, lambda p, y: (1 - tversky_index(p, y, 0.4, 0.6)) ** 2),
    "focal": (
        {"gamma": 1.5, "alpha": 0.25},
        lambda p, y: float((np.where(y > 0, 0.25 * (1 - p) ** 1.5, 0.75 * p**1.5) * cross_entropy(p, y)).mean()),
    ),
    "dice_focal": (
        {"gamma": 0, "smooth": 1},
        lambda p, y: dice(p, y) + float(cross_entropy(p, y).mean()),
    ),
    "dice_topk": ({"share": 1}, lambda p, y: dice(p, y) + float(cross_entropy(p, y).mean())),
    "unified_focal": (
        {"balance": 1, "delta": 0.7, "gamma": 0.25},
        lambda p, y: float(np.where(y > 0, -0.7 * np.log(p), -0.3 * p**0.25 * np.log(1 - p)).mean()),
    ),
    "generalized_dice": (
        {"power": 0},
        lambda p, y: float(1 - 2 * ((p * y).sum() + ((1 - p) * (1 - y)).sum()) / (2 * p.size)),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_the_formula(name: str) -> None:
    logits, mask = samples(2, 3)
    options, by_hand = OPTIONS[name]
    loss = make_loss(load_config(None, [f"loss={{part: {name}}}", *(f"loss.{k}={v}" for k, v in options.items())]).loss)
    expected = by_hand(1 / (1 + np.exp(-logits.numpy())), mask.numpy())
    assert loss.value(loss.sums(logits, mask)).item() == pytest.approx(expected, abs=1e-6)
    assert torch.autograd.gradcheck(lambda x: loss.value(loss.sums(x, mask)), logits.requires_grad_())


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"part": "focal", "gamma": -1}, "loss focal: gamma=-1: write a number 0 or more"),
        ({"part": "dice_topk", "share": 1.5}, "loss dice_topk: share=1.5: write a number from 0 to 1"),
        ({"dice": 1.0, "focal": {"weight": 1.0, "alpha": 2.0}}, "loss focal: alpha=2.0: write a number from 0 to 1"),
    ],
)
def test_an_option_out_of_its_range_is_refused(loss: LossConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_loss(loss)


def test_a_number_without_a_point_is_a_number() -> None:
    """YAML 1.1 takes 1e-2 for a text."""
    for text in ("{part: dice, smooth: 1e-2}", "{dice: {weight: 1e-1, smooth: 1e-2}}"):
        (term,) = loss_terms(load_config(None, [f"loss={text}"]).loss)
        assert term.options == {"smooth": 0.01}
