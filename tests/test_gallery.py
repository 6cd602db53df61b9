"""docs/augmentation.md says what the code does, and `segtrain augmentations` draws it."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from region_stores import store_of_regions

from segtrain.config import Config, DataConfig
from segtrain.data.augment import strong
from segtrain.data.augment.mix import MIXUP_ALPHA
from segtrain.data.augment.strong import EFFECTS
from segtrain.data.store import Store
from segtrain.evaluation.gallery import row, write_gallery

DOCS = Path(__file__).resolve().parent.parent / "docs"
PARTS = Path(__file__).resolve().parent / "parts" / "augment"
PAGE = (DOCS / "augmentation.md").read_text()


def test_the_page_lists_every_effect_with_its_chance_and_range() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| \w+ \| \d+% \|", line)]
    assert rows == [row(name) for name in EFFECTS]


def test_the_table_is_made_of_the_constants() -> None:
    low, high = strong.DEFAULTS["scale"]
    assert EFFECTS["scale"].range_text.startswith(f"{low} to {high}")
    assert f"Beta({MIXUP_ALPHA}, {MIXUP_ALPHA})" in PAGE
    assert all(effect.chance == strong.DEFAULTS[f"{name}_chance"] for name, effect in EFFECTS.items())


def test_the_pictures_of_the_page_are_there_and_small() -> None:
    shown = set(re.findall(r"\(augmentation/(\w+\.png)\)", PAGE))
    there = {path.name: path.stat().st_size for path in (DOCS / "augmentation").iterdir()}
    assert shown == set(there)
    assert sum(there.values()) < 1_500_000


@pytest.fixture(scope="module")
def drawn(tiny: Config, tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gallery") / "pictures"
    phantom = f"data.phantom={{patients: {tiny.data.phantom.patients}, size_px: {tiny.data.phantom.size_px}}}"
    settings = [f"data.store={tiny.data.store}", f"data.image_size={tiny.data.image_size}", phantom]
    own = f"data.augment={{part: {PARTS / 'pairs.py'}:flip_tensors}}"
    command = [sys.executable, "-m", "segtrain", "augmentations", *settings, own, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_is_seen_on_its_picture(drawn: Path, name: str) -> None:
    """Before and after differ, in both pairs."""
    picture = np.asarray(Image.open(drawn / f"{name}.png").convert("L")).astype(float)[18:]
    side = picture.shape[0]
    assert picture.shape[1] == 4 * side
    before, after = picture[:, :side], picture[:, side : 2 * side]
    assert np.abs(before - after).mean() > 0.2
    assert np.abs(picture[:, 2 * side : 3 * side] - picture[:, 3 * side :]).mean() > 0.2


def test_copy_paste_mixup_full_samples_and_an_own_augmentation_are_drawn_too(drawn: Path) -> None:
    assert {path.stem for path in drawn.iterdir()} == {*EFFECTS, "copy_paste", "mixup", "strong", "flip_tensors"}


@pytest.mark.parametrize("missing", [None, "zeros"])
def test_data_of_other_contrasts_and_regions_are_drawn(tiny_store: Store, tmp_path: Path, missing: str | None) -> None:
    """Without a rule for missing contrasts no patient lacks one, so there is nothing to show of it."""
    (tmp_path / "store").mkdir()
    store = replace(store_of_regions(tiny_store, tmp_path / "store"), contrasts=("dwi", "adc", "t2"))
    write_gallery(store, DataConfig(missing=missing), 0, tmp_path / "pictures")
    drawn = {path.stem for path in (tmp_path / "pictures").iterdir()}
    expected = {*EFFECTS, "copy_paste", "mixup", "strong"}
    assert drawn == (expected if missing else expected - {"missing_contrast"})


@pytest.mark.law("L12")
def test_the_command_asks_for_a_folder() -> None:
    command = [sys.executable, "-m", "segtrain", "augmentations"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert found.returncode == 2
    assert "--out" in found.stderr
