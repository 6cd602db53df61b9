"""Fixtures, and `--laws`: run the tests that state a law and print law, tests, result."""

import fcntl
import functools
import gc
import os
import re
import resource
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import workers
from bad_folders import FOLDER, Folder
from folders import Shared
from golden_patients import unpack
from hypothesis import HealthCheck, settings
from made_runs import train
from predictions import IMAGE, MASK, lgg_mask, predict, write_patient
from queues import StandIns
from trainings import run_to_end, state_of
from warm_runs import warm_runs as warm_runs  # a fixture

from jobs.queue import machine
from segtrain.config import CheckpointConfig, Config, OptimConfig, TrainConfig, load_config
from segtrain.data.prepare import ensure_store
from segtrain.data.store import Store
from segtrain.run import Run
from segtrain.runtime.process import logging_as_before

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

torch.set_num_threads(1)
gc.disable()  # until the tests are collected, which stay
# A busy machine makes no property false; a red CI is red again on the next try.
settings.register_profile(
    "here", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("here")


@functools.cache
def laws() -> dict[str, str]:
    """Law and what it says, from docs/laws.md."""
    return dict(re.findall(r"^\| (L\d+) \| (.+) \|$", (ROOT / "docs" / "laws.md").read_text(), re.MULTILINE))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--laws", action="store_true", help="run the tests that state a law and print law, tests, result")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return workers.scheduler(config, log)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make quick` does not import the files that have nothing for it."""
    if config.getoption("markexpr") != "quick" or collection_path.suffix != ".py":
        return None
    return None if workers.has_quick_tests(collection_path) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for (law,) in (mark.args for mark in item.iter_markers("law")):
            assert law in laws(), f"{item.nodeid} states {law}, which docs/laws.md does not have"
            item.user_properties.append(("law", law))
        if item.path.stem in workers.QUICK_FILES:
            item.add_marker("quick")
    items[:] = [item for item in items if not config.getoption("--laws") or item.get_closest_marker("law")]
    items.sort(key=workers.turn)
    gc.freeze()
    gc.enable()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        for name, law in report.user_properties:
            if name == "law":
                RESULTS[str(law)][report.nodeid] = report.outcome


RESULTS: dict[str, dict[str, str]] = defaultdict(dict)  # law, test, outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--laws"):
        return
    terminalreporter.section("laws")
    for law, text in laws().items():
        outcomes = list(RESULTS[law].values())
        counts = ", ".join(f"{outcomes.count(o)} {o}" for o in sorted(set(outcomes))) or "no test"
        terminalreporter.write_line(f"{law:<4} {counts:<24} {text}")
        for name in sorted({node.split("[")[0] for node in RESULTS[law]}):
            terminalreporter.write_line(f"       {name}")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """`shared(name, make)` is a folder that `make` has filled: once, however many workers ask; they only read it."""
    base = tmp_path_factory.getbasetemp()
    everybodys = base.parent if workers.ONE_OF_SEVERAL else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path = everybodys / f"shared-{name}"
        with (everybodys / f"shared-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (path / "whole").exists():
                make(path)
                (path / "whole").touch()
        return path

    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers that the public reference program produced."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the reference program's numbers lie beside the developers' checkout")
    return folder


@pytest.fixture(scope="session")
def lgg_root(shared: Shared) -> Path:
    """Six real patients in the published layout, the two of the golden numbers among them."""
    archives = sorted((SHARED / "data").glob("lgg-part*.tar"))
    if not archives:
        pytest.skip(f"{SHARED / 'data'} is not there: real patients lie beside the developers' checkout")
    return shared("lgg", lambda folder: unpack(archives, folder / "kaggle_3m")) / "kaggle_3m"


@pytest.fixture(scope="session")
def tiny_store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="session")
def tiny(tiny_store_folder: Path) -> Config:
    """A run of seconds: ten phantom patients at 32 px, two of which validate; group norm, so that L5 holds."""
    return load_config(
        None,
        [
            "name=tiny",
            f"data.store={tiny_store_folder}",
            "data.image_size=32",
            "data.validation_patients=2",
            "data.phantom={patients: 10, size_px: 64}",
            "model={features: 4, norm: group}",
            "train={epochs: 1, global_batch: 4}",
            "optim={lr: 1.0e-3}",
            "threads_per_rank=1",
            "device=cpu",
        ],
    )


@pytest.fixture(scope="session")
def tiny_store(tiny: Config) -> Store:
    return ensure_store(tiny.data)


@pytest.fixture(scope="session")
def trained_run(tiny: Config, shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that finds some of each lesion; tests must leave it as it is, evaluation/ apart.

    It is trained once, with a store beside it; each worker has a copy, since they write in evaluation/.
    """
    cfg = replace(tiny, name="trained", train=TrainConfig(epochs=3, global_batch=4), optim=OptimConfig(lr=3e-3))

    def make(folder: Path) -> None:
        run_to_end(folder, replace(cfg, data=replace(tiny.data, store=str(folder / "store"))), 1)

    trained = shared("trained", make) / "runs" / cfg.name
    return Run(shutil.copytree(trained, tmp_path_factory.mktemp("trained") / "runs" / cfg.name))


@pytest.fixture(scope="session")
def predicted_patient(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `segtrain predict --probabilities` leaves of the made-up patient P in the LGG layout."""
    folder = tmp_path_factory.mktemp("predicted_patient")
    write_patient(folder / "in", "P", IMAGE, MASK)
    out = predict(trained_run, folder / "in", folder / "out", "--probabilities")
    assert (lgg_mask(out) & (MASK > 0)).sum() > 100, "some of the lesion is found, or the tests say nothing"
    return out


@pytest.fixture(scope="session")
def fragile(tiny: Config) -> Config:
    """The run that is broken again and again: seconds long, of two levels, saved at nearly every step."""
    data = replace(tiny.data, phantom=replace(tiny.data.phantom, patients=6))
    ensure_store(data)  # before anything is killed
    return replace(
        tiny,
        name="fragile",
        data=data,
        model=replace(tiny.model, depth=2),
        train=TrainConfig(epochs=3, global_batch=8),
        optim=OptimConfig(lr=3e-3, schedule="warmup_cosine", warmup_steps=5),
        checkpoint=CheckpointConfig(every_min=0.001),
        log_every_steps=7,
    )


@pytest.fixture(scope="session")
def unbroken(fragile: Config, shared: Shared) -> dict[int, dict[str, Any]]:
    """What the run leaves behind when nobody kills it, on 1, 2 and 4 ranks."""
    sizes = (1, 2, 4)
    folder = shared("unbroken", lambda path: [run_to_end(path / str(ranks), fragile, ranks) for ranks in sizes])
    return {ranks: state_of(folder / str(ranks) / "runs" / fragile.name) for ranks in sizes}


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[None]:
    """Run the test without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:  # they stay open: another worker may run such a test now
            folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """A limit on the size of files, as a disk that is full in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """No test logs to the standard error of one before it, which is closed."""
    with logging_as_before():
        yield


@pytest.fixture
def folder() -> Iterator[Folder]:
    with FOLDER.in_use():
        yield FOLDER


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run directory without a checkpoint."""
    run = Run(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    return run


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIns]:
    handlers = {number: signal.getsignal(number) for number in (1, 2, 10, 12, 15)}
    monkeypatch.setattr(machine, "gpus", list)
    yield StandIns(monkeypatch)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def night(tmp_path: Path, trained_run: Run) -> Path:
    """A queue's folder with a real run, whose best checkpoint is not the last one, and what lies about."""
    folder = tmp_path / "night"
    shutil.copytree(trained_run.root, folder / "trained")
    run = Run(folder / "trained")
    shutil.copytree(run.checkpoint(run.saved_step()), run.checkpoint(1))
    run.best_pointer.write_text("step-00000001\n")
    shutil.copytree(run.checkpoint(run.saved_step()), run.checkpoint(2))
    (folder / ".queue.lock").touch()
    (folder / "results.zip.sha256").touch()
    (folder / "logs").mkdir()
    (folder / "logs" / "trained.log").write_text("said")
    return folder


@pytest.fixture
def ablation(tmp_path: Path) -> Path:
    folder = tmp_path / "loss"
    train(folder / "base-fold0-seed1")
    train(folder / "base-fold1-seed1", patients=("other0", "other1"))
    train(folder / "up-fold0-seed1", 0.05)
    train(folder / "lost-fold0-seed1", -0.3, "diverged")
    train(folder / "slow-fold0-seed1", -0.3, "running")
    return folder
