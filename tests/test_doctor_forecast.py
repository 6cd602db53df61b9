"""What `segtrain doctor` foretells of a config: memory, hours, cost, from a few measured steps."""

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest
from test_doctor import GIB, states

from segtrain.config import Config, DataConfig, TrainConfig
from segtrain.data.store import Store
from segtrain.doctor import checks, cluster, forecast, software, talk, trial
from segtrain.doctor.finding import Finding
from segtrain.doctor.forecast import Measurement, Trial
from segtrain.runtime.out_of_memory import OutOfMemory


def measured(*sizes: int, base: float = 1.0, each: float = 0.5) -> list[Measurement]:
    """As measured on a CPU: GiB that a process and each of its samples take."""
    return [Measurement("cpu", 10, n, True, 0.5 * n, 0.1 * n, (base + each * n) * GIB) for n in sizes]


def test_the_largest_micro_batch_is_told_from_small_steps() -> None:
    cfg = Config(train=TrainConfig(global_batch=32))
    for free_gib, state, said in (
        (20.0, "ok", "9.0 GiB"), (19.9, "failure", "train.micro_batch=8 (2 times"),
        (6.0, "failure", "train.micro_batch=2 (8 times"), (2.0, "failure", "fewer ranks, a smaller"),
    ):  # fmt: skip
        found = forecast.cpu_memory(cfg, 16, 2, measured(2, 4), free_gib * GIB)
        assert found.state == state, free_gib
        assert said in found.message + found.remedy
    asked = replace(cfg, train=TrainConfig(global_batch=32, micro_batch=4))
    found = forecast.cpu_memory(asked, 16, 2, measured(2, 4), 7 * GIB)
    assert (found.state, "fit" in found.message) == ("ok", False)
    assert forecast.cpu_memory(asked, 16, 2, measured(2, 4), 12 * GIB).message.endswith("; up to 8 would fit")


def test_a_gpu_that_the_batch_leaves_over_adds_up_too(monkeypatch: pytest.MonkeyPatch, tiny: Config) -> None:
    """Six GPUs, a batch of 16: four ranks train, six talk."""
    cfg, talked, tried = replace(tiny, train=TrainConfig(global_batch=16)), Mock(return_value=[]), Mock()
    tried.return_value = Trial(tuple(measured(4)))
    monkeypatch.setattr(checks, "gpus", lambda cfg: 6)
    monkeypatch.setattr(talk, "check", talked)
    monkeypatch.setattr(forecast, "run_trial", tried)
    for module, name in ((software, "check"), (talk, "ports"), (cluster, "check")):
        monkeypatch.setattr(module, name, Mock(return_value=[]))
    assert "failure" not in states(checks.findings(cfg, checks.usual_ranks(cfg), 1.0, None)).values()
    assert talked.call_args.args[1] == 6
    assert tried.call_args.args[1] == 4


def test_what_does_not_fit_a_gpu_is_halved_or_refused() -> None:
    cfg = Config(train=TrainConfig(global_batch=16))
    short = Measurement("cuda", 10, 16, fits=False)
    fits, whole, little = (replace(measurement, device="cuda") for measurement in measured(8, 16, 2))

    def memory(cfg: Config, *measurements: Measurement) -> Finding:
        [finding] = forecast.check(cfg, 1, None, Trial(measurements), None)
        return finding

    assert memory(cfg, whole).state == "ok"
    asked = Config(train=TrainConfig(global_batch=16, micro_batch=2))
    found = memory(asked, short, fits, little)
    assert (found.state, found.message) == ("ok", "2.0 GiB with 2 samples at once (measured); up to 8 fit, in 5.0 GiB")
    found = memory(cfg, short, fits)
    assert (found.state, "train.micro_batch=8 (2 times" in found.remedy) == ("warning", True)
    told_not_to = Config(train=TrainConfig(global_batch=16, on_oom="fail"))
    assert memory(told_not_to, short, fits).state == "failure"
    found = memory(cfg, short)
    assert (found.state, found.message) == ("failure", "not even one sample fits")


def test_the_trial_goes_down_to_what_fits_then_to_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that holds five samples, of which there is none here."""

    def measured(cfg: Config, engine: object, size: int, device: object) -> tuple[float, float]:
        if size > 5:
            raise OutOfMemory
        return 1.0, 1.0

    monkeypatch.setattr(trial, "_measure", measured)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda: None)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda: GIB)
    for asked, tried in ((None, [16, 8, 4]), (8, [16, 8, 4]), (3, [16, 8, 4, 3]), (4, [16, 8, 4])):
        cfg = Config(train=TrainConfig(global_batch=16, micro_batch=asked))
        assert [line.size for line in trial.on_gpu(cfg, MagicMock(), 16)] == tried
    odd = Config(train=TrainConfig(global_batch=40, micro_batch=4))
    assert [line.size for line in trial.on_gpu(odd, MagicMock(), 40)] == [40, 20, 10, 5, 4]
    odd = Config(train=TrainConfig(global_batch=28, micro_batch=5))
    assert [line.size for line in trial.on_gpu(odd, MagicMock(), 28)] == [28, 14, 7, 5]
    monkeypatch.setattr(trial, "_measure", Mock(side_effect=OutOfMemory))
    assert [line.size for line in trial.on_gpu(Config(), MagicMock(), 4)] == [4, 2, 1]


def test_hours_and_cost_are_told_from_a_step() -> None:
    """Independently: 2000 // 20 steps of 5 x 0.5 s an epoch; 400 slices scored at 0.1 s by four ranks."""
    cfg = Config(train=TrainConfig(epochs=10, global_batch=20))
    work = forecast.Work(2000, 400, exact=True)
    found = forecast.time_and_cost(cfg, 4, work, measured(5)[0], 2.0)
    seconds = 10 * 260
    assert (
        f"about {seconds // 60}:{seconds % 60:02} for 10 epochs: 1000 steps of 2.50 s (8.0 images/s)" in found.message
    )
    assert f"about {2 * seconds / 3600:.2f} at 2 an hour" in found.message
    accumulated = replace(cfg, train=replace(cfg.train, micro_batch=1))
    assert "steps of 3.33 s" in forecast.time_and_cost(accumulated, 4, work, measured(1)[0], None).message
    quick = replace(measured(5)[0], step_s=0.1)
    of_four, of_one = (forecast.time_and_cost(cfg, ranks, work, quick, None).message for ranks in (4, 1))
    assert "what ranks tell each other comes on top" in of_four
    assert not any("each other" in message for message in (found.message, of_one))


def test_a_trial_that_dies_is_told(monkeypatch: pytest.MonkeyPatch, tiny: Config) -> None:
    monkeypatch.setattr(forecast, "TRIAL_S", 0.01)
    assert forecast.run_trial(tiny, 1) == Trial((), "no step in 0 s")
    monkeypatch.undo()
    two = Measurement("cpu", 10, 2, True)
    killed = subprocess.CompletedProcess([], -9, json.dumps(asdict(two)) + "\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    assert forecast.run_trial(tiny, 1) == Trial((two,), "ended by signal 9 (out of memory?)")


def test_data_that_is_not_prepared_is_read_and_estimated(tmp_path: Path, tiny: Config, tiny_store: Store) -> None:
    found, work, needed = checks.data(replace(tiny, data=replace(tiny.data, store=str(tmp_path))), 2)
    assert (found.state, needed > 0) == ("ok", True)
    assert work is not None
    real = sum(patient.slices for patient in tiny_store.patients.values())
    assert work.train_slices + work.validation_slices == pytest.approx(real, rel=0.3)
    shared = replace(tiny, train=TrainConfig(global_batch=6))
    assert checks.data(shared, 4)[0].state == "failure"
    assert checks.data(replace(tiny, data=DataConfig(source="lgg", root=str(tmp_path))), 1)[0].state == "failure"


def test_a_container_s_page_cache_is_memory_that_can_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(forecast, "CGROUPS", ((str(tmp_path), "most", "now", "inactive_file"), ("/no", "a", "b", "c")))
    machine = forecast.available_bytes()
    (tmp_path / "most").write_text("9000\n")
    (tmp_path / "now").write_text("8000\n")
    (tmp_path / "memory.stat").write_text("active_file 100\ninactive_file 5000\n")
    assert forecast.available_bytes() == 6000
    (tmp_path / "most").write_text("max\n")
    assert forecast.available_bytes() == pytest.approx(machine, rel=0.5)
