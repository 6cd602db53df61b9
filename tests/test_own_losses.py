"""Losses of the user's own: called as they expect, found by trial, refused where no training can use them (L13)."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from segtrain.config import LossConfig, Reference, load_config
from segtrain.config.importing import load
from segtrain.config.own_parts import own_parts
from segtrain.config.trial import Check
from segtrain.errors import ConfigError
from segtrain.losses.alone import STAND_INS, alone
from segtrain.losses.loss import DeepSupervision, make_loss, own_losses
from segtrain.losses.own import OwnLoss
from segtrain.losses.probe import masks, random_logits
from segtrain.losses.trial import check_loss, tried_loss

PARTS = Path(__file__).parent / "parts"
RIGHT, TRAPPED = PARTS / "losses.py", PARTS / "losses_trapped.py"

# How each is called, and whether it couples samples.
FOUND: list[tuple[str, dict[str, Any], str, bool]] = [
    ("ReferenceDice", {}, "probabilities, mask [b, 1, h, w]", True),
    ("BCEDice", {}, "logits, mask [b, 1, h, w]", False),
    ("BCEDice", {"smooth": 1.0, "dice_weight": 2}, "logits, mask [b, 1, h, w]", False),
    ("NegativeDice", {}, "probabilities, mask [b, 1, h, w]", False),
    ("TwoChannelFocal", {}, "probabilities of two channels, (1 - p, p), mask of whole numbers [b, h, w]", False),
    ("IndexCrossEntropy", {}, "logits of two channels, (0, z), mask of whole numbers [b, h, w]", False),
    ("SoftmaxDice", {}, "logits of two channels, (0, z), mask of whole numbers [b, h, w]", True),
    ("SimplexBoundary", {"idc": [1]}, "probabilities of two channels, (1 - p, p), mask [b, 2, h, w]", True),
    (
        "ClassesDice",
        {"n_classes": 2},
        "probabilities of two channels, (1 - p, p), mask of whole numbers [b, h, w]",
        True,
    ),
    ("flat_dice", {}, "probabilities, prediction and mask [b, h, w]", True),
    ("true_first_tversky", {"alpha": 0.2}, "probabilities, mask [b, 1, h, w], the mask first", True),
    ("focal_map", {}, "logits, mask [b, 1, h, w]", False),
    ("sample_dice", {}, "logits, mask [b, 1, h, w]", False),
    ("double_dice", {}, "probabilities, mask [b, 1, h, w]", True),
    ("hinge", {}, "logits, prediction and mask [b, h, w]", False),
    ("by_name", {}, "probabilities, mask [b, 1, h, w]", True),
    ("by_name", {"name": "bce_dice"}, "logits, mask [b, 1, h, w]", False),
    ("Gathering", {}, "logits, mask [b, 1, h, w]", True),
    ("HardestOfTheBatch", {}, "logits, mask [b, 1, h, w]", True),
    ("ready_made", {}, "logits, mask [b, 1, h, w]", False),
]
REFUSED = {
    "score": "rises: .* for the truth; is it a score",
    "background_dice": "the background taken for the lesion",
    "rounded": "no gradient: the prediction is rounded",
    "one_channel_softmax": "0.84.* whatever is predicted: a softmax over one channel",
    "left_torch": "leaves torch on the way",
    "a_number": "gives a float and not a tensor",
    "tuple_of": "gives a tuple and not a tensor",
    "broadcast": "compares every sample with every mask",
    "distance_map": "needs bound besides prediction and mask",
    "Forgetful": r"gives 0\.\d+ and then 0\.\d+ for the same",
    "Counting": "changes its calls with each call",
    "drawn": "draws numbers",
    "Learned": r"weights of its own \(log_variance\)",
    "without_lesion": "not finite for a batch without lesion",
    "unnamed_tversky": "set its option takes to 'probabilities same_shape pred_first' or .*true_first'",
    "Needs": "needs mode; write {part: .*, mode: VALUE}",
    "Averaging": "changes its mean with each call",
    "ForKeras": "is a loss for Keras",
    "number": "is a int, which cannot be called",
}
WARNED = {
    "blind_without_lesion": ("falls to the truth", "learns nothing from it"),
    "naive_cross_entropy": ("falls to the truth", "nan for a perfect prediction"),
    "twice": ("falls to the truth", "applies a sigmoid or softmax to probabilities"),
    "writes": ("leaves its arguments alone", "it is given copies"),
    "detached": ("its gradient", "is detached"),
}


def own(file: Path, name: str, options: Mapping[str, Any] | None = None) -> OwnLoss:
    return tried_loss(Reference(str(file), name), options or {})


def value_of(loss: OwnLoss, logits: torch.Tensor, mask: torch.Tensor) -> float:
    return loss.value(loss.sums(logits, mask)).item()


@pytest.mark.law("L13")
@pytest.mark.parametrize(("name", "options", "called", "couples"), FOUND, ids=lambda value: str(value)[:20])
def test_each_convention_is_found_by_trial(name: str, options: dict[str, Any], called: str, couples: bool) -> None:
    loss = own(RIGHT, name, options)
    assert str(loss.convention) == called
    assert loss.couples == couples
    assert f"losses.py:{name}(" in loss.description
    assert f": {called}; couples " in loss.description
    assert re.search(r"-?\d\.\d\d for the truth$", loss.description)
    assert not loss.remarks


@pytest.mark.law("L13")
@pytest.mark.parametrize("name", dict.fromkeys(name for name, *_ in FOUND))
def test_all_trials_of_a_right_loss_hold(name: str) -> None:
    options = next(options for other, options, *_ in FOUND if other == name)
    description, checks = check_loss(Reference(str(RIGHT), name), options)
    takes_soft = "whole numbers" not in description and "[b, 2, h, w]" not in description
    bad = [check for check in checks if check.verdict != "holds" and ("data.mixup" not in check.name or takes_soft)]
    bad = [check for check in bad if check.name != "speed and memory"]  # as the machine is busy
    assert not bad
    assert len(checks) == 10


@pytest.mark.law("L13")
@pytest.mark.parametrize("name", REFUSED)
def test_a_trap_is_found_before_training_and_by_check(name: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[name]) as caught:
        own(TRAPPED, name)
    assert "\n" not in str(caught.value)
    assert f"losses_trapped.py:{name}" in str(caught.value)
    _, checks = check_loss(Reference(str(TRAPPED), name), {})
    failed = [check for check in checks if check.verdict == "fails"]
    assert re.search(REFUSED[name], failed[0].message)


@pytest.mark.parametrize("name", WARNED)
def test_what_is_odd_and_no_ground_to_refuse_is_a_warning(name: str) -> None:
    part, words = WARNED[name]
    own(TRAPPED, name)
    odd = [check for check in check_loss(Reference(str(TRAPPED), name), {})[1] if check.verdict == "warning"]
    assert any(check.name.startswith(part) and words in check.message for check in odd), odd


def test_an_option_that_changes_nothing_is_refused() -> None:
    assert own(TRAPPED, "Swallows", {"gamma": 3.0}).couples is False
    with pytest.raises(ConfigError, match="its option gama changes nothing"):
        own(TRAPPED, "Swallows", {"gama": 3.0})


def test_an_ambiguous_loss_is_called_as_its_option_says() -> None:
    first = own(TRAPPED, "unnamed_tversky", {"takes": "pred_first"})
    second = own(TRAPPED, "unnamed_tversky", {"takes": "probabilities, true_first", "alpha": 0.3})
    assert value_of(first, random_logits(3), masks()) != value_of(second, random_logits(3), masks())
    with pytest.raises(ConfigError, match=r"takes=logit: logit is unknown \(did you mean logits\?\)"):
        own(TRAPPED, "unnamed_tversky", {"takes": "logit"})
    with pytest.raises(ConfigError, match="does not fall"):
        own(RIGHT, "ReferenceDice", {"takes": "logits"})


def test_a_dice_over_the_wrong_dimensions_gets_the_layout_that_it_means() -> None:
    """Over [b, 1, h, w] it would be a mean over columns."""
    loss = own(TRAPPED, "by_columns")
    assert str(loss.convention) == "logits, prediction and mask [b, h, w]"


def test_values_are_those_of_the_call_by_hand() -> None:
    logits, mask = random_logits(3), masks()
    p = torch.sigmoid(logits)
    both = torch.cat((1 - p, p), dim=1)
    module = load(Reference(str(RIGHT), "ReferenceDice"))()
    by_hand = {
        "ReferenceDice": module(p, mask),
        "BCEDice": load(Reference(str(RIGHT), "BCEDice"))()(logits, mask),
        "TwoChannelFocal": load(Reference(str(RIGHT), "TwoChannelFocal"))()(both, mask[:, 0].long()),
        "flat_dice": load(Reference(str(RIGHT), "flat_dice"))(p[:, 0], mask[:, 0]),
        "focal_map": load(Reference(str(RIGHT), "focal_map"))(logits, mask).mean(),
        "true_first_tversky": load(Reference(str(RIGHT), "true_first_tversky"))(mask, p),
    }
    for name, expected in by_hand.items():
        assert value_of(own(RIGHT, name), logits, mask) == pytest.approx(expected.item(), rel=1e-6)
    assert value_of(own(RIGHT, "ReferenceDice"), logits, mask) == pytest.approx(
        make_loss("dice").value(make_loss("dice").sums(logits, mask)).item(), abs=1e-6
    )


def test_it_is_called_in_full_precision_outside_of_autocast() -> None:
    """And a half-precision network's logits get a gradient in their own."""
    loss = own(RIGHT, "ReferenceDice")
    logits = random_logits(3).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss.value(loss.sums(logits, masks()))
    value.backward()
    exact = value_of(loss, logits.detach().float(), masks())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
    assert logits.grad.any()


def test_a_gradient_is_that_of_finite_differences() -> None:
    for name in ("BCEDice", "ReferenceDice", "TwoChannelFocal"):
        loss = own(RIGHT, name)
        logits, mask = random_logits(2, 4, 5).double().requires_grad_(), masks()[:2, :, 14:18, 70:75].double()
        assert torch.autograd.gradcheck(lambda x: loss.value(loss.sums(x, mask)), logits)  # noqa: B023


def test_validation_calls_it_with_tensors_of_inference_mode() -> None:
    loss = own(RIGHT, "BCEDice")
    with torch.inference_mode():
        logits, mask = random_logits(3), masks()
        inside = value_of(loss, logits, mask)
    assert inside == value_of(loss, logits, mask)
    assert math.isfinite(inside)


def test_a_sum_of_built_in_and_own_losses_has_weights_that_move() -> None:
    logits, mask = random_logits(3), masks()
    path = f"{RIGHT}:focal_map"
    cfg: LossConfig = {"dice": 0.5, path: {"weight": {"start": 0.0, "end": 1.0}, "gamma": 3.0}}
    loss = make_loss(load_config(None, [f"loss={cfg!r}"]).loss)
    dice = make_loss("dice")
    expected = 0.5 * dice.value(dice.sums(logits, mask)).item()
    expected += 0.25 * value_of(own(RIGHT, "focal_map", {"gamma": 3.0}), logits, mask)
    assert loss.value(loss.sums(logits, mask), 0.25).item() == pytest.approx(expected, abs=1e-6)
    assert not loss.couples
    coupled = make_loss({"bce": 1.0, f"{RIGHT}:HardestOfTheBatch": 1.0})
    assert coupled.couples
    assert DeepSupervision(coupled, 0.5).couples
    assert [each.function.reference.name for each in own_losses(DeepSupervision(coupled, 0.5))] == ["HardestOfTheBatch"]


def test_how_it_is_called_is_no_option_of_the_part() -> None:
    cfg = load_config(None, [f"loss={{part: {RIGHT}:ReferenceDice, takes: probabilities}}"])
    assert cfg.loss == {"part": f"{RIGHT}:ReferenceDice", "takes": "probabilities"}
    own_parts(cfg)[0].check()
    with pytest.raises(ConfigError, match="takes"):
        load_config(None, ["loss={part: dice, takes: logits}"])


def test_a_loss_is_alone_while_it_is_called() -> None:
    before = {name: getattr(torch.distributed, name) for name in STAND_INS}
    with pytest.raises(ZeroDivisionError), alone():
        1 / (torch.distributed.get_world_size() - 1)
    assert {name: getattr(torch.distributed, name) for name in STAND_INS} == before


def checks_of(name: str) -> dict[str, Check]:
    return {check.name: check for check in check_loss(Reference(str(RIGHT), name), {})[1]}


def test_what_cannot_take_the_masks_of_mixup_is_known() -> None:
    assert own(RIGHT, "ReferenceDice").takes_soft_masks
    assert not own(RIGHT, "IndexCrossEntropy").takes_soft_masks
    assert checks_of("IndexCrossEntropy")["takes the masks of data.mixup"].verdict == "warning"
