"""Losses of MONAI, torch and segmentation_models_pytorch by import path, as their users build them (L13)."""

from typing import Any

import pytest
import torch

from segtrain.config import Reference
from segtrain.config.importing import load
from segtrain.errors import ConfigError
from segtrain.losses.own import OwnLoss
from segtrain.losses.probe import masks, random_logits
from segtrain.losses.trial import check_loss, tried_loss

ONE_HOT = {"softmax": True, "to_onehot_y": True}
SMP = "segmentation_models_pytorch.losses"
BINARY = {"mode": "binary"}
# Called with logits (z) or probabilities (p), of one channel or two; whether it couples samples.
CALLED: list[tuple[str, str, dict[str, Any], str, bool]] = [
    ("monai.losses", "DiceLoss", {}, "p", False),
    ("monai.losses", "DiceLoss", {"sigmoid": True}, "z", False),
    ("monai.losses", "DiceLoss", {"sigmoid": True, "batch": True}, "z", True),
    ("monai.losses", "DiceLoss", ONE_HOT, "2z", False),
    ("monai.losses", "DiceCELoss", {"sigmoid": True}, "z", False),
    ("monai.losses", "DiceCELoss", ONE_HOT, "2z", False),
    ("monai.losses", "DiceFocalLoss", {"sigmoid": True}, "z", False),
    ("monai.losses", "FocalLoss", {"gamma": 3.0}, "z", False),
    ("monai.losses", "TverskyLoss", {}, "p", False),
    ("torch.nn", "BCEWithLogitsLoss", {}, "z", False),
    ("torch.nn", "BCELoss", {}, "p", False),
    ("torch.nn", "CrossEntropyLoss", {}, "2z", False),
    ("torch.nn", "CrossEntropyLoss", {"label_smoothing": 0.1}, "2z", False),
    ("torch.nn", "MSELoss", {}, "p", False),
    (SMP, "DiceLoss", BINARY, "z", True),
    (SMP, "FocalLoss", BINARY, "z", False),
    (SMP, "JaccardLoss", BINARY, "z", True),
    (SMP, "TverskyLoss", BINARY, "z", True),
    (SMP, "LovaszLoss", BINARY, "z", True),
    (SMP, "SoftBCEWithLogitsLoss", {}, "z", False),
    (SMP, "SoftCrossEntropyLoss", {"smooth_factor": 0.1}, "2z", False),
]


def tried(module: str, name: str, options: dict[str, Any]) -> OwnLoss:
    pytest.importorskip(module.partition(".")[0])
    return tried_loss(Reference(module, name), options)


@pytest.mark.law("L13")
@pytest.mark.parametrize(("module", "name", "options", "form", "couples"), CALLED, ids=lambda value: str(value)[:30])
def test_it_is_called_as_it_is_built(module: str, name: str, options: dict[str, Any], form: str, couples: bool) -> None:
    loss = tried(module, name, options)
    assert loss.couples == couples
    logits, mask = random_logits(3, seed=4), masks()
    z = torch.cat((torch.zeros_like(logits), logits), dim=1) if form == "2z" else logits
    prediction = torch.sigmoid(z) if form == "p" else z
    flat = name in ("CrossEntropyLoss", "SoftCrossEntropyLoss")
    truth = mask if form != "2z" else mask[:, 0].long() if flat else mask.long()
    expected = load(Reference(module, name))(**options)(prediction, truth)
    assert loss.value(loss.sums(logits, mask)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(check.verdict != "fails" for check in check_loss(Reference(module, name), options)[1])


def test_what_they_leave_to_their_user_is_asked_for_or_warned_of() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(ConfigError, match=r"needs mode; write {part: .*:DiceLoss, mode: VALUE}"):
        tried(SMP, "DiceLoss", {})
    assert "learns nothing from it" in tried(SMP, "DiceLoss", BINARY).remarks[0]


def test_a_dice_on_probabilities_with_a_cross_entropy_on_logits_is_warned_of() -> None:
    """MONAI's DiceCE without sigmoid=True."""
    assert "sigmoid" in tried("monai.losses", "DiceCELoss", {}).remarks[0]
