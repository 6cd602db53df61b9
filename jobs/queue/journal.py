"""The queue's journal, `journal.jsonl`: appended to, never changed. What becomes of a run follows from it.

begin   the command began: pid, host, runs
start   a run's process began: run, config (a digest), step, gpus
end     it ended: run, config, how (finished, stopped, failed, diverged, refused), code, step, reason, why
pass    a failed run is passed over: run, why
left    the command ended: reason, why, code
hook    the command when done is run: its sha256 (in older journals the command)

Code decides on `reason`, the name of a StopReason or of another QueueEnd; `why` is for people.
A start without an end was cut off together with the queue: by a kill, a reboot, a reclaim. That is no failure of the
run's, but a run that is cut off again and again without a new step is given up (jobs.history).
"""

import json
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from jobs.history import stop_reason
from jobs.queue.items import Item
from segtrain.errors import RunError, StopReason
from segtrain.run.stored import entries_in
from segtrain.runtime import files
from segtrain.runtime.outbox import patiently

FILE = "journal.jsonl"


@dataclass(frozen=True)
class QueueEnd:
    """Why a queue ends. `reason`: DONE, DISK, FAILED or the name of a StopReason; `sentence`: for people."""

    reason: str
    sentence: str


DONE = QueueEnd("DONE", "done")  # every run is finished or passed over
FAILED = QueueEnd("FAILED", "the first run failed before it began, and the others would fail alike")


def out_of_space(sentence: str) -> QueueEnd:
    """The end of a queue that finds too little space."""
    return QueueEnd("DISK", sentence)


def stopped_by(reason: StopReason) -> QueueEnd:
    """The end of a queue that is stopped."""
    return QueueEnd(reason.name, reason.sentence)


class Journal:
    """The entries of a queue's folder. `job`: what the starts are recorded under, if not by the queue's own count."""

    def __init__(self, folder: Path, job: str | None = None) -> None:
        self.path = folder / FILE
        self.entries = read(self.path)
        self._job = job

    def write(self, event: str, **values: Any) -> None:
        """Append an entry, durably."""
        entry = {"time": datetime.now().astimezone().isoformat(timespec="milliseconds"), "event": event, **values}
        patiently(self.path, partial(files.append_line, self.path, json.dumps(entry)))
        self.entries.append(entry)

    @property
    def job(self) -> str:
        """The starts are recorded under this (jobs.history): anew after each orderly end of the queue."""
        return self._job or f"offline-{sum(entry['event'] == 'left' for entry in self.entries)}"

    def since_done(self) -> list[dict[str, Any]]:
        """The entries after the queue was last done."""
        ends = [n for n, entry in enumerate(self.entries) if _end_reason(entry) == DONE.reason]
        return self.entries[ends[-1] + 1 :] if ends else list(self.entries)

    @property
    def begun(self) -> bool:
        """Whether any run was ever started."""
        return any(entry["event"] == "start" for entry in self.entries)

    def hook_has_run(self) -> bool:
        """Whether the command when done has run since the last start of a run.

        That the queue had ended is not enough: the last push and the command come after it, and may be cut short.
        """
        starts = [n for n, entry in enumerate(self.entries) if entry["event"] == "start"]
        return any(entry["event"] == "hook" for entry in self.entries[starts[-1] + 1 if starts else 0 :])

    def began_s(self) -> float:
        """When this budget of time began, in seconds since the epoch: kills, reboots and reclaims do not renew it."""
        unrenewed = (None, StopReason.SIGTERM.name, StopReason.RECLAIM.name)
        ends = [n for n, entry in enumerate(self.entries) if _end_reason(entry) not in unrenewed]
        begins = [e for e in self.entries[ends[-1] + 1 if ends else 0 :] if e["event"] == "begin"]
        now_s = time.time()
        return min(now_s, datetime.fromisoformat(begins[0]["time"]).timestamp()) if begins else now_s


def read(path: Path) -> list[dict[str, Any]]:
    """The entries that are whole."""
    return [entry for entry in entries_in(path) if "event" in entry]


def _end_reason(entry: dict[str, Any]) -> str | None:
    """The reason of a `left`, None of another entry. Without the field, by `why`: `done`, or what stopped it."""
    if entry["event"] != "left":
        return None
    if "reason" in entry:
        return str(entry["reason"])
    if entry["why"] == DONE.sentence:
        return DONE.reason
    reason = stop_reason(entry)
    return reason.name if reason else "DISK"


@dataclass(frozen=True)
class Standing:
    """What a run of the queue has come to: finished; refused, diverged, failed, held (all passed over); due."""

    state: str
    why: str = ""
    starts: int = 0

    @property
    def due(self) -> bool:
        return self.state == "due"


def standing(item: Item, journal: Journal) -> Standing:
    """By the run's directory and the journal since the queue was last done. Another config counts anew."""
    if item.cfg is None:
        return Standing("refused", item.trouble)
    own = [e for e in journal.since_done() if e.get("run") == item.name and e.get("config") == item.digest]
    starts = sum(entry["event"] == "start" for entry in own)
    ends = [entry for entry in own if entry["event"] == "end"]
    try:
        if any(end["how"] == "finished" for end in ends) if item.fresh else item.run.finished(item.cfg):
            return Standing("finished", starts=starts)
    except RunError as error:
        return Standing("refused", str(error), starts)
    last = ends[-1] if ends else {"how": "none", "why": ""}
    failures = [end for end in ends if end["how"] == "failed"]
    if last["how"] in ("refused", "diverged"):
        return Standing(last["how"], last["why"], starts)
    if len(failures) > item.retries:
        return Standing("failed", failures[-1]["why"], starts)
    session = journal.entries[max((n for n, e in enumerate(journal.entries) if e["event"] == "begin"), default=0) :]
    by_stop_file = last["how"] == "stopped" and stop_reason(last) is StopReason.STOP_FILE
    if by_stop_file and any(entry is last for entry in session):
        return Standing("held", last["why"], starts)  # until the command is given again
    return Standing("due", last["why"], starts)
