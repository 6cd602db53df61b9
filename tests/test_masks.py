"""Masks: black and white in any mode, or labels that the config names; all else is refused with the values found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segtrain.config import load_config, merge
from segtrain.data.sources.labels import LabelRules
from segtrain.data.sources.pixels import read_mask
from segtrain.errors import ConfigError, DataError

MASK_HW = np.random.default_rng(0).integers(0, 2, (5, 7), np.uint8)


def test_masks_in_black_and_white_are_read_from_any_mode(tmp_path: Path) -> None:
    shown = Image.fromarray(MASK_HW * np.uint8(255))
    inverted = Image.fromarray(1 - MASK_HW).convert("P")
    inverted.putpalette([255, 255, 255, 0, 0, 0])
    images = {
        "grey": shown,
        "bits": shown.convert("1"),
        "palette": shown.convert("RGB").quantize(2),
        "inverted": inverted,
    }
    for name, image in images.items():
        for suffix in (".tif", ".png"):
            image.save(tmp_path / f"{name}{suffix}")
            np.testing.assert_array_equal(
                read_mask(tmp_path / f"{name}{suffix}", LabelRules()).bits, MASK_HW, err_msg=f"{name}{suffix}"
            )


def test_masks_are_read_whichever_way_white_is_stored(tmp_path: Path) -> None:
    for bits, white in ((8, 255), (16, 65535), (16, 255), (16, 1)):
        Image.fromarray(MASK_HW.astype(f"uint{bits}") * white).save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png", LabelRules()).bits, MASK_HW)
    for dtype in (bool, np.uint8):  # white is 0: Pillow inverts what it reads
        tifffile.imwrite(tmp_path / "m.tif", (1 - MASK_HW).astype(dtype) * dtype(255), photometric="miniswhite")
        np.testing.assert_array_equal(read_mask(tmp_path / "m.tif", LabelRules()).bits, MASK_HW)


@pytest.mark.law("L12")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("labels", [(1,), (2, 4), (1, 2, 4), (200,)])
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mask_of_labels_is_read_by_the_labels_that_are_named(
    tmp_path: Path, dtype: type, labels: tuple[int, ...], seed: int
) -> None:
    """Any label that is not named is refused."""
    values: np.ndarray = np.random.default_rng(seed).choice([0, 1, 2, 4, 200], (3, 3)).astype(dtype)
    Image.fromarray(values).save(tmp_path / "m.png")
    if set(values.ravel().tolist()) <= {0, *labels}:
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png", LabelRules({"lesion": labels})).bits, values > 0)
    else:
        with pytest.raises(DataError, match=r"m.png: mask has values .* but data.regions names"):
            read_mask(tmp_path / "m.png", LabelRules({"lesion": labels}))


@pytest.mark.law("L12")
def test_a_mask_of_labels_is_refused_with_its_values(tmp_path: Path) -> None:
    Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="values 0, 1, 2, 3, 4, 5 and 3 more, but only 0 and 255"):
        read_mask(tmp_path / "m.png", LabelRules())


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("regions", "words"),
    [
        ("{a: [1], b: [2], c: [3], d: [4], e: [5], f: [6], g: [7], h: [8]}", "has 8 regions"),
        ("{}", "has 0 regions"),
        ("{lesion: []}", "at least 1"),
        ("{lesion: [0]}", "greater than or equal to 1"),
        ("[1, 2]", "data.regions"),
    ],
)
def test_regions_that_cannot_be_trained_are_refused_in_one_line(regions: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(None, ["data.source=lgg", "data.root=/data", f"data.regions={regions}"])
    assert "\n" not in str(caught.value)


def test_the_labels_of_the_lesion_are_those_of_its_region() -> None:
    cfg = load_config(None, ["data.source=lgg", "data.root=/data", "data.regions={lesion: [1, 2, 4]}"])
    assert cfg.data.regions == {"lesion": (1, 2, 4)}
    assert load_config(None, ["data.source=lgg", "data.root=/data"]).data.regions is None
    tree: dict[str, Any] = {"data": {"regions": None}}
    merge(tree, {"data": {"regions": {"lesion": [2]}}}, "a spec")
    assert tree == {"data": {"regions": {"lesion": [2]}}}
    with pytest.raises(ConfigError, match=r"masks of data\.source=phantom have no labels"):
        load_config(None, ["data.regions={lesion: [1]}"])
