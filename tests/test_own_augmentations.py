"""Augmentations of the user's own before the first step: the form that is found, and every trap."""

import logging
from pathlib import Path
from typing import Any

import pytest

from segtrain.config import load_config
from segtrain.config.trial import Check
from segtrain.data.augment.trial import Tried, tried
from segtrain.errors import ConfigError

PARTS = Path(__file__).resolve().parent / "parts" / "augment"
PAIRS, TRAPS = PARTS / "pairs.py", PARTS / "traps.py"


def try_part(name: str, **options: Any) -> Tried:
    file = TRAPS if f" {name}" in TRAPS.read_text() and f" {name}" not in PAIRS.read_text() else PAIRS
    return tried({"part": f"{file}:{name}", **options}, 42, 3, 32, short=True)


def failures(trials: Tried) -> dict[str, str]:
    return {check.name: check.message for check in trials.checks if check.verdict == "fails"}


def warnings_of(trials: Tried) -> str:
    return " ".join(check.message for check in trials.checks if check.verdict == "warning")


# ---- forms


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("fog", "(image, mask) numpy HWC; mask not moved, image only changed in value; seeded"),
        ("flip", "(image, mask) numpy HWC; mask moved with the image; seeded"),
        ("flip_tensors", "(image, mask) tensors CHW; mask moved with the image; seeded"),
        ("mask_first", "(mask, image) numpy HWC; mask moved with the image; seeded"),
        ("by_name", "(image=, label=) numpy HWC; mask not moved, image only changed in value; seeded"),
        ("optional", "(image, mask) numpy HWC; mask moved with the image; seeded"),
        ("brighter", "(image) alone numpy HWC; mask not moved, image only changed in value; seeded"),
        ("TupleFlip", "one tuple (image, mask) numpy HWC; mask moved with the image; seeded"),
        ("Labelled", "{image, label} numpy HWC; mask moved with the image; seeded"),
        ("Flow", "(image, mask) tensors CHW; mask moved with the image; seeded"),
        ("make_fog", "(image, mask) numpy HWC; mask not moved, image only changed in value; seeded"),
        ("ready", "one tuple (image, mask) numpy HWC; mask moved with the image; seeded"),
    ],
)
def test_a_form_is_found_and_told(name: str, form: str) -> None:
    trials = try_part(name)
    assert not failures(trials)
    assert trials.description.startswith(f"pairs.py:{name}: {form}; ")
    assert trials.description.endswith(" ms a sample")


def test_pictures_are_found_where_values_are_bytes() -> None:
    assert "one tuple (image, mask) PIL" in try_part("Pictures", range="uint8").description
    assert "set range: uint8" in failures(try_part("Pictures"))["form"]


def test_options_are_the_parts_own_and_seen() -> None:
    assert try_part("fog", density=0.5).description.startswith("pairs.py:fog(density=0.5): ")
    assert try_part("make_fog", density=0.5).description.startswith("pairs.py:make_fog(density=0.5): ")
    assert try_part("TupleFlip", chance=0.1).description.startswith("pairs.py:TupleFlip(chance=0.1): ")
    with pytest.raises(ConfigError, match="is made already, so it has no option chance"):
        try_part("ready", chance=0.1)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (f"{{part: {PAIRS}:fog, densty: 1}}", "pairs.py:fog has no option densty (did you mean density?)"),
        (f"{{part: {PAIRS}:fog, range: zscores}}", "no such range; set it to one of zscore, unit, uint8"),
        (f"{PAIRS}:fogg", "did you mean fog"),
        ("{part: strong, scale: 3}", "this option takes two numbers, [smallest, largest]"),
        ("{part: strong, scal: 3}", "did you mean scale?"),
    ],
)
def test_a_config_names_what_is_wrong_before_anything_is_run(choice: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"data.augment={choice}"])
    assert message in str(caught.value)


# ---- traps


@pytest.mark.parametrize(
    ("name", "check", "message"),
    [
        ("image_only", "form", "the mask does not move with the image"),
        ("draws_twice", "form", "the mask does not move with the image"),
        ("slightly", "form", "the mask does not move with the image"),
        ("clips", "values keep their range", "clips z-scores"),
        ("normalises", "values keep their range", "leave out what normalises"),
        ("needs_bytes", "form", "set range: uint8"),
        ("blurs_mask", "form", "move the mask by nearest voxel"),
        ("crops", "form", "keep the size"),
        ("not_finite", "form", "not finite"),
        ("nothing_back", "form", "gives nothing back"),
        ("to_tensor", "form", "not an image with its mask"),
        ("names_lost", "form", "gives a mapping without 'mask'"),
        ("entropy", "seeded by position", "a generator that the run's seed does not reach"),
        ("Counts", "seeded by position", "keeps state between calls"),
        ("EntropyWhenMade", "made from the seed", "made a second time, it gives another result"),
        ("rarely_fails", "form", "ValueError: empty crop in traps.py, line"),
    ],
)
def test_a_trap_is_found_before_training(name: str, check: str, message: str) -> None:
    trials = try_part(name)
    assert message in failures(trials)[check]
    with pytest.raises(ConfigError) as caught:
        trials.require()
    assert str(caught.value).startswith(f"data.augment=traps.py:{name}: ")
    assert "\n" not in str(caught.value)


def test_the_remedy_for_clipped_values_works() -> None:
    assert "set range: unit" in failures(try_part("clips"))["values keep their range"]
    trials = try_part("clips", range="unit")
    assert trials.require().choice == {"part": f"{TRAPS}:clips", "range": "unit"}
    assert "; seeded; range unit; " in trials.description


def test_what_is_odd_but_lawful_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert "changes nothing in" in warnings_of(try_part("nothing"))
    assert "draws when it is made" in warnings_of(try_part("TupleTurn"))
    with caplog.at_level(logging.WARNING):
        try_part("nothing").require()
    assert "changes nothing in" in caplog.text


def test_a_third_required_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes no sample"):
        try_part("three")


def test_the_whole_check_says_what_it_costs_beside_ours() -> None:
    checks: dict[str, Check] = {check.name: check for check in tried(f"{PAIRS}:fog", 42, 9, 32).checks}
    assert {check.verdict for check in checks.values()} == {"holds"}
    assert {"reference", "strong"} <= set(checks["speed"].message.split())
