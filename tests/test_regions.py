"""Several regions after the network: counts, tables and means a region; ignored voxels are in no count."""

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import volume_of
from region_stores import LAYOUT, REGIONS, logits, nested, store_of_regions
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segtrain.config import IGNORED, Config, DataConfig, EvaluateConfig, MaskLayout, refuse_for_regions
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources.base import Volume, plain_slice_names
from segtrain.data.sources.phantom import PhantomSource, phantom_patient
from segtrain.data.store import Store
from segtrain.errors import ConfigError
from segtrain.evaluation.ensemble import select_checkpoints
from segtrain.evaluation.evaluate import Evaluation, evaluate
from segtrain.evaluation.metrics import among_known, count, largest_component, summarise
from segtrain.evaluation.patient_scores import Task, scores_of
from segtrain.evaluation.predictor import Predictor
from segtrain.evaluation.region_scores import Rules
from segtrain.evaluation.scores import Scores
from segtrain.evaluation.show import show
from segtrain.evaluation.summary import summary_of
from segtrain.losses.loss import make_loss
from segtrain.run import Run
from segtrain.run.events import EvaluationEvent, from_line, to_line
from segtrain.run.tensorboard import Curves
from segtrain.runtime.cells import csv_text
from segtrain.runtime.world import CPU, World

CFG = EvaluateConfig(
    pictures=1,
    threshold={"whole": 0.5, "core": 0.6},
    largest_component={"whole": True, "core": False, "enhancing": False},
    min_component_voxels={"enhancing": 3},
)


class WholeAlone:
    """A loss of the first region, in sums, as `Loss` has them."""

    couples = False
    dice = make_loss("dice")

    def sums(self, output: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.dice.sums(output[:, :1], mask[:, :1])

    def value(self, sums: torch.Tensor, progress: float) -> torch.Tensor:
        return self.dice.value(sums, progress)


@pytest.mark.law("L12")
def test_a_value_for_a_region_that_is_not_there_is_refused() -> None:
    cfg = Config(data=DataConfig(regions={"whole": (1, 2), "core": (2,)}), evaluate=CFG)
    with pytest.raises(ConfigError, match=r"evaluate.largest_component has a value for enhancing, but the regions are"):
        refuse_for_regions(cfg)


@pytest.mark.law("L12")
def test_a_share_of_what_is_kept_alone_is_refused() -> None:
    regions = DataConfig(regions={"whole": (1, 2), "core": (2,)})
    lone = EvaluateConfig(min_component_share=0.1, largest_component={"core": False})
    with pytest.raises(
        ConfigError, match=r"min_component_share=0.1: .* of whole alone; set evaluate.largest_component"
    ):
        refuse_for_regions(Config(data=regions, evaluate=lone))
    for several in (False, {"whole": False, "core": False}):
        refuse_for_regions(Config(data=regions, evaluate=replace(lone, largest_component=several)))
    refuse_for_regions(Config(data=regions, evaluate=replace(lone, min_component_share={"core": 0.1})))


@pytest.fixture(scope="module")
def regions_store(tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_of_regions(tiny_store, tmp_path_factory.mktemp("regions"))


def evaluated(store: Store, patients: list[str], people: dict[str, str] | None = None) -> Evaluation:
    loss: Any = WholeAlone()
    predictor = Predictor(logits, CFG, CPU, layout=store.layout)
    result = evaluate(predictor, loss, store, patients, World(), people=people)
    assert result is not None
    return result


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_voxels_that_nobody_knows_are_in_no_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, true = rng.random((2, 4, 6, 5)) < 0.4, rng.random((2, 4, 6, 5)) < 0.4
    unknown = rng.random((4, 6, 5)) < 0.3
    mask = np.where(unknown, IGNORED, true[0] + 2 * true[1]).astype(np.uint8)
    counted = among_known(predicted, mask, MaskLayout(("a", "b"), ignores=True))
    for region in range(2):
        counts = count(counted[region], (mask >> region & 1).astype(bool))
        pairs = [
            (p, t) for p, t, u in zip(predicted[region].flat, true[region].flat, unknown.flat, strict=True) if not u
        ]
        assert counts.tp == sum(p and t for p, t in pairs)
        assert counts.fp == sum(p and not t for p, t in pairs)
        assert counts.fn == sum(t and not p for p, t in pairs)


def test_each_region_is_scored_by_its_own_settings(regions_store: Store) -> None:
    """Against the volume predicted by hand."""
    patients = sorted(regions_store.patients)[:3]
    result = evaluated(regions_store, patients)
    for score in result.scores:
        image, mask = regions_store.volume(score.patient)
        x = torch.from_numpy(image.astype(np.float32)).permute(0, 3, 1, 2)
        probability = torch.sigmoid(logits(x)).numpy()
        known = mask != IGNORED
        for number, (name, threshold) in enumerate(zip(REGIONS, (0.5, 0.6, 0.5), strict=True)):
            predicted = probability[:, number] > np.float32(threshold)
            region, true = score.regions[name], (mask & (1 << number)) > 0
            assert region.all_components == count(predicted & known, true)
            if name == "whole":
                assert region.scored == count(largest_component(predicted) & known, true)
            if name == "core":
                assert region.scored == region.all_components
            if name == "enhancing":
                assert region.scored.tp + region.scored.fp < region.all_components.tp + region.all_components.fp
    rows = [row for score in result.scores for row in score.rows()]
    assert [(row["patient"], row["region"]) for row in rows] == [(p, r) for p in patients for r in REGIONS]
    assert list(rows[0])[:3] == ["patient", "region", "slices"]


@pytest.mark.law("L10")
def test_the_mean_is_over_regions_and_has_its_parts(regions_store: Store) -> None:
    result = evaluated(regions_store, sorted(regions_store.patients))
    by_region = {name: [score.regions[name].scored.dsc for score in result.scores] for name in REGIONS}
    assert result.regions == {name: summarise(values) for name, values in by_region.items()}
    assert len({summary.mean for summary in result.regions.values()}) == 3
    assert result.dsc.mean == pytest.approx(np.mean([np.mean(values) for values in by_region.values()]), abs=1e-12)
    means = np.mean(list(by_region.values()), axis=0)
    ends = summarise(means.tolist())
    assert (result.dsc.ci_low, result.dsc.ci_high) == pytest.approx((ends.ci_low, ends.ci_high))
    assert result.people is None


@pytest.mark.law("L10")
def test_a_person_with_three_scans_weighs_as_one(regions_store: Store) -> None:
    patients = sorted(regions_store.patients)[:5]
    people = dict.fromkeys(patients[1:4], "somebody")
    result = evaluated(regions_store, patients, people)
    for name, summary in result.regions.items():
        dsc = [score.regions[name].scored.dsc for score in result.scores]
        assert summary == summarise([dsc[0], sum(dsc[1:4]) / 3, dsc[4]])
    assert (result.dsc.n, result.people, len(result.scores)) == (3, 3, 5)
    assert evaluated(regions_store, patients).dsc.mean != result.dsc.mean


def test_several_regions_are_drawn_side_by_side(regions_store: Store) -> None:
    (picture,) = (
        s.picture for s in evaluated(regions_store, sorted(regions_store.patients)[:2]).scores if s.picture is not None
    )
    height, width, _ = picture.shape
    assert width == 2 * height


class Source(PhantomSource):
    """Phantoms with three regions."""

    def read(self, patient: str) -> Volume:
        image, mask = phantom_patient(0, 2, 64)
        names = plain_slice_names(len(image))
        return Volume(image, nested(mask), names, tuple(range(len(image))))


def task(tiny: Config, predicted: Any = None) -> Task:
    image, mask = phantom_patient(0, 2, 64)
    prepared = preprocess(volume_of(image, nested(mask)), Preparation(32), "here")
    if predicted is None:
        planes = [(prepared.mask_shw >> number & 1) > 0 for number in range(3)]
        predicted = np.stack([np.roll(plane, 1, axis=2) for plane in planes])
        predicted[2, 3] = True
    return Task(
        "P", predicted, prepared.mask_shw, LAYOUT, prepared.geometry, Source(tiny.data.phantom), CFG,
        Rules(("prepared", "original")),
    )  # fmt: skip


def test_segtrain_evaluate_has_a_row_for_each_patient_and_region(tiny: Config) -> None:
    made = task(tiny)
    rows = scores_of(made).marked({})
    assert [row["region"] for row in rows] == list(REGIONS)
    original = nested(phantom_patient(0, 2, 64)[1])
    known = made.mask_shw != IGNORED
    for number, row in enumerate(rows):
        true = (made.mask_shw >> number & 1) > 0
        assert row["voxels"] == true.sum()
        assert row["original_voxels"] == ((original >> number & 1) > 0).sum()
        if row["region"] == "core":  # all components of it are kept
            assert row["tp"] == (made.predicted_rshw[number] & true).sum()
            assert row["fp"] == (made.predicted_rshw[number] & ~true & known).sum()


def table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(rows))))


def rows_by_hand(dsc: dict[str, dict[str, float | None]]) -> list[dict[str, Any]]:
    """dsc: by patient and region; other numbers are those of a real row."""
    real = scores_of(task_of_one()).marked({})[0]
    return [
        {"patient": patient, "region": region, **{k: v for k, v in real.items() if k != "patient"}, "dsc": value,
         "voxels": 100 * place, "institution": "X", "trained_on": "no"}
        for place, (patient, values) in enumerate(dsc.items()) for region, value in values.items()
    ]  # fmt: skip


def task_of_one() -> Task:
    nowhere: Any = None
    mask = np.zeros((3, 4, 4), np.uint8)
    mask[1, 1, 1:3] = 1
    return Task("P", mask[None] > 0, mask, MaskLayout(), nowhere, nowhere, EvaluateConfig(), Rules())


@pytest.mark.law("L10")
def test_a_summary_of_regions_has_each_ones_means_and_the_mean_over_them(
    trained_run: Run, tiny_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = [replace(select_checkpoints([trained_run.root], "last", [])[0], people={"B": "b", "C": "b"})]
    dsc: dict[str, dict[str, float | None]] = {
        "A": {"whole": 0.9, "core": 0.7},
        "B": {"whole": 0.5, "core": 0.4},
        "C": {"whole": 0.7, "core": 0.2},
        "D": {"whole": 0.8, "core": 0.6},
    }
    summary = summary_of(Scores(rows_by_hand(dsc)), checkpoints, tiny_store, Rules())
    whole, core = (summary["regions"][name]["not_trained_on"]["dsc"] for name in ("whole", "core"))
    assert (whole["n"], whole["patients"]) == (3, 4)
    assert whole["mean"] == pytest.approx((0.9 + 0.6 + 0.8) / 3)
    assert core["mean"] == pytest.approx((0.7 + 0.3 + 0.6) / 3)
    both = summary["not_trained_on"]["dsc"]
    assert both["mean"] == pytest.approx((whole["mean"] + core["mean"]) / 2)
    assert both["parts"] == {"whole": whole["mean"], "core": core["mean"]}
    expected = summarise([0.8, 0.45, 0.7])
    assert (both["median"], both["n"]) == (pytest.approx(0.7), 3)
    assert (both["ci_low"], both["ci_high"]) == pytest.approx((expected.ci_low, expected.ci_high))
    strata = summary["regions"]["core"]["dsc_by"]
    assert [strata[f"lesion {size}"]["mean"] for size in ("small", "medium", "large")] == pytest.approx([0.7, 0.3, 0.6])
    show(summary)
    shown = " ".join(capsys.readouterr().out.split())
    assert "mean over regions" in shown
    assert "3 (4 patients)" in shown
    assert "region core" in shown


@pytest.mark.law("L10")
def test_a_mean_over_regions_of_which_one_has_no_value_has_no_interval(trained_run: Run, tiny_store: Store) -> None:
    dsc: dict[str, dict[str, float | None]] = {
        "A": {"whole": 0.9, "core": None}, "B": {"whole": 0.5, "core": 0.4}, "C": {"whole": 0.7, "core": 0.2},
    }  # fmt: skip
    checkpoints = select_checkpoints([trained_run.root], "last", [])
    both = summary_of(Scores(rows_by_hand(dsc)), checkpoints, tiny_store, Rules())["not_trained_on"]["dsc"]
    assert both["mean"] == pytest.approx((0.7 + 0.3) / 2)
    assert (both["ci_low"], both["median"]) == (None, None)


def test_curves_and_events_have_each_region(run: Run) -> None:
    numbers = {"dsc": 0.5, "median": 0.5, "ci_low": None, "ci_high": None}
    event = EvaluationEvent(
        step=3, epoch=1, val_loss=0.1, val_dsc=0.6, n=1, best=True, empty_masks="",
        regions={"whole": {**numbers, "dsc": 0.7}, "core": numbers},
    )  # fmt: skip
    assert from_line(to_line(event).encode()) == event
    assert event.parts == "whole 0.7000, core 0.5000"
    run.record(event)
    assert run.result().best_parts == event.parts
    Curves(run, Config()).show(event)
    board = EventAccumulator(str(run.tensorboard)).Reload()
    shown = {name: [point.value for point in board.Scalars(name)] for name in board.Tags()["scalars"]}
    assert shown["val_dsc"] == pytest.approx([0.6])
    assert shown["val_dsc/whole"] + shown["val_dsc/core"] == pytest.approx([0.7, 0.5])
