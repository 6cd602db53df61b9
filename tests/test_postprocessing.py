"""Post-processing by evidence: candidates counted at once, and a choice that the people who score have no part in."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtrain.config import Config, EvaluateConfig, Postprocessing, fingerprint, load_config
from segtrain.errors import DataError
from segtrain.evaluation.candidates import candidate_counts, candidates_around
from segtrain.evaluation.chosen_settings import in_words
from segtrain.evaluation.metrics import count, kept_components
from segtrain.evaluation.postprocessing import Scored, choose
from segtrain.evaluation.units import refuse_unknown_spacing

CONFIGURED = Postprocessing(0.5, True, 0)
BETTER, WORSE = Postprocessing(0.4, True, 0), Postprocessing(0.6, True, 0)


def as_config(settings: Postprocessing) -> EvaluateConfig:
    return EvaluateConfig(
        threshold=settings.threshold,
        largest_component=settings.largest_component,
        min_component_voxels=settings.min_component_voxels,
        min_component_ml=settings.min_component_ml,
        min_component_share=settings.min_component_share,
    )


def smooth(seed: int, shape: tuple[int, ...] = (6, 24, 20)) -> np.ndarray:
    """Probabilities with components of many sizes, some equal; a part of the volume is empty."""
    rng = np.random.default_rng(seed)
    noise = rng.random(shape).astype(np.float32)
    noise[:, 1:] = (noise[:, 1:] + noise[:, :-1]) / 2
    noise[:, :, 1:] = (noise[:, :, 1:] + noise[:, :, :-1]) / 2
    noise[:1], noise[:, :3] = 0, 0
    return np.round(noise, 2)  # values lie on thresholds too


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("in_ml", "share"), [(False, 0.3), (True, 0.0)])
def test_every_candidate_has_the_counts_of_the_prediction_that_it_makes(seed: int, in_ml: bool, share: float) -> None:
    probability, rng = smooth(seed), np.random.default_rng(100 + seed)
    true, known = smooth(50 + seed) > 0.6, rng.random(probability.shape) > 0.1 * seed
    configured = Postprocessing(0.55, False, 7, 0.0 if not in_ml else 0.05, share)
    candidates = candidates_around(configured, in_ml)
    assert candidates[0] == configured
    voxel_ml = 0.004 if in_ml else None
    for candidate, counts in zip(
        candidates, candidate_counts(probability, true & known, known, candidates, voxel_ml), strict=True
    ):
        predicted = probability > np.float32(candidate.threshold)
        (kept,) = kept_components(predicted[None], ["lesion"], as_config(candidate), voxel_ml)
        assert counts == count(kept & known, true & known), candidate


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_nothing_and_everything_predicted_are_counted_too(level: float) -> None:
    probability = np.full((2, 5, 5), level, np.float32)
    true, known = np.zeros((2, 5, 5), bool), np.ones((2, 5, 5), bool)
    candidates = candidates_around(CONFIGURED, in_ml=False)
    dsc = {
        one: c.dsc
        for one, c in zip(candidates, candidate_counts(probability, true, known, candidates, None), strict=True)
    }
    assert dsc[CONFIGURED] == (0.0 if level else 1.0)
    assert dsc[replace(CONFIGURED, min_component_voxels=100)] == 1.0, "a component of 50 voxels is dropped"


def test_what_is_configured_comes_first_then_what_changes_least() -> None:
    configured = Postprocessing(0.45, True, 20)
    candidates = candidates_around(configured, in_ml=True)
    assert candidates[0] == configured
    assert len(candidates) == len(set(candidates)) == 10 * (2 * 9 + 5 * 2)
    changes = [
        (one.threshold != 0.45)
        + ((one.largest_component, one.min_component_share) != (True, 0.0))
        + ((one.min_component_voxels, one.min_component_ml) != (20, 0.0))
        for one in candidates
    ]
    assert changes == sorted(changes)
    assert {one.min_component_ml for one in candidates} == {0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0}


def people(*rows: tuple[int, float, float]) -> list[Scored]:
    """Patients p0, p1, ...: the fold, and by how much each of two candidates differs from the configured DSC."""
    return [Scored(f"p{place}", fold, (0.8, 0.8 + one, 0.8 + two)) for place, (fold, one, two) in enumerate(rows)]


def test_the_best_on_average_is_chosen_where_it_helps_people_who_did_not_choose() -> None:
    choice = choose(
        people((0, 0.1, -0.1), (0, 0.0, 0.0), (1, 0.05, 0.02), (2, 0.05, -0.1)), [CONFIGURED, BETTER, WORSE], {}
    )
    assert choice.settings == choice.best == BETTER
    assert choice.configured == CONFIGURED
    assert choice.people == 4
    assert choice.dsc_configured == pytest.approx(0.8)
    assert choice.dsc_best == pytest.approx(0.85)
    assert choice.gain == pytest.approx(0.05)
    assert choice.gain_ci_low is not None
    assert choice.gain_ci_high is not None
    assert choice.gain_ci_low <= choice.gain <= choice.gain_ci_high


def test_what_helps_those_alone_who_chose_is_not_used() -> None:
    """Each fold has a favourite of its own, which harms the others: the best on all is a matter of luck."""
    rows = people((0, 0.3, -0.1), (1, -0.1, 0.3), (2, -0.15, -0.1))
    choice = choose(rows, [CONFIGURED, BETTER, WORSE], {})
    assert choice.best != CONFIGURED
    assert choice.dsc_best > choice.dsc_configured
    assert choice.gain < 0
    assert choice.settings == CONFIGURED


def test_a_tie_is_left_as_configured() -> None:
    choice = choose(people((0, 0.0, 0.1), (1, 0.0, -0.1), (2, 0.0, 0.0)), [CONFIGURED, BETTER, WORSE], {})
    assert choice.settings == choice.best == CONFIGURED
    assert choice.gain <= 0


def test_scans_of_one_person_count_once() -> None:
    rows = people((0, -0.1, 0.0), (0, -0.1, 0.0), (0, -0.1, 0.0), (1, 0.08, 0.0), (2, 0.08, 0.0))
    candidates = [CONFIGURED, BETTER, WORSE]
    assert choose(rows, candidates, {}).best == CONFIGURED
    choice = choose(rows, candidates, {f"p{scan}": "one" for scan in range(3)})
    assert choice.people == 3
    assert choice.best == BETTER


def test_a_size_in_ml_needs_the_spacing_and_a_component_of_that_size_is_kept() -> None:
    settings = Postprocessing(0.5, False, 0, 0.3)
    assert [settings.smallest_voxels(voxel_ml) for voxel_ml in (0.1, 0.003, 1.0)] == [3, 100, 1]
    assert replace(settings, min_component_voxels=5).smallest_voxels(0.1) == 5
    with pytest.raises(DataError, match=r"1 of 2 patients \(b\) is not known.*min_component_voxels"):
        refuse_unknown_spacing(as_config(settings), {"a": (1, 1, 1), "b": (0, 1, 1)}, ["lesion"])
    refuse_unknown_spacing(EvaluateConfig(), {"b": None}, ["lesion"])


@pytest.mark.parametrize("key", ["min_component_ml", "min_component_share"])
def test_the_key_changes_no_earlier_fingerprint_and_may_differ_by_region(key: str) -> None:
    assert fingerprint(Config()) != fingerprint(load_config(None, [f"evaluate.{key}=0.1"]))
    cfg = load_config(None, [f"evaluate.{key}={{whole: 0.1}}"])
    assert [getattr(cfg.evaluate.of(region), key) for region in ("whole", "core")] == [0.1, 0.0]


def bars(*sizes: int) -> np.ndarray:
    """A volume with a component of each size."""
    volume = np.zeros((2 * len(sizes), 1, max(sizes)), bool)
    for row, size in enumerate(sizes):
        volume[2 * row, 0, :size] = True
    return volume


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    share=st.fractions(0, 1, max_denominator=50),
    smallest=st.integers(0, 40),
)
def test_a_component_is_kept_from_that_share_of_the_largest(sizes: list[int], share: Fraction, smallest: int) -> None:
    """By exact arithmetic; where all are too small by another rule, none is left to be the largest."""
    settings = Postprocessing(0.5, False, smallest, min_component_share=float(share))
    (kept,) = kept_components(bars(*sizes)[None], ["lesion"], as_config(settings))
    least = share * max(sizes)
    expected = [size if size >= smallest and size >= least else 0 for size in sizes]
    assert kept.sum(axis=(1, 2))[::2].tolist() == expected


def test_a_share_of_all_keeps_equals_where_the_largest_alone_is_one() -> None:
    volume = bars(4, 9, 9)
    for settings, voxels in (
        (Postprocessing(0.5, False, 0, 0.0, 1.0), 18),
        (Postprocessing(0.5, True, 0, 0.0, 1.0), 9),
    ):
        (kept,) = kept_components(volume[None], ["lesion"], as_config(settings))
        assert kept.sum() == voxels
    assert in_words(Postprocessing(0.5, False, 0, 0.0, 0.004)) == "above 0.5, from 0.4% of the largest, all components"
