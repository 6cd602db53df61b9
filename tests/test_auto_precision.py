"""`precision=auto`: what the trial decides, that it is written down, kept on resume, and changes nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainings import assert_same, run_to_end, state_of

import segtrain
from segtrain.config import Config, Precision
from segtrain.errors import ConfigError, LaunchError
from segtrain.evaluation.ensemble import select_checkpoints
from segtrain.run import Run
from segtrain.run.ablation import expand
from segtrain.runtime import machine
from segtrain.runtime.out_of_memory import OutOfMemory
from segtrain.runtime.world import World
from segtrain.training import auto_precision, start
from segtrain.training.auto_precision import Chosen, chosen_precision, half_type

CPU = torch.device("cpu")


@pytest.fixture
def auto(tiny: Config) -> Config:
    return replace(tiny, precision="auto")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """In place of the trials' times, those of this dict; the processor has units for bfloat16."""
    times_s = {"fp32": 1.0, "bf16": 1.0}
    monkeypatch.setattr(auto_precision, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr(auto_precision, "_step_s", lambda cfg, device: times_s[cfg.precision])
    return times_s


def chosen(cfg: Config) -> Chosen:
    """By a run that has not begun."""
    choice = chosen_precision(cfg, Run(Path("/no/such/run")), False, World())
    assert choice is not None
    return choice


@pytest.mark.parametrize(("half_s", "precision"), [(0.3, "bf16"), (0.8, "bf16"), (0.9, "fp32"), (3.0, "fp32")])
def test_the_half_type_is_taken_where_it_is_clearly_faster(
    auto: Config, timed: dict[str, float], half_s: float, precision: str
) -> None:
    timed["bf16"] = half_s
    choice = chosen(auto)
    assert choice.precision == precision
    assert str(choice).startswith(f"precision=auto: {precision}, since bf16 is {1 / half_s:.1f} times as fast as fp32")


@pytest.mark.parametrize(
    ("lines", "half"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16\n", "bf16"),
        ("Features\t: fp asimd bf16\n", "bf16"),
        ("flags\t\t: fpu avx2\nbugs\t: amx_bf16\n", None),
        ("", None),
    ],
)
def test_a_processor_without_units_for_it_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, half: str | None
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor: 0\n{lines}processor: 1\n")
    flags = machine.cpu_flags(tmp_path / "cpuinfo")
    monkeypatch.setattr(auto_precision, "cpu_flags", lambda: flags)
    assert half_type(CPU) == half


@pytest.mark.parametrize(("capability", "half"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_gpu_before_ampere_has_no_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], half: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert half_type(torch.device("cuda", 0)) == half


@pytest.mark.law("L6")
def test_a_run_trains_as_with_the_type_that_it_took_and_keeps_it(
    auto: Config, timed: dict[str, float], tmp_path: Path
) -> None:
    """It ends after one epoch, and goes on for another when the other type would be faster."""

    def trained(name: str, epochs: int, precision: Precision = "auto") -> Run:
        train = replace(auto.train, epochs=epochs)
        segtrain.train(replace(auto, name=name, runs_dir=str(tmp_path), train=train, precision=precision))
        return Run(tmp_path / name)

    timed["bf16"] = 0.1
    assert trained("auto", 1).config().precision == "bf16"
    timed["bf16"] = 10.0
    assert trained("auto", 2).config().precision == "bf16"
    assert_same(state_of(trained("named", 2, "bf16").root), state_of(tmp_path / "auto"))


def test_a_real_trial_is_told_and_agreed_on_by_all_ranks(auto: Config, tmp_path: Path) -> None:
    run = Run(run_to_end(tmp_path, auto, 2))
    precision = run.config().precision
    assert f"precision=auto: {precision}" in run.log_file.read_text()
    assert_same(state_of(run.root), state_of(run_to_end(tmp_path / "named", replace(auto, precision=precision), 2)))


def test_a_trial_leaves_generators_alone_and_may_lack_memory(auto: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_precision, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    before = torch.get_rng_state()
    assert chosen(auto).precision in ("fp32", "bf16")
    assert torch.equal(torch.get_rng_state(), before)

    def short(cfg: Config, device: torch.device) -> float:
        raise OutOfMemory("all is used")

    monkeypatch.setattr(auto_precision, "_step_s", short)
    assert chosen(auto) == Chosen("fp32", "since there is no memory for a trial (all is used)")


@pytest.mark.law("L12")
def test_what_a_run_began_with_is_refused_where_the_device_lacks_it(
    auto: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "chosen_precision", lambda *_: Chosen("tf32", "as the run began"))
    with pytest.raises(LaunchError, match="precision=tf32"):
        segtrain.train(replace(auto, runs_dir=str(tmp_path)))


@pytest.mark.law("L12")
def test_where_nothing_is_trained_or_runs_are_compared_auto_is_refused(trained_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^precision=auto: is for training, .*; name fp32"):
        select_checkpoints([trained_run.root], "best", ["precision=auto"])
    (tmp_path / "base.yaml").write_text("precision: auto\n")
    spec = tmp_path / "spec.yaml"
    spec.write_text("{name: s, base: base.yaml, variants: {a: {}, b: {loss: bce}}}\n")
    with pytest.raises(ConfigError, match=r"spec\.yaml: precision=auto may choose otherwise for each run; name fp32"):
        expand(spec, [])
    assert len(expand(spec, ["precision=bf16"])[1]) == 2
