"""`model.compile=auto`: what the trial decides, that it is written down, kept on resume, and changes nothing else."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trainings import assert_same, state_of

import segtrain
from segtrain.config import Config, load_config
from segtrain.doctor import software
from segtrain.engines.batch_norm import GlobalBatchNorm
from segtrain.engines.engine import Engine, make_engine
from segtrain.errors import ConfigError, LaunchError
from segtrain.run import Run
from segtrain.run.ablation import expand
from segtrain.runtime.machine import Lack
from segtrain.runtime.out_of_memory import OutOfMemory
from segtrain.runtime.world import World
from segtrain.training import auto_compile, build, start
from segtrain.training.auto_compile import CompileChoice, _CannotCompile, _Times, chosen_compile

STEPS = 1000
Timed = Callable[[Config, int, World, bool], _Times]


@pytest.fixture
def auto(tiny: Config) -> Config:
    return replace(tiny, model=replace(tiny.model, compile="auto"))


def choice_of(cfg: Config, steps: int = STEPS) -> CompileChoice:
    """By a run that has not begun."""
    choice = chosen_compile(cfg, Run(Path("/no/such/run")), False, steps, World())
    assert choice is not None
    return choice


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[bool, _Times]:
    """In place of the trials' times, those of this dict, plainly and compiled."""
    times = {False: _Times(1.0, 2.0, 1.0), True: _Times(0.8, 1.6, 30.0)}
    monkeypatch.setattr(auto_compile, "lacks_to_compile", lambda device: None)
    monkeypatch.setattr(auto_compile, "_timed", lambda cfg, samples, world, compiled: times[compiled])
    return times


@pytest.mark.quick
@pytest.mark.parametrize(
    ("own_s", "first_s", "steps", "pays"),
    [
        (1.6, 30.0, STEPS, True),
        (1.95, 30.0, STEPS, False),  # hardly faster
        (1.6, 30.0, 140, False),  # too few steps to save 30 s
        (1.6, 30.0, 160, True),
        (1.6, 250.0, STEPS, False),
        (2.4, 1.0, STEPS, False),
    ],
)
def test_compiling_is_taken_where_it_saves_more_than_it_takes(
    auto: Config, timed: dict[bool, _Times], own_s: float, first_s: float, steps: int, pays: bool
) -> None:
    timed[True] = _Times(9.9, own_s, first_s)
    choice = choice_of(auto, steps)
    assert choice.compile is pays
    assert str(choice) == (
        f"model.compile=auto: {str(pays).lower()}, since a step of 4 slices is {2 / own_s:.2f} times as fast compiled "
        f"in a trial (1 s plainly), and compiling takes {first_s:.0f} s"
    )


@pytest.mark.quick
def test_a_short_training_tries_no_compiler(auto: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """By real steps, of which all together take a second."""
    timed, tried = auto_compile._timed, []

    def noted(cfg: Config, samples: int, world: World, compiled: bool) -> _Times:
        tried.append(compiled)
        return timed(cfg, samples, world, compiled)

    monkeypatch.setattr(auto_compile, "lacks_to_compile", lambda device: None)
    monkeypatch.setattr(auto_compile, "_timed", noted)
    before = torch.get_rng_state()
    choice = choice_of(auto, steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert re.fullmatch(r"since all steps take some \d+ s, in which compiling does not pay", choice.why)
    assert (choice.compile, tried) == (False, [False])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_trial_has_the_norms_of_the_run(auto: Config, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """Those of several ranks, which the compiler leaves out; a trial makes no collectives."""
    norms = []

    def noted(cfg: Config, network: nn.Module, *others: Any) -> Engine:
        engine = make_engine(cfg, network, *others)
        norms.append({type(m) for m in engine.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)})
        return engine

    monkeypatch.setattr(auto_compile, "make_engine", noted)
    cfg = replace(auto, model=replace(auto.model, norm="batch"))
    auto_compile._timed(cfg, 2, World(size=ranks), compiled=False)
    assert norms == [{GlobalBatchNorm if ranks > 1 else nn.BatchNorm2d}]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfMemory("all is used"), "since there is no memory for a trial (all is used)"),
        (_CannotCompile("Unsupported: a set"), "since this network cannot be compiled (Unsupported: a set)"),
    ],
)
def test_a_trial_that_fails_leaves_steps_as_they_are(
    auto: Config, timed: dict[bool, _Times], monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fails(cfg: Config, samples: int, world: World, compiled: bool) -> _Times:
        if compiled:
            raise error
        return timed[False]

    monkeypatch.setattr(auto_compile, "_timed", fails)
    assert choice_of(auto) == CompileChoice(False, words)


@pytest.mark.quick
def test_without_a_compiler_there_is_no_trial(auto: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line says so, and the doctor warns; with model.compile=true it is a failure."""
    lack = Lack("g++", "install one, or set model.compile=false")
    monkeypatch.setattr(auto_compile, "lacks_to_compile", lambda device: lack)
    assert choice_of(auto) == CompileChoice(False, "since there is no g++ (install one)")
    monkeypatch.setattr(software, "lacks_to_compile", lambda device: lack)
    assert software.compiler(auto).state == "warning"
    assert software.compiler(replace(auto, model=replace(auto.model, compile=True))).state == "failure"


def test_what_a_compiler_raises_is_told_and_not_raised(auto: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch.compile itself, when the first step is taken."""

    def backend(*_: object) -> None:
        raise RuntimeError("no code\nfor this")

    compile_with_inductor = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **_: compile_with_inductor(model, backend=backend))
    monkeypatch.setattr(auto_compile, "LEAST_S", 0.0)
    monkeypatch.setattr(auto_compile, "lacks_to_compile", lambda device: None)
    choice = choice_of(auto)
    torch._dynamo.reset()
    assert not choice.compile
    assert "cannot be compiled" in choice.why
    assert "no code for this" in choice.why


@pytest.mark.law("L6")
def test_a_run_trains_as_with_what_it_took_and_keeps_it(
    auto: Config, timed: dict[bool, _Times], tmp_path: Path
) -> None:
    """It ends after one epoch, and goes on for another when compiling would pay."""

    def trained(name: str, epochs: int, cfg: Config = auto) -> Run:
        train = replace(cfg.train, epochs=epochs)
        segtrain.train(replace(cfg, name=name, runs_dir=str(tmp_path), train=train))
        return Run(tmp_path / name)

    timed[True] = _Times(1.0, 4.0, 1.0)
    assert trained("auto", 1).config().model.compile is False
    timed[True] = _Times(0.001, 0.001, 0.0)
    run = trained("auto", 2)
    assert run.config().model.compile is False
    assert "model.compile=auto: false, as the run began" in run.log_file.read_text()
    named = trained("named", 2, replace(auto, model=replace(auto.model, compile=False)))
    assert_same(state_of(named.root), state_of(run.root))


@pytest.mark.law("L12")
def test_a_run_that_began_compiled_is_refused_where_there_is_no_compiler(
    auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "chosen_compile", lambda *_: CompileChoice(True, "as the run began"))
    monkeypatch.setattr(build, "lacks_to_compile", lambda device: Lack("g++", "set model.compile=false"))
    with pytest.raises(LaunchError, match=r"model\.compile=true needs a compiler, .* set model\.compile=false"):
        segtrain.train(replace(auto, runs_dir=str(tmp_path)))
    assert not (tmp_path / auto.name).exists()


@pytest.mark.quick
@pytest.mark.law("L12")
def test_it_is_refused_where_runs_are_compared_or_it_means_nothing(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "{name: a, base: phantom, overrides: {model: {compile: auto}}, variants: {a: {}, b: {loss: bce}}}\n"
    )
    with pytest.raises(ConfigError, match=r"spec\.yaml: model\.compile=auto may choose otherwise for each run"):
        expand(spec, [])
    with pytest.raises(ConfigError, match=r"model\.compile=auto does not go with model\.checkpoint_activations=true"):
        load_config(None, ["model.compile=auto", "model.checkpoint_activations=true"])
