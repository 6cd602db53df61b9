"""One start of a queue's run: its process, where its output goes, how it ended."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from jobs import local
from jobs.history import History
from jobs.queue import machine
from jobs.queue.diagnosis import Diagnosis, diagnose, tail
from jobs.queue.items import Item, Queue
from jobs.queue.journal import QueueEnd
from jobs.submission import Submission
from segtrain.config import StopConfig, from_tree, to_yaml
from segtrain.config.yaml_text import parse_yaml
from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, ConfigError, StopReason
from segtrain.runtime import cpus, files
from segtrain.runtime.outbox import patiently
from segtrain.runtime.stop import deadline_of
from segtrain.text_file import text_of


@dataclass
class Child:
    """A run's process. `start_of`: the job and its restart, by which the history knows this start."""

    item: Item
    process: "subprocess.Popen[bytes]"
    gpus: list[str]
    start_of: tuple[str, int]
    starts_before: int  # that the run's directory counted
    log: Path | None  # None: the output goes to the terminal
    offset: int  # where this start begins in the log
    has_queue_deadline: bool
    asked_at_s: float | None = None  # when it was asked to stop

    @property
    def has_begun(self) -> bool:
        """Whether it came so far as to open the run."""
        return len(self.item.run.known_starts()) > self.starts_before

    @property
    def has_fixed_deadline(self) -> bool:
        """Whether its own deadline is a time, which no further start can move, and not a duration."""
        setting = self.item.cfg.stop.deadline if self.item.cfg else None
        return setting is not None and deadline_of(setting, 0.0, False) == deadline_of(setting, 1.0, False)

    def diagnosis(self, queue_end: QueueEnd | None) -> tuple[int, Diagnosis]:
        """The exit code that it deserves, and how it ended. `queue_end`: why the queue ends, if it does."""
        code = self.process.returncode
        log_tail = tail(self.log, self.offset) if self.log else ""
        history, job = History(self.item.run), self.start_of[0]
        end = diagnose(code, history.start_folder(*self.start_of), history, job, log_tail)
        if self.asked_at_s is None or queue_end is None or code in (EXIT_FINISHED, EXIT_USER_ERROR, EXIT_DIVERGED):
            return code, end
        reason = StopReason.__members__.get(queue_end.reason)
        # Also when it was cut off before it could save.
        return EXIT_STOPPED, Diagnosis("stopped", f"the queue stops: {queue_end.sentence}", reason)


def start(
    queue: Queue, item: Item, snapshot: Submission, job: str, gpus: Sequence[str], together: int, end_s: float | None
) -> Child:
    """Start a run from the snapshot, on these GPUs; the queue ends at `end_s`, and so many runs share the CPUs."""
    stop, has_queue_deadline = _as_started(item, end_s)
    config = snapshot.config(item.name)
    patiently(config, partial(_set_stop, config, stop))
    restart = sum(entry["event"] == "start" for entry in History(item.run).entries(job))
    starts_before = len(item.run.known_starts())
    log = None if queue.attended else queue.folder / "logs" / f"{item.name}.log"
    mark = machine.mark(queue.folder)
    environment = {"OMP_NUM_THREADS": str(cpus.of_rank(together * item.processes))}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True, "pass_fds": (mark,)}
    offset = 0
    try:
        if log is None:
            process = local.start(snapshot, item.name, (job, restart), environment, **options)
        else:
            files.make_folder(log.parent)
            with log.open("ab") as file:
                files.share(log)
                offset = file.tell()
                options |= {"stdout": file, "stderr": file}
                process = local.start(snapshot, item.name, (job, restart), environment, **options)
    finally:
        os.close(mark)
    return Child(item, process, list(gpus), (job, restart), starts_before, log, offset, has_queue_deadline)


def _set_stop(config: Path, stop: StopConfig) -> None:
    """Put it into a config of the snapshot; the rest of that stays: its own parts are the snapshot's copies."""
    cfg = from_tree(parse_yaml(text_of(config)), str(config), stored=True)
    files.write_text(config, to_yaml(replace(cfg, stop=stop)))


def _as_started(item: Item, end_s: float | None) -> tuple[StopConfig, bool]:
    """When a start is to stop, and whether its deadline is the queue's, which comes before its own."""
    assert item.cfg is not None, "only what has a config is started"
    own = item.cfg.stop
    try:
        own_s = deadline_of(own.deadline, time.time(), ask_slurm=False)
    except ConfigError:  # the training refuses it
        return own, False
    if end_s is None or (own_s is not None and own_s < end_s):
        return own, False
    deadline = datetime.fromtimestamp(end_s).astimezone().isoformat(timespec="seconds")
    return replace(own, deadline=deadline), True
