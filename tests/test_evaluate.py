"""The evaluator: each validation patient whole, once, with the same counts however the work is divided (L3, L10)."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from ranks import run_ranks

from segtrain.config import LESION, Config, EvaluateConfig, LossConfig, Ramp
from segtrain.data.store import Store
from segtrain.evaluation.evaluate import Evaluation, RegionScore, assign, combine, evaluate, score_patient
from segtrain.evaluation.metrics import Counts, count, drop_small, largest_component
from segtrain.evaluation.predictor import Predictor
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import CPU, World


def probability_net(cfg: Config) -> torch.nn.Module:
    """A network whose outputs are spread around the threshold."""
    network = make_model(cfg.model, seed=0).eval()
    with torch.no_grad():
        network.get_parameter("conv.weight").mul_(20)
    return network


def run(world: World, cfg: Config, store: Store, settings: EvaluateConfig) -> Evaluation | None:
    predictor = Predictor(probability_net(cfg), settings, world.device)
    return evaluate(predictor, make_loss("dice"), store, sorted(store.patients), world)


def counts(result: Evaluation) -> list[tuple[str, dict[str, RegionScore]]]:
    return [(score.patient, dict(score.regions)) for score in result.scores]


@pytest.mark.law("L3")
@pytest.mark.parametrize(("world_size", "batch"), [(1, 1), (1, 7), (1, 64), (2, 16), (3, 5), (4, 16)])
def test_counts_do_not_depend_on_ranks_or_batch(tiny: Config, tiny_store: Store, world_size: int, batch: int) -> None:
    alone = run(World(), tiny, tiny_store, EvaluateConfig(pictures=0))
    assert alone is not None
    answers = run_ranks(world_size, run, tiny, tiny_store, EvaluateConfig(pictures=2, batch=batch))
    assert answers[1:] == [None] * (world_size - 1)
    assert counts(answers[0]) == counts(alone)
    assert answers[0].dsc == alone.dsc
    assert answers[0].loss == pytest.approx(alone.loss, abs=1e-6)
    assert sum(score.picture is not None for score in answers[0].scores) == 2


def test_a_patient_is_counted_while_the_next_is_predicted(
    tiny: Config, tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting waits until the next prediction has begun, and would wait for ever where it comes first."""
    network = probability_net(tiny)
    begun = [threading.Event() for _ in tiny_store.patients]
    counted: list[bool] = []

    def logits(image: torch.Tensor) -> torch.Tensor:
        next(event for event in begun if not event.is_set()).set()
        output: torch.Tensor = network(image)
        return output

    def waiting(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> Counts:
        next_one = min(len(counted) // 2 + 1, len(begun) - 1)  # two counts a patient
        counted.append(begun[next_one].wait(10))
        return count(predicted, true)

    monkeypatch.setattr("segtrain.evaluation.evaluate.count", waiting)
    whole_volumes = EvaluateConfig(pictures=0, batch=max(patient.slices for patient in tiny_store.patients.values()))
    evaluate(Predictor(logits, whole_volumes, CPU), make_loss("dice"), tiny_store, sorted(tiny_store.patients), World())
    assert counted == [True] * 2 * len(begun)


def test_the_device_has_the_next_patient_before_one_is_waited_for(
    tiny: Config, tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the probabilities and for the loss, by another thread than the one that feeds the device."""
    network = probability_net(tiny)
    begun = [threading.Event() for _ in tiny_store.patients]
    waited: list[tuple[bool, bool]] = []
    fences = itertools.count()

    def logits(image: torch.Tensor) -> torch.Tensor:
        next(event for event in begun if not event.is_set()).set()
        output: torch.Tensor = network(image)
        return output

    def fence(device: torch.device) -> Callable[[], None]:
        following = min(next(fences) // 2 + 1, len(begun) - 1)  # two fences a patient
        feeder = threading.current_thread()

        def wait() -> None:
            waited.append((threading.current_thread() is feeder, begun[following].wait(10)))

        return wait

    monkeypatch.setattr("segtrain.evaluation.evaluate.fence", fence)
    monkeypatch.setattr("segtrain.evaluation.predictor.fence", fence)
    whole_volumes = EvaluateConfig(pictures=0, batch=max(patient.slices for patient in tiny_store.patients.values()))
    evaluate(Predictor(logits, whole_volumes, CPU), make_loss("dice"), tiny_store, sorted(tiny_store.patients), World())
    assert waited == [(False, True)] * 2 * len(begun)


def test_an_error_while_counting_ends_the_evaluation(
    tiny: Config, tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> Counts:
        raise ValueError("counts")

    monkeypatch.setattr("segtrain.evaluation.evaluate.count", failing)
    with pytest.raises(ValueError, match="counts"):
        run(World(), tiny, tiny_store, EvaluateConfig(pictures=0))


def test_scores_are_those_of_a_plain_computation(tiny: Config, tiny_store: Store) -> None:
    network = probability_net(tiny)
    result = run(World(), tiny, tiny_store, EvaluateConfig(pictures=0))
    assert result is not None
    everything = []
    for score in result.scores:
        image, mask = tiny_store.volume(score.patient)
        with torch.inference_mode():
            x = torch.from_numpy(image.astype(np.float32)).permute(0, 3, 1, 2)
            probability = torch.sigmoid(network(x))[:, 0].numpy()
        predicted = largest_component(probability > 0.5)
        assert score.dsc == pytest.approx(
            2 * (predicted & (mask > 0)).sum() / (predicted.sum() + mask.sum()), abs=1e-12
        )
        assert score.regions[LESION].all_components.tp == int(((probability > 0.5) & (mask > 0)).sum())
        everything.append((probability.ravel(), mask.ravel()))
    p, m = (np.concatenate(part).astype(np.float64) for part in zip(*everything, strict=True))
    assert result.loss == pytest.approx(1 - (2 * (p * m).sum() + 1) / (p.sum() + m.sum() + 1), abs=1e-6)
    assert result.dsc.mean == pytest.approx(np.mean([s.dsc for s in result.scores]), abs=1e-12)


def test_the_components_switch_is_honoured(tiny: Config, tiny_store: Store) -> None:
    result = run(World(), tiny, tiny_store, EvaluateConfig(pictures=0, largest_component=False))
    assert result is not None
    regions = [score.regions[LESION] for score in result.scores]
    assert all(region.scored == region.all_components for region in regions)
    kept = run(World(), tiny, tiny_store, EvaluateConfig(pictures=0))
    assert kept is not None
    assert counts(kept) != counts(result)


@pytest.mark.law("L3")
@given(
    slices=st.dictionaries(st.text("ABC123", min_size=1), st.integers(1, 90), max_size=40), world_size=st.integers(1, 9)
)
def test_each_patient_goes_to_one_rank(slices: dict[str, int], world_size: int) -> None:
    ranks = assign(slices, world_size)
    assert len(ranks) == world_size
    assert sorted(p for rank in ranks for p in rank) == sorted(slices)
    load = [sum(slices[p] for p in rank) for rank in ranks]
    assert max(load) - min(load) <= max(slices.values(), default=0)


@pytest.mark.law("L3")
@pytest.mark.parametrize("fault", ["missing", "twice", "stranger"])
def test_rank_0_refuses_a_gathering_that_is_not_the_split(tiny: Config, tiny_store: Store, fault: str) -> None:
    result = run(World(), tiny, tiny_store, EvaluateConfig(pictures=0))
    assert result is not None
    scores, patients, loss = list(result.scores), sorted(tiny_store.patients), make_loss("dice")
    assert combine(scores[::-1], patients, loss).dsc == result.dsc
    match fault:
        case "missing":
            scores = scores[1:]
        case "twice":
            scores.append(scores[0])
        case "stranger":
            scores[0] = replace(scores[0], patient="SOMEONE")
    with pytest.raises(AssertionError, match="gathered"):
        combine(scores, patients, loss)


def test_views_and_small_components_count_in_the_prediction_alone(tiny: Config, tiny_store: Store) -> None:
    """Against the volume predicted by hand: the loss stays that of the slices as they are."""
    network = probability_net(tiny)
    cfg = EvaluateConfig(pictures=0, tta="flips", min_component_voxels=5, largest_component=False)
    patient = sorted(tiny_store.patients)[0]
    plain_cfg = EvaluateConfig(pictures=0)
    plain, found = (
        evaluate(Predictor(network, settings, CPU), make_loss("dice"), tiny_store, [patient], World())
        for settings in (plain_cfg, cfg)
    )
    assert plain is not None
    assert found is not None
    image_shwc, mask_shw = tiny_store.volume(patient)
    image = torch.from_numpy(image_shwc.astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        flips: list[tuple[int, ...]] = [(), (3,), (2,), (2, 3)]
        mean = sum(torch.sigmoid(network(image.flip(dims))).flip(dims) for dims in flips) / 4
    assert isinstance(mean, torch.Tensor)
    predicted = drop_small((mean[:, 0] > 0.5).numpy(), 5)
    assert found.scores[0].regions[LESION].scored == count(predicted, mask_shw.astype(bool))
    assert found.scores[0].regions[LESION].scored != plain.scores[0].regions[LESION].all_components
    assert found.loss == plain.loss


def test_a_loss_whose_weight_moves_is_that_of_the_progress(tiny: Config, tiny_store: Store) -> None:
    predictor = Predictor(probability_net(tiny), EvaluateConfig(pictures=0), CPU)
    patients = sorted(tiny_store.patients)[:2]
    cfg: LossConfig = {"dice": 1.0, "bce": Ramp(start=0.0, end=1.0)}
    loss = make_loss(cfg)
    at = {
        progress: evaluate(predictor, loss, tiny_store, patients, World(), progress=progress)
        for progress in (0.0, 0.5, 1.0)
    }
    start, middle, end = (result.loss for result in at.values() if result is not None)
    assert middle == pytest.approx((start + end) / 2)
    assert end > start


def test_a_probability_at_the_threshold_is_not_predicted(tiny_store: Store) -> None:
    """As in the reference protocol, which takes what is greater than 0.5: sigmoid(0) is 0.5 exactly."""
    patient = sorted(tiny_store.patients)[0]

    def counted(logit: float) -> Counts:
        predictor = Predictor(lambda image: torch.full_like(image[:, :1], logit), EvaluateConfig(), CPU)
        score, *_ = score_patient(predictor, None, tiny_store, patient, draw=False)
        return score.regions[LESION].all_components

    assert counted(0.0).tp + counted(0.0).fp == 0
    assert counted(1e-6).fn == 0, "and a little more is"
