"""The best checkpoint, also where its pointer is lost: derived from the events, never pruned."""

import logging
from pathlib import Path

import pytest
from snapshots import save

from segtrain.evaluation.ensemble import TrainedCheckpoint, select_checkpoints
from segtrain.run import Run
from segtrain.run.events import EvaluationEvent
from segtrain.runtime import files

LOST = {
    "removed": None,
    "emptied": b"",
    "of a checkpoint that is gone": b"step-00000009\n",
    "outside": b"../../etc\n",
    "no text": b"\xff\xfe",
    "a folder": "folder",
}


def evaluated(run: Run, dsc: dict[int, float]) -> None:
    best = 0.0
    for step, value in dsc.items():
        event = EvaluationEvent(
            step=step, epoch=step, val_loss=0.5, val_dsc=value, n=3, best=value > best, empty_masks="score"
        )
        run.record(event)
        best = max(best, value)


def lose(pointer: Path, content: object) -> None:
    pointer.unlink(missing_ok=True)
    if content == "folder":
        pointer.mkdir()
    elif isinstance(content, bytes):
        pointer.write_bytes(content)


@pytest.fixture
def scored(run: Run) -> Run:
    """Three epochs, the second one best."""
    save(run, 1, 2, 3)
    evaluated(run, {1: 0.5, 2: 0.8, 3: 0.7})
    files.write_text(run.best_pointer, "step-00000002\n")
    return run


@pytest.mark.law("L7")
@pytest.mark.parametrize("how", LOST)
def test_a_lost_pointer_is_derived_again(scored: Run, how: str) -> None:
    lose(scored.best_pointer, LOST[how])
    assert scored.best_checkpoint() == "step-00000002"
    lose(scored.latest_pointer, LOST[how])
    assert scored.latest_checkpoint() == "step-00000003"
    assert scored.pointed_checkpoints() == {"step-00000002", "step-00000003"}


@pytest.mark.law("L7")
@pytest.mark.parametrize("how", [how for how in LOST if how != "a folder"])
def test_without_its_pointer_the_best_is_not_pruned_and_a_resume_writes_it_again(
    scored: Run, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    lose(scored.best_pointer, LOST[how])
    save(scored, 4, 5, keep=1)
    assert scored.saved_steps() == [2, 5]
    with caplog.at_level(logging.WARNING):
        scored.rewind(5, 4)
    assert scored.best_pointer.read_text() == "step-00000002\n"
    assert "was lost" in caplog.text


def test_a_pointer_that_is_there_is_believed(scored: Run, caplog: pytest.LogCaptureFixture) -> None:
    files.write_text(scored.best_pointer, "step-00000001\n")
    assert scored.best_checkpoint() == "step-00000001"
    scored.rewind(3, 3)
    assert scored.best_pointer.read_text() == "step-00000001\n"
    assert not caplog.text


def test_a_best_checkpoint_that_is_gone_is_told(scored: Run, caplog: pytest.LogCaptureFixture) -> None:
    files.remove_folder(scored.checkpoint(2))
    assert scored.best_checkpoint() is None
    scored.rewind(4, 3)
    assert "step 2, is lost" in caplog.text


@pytest.mark.law("L10")
def test_what_is_scored_and_predicted_is_the_best_all_the_same(trained_run: Run, tmp_path: Path) -> None:
    def best() -> TrainedCheckpoint:
        (checkpoint,) = select_checkpoints([copy], "best", [])
        return checkpoint

    copy = tmp_path / "copy"
    copy.symlink_to(trained_run.root)
    with_pointer = best()
    copy.unlink()
    copy.mkdir()
    for entry in trained_run.root.iterdir():
        if entry.name != "checkpoints":
            (copy / entry.name).symlink_to(entry)
    (copy / "checkpoints").mkdir()
    for entry in trained_run.checkpoints.glob("step-*"):
        (copy / "checkpoints" / entry.name).symlink_to(entry)
    assert best().folder.name == with_pointer.folder.name
    assert best().is_best
