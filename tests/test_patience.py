"""L14: a run folder that is full, closed or stale for a while costs no progress and ends no training."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bad_folders import FOLDER, KINDS, Folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import assert_same, state_of

from segtrain.config import Config, TrainConfig
from segtrain.data.store import Store
from segtrain.errors import RunError
from segtrain.run import Run
from segtrain.runtime import outbox
from segtrain.runtime.process import start_logging
from segtrain.runtime.stop import Stop
from segtrain.runtime.world import World
from segtrain.training import session
from segtrain.training.loop import Loop

MEASURED = ("images_per_s", "memory_gib", "resources")


@pytest.fixture(scope="module")
def short(tiny: Config) -> Config:
    """Three evaluations and checkpoints."""
    return replace(
        tiny,
        name="short",
        model=replace(tiny.model, depth=2),
        train=TrainConfig(epochs=3, global_batch=8),
        log_every_steps=3,
    )


def train(cfg: Config, folder: Path, begin: Callable[[Run], None] = lambda run: None) -> Run:
    """Train in this process; `begin` is called before the first step."""
    cfg = replace(cfg, runs_dir=str(folder))
    run = Run.of(cfg)
    loop_run = Loop.run

    def run_loop(loop: Loop) -> None:
        begin(run)
        loop_run(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "run", run_loop)
        session.train(cfg, run, [], False, Stop(), World())
    start_logging()  # which writes the log's last lines
    return run


def curves_of(run: Run) -> dict[str, list[tuple[int, float]]]:
    log = EventAccumulator(str(run.tensorboard))
    log.Reload()
    scalars = {
        tag: [(point.step, point.value) for point in log.Scalars(tag)]
        for tag in log.Tags()["scalars"]
        if tag.split("/")[0] not in MEASURED
    }
    return scalars | {
        tag: [(p.step, float(len(p.encoded_image_string))) for p in log.Images(tag)] for tag in log.Tags()["images"]
    }


@pytest.fixture(scope="module")
def undisturbed(short: Config, tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(short, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def operations(short: Config, tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many operations a training makes in its folder."""
    runs_dir = tmp_path_factory.mktemp("counted")
    train(short, runs_dir, lambda run: FOLDER.bad(run.root, "EIO", 0, 0))
    FOLDER.heal()
    assert FOLDER.seen > 50
    return FOLDER.seen


@pytest.mark.law("L14")
@pytest.mark.parametrize(("kind", "share"), list(zip(KINDS, (0.0, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9), strict=True)))
def test_a_bad_folder_changes_nothing(
    short: Config, undisturbed: Run, operations: int, folder: Folder, tmp_path: Path, kind: str, share: float
) -> None:
    """From some write on, a number of operations fail: afterwards all is as in the run that was left alone."""
    first = int(share * operations)
    run = train(short, tmp_path, lambda run: folder.bad(run.root, kind, first, 1 + first % 7))
    assert folder.seen > folder.first, "some operation failed"
    assert_same(state_of(run.root), state_of(undisturbed.root))
    assert curves_of(run) == curves_of(undisturbed)
    text = run.log_file.read_text()
    assert text.count("cannot be written now") == text.count("can be written again")
    assert not [file for file in run.root.rglob("*.tmp") if file.parent != run.ranks], "the next state overwrites it"


@pytest.mark.law("L14")
def test_a_folder_that_is_bad_for_most_of_a_training_is_told_once(
    short: Config, undisturbed: Run, folder: Folder, tmp_path: Path
) -> None:
    run = train(short, tmp_path, lambda run: folder.bad(run.root, "ENOSPC", 5, 100))
    assert_same(state_of(run.root), state_of(undisturbed.root))
    assert curves_of(run) == curves_of(undisturbed)
    lines = run.log_file.read_text().splitlines()
    assert len([line for line in lines if "cannot be written now (No space left on device)" in line]) == 1
    assert len([line for line in lines if "can be written again" in line]) == 1
    assert [line.split(" ", 2)[2] for line in lines if "epoch" in line] == [
        line.split(" ", 2)[2] for line in undisturbed.log_file.read_text().splitlines() if "epoch" in line
    ]


@pytest.mark.law("L14")
def test_a_folder_that_stays_bad_fails_the_training_at_its_end(
    short: Config, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE_S", 0.2)
    with pytest.raises(RunError, match=r"short: the last .* could not be written \(Read-only file system\); free some"):
        train(short, tmp_path, lambda run: folder.bad(run.root, "EROFS", 5, 10**9))
    folder.heal()
    shutil.copytree(tmp_path, tmp_path / "again")  # this process holds the lock of the run
    outcome = train(short, tmp_path / "again").outcome()
    assert outcome
    assert outcome.state == "finished"


@pytest.mark.law("L14")
@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("first", [0, 3, 9, 15])
def test_a_folder_that_is_bad_before_the_first_step_is_refused_at_once(
    short: Config, tiny_store: Store, folder: Folder, tmp_path: Path, kind: str, first: int
) -> None:
    cfg = replace(short, runs_dir=str(tmp_path))
    run = Run.of(cfg)
    folder.bad(tmp_path, kind, first, 10**9)
    began_s = time.monotonic()
    with pytest.raises(RunError, match=r"short: cannot be written .*set runs_dir to another folder"):
        session.train(cfg, run, [], False, Stop(), World())
    assert time.monotonic() - began_s < 5
