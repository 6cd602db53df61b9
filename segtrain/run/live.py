"""The facts of a training as it goes: the same on its own line, in `segtrain status` and in `segtrain watch`."""

import io
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segtrain.run.environment import Environment
from segtrain.run.events import EvaluationEvent, TrainEvent
from segtrain.run.layout import RunLayout
from segtrain.run.milestones import LONGEST_LINE, REMEDY, Milestones, event_in, milestones_in
from segtrain.run.stored import reading
from segtrain.runtime.terminal import duration
from segtrain.text_file import open_file

LOG_BYTES = 1 << 16  # of the end of the log, in which a warning is looked for
EVENTS_BYTES = 1 << 20  # of the end of the events, at the first look: some thousands
MARK_BYTES = 1 << 10  # by which the place is known where the last look ended: an event, and more
MOST_POINTS = 4000  # of a curve


@dataclass(frozen=True)
class LiveFacts:
    """How far a run has come; None: not known yet. The DSC is the mean over `n` patients of the newest evaluation."""

    epoch: int = 0  # the last that was evaluated
    epochs: int | None = None
    step: int = 0
    loss: float | None = None
    images_per_s: float | None = None
    memory_gib: float | None = None
    dsc: float | None = None
    parts: str = ""  # of several regions, each one's
    best_dsc: float | None = None
    best_epoch: int | None = None
    n: int | None = None
    people: int | None = None  # where several patients are scans of one person
    left_s: float | None = None  # to the end of the whole run

    @property
    def score(self) -> str:
        """For example `0.8412 (n 10)`; empty before the first evaluation."""
        if self.dsc is None:
            return ""
        count = f"n {self.n}" if self.people is None else f"{self.people} people, n {self.n}"
        return f"{self.dsc:.4f} ({count})" + (f" ({self.parts})" if self.parts else "")

    @property
    def left(self) -> str:
        """For example `3:12:05`; empty where it is not known."""
        return "" if self.left_s is None else duration(self.left_s)


def facts_of(reached: Milestones, epochs: int | None) -> LiveFacts:
    """The facts of a run of so many epochs, None where that is not known."""
    train, newest, best = reached.last_train, reached.last_evaluation, reached.best
    return LiveFacts(
        epoch=newest.epoch if newest else 0,
        epochs=epochs,
        step=reached.last.step if reached.last else 0,
        loss=train.loss if train else None,
        images_per_s=train.images_per_s if train else None,
        memory_gib=train.memory_gib if train else None,
        dsc=newest.val_dsc if newest else None,
        parts=newest.parts if newest else "",
        best_dsc=best.val_dsc if best else None,
        best_epoch=best.epoch if best else None,
        n=newest.n if newest else None,
        people=newest.people if newest else None,
        left_s=_left_s(reached, epochs),
    )


def _left_s(reached: Milestones, epochs: int | None) -> float | None:
    """Seconds left at the pace between the first and the last evaluation; with one, at the pace up to it."""
    begin, first, newest, last = reached.first, reached.first_evaluation, reached.last_evaluation, reached.last
    if epochs is None or begin is None or first is None or newest is None or last is None:
        return None
    if newest.epoch > first.epoch:
        epoch_s = (newest.time - first.time) / (newest.epoch - first.epoch)
    elif newest.step > begin.step:
        epoch_s = (newest.time - begin.time) / (newest.step - begin.step) * newest.step / newest.epoch
    else:
        return None
    return max(0.0, (epochs - newest.epoch) * epoch_s - (last.time - newest.time))


def newest_warning(run: RunLayout, starts: Sequence[Environment]) -> str | None:
    """The last warning or error that the run's last start logged."""
    try:
        with open_file(run.log_file) as file:
            file.seek(max(0, file.seek(0, io.SEEK_END) - LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    began = str(starts[-1].time)[:19].replace("T", " ") if starts else ""
    marked = (line for line in reversed(lines) if " warning: " in line or " error: " in line)
    last = next(marked, None)
    return None if last is None or last[:19] < began else last


class EventTail:
    """The events of a run that somebody else records: at first those at the end of the file, then what is new."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._begin()

    def _begin(self) -> None:
        self.reached = Milestones()
        self.training: deque[TrainEvent] = deque(maxlen=MOST_POINTS)
        self.evaluations: deque[EvaluationEvent] = deque(maxlen=MOST_POINTS)
        self._inode = 0
        self._offset = 0
        self._mark = b""  # the bytes before the offset
        self._rest = b""  # of a line that is half there

    def look(self) -> None:
        """Read on. A file that was rewound or replaced is read anew. Raises DamagedFile; OSError."""
        if not os.path.lexists(self.file):
            self._begin()
            return
        with reading(self.file, REMEDY), open_file(self.file) as stream:
            status = os.fstat(stream.fileno())
            if status.st_ino != self._inode or self._is_rewound(stream):
                self._begin()
                self._inode = status.st_ino
                self._skip_to_the_end(stream, status.st_size)
            stream.seek(self._offset)
            content = stream.read()
        self._offset += len(content)
        self._mark = (self._mark + content)[-MARK_BYTES:]
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
        for line in lines:
            self._take(line)

    def _is_rewound(self, stream: io.BufferedReader) -> bool:
        before = os.pread(stream.fileno(), len(self._mark), self._offset - len(self._mark))
        return before != self._mark

    def _skip_to_the_end(self, stream: io.BufferedReader, size: int) -> None:
        if size <= EVENTS_BYTES:
            return
        self.reached = milestones_in(self.file)
        stream.seek(size - EVENTS_BYTES)
        stream.readline(LONGEST_LINE)  # the rest of one
        self._offset = stream.tell()

    def _take(self, line: bytes) -> None:
        event = event_in(self.file, line) if line.strip() else None
        if event is None:
            return
        self.reached = self.reached.after(event)  # once more of those that are known, which changes nothing
        if isinstance(event, TrainEvent):
            self.training.append(event)
        else:
            self.evaluations.append(event)
