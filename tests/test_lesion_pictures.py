"""Missed, false and found lesions in pictures: each colour is where that lesion is, the worst come first."""

import time

import numpy as np
import pytest
from lesion_cases import components, volume
from numpy.typing import NDArray

from segtrain.evaluation.lesion_marks import picture_of
from segtrain.evaluation.lesion_places import (
    MOST_NAMED,
    RegionLesions,
    caption,
    lesions_of_regions,
    rank_of,
    region_lesions,
    worst_of,
)
from segtrain.evaluation.lesion_table import lesion_table
from segtrain.evaluation.lesions import RULES, match
from segtrain.evaluation.overlays import (
    FALSE,
    GREEN,
    MISSED,
    RED,
    REGION_COLOURS,
    YELLOW,
    drawn,
    enlarge,
    legend_of,
    outline,
    sheet,
)
from segtrain.evaluation.worst import MOST_PATIENTS, WorstLesion, WorstPatients, worst_first

SHAPE = (6, 64, 64)
Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def case() -> tuple[Mask, Mask]:
    """A prediction and its truth: one lesion found, two missed, two false, of several sizes."""
    true = volume(((1, 4), (8, 20), (8, 20)), ((1, 3), (40, 46), (30, 36)), ((2, 3), (30, 31), (50, 52)), shape=SHAPE)
    predicted = volume(
        ((1, 4), (10, 22), (9, 21)), ((2, 5), (50, 58), (5, 13)), ((3, 4), (55, 56), (60, 61)), shape=SHAPE
    )
    return predicted, true


def naive_result(predicted: Mask, true: Mask) -> tuple[Mask, Mask]:
    """The missed and the false voxels, one lesion after the other."""
    missed, false = np.zeros_like(true), np.zeros_like(true)
    for lesion in components(true):
        missed |= lesion if not (lesion & predicted).any() else False
    for lesion in components(predicted):
        false |= lesion if not (lesion & true).any() else False
    return missed, false


def at(picture: Picture, colour: tuple[int, int, int]) -> Mask:
    return np.asarray((picture == colour).all(axis=-1))


def test_each_colour_is_where_that_lesion_is() -> None:
    predicted, true = case()
    lesions = lesions_of_regions(predicted[None], true[None], ("lesion",))
    missed, false = naive_result(predicted, true)
    plane = np.zeros(SHAPE[1:])
    for place in range(SHAPE[0]):
        before = drawn(plane, predicted[None, place], true[None, place])
        picture = picture_of(plane, predicted[None, place], true[None, place], lesions, place)
        factor = picture.shape[0] // SHAPE[1]
        for colour, result in ((MISSED, missed), (FALSE, false)):
            painted = at(picture, colour)
            painted[-18:] = False  # the key
            large = enlarge(result[place], factor).astype(bool)
            assert not (painted & ~large).any(), "an outline leaves its lesion"
            for lesion in components(result[place : place + 1]):
                assert painted[enlarge(lesion[0], factor).astype(bool)].any(), "a lesion without its colour"
        wrong = enlarge(missed[place] | false[place], factor).astype(bool)
        for colour in (RED, GREEN, YELLOW):
            assert not (at(picture, colour) & wrong).any(), "a wrong lesion that looks like a found one"
        if not wrong.any():
            np.testing.assert_array_equal(picture, before)


def test_missed_and_false_differ_in_grey_too() -> None:
    """A missed lesion's outline has black gaps, a false one's has none, and both are thicker than a found one's."""
    predicted, true = case()
    lesions = lesions_of_regions(predicted[None], true[None], ("lesion",))
    place, plane = 2, np.full(SHAPE[1:], 7.0)
    picture = picture_of(plane, predicted[None, place], true[None, place], lesions, place).astype(int)
    missed, false = (enlarge(each[place], 4).astype(bool) for each in naive_result(predicted, true))
    assert (at(picture, MISSED) & missed).sum() > 50
    black = at(picture, (0, 0, 0))
    inner = picture_of(plane, predicted[None, place], true[None, place], lesions, place)
    assert inner[missed].min() == 0
    assert 0.3 < (black & missed & outline(missed)).sum() / (missed & outline(missed)).sum() < 0.7
    ring = false & outline(false)
    assert at(picture, FALSE)[ring].mean() > 0.9
    assert at(picture, FALSE).sum() > 1.5 * ring.sum()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_numbers_counts_and_slices_are_those_of_the_table(rule: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    predicted, true = (generator.random((7, 30, 30)) > limit for limit in (0.985, 0.98))
    true[2:4, 4:9, 4:9] = predicted[3, 20:26, 20:26] = True
    matching = match(predicted, true, rule, (1.0, 2.0, 3.0))
    table = lesion_table(matching)
    one = region_lesions(matching, true.shape)
    results = [row["result"] for row in table]
    assert (one.found, one.false) == (results.count("found"), results.count("false"))
    assert one.lesions == results.count("found") + results.count("missed")
    wrong = [row for row in table if row["result"] in ("missed", "false")]
    assert [(lesion.number, lesion.result, lesion.voxels) for lesion in one.wrong] == [
        (row["lesion"], row["result"], row["voxels"]) for row in wrong[:MOST_NAMED]
    ]
    for row, lesion in zip(wrong, one.wrong, strict=False):
        assert row["first_slice"] <= lesion.place <= row["last_slice"]
    by_slice = {place: [row for row in wrong if row["first_slice"] <= place <= row["last_slice"]] for place in range(7)}
    if rule == "overlap":  # by other rules a lesion may leave a slice out
        for place, rows in by_slice.items():
            assert [spot.name[1:] for spot in one.at(place).spots] == [str(row["lesion"]) for row in rows[:MOST_NAMED]]
            assert one.at(place).more == max(0, len(rows) - MOST_NAMED)
    assert one.missed_shw.sum() == sum(row["voxels"] for row in wrong if row["result"] == "missed")
    assert one.false_shw.sum() == sum(row["voxels"] for row in wrong if row["result"] == "false")


def test_captions_and_the_worst_lesion() -> None:
    predicted, true = case()
    nothing = np.zeros(SHAPE, bool)

    def of(predicted: Mask, true: Mask) -> list[RegionLesions]:
        return lesions_of_regions(predicted[None], true[None], ("lesion",))

    whole = of(predicted, true)
    assert caption(whole) == "1 of 3 lesions found, 2 false"
    worst = worst_of(whole)
    assert worst
    assert (worst.name, worst.result, worst.voxels, worst.place) == ("M2", "missed", 72, 1)
    found_alone = true & (np.arange(64) < 25)[:, None]
    no_missed = of(predicted, found_alone)
    worst = worst_of(no_missed)
    assert worst
    assert (worst.result, worst.voxels, worst.place) == ("false", 192, 2), "else the largest false one"
    perfect = of(found_alone, found_alone)
    worst = worst_of(perfect)
    assert worst
    assert (worst.result, worst.dsc, caption(perfect)) == ("found", 1.0, "1 of 1 lesion found, 0 false")
    assert worst_of(of(nothing, nothing)) is None
    assert caption(of(nothing, nothing)) == "no lesion, 0 false"
    assert caption(of(predicted, nothing)) == "no lesion, 3 false"
    ranks = [rank_of(each) for each in (whole, no_missed, perfect, of(nothing, nothing))]
    assert ranks == sorted(ranks)
    assert rank_of(whole) < rank_of(of(predicted, true & ~volume(((1, 3), (40, 46), (30, 36)), shape=SHAPE)))


def test_volumes_of_different_spacing_are_compared_in_ml() -> None:
    _, true = case()
    nothing = np.zeros_like(true)
    coarse, fine = (
        lesions_of_regions(nothing[None], true[None], ("lesion",), spacing) for spacing in ((9, 1, 1), (1, 1, 1))
    )
    assert rank_of(coarse) < rank_of(fine)
    worst = worst_of(coarse)
    assert worst
    assert worst.size == "3.89 ml"
    assert worst.words == "missed lesion M1, 3.89 ml"


def test_several_regions_keep_their_colours_and_have_their_own_marks() -> None:
    predicted, true = case()
    empty = np.zeros_like(true)
    regions = ("whole", "core")
    lesions = lesions_of_regions(np.stack([predicted, empty]), np.stack([true, true]), regions)
    assert caption(lesions) == "whole: 1 of 3 lesions found, 2 false; core: 0 of 3 lesions found, 0 false"
    worst = worst_of(lesions)
    assert worst
    assert (worst.region, worst.name, worst.voxels) == ("core", "M1", 432)
    place = 2
    picture = picture_of(
        np.zeros(SHAPE[1:]), np.stack([predicted, empty])[:, place], np.stack([true, true])[:, place], lesions, place
    )
    left, right = np.split(picture, 2, axis=1)
    missed, false = (enlarge(each[place], 4).astype(bool) for each in naive_result(predicted, true))
    assert at(left, REGION_COLOURS[0])[false].any()
    assert not at(left, REGION_COLOURS[1]).any(), "core predicts nothing"
    assert at(right, REGION_COLOURS[1])[missed].any()


def test_a_patient_without_lesion_and_one_without_truth_can_be_drawn() -> None:
    nothing = np.zeros((1, *SHAPE), bool)
    lesions = lesions_of_regions(nothing, nothing, ("lesion",))
    plane = np.random.default_rng(0).normal(size=SHAPE[1:])
    np.testing.assert_array_equal(
        picture_of(plane, nothing[:, 0], nothing[:, 0], lesions, 0), drawn(plane, nothing[:, 0], nothing[:, 0])
    )
    np.testing.assert_array_equal(
        picture_of(plane, nothing[:, 0], None, [], 0), drawn(plane, nothing[:, 0], None), "no truth, no marks"
    )
    one = WorstLesion.of("p", 1.0, lesions)
    assert (one.place, one.title) == (3, "p  DSC 1.000\nno lesion, 0 false\n")


def test_thousands_of_specks_stay_readable_and_fast() -> None:
    specks = np.zeros((9, 256, 256), bool)
    specks[::2, ::8, ::8] = True
    nothing = np.zeros_like(specks)
    start = time.process_time()
    lesions = lesions_of_regions(specks[None], nothing[None], ("lesion",))
    plane = np.zeros((256, 256))
    picture = picture_of(plane, specks[None, 2], nothing[None, 2], lesions, 2)
    assert time.process_time() - start < 5
    assert caption(lesions) == f"no lesion, {5 * 32 * 32} false"
    assert lesions[0].at(2).more == 32 * 32 - MOST_NAMED
    assert at(picture, (255, 255, 255)).mean() < 0.1, "names do not cover the picture"
    assert (at(picture, FALSE) & specks[2]).sum() > 0.8 * specks[2].sum(), "the specks themselves are all drawn"


def test_marks_stay_in_the_picture_also_at_its_corners() -> None:
    """An arrow to each corner: white pixels near it, and none lost beyond the edge."""
    for row, column in ((0, 0), (0, 63), (63, 0), (63, 63), (0, 30), (30, 0)):
        true = volume(((0, 1), (row, row + 1), (column, column + 1)), shape=(1, 64, 64))
        nothing = np.zeros_like(true)
        lesions = lesions_of_regions(nothing[None], true[None], ("lesion",))
        picture = picture_of(np.zeros((64, 64)), nothing[:1], true[None, 0], lesions, 0)
        white = np.argwhere(at(picture, (255, 255, 255)))
        near = np.abs(white - np.array([row, column]) * 4 - 2).max(axis=1) < 45
        assert near.sum() > 20, (row, column)


def test_the_sheet_of_the_worst_patients_by_each_order() -> None:
    predicted, true = case()
    nothing = np.zeros_like(true)
    cases = {
        "perfect": (true, true, 0.9),
        "missed": (nothing, true, 0.8),
        "false": (predicted | true, true, 0.1),
        "healthy": (nothing, nothing, 1.0),
    }
    patients = [
        WorstLesion.of(name, dsc, lesions_of_regions(p[None], t[None], ("lesion",)))
        for name, (p, t, dsc) in cases.items()
    ]
    assert [one.patient for one in worst_first(patients, "lesion")] == ["missed", "false", "perfect", "healthy"]
    assert [one.patient for one in worst_first(patients, "dsc")] == ["false", "missed", "perfect", "healthy"]
    for sort in ("dsc", "lesion"):
        kept = WorstPatients(sort)
        for number in range(MOST_PATIENTS + 9):
            side = 256 + number  # of any size
            kept.add(
                WorstLesion(f"p{number:02}", 1 - number / 100, (0, -float(number)), 0, f"p{number}\nmissed"),
                np.zeros((side, side, 3), np.uint8),
            )
        assert [one.patient for one in kept._worst][:2] == ["p32", "p31"]
        picture = kept.sheet(("lesion",))
        assert picture is not None
        assert picture.shape[1] == 4 * 288
    assert WorstPatients("dsc").sheet(("lesion",)) is None


def test_a_sheet_s_titles_and_legend_stay_within_it() -> None:
    picture = np.full((64, 64, 3), 9, np.uint8)
    plain = sheet([("a" * 99 + "\nsecond", picture)], legend=legend_of(("lesion",)))
    assert plain.shape[1] == 64
    assert plain.shape[0] > 64 + 5 * 18, "the legend takes as many lines as it needs"
    assert (plain[-64:] == 9).all()
    for colour in (GREEN, RED, YELLOW, MISSED, FALSE):
        assert at(plain, colour).any()
