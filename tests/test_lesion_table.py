"""A row for each lesion, with its place in the whole volume; recall by size with people as the unit."""

import math

import numpy as np
import pytest
from lesion_cases import volume

from segtrain.evaluation.lesion_table import PLACE, RESULTS, lesion_table, recall_by_size
from segtrain.evaluation.lesions import match, size_classes

MISSED = ((1, 3), (4, 6), (2, 4))  # 8 voxels
FOUND, ON_FOUND = ((2, 3), (10, 14), (4, 8)), ((2, 3), (10, 14), (6, 10))  # 16 each, 8 in common
FALSE, LARGE_FALSE = ((4, 5), (2, 3), (2, 4)), ((3, 6), (20, 24), (18, 24))  # 2 and 72


def test_a_table_by_hand() -> None:
    predicted, true = volume(FALSE, LARGE_FALSE, ON_FOUND), volume(MISSED, FOUND)
    found, missed, large, small = lesion_table(match(predicted, true, spacing_mm=(5.0, 1.0, 1.0)))
    assert found == {
        "lesion": 1, "result": "found", "voxels": 16, "ml": pytest.approx(0.08),
        "slice": 2.0, "row": 11.5, "column": 5.5, "first_slice": 2, "last_slice": 2,
        "overlap_voxels": 8, "predicted_voxels": 16, "dsc": 0.5,
    }  # fmt: skip
    assert missed == {
        "lesion": 2, "result": "missed", "voxels": 8, "ml": pytest.approx(0.04),
        "slice": 1.5, "row": 4.5, "column": 2.5, "first_slice": 1, "last_slice": 2,
        "overlap_voxels": 0, "predicted_voxels": 0, "dsc": 0.0,
    }  # fmt: skip
    assert large == {
        "lesion": 3, "result": "false", "voxels": 72, "ml": pytest.approx(0.36),
        "slice": 4.0, "row": 21.5, "column": 20.5, "first_slice": 3, "last_slice": 5,
        "overlap_voxels": 0, "predicted_voxels": 72, "dsc": 0.0,
    }  # fmt: skip
    assert (small["lesion"], small["result"], small["voxels"]) == (4, "false", 2)
    assert [small[name] for name in PLACE] == [4.0, 2.0, 2.5, 4, 4]


def test_without_spacing_there_are_no_millilitres() -> None:
    rows = lesion_table(match(volume(FALSE), volume(FOUND)))
    assert all("ml" not in row and row["voxels"] for row in rows)


def test_one_lesion_of_several_parts_has_one_row() -> None:
    """By BraTS's rules: its centroid is that of all parts, and what is too small to count is told."""
    parts = [((1, 2), (4, 11), (0, 4)), ((1, 2), (4, 11), (8, 12))]  # 28 voxels each, 4 apart
    true = volume(*parts, ((5, 6), (20, 21), (20, 22)))
    whole, small = lesion_table(match(volume(((1, 2), (4, 11), (0, 4))), true, "brats2023"))
    assert (whole["result"], whole["voxels"], whole["column"]) == ("found", 56, 5.5)
    assert whole["dsc"] == pytest.approx(2 * 28 / (56 + 28))
    assert (small["result"], small["voxels"]) == ("small", 2)
    assert {row["result"] for row in (whole, small)} < set(RESULTS)


def test_no_lesion_no_row() -> None:
    assert lesion_table(match(volume(), volume())) == []


def test_places_are_those_of_the_whole_volume() -> None:
    """The prediction's lesions are where they are, wherever the truth is: rows tell each voxel apart."""
    rng = np.random.default_rng(0)
    shape = (9, 40, 40)
    places = [(s, h, w) for s in range(2, 9, 2) for h in range(6, 40, 3) for w in range(9, 40, 3)]
    chosen = rng.permutation(len(places))[:100]
    predicted, true = np.zeros((2, *shape), bool)
    for number in chosen:
        (predicted if number % 2 else true)[places[number]] = True
    rows = lesion_table(match(predicted, true))
    assert [row["result"] for row in rows] == ["missed"] * int(true.sum()) + ["false"] * int(predicted.sum())
    for result, where in (("missed", true), ("false", predicted)):
        centres = sorted((row["slice"], row["row"], row["column"]) for row in rows if row["result"] == result)
        assert centres == sorted(map(tuple, np.argwhere(where).tolist()))
    assert all(row["first_slice"] == row["last_slice"] == row["slice"] for row in rows)


def test_recall_by_size_by_hand() -> None:
    people, sizes = ["a", "a", "a", "b", "b", "c"], [5, 9, 10, 3, 200, 12]
    found = [True, False, True, False, True, True]
    under, to_100, to_1000 = recall_by_size(people, sizes, found, size_classes(None))
    assert (under.size, under.lesions, under.people) == ("under_10_voxels", 3, 2)
    assert under.recall == pytest.approx(1 / 3)
    # Two people, found 1 of 2 and 0 of 1: a resample has both, the first twice, or the second twice.
    assert (under.ci_low, under.ci_high) == (0.0, 0.5)
    assert (to_100.lesions, to_100.people, to_100.recall, to_100.ci_low, to_100.ci_high) == (2, 2, 1.0, 1.0, 1.0)
    assert (to_1000.lesions, to_1000.people, to_1000.recall) == (1, 1, 1.0)
    assert math.isnan(to_1000.ci_low)
    assert recall_by_size([], [], [], size_classes(None)) == []
