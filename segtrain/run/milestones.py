"""The first, the best and the last events of a run, read from both ends of metrics.jsonl.

A training of days has tens of thousands of events, and a folder has hundreds of runs: who shows them all at a glance
reads the last evaluation and, backwards, on to the best. Of the lines between, those of training steps are not parsed.
"""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

from segtrain.run.events import EvaluationEvent, Event, TrainEvent, best_of, evaluations, from_line
from segtrain.run.stored import SHOWN, damaged, reading
from segtrain.text_file import open_file

BLOCK_BYTES = 1 << 16
LONGEST_LINE = 1 << 20  # bytes; an event has hundreds
TRAIN = b'{"event": "train"'  # the beginning of a line of training steps
REMEDY = "restore it from a copy of the run, or remove the line"


@dataclass(frozen=True)
class Milestones:
    """Those that a run has reached, each None before it."""

    first: Event | None = None
    last: Event | None = None
    last_train: TrainEvent | None = None
    first_evaluation: EvaluationEvent | None = None
    best: EvaluationEvent | None = None
    last_evaluation: EvaluationEvent | None = None

    def after(self, event: Event) -> "Milestones":
        """Those once the event is recorded too."""
        reached = replace(self, first=self.first or event, last=event)
        if isinstance(event, TrainEvent):
            return replace(reached, last_train=event)
        return replace(
            reached,
            first_evaluation=self.first_evaluation or event,
            best=best_of([self.best, event]) if self.best else event,
            last_evaluation=event,
        )


def milestones_of(events: Iterable[Event]) -> Milestones:
    """Those among all events of a run."""
    return reduce(Milestones.after, events, Milestones())


def events_in(file: Path) -> list[Event]:
    """All events of a file, without a line that is only half there. Raises DamagedFile; OSError."""
    with reading(file, REMEDY), open_file(file) as stream:
        lines = (line for line in _lines(stream) if line.strip())
        return [event for line in lines if (event := event_in(file, line))]


def milestones_in(file: Path) -> Milestones:
    """Those of a file. Raises DamagedFile, where one of its ends holds something else than events; OSError."""
    with reading(file, REMEDY), open_file(file) as stream:
        ahead = (event for line in _lines(stream) if (event := event_in(file, line)))
        first = next(ahead, None)
        if first is None:
            return Milestones()
        return milestones_of(_needed(file, stream, first))


def _needed(file: Path, stream: io.BufferedReader, first: Event) -> list[Event]:
    """The events of the file that decide about its milestones, in order.

    Training marks an evaluation as the best when none before it was better: before that one, there is nothing to find.
    """
    behind: list[Event] = []
    has_train = has_best = False
    for line in _lines_backwards(stream):
        if has_train and line.startswith(TRAIN):
            continue
        event = event_in(file, line)
        if event is None:
            continue
        behind.append(event)
        has_train |= isinstance(event, TrainEvent)
        if isinstance(event, EvaluationEvent) and event.best:
            has_best = event.val_dsc >= max(each.val_dsc for each in evaluations(behind))
        if has_train and has_best:
            break
    behind.reverse()
    if not evaluations(behind):
        return [first, *behind]
    stream.seek(0)
    of_evaluations = (line for line in _lines(stream) if not line.startswith(TRAIN))
    earliest = next((event for line in of_evaluations if (event := event_in(file, line))), first)
    return [first, earliest, *behind]


def event_in(file: Path, line: bytes) -> Event | None:
    """The event in a line of a file; None of one that is only half there. Raises DamagedFile."""
    try:
        return from_line(line)
    except ValueError as error:
        beginning = line[:SHOWN].decode(errors="replace")
        raise damaged(file, f"{error}, in the line {beginning}", REMEDY) from error


def _lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """The lines from the beginning. Raises ValueError: one is longer than any event."""
    while line := stream.readline(LONGEST_LINE + 1):
        _refuse_long(line)
        yield line


def _lines_backwards(stream: io.BufferedReader) -> Iterator[bytes]:
    """The lines from the end, empty ones too. Raises ValueError: one is longer than any event."""
    begin = stream.seek(0, io.SEEK_END)
    rest = b""
    while begin:
        size = min(BLOCK_BYTES, begin)
        begin -= size
        block = os.pread(stream.fileno(), size, begin) + rest
        rest, *lines = block.split(b"\n")
        _refuse_long(rest)
        yield from reversed(lines)
    yield rest


def _refuse_long(line: bytes) -> None:
    if len(line) > LONGEST_LINE:
        raise ValueError(f"it has a line of more than {LONGEST_LINE >> 20} MiB")
