"""What is written beside an evaluation: the epoch's checkpoint, whole before its patients are scored."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainings import Job, train_rank

from segtrain.config import Config, TrainConfig
from segtrain.data.store import Store
from segtrain.run import Run
from segtrain.run.events import evaluations

PATIENCE_S = 30.0


class ScoredOnceSaved(Job):
    """A training whose evaluations begin only when the checkpoint of their step is the latest."""

    def rank_of(self) -> Callable[..., None]:
        return scored_once_saved


def scored_once_saved(directory: Path, argv: list[str], *others: Any) -> None:
    from segtrain.evaluation.evaluate import evaluate
    from segtrain.run.checkpoint import Saver
    from segtrain.training import loop

    save, saved = Saver.save, []

    def noted(saver: Saver, step: int, snapshot: Any) -> None:
        saved.append((saver.run, step))
        save(saver, step, snapshot)

    def waiting(*arguments: Any, **named: Any) -> Any:
        run, step = saved[-1]
        deadline = time.monotonic() + PATIENCE_S
        while not run.latest_pointer.exists() or run.latest_pointer.read_text().strip() != run.checkpoint(step).name:
            assert time.monotonic() < deadline, f"step {step} was not saved while its evaluation could not begin"
            time.sleep(0.01)
        return evaluate(*arguments, **named)

    setattr(loop, "evaluate", waiting)  # noqa: B010
    setattr(Saver, "save", noted)  # noqa: B010
    train_rank(directory, argv, *others)


@pytest.mark.law("L7")
def test_a_checkpoint_does_not_wait_for_the_evaluation_of_its_epoch(
    tiny: Config, tiny_store: Store, tmp_path: Path
) -> None:
    """Nor that of the last epoch: a training that is killed in it has all of its steps."""
    cfg = replace(tiny, name="beside", train=TrainConfig(epochs=2, global_batch=4))
    job = ScoredOnceSaved(tmp_path, cfg, 1)
    assert job.wait() == [0], job.output()
    assert len(evaluations(Run(tmp_path / "runs" / cfg.name).events())) == 2
