"""docs/metrics.md names every column of scores, and every rule."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segtrain.evaluation.calibration import BINS, ECE, MARGIN_VOXELS
from segtrain.evaluation.lesion_table import RESULTS, lesion_table
from segtrain.evaluation.lesions import RULES, lesion_scores, match
from segtrain.evaluation.region_scores import DSC_CEILING, metrics
from segtrain.evaluation.surface import surface_scores
from segtrain.evaluation.uncertainty import Uncertainty, numbers_of
from segtrain.evaluation.volumes import volume_scores

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "metrics.md").read_text()
NOTHING = Uncertainty(np.zeros((1, 2, 3, 3), np.float32), None, [None])


@pytest.mark.parametrize("spacing_mm", [None, (5.0, 1.0, 1.0)])
def test_the_page_names_every_column(spacing_mm: Any) -> None:
    some = np.ones((2, 3, 3), bool)
    matching = match(some, some, spacing_mm=spacing_mm)
    columns = {*metrics(spacing_mm), *surface_scores(some, some, spacing_mm), *lesion_scores(matching)}
    columns |= set(lesion_scores(match(some, some, "brats2023", spacing_mm)))
    columns |= {ECE, f"original_{DSC_CEILING}", *numbers_of(NOTHING, some[None], 0)}
    columns |= {*volume_scores(some, some, spacing_mm), *lesion_table(matching)[0]}
    assert {name for name in columns if f"`{name}`" not in PAGE} == set()


def test_the_page_names_every_rule() -> None:
    for name, rule in RULES.items():
        assert f"| `{name}`" in PAGE
        assert not rule.steps or f"grown by {rule.steps} step" in PAGE
        assert not rule.small_mm3 or f"up to {rule.small_mm3:g} mm³" in PAGE
    assert all(f"`{result}`" in PAGE for result in RESULTS)


def test_the_page_names_the_bins_and_the_box_of_calibration() -> None:
    slices, rows, columns = MARGIN_VOXELS
    assert f"over {BINS} equal bins" in PAGE
    assert rows == columns
    assert f"grown by {slices} slice and {rows} rows and columns" in PAGE
