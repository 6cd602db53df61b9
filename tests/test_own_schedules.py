"""Schedules: the built-in ones against torch's, the user's own as tables; a whole training with own parts (L6, L13)."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR
from trainings import HeldJob, assert_same, run_to_end, state_of

from segtrain.config import SCHEDULES, Config, OptimConfig, load_config
from segtrain.config.trial import Check
from segtrain.engines.schedules import Schedule, make_schedule
from segtrain.errors import ConfigError

PARTS = Path(__file__).parent / "parts"
TORCH = "torch.optim.lr_scheduler"
STEPS, PER_EPOCH = 100, 10


def schedule(part: str, lr: float = 1e-2, warmup_steps: int = 0, **options: Any) -> Schedule:
    """By the name of a built-in, of one of the parts for tests, or by an import path."""
    name = part if part in SCHEDULES or ":" in part else f"{PARTS / 'schedules.py'}:{part}"
    choice: Any = {"part": name, **options} if options else name
    return make_schedule(OptimConfig(schedule=choice, lr=lr, warmup_steps=warmup_steps), STEPS, PER_EPOCH)


def of_torch(kind: Any, steps: int, lr: float, **options: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler: LRScheduler = kind(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if len(rates) < steps:
            scheduler.step()
    return rates


@pytest.mark.parametrize("anneal_strategy", ["cos", "linear"])
def test_one_cycle_is_torch_s(anneal_strategy: Any) -> None:
    options = {"pct_start": 0.2, "div_factor": 10.0, "anneal_strategy": anneal_strategy}
    ours = schedule("one_cycle", lr=0.3, **options)
    theirs = of_torch(OneCycleLR, STEPS, 0.3, max_lr=0.3, total_steps=STEPS, cycle_momentum=False, **options)
    assert [ours(step) for step in range(STEPS)] == pytest.approx(theirs)


def test_steps_are_torch_s_and_are_counted_in_epochs_or_steps() -> None:
    by_epoch, by_step = schedule("step", step_size=3), schedule("step", step_size=3, gamma=0.5, unit="step")
    epochs = of_torch(StepLR, 10, 1e-2, step_size=3)
    assert [by_epoch(step) for step in range(STEPS)] == pytest.approx(
        [epochs[step // PER_EPOCH] for step in range(STEPS)]
    )
    assert [by_step(step) for step in range(12)] == pytest.approx(of_torch(StepLR, 12, 1e-2, step_size=3, gamma=0.5))


def test_options_of_built_in_schedules_go_before_the_keys_of_old() -> None:
    assert schedule("polynomial", power=2)(50) == pytest.approx(1e-2 * 0.25)
    old = make_schedule(OptimConfig(schedule="polynomial", power=2, lr=1e-2), STEPS, PER_EPOCH)
    assert [old(step) for step in range(STEPS)] == [schedule("polynomial", power=2)(step) for step in range(STEPS)]
    assert schedule("warmup_cosine", final_lr_ratio=0.5)(STEPS) == pytest.approx(5e-3)


@pytest.mark.parametrize(
    ("part", "options", "expected"),
    [
        ("step_decay", {}, {0: 1e-2, 33: 1e-2, 34: 1e-3, 99: 1e-4}),
        ("step_decay", {"drops": 1, "unit": "epoch"}, {0: 1e-2, 49: 1e-2, 50: 1e-3}),
        ("halves", {}, {0: 1e-2, 34: 5e-3, 99: 2.5e-3}),
        ("by_epoch", {}, {0: 1e-2, 9: 1e-2, 10: 9e-3, 99: 1e-3}),
        ("rates", {}, {0: 1e-2, 50: 1e-2 * 0.5**0.9}),
        ("rates_as_numbers", {"lr": 3e-3}, {0: 3e-3, 50: 1.5e-3}),
        ("unnamed", {}, {0: 1e-2, 75: 5e-3}),
        ("unnamed_pair", {}, {0: 1e-2, 99: 1e-4}),
        ("Wave", {"waves": 1}, {0: 1e-2, 50: 5e-3}),
        ("PolyRate", {}, {0: 1e-2, 50: 1e-2 * 0.5**0.9}),
        ("PolyRate", {"unit": "epoch"}, {0: 1e-2, 9: 1e-2, 50: 1e-2 * 0.5**0.9, 59: 1e-2 * 0.5**0.9}),
        ("Told", {}, {0: 1e-2, 9: 1e-2, 10: 9e-3, 99: 1e-3}),
        ("Told", {"t_in_epochs": False}, {0: 1e-2, 1: 9.9e-3, 99: 1e-4}),
        ("WarmUp", {"multiplier": 2, "total_epoch": 5}, {0: 1e-2, 10: 1.2e-2, 99: 2e-2}),
        (f"{TORCH}:OneCycleLR", {}, {0: 4e-4, 29: 1e-2, 99: 4e-8}),
        (f"{TORCH}:StepLR", {"step_size": 3, "unit": "epoch"}, {29: 1e-2, 30: 1e-3, 99: 1e-5}),
        (f"{TORCH}:CosineAnnealingLR", {}, {0: 1e-2, 50: 5e-3}),
        (f"{TORCH}:ExponentialLR", {"gamma": 0.9, "unit": "step"}, {0: 1e-2, 2: 8.1e-3}),
    ],
)
def test_a_schedule_of_one_s_own_is_a_function_of_the_step(
    part: str, options: dict[str, Any], expected: dict[int, float]
) -> None:
    made, again = schedule(part, **options), schedule(part, **options)
    assert {step: made(step) for step in expected} == pytest.approx(expected)
    assert [made(step) for step in reversed(range(STEPS))] == [again(step) for step in range(STEPS)][::-1]
    assert made(STEPS + 50) == made(STEPS - 1)


def test_the_warm_up_comes_before() -> None:
    made = schedule("by_epoch", warmup_steps=20)
    assert [made(step) for step in (0, 19, 20, 29, 30)] == pytest.approx([5e-4, 1e-2, 1e-2, 1e-2, 1e-2 * 7 / 8])


def test_a_line_tells_what_was_found() -> None:
    assert schedule("step_decay", drops=1).description == (
        "schedules.py:step_decay(drops=1, total_steps=100): f(step), factors of optim.lr, by step; from 0.01 to 0.001, "
        "at most 0.01"
    )
    assert (
        "PolyRate(max_steps=100, initial_lr=0.01): a scheduler, run through, by step"
        in schedule("PolyRate").description
    )


@pytest.mark.law("L13")
@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("NeverPoly", "is 0.01 throughout, as optim.schedule=constant would be"),
        (f"{TORCH}:OneCycleLR", "begins at 0.0004, not at optim.lr=0.01; its highest rate is 0.01"),
    ],
)
def test_a_trap_is_found(part: str, words: str) -> None:
    warnings = [check.message for check in schedule(part).checks if check.verdict == "warning"]
    assert len(warnings) == 1
    assert words in warnings[0]
    assert schedule("step_decay").checks == (Check("rates", "holds", "0.0001 to 0.01"),)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("part", "options", "words"),
    [
        (f"{TORCH}:ReduceLROnPlateau", {}, "follows a metric, which is no function of the step"),
        ("Plateau", {}, "needs metrics at each step"),
        (f"{TORCH}:StepLR", {"step_size": 3}, "set optim.schedule.unit=step or epoch"),
        (f"{TORCH}:StepLR", {}, "needs step_size; set optim.schedule.step_size"),
        (f"{TORCH}:LambdaLR", {}, r"needs lr_lambda; .* write a function f\(step, total_steps\)"),
        (f"{TORCH}:OneCycleLR", {"pct": 0.2}, r"has no option pct \(did you mean pct_start\?\)"),
        ("step_decay", {"unit": "weeks"}, "optim.schedule.unit='weeks': choose step or epoch"),
        ("either", {}, "may be a function of the step or of the progress; call its parameter x step or progress"),
        ("too_low", {}, "gives 1e-09 to 1e-07, neither factors of optim.lr"),
        ("below_zero", {}, "gives -0.98 to 1, neither"),
        ("NotCallable", {}, "is a float; name a class or a function"),
        ("step", {"unit": "weeks"}, "optim.schedule.unit='weeks': choose epoch or step"),
        ("step", {"step_size": 0}, "optim.schedule=step: fails with"),
        ("one_cycle", {"anneal_strategy": "cubic"}, "choose cos or linear"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_reason(part: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        schedule(part, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.power=2"], "optim.power=2.0 means nothing to optim.schedule="),
        (["optim.schedule.drop=2"], r"has no option drop \(did you mean drops\?\)"),
        (["optim.schedule={part: polynomial, power: 2}", "optim.power=3"], "are the same setting; leave one out"),
        (["optim.schedule=one_cycle", "optim.final_lr_ratio=0.1"], "means nothing to optim.schedule=one_cycle"),
        (["optim.schedule=stp"], "did you mean 'step'"),
        (["optim.schedule=polynomial", "optim.schedule.powr=2"], "did you mean power"),
    ],
)
def test_a_key_that_a_schedule_does_not_read_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(None, [f"optim.schedule={PARTS / 'schedules.py'}:step_decay", *overrides])


def test_the_unit_is_an_option_of_every_own_schedule() -> None:
    cfg = load_config(None, [f"optim.schedule={PARTS / 'schedules.py'}:step_decay", "optim.schedule.unit=epoch"])
    assert make_schedule(cfg.optim, STEPS, PER_EPOCH).description.count("by epoch") == 1


def kill_after_a_save(directory: Path, cfg: Config) -> None:
    """Kill it in the middle, once it has saved."""
    job = HeldJob(directory, cfg, 1)
    job.wait_until_held()
    job.kill(0)
    assert job.wait() == [-signal.SIGKILL], job.output()


@pytest.mark.law("L6")
@pytest.mark.law("L13")
def test_a_training_with_own_optimiser_and_schedule_is_killed_and_resumed_bitwise(
    fragile: Config, tmp_path: Path
) -> None:
    """An optimiser with a Python counter, and lists in its groups; a scheduler that is told the epoch."""
    optim = OptimConfig(
        name={"part": f"{PARTS / 'optimizers.py'}:Belief", "betas": [0.8, 0.99]},
        schedule=f"{PARTS / 'schedules.py'}:Told",
        lr=3e-3, warmup_steps=3, weight_decay=0.01, clip_norm=1.0, ema=0.9,
    )  # fmt: skip
    cfg = replace(fragile, optim=optim)
    unbroken = state_of(run_to_end(tmp_path / "unbroken", cfg, 1))
    kill_after_a_save(tmp_path / "broken", cfg)
    assert_same(state_of(run_to_end(tmp_path / "broken", cfg, 1)), unbroken)
    assert len({event["lr"] for event in unbroken["events"] if "lr" in event}) > 2
