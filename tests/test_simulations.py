"""The simulations behind docs/statistics.md: their estimators are those of a report, which keeps its promises."""

import math

import numpy as np
import pytest

from benchmarks.estimators import intervals, p_values
from benchmarks.statistics import BEGIN, DOCUMENT, END, TABLES, WORLDS, covered, published, rejected
from benchmarks.worlds import Array, Design, Truth, World, recipes
from segtrain.report.statistics import mean_of
from segtrain.report.variance import Scores
from segtrain.report.verdicts import difference


def scores_of(scores_ns: Array, design: Design) -> Scores:
    return {(f"p{n:03}", int(design.fold_n[n]), s): float(value) for (n, s), value in np.ndenumerate(scores_ns)}


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize(
    "design", [Design(6, 2, 2), Design(20, 1, 3), Design(20, 5, 1), Design(23, 5, 2), Design(12, 1, 1)]
)
def test_the_simulated_procedure_is_that_of_a_report(world: World, design: Design) -> None:
    own, other = recipes(world, np.random.default_rng(3), 2, design, Truth(0.02, failures=0.03))
    p, ends = p_values(own, other, design), intervals(own, design)
    for one in range(2):
        of_pair = difference(scores_of(own[one], design), scores_of(other[one], design))
        assert of_pair is not None
        assert p.get("folds and seeds", p["paired t"])[one] == pytest.approx(of_pair.p)
        assert p.get("folds", np.ones(2))[one] == pytest.approx(of_pair.p_seeds if of_pair.decidable else 1)
        assert p.get("strict", np.ones(2))[one] == pytest.approx(of_pair.p_strict)
        summary = mean_of(scores_of(own[one], design)).summary
        assert ends["ours"][:, one] == pytest.approx((summary.ci_low, summary.ci_high))


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_the_worlds_are_what_they_claim(world: World) -> None:
    """Their true means, differences and spreads between trainings, against draws."""
    generator = np.random.default_rng(0)
    truth, design = Truth(0.02, difference=0.03), Design(400, 1, 100)
    own, other = recipes(world, generator, 4, design, truth)
    assert own.mean() == pytest.approx(world.true_mean(Truth(0.02)), abs=0.012)
    assert (other - own).mean() == pytest.approx(0.03, abs=0.006)
    assert np.sqrt(own.mean(axis=1).var(axis=1, ddof=1).mean()) == pytest.approx(0.02, rel=0.15)


@pytest.mark.law("L10")
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("design", [Design(20, 1, 3), Design(20, 5, 1), Design(20, 5, 3)], ids=str)
@pytest.mark.parametrize("interplay", [False, True])
def test_false_verdicts_are_at_most_5_percent(world: World, design: Design, interplay: bool) -> None:
    data_sets = 600
    found = rejected(world, design, Truth(0.02, interplay), data_sets)
    slack = 2.5 * math.sqrt(0.05 * 0.95 / data_sets)
    assert found["folds and seeds"] <= 0.05 + slack
    assert found.get("strict", 0) <= found.get("folds", 0) <= found["folds and seeds"]
    assert found["paired t"] > found["folds and seeds"], "which knows of no trainings"


@pytest.mark.law("L10")
@pytest.mark.parametrize("seeds", [2, 3])
def test_seeds_that_act_alike_in_all_folds_give_few_false_verdicts(seeds: int) -> None:
    data_sets = 600
    found = rejected(WORLDS[0], Design(40, 5, seeds), Truth(0.02, shared=0.7), data_sets)
    slack = 2.5 * math.sqrt(0.05 * 0.95 / data_sets)
    assert found["folds"] <= 0.05 + slack
    assert found["folds and seeds"] > 0.1, "this test takes the runs of a seed for independent"


@pytest.mark.law("L10")
@pytest.mark.parametrize("truth", [Truth(0.02, shared=0.7), Truth(0.02, common=0.7)], ids=["recipe", "seed alone"])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_with_repeats_the_first_test_holds_for_these_folds(seeds: int, truth: Truth) -> None:
    """However alike a seed acts, since no two folds have one in common."""
    data_sets = 600
    found = rejected(WORLDS[0], Design(40, 5, seeds, own_seeds=True), truth, data_sets)
    assert found["folds"] == found["folds and seeds"] <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / data_sets)


def _with_own_seeds(scores: Scores) -> Scores:
    return {(patient, fold, 10 * (fold or 0) + (seed or 0)): value for (patient, fold, seed), value in scores.items()}


def test_with_repeats_the_simulated_procedure_is_that_of_a_report() -> None:
    design = Design(23, 5, 2, own_seeds=True)
    own, other = recipes(WORLDS[1], np.random.default_rng(3), 2, design, Truth(0.02, shared=0.5))
    p = p_values(own, other, design)
    for one in range(2):
        ours, theirs = (_with_own_seeds(scores_of(scores[one], design)) for scores in (own, other))
        of_pair = difference(ours, theirs)
        assert of_pair is not None
        assert p["folds"][one] == pytest.approx(of_pair.p_seeds)
        assert p["strict"][one] == pytest.approx(of_pair.p_strict)


@pytest.mark.law("L10")
@pytest.mark.parametrize("design", [Design(20, 1, 5), Design(20, 5, 1), Design(20, 5, 3)], ids=str)
def test_intervals_cover_as_often_as_they_say(design: Design) -> None:
    data_sets = 250
    for world in WORLDS:
        found = covered(world, design, Truth(0.02), data_sets)
        assert found["ours"][0] >= 0.95 - 2.5 * math.sqrt(0.05 * 0.95 / data_sets)
        assert found["percentile"][0] < found["ours"][0]


def test_the_document_has_the_tables() -> None:
    published = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]
    for head in TABLES:
        assert f"**{head}**" in published


def test_one_table_is_published_in_its_place() -> None:
    document, heads = DOCUMENT.read_text(), list(TABLES)
    before = published(document, heads[1], f"**{heads[1]}** (1 data sets a cell)\n\n| a |\n")
    assert "(1 data sets a cell)\n\n| a |\n\n**" in before
    places = [before.index(f"**{head}**") for head in heads]
    assert places == sorted(places)
    assert before.partition(BEGIN)[0] == document.partition(BEGIN)[0]
    assert before.partition(END)[2] == document.partition(END)[2]
    (own,) = [part for part in document.split("\n**") if part.startswith(heads[1])]
    assert published(before, heads[1], f"**{own.strip()}\n") == document
