"""One conformance suite for all engines: what the training loop relies on holds at any number of ranks (L5, L8, L9)."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_runs import (
    STEPS,
    Learnt,
    config,
    furthest,
    go_on,
    link,
    link_offloaded,
    make,
    meet_infinity,
    overflow,
    train,
    train_recomputed,
)
from long_form import all_of
from ranks import run_ranks

from segtrain.config import Config, DeepSpeedConfig, ModelConfig, OptimConfig, TrainConfig
from segtrain.engines.zero import settings_of
from segtrain.errors import LaunchError
from segtrain.runtime.world import World

needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is not installed")
ENGINES = [
    pytest.param(zero, ranks, id=f"{'ddp' if zero is None else f'zero{zero}'}-{ranks}",
                 marks=[] if zero is None else needs_deepspeed)
    for zero in (None, 0, 1, 2, 3) for ranks in (1, 2)
]  # fmt: skip


@pytest.mark.law("L5")
@pytest.mark.parametrize("micro_batch", [None, 1, 3])
@pytest.mark.parametrize(("zero", "ranks"), ENGINES)
def test_an_engine_trains_as_a_single_process_does(zero: int | None, ranks: int, micro_batch: int | None) -> None:
    """Clipping, schedule, a loss that moves, the average, accumulation, evaluation: all in one comparison."""
    losses, model, moments, logits = train(World(), config(None))
    cfg = config(zero, train=TrainConfig(global_batch=8, micro_batch=micro_batch))
    answers = run_ranks(ranks, train, cfg)
    for rank, (other_losses, other_model, other_moments, other_logits) in enumerate(answers):
        assert other_losses == pytest.approx(losses, abs=1e-6)
        assert np.abs(other_logits - logits).max() < 1e-4
        if rank == 0:
            assert furthest(other_model, model) < 2e-5
            assert furthest(other_moments, moments) < 2e-5
    assert any(key.endswith("/trained") for key in moments)


@pytest.mark.law("L5")
@pytest.mark.parametrize(("zero", "ranks"), ENGINES)
def test_batch_norm_is_of_the_global_batch(zero: int | None, ranks: int) -> None:
    """Losses, weights and running statistics are those of one process, and the latter equal on all ranks."""
    losses, model, _, logits = train(World(), config(None), True)
    answers = run_ranks(ranks, train, config(zero), True)
    assert all(np.array_equal(answers[0][3], other[3]) for other in answers)
    assert answers[0][0] == pytest.approx(losses, abs=1e-6)
    assert furthest(answers[0][1], model) < 2e-5
    assert np.abs(answers[0][3] - logits).max() < 1e-4
    assert answers[0][1]["1.num_batches_tracked"] == STEPS


# Each has other moments, but for adam, which has those of adamw; every engine trains with it in the test above.
RULES = ["adam", "adamw", "sgd", "sgd without momentum"]


@pytest.mark.law("L9")
@needs_deepspeed
@pytest.mark.parametrize("optim", all_of(RULES, short=RULES[1:]))
def test_a_run_goes_from_engine_to_engine_and_world_size_to_world_size(optim: str) -> None:
    """ddp, zero1, zero3, ddp, zero2, zero0, a step each, as a run that never changed."""
    chain = [(None, 1), (1, 2), (3, 2), (None, 2), (2, 1), (3, 1), (0, 2), (None, 1)]
    name, _, without = optim.partition(" ")
    momentum = 0.0 if without else 0.9
    rule = OptimConfig(name=name, lr=1e-2, ema=0.5, weight_decay=0.01, momentum=momentum)
    changes = {"optim": rule}
    alone = link(World(), config(None, **changes), None, range(len(chain)))
    given, losses = None, []
    for step, (zero, ranks) in enumerate(chain):
        answer = run_ranks(ranks, link, config(zero, **changes), given, range(step, step + 1))[0]
        losses += answer[0]
        given = answer[1:]
    assert losses == pytest.approx(alone[0], abs=1e-5)
    assert given is not None
    assert furthest(given[0], alone[1]) < 2e-5
    assert furthest(given[1], alone[2]) < 2e-5
    assert json.loads(given[2])["averaged"] == len(chain)


def spoil_what_lies_behind(world: World, cfg: Config) -> list[bool]:
    engine = make(cfg, world)
    go_on(engine, cfg, world, range(1))
    assert all(p.numel() == 0 for p in engine.network.parameters()), "each weight was given back"
    part = next(p.ds_tensor for name, p in engine.network.named_parameters() if name == "3.weight")  # type: ignore[attr-defined]
    found = []
    for place, value in ((-1, torch.nan), (0, torch.inf)):
        part.data[place] = value
        found.append(engine.finite())
    return found


@needs_deepspeed
def test_what_fills_up_a_last_part_is_no_weight() -> None:
    """45 weights over two ranks are 23 and 22 and one number that is none."""
    first, last = run_ranks(2, spoil_what_lies_behind, config(3))
    assert first == [False, False]
    assert last == [True, False]


@pytest.mark.law("L8")
@pytest.mark.parametrize(("zero", "ranks"), ENGINES)
def test_a_loss_that_is_not_finite_is_so_on_all_ranks(zero: int | None, ranks: int) -> None:
    for before, loss, after in run_ranks(ranks, meet_infinity, config(zero)):
        assert before
        assert np.isnan(loss)
        assert not after or zero, "ZeRO leaves the step out"


@needs_deepspeed
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_bf16_keeps_float32_weights(zero: int) -> None:
    losses, model, moments, _ = run_ranks(2, train, config(zero, precision="bf16"), True)[0]
    full = train(World(), config(None), True)[0]
    assert losses != full
    assert all(value.dtype in (np.float32, np.int64) for value in (*model.values(), *moments.values()))


@pytest.mark.parametrize(("zero", "ranks"), [engine for engine in ENGINES if engine.values[1] == 2])
def test_fp16_goes_on_with_its_loss_scale(zero: int | None, ranks: int) -> None:
    """ZeRO sums float16 gradients, so its losses are near those of DDP only."""
    cfg = config(zero, precision="fp16")
    full = link(World(), config(None), None, range(3))[0]
    losses, *given = run_ranks(ranks, link, cfg, None, range(2))[0]
    more, *after = run_ranks(ranks, link, cfg, tuple(given), range(2, 3))[0]
    assert losses + more == pytest.approx(full, abs=2e-2)
    before, now = (json.loads(extra)["scaler"] for extra in (given[2], after[2]))
    assert before["scale"] == now["scale"] > 1
    assert 0 < before["_growth_tracker"] < now["_growth_tracker"]


@needs_deepspeed
@pytest.mark.parametrize("changes", ["", "offload", "micro_batch"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_fp16_lowers_its_loss_scale_as_ddp_does(zero: int, changes: str) -> None:
    """Clipped, with an overflow in the first step and in a later one: what is left of it is one training."""
    train = TrainConfig(global_batch=8, micro_batch=3 if changes == "micro_batch" else None)
    cfg = config(zero, precision="fp16", train=train)
    cfg = replace(cfg, deepspeed=replace(cfg.deepspeed, offload=changes == "offload" and zero > 0))
    expected = run_ranks(2, overflow, config(None, precision="fp16", train=train), (0, 2))[0]
    losses, scales, model, moments = run_ranks(2, overflow, cfg, (0, 2))[0]
    assert scales == expected[1] == [2.0**15, 2.0**15, 2.0**14, 2.0**14]
    assert losses == pytest.approx(expected[0], abs=1e-4)
    assert furthest(model, expected[2]) < 5e-5
    assert furthest(moments, expected[3]) < 5e-5


def overflow_where_memory_has_numbers(world: World, cfg: Config, infinite: tuple[int, ...]) -> Learnt:
    """As `overflow`, where memory that nothing was written to holds NaN."""
    empty_like = torch.empty_like
    setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(torch.nan))  # noqa: B010
    return overflow(world, cfg, infinite)


@pytest.mark.parametrize("dampening", [0.0, 0.5])
@pytest.mark.parametrize("zero", [None, pytest.param(0, marks=needs_deepspeed)])
def test_momentum_begins_with_the_first_step_that_is_taken(zero: int | None, dampening: float) -> None:
    """A first step that overflows is as none."""
    changes = {"name": {"part": "sgd", "dampening": dampening}} if dampening else {"name": "sgd"}
    cfg = config(zero, precision="fp16", optim=OptimConfig(lr=1e-2, **changes))
    late = run_ranks(2, overflow_where_memory_has_numbers, cfg, (0, 1))[0]
    expected = run_ranks(2, link, replace(cfg, engine="ddp"), None, range(2, STEPS))[0]
    assert late[0][2:] == pytest.approx(expected[0], abs=1e-4)
    assert furthest(late[2], expected[1]) < 5e-5
    assert furthest(late[3], expected[2]) < 5e-5


@needs_deepspeed
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_fp16_raises_its_loss_scale_for_all_groups_at_once(zero: int) -> None:
    """Weights and biases are two groups: the second is divided by the scale that its gradients were multiplied by."""
    _, model, moments, extra = run_ranks(1, link, config(None, precision="fp16"), None, range(1))[0]
    scaler = {**json.loads(extra)["scaler"], "_growth_tracker": 1999}
    checkpoint = model, moments, json.dumps({**json.loads(extra), "scaler": scaler})
    expected, answer = (
        run_ranks(2, link, config(each, precision="fp16"), checkpoint, range(1, 4))[0] for each in (None, zero)
    )
    assert json.loads(answer[3])["scaler"] == json.loads(expected[3])["scaler"]
    assert json.loads(answer[3])["scaler"]["scale"] == 2.0**17
    assert furthest(answer[1], expected[1]) < 5e-5


@pytest.mark.law("L9")
@needs_deepspeed
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_moments_on_the_cpu_are_the_same_training(zero: int) -> None:
    """Through a checkpoint in the middle."""
    alone = link(World(), config(None), None, range(STEPS))
    cfg = config(zero)
    cfg = replace(cfg, deepspeed=replace(cfg.deepspeed, offload=True))
    losses, *given = run_ranks(2, link_offloaded, cfg, None, range(2))[0]
    more, *after = run_ranks(2, link_offloaded, cfg, tuple(given), range(2, STEPS))[0]
    assert losses + more == pytest.approx(alone[0], abs=1e-6)
    assert furthest(after[0], alone[1]) < 2e-5
    assert furthest(after[1], alone[2]) < 2e-5


@pytest.mark.parametrize(("zero", "ranks"), [engine for engine in ENGINES if engine.values[1] == 2])
def test_an_engine_computes_activations_again(zero: int | None, ranks: int) -> None:
    """Under ZeRO 3 weights are fetched once more for it."""
    losses, model, moments, logits = train(World(), config(None))
    cfg = config(zero, model=ModelConfig(checkpoint_activations=True), train=TrainConfig(global_batch=8, micro_batch=3))
    for rank, (again, answer) in enumerate(run_ranks(ranks, train_recomputed, cfg)):
        assert again >= STEPS
        assert answer[0] == pytest.approx(losses, abs=1e-6)
        assert np.abs(answer[3] - logits).max() < 1e-4
        if rank == 0:
            assert furthest(answer[1], model) < 2e-5
            assert furthest(answer[2], moments) < 2e-5


def test_deepspeed_s_json_is_made_of_the_config() -> None:
    extra = {"zero_optimization": {"overlap_comm": False}, "wall_clock_breakdown": True}
    cfg = config(
        2, train=TrainConfig(global_batch=48, micro_batch=5), precision="bf16",
        deepspeed=DeepSpeedConfig(zero=3, offload=True, extra=extra),
    )  # fmt: skip
    made = settings_of(cfg, world_size=4)
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (5, 3)
    assert made["gradient_clipping"] == 0.05
    zero = made["zero_optimization"]
    assert (zero["stage"], zero["offload_optimizer"], zero["overlap_comm"]) == (3, {"device": "cpu"}, False)
    assert zero["reduce_bucket_size"] < 1e7, "the rest of its section stays"
    assert made["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert made["wall_clock_breakdown"] is True


@pytest.mark.law("L12")
def test_without_deepspeed_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r"pip install deepspeed"):
        make(config(1), World())
