"""Suspect labels, on made-up probabilities: planted errors come first, and a mask that is right is never suspect."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.config import IGNORED, EvaluateConfig, MaskLayout
from segtrain.data.geometry import Geometry
from segtrain.data.store import Store
from segtrain.data.store_index import StoredPatient
from segtrain.evaluation.evidence import FARTHEST, Kind, best_shift, confidence, evidence_of
from segtrain.evaluation.metrics import count
from segtrain.evaluation.out_of_fold import OutOfFold
from segtrain.evaluation.suspects import Suspect, suspects_of

SHAPE = (12, 32, 32)
SOURCE = (12, 64, 64)  # twice as fine in plane
PATIENTS = 14
Mask = NDArray[np.bool_]


def ball(z: float, y: float, x: float, radius: float) -> Mask:
    """Slices are twice as far apart as rows and columns."""
    slices, rows, columns = np.indices(SHAPE)
    away: NDArray[np.float64] = 4 * (slices - z) ** 2 + (rows - y) ** 2 + (columns - x) ** 2
    return np.asarray(away < radius**2, np.bool_)


def lesion_of(number: int) -> Mask:
    rng = np.random.default_rng(number)
    z, y, x, radius = rng.uniform((5, 11, 8, 4), (7, 21, 11, 6))
    return ball(z, y, x, radius)


def predicted(lesion: Mask, number: int) -> NDArray[np.float32]:
    """Probabilities of a network that sees the lesion: soft at its surface, noise everywhere."""
    noise = np.random.default_rng(number).normal(0, 0.04, SHAPE)
    return np.asarray(np.clip(ndimage.gaussian_filter(lesion.astype(float), 0.7) + noise, 0, 1), np.float32)


def patient(name: str, mask: NDArray[Any], *probabilities: NDArray[np.float32]) -> OutOfFold:
    image = np.zeros((*SHAPE, 3), np.float16)
    return OutOfFold(name, 0, Path("run"), image, mask.astype(np.uint8), np.stack(probabilities).astype(np.float32))


def store_of(predictions: Sequence[OutOfFold]) -> Store:
    box = ((0, SOURCE[0]), (0, SOURCE[1]), (0, SOURCE[2]))
    geometry = Geometry(SOURCE, box, ((0, 0), (0, 0)), SHAPE[1])
    entries = {
        one.patient: StoredPatient(one.patient, "", (0,) * SHAPE[0], tuple(range(1, SHAPE[0] + 1)), geometry, ())
        for one in predictions
    }
    return Store(Path("store"), "made up", SHAPE[1], entries, {})


def judged(predictions: Sequence[OutOfFold], layout: MaskLayout | None = None) -> list[Suspect]:
    return suspects_of(predictions, store_of(predictions), layout or MaskLayout(), EvaluateConfig())


PLANTED = {"P00": Kind.SHIFTED, "P01": Kind.MISSING, "P02": Kind.EXTRA, "P03": Kind.SWAPPED, "P04": Kind.SWAPPED}


def planted() -> list[OutOfFold]:
    """Five wrong masks among those of all patients, whose contours are a voxel off here and there."""
    true = [lesion_of(number) for number in range(PATIENTS)]
    masks = [ndimage.binary_dilation(lesion) if number % 2 else lesion for number, lesion in enumerate(true)]
    masks[0] = np.roll(masks[0], (0, 4, -3), (0, 1, 2))
    masks[1] = np.zeros(SHAPE, bool)
    masks[2] = masks[2] | masks[2][:, :, ::-1]
    masks[3], masks[4] = masks[4], masks[3]
    return [patient(f"P{n:02d}", masks[n], predicted(true[n], n)) for n in range(PATIENTS)]


@pytest.mark.parametrize("seed", range(5))
def test_planted_errors_come_first_whatever_the_order_of_the_patients(seed: int) -> None:
    predictions = planted()
    random.Random(seed).shuffle(predictions)
    suspects = judged(predictions)
    first = suspects[: len(PLANTED)]
    assert {one.patient: one.kind for one in first} == PLANTED
    assert first[-1].score > 1.5 * suspects[len(PLANTED)].score
    assert [one.patient for one in suspects] == [one.patient for one in judged(planted())]


def test_what_is_said_of_them_is_what_was_done() -> None:
    by_patient = {one.patient: one for one in judged(planted())}
    assert by_patient["P00"].shift == (0, -8, 6), "in pixels of the source"
    assert by_patient["P03"].swapped_with == "P04"
    assert by_patient["P04"].swapped_with == "P03"
    assert by_patient["P01"].evidence.extra.sum() == 0
    assert by_patient["P02"].evidence.dsc == pytest.approx(0.66, abs=0.05)
    assert by_patient["P02"].dsc_corrected == pytest.approx(1.0, abs=0.1)
    for one in by_patient.values():
        wrong = dict(zip(one.slice_numbers, one.evidence.missing + one.evidence.extra, strict=True))
        assert one.slices[0].number == max(wrong, key=lambda number: wrong[number])


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_a_mask_that_is_the_prediction_is_never_suspect(seed: int, threshold: float) -> None:
    probability = np.random.default_rng(seed).random(SHAPE, np.float32)
    mask = probability > np.float32(threshold)
    evidence = evidence_of(probability, mask, np.ones(SHAPE, bool), threshold)
    assert evidence.score(small=10) == 0
    assert not judged([patient("P", probability > 0.5, probability)])


def test_a_patient_without_lesion_is_suspect_only_where_one_is_predicted() -> None:
    nothing = np.zeros(SHAPE, bool)
    seen, unseen = predicted(lesion_of(1), 1), np.zeros(SHAPE, np.float32)
    normal = [patient(f"P{n}", lesion_of(n), predicted(lesion_of(n), n)) for n in range(3)]
    suspects = judged([*normal, patient("empty", nothing, unseen), patient("forgotten", nothing, seen)])
    assert suspects[0].patient == "forgotten"
    assert suspects[0].kind is Kind.MISSING
    assert "empty" not in [one.patient for one in suspects]


def test_ignored_voxels_do_not_count() -> None:
    layout = MaskLayout(("lesion",), ignores=True)
    lesion = lesion_of(3)
    ignored = ball(6, 26, 24, 5)
    mask = np.where(ignored, IGNORED, lesion)
    plain, odd = predicted(lesion, 3), predicted(lesion | ignored, 3)
    plain[ignored] = 0
    one, other = (judged([patient("P", mask, probability)], layout) for probability in (plain, odd))
    assert [each.score for each in one] == [each.score for each in other]
    wrong = np.where(ignored, IGNORED, np.zeros(SHAPE))
    unsure = np.where(ignored, np.float32(1), np.float32(0))
    assert not judged([patient("P", wrong, unsure)], layout)


def test_each_region_has_its_own_suspects() -> None:
    layout = MaskLayout(("whole", "core"))
    whole, core = ball(6, 16, 12, 6), ball(6, 16, 12, 3)
    right = [patient(f"P{n}", whole + 2 * core, predicted(whole, n), predicted(core, n)) for n in range(3)]
    wrong = patient("wrong", whole + 0 * core, predicted(whole, 9), predicted(core, 9))
    first, *others = judged([*right, wrong], layout)
    assert (first.patient, first.region, first.kind) == ("wrong", "core", Kind.MISSING)
    assert all(one.score < first.score / 2 for one in others)


def test_a_speck_is_less_suspect_than_a_lesion_however_sure() -> None:
    speck = np.zeros(SHAPE, bool)
    speck[5, 25, 25] = True
    lesions = [lesion_of(n) for n in range(4)]
    normal = [patient(f"P{n}", lesion, lesion.astype(np.float32)) for n, lesion in enumerate(lesions[:3])]
    nothing = np.zeros(SHAPE, np.float32)
    suspects = judged([*normal, patient("lesion", lesions[3], nothing), patient("speck", speck, nothing)])
    assert [one.patient for one in suspects] == ["lesion", "speck"]
    assert suspects[1].score < 0.2 < 0.9 < suspects[0].score


def test_doubt_counts_less_than_confidence() -> None:
    assert confidence(np.array([0, 0.1, 0.2, 0.6, 1], np.float32), 0.2) == pytest.approx([1, 0.5, 0, 0.5, 1])
    lesion, nothing, known = lesion_of(5), np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    scores = [evidence_of(lesion * np.float32(p), nothing, known, 0.5).disagreement(50) for p in (0.6, 0.8, 1)]
    assert scores == sorted(scores)
    assert scores[0] < 0.7 < scores[-1]


@given(st.integers(0, 2**32 - 1))
def test_the_best_shift_is_that_of_a_search_through_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(side) for side in rng.integers(4, 9, 3))
    one, other = (ndimage.binary_dilation(rng.random(shape) > 0.97) for _ in range(2))
    reach = [range(-(side // FARTHEST), side // FARTHEST + 1) for side in shape]
    padded = np.pad(other, [(side, side) for side in shape])
    overlaps = {shift: count(one, _window(padded, shape, shift)).tp for shift in product(*reach)}
    found = best_shift(one, other, 0.0)
    best = max(overlaps.values())
    if not one.any() or not other.any():
        assert found is None
    elif found is None:
        assert overlaps[0, 0, 0] == best, "no overlap at all, or most of it without a shift"
    else:
        assert overlaps[found.shift] == best
        assert found.dsc == pytest.approx(2 * best / (one.sum() + other.sum()))


def _window(padded: Mask, shape: Sequence[int], shift: Sequence[int]) -> Mask:
    return padded[tuple(slice(side - step, 2 * side - step) for side, step in zip(shape, shift, strict=True))]


def test_a_patient_of_another_size_is_nobody_to_swap_with() -> None:
    predictions = planted()
    store = store_of(predictions)
    of_other_size = replace(store.patients["P03"].geometry, source_shape=(13, 64, 64))
    patients = dict(store.patients) | {"P03": replace(store.patients["P03"], geometry=of_other_size)}
    suspects = suspects_of(predictions, replace(store, patients=patients), MaskLayout(), EvaluateConfig())
    assert all(one.swapped_with != "P03" for one in suspects)
    assert next(one for one in suspects if one.patient == "P03").kind is not Kind.SWAPPED
