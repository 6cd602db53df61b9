"""Where a run stands, and how it goes on from there: the newest whole checkpoint; what came after it is forgotten."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segtrain.errors import RunError
from segtrain.run import Run, checkpoint
from segtrain.run.milestones import Milestones, milestones_of
from segtrain.run.tensorboard import Curves
from segtrain.training.start import Start

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Where a training goes on. `best_dsc` and what comes from the run's events are known on rank 0 alone."""

    step: int = 0
    best_dsc: float | None = None
    losses: tuple[float, ...] = ()  # not recorded yet
    memory: Mapping[str, Any] | None = None  # the micro-batch that fitted
    evaluated_here: bool = False  # at `step`, before the run was ended
    curves: Curves | None = None
    recorded_s: float = 0.0  # the time of the last event
    reached: Milestones = field(default_factory=Milestones)


def resume(start: Start) -> Position:
    """Restore the engine from the newest checkpoint and rewind the run to it. Collective.

    Raises RunError: other data than the run trained on, a run that is past `train.epochs`, no whole checkpoint.
    """
    name = start.world.on_main(lambda: _newest(start.run))
    state: Mapping[str, Any] = {"step": 0}
    if name is not None:
        snapshot = _read(start.run.checkpoints / name)
        state = snapshot.state
        _refuse_other_data(start, state)
        start.engine.restore(snapshot.model, snapshot.optimizer, state["engine"])
        log.info("resuming %s at step %d of %d", start.run.root, state["step"], start.total_steps)
    step = int(state["step"])
    _refuse_fewer_epochs(start, step)
    position = Position(step, state.get("best_dsc"), tuple(state.get("losses", ())), state.get("memory"))
    recorded = step - len(position.losses) if "losses" in state else 0
    rewound = [position]
    start.world.on_main(lambda: rewound.append(_rewind(start, position, recorded)))
    return rewound[-1]


def _newest(run: Run) -> str | None:
    with run.usable():
        return checkpoint.newest(run)


def _read(folder: Path) -> checkpoint.Snapshot:
    """A checkpoint that rank 0 has just verified."""
    try:
        return checkpoint.read(folder)
    except (OSError, checkpoint.CorruptCheckpoint) as error:
        raise RunError(f"{folder}: cannot be read ({error}); repair that and run the same command again") from error


def _refuse_other_data(start: Start, state: Mapping[str, Any]) -> None:
    if state["data"] != start.data_hash:
        raise RunError(
            f"{start.run.root}: this run trained on other slices under the same patient names than are in "
            f"{start.store.label} now; bring them back, or --fresh starts over"
        )


def _refuse_fewer_epochs(start: Start, step: int) -> None:
    if step > start.total_steps:
        epochs = step // start.order.steps_per_epoch
        raise RunError(
            f"{start.run.root}: trained for more than {epochs} epochs already, past "
            f"train.epochs={start.cfg.train.epochs}; ask for {epochs + 1} or more, or another name=..."
        )


def _rewind(start: Start, position: Position, recorded: int) -> Position:
    """Forget events, tables and curves after the position's step; the position with what its run has recorded.

    `recorded`: the last step before it of which there should be a record.
    """
    epochs, steps_into_epoch = divmod(position.step, start.order.steps_per_epoch)
    # The evaluation at the step itself is done again.
    evaluated_epochs = epochs - (position.step > 0 and steps_into_epoch == 0)
    with start.run.usable():
        checkpoint.remove_leftovers(start.run)
        events, evaluated_here = start.run.rewind(position.step, evaluated_epochs, recorded)
        return replace(
            position,
            evaluated_here=evaluated_here,
            curves=Curves.redrawn(start.run, start.cfg, events),
            recorded_s=max((event.time for event in events), default=0.0),
            reached=milestones_of(events),
        )
