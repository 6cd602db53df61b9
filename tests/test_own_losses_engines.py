"""Losses of the user's own in a training: the same losses and weights at any world size and micro-batch (L5, L13)."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import STEPS, batch, config, furthest, go_on, make, meet_infinity, network, train
from ranks import run_ranks
from torch import Tensor, nn

from segtrain.config import Config, EvaluateConfig, LossConfig, OptimConfig, Ramp, TrainConfig
from segtrain.config.importing import load
from segtrain.config.reference import Reference
from segtrain.data.store import Store
from segtrain.engines.engine import make_engine
from segtrain.evaluation.evaluate import Evaluation, evaluate
from segtrain.evaluation.predictor import Predictor
from segtrain.losses.loss import DeepSupervision, make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import CPU, World

needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is not installed")
PARTS = Path(__file__).parent / "parts" / "losses.py"
REFERENCE_DICE = f"{PARTS}:ReferenceDice"
HARDEST = f"{PARTS}:HardestOfTheBatch"
DDP = [(None, ranks, micro) for ranks in (1, 2, 4) for micro in (None, 1)]
ZERO = [pytest.param(zero, 2, micro, marks=needs_deepspeed) for zero, micro in ((0, None), (1, 3), (2, None), (3, 3))]
# A loss that couples samples, one that does not, and one of ours, with weights that move.
SUM: LossConfig = {HARDEST: Ramp(start=1.0, end=0.5), f"{PARTS}:focal_map": {"weight": 2.0, "gamma": 1.0}, "dice": 0.5}


def in_parts(cfg: Config, micro_batch: int | None) -> Config:
    return replace(cfg, train=TrainConfig(global_batch=8, micro_batch=micro_batch))


@pytest.mark.law("L5")
@pytest.mark.law("L13")
@pytest.mark.parametrize(("zero", "ranks", "micro_batch"), [*DDP, *ZERO])
def test_a_dice_on_probabilities_trains_as_ours(zero: int | None, ranks: int, micro_batch: int | None) -> None:
    """In the reference program's conventions; weights within 2e-5, losses within 1e-6 of those of `dice`."""
    losses, model, moments, _ = train(World(), config(None, loss="dice"))
    cfg = in_parts(config(zero, loss=REFERENCE_DICE), micro_batch)
    for rank, answer in enumerate(run_ranks(ranks, train, cfg)):
        assert answer[0] == pytest.approx(losses, abs=1e-6)
        if rank == 0:
            assert furthest(answer[1], model) < 2e-5
            assert furthest(answer[2], moments) < 2e-5


@pytest.mark.law("L5")
@pytest.mark.law("L13")
@pytest.mark.parametrize(("zero", "ranks", "micro_batch"), [*DDP, *ZERO])
def test_a_loss_that_couples_samples_is_exact(zero: int | None, ranks: int, micro_batch: int | None) -> None:
    """The hardest voxels of the whole batch are not those of its parts."""
    losses, model, _, _ = train(World(), config(None, loss=SUM))
    answers = run_ranks(ranks, train, in_parts(config(zero, loss=SUM), micro_batch))
    assert len({tuple(answer[0]) for answer in answers}) == 1
    assert answers[0][0] == pytest.approx(losses, abs=1e-6)
    assert furthest(answers[0][1], model) < 2e-5


@pytest.mark.quick
@pytest.mark.law("L5")
@pytest.mark.law("L13")
def test_its_gradient_is_that_of_a_plain_training() -> None:
    """One step of plain gradient descent, by torch alone."""
    image, mask = batch(0)
    plain = network()
    loss = load(Reference.of(HARDEST))()(plain(image), mask)
    loss.backward()
    expected = {name: (p - 0.1 * p.grad).detach().numpy() for name, p in plain.named_parameters() if p.grad is not None}
    rule = OptimConfig(name="sgd", momentum=0.0, lr=0.1, weight_decay=0.0)
    for micro_batch in (None, 3):
        cfg = in_parts(config(None, loss=HARDEST, optim=rule), micro_batch)
        engine = make(cfg, World())
        assert engine.step(image, mask, 0.1).item() == pytest.approx(loss.item(), abs=1e-7)
        weights = {name: p.detach().numpy() for name, p in engine.network.named_parameters()}
        assert furthest(weights, expected) < 1e-7


def test_a_loss_that_gathers_by_itself_sees_one_rank() -> None:
    gathering = f"{PARTS}:Gathering"
    losses = train(World(), config(None, loss=gathering))[0]
    assert run_ranks(2, train, config(None, loss=gathering))[1][0] == pytest.approx(losses, abs=1e-6)


@pytest.mark.parametrize("zero", [None, pytest.param(1, marks=needs_deepspeed)])
def test_fp16_scales_a_coupled_loss(zero: int | None) -> None:
    full = train(World(), config(None, loss=HARDEST))[0]
    assert run_ranks(2, train, config(zero, loss=HARDEST, precision="fp16"))[0][0] == pytest.approx(full, abs=5e-2)


@pytest.mark.law("L8")
def test_a_coupled_loss_that_is_not_finite_is_so_on_all_ranks() -> None:
    for before, loss, after in run_ranks(2, meet_infinity, config(None, loss=HARDEST)):
        assert before
        assert np.isnan(loss)
        assert not after


class Outputs(nn.Module):
    """Two outputs when it trains, as with deep supervision."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.coarse = network(), nn.Conv2d(3, 1, 1)
        with torch.no_grad():
            self.coarse.weight.fill_(0.3)
            self.coarse.bias.fill_(0.1)  # type: ignore[union-attr]

    def forward(self, image: Tensor) -> Tensor:
        if not self.training:
            return self.inner(image)  # type: ignore[no-any-return]
        return torch.stack((self.inner(image), self.coarse(image)), dim=1)


def train_supervised(world: World, cfg: Config) -> tuple[list[float], dict[str, np.ndarray]]:
    engine = make_engine(cfg, Outputs(), DeepSupervision(make_loss(cfg.loss), 0.5), world)
    losses = go_on(engine, cfg, world, range(STEPS))
    return losses, {name: p.detach().numpy() for name, p in engine.network.named_parameters()}


@pytest.mark.law("L5")
def test_each_output_of_deep_supervision_has_the_coupled_loss() -> None:
    losses, weights = train_supervised(World(), config(None, loss=SUM))
    for micro_batch in (None, 3):
        other_losses, other = run_ranks(2, train_supervised, in_parts(config(None, loss=SUM), micro_batch))[0]
        assert other_losses == pytest.approx(losses, abs=1e-6)
        assert furthest(other, weights) < 2e-5
    image, mask = batch(0)
    outputs = Outputs()(image)
    module = load(Reference.of(HARDEST))()
    expected = sum(weight / 3 * module(outputs[:, place], mask) for place, weight in enumerate((2, 1)))
    engine = make_engine(config(None, loss=HARDEST), Outputs(), DeepSupervision(make_loss(HARDEST), 0.5), World())
    assert engine.step(image, mask, 0.0).item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_rehearsal_gives_a_coupled_loss_the_whole_batch() -> None:
    """Whose memory does not shrink with the micro-batch."""
    cfg = in_parts(config(None, loss=HARDEST), 2)
    loss = make_loss(cfg.loss)
    sizes: list[int] = []
    sums = loss.sums

    def watched(logits: Tensor, mask: Tensor) -> Tensor:
        sizes.append(len(logits))
        return sums(logits, mask)

    loss.sums = watched  # type: ignore[method-assign]
    engine = make_engine(cfg, network(), loss, World())
    before = {name: tensor.clone() for name, tensor in engine.network.state_dict().items()}
    engine.rehearse()
    assert sizes == [8]
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.network.state_dict().items())
    assert all(parameter.grad is None for parameter in engine.network.parameters())


def score(world: World, cfg: Config, store: Store, batch: int) -> Evaluation | None:
    module = make_model(cfg.model, seed=0).eval()
    predictor = Predictor(module, EvaluateConfig(pictures=0, batch=batch), CPU)
    return evaluate(predictor, make_loss({HARDEST: 1.0, "dice": 0.5}), store, sorted(store.patients), world)


@pytest.mark.law("L5")
def test_its_validation_loss_depends_neither_on_ranks_nor_on_batches(tiny: Config, tiny_store: Store) -> None:
    alone = score(World(), tiny, tiny_store, 7)
    assert alone is not None
    module, hardest = make_model(tiny.model, seed=0).eval(), load(Reference.of(HARDEST))()
    dice, total, slices = make_loss("dice"), 0.0, 0
    sums = torch.zeros(3)
    for patient in sorted(tiny_store.patients):
        image, mask = tiny_store.volume(patient)
        with torch.no_grad():
            logits = module(torch.from_numpy(image.astype(np.float32)).permute(0, 3, 1, 2))
        truth = torch.from_numpy(mask.astype(np.float32))[:, None]
        total, slices = total + len(mask) * hardest(logits, truth).item(), slices + len(mask)
        sums += dice.sums(logits, truth)
    assert alone.loss == pytest.approx(total / slices + 0.5 * dice.value(sums).item(), abs=1e-5)
    assert run_ranks(3, score, tiny, tiny_store, 64)[0].loss == pytest.approx(alone.loss, abs=1e-6)
