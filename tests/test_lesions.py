"""Lesions matched and scored: ten cases by hand, naive loops, medpy's objects, BraTS's rules as written."""

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesion_cases import components, naive_scores, volume
from medpy.metric.binary import dc, obj_fpr, obj_tpr
from monai.metrics.utils import create_table_neighbour_code_to_surface_area

from segtrain.evaluation.lesion_table import lesion_table
from segtrain.evaluation.lesions import DEFAULT_RULE, RULES, lesion_scores, match, names, size_classes
from segtrain.evaluation.surfels import areas_of_codes

NAMES = (
    "lesions",
    "lesions_found",
    "lesions_predicted",
    "lesions_false",
    "lesion_recall",
    "lesion_precision",
    "lesion_f1",
    "lesion_dsc",
)
# Boxes of 2 x 2 x 2 = 8 voxels, but for the bars of 2 x 2 x 8 = 32 that cover A and B, and a flat one of 4 x 4.
A, B, FAR = ((1, 3), (4, 6), (2, 4)), ((1, 3), (4, 6), (8, 10)), ((3, 5), (15, 17), (18, 20))
BAR = ((1, 3), (4, 6), (2, 10))
FLAT, FLAT_MOVED = ((2, 3), (4, 8), (4, 8)), ((2, 3), (4, 8), (6, 10))
CORNERS = [((1, 2), (5, 6), (5, 6)), ((2, 3), (6, 7), (6, 7))]
BESIDE_A = ((1, 3), (4, 6), (4, 6))

CASES: dict[str, tuple[list[Any], list[Any], tuple[Any, ...]]] = {
    # predicted, true: lesions, found, predicted, false, recall, precision, F1, lesion-wise Dice
    "equal": ([A], [A], (1, 1, 1, 0, 1, 1, 1, 1)),
    "missed": ([], [A], (1, 0, 0, 0, 0, None, 0, 0)),
    "false, in a patient without lesion": ([A], [], (0, 0, 1, 1, None, 0, 0, 0)),
    "nothing on either side": ([], [], (0, 0, 0, 0, None, None, 1, 1)),
    # 8 of 16 voxels are common: 2 x 8 / (16 + 16).
    "half": ([FLAT_MOVED], [FLAT], (1, 1, 1, 0, 1, 1, 1, 1 / 2)),
    # Each of the two: 2 x 8 / (8 + 32); their mean.
    "one prediction over two lesions": ([BAR], [A, B], (2, 2, 1, 0, 1, 1, 1, 2 / 5)),
    # Both predictions match: 2 x 16 / (32 + 16).
    "two predictions in one lesion": ([A, B], [BAR], (1, 1, 2, 0, 1, 1, 1, 2 / 3)),
    # Dice 1 and 0 of the true ones, and a false one: 1 / 3.
    "found, missed and false": ([A, FAR], [A, B], (2, 1, 2, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 3)),
    # Through the corner it is one lesion of two voxels: 2 x 1 / (2 + 1).
    "joined by a corner": ([CORNERS[0]], CORNERS, (1, 1, 1, 0, 1, 1, 1, 2 / 3)),
    "beside it is not on it": ([BESIDE_A], [A], (1, 0, 1, 1, 0, 0, 0, 0)),
}


def about(value: float | None) -> Any:
    return None if value is None else pytest.approx(value, rel=1e-12)


@pytest.mark.law("L10")
@pytest.mark.parametrize("case", CASES)
def test_ten_cases_by_hand(case: str) -> None:
    predicted, true, expected = CASES[case]
    scores = lesion_scores(match(volume(*predicted), volume(*true)))
    assert [scores[name] for name in NAMES] == [about(value) for value in expected]
    assert scores["false_lesion_voxels"] == 8 * expected[3], "each false one is a box"


def row_of(*widths: tuple[int, int], height: int = 1) -> Any:
    """Boxes in one row of a long volume, from column to column."""
    return volume(*[((3, 4), (5, 5 + height), columns) for columns in widths], shape=(8, 20, 60))


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)])
def test_brats_joins_what_is_one_lesion_when_it_grows(gap: int, lesions: int) -> None:
    """Three steps from either side meet across six voxels, not across seven."""
    true = row_of((5, 15), (15 + gap, 25 + gap), height=6)  # 60 voxels each
    assert lesion_scores(match(row_of(), true, "brats2023"))["lesions"] == lesions
    assert lesion_scores(match(row_of(), true))["lesions"] == 2


@pytest.mark.parametrize(("distance", "found"), [(3, 1), (4, 0)])
def test_brats_finds_what_is_three_steps_away(distance: int, found: int) -> None:
    """It is found, with Dice 0."""
    true = row_of((5, 15), height=6)
    scores = lesion_scores(match(row_of((14 + distance, 20 + distance)), true, "brats2023"))
    assert (scores["lesions_found"], scores["lesions_false"], scores["lesion_dsc"]) == (found, 1 - found, 0)


@pytest.mark.parametrize(("place", "found"), [((6, 9, 8), 1), ((6, 9, 9), 0)])
def test_brats_grows_through_faces_and_edges_not_corners(place: tuple[int, int, int], found: int) -> None:
    true = volume(((3, 6), (5, 9), (5, 9)), shape=(8, 20, 20))  # its last voxel is (5, 8, 8)
    predicted = np.zeros_like(true)
    predicted[place] = True
    assert lesion_scores(match(predicted, true, "brats2023_metastases"))["lesions_found"] == found


@pytest.mark.parametrize(
    ("rule", "width", "spacing_mm", "counts"),
    [
        ("brats2023", 50, None, False),
        ("brats2023", 51, None, True),
        ("brats2023", 25, (2.0, 1.0, 1.0), False),
        ("brats2023", 26, (2.0, 1.0, 1.0), True),
        ("brats2023_meningioma", 50, (1.0, 1.0, 1.0), False),
        ("brats2023_metastases", 2, (1.0, 1.0, 1.0), False),
        ("brats2023_metastases", 3, (1.0, 1.0, 1.0), True),
        ("overlap", 1, (0.5, 0.5, 0.5), True),
    ],
)
def test_brats_leaves_small_lesions_out(rule: str, width: int, spacing_mm: Any, counts: bool) -> None:
    """Missed or found, a small one is in no number; what is predicted there is not false."""
    true = row_of((4, 4 + width))
    missed = lesion_scores(match(row_of(), true, rule, spacing_mm))
    assert (missed["lesions"], missed["lesion_dsc"]) == ((1, 0.0) if counts else (0, 1.0))
    scores = lesion_scores(match(row_of((4, 6)), true, rule, spacing_mm))
    assert [scores[name] for name in NAMES[:4]] == ([1, 1, 1, 0] if counts else [0, 0, 0, 0])
    assert scores["lesion_f1"] == 1


def test_brats_has_no_mercy_on_false_specks() -> None:
    """The limit is for true lesions alone: one false voxel halves the score."""
    true = row_of((5, 15), height=6)
    far = row_of((50, 51))
    assert lesion_scores(match(true | far, true, "brats2023"))["lesion_dsc"] == 1 / 2


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    predicted=st.floats(0, 0.3),
    true=st.floats(0, 0.2),
    rule=st.sampled_from(sorted(RULES)),
    spacing_mm=st.sampled_from([None, (5.0, 1.0, 1.0), (0.7, 0.7, 0.7)]),
)
def test_any_volumes_score_as_naive_loops_say(
    seed: int, predicted: float, true: float, rule: str, spacing_mm: Any
) -> None:
    rng = np.random.default_rng(seed)
    volumes = rng.random((4, 11, 13)) < predicted, rng.random((4, 11, 13)) < true
    scores = lesion_scores(match(*volumes, rule, spacing_mm))
    chosen = RULES[rule]
    naive = naive_scores(*volumes, chosen.steps, chosen.small_mm3, spacing_mm or (1.0, 1.0, 1.0))
    low, high = naive.pop("hd95")
    assert {name: scores[name] for name in NAMES} == {name: about(value) for name, value in naive.items()}
    assert tuple(scores) == names(spacing_mm, rule)
    if rule != "overlap":
        hd95 = scores["lesion_hd95_mm" if spacing_mm else "lesion_hd95_px"]
        assert hd95 is not None
        assert low - 1e-6 <= hd95 <= high + 1e-6


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.9, 0.9), (3.0, 0.45, 0.9)])
def test_every_pattern_of_eight_voxels_has_the_area_that_monai_has(spacing_mm: Any) -> None:
    """Of DeepMind's table, too; ours has a row for those that are no rotation or reflection of another."""
    theirs, _ = create_table_neighbour_code_to_surface_area(spacing_mm)  # type: ignore[no-untyped-call]
    assert areas_of_codes(spacing_mm) == pytest.approx(theirs.numpy(), rel=1e-6)


@pytest.mark.parametrize(
    ("predicted", "true", "spacing_mm", "hd95"),
    [
        ([], [], None, 0.0),
        ([A], [], None, 374.0),
        ([], [A], (5.0, 1.0, 1.0), 374.0),
        ([FLAT], [FLAT], None, 0.0),
        # Moved by two columns: the edge beyond, a third of the surface, is two columns away.
        ([FLAT_MOVED], [FLAT], None, 2.0),
        ([FLAT_MOVED], [FLAT], (5.0, 1.0, 0.5), 1.0),
        # Found exactly, and a false one far away; a missed one as well.
        ([FLAT, FAR], [FLAT], None, 374 / 2),
        ([FLAT, FAR], [FLAT, ((1, 3), (4, 8), (18, 22))], None, 2 * 374 / 3),
    ],
)
def test_brats_lesion_wise_hd95_by_hand(predicted: Any, true: Any, spacing_mm: Any, hd95: float) -> None:
    scores = lesion_scores(match(volume(*predicted), volume(*true), "brats2023_metastases", spacing_mm))
    assert scores["lesion_hd95_mm" if spacing_mm else "lesion_hd95_px"] == pytest.approx(hd95)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_thousand_lesions_are_scored_in_a_moment(rule: str) -> None:
    """Each found by a prediction of its own: nothing costs a look at the whole volume per lesion."""
    true = np.zeros((48, 192, 192), bool)
    for place in itertools.product(range(4), repeat=3):
        true[tuple(slice(4 + first, None, 12) for first in place)] = True
    started = time.process_time()
    matching = match(np.roll(true, 1, 2), true, rule)
    scores = lesion_scores(matching)
    rows = lesion_table(matching)
    assert time.process_time() - started < 10, "a loop over whole volumes takes minutes"
    assert scores["lesions"] == scores["lesions_found"] == len(rows) == 1024
    assert rule == "overlap" or scores["lesion_hd95_px"] == 1.0


def lesions_in_cells(seed: int) -> tuple[Any, Any]:
    """Cells of 3 x 3 x 3, kept apart, each with a true lesion, a predicted one, both (with a common voxel), or none."""
    rng = np.random.default_rng(seed)
    predicted, true = np.zeros((2, 10, 20, 20), bool)
    for s in range(1, 10, 5):
        for h in range(1, 20, 5):
            for w in range(1, 20, 5):
                for volume_shw in (predicted, true):
                    if rng.random() < 0.6:
                        volume_shw[s : s + 3, h : h + 3, w : w + 3] = rng.random((3, 3, 3)) < 0.4
                        volume_shw[s + 1, h + 1, w + 1] = True
    predicted[1:4, 1:4, 1:4] = true[1:4, 1:4, 1:4] = True  # medpy wants an object in each
    return predicted, true


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_where_lesions_match_one_to_one_medpy_says_the_same(seed: int) -> None:
    """medpy 0.5.2 divides by the objects of its first argument, so truth comes first, against its names."""
    predicted, true = lesions_in_cells(seed)
    scores = lesion_scores(match(predicted, true))
    assert scores["lesion_recall"] == pytest.approx(obj_tpr(true, predicted, connectivity=3))
    assert scores["lesion_precision"] == pytest.approx(1 - obj_fpr(true, predicted, connectivity=3))
    # A cell is all that a lesion can match.
    cells = [grown(lesion) for lesion in components(true)]
    dice = sum(dc(predicted & cell, true & cell) for cell in cells)
    false = scores["lesions_false"]
    assert false is not None
    assert scores["lesion_dsc"] == pytest.approx(dice / (len(cells) + false))


def grown(lesion: Any) -> Any:
    """The cell of a lesion."""
    first = [(int(places.min()) - 1) // 5 * 5 + 1 for places in np.nonzero(lesion)]
    cell = np.zeros_like(lesion)
    cell[tuple(slice(start, start + 3) for start in first)] = True
    return cell


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0.05, 0.3))
def test_where_one_covers_several_medpy_finds_fewer(seed: int, density: float) -> None:
    """medpy gives each lesion one partner at most; by our rule, one prediction may find two lesions."""
    rng = np.random.default_rng(seed)
    predicted, true = rng.random((2, 5, 9, 9)) < density
    predicted[0, 0, 0] = true[0, 0, 0] = True
    scores = lesion_scores(match(predicted, true))
    assert scores["lesion_recall"] is not None
    assert scores["lesion_precision"] is not None
    assert scores["lesion_recall"] >= obj_tpr(true, predicted, connectivity=3)
    assert scores["lesion_precision"] >= 1 - obj_fpr(true, predicted, connectivity=3) - 1e-12


def test_recall_by_size_by_hand() -> None:
    """Lesions of 4, 8 and 16 voxels, of which those of 8 and 16 are found."""
    small = ((1, 2), (10, 12), (10, 12))
    true, predicted = volume(A, FLAT_MOVED, small), volume(A, FLAT)
    voxels = lesion_scores(match(predicted, true))
    assert [voxels[f"lesion_recall_{name}"] for name in size_classes(None)] == [1 / 2, 1.0, None, None]
    assert list(size_classes(None)) == [
        "under_10_voxels", "10_to_100_voxels", "100_to_1000_voxels", "from_1000_voxels",
    ]  # fmt: skip
    spacing_mm = (10.0, 5.0, 2.5)  # a voxel has 0.125 ml: the lesions have 0.5, 1 and 2 ml
    ml = lesion_scores(match(predicted, true, spacing_mm=spacing_mm))
    assert list(size_classes(spacing_mm)) == ["under_0.1_ml", "0.1_to_1_ml", "1_to_10_ml", "from_10_ml"]
    assert [ml[f"lesion_recall_{name}"] for name in size_classes(spacing_mm)] == [None, 0.0, 1.0, None]


def test_false_lesions_in_millilitres() -> None:
    scores = lesion_scores(match(volume(A, FAR), volume(A), spacing_mm=(5.0, 1.0, 1.0)))
    assert scores["false_lesion_ml"] == pytest.approx(8 * 5 / 1000)
    assert "false_lesion_voxels" not in scores


def test_every_rule_names_its_source() -> None:
    assert DEFAULT_RULE in RULES
    for name, rule in RULES.items():
        assert rule.about, name
        assert rule.source, name
