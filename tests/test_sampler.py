"""L2 and L3 for both ways of sampling, over whole plans."""

import itertools
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config import SamplingName
from segtrain.data.order import ORDER_STREAM, Order, deal_evenly, generator
from segtrain.data.preprocess import slice_weights
from segtrain.errors import ConfigError

WORLDS = (1, 2, 3, 4, 8)
SAMPLINGS: tuple[SamplingName, ...] = ("lesion", "uniform")


def cohort(patients: int, seed: int = 0) -> list[list[int]]:
    """Lesion areas per slice, patients as long as the real ones and 63% of slices empty."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.exp(rng.normal(3.45, 0.35, patients)).astype(int), 18, 86)
    return [[0 if rng.random() < 0.63 else int(rng.integers(1, 3000)) for _ in range(n - 1)] + [500] for n in lengths]


def order(sampling: SamplingName, global_batch: int = 24, patients: int = 90, seed: int = 3) -> Order:
    return Order(cohort(patients), sampling, global_batch, seed)


@pytest.mark.law("L2")
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("world_size", WORLDS)
def test_ranks_together_read_the_one_order(sampling: SamplingName, world_size: int) -> None:
    """Whatever the world size, and drawn anew by each rank, the ranks' parts make up the same batches."""
    reference = order(sampling)
    for epoch in range(3):
        whole = reference.plan(epoch)
        parts = []
        for rank in range(world_size):
            mine = order(sampling)
            plan = mine.plan(epoch)
            parts.append(
                (plan.patient[:, mine.columns(rank, world_size)], plan.slice[:, mine.columns(rank, world_size)])
            )
        assert np.array_equal(np.concatenate([p for p, _ in parts], axis=1), whole.patient)
        assert np.array_equal(np.concatenate([s for _, s in parts], axis=1), whole.slice)
        assert len({p.shape for p, _ in parts}) == 1


@pytest.mark.law("L2")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_epoch_does_not_depend_on_what_was_drawn_before(sampling: SamplingName) -> None:
    one, other = order(sampling), order(sampling)
    for epoch in range(5):
        one.plan(epoch)
    assert np.array_equal(one.plan(7).patient, other.plan(7).patient)
    assert np.array_equal(one.plan(7).slice, other.plan(7).slice)


@pytest.mark.law("L2")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_seed_and_epoch_change_the_order(sampling: SamplingName) -> None:
    base = order(sampling).plan(0)
    for other in (order(sampling).plan(1), order(sampling, seed=4).plan(0)):
        assert (base.patient != other.patient).mean() > 0.8


@pytest.mark.law("L3")
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("world_size", WORLDS)
def test_no_two_ranks_read_a_patient_and_each_epoch_deals_anew(sampling: SamplingName, world_size: int) -> None:
    one = order(sampling)
    deals = []
    for epoch in range(4):
        plan = one.plan(epoch)
        read = [set(plan.patient[:, one.columns(rank, world_size)].ravel().tolist()) for rank in range(world_size)]
        assert sum(map(len, read)) == len(set().union(*read))
        deals.append(read)
    if world_size > 1:
        for before, after in itertools.pairwise(deals):
            assert before[0] != after[0]


@pytest.mark.law("L3")
@settings(max_examples=60, deadline=None)
@given(
    patients=st.integers(1, 40),
    global_batch=st.integers(1, 32),
    sampling=st.sampled_from(SAMPLINGS),
    seed=st.integers(0, 2**32),
)
def test_lanes_never_share_a_patient(patients: int, global_batch: int, sampling: SamplingName, seed: int) -> None:
    one = Order(cohort(patients, seed), sampling, global_batch, seed)
    if sampling == "uniform" and sum(map(len, one.areas)) < global_batch:
        with pytest.raises(ConfigError, match="more than"):
            one.plan(0)
        return
    assert global_batch % one.lanes == 0
    plan = one.plan(0)
    assert plan.patient.shape == (one.steps_per_epoch, global_batch)
    lanes = plan.patient.reshape(one.steps_per_epoch, one.lanes, -1)
    seen = [set(lanes[:, lane].ravel().tolist()) for lane in range(one.lanes)]
    assert sum(map(len, seen)) == len(set().union(*seen))
    lengths = np.array([len(a) for a in one.areas])
    assert (plan.slice < lengths[plan.patient]).all()
    assert (plan.slice >= 0).all()


@given(patients=st.integers(1, 60), global_batch=st.integers(1, 32))
def test_lesion_lanes_are_as_many_as_leave_no_patient_much_likelier(patients: int, global_batch: int) -> None:
    """A lane has at most one and a half times the patients of another, and no larger number of lanes allows that."""

    def allowed(lanes: int) -> bool:
        fewest, most = patients // lanes, -(-patients // lanes)
        return global_batch % lanes == 0 and 2 * most <= 3 * fewest

    one = Order([[1, 0, 2]] * patients, "lesion", global_batch, seed=0)
    assert one.lanes == max(lanes for lanes in range(1, patients + 1) if allowed(lanes))


def test_uniform_visits_each_slice_at_most_once_and_nearly_all() -> None:
    one = order("uniform")
    total = sum(map(len, one.areas))
    dropped = []
    for epoch in range(6):
        plan = one.plan(epoch)
        visited = set(zip(plan.patient.ravel().tolist(), plan.slice.ravel().tolist(), strict=True))
        assert len(visited) == plan.patient.size
        assert len(visited) >= 0.95 * total
        dropped.append({(p, s) for p, a in enumerate(one.areas) for s in range(len(a))} - visited)
    assert not set.intersection(*dropped)


def test_lesion_draws_a_patient_uniformly_and_a_slice_by_the_reference_weights() -> None:
    areas = [[0, 10, 30], [5, 0, 0, 5], [100] * 6, [1, 0]]
    one = Order(areas, "lesion", 4, seed=1)
    counts: dict[tuple[int, int], int] = {}
    epochs = 4000
    for epoch in range(epochs):
        plan = one.plan(epoch)
        for key in zip(plan.patient.ravel().tolist(), plan.slice.ravel().tolist(), strict=True):
            counts[key] = counts.get(key, 0) + 1
    draws = epochs * one.steps_per_epoch * 4
    for patient, slices in enumerate(areas):
        total = sum(slices)
        for number, area in enumerate(slices):
            chance = (area + 0.1 * total / len(slices)) / (1.1 * total) / len(areas)
            sigma = math.sqrt(chance * (1 - chance) / draws)
            assert abs(counts.get((patient, number), 0) / draws - chance) < 5 * sigma


def test_an_epoch_of_lesion_sampling_has_as_many_draws_as_slices() -> None:
    one = order("lesion")
    total = sum(map(len, one.areas))
    assert total - one.global_batch < one.steps_per_epoch * one.global_batch <= total


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(18, 86), min_size=1, max_size=100), hands=st.integers(1, 24))
def test_dealing_keeps_every_item_and_evens_out(sizes: list[int], hands: int) -> None:
    array = np.array(sizes)
    dealt = deal_evenly(array, np.arange(len(sizes)), hands)
    assert sorted(item for hand in dealt for item in hand) == list(range(len(sizes)))
    totals = [int(array[hand].sum()) for hand in dealt]
    assert max(totals) - min(totals) <= max(sizes)


def plain_deal(sizes: list[int], hands: int) -> list[list[int]]:
    """Dealing written item by item and pair by pair: the deals of runs that began in whatever version."""
    dealt: list[list[int]] = [[] for _ in range(hands)]

    def total(hand: int) -> int:
        return sum(sizes[item] for item in dealt[hand])

    for item in range(len(sizes)):
        dealt[min(range(hands), key=lambda hand: (total(hand), hand))].append(item)
    for _ in sizes:
        low = min(range(hands), key=lambda hand: (total(hand), hand))
        high = min(range(hands), key=lambda hand: (-total(hand), hand))
        gap = total(high) - total(low)
        swaps = [
            (abs(2 * (sizes[large] - sizes[small]) - gap), i, j)
            for i, large in enumerate(dealt[high])
            for j, small in enumerate(dealt[low])
            if 0 < sizes[large] - sizes[small] < gap
        ]
        if not swaps:
            break
        _, i, j = min(swaps)
        dealt[high][i], dealt[low][j] = dealt[low][j], dealt[high][i]
    return dealt


@pytest.mark.law("L6")
@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 86), min_size=1, max_size=50), hands=st.integers(1, 8))
def test_dealing_is_that_of_a_plain_deal(sizes: list[int], hands: int) -> None:
    assert deal_evenly(np.array(sizes), np.arange(len(sizes)), hands) == plain_deal(sizes, hands)


@pytest.mark.law("L6")
@settings(max_examples=40, deadline=None)
@given(
    areas=st.lists(st.lists(st.integers(0, 900), min_size=1, max_size=40), min_size=1, max_size=30),
    lesion_free=st.floats(0, 2),
    epoch=st.integers(0, 9),
)
def test_each_draw_is_that_of_its_patient_s_cumulative_weights(
    areas: list[list[int]], lesion_free: float, epoch: int
) -> None:
    """One draw after the other, from the epoch's generator."""
    drawn = Order(areas, "lesion", 1, 7, None, lesion_free)
    plan, rng = drawn.plan(epoch), generator(7, ORDER_STREAM, epoch)
    members = rng.permutation(len(areas))
    which, where = rng.random((2, drawn.steps_per_epoch, 1))
    for step in range(drawn.steps_per_epoch):
        patient = int(members[int(which[step, 0] * len(areas))])
        cumulative = np.cumsum(slice_weights(np.array(areas[patient]), lesion_free))
        assert plan.patient[step, 0] == patient
        assert plan.slice[step, 0] == np.searchsorted(cumulative[:-1], where[step, 0], side="right")


class WithoutRemedy(Order):
    """Refuses what an order refuses, and does not look for what would fit: the test asks a hundred times an example."""

    def _remedy(self, ranks: int) -> str:
        return ""


def fits(areas: list[list[int]], sampling: SamplingName, global_batch: int, ranks: int) -> bool:
    try:
        WithoutRemedy(areas, sampling, global_batch, seed=0).columns(0, ranks)
    except ConfigError:
        return False
    return True


def numbers(pattern: str, message: str) -> list[int]:
    """Those that a way out names, such as `16 or 32`."""
    return [int(number) for number in re.findall(r"\d+", " ".join(re.findall(pattern, message)))]


def first_on_either_side(value: int, most: int, accepted: Callable[[int], bool]) -> list[int]:
    lower = next((number for number in range(value - 1, 0, -1) if accepted(number)), None)
    higher = next((number for number in range(value + 1, most + 1) if accepted(number)), None)
    return [number for number in (lower, higher) if number is not None]


@pytest.mark.law("L12")
@settings(max_examples=60, deadline=None)
@given(
    patients=st.integers(1, 30),
    global_batch=st.integers(1, 24),
    ranks=st.integers(2, 12),
    sampling=st.sampled_from(SAMPLINGS),
)
def test_a_world_size_that_does_not_fit_is_told_the_nearest_that_do(
    patients: int, global_batch: int, ranks: int, sampling: SamplingName
) -> None:
    """Whatever is named is accepted, and nothing nearer on that side is; what is not named is not there."""
    areas = cohort(patients)
    try:
        Order(areas, sampling, global_batch, seed=0).columns(0, ranks)
        return
    except ConfigError as error:
        message = str(error)
    batches = numbers(r"set train.global_batch to (\d+(?: or \d+)?)", message)
    assert batches == first_on_either_side(
        global_batch, 4 * global_batch, lambda other: fits(areas, sampling, other, ranks)
    )
    of_ranks = numbers(r"use (\d+(?: or \d+)?) ranks?", message)
    assert of_ranks == first_on_either_side(
        ranks, global_batch, lambda other: fits(areas, sampling, global_batch, other)
    )
    of_patients = numbers(r"train on (\d+(?: or \d+)?) patients", message)
    if sampling == "uniform":
        assert not of_patients
    else:
        assert of_patients == first_on_either_side(
            patients, 2 * global_batch, lambda other: fits(cohort(other), sampling, global_batch, ranks)
        )


@pytest.mark.law("L12")
def test_a_world_size_that_does_not_fit_is_named() -> None:
    with pytest.raises(ConfigError, match=r"=24 cannot be shared by 5 ranks; set train.global_batch to 20 or 25"):
        order("lesion").columns(0, 5)
    with pytest.raises(ConfigError, match=r"3 training patients make 3 lanes .* 4 ranks"):
        order("lesion", global_batch=12, patients=3).columns(0, 4)
    with pytest.raises(ConfigError, match=r"train.global_batch=5000 is more than"):
        _ = order("uniform", global_batch=5000, patients=3).steps_per_epoch
