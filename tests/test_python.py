"""`import segtrain`: the same training as the command's, in a process that goes on as it was."""

import gc
import linecache
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import evaluation_event, train_event
from torch import nn
from trainings import assert_same, state_of

import segtrain
from segtrain.api import calls, objects
from segtrain.api.objects import on_record
from segtrain.api.run import typed
from segtrain.api.undisturbed import undisturbed
from segtrain.config import Config
from segtrain.errors import ConfigError, Diverged, LaunchError, RunError, SegtrainError, StopReason
from segtrain.report.epochs import curves
from segtrain.run import Run
from segtrain.run.events import Event, evaluations, train_events
from segtrain.runtime.stop import Stop


@pytest.fixture
def odd_process() -> Iterator[Callable[[], dict[str, Any]]]:
    """A caller's process with settings of its own; what there is of it."""
    handler = logging.StreamHandler()
    logger = logging.getLogger("segtrain")
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)
    logger.addHandler(handler)
    torch.set_default_dtype(torch.float64)
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(2)

    def state() -> dict[str, Any]:
        threads = {thread.name for thread in threading.enumerate()}
        return {
            "handlers": [signal.getsignal(number) for number in range(1, signal.NSIG) if number not in (32, 33)],
            "logging": (list(logger.handlers), logger.level, logger.propagate),
            "environment": dict(os.environ),
            "threads": threads,
            "files": len(os.listdir("/proc/self/fd")),
            "group": torch.distributed.is_initialized(),
            "torch": (torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cudnn.benchmark),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
            "drawn": (torch.get_rng_state().sum().item(), np.random.get_state()[1][:9].tolist(), random.getstate()),  # type: ignore[index]
            "networks": sum(type(one) is nn.Conv2d for one in gc.get_objects()),
        }

    yield state
    signal.signal(signal.SIGTERM, before)
    logger.removeHandler(handler)
    torch.set_default_dtype(torch.float32)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(1)


@pytest.mark.law("L6")
def test_after_a_failed_run_the_next_has_the_bits_of_a_command_and_the_caller_is_as_before(
    fragile: Config,
    unbroken: dict[int, dict[str, Any]],
    tmp_path: Path,
    odd_process: Callable[[], dict[str, Any]],
) -> None:
    cfg = replace(fragile, runs_dir=str(tmp_path))
    bad = replace(cfg, name="bad", optim=replace(cfg.optim, lr=1e30))
    with pytest.raises(Diverged) as caught:  # the first call imports what is imported once
        segtrain.train(bad)
    assert caught.value.__context__ is None, "frames of ours would keep the network in memory"
    gc.collect()
    before = odd_process()
    with torch.inference_mode():
        run = segtrain.train(cfg)
    gc.collect()
    after = odd_process()
    assert after == before
    assert_same(state_of(run.path), unbroken[1])
    assert run.state == "finished"


def test_generators_of_gpus_that_nobody_used_are_seeded_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    before = torch.initial_seed()
    with undisturbed():
        torch.manual_seed(before + 1)
    assert seeds == [before + 1, before]


@pytest.mark.law("L8")
def test_an_interrupt_before_the_first_step_returns_a_stopped_run_and_puts_the_handler_back(
    fragile: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    load = calls.load_config

    def interrupted(*arguments: Any, **values: Any) -> Config:
        signal.raise_signal(signal.SIGINT)
        return load(*arguments, **values)

    monkeypatch.setattr(calls, "load_config", interrupted)
    with pytest.raises(KeyboardInterrupt):  # the config is loaded twice
        segtrain.train(replace(fragile, runs_dir=str(tmp_path)))
    assert signal.getsignal(signal.SIGINT) is handler

    class Asked(Stop):
        def __init__(self) -> None:
            super().__init__()
            self.ask(StopReason.SIGINT)

    monkeypatch.setattr(calls, "load_config", load)
    monkeypatch.setattr(calls, "Stop", Asked)
    run = segtrain.train(replace(fragile, runs_dir=str(tmp_path)))
    assert run.state == "stopped"
    assert "stopped by SIGINT before the first step" in str(run.message)
    assert not run.path.exists()


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: segtrain.train("phantom", nmae="x"), ConfigError, "unknown key nmae; did you mean name?"),
        (lambda: segtrain.load_config({"train": {"epochs": 0}}), ConfigError, "train.epochs=0"),
        (lambda: segtrain.train(nproc=0), LaunchError, "nproc=0: give the number of processes"),
        (lambda: segtrain.train(nproc=3), ConfigError, "nproc=3: train.global_batch=16 .*use nproc=2 or 4"),
        (lambda: segtrain.train(nproc=2, loss=lambda p, y: p), ConfigError, "lambda.* \\(nproc=2\\)"),
        (lambda: segtrain.evaluate("nowhere"), RunError, "nowhere: holds no readable run"),
        (lambda: segtrain.evaluate("x", geometry="orginal"), ConfigError, "did you mean original"),  # type: ignore[arg-type]
        (lambda: segtrain.evaluate("x", "optim.lr=1"), ConfigError, "optim.lr: fixed by the run"),
        (lambda: segtrain.evaluate("x", workers=2.5), ConfigError, "--workers: .*2.5.*help\\(segtrain.evaluate\\)"),  # type: ignore[arg-type]
        (lambda: segtrain.evaluate([]), ConfigError, "runs=\\[\\]: no run is named"),
        (lambda: segtrain.predict([], "in", "out"), ConfigError, "runs=\\[\\]: no run is named"),
        (lambda: segtrain.predict("x", "in", "out", "--help"), ConfigError, "prints help"),
        (lambda: segtrain.report("nowhere", "out"), RunError, "nowhere"),
        (lambda: segtrain.Run("nowhere").config, RunError, "nowhere: holds no readable run"),
    ],
)
def test_errors_are_exceptions_of_one_line(
    call: Callable[[], object], kind: type[SegtrainError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        call()
    (line,) = caught.value._render_traceback_()
    assert line.startswith(f"{kind.__name__}: ")
    assert "\n" not in line
    assert not list(tmp_path.iterdir())


def test_tables_of_a_run(trained_run: Run) -> None:
    run = segtrain.Run(trained_run.root)
    assert [row["epoch"] for row in run.epochs] == [1, 2, 3]
    assert max(row["val_dsc"] for row in run.epochs) == float(run.dsc or 0)
    assert len(run.patients) == run.epochs[0]["n"] == 2
    assert {type(row["dsc"]) for row in run.patients} == {float}
    assert {row["event"] for row in run.events} == {"train", "evaluation"}
    assert run.best == trained_run.checkpoints / str(trained_run.best_checkpoint()) / "model.safetensors"
    assert "n = 2" in repr(run)
    assert repr(run).count("\n") == 0
    page = run.show()._repr_html_()
    assert page.count("<svg") == 2
    assert "data:image/png;base64" in page
    network = run.network()
    assert not network.training
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_an_epoch_is_the_mean_of_its_steps_wherever_the_log_has_its_lines(tmp_path: Path) -> None:
    """Of 21 steps with a line every ten the last line is of one step."""
    run = Run(tmp_path / "run")
    run.root.mkdir()
    first: list[Event] = [
        train_event(10, loss=0.5),
        train_event(20, loss=0.4),
        train_event(21, loss=0.1, images_per_s=2.0),
    ]
    second: list[Event] = [train_event(step, loss=0.3) for step in (31, 41, 42)]
    for event in [*first, evaluation_event(21, 1, 0.7), *second, evaluation_event(42, 2, 0.8)]:
        run.record(event)
    one, two = segtrain.Run(run.root).epochs
    assert [one["loss"], two["loss"]] == pytest.approx([9.1 / 21, 0.3])
    assert one["images_per_s"] == pytest.approx(21 / (20 / 5.0 + 1 / 2.0)), "images by seconds"
    events = run.events()
    points = curves(train_events(events), evaluations(events)).loss
    assert [loss for _, loss in points] == pytest.approx([9.1 / 21, 0.3])


def test_names_that_look_like_numbers_stay_texts() -> None:
    names = {"patient": "001", "region": "1e5", "institution": "10_2", "trained_on": "nan"}
    assert typed({**names, "voxels": "12", "dsc": "0.5", "hd95_mm": ""}) == {
        **names,
        "voxels": 12,
        "dsc": 0.5,
        "hd95_mm": None,
    }


def test_pandas_takes_the_tables(trained_run: Run) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed, and segtrain does not need it")
    run = segtrain.Run(trained_run.root)
    for table in (run.events, run.epochs, run.patients):
        frame = pandas.DataFrame(table)
        assert len(frame) == len(table)
        assert frame.select_dtypes("number").shape[1] >= 4
    assert pandas.DataFrame(run.patients)["dsc"].mean() == pytest.approx(float(run.dsc or 0), abs=1e-6)


CELL = """
import torch.nn.functional as F
from torch import nn

POWER = 2

def squared(x):
    return x ** POWER

class Loss(nn.Module):
    def forward(self, logits, target):
        return F.binary_cross_entropy_with_logits(logits, target) + squared(logits.sigmoid() - target).mean()

class Again(Loss):
    pass

state = object()

def uses_an_object(logits, target):
    return state
"""


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What a cell of a notebook has defined."""
    module = ModuleType("cell")
    monkeypatch.setitem(sys.modules, "cell", module)
    monkeypatch.setitem(linecache.cache, "<cell>", (len(CELL), None, CELL.splitlines(keepends=True), "<cell>"))
    exec(compile(CELL, "<cell>", "exec"), vars(module))
    return module


@pytest.mark.law("L13")
def test_a_class_of_a_cell_goes_on_record_with_what_it_uses(cell: ModuleType) -> None:
    with on_record({"loss": cell.Loss}, 2) as values:
        cfg = segtrain.load_config("phantom", **values)
        assert list(cfg.code) == ["loss/part_loss.py"]
        text = Path(values["loss"].rpartition(":")[0]).read_text()
    for line in ("import torch.nn.functional as F", "import torch.nn as nn", "POWER = 2", "def squared(x):"):
        assert line in text.splitlines()
    assert "uses_an_object" not in text


def test_an_object_of_a_package_is_named_and_one_without_source_is_held(
    cell: ModuleType, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("segtrain"), "propagate", True)
    with on_record({"loss": nn.BCEWithLogitsLoss}, 1) as values:
        assert values == {"loss": "torch.nn.modules.loss:BCEWithLogitsLoss"}
    for thing, why in (
        (cell.uses_an_object, "uses state, a object"),
        (cell.Again, "has no source"),
        (print, "is an obj"),
    ):
        caplog.clear()
        with on_record({"loss": thing}, 1) as values:
            segtrain.load_config("phantom", **values)
        assert why in caplog.text
        assert "not on record" in caplog.text


@pytest.mark.law("L13")
def test_a_run_with_a_lambda_trains_and_is_refused_in_another_process(
    fragile: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = segtrain.load_config(fragile, "train.epochs=1", name="held", runs_dir=str(tmp_path))
    loss = lambda pred, target: nn.functional.binary_cross_entropy_with_logits(pred, target)  # noqa: E731
    run = segtrain.train(cfg, loss=loss)
    assert run.state == "finished"
    monkeypatch.setattr(objects, "_held", {})  # as in another process
    with pytest.raises(ConfigError, match=r"loss=<lambda>: is a lambda, so it is not on record.*define it by def"):
        segtrain.train(run.path / "config.yaml", "train.epochs=2", runs_dir=str(tmp_path))
