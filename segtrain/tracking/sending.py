"""A run sent to a tracker: what is new since the last time, once."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from segtrain.errors import RunError
from segtrain.run.reader import RunReader
from segtrain.run.tracked import Sent, read_tracked, write_tracked
from segtrain.runtime import lock
from segtrain.tracking.mlflow_runs import MlflowRuns
from segtrain.tracking.record import Record, record_of
from segtrain.tracking.swanlab_runs import SwanlabRuns
from segtrain.tracking.tracker import Destination, Tracker
from segtrain.tracking.wandb_runs import WandbRuns

TRACKERS: Mapping[str, Callable[[Destination], Tracker]] = {
    "wandb": WandbRuns,
    "mlflow": MlflowRuns,
    "swanlab": SwanlabRuns,
}


@dataclass(frozen=True)
class Tracked:
    """What became of a run. points: how many were new; where: to look at it, None where nothing was new."""

    points: int
    where: str | None


def send_run(run: RunReader, tracker: Tracker, again: bool = False) -> Tracked:
    """Send what is new of a run, or `again` all of it.

    A tracker that can be asked says what it has; of the others tracked.json in the run's folder does. It is written
    after the sending: what was sent by a process that was killed is sent once more, and the tracker takes it once.
    Raises RunError: no run, a damaged one, or another process sends it; LaunchError: the tracker refused; OSError.
    """
    record = record_of(run)
    known = tracker.sent(record)
    if known is not None:
        return _send(tracker, record, Sent() if again else known)
    if not os.access(run.root, os.W_OK, effective_ids=True):
        raise RunError(
            f"{run.root}: cannot be written, so what was sent cannot be noted; track a copy in a folder of yours"
        )
    held = lock.take(run.tracked_lock)
    if held is None:
        raise RunError(f"{run.root}: another process sends it to a tracker; wait for it to end")
    try:
        tracked = read_tracked(run)
        sent = Sent() if again else tracked.get(tracker.place, Sent())
        result = _send(tracker, record, sent)
        # A run that went back to a checkpoint has less than was sent: what it does again was sent already.
        now = Sent(max(sent.position, record.position), record.digest)
        if now != sent:
            write_tracked(run, {**tracked, tracker.place: now})
        return result
    finally:
        held.release()


def _send(tracker: Tracker, record: Record, sent: Sent) -> Tracked:
    new = sum(point.position > sent.position for point in record.points)
    if not new and sent.digest == record.digest:
        return Tracked(0, None)
    return Tracked(new, tracker.send(record, sent.position))
